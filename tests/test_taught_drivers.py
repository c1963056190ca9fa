"""DART and SafeDAgger: who drives, how much the hand shakes, which labels are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks

from gps.algorithms.dart import dart
from gps.algorithms.safe_dagger import safe_dagger
from gps.episodes import TEACHER
from gps.types import Limits
from students.policies import mlp

KEY = jax.random.key(23)
SMALL = {"num_worlds": 8, "num_steps": 60, "updates": 20, "batch_size": 32, "test_worlds": 0}
HALF = 3.0
"""Of the road's controls."""


def go(algorithm, iterations):
    """States after each iteration, the first before any."""
    states = [algorithm.init(KEY)]
    infos = []
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(KEY, i), states[-1])
        states.append(state)
        infos.append(info)
    return states, infos


def rows(dataset, start):
    """The filled slots from `start` on."""
    filled = np.flatnonzero(np.asarray(dataset.weight) > 0)[start:]
    return jax.tree.map(lambda leaf: leaf[filled], dataset._replace(next_slot=dataset.t))


def apart(student, state, data):
    """The student's mode less the label."""
    return jax.vmap(lambda obs: student.apply(state.fit.variables, obs, ())[0].mode())(data.obs) - data.mean


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_the_hand_shakes_as_much_as_the_student_errs(alpha):
    env = tasks.road()
    student = mlp(1, (8,), limits=env.limits)
    made = dart(env, tasks.road_teacher, student, alpha=alpha, iterations=2, **SMALL | {"num_worlds": 32})
    states, _ = go(made, 2)
    first, second = rows(states[1].dataset, 0), rows(states[2].dataset, 32 * 60)
    np.testing.assert_allclose(first.action, first.mean, atol=1e-4)
    wanted = float(jnp.mean(apart(student, states[1], first) ** 2)) if alpha is None else alpha / env.horizon
    shaken = np.asarray(second.action - second.mean)[np.abs(np.asarray(second.action)) < HALF]
    assert wanted > 1e-3 and np.var(shaken) == pytest.approx(wanted, rel=0.1)
    assert np.all(np.asarray(second.behaviour) == TEACHER) and len(second.t) == 32 * 60


def test_the_student_drives_where_it_agrees_and_learns_where_it_does_not():
    env, student, threshold = tasks.road(), tasks.affine(), 0.1
    made = safe_dagger(env, tasks.road_teacher, student, threshold=threshold, iterations=3, **SMALL)
    states, infos = go(made, 3)
    assert int(infos[0]["samples"]) == 8 * 60
    kept = rows(states[2].dataset, 8 * 60)
    distance = np.linalg.norm(np.asarray(apart(student, states[1], kept)) / HALF, axis=1)
    assert 0 < len(distance) == int(infos[1]["samples"]) < 8 * 60
    assert np.all(distance > threshold) and np.all(np.asarray(kept.behaviour) == TEACHER)
    assert int(infos[1]["teacher_queries"]) == 8 * 60


def test_a_student_that_always_agrees_is_left_alone():
    made = safe_dagger(tasks.road(), tasks.road_teacher, tasks.affine(), threshold=1e3, iterations=2, **SMALL)
    _, infos = go(made, 2)
    assert int(infos[1]["samples"]) == 0 and bool(infos[1]["finite"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: dart(env, None, tasks.affine(), alpha=0.0), "alpha must be positive and finite, got 0"),
        (lambda env: safe_dagger(env, None, tasks.affine(), threshold=-1.0), "threshold must be at least 0"),
        (lambda env: dart(unlimited(env), None, tasks.affine()), "noise needs controls with finite limits"),
        (lambda env: safe_dagger(unlimited(env), None, tasks.affine()), "distances need controls with"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(tasks.road())


def unlimited(env):
    return env._replace(limits=Limits(np.full(1, -np.inf), np.full(1, np.inf)))

"""The task of memory: what can be seen of the sign, when, and what the teacher does about it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import teachers
from envs.fork import FORK, SIGN, TEACHER, WAVES, Sign, failed, fork
from gps.evaluate import evaluate
from gps.placement import cpu_jit


@pytest.fixture(scope="module")
def env():
    return fork()


def seen(env, side, x):
    bound = env.bind(Sign(jnp.asarray(side), jnp.zeros((len(WAVES), 2))))
    state = jnp.array([x, 0.0, 1.5, 0.0])
    y = bound.sense(state, jnp.zeros(2))
    return bound.observer.observe(jax.random.key(0), (), state, y, jnp.zeros(2))[0]


def test_the_sign_tells_the_sides_apart_until_it_is_passed(env):
    def differs(x):
        left, right = (np.asarray(seen(env, side, x)["front"], int) for side in (1.0, -1.0))
        return int(np.sum(np.any(left != right, axis=-1)))

    assert all(differs(x) >= 4 for x in (0.0, 0.5, 1.0, 1.5))
    assert all(differs(x) == 0 for x in np.arange(SIGN, FORK + 1, 0.2))


def test_red_is_left(env):
    left, right = (np.asarray(seen(env, side, 1.2)["front"], int) for side in (1.0, -1.0))
    redder = left[..., 0] - left[..., 2] > 80
    bluer = right[..., 2] - right[..., 0] > 80
    assert redder.any() and np.array_equal(redder, bluer)


def test_velocities_are_what_the_student_reads(env):
    np.testing.assert_allclose(seen(env, 1.0, 0.5)["velocity"], [1.5, 0.0])


@pytest.mark.slow
def test_the_teacher_takes_the_branch_that_was_told(env):
    run = cpu_jit(evaluate(env, make_teacher=partial(teachers.mpc, **TEACHER)))
    scores, steps = run(jax.random.split(jax.random.key(0), 8), ())
    assert np.all(scores.survived == 1)
    sides = jax.vmap(env.sample_context)(steps.key[0]).side
    assert set(np.asarray(sides)) == {-1.0, 1.0}
    assert np.all(np.asarray(steps.x)[-1, :, 1] * sides > 0.5)


def test_the_teacher_says_nothing_of_the_side_while_the_sign_is_in_sight(env):
    @jax.jit
    def label(side, x):
        teacher = teachers.mpc(env.bind(Sign(side, jnp.zeros((len(WAVES), 2)))), **TEACHER)
        return teacher.act(jax.random.key(0), teacher.init(jax.random.key(0), x), x, 0)[0].dist.mean

    def apart(x):
        left, right = (label(jnp.asarray(side), jnp.array([x, 0.1, 1.5, 0.0])) for side in (1.0, -1.0))
        return float(jnp.max(jnp.abs(left - right)))

    assert all(apart(x) < 0.01 for x in (0.0, 0.7, 1.4, 2.1))
    assert apart(4.5) > 0.2


@pytest.mark.parametrize(
    ("x", "side", "is_failure"),
    [
        ((2.0, 0.75), 1.0, True),  # the corridor's wall
        ((7.0, 0.3), 1.0, True),  # the wedge
        ((7.0, 1.0), -1.0, True),  # the wrong branch
        ((7.0, 1.0), 1.0, False),
        ((5.5, 0.0), 1.0, False),
    ],
)
def test_walls_wedge_and_wrong_branch_end_an_episode(x, side, is_failure):
    assert bool(failed(jnp.array([*x, 1.5, 0.0]), jnp.asarray(side))) == is_failure

"""Policy search on samples of many drivers: their densities, what is kept of it, and that it finds better."""

import os
import subprocess
import sys
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from gps_tasks import cart
from small_tasks import plain, same

import students
from gps.algorithms.gps2013 import drawn_by, gps2013, path
from gps.algorithms.importance_objective import Paths, as_paths, evidence, objective, windows_of
from gps.algorithms.importance_search import SearchPlan, imitate
from gps.algorithms.is_pg import is_pg
from gps.algorithms.likelihoods import log_probs
from gps.gaussian import Gaussian
from gps.importance import controller_log_probs
from gps.rollout import student_rollout
from gps.types import Limits, Trajectory
from teachers.local_lqr import local_lqr

KEY, OTHER = jax.random.split(jax.random.key(31))
BUDGET = {"past": 3, "pretrain_updates": 40, "updates": 20, "samples": 6}
LOCAL = partial(local_lqr, dynamics="known", std=0.5, entropy=1e-2)


@cache
def made(name):
    if name == "gps2013":
        env = cart(12)
        student = students.mlp(1, (8,), limits=env.limits)
        return gps2013(env, LOCAL, student, guide_iterations=3, test_conditions=2, **BUDGET), env, student
    env = tasks.swing()._replace(horizon=15)
    student = students.mlp(1, (8,), limits=env.limits)
    options = {"density": name.split()[1], "conditions": 3, "noise": 0.2, "test_worlds": 4}
    return is_pg(env, tasks.swing_teacher, student, **options, **BUDGET), env, student


NAMES = ("gps2013", pytest.param("is_pg fitted", marks=pytest.mark.slow), "is_pg teacher")


@cache
def run(name):
    """[(state, info)] from the first state on."""
    algorithm = made(name)[0]
    course = [(algorithm.init(KEY), {})]
    for i in range(6):
        course.append(algorithm.step(jax.random.fold_in(OTHER, i), course[-1][0]))
    return course


def newest(state):
    """Variables of the policy that was found last."""
    return jax.tree.map(lambda leaf: leaf[int(jnp.argmax(state.born))], state.policies)


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_its_state_alone_and_repeats_itself(name):
    algorithm, before = made(name)[0], run(name)[1][0]
    bits = jax.tree.map(lambda leaf: plain(leaf).copy(), before)
    after, info = algorithm.step(jax.random.fold_in(OTHER, 1), before)
    assert same(before, bits) and not same(before, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert same(after, run(name)[2][0])
    assert all(np.array_equal(info[n], run(name)[2][1][n], equal_nan=True) for n in info)
    other, _ = algorithm.step(KEY, before)
    assert not same(after.paths.action, other.paths.action)


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_better_policies(name):
    told = [float(info["best_return"]) for _, info in run(name)[1:]]
    drawn = [float(info["driver_return"]) for _, info in run(name)[1:]]
    assert told[-1] > told[0] and np.mean(drawn[-2:]) > drawn[0]


def test_a_policy_is_worth_what_is_said():
    """Fresh rollouts of the first policy and of the last."""
    algorithm, env, student = made("gps2013")

    @jax.jit
    def fresh(variables):
        def one(goal, x0, key):
            rollout, *_ = student_rollout(env.bind(goal), student)(key, variables, x0, 1.0)
            return -jnp.sum(rollout.costs)

        starts = run("gps2013")[0][0].memory[0]
        each = jax.vmap(one, (None, None, 0))
        return jax.vmap(each, (0, 0, None))(*starts, jax.random.split(OTHER, 1000))

    first, last = run("gps2013")[0][0], run("gps2013")[-1]
    before, after = (float(np.mean(fresh(algorithm.policy(state)))) for state in (first, last[0]))
    assert after > before + 1
    assert float(last[1]["best_return"]) == pytest.approx(after, abs=0.2 * (after - before))


@pytest.mark.parametrize("name", NAMES)
def test_the_regulariser_falls_with_success(name):
    course, algorithm = run(name), made(name)[0]
    for (before, _), (after, info) in pairwise(course):
        factor = 0.1 if bool(info["accepted"]) else 10.0
        assert float(after.regulariser) == pytest.approx(
            np.clip(float(before.regulariser) * factor, 1e-6, 1e2)
        )
        assert bool(info["accepted"]) != same(algorithm.policy(before), algorithm.policy(after))


@pytest.mark.slow
def test_what_is_worse_is_not_taken_and_the_best_policy_is_not_forgotten():
    """Steps that go far too far, more of them than policies are remembered."""
    _, env, student = made("gps2013")
    wild = gps2013(
        env, LOCAL, student, adaptive=False, guide_iterations=3, test_conditions=0,
        **BUDGET | {"learning_rate": 30.0, "keep": 0.0},
    )  # fmt: skip
    state = begun = wild.init(KEY)
    slot = 1 + int(begun.best)
    for i in range(4):
        state, info = wild.step(jax.random.fold_in(KEY, i), state)
        assert not bool(info["accepted"])
        assert same(wild.policy(begun), wild.policy(state))
    assert same(begun.paths.action[:, slot], state.paths.action[:, slot])
    assert sorted(state.born.tolist()) == [0, 3, 4]


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_judged_by_its_own_samples_alone_is_worth_their_mean(name):
    _, env, student = made(name)
    state = run(name)[0][0]
    M, J, S, T = state.paths.alive.shape
    mine = J - BUDGET["past"]
    sound = jnp.zeros((M, J, S), bool).at[:, mine].set(True).at[0, mine, 0].set(False)
    state = state._replace(paths=state.paths._replace(sound=sound))
    data = evidence(student, state.policies, state.paths, jnp.zeros((M, mine, J * S, T)), env.limits)
    first = jax.tree.map(lambda leaf: leaf[0], state.policies)
    value, info = objective(student, first, data, 3.0, env.limits)
    returns = np.sum(state.paths.reward[:, mine], axis=-1)
    kept = [returns[0, 1:], *returns[1:]]
    mean = np.mean([one.mean() for one in kept])
    np.testing.assert_allclose(info["estimated_return"], mean, rtol=1e-4)
    np.testing.assert_allclose(info["log_normaliser"], 0, atol=1e-5)
    np.testing.assert_allclose(info["effective_samples"], S - 1 / M, rtol=1e-4)
    np.testing.assert_allclose(value, mean / np.std(np.concatenate(kept)), rtol=1e-3, atol=1e-3)


def test_densities_are_those_of_what_was_drawn():
    """E[−log q(u)] of a Gaussian's own draws is its entropy, also where limits clip what is done."""
    env = cart(12)._replace(limits=Limits(np.array([-0.4]), np.array([0.4])))
    _, _, student = made("gps2013")
    state = run("gps2013")[1][0]
    law = jax.tree.map(lambda leaf: leaf[0, 0], state.memory[1].controllers)
    law = law._replace(cov=law.cov + 0.1)
    x0 = jnp.array([0.3, -0.1])
    _, paths = jax.jit(partial(drawn_by(env, 3000), env))(KEY, law, x0)
    assert float(jnp.max(jnp.abs(paths.action))) > 0.6
    by_law = jax.vmap(controller_log_probs, (None, 0, 0, None))(law, paths.facts, paths.action, env.minus)

    variables = jax.tree.map(lambda leaf: leaf[0], state.policies)
    drive = jax.vmap(lambda key: path(*student_rollout(env, student)(key, variables, x0, 1.0)))
    own = jax.jit(drive)(jax.random.split(KEY, 3000))
    dists, by_student = log_probs(student, variables, windows_of(student, own), env.limits)
    for told, cov in ((by_law, law.cov), (by_student, dists.cov[0])):
        total = -np.sum(told, axis=1)
        expected = float(jnp.sum(jax.vmap(lambda c: Gaussian(jnp.zeros(1), c).entropy())(cov)))
        assert abs(total.mean() - expected) < 4 * total.std() / total.size**0.5


def test_a_student_with_the_labels_covariance_gets_that_of_its_errors():
    limits = Limits(-3 * np.ones(2), 3 * np.ones(2))
    student = students.mlp(2, (8,), limits=limits, covariance="labels")
    keys = jax.random.split(KEY, 2)
    mix = jnp.array([[0.5, 0.3], [0.0, 0.2]])
    paths = Paths(
        jax.random.normal(keys[0], (2, 1, 5, 9, 3), jnp.float32),
        jax.random.normal(keys[1], (2, 1, 5, 9, 2), jnp.float32) @ mix.astype(jnp.float32),
        jnp.zeros((2, 1, 5, 9)),
        jnp.broadcast_to(jnp.arange(9) < 7, (2, 1, 5, 9)),
        (),
        jnp.ones((2, 1, 5), bool).at[1, 0, 2].set(False),
    )
    variables = imitate(student, limits, SearchPlan(pretrain_updates=50))(KEY, paths)
    kept = np.asarray(paths.alive & paths.sound[..., None])
    dists = jax.vmap(lambda obs: student.apply(variables, obs, ())[0])(paths.obs[kept])
    away = paths.action[kept] - dists.mean
    np.testing.assert_allclose(dists.cov[0], away.T @ away / kept.sum(), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_what_was_learned_stays_where_enough_trajectories_tell_about_it():
    """A step without that bound ends where one trajectory counts; with it, half of them do."""
    _, env, student = made("gps2013")
    course = {}
    for keep in (0.0, 0.5, 1.0):
        options = BUDGET | {"learning_rate": 0.03, "keep": keep}
        tried = gps2013(env, LOCAL, student, adaptive=False, guide_iterations=3, test_conditions=0, **options)
        state = tried.init(KEY)
        course[keep] = state, *tried.step(OTHER, state)
    begun, first = float(course[1.0][2]["effective_samples"]), tried.policy(course[1.0][0])
    assert float(course[0.0][2]["effective_samples"]) < 0.3 * begun
    assert 0.5 * begun <= float(course[0.5][2]["effective_samples"]) < begun
    assert not same(first, newest(course[0.5][1]))


@pytest.mark.slow
def test_one_update_is_one_step():
    _, env, student = made("gps2013")
    one = gps2013(
        env, LOCAL, student, adaptive=False, guide_iterations=1, test_conditions=0, **BUDGET | {"updates": 1}
    )
    state = one.init(KEY)
    after, info = one.step(OTHER, state)
    assert int(info["gradient_updates"]) == 1
    moved = jax.tree.map(jnp.subtract, newest(after)[0], one.policy(state)[0])
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("density", ["fitted", "teacher"])
def test_students_that_remember_and_observations_with_parts(density):
    """The corridor's observations are a dict, its episodes fail now and then."""
    env = tasks.corridor()
    student = students.gru(2, 4, (4,), limits=env.limits)
    options = {"conditions": 2, "samples": 3, "past": 2, "pretrain_updates": 3, "updates": 2, "noise": 0.3}
    found = is_pg(env, tasks.corridor_teacher, student, density=density, test_worlds=0, **options)
    state = found.init(KEY)
    after, info = found.step(OTHER, state)
    assert np.isfinite(float(info["best_return"])) and bool(jnp.all(after.paths.sound))
    taken = int(jnp.sum(after.paths.alive))
    assert int(info["total_simulator_steps"]) == taken < 3 * 2 * 3 * tasks.HORIZON
    pretrained = 6 if density == "fitted" else 3
    assert int(info["total_gradient_updates"]) == pretrained + int(info["gradient_updates"])


def test_a_rollout_that_diverged_costs_what_its_dearest_step_did_throughout():
    costs = jnp.array([1.0, 5.0, 2.0, 3.0])
    rollout = Trajectory(jnp.zeros((4, 2)), jnp.zeros((3, 1)), jnp.zeros((4, 0)), costs, jnp.int32(0))
    np.testing.assert_array_equal(path(rollout, jnp.zeros((3, 2)), jnp.zeros((3, 1))).reward, [-1, -5, -5])
    lost = rollout._replace(status=jnp.int32(1))
    np.testing.assert_array_equal(path(lost, jnp.zeros((3, 2)), jnp.zeros((3, 1))).reward, [-5, -5, -5])


def test_a_trajectory_of_numbers_that_are_not_finite_is_no_trajectory():
    good = (jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones(3), jnp.array([True, True, False]), ())
    assert bool(as_paths(*good).sound)
    np.testing.assert_array_equal(as_paths(*good).reward, [1, 1, 0])
    for bad in (0, 1, 2):
        broken = [leaf.at[1].set(jnp.nan) if i == bad else leaf for i, leaf in enumerate(good)]
        found = as_paths(*broken)
        assert not bool(found.sound)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past": 1}, "past must be at least 2, got 1"),
        ({"keep": 1.5}, r"keep is a share in \[0, 1\], got 1.5"),
        ({"regulariser": 0.0}, "regulariser must be in"),
        ({"learning_rate": np.nan}, "learning_rate must be positive and finite, got nan"),
        ({"samples": 0}, "samples"),
    ],
)
def test_settings_that_cannot_work(options, message):
    env, student = tasks.swing(), students.mlp(1)
    with pytest.raises(ValueError, match=message):
        is_pg(env, tasks.swing_teacher, student, **options)
    with pytest.raises(ValueError, match=message):
        gps2013(cart(), LOCAL, student, **options)


def test_densities_and_conditions_that_are_not_there():
    env, student = tasks.swing(), students.mlp(1)
    with pytest.raises(ValueError, match="a teacher whose hand does not shake has no density"):
        is_pg(env, tasks.swing_teacher, student, density="teacher", noise=0.0)
    with pytest.raises(ValueError, match="density one of fitted, teacher"):
        is_pg(env, tasks.swing_teacher, student, density="dirac")
    with pytest.raises(ValueError, match="no fixed set of training conditions"):
        gps2013(env, LOCAL, student)
    with pytest.raises(ValueError, match="this one has a Squashed"):
        gps2013(cart(), LOCAL, students.squashed(1, cart().limits))
    with pytest.raises(ValueError, match=r"take students\.mlp"):
        is_pg(env, tasks.swing_teacher, students.squashed(1, env.limits))
    with pytest.raises(ValueError, match="samples >= 2"):
        gps2013(cart(), LOCAL, student, samples=1)


ON_TWO_DEVICES = """
import jax
jax.config.update("jax_default_device", jax.devices("cpu")[1])
from test_importance_search import BUDGET, LOCAL, cart, gps2013, is_pg, students, tasks
env = cart(8)
student = students.mlp(1, (4,), limits=env.limits)
searches = [
    gps2013(env, LOCAL, student, guide_iterations=1, test_conditions=2, **BUDGET),
    is_pg(tasks.swing(), tasks.swing_teacher, student, conditions=2, test_worlds=2, **BUDGET),
]
for algorithm in searches:
    state = algorithm.init(jax.random.key(0))
    for i in range(3):
        state, _ = algorithm.step(jax.random.key(i), state)
print("fine")
"""


@pytest.mark.slow
def test_it_runs_where_students_have_a_device_of_their_own():
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(tasks.__file__)])
    environment = {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], env=os.environ | environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "fine", done.stderr

"""MDGPS, BADMM and plain trajectory optimisation on a small task: contracts, learning, bad input."""

import functools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import cart
from small_tasks import same

from envs.observations import history
from gps.algorithms import badmm as badmm_module
from gps.algorithms.badmm import badmm
from gps.algorithms.mdgps import mdgps
from gps.algorithms.phases import COUNTED, student_controller
from gps.algorithms.supervise import Supervision, Targets, labels
from gps.algorithms.traj_opt import traj_opt
from gps.conditions import Conditions, training_conditions
from gps.types import Limits, LinearGaussian, Status, Trajectory
from students.policies import mlp
from teachers.local_lqr import local_lqr

KEY, OTHER = jax.random.split(jax.random.key(23))
SMALL = {
    "samples": 4,
    "updates": 300,
    "batch_size": 64,
    "copies": 1,
    "test_conditions": 2,
    "learning_rate": 3e-3,
}
METHODS = {
    "mdgps": mdgps,
    "mdgps on policy, global": functools.partial(mdgps, on_policy=True, step_rule="global"),
    "mdgps by regression": functools.partial(mdgps, linearisation="regression"),
    "badmm": functools.partial(badmm, rounds=2),
    "traj_opt": traj_opt,
}
BEST = 10.175
"""Mean cost of the three conditions under the best controls, by SciPy (`test_best_is_the_best`)."""


def make(name, env=None, **options):
    env = env or cart()
    teacher = functools.partial(local_lqr, std=1.0, clusters=3, remember=8)
    student = mlp(1, hidden=(24,), covariance="labels", limits=env.limits)
    return METHODS[name](env, teacher, student, **(SMALL | options))


@cache
def ran(name, iterations=6):
    """(the algorithm, states, infos)."""
    algorithm = make(name)
    states, infos = [algorithm.init(KEY)], []
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(OTHER, i), states[-1])
        states.append(state)
        infos.append(info)
    return algorithm, states, infos


@pytest.mark.parametrize("name", METHODS)
def test_the_student_comes_near_the_best_that_can_be_done(name):
    _, _, infos = ran(name)
    costs = [float(info["student_cost"]) for info in infos]
    assert float(infos[0]["driver_cost"]) > 2 * BEST
    assert BEST * (1 - 1e-3) < min(costs) < 1.02 * BEST, costs
    assert min(float(info["student_distance"]) for info in infos) < 0.1


@pytest.mark.parametrize("name", METHODS)
def test_a_step_repeats_itself_with_the_same_key_and_leaves_its_state_alone(name):
    algorithm, states, infos = ran(name)
    again, info = algorithm.step(jax.random.fold_in(OTHER, 1), states[1])
    assert same(again, states[2]) and same(*(jax.tree.map(np.asarray, one) for one in (info, infos[1])))
    other, _ = algorithm.step(KEY, states[1])
    assert not same(other.local, states[2].local)
    assert jax.tree.structure(states[1]) == jax.tree.structure(states[2])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_reported_is_finite_counts_and_stays_within_the_bound(name):
    _, _, infos = ran(name)
    for info in infos:
        for entry, value in info.items():
            assert np.shape(value) == () and np.isfinite(np.asarray(value, float)), entry
        assert info["failed_solves"] > 0 or info["kl"] <= 1.1 * info["kl_bound"]
    for entry in COUNTED:
        assert int(infos[-1][f"total_{entry}"]) == sum(int(info[entry]) for info in infos)
    assert int(infos[-1]["total_rollouts"]) == 6 * 3 * 4
    assert ("teacher_cost" in infos[1]) == ("on policy" not in name)


@pytest.mark.parametrize("name", METHODS)
def test_the_iterate_handed_out_is_the_one_whose_trials_cost_least(name):
    algorithm, states, infos = ran(name)
    best = int(np.argmin([float(info["student_cost"]) for info in infos]))
    assert same(algorithm.policy(states[-1]), states[best + 1].fit.variables)


def test_a_student_that_remembers_learns_too():
    """Two states of the last in one observation: nothing has a derivative with respect to the present one."""
    algorithm = make("mdgps by regression", history(cart(), 2))
    state, costs = algorithm.init(KEY), []
    for i in range(4):
        state, info = algorithm.step(jax.random.fold_in(OTHER, i), state)
        costs.append(float(info["student_cost"]))
    assert BEST < min(costs) < 1.1 * BEST, costs
    with pytest.raises(ValueError, match="linearise it by regression"):
        exact = make("mdgps", history(cart(), 2))
        exact.step(OTHER, exact.init(KEY))


def test_best_is_the_best():
    from scipy.optimize import minimize

    env = cart()

    def cost(us, goal):
        bound = env.bind(goal)
        controller = LinearGaussian(
            jnp.zeros((20, 2)), us[:, None], jnp.zeros((20, 1, 2)), jnp.zeros((20, 1, 1))
        )
        return jnp.sum(bound.rollout(jnp.zeros(2), controller, jnp.zeros((20, 1))).costs)

    value = jax.jit(jax.value_and_grad(cost))
    found = [
        minimize(lambda us, g=g: [np.asarray(v, float) for v in value(us, g)], np.zeros(20), jac=True).fun
        for g in (-1.0, 0.2, 1.0)
    ]
    np.testing.assert_allclose(np.mean(found), BEST, rtol=1e-3)


def test_an_iteration_whose_rollouts_are_all_lost_breaks_nothing():
    env = cart()

    def bind(goal):
        bound = env.bind(goal)

        def rollout(x0, controller, noise):
            return bound.rollout(x0, controller, noise)._replace(status=jnp.int32(Status.DIVERGED))

        return bound._replace(rollout=rollout)

    algorithm = make("mdgps", env._replace(bind=bind))
    before = algorithm.init(KEY)
    state, info = algorithm.step(OTHER, before)
    assert int(info["lost_rollouts"]) == int(info["rollouts"]) == 12 and int(info["failed_solves"]) == 3
    assert same(state.fit.variables[0], before.fit.variables[0]) and bool(info["finite"])
    assert float(info["local_cost"]) == np.inf and np.isfinite(float(info["student_cost"]))


# ------------------------------------------------------------------------------------ its parts


def conditions():
    return training_conditions(cart(), KEY)


def paths_of(M=3, N=2, T=20):
    rng = np.random.default_rng(0)
    return Trajectory(
        jnp.asarray(rng.normal(size=(M, N, T + 1, 2))),
        jnp.asarray(rng.normal(size=(M, N, T, 1))),
        jnp.zeros((M, N, T + 1, 0)),
        jnp.ones((M, N, T + 1)),
        jnp.zeros((M, N), jnp.int32),
    )


def targets_of(M=3, T=20):
    rng = np.random.default_rng(1)
    controller = LinearGaussian(
        *(jnp.asarray(rng.normal(size=(M, T, *shape))) for shape in ((2,), (1,), (1, 2))),
        jnp.full((M, T, 1, 1), 0.25),
    )
    return Targets(controller, jnp.asarray(rng.uniform(0.5, 2, size=(M, T))))


def test_labels_are_the_controllers_actions_at_the_states_and_around_them():
    paths, targets = paths_of(), targets_of()
    lost = paths._replace(status=paths.status.at[1, 0].set(Status.DIVERGED))
    narrow = Limits((-1.5,), (2.0,))
    data = labels(
        cart()._replace(bind=lambda goal: cart().bind(goal)._replace(limits=narrow)), Supervision(copies=2)
    )(KEY, conditions(), targets, lost)
    rows = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(3, 3, 2, 20, *leaf.shape[1:]), data._replace(next_slot=())
    )
    np.testing.assert_allclose(rows.x[:, 0], paths.xs[:, :, :-1], rtol=1e-6)
    moved = rows.x[:, 1:] - rows.x[:, :1]
    scale = np.asarray(paths.xs[:, :, :-1]).std(axis=1, ddof=0)
    np.testing.assert_allclose(moved.std(), np.sqrt(np.mean(scale**2)), rtol=0.2)
    controller = targets.controller
    away = rows.x - np.asarray(controller.xs)[:, None, None]
    wanted = np.einsum("itab,icjtb->icjta", controller.K, away) + np.asarray(controller.us)[:, None, None]
    assert np.mean(wanted < -1.5) > 0.05 and np.mean(wanted > 2.0) > 0.05
    np.testing.assert_allclose(rows.mean, np.clip(wanted, -1.5, 2.0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows.precision, 4.0, rtol=1e-6)
    np.testing.assert_allclose(rows.obs[..., :2], rows.x, rtol=1e-6)
    np.testing.assert_allclose(rows.obs[2, ..., 2], 1.0)
    weight = np.broadcast_to(np.asarray(targets.weight)[:, None, None], rows.weight.shape).copy()
    weight[1, :, 0] = 0
    np.testing.assert_allclose(rows.weight, weight, rtol=1e-6)


def test_the_students_gains_are_means_over_the_rollouts():
    env = cart().bind(jnp.asarray(0.2))
    student = mlp(1, hidden=(8,), covariance="labels", dtype=jnp.float64, limits=env.limits)
    variables = student.init(KEY, jnp.ones(3))
    paths = jax.tree.map(lambda leaf: leaf[0], paths_of())
    found = jax.jit(student_controller(env, student))(variables, paths)

    def act(x):
        return student.apply(variables, jnp.append(x, 0.2), ())[0].mean

    slope = jax.vmap(jax.vmap(jax.jacfwd(act)))(paths.xs[:, :-1])
    np.testing.assert_allclose(found.K, jnp.mean(slope, axis=0), atol=1e-9)
    np.testing.assert_allclose(found.xs, jnp.mean(paths.xs[:, :-1], axis=0), atol=1e-12)
    one = jax.tree.map(lambda leaf: leaf[:1], paths)
    alone = jax.jit(student_controller(env, student))(variables, one)
    np.testing.assert_allclose(alone.us, jax.vmap(act)(paths.xs[0, :-1]), atol=1e-9)


def test_badmm_pulls_harder_where_the_two_are_apart():
    far = jnp.asarray([0.1, 1.0, 1.0, 1.0, 6.0])
    np.testing.assert_allclose(badmm_module.adapt(jnp.ones(5), far, 1.0), [0.5, 1, 1, 1, 2])
    np.testing.assert_allclose(badmm_module.adapt(jnp.ones(5), far.at[0].set(jnp.nan), 1.0), jnp.ones(5))
    env, paths = cart(), jax.tree.map(lambda leaf: leaf[0], paths_of())
    p, q = (jax.tree.map(lambda leaf, i=i: leaf[i], targets_of().controller) for i in (0, 1))
    gap, kl = badmm_module.apart(env, p, q, paths)
    means = [c.us[None] + jnp.einsum("tab,jtb->jta", c.K, paths.xs[:, :-1] - c.xs[None]) for c in (p, q)]
    np.testing.assert_allclose(gap, jnp.mean(means[1] - means[0], axis=0), atol=1e-9)
    np.testing.assert_allclose(kl, jnp.mean((means[1] - means[0])[..., 0] ** 2, axis=0) / 2 / 0.25, atol=1e-9)


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mdgps", {"epsilon": 0.0}, "epsilon, the KL bound per control step, must be positive"),
        ("badmm", {"epsilon": -1.0}, "epsilon, the KL bound per control step, must be positive"),
        ("traj_opt", {"epsilon": float("nan")}, "epsilon, the KL bound per control step, must be positive"),
        ("mdgps", {"step_rule": "laplace"}, "step_rule must be one of"),
        ("badmm", {"step_rule": "global"}, "step_rule must be one of none, classic, mc, got 'global'"),
        ("mdgps", {"linearisation": "guess"}, "linearisation must be one of exact, regression, got 'guess'"),
        ("mdgps", {"samples": 0}, "samples per condition must be at least 1"),
        ("mdgps", {"updates": 0}, "updates must be at least 1"),
        ("badmm", {"weight": 0.0}, "expected weight > 0"),
        ("mdgps", {"conditions": 0}, "there must be at least 1 condition"),
    ],
)
def test_settings_that_cannot_work_say_so(name, options, words):
    with pytest.raises(ValueError, match=words):
        make(name, **options).init(KEY)


def test_conditions_are_the_tasks_own_or_drawn_and_said_to_be_missing():
    env = cart()
    np.testing.assert_allclose(conditions().context, [-1.0, 0.2, 1.0])
    drawn = training_conditions(env, KEY, 5)
    assert drawn.x0.shape == (5, 2) and len(np.unique(np.asarray(drawn.context))) == 5
    with pytest.raises(ValueError, match="conditions must be contexts"):
        training_conditions(env._replace(conditions=()), KEY)
    with pytest.raises(ValueError, match="cart has no fixed set of training conditions"):
        mdgps(env._replace(conditions=None), local_lqr, mlp(1))


def test_a_condition_that_diverges_is_reported_and_the_others_go_on():
    """The student also has an input that never changes, which says nothing and breaks nothing."""
    env = cart()

    def bind(goal):
        bound = env.bind(goal)

        def rollout(x0, controller, noise):
            path = bound.rollout(x0, controller, noise)
            broken = (goal > 0.9) & (jnp.sum(noise[0]) > 0)  # about half the rollouts of the last condition
            return path._replace(
                xs=jnp.where(broken, 1e30, path.xs), status=jnp.where(broken, Status.DIVERGED, path.status)
            )

        def look(key, memory, x, y, u):
            obs, memory = bound.observer.observe(key, memory, x, y, u)
            return jnp.append(obs, 7.3), memory

        return bound._replace(rollout=rollout, observer=bound.observer._replace(observe=look))

    teacher = functools.partial(local_lqr, std=1.0, clusters=3, remember=8)
    student = mlp(1, hidden=(24,), covariance="labels", limits=env.limits)
    algorithm = mdgps(bind(0.0)._replace(bind=bind), teacher, student, **SMALL)
    state, lost = algorithm.init(KEY), 0
    for i in range(3):
        state, info = algorithm.step(jax.random.fold_in(OTHER, i), state)
        lost += int(info["lost_rollouts"])
        assert bool(info["finite"])
    assert 1 <= lost <= 11
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state.fit.variables, state.local)))
    assert isinstance(state.conditions, Conditions)

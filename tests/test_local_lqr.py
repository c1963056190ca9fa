"""The local teacher: what it learns from rollouts, what it leaves out, and what its terms cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import cart, roll

from envs import from_mjcf
from gps.plant import plant
from gps.types import KLTerm, LinearGaussian, QuadraticCost, Status
from teachers.hold import hold
from teachers.local_lqr import local_lqr, priced
from teachers.memory import fit_remembered

KEY = jax.random.key(5)


def learned(N=30, dynamics="fitted", spoil=None, **options):
    env = cart().bind(jnp.asarray(0.4))
    teacher = local_lqr(env, dynamics, std=0.5, **options)
    state = teacher.init(KEY, env.init(KEY))
    paths = roll(env, teacher.controller(state), env.init(KEY), KEY, N)
    if spoil is not None:
        paths = spoil(paths)
    new, info = jax.jit(teacher.learn)(KEY, state, paths)
    return env, teacher, state, new, info, paths


def test_a_linear_plant_is_learned_from_rollouts_and_known_from_derivatives():
    env, _, _, state, _, paths = learned(clusters=0, ridge=1e-12)
    true = env.linearize(jnp.zeros(2), jnp.zeros(1))
    middle = slice(2, None)  # all begin at one point: nothing is seen of A there
    A, B = state.model.dynamics.A[middle], state.model.dynamics.B[middle]
    np.testing.assert_allclose(A, np.broadcast_to(true.A, A.shape), atol=1e-4)
    np.testing.assert_allclose(B, np.broadcast_to(true.B, B.shape), atol=1e-4)
    np.testing.assert_allclose(state.model.cost.u[:-1], jnp.mean(paths.us, axis=0), atol=1e-12)
    _, _, _, known, _, _ = learned(dynamics="known")
    np.testing.assert_allclose(known.model.dynamics.A[0], true.A, atol=1e-12)


def test_a_rollout_that_diverged_is_left_out_and_counted():
    def spoil(paths):
        worse = paths.xs.at[3].add(50.0)
        return paths._replace(xs=worse, status=paths.status.at[3].set(Status.DIVERGED))

    def drop(paths):
        return jax.tree.map(lambda leaf: jnp.delete(leaf, 3, axis=0), paths)

    _, _, _, spoiled, info, _ = learned(12, spoil=spoil, clusters=0)
    _, _, _, without, _, _ = learned(12, spoil=drop, clusters=0)
    assert int(info["lost"]) == 1
    for ours, wanted in zip(jax.tree.leaves(spoiled.model), jax.tree.leaves(without.model), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-9)


def test_where_no_rollout_is_left_the_state_is_as_it_was():
    def spoil(paths):
        return paths._replace(status=jnp.full_like(paths.status, Status.ENGINE_ERROR))

    _, _, before, after, info, _ = learned(4, spoil=spoil, clusters=3, remember=8)
    assert int(info["lost"]) == 4
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_without_a_model_there_is_no_step():
    def spoil(paths):
        return paths._replace(status=jnp.full_like(paths.status, Status.DIVERGED))

    for dynamics in ("fitted", "known"):
        _, teacher, _, state, info, _ = learned(4, dynamics=dynamics, spoil=spoil, clusters=3, remember=8)
        assert int(info["lost"]) == 4
        before = teacher.controller(state)
        after, told = jax.jit(teacher.improve)(state, (KLTerm(before, bound=jnp.asarray(2.0)),))
        assert bool(told["solved"]) == (dynamics == "known")  # which makes a path of its own
        stays = jax.tree.map(lambda a, b: np.array_equal(a, b), teacher.controller(after), before)
        assert all(stays) == (dynamics == "fitted")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dynamics": "fited"}, "dynamics must be 'fitted' or 'known', got 'fited'"),
        ({"clusters": -3}, "expected clusters >= 0"),
        ({"remember": 0}, "remember >= 1"),
        ({"strength": -1.0}, "strength and ridge must be positive"),
        ({"ridge": 0.0}, "strength and ridge must be positive"),
        ({"entropy": float("nan")}, "expected entropy >= 0"),
        ({"reuse": 5.0}, r"reuse in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_work_say_so(options, words):
    with pytest.raises(ValueError, match=words):
        local_lqr(cart(), **options)


def test_more_rollouts_than_it_remembers_are_refused():
    with pytest.raises(ValueError, match=r"came 6 rollouts and there is room for 5: .* remember=6"):
        learned(6, clusters=2, remember=5)


def test_where_nothing_moves_the_dynamics_are_positions_that_follow_their_velocities():
    """And nothing else: one degree of freedom and two states that are neither, as of actuators."""
    zero = jnp.zeros((8, 4, 4)), jnp.zeros((8, 3, 1)), jnp.ones(8)
    for nv, links in ((1, {(0, 1)}), (2, {(0, 2), (1, 3)}), (None, set())):
        env = plant(lambda x, u: x, lambda x, u, y, t: 0.0 * x[0], lambda x, y: x[0], 4, 1, dt=0.2, nv=nv)
        A = np.eye(4)
        for link in links:
            A[link] = 0.2
        np.testing.assert_allclose(fit_remembered(env, None, zero, 1.0, 1e-6, False).dynamics.A[1], A)


def test_one_rollout_needs_a_prior():
    with pytest.raises(ValueError, match="1 rollouts do not determine 3 gains"):
        learned(1, clusters=0)
    _, teacher, _, state, _, _ = learned(1, clusters=2)
    term = KLTerm(teacher.controller(state), bound=jnp.asarray(2.0))
    better, info = jax.jit(teacher.improve)(state, (term,))
    assert int(info["status"]) <= 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(teacher.controller(better)))


def test_a_step_stays_within_its_bound_and_does_what_it_foresees():
    env, teacher, _, state, _, _ = learned(clusters=0, ridge=1e-12)
    before = teacher.controller(state)
    better, info = jax.jit(teacher.improve)(state, (KLTerm(before, bound=jnp.asarray(5.0)),))
    assert int(info["status"]) == 0
    np.testing.assert_allclose(np.sum(info["kl"]), 5.0, rtol=0.1)
    foreseen = teacher.expected_cost(state, teacher.controller(better))
    assert foreseen < teacher.expected_cost(state, before)
    again = roll(env, teacher.controller(better), env.init(KEY), jax.random.key(77), 2000)
    costs = jnp.sum(again.costs, axis=1)
    error = 4 * float(jnp.std(costs)) / 2000**0.5
    assert abs(float(jnp.mean(costs)) - float(foreseen)) < error + 0.01 * abs(float(foreseen))


def test_a_policy_beyond_the_limits_is_taken_as_they_let_it_act():
    """Else no controller inside them is near it: the divergence would be that of the control cut off."""
    _, teacher, _, state, _, _ = learned(clusters=0, ridge=1e-12)
    sharp = teacher.controller(state)._replace(cov=jnp.full((20, 1, 1), 1e-2))
    beyond = sharp._replace(us=jnp.full((20, 1), 11.0))
    held = sharp._replace(us=jnp.full((20, 1), 8.0), K=jnp.zeros((20, 1, 2)))
    (one, info), (two, _) = (
        jax.jit(teacher.improve)(state, (KLTerm(policy, bound=jnp.asarray(5.0)),))
        for policy in (beyond, held)
    )
    assert int(info["status"]) == 0
    np.testing.assert_allclose(np.sum(info["kl"]), 5.0, rtol=0.1)
    for ours, wanted in zip(teacher.controller(one), teacher.controller(two), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-9)
    np.testing.assert_allclose(teacher.expected_cost(state, beyond), teacher.expected_cost(state, held))


def test_the_price_of_a_term_is_the_expected_log_density_it_stands_for():
    rng = np.random.default_rng(3)
    T, n, m = 2, 3, 2
    policy = LinearGaussian(
        jnp.zeros((T, n)),
        rng.normal(size=(T, m)),
        rng.normal(size=(T, m, n)),
        jnp.stack([jnp.eye(m) * 0.7 + 0.2, jnp.eye(m) * 1.3]),
    )
    weight, multiplier = jnp.asarray([0.6, 2.0]), rng.normal(size=(T, m))
    nothing = QuadraticCost(
        *(jnp.zeros((T + 1, *shape)) for shape in ((), (n,), (m,), (n, n), (m, m), (n, m))),
        jnp.zeros((T + 1, n)),
        jnp.concatenate([rng.normal(size=(T, m)), np.zeros((1, m))]),
    )
    cost = priced(nothing, KLTerm(policy, weight=weight, multiplier=multiplier))
    for t in range(T):

        def wanted(dx, du, t=t):
            gap = nothing.u[t] + du - policy.us[t] - policy.K[t] @ dx
            price = 0.5 * weight[t] * gap @ np.linalg.solve(policy.cov[t], gap)
            return price - (nothing.u[t] + du) @ multiplier[t]

        def ours(dx, du, t=t):
            quadratic = 0.5 * dx @ cost.Q[t] @ dx + 0.5 * du @ cost.R[t] @ du + dx @ cost.M[t] @ du
            return cost.q[t] @ dx + cost.r[t] @ du + quadratic

        points = [(rng.normal(size=n), rng.normal(size=m)) for _ in range(5)]
        differences = [wanted(*point) - ours(*point) for point in points]
        np.testing.assert_allclose(differences, differences[0], atol=1e-9)


def test_the_first_controller_holds_and_says_what_it_cannot():
    env = cart()
    controller = hold(env, jnp.asarray([1.0, 0.0]), std=0.2, stiffness=3.0, damping=0.5)
    np.testing.assert_allclose(controller.K[4], [[-3.0, -0.5]])
    np.testing.assert_allclose(controller.cov[0], [[0.04]])
    with pytest.raises(ValueError, match="std must be positive"):
        hold(env, jnp.zeros(2), std=0.0)
    two = from_mjcf(
        "<mujoco><worldbody><body><joint name='a'/><geom size='.1'/>"
        "<body pos='1 0 0'><joint/><geom size='.1'/></body></body></worldbody>"
        "<actuator><motor joint='a'/></actuator></mujoco>",
        lambda x, u, y, t: jnp.sum(u**2),
        name="two",
    )
    with pytest.raises(ValueError, match="two has 1 controls for 2 degrees of freedom"):
        hold(two, jnp.zeros(4), stiffness=1.0)
    slow = two._replace(nu=2, nv=1)  # one joint, two actuators with states of their own
    with pytest.raises(ValueError, match="two has 2 controls for 1 degrees of freedom and 4 entries"):
        hold(slow, jnp.zeros(4), damping=1.0)


def test_earlier_rollouts_count_for_less_and_the_nominal_is_that_of_the_last():
    """Against weighted least squares, in NumPy."""
    env = cart().bind(jnp.asarray(0.4))
    teacher = local_lqr(env, std=0.5, clusters=0, reuse=0.3, remember=20, ridge=1e-12)
    state, seen, x0 = teacher.init(KEY, env.init(KEY)), [], env.init(KEY)
    learn = jax.jit(teacher.learn)
    for i in range(3):
        paths = roll(env, teacher.controller(state), x0 + 0.1 * i, jax.random.fold_in(KEY, i), 6)
        bent = paths._replace(xs=paths.xs + 0.05 * jnp.sin(9 * paths.xs))  # no longer linear
        state, _ = learn(KEY, state, bent)
        seen.append(bent)
    weight = np.sqrt(np.repeat([0.09, 0.3, 1.0], 6))[:, None]
    xs, us = (np.concatenate([getattr(paths, name) for paths in seen]) for name in ("xs", "us"))
    for t in (3, 11):
        inputs = np.concatenate([xs[:, t], us[:, t], np.ones((18, 1))], axis=1)
        gains, _, _, _ = np.linalg.lstsq(weight * inputs, weight * xs[:, t + 1], rcond=None)
        np.testing.assert_allclose(state.model.dynamics.A[t], gains[:2].T, atol=1e-6)
        np.testing.assert_allclose(state.model.dynamics.B[t], gains[2:3].T, atol=1e-6)
    np.testing.assert_allclose(state.model.cost.x, xs[-6:].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(state.model.cost.u[:-1], us[-6:].mean(axis=0), atol=1e-12)


def test_entropy_keeps_the_exploration_that_it_is_worth():
    """With no bound to speak of the last step's covariance is its price over what an error costs."""
    _, teacher, _, state, _, _ = learned(clusters=0, ridge=1e-12, entropy=0.02)
    term = KLTerm(teacher.controller(state), bound=jnp.asarray(1e6))
    better, info = jax.jit(teacher.improve)(state, (term,))
    model = state.model
    B, S = np.asarray(model.dynamics.B[-1]), np.asarray(model.cost.Q[-1])
    wanted = 0.02 * np.linalg.inv(np.asarray(model.cost.R[-2]) + B.T @ S @ B)
    assert int(info["status"]) == 1
    np.testing.assert_allclose(teacher.controller(better).cov[-1], wanted, rtol=1e-4)

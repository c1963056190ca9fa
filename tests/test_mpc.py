from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from benchmarks import known_answers
from gps.plant import plant
from gps.rollout import open_loop
from gps.types import LinearGaussian
from teachers.ilqr import Guess, ilqr, shift
from teachers.mpc import mpc
from teachers.planner import SolveStatus

ENV, X0, _ = known_answers.crocoddyl_cartpole()
KEY = jax.random.key(0)


def drive(teacher, env, x0, steps, push=0.0):
    """Closed loop with a constant disturbance of the state."""

    def advance(carry, t):
        x, state = carry
        action, state = teacher.act(KEY, state, x, t)
        x_next, _ = env.step(x, action.dist.mean)
        return (x_next + push, state), (x_next, action)

    (_, _), rows = jax.lax.scan(advance, (x0, teacher.init(KEY, x0)), jnp.arange(steps))
    return rows


@cache
def runner(push):
    teacher = mpc(ENV, horizon=30)
    return jax.jit(lambda x0: drive(teacher, ENV, x0, 80, push))


def test_shift_keeps_the_feedback():
    rng = np.random.default_rng(0)
    sizes = (5, 4), (5, 2), (5, 2, 4), (5, 2, 2)
    plan = LinearGaussian(*(jnp.asarray(rng.normal(size=size)) for size in sizes))
    later = jax.jit(shift)(plan, jnp.arange(4.0))
    for new, old in zip(later, plan, strict=True):
        np.testing.assert_array_equal(new[:-1], old[1:])
    np.testing.assert_array_equal(later.xs[-1], np.arange(4))
    np.testing.assert_array_equal(later.us[-1], plan.us[-1])
    assert not np.any(later.K[-1])


def test_replanning_starts_from_the_shifted_plan():
    teacher = mpc(ENV, horizon=30)
    x0 = jnp.asarray(X0)
    _, state = jax.jit(teacher.act)(
        KEY, Guess(open_loop(ENV, x0, jnp.zeros((30, 1))), x0, jnp.asarray(0.0)), x0, 0
    )
    solution, _ = jax.jit(ilqr(ENV, 30, 1).solve)(x0, jnp.zeros((30, 1)), 0, 0.0)
    np.testing.assert_allclose(state.plan.K[:-1], solution.controller.K[1:], rtol=1e-9)
    assert np.max(np.abs(state.plan.K)) > 0.1


def test_balances_the_cartpole_under_a_push():
    xs, action = runner(0.002)(jnp.asarray(X0))
    upright = np.cos(np.array(xs)[-20:, 1])
    assert np.all(upright > 0.99) and np.all(np.array(action.status) == 0)
    np.testing.assert_allclose(np.array(action.dist.cov) * np.array(action.Quu), 1, rtol=1e-8)


def test_mean_minimises_the_local_quadratic_once_settled():
    _, action = runner(0.0)(jnp.asarray(X0))
    best = -np.array(action.q)[-10:, 0] / np.array(action.Quu)[-10:, 0, 0]
    np.testing.assert_allclose(np.array(action.dist.mean)[-10:, 0], best, atol=2e-3)


def test_float32_and_batches():
    run = runner(0.002)
    xs, action = run(jnp.asarray(X0, jnp.float32))
    assert xs.dtype == action.q.dtype == action.dist.cov.dtype == jnp.float32
    assert np.all(np.cos(np.array(xs)[-20:, 1]) > 0.99)


def limited(sign=1.0):
    """The plant whose mean must stay in the box; concave where sign = −1."""
    return plant(
        lambda x, u: x + 0.1 * u,
        lambda x, u, y, t: 0.1 * jnp.sum((x - 3) ** 2) + sign * 0.01 * jnp.sum(u**2),
        lambda x, y: jnp.sum((x - 3) ** 2),
        2,
        2,
        horizon=10,
        limits=(-0.5, 0.7),
    )


def test_limits_start_control_and_time():
    env = limited()
    teacher = mpc(env, iterations=2, initial_iterations=0, start=np.array([9.0, -9.0]))
    state = teacher.init(KEY, jnp.zeros(2))
    np.testing.assert_allclose(state.plan.us, np.tile([0.7, -0.5], (10, 1)))
    action, state = jax.jit(teacher.act)(KEY, state, jnp.zeros(2), 0)
    np.testing.assert_allclose(action.dist.mean, [0.7, 0.7])
    assert action.status == 0 and state.plan.us.shape == (10, 2)
    timed = env._replace(
        cost=lambda x, u, y, t: jnp.sum((u - 0.01 * t) ** 2), final_cost=lambda x, y: 0 * x[0]
    )
    act = jax.jit(mpc(timed).act)
    start = mpc(timed, initial_iterations=0).init(KEY, jnp.zeros(2))
    np.testing.assert_allclose(act(KEY, start, jnp.zeros(2), 40)[0].dist.mean, 0.4, atol=1e-5)


def test_bad_labels_carry_a_status_and_finite_numbers():
    planner = partial(ilqr, schedule=(0.0, 1e-9, 1e-8, 2.0), hessian="exact")
    env = limited(-1.0)
    env = env._replace(linearize=lambda x, u: limited().linearize(x, u)._replace(B=jnp.zeros((2, 2))))
    for broken, x, status in (
        (env, jnp.zeros(2), SolveStatus.NOT_PD),
        (limited(), jnp.full(2, jnp.nan), SolveStatus.DIVERGED),
    ):
        teacher = mpc(broken, initial_iterations=0, planner=planner)
        action, state = jax.jit(teacher.act)(KEY, teacher.init(KEY, jnp.zeros(2)), x, 0)
        assert action.status == status
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(action))
        action, _ = jax.jit(mpc(limited(), initial_iterations=0).act)(KEY, state, jnp.zeros(2), 0)
        assert action.status == 0


def test_labels_are_no_sharper_than_allowed():
    x0 = jnp.asarray(X0)

    def label(most):
        teacher = mpc(ENV, horizon=30, max_curvature=most)
        return jax.jit(lambda x: teacher.act(KEY, teacher.init(KEY, x), x, 0)[0])(x0)

    plain, bounded, loose = label(np.inf), label(0.05), label(1e9)
    share = 0.05 / float(jnp.linalg.norm(plain.Quu))
    assert share < 0.5
    for field in ("Quu", "q"):
        np.testing.assert_allclose(getattr(bounded, field), share * getattr(plain, field), rtol=1e-9)
    np.testing.assert_allclose(bounded.dist.cov, plain.dist.cov / share, rtol=1e-9)
    np.testing.assert_array_equal(bounded.dist.mean, plain.dist.mean)
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(loose), jax.tree.leaves(plain), strict=True)
    )
    with pytest.raises(ValueError, match="max_curvature must be positive, came 0"):
        mpc(ENV, horizon=30, max_curvature=0)


def test_planning_model_is_used_and_checked():
    env = limited()
    flipped = env._replace(cost=lambda x, u, y, t: jnp.sum((u - 0.3) ** 2), final_cost=lambda x, y: 0 * x[0])
    teacher = mpc(env._replace(planning=flipped), initial_iterations=0)
    action, _ = jax.jit(teacher.act)(KEY, teacher.init(KEY, jnp.zeros(2)), jnp.zeros(2), 0)
    np.testing.assert_allclose(action.dist.mean, 0.3, atol=1e-5)
    with pytest.raises(ValueError, match="initial_iterations must be at least 0, came -3"):
        mpc(env, initial_iterations=-3)
    with pytest.raises(ValueError, match=r"one control of shape \(2,\), came shape \(3,\)"):
        mpc(env, start=jnp.zeros(3))
    with pytest.raises(ValueError, match="planning model must share"):
        mpc(env._replace(planning=flipped._replace(dt=0.5)))


def test_a_value_function_stands_for_what_lies_beyond_the_horizon():
    """With the cost to go of the infinite horizon, a plan of three steps acts as the endless one."""
    A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
    Q, R = np.diag([1.0, 0.1]), np.array([[0.5]])
    P = scipy.linalg.solve_discrete_are(A, B, 2 * Q, 2 * R)
    env = plant(
        lambda x, u: A @ x + B @ u,
        lambda x, u, y, t: x @ Q @ x + u @ R @ u,
        lambda x, y: 0 * x[0],
        2,
        1,
        horizon=50,
    )
    x0 = jnp.asarray([1.0, -0.5])
    endless = -np.linalg.solve(2 * R + B.T @ P @ B, B.T @ P @ A) @ x0
    acts = []
    for value in (lambda x: 0.5 * x @ P @ x, None):
        teacher = mpc(env, horizon=3, iterations=3, value=value)
        acts.append(jax.jit(teacher.act)(KEY, teacher.init(KEY, x0), x0, 0)[0].dist.mean)
    np.testing.assert_allclose(acts[0], endless, rtol=1e-6)
    assert abs(acts[1] - endless) > 0.1 * abs(endless)
    with pytest.raises(ValueError, match=r"value must be a number for a state x, came .* shape \(2,\)"):
        mpc(env, horizon=3, value=lambda x: x).init(KEY, x0)

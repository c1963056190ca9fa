from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import known_answers
from gps.plant import plant
from teachers.ilqr import ilqr
from teachers.planner import SolveStatus


@cache
def crocoddyl_solver():
    env, _, _ = known_answers.crocoddyl_cartpole()
    return jax.jit(ilqr(env, tolerance=1e-9).solve)


def solve(problem, **options):
    env, x0, us = problem
    return jax.jit(ilqr(env, **options).solve)(jnp.asarray(x0), jnp.asarray(us))


def start_cost(trace):
    return float(trace.cost[0] + trace.actual[0])


def test_crocoddyl_cartpole():
    _, x0, us = known_answers.crocoddyl_cartpole()
    solution, trace = crocoddyl_solver()(jnp.asarray(x0), jnp.asarray(us))
    np.testing.assert_allclose(start_cost(trace), 22.44793, atol=5e-6)
    np.testing.assert_allclose(solution.cost, 18.165607, atol=1e-6)
    assert solution.status == SolveStatus.CONVERGED and solution.iterations <= 25


def test_acrobot_of_trajax():
    solution, trace = solve(known_answers.acrobot(), iterations=62)
    np.testing.assert_allclose(start_cost(trace), 4959.476212, atol=1e-6)
    np.testing.assert_allclose(solution.cost, 44.513285, atol=5e-5)
    assert solution.status == SolveStatus.CONVERGED


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "cost"), [(np.inf, 1.418409), (3.0, 1.494334)])
def test_altro_cartpole(limit, cost):
    solution, _ = solve(known_answers.altro_cartpole(limit), iterations=1000, tolerance=1e-9)
    np.testing.assert_allclose(solution.cost, cost, atol=1e-5)
    assert np.max(np.abs(solution.trajectory.us)) <= limit


@pytest.mark.slow
def test_car_parking():
    solution, trace = solve(known_answers.car_parking(), iterations=157)
    np.testing.assert_allclose(start_cost(trace), 5.80720, atol=1e-4)
    np.testing.assert_allclose(solution.cost, 1.905169, atol=1e-5)
    assert solution.status == SolveStatus.CONVERGED and solution.iterations <= 140


@pytest.mark.slow
def test_car_parking_with_dynamics_curvature():
    problem = known_answers.car_parking()
    solution, _ = solve(problem, iterations=157, second_order=known_answers.car_dynamics)
    np.testing.assert_allclose(solution.cost, 1.905168, atol=1e-6)


def double_integrator(limit=np.inf):
    def cost(x, u, y, t):
        return 0.5 * jnp.sum(x**2) + 0.05 * jnp.sum(u**2) + 0.1 * t * x[0]

    def dynamics(x, u):
        return jnp.stack([x[0] + 0.2 * x[1], x[1] + 0.2 * u[0] + 0.1 * u[1]])

    return plant(dynamics, cost, lambda x, y: 2 * jnp.sum(x**2), 2, 2, horizon=8, limits=(-limit, limit))


def test_local_model_of_a_linear_quadratic_task():
    """One step solves it, and the action values at the start are those of the dense problem."""
    env, x0 = double_integrator(), jnp.array([1.0, -0.5])
    solver = jax.jit(ilqr(env, schedule=(0.0, 1e-6, 1e10, 1.6)).solve)
    rng = np.random.default_rng(0)
    solution, trace = solver(x0, jnp.asarray(rng.normal(size=(8, 2))), 3)
    assert solution.iterations == 2 and trace.alpha[0] == 1
    np.testing.assert_allclose(trace.actual[0], trace.expected[0], rtol=1e-9)

    A, B = np.array([[1, 0.2], [0, 1]]), np.array([[0, 0], [0.2, 0.1]])

    def total(z):
        x, J = np.array(x0), 0.0
        for t, u in enumerate(z.reshape(8, 2)):
            J += 0.5 * x @ x + 0.05 * u @ u + 0.1 * (t + 3) * x[0]
            x = A @ x + B @ u
        return J + 2 * x @ x

    eye = np.eye(16)
    J0 = total(np.zeros(16))
    H = np.array([[total(a + b) - total(a) - total(b) + J0 for a in eye] for b in eye])
    g = np.array([total(a) - J0 - 0.5 * H[i, i] for i, a in enumerate(eye)])
    np.testing.assert_allclose(np.ravel(solution.trajectory.us), -np.linalg.solve(H, g), rtol=1e-7)
    np.testing.assert_allclose(solution.cost, J0 - 0.5 * g @ np.linalg.solve(H, g), rtol=1e-10)
    rest = np.linalg.inv(H[2:, 2:])
    np.testing.assert_allclose(solution.Quu[0], H[:2, :2] - H[:2, 2:] @ rest @ H[2:, :2], rtol=1e-7)
    np.testing.assert_allclose(solution.q[0], g[:2] - H[:2, 2:] @ rest @ g[2:], rtol=1e-7)
    np.testing.assert_allclose(solution.controller.cov[0], np.linalg.inv(solution.Quu[0]), rtol=1e-7)


def test_warm_start_is_rolled_out_with_its_feedback():
    """On a linear-quadratic task the feedback of one solve is already optimal from any other state."""
    solver, us = jax.jit(ilqr(double_integrator()).solve), jnp.zeros((8, 2))
    plan, _ = solver(jnp.array([1.0, -0.5]), us)
    moved = jnp.array([-2.0, 1.5])
    best, closed_trace = solver(moved, plan.controller)
    _, open_trace = solver(moved, plan.trajectory.us)
    np.testing.assert_allclose(closed_trace.cost[0] + closed_trace.actual[0], best.cost, rtol=1e-6)
    assert start_cost(open_trace) > 1.1 * best.cost


def test_batch_members_do_not_disturb_each_other():
    _, x0, us = known_answers.crocoddyl_cartpole()
    starts = jnp.asarray(x0)[None] + jnp.array([[0.0], [0.3], [-0.4]])
    batch, traces = jax.jit(jax.vmap(crocoddyl_solver(), (0, None)))(starts, jnp.asarray(us))
    one, trace = crocoddyl_solver()(starts[2], jnp.asarray(us))
    assert batch.iterations[2] == one.iterations and len(set(np.array(batch.iterations))) > 1
    np.testing.assert_allclose(batch.cost[2], one.cost, rtol=1e-9)
    np.testing.assert_allclose(traces.alpha[2], trace.alpha)


def test_float32_stays_float32_and_jits_once():
    _, x0, us = known_answers.crocoddyl_cartpole()
    traced = []

    def counted(x0, us):
        traced.append(x0.dtype)
        return crocoddyl_solver()(x0, us)

    run = jax.jit(counted)
    for scale in (0.0, 0.1):
        solution, _ = run(jnp.asarray(x0, jnp.float32), jnp.asarray(us + scale, jnp.float32))
    assert traced == [jnp.float32]
    floats = [leaf.dtype for leaf in jax.tree.leaves(solution) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    np.testing.assert_allclose(solution.cost, 18.165607, rtol=1e-5)
    assert solution.status == SolveStatus.CONVERGED


def bent(x, u):
    """Dynamics with much curvature, of the sign that makes the controls' Hessian negative."""
    return x - 50 * jnp.sum(u**2)


def test_failures_are_statuses():
    us = jnp.zeros((8, 2))
    solver = jax.jit(ilqr(double_integrator(), second_order=bent, schedule=(0.0, 1e-9, 1e-8, 2.0)).solve)
    solution, _ = solver(jnp.ones(2), us)
    assert solution.status == SolveStatus.NOT_PD and not np.all(solution.definite)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(solution))
    solution, _ = solver(jnp.full(2, jnp.inf), us)
    assert solution.status == SolveStatus.DIVERGED and solution.iterations == 0
    lying = double_integrator()
    lying = lying._replace(
        linearize=lambda x, u: jax.tree.map(jnp.negative, double_integrator().linearize(x, u))
    )
    solution, trace = jax.jit(ilqr(lying, iterations=60).solve)(jnp.ones(2), us)
    assert solution.status != SolveStatus.CONVERGED
    assert np.all(np.diff(np.array(trace.cost)[: int(solution.iterations)]) <= 0)


def test_common_iteration_costs_one_rollout():
    """Counts engine calls of a whole solve: the warm start, and one rollout per full step."""
    calls = []
    env = double_integrator()

    def counted(x0, controller, noise):
        jax.debug.callback(lambda: calls.append("rollout"))
        return env.rollout(x0, controller, noise)

    solver = jax.jit(ilqr(env._replace(rollout=counted), schedule=(0.0, 1e-6, 1e10, 1.6)).solve)
    solution, _ = solver(jnp.ones(2), jnp.ones((8, 2)))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert solution.iterations == 2 and len(calls) == 2


def test_advice_on_wrong_arguments():
    env = double_integrator()
    with pytest.raises(ValueError, match="horizon >= 1"):
        ilqr(env, horizon=0)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        ilqr(env, grid=(1.0, 0.5))
    with pytest.raises(
        ValueError, match="hessian must be one of auto, exact, gauss_newton, came 'gaus_newton'"
    ):
        ilqr(env, hessian="gaus_newton")
    with pytest.raises(ValueError, match="regularise must be one of control, state, came 'stat'"):
        ilqr(env, regularise="stat")
    for tolerance in (-1.0, np.nan):
        with pytest.raises(ValueError, match="tolerance must be at least 0"):
            ilqr(env, tolerance=tolerance)
    for schedule in ((1e-6, 1e-6, 1e10, 1.0), (1e-6, 1e-6, 1e10), (-1.0, 1e-6, 1e10, 1.6), (0, 1.0, 0.1, 2)):
        with pytest.raises(ValueError, match=r"schedule is \(start, smallest, largest, factor\)"):
            ilqr(env, schedule=schedule)
    with pytest.raises(ValueError, match=r"\[T, nu\] = \(8, 2\), came \(7, 2\)"):
        ilqr(env).solve(jnp.zeros(2), jnp.zeros((7, 2)))


def test_the_parallel_backward_pass_finds_the_same_optimum():
    env, x0, us = known_answers.crocoddyl_cartpole()
    solution, _ = jax.jit(ilqr(env, parallel=True).solve)(jnp.asarray(x0, float), us)
    assert solution.status == SolveStatus.CONVERGED
    np.testing.assert_allclose(solution.cost, 18.165607, rtol=1e-5)
    limited, _, _ = known_answers.altro_cartpole(3.0)
    with pytest.raises(ValueError, match="knows no limits of controls"):
        ilqr(limited, parallel=True)


def test_skipped_derivatives_find_the_optimum_too():
    env, x0, us = known_answers.crocoddyl_cartpole()
    skipped, _ = jax.jit(ilqr(env, every=3).solve)(jnp.asarray(x0, float), us)
    full, _ = jax.jit(ilqr(env).solve)(jnp.asarray(x0, float), us)
    np.testing.assert_allclose(skipped.cost, full.cost, rtol=1e-3)
    assert skipped.cost != full.cost
    for wrong in (0, 50):
        with pytest.raises(
            ValueError, match=f"every must be at least 1 and below the horizon, 50, came {wrong}"
        ):
            ilqr(env, every=wrong)

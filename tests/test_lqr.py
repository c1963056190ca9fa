import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from envs.cartpole import cartpole
from gps.types import Limits, LinearDynamics, QuadraticCost
from teachers.linalg import box_qp, free_solve, solve_spd
from teachers.lqr import backward, control_covariance
from teachers.parallel_lqr import parallel_backward

n, m, T = 3, 2, 6


def problem(seed=0, dtype=np.float64):
    """A random linear-quadratic problem with cross terms, around nominal controls."""
    rng = np.random.default_rng(seed)
    A, B = np.eye(n) + 0.3 * rng.normal(size=(T, n, n)), rng.normal(size=(T, n, m))
    G = rng.normal(size=(T + 1, n + m, n + m))
    H, g = G @ G.transpose(0, 2, 1) / 3 + 0.1 * np.eye(n + m), rng.normal(size=(T + 1, n + m))
    H[-1, n:], H[-1, :, n:], g[-1, n:] = 0, 0, 0
    us = np.concatenate([0.3 * rng.normal(size=(T, m)), np.zeros((1, m))])
    empty = np.zeros((T + 1, 0, n)), np.zeros((T + 1, 0, m))
    cost = QuadraticCost(
        np.zeros(T + 1),
        g[:, :n],
        g[:, n:],
        H[:, :n, :n],
        H[:, n:, n:],
        H[:, :n, n:],
        np.zeros((T + 1, n)),
        us,
    )
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (LinearDynamics(A, B, *empty), cost))


def dense(dynamics, cost):
    """The total cost as ½ zᵀHz + gᵀz in z = (u_0 … u_T-1) for δx_0 = x0: (H, g(x0), map to states)."""
    A, B = np.array(dynamics.A), np.array(dynamics.B)
    maps = [np.zeros((n, T * m))]
    frees = [np.eye(n)]
    for t in range(T):
        pick = np.zeros((m, T * m))
        pick[:, t * m : (t + 1) * m] = np.eye(m)
        maps.append(A[t] @ maps[-1] + B[t] @ pick)
        frees.append(A[t] @ frees[-1])
    H, g, G = np.zeros((T * m, T * m)), np.zeros(T * m), np.zeros((T * m, n))
    q, r, Q, R, M = (np.array(part) for part in cost[1:6])
    for t in range(T + 1):
        pick = np.zeros((m, T * m))
        pick[:, t * m : (t + 1) * m] = np.eye(m) if t < T else 0
        X, F = maps[t], frees[t]
        H += X.T @ Q[t] @ X + pick.T @ R[t] @ pick + X.T @ M[t] @ pick + pick.T @ M[t].T @ X
        g += X.T @ q[t] + pick.T @ r[t]
        G += X.T @ Q[t] @ F + pick.T @ M[t].T @ F
    return H, g, G


def rolled(dynamics, back, x0):
    x, us = np.array(x0), []
    for t in range(T):
        us.append(np.array(back.k[t] + back.K[t] @ x))
        x = np.array(dynamics.A[t] @ x + dynamics.B[t] @ us[-1])
    return np.concatenate(us)


def test_policy_is_the_minimum_of_the_dense_problem():
    dynamics, cost = problem()
    back = jax.jit(backward)(dynamics, cost)
    H, g, G = dense(dynamics, cost)
    for x0 in (np.zeros(n), np.array([0.4, -1.0, 0.7])):
        np.testing.assert_allclose(rolled(dynamics, back, x0), -np.linalg.solve(H, g + G @ x0), rtol=1e-8)
    best = -0.5 * g @ np.linalg.solve(H, g)
    np.testing.assert_allclose(back.linear + 0.5 * back.quadratic, best, rtol=1e-10)
    assert back.ok


def test_action_values_are_partial_minima_of_the_dense_problem():
    dynamics, cost = problem(1)
    back = jax.jit(backward)(dynamics, cost, 0.0)
    H, g, _ = dense(dynamics, cost)
    rest = np.linalg.inv(H[m:, m:])
    np.testing.assert_allclose(back.Quu[0], H[:m, :m] - H[:m, m:] @ rest @ H[m:, :m], rtol=1e-9)
    np.testing.assert_allclose(back.Qu[0], g[:m] - H[:m, m:] @ rest @ g[m:], rtol=1e-9)


@pytest.mark.parametrize("regularise", ["control", "state"])
def test_regularised_pass_against_a_numpy_recursion(regularise):
    dynamics, cost = problem(2)
    mu = 0.7
    back = jax.jit(lambda *a: backward(*a, regularise=regularise))(dynamics, cost, mu)
    q, r, Q, R, M = (np.array(part) for part in cost[1:6])
    V, v = Q[T], q[T]
    for t in reversed(range(T)):
        A, B = np.array(dynamics.A[t]), np.array(dynamics.B[t])
        Qx, Qu, Qxx = q[t] + A.T @ v, r[t] + B.T @ v, Q[t] + A.T @ V @ A
        Quu, Qux = R[t] + B.T @ V @ B, M[t].T + B.T @ V @ A
        V_mu = V + mu * np.eye(n) * (regularise == "state")
        Huu = R[t] + B.T @ V_mu @ B + mu * np.eye(m) * (regularise == "control")
        K, k = -np.linalg.solve(Huu, M[t].T + B.T @ V_mu @ A), -np.linalg.solve(Huu, Qu)
        for name, value in {"K": K, "k": k, "Quu": Quu, "Qu": Qu}.items():
            np.testing.assert_allclose(getattr(back, name)[t], value, rtol=1e-8, err_msg=f"{name} at {t}")
        v = Qx + K.T @ Quu @ k + K.T @ Qu + Qux.T @ k
        V = Qxx + K.T @ Quu @ K + K.T @ Qux + Qux.T @ K


def test_limits_hold_and_clamped_gains_vanish():
    dynamics, cost = problem(3)
    limits = Limits(np.array([-0.3, -0.2]), np.array([0.4, 0.25]))
    back = jax.jit(lambda *a: backward(*a, limits=limits))(dynamics, cost)
    u = np.array(cost.u[:T] + back.k)
    clamped = np.isclose(u, limits.low) | np.isclose(u, limits.high)
    assert np.all(u >= limits.low - 1e-12) and np.all(u <= limits.high + 1e-12)
    assert 3 < clamped.sum() < T * m - 1, "the test should have both kinds of rows"
    assert not np.any(np.array(back.K)[clamped]) and np.all(np.any(np.array(back.K)[~clamped], axis=-1))
    for t in range(T):
        gradient = np.array(back.Qu[t] + back.Quu[t] @ back.k[t])
        np.testing.assert_allclose(gradient[~clamped[t]], 0, atol=1e-10)
        assert np.all(np.where(np.isclose(u[t], limits.low), gradient >= 0, True))
        assert np.all(np.where(np.isclose(u[t], limits.high), gradient <= 0, True))


def test_indefinite_is_data():
    dynamics, cost = problem(4)
    R = cost.R.at[2].set(-50 * jnp.eye(m))
    run = jax.jit(backward)
    back = run(dynamics, cost._replace(R=R), 0.0)
    assert not back.ok
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(back))
    assert run(dynamics, cost._replace(R=R), 60.0).ok
    cov, definite = jax.jit(lambda *a: control_covariance(*a, "control"))(back.Quu, dynamics.B, 60.0)
    np.testing.assert_array_equal(np.flatnonzero(~definite), [2])
    inverse = np.linalg.inv(np.array(back.Quu) + 60 * np.eye(m) * ~np.array(definite)[:, None, None])
    np.testing.assert_allclose(cov, inverse, rtol=1e-7)


def test_curvature_is_added_to_the_action_values():
    dynamics, cost = problem(5)
    rng = np.random.default_rng(6)
    tensor = rng.normal(size=(n, n + m, n + m))
    tensor = tensor + tensor.transpose(0, 2, 1)
    with_it = jax.jit(
        lambda *a: backward(*a, curvature=lambda v, x, u: jnp.tensordot(v, tensor, 1) * jnp.sum(u**2))
    )(dynamics, cost, 5.0)
    plain = jax.jit(backward)(dynamics, cost, 5.0)
    v, u = np.array(cost.q[T]), np.array(cost.u[T - 1])
    added = np.tensordot(v, tensor, 1)[n:, n:] * (u @ u)
    np.testing.assert_allclose(with_it.Quu[-1] - plain.Quu[-1], added, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 12])
def test_solve_spd(size):
    rng = np.random.default_rng(size)
    G = rng.normal(size=(size, size))
    H, rhs = G @ G.T + 0.1 * np.eye(size), rng.normal(size=(size, 4))
    solve = jax.jit(solve_spd)
    out, ok = solve(H, rhs)
    np.testing.assert_allclose(out, np.linalg.solve(H, rhs), rtol=1e-8, atol=1e-10)
    assert ok
    bent = H - 1.001 * np.linalg.eigvalsh(H)[0] * np.eye(size)
    out, ok = solve(bent, rhs)
    assert not ok and np.all(np.isfinite(out))
    free = jnp.asarray(rng.random(size) < 0.5)
    rows, _ = jax.jit(free_solve)(H, rhs, free)
    f = np.flatnonzero(free)
    wanted = np.zeros_like(rhs)
    wanted[f] = np.linalg.solve(H[np.ix_(f, f)], rhs[f])
    np.testing.assert_allclose(rows, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_box_qp_against_lbfgsb(size):
    rng = np.random.default_rng(size)
    solve = jax.jit(box_qp)
    held = 0
    for _ in range(20):
        G = rng.normal(size=(size, size))
        H, g = G @ G.T + 0.05 * np.eye(size), 2 * rng.normal(size=size)
        low, high = -rng.uniform(0.0, 1, size), rng.uniform(0.0, 1, size)
        qp = solve(H, g, low, high)

        def f(x, H=H, g=g):
            return 0.5 * x @ H @ x + g @ x, H @ x + g

        box = list(zip(low, high, strict=True))
        best = minimize(f, np.zeros(size), jac=True, bounds=box, options={"ftol": 1e-15, "gtol": 1e-12})
        assert qp.ok
        np.testing.assert_allclose(f(np.array(qp.x))[0], best.fun, rtol=1e-9, atol=1e-12)
        gradient = H @ np.array(qp.x) + g
        np.testing.assert_allclose(gradient[np.array(qp.free)], 0, atol=1e-9)
        held += np.sum(~np.array(qp.free))
    assert held > 5


def test_float32_and_batches():
    dynamics, cost = problem(dtype=np.float32)
    limits = Limits(np.full(m, -0.3), np.full(m, 0.3))

    def run(*model):
        return backward(*model, 1e-3, limits=limits)

    short = jax.jit(run)(dynamics, cost)
    assert {leaf.dtype for leaf in short[:6]} == {jnp.dtype("float32")}
    pair = jax.tree.map(lambda *a: jnp.stack(a), problem(0), problem(7))
    both = jax.jit(jax.vmap(run))(*pair)
    one = jax.jit(run)(*problem(7))
    np.testing.assert_allclose(both.k[1], one.k, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(short.K, both.K[0], atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 7, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_parallel_pass_is_the_sequential_one(length, dtype):
    dynamics, cost = problem(dtype=dtype)
    rows = np.arange(length) % T
    dynamics = jax.tree.map(lambda a: a[rows] if a.shape[0] == T else a, dynamics)
    cost = jax.tree.map(lambda a: jnp.concatenate([a[rows], a[-1:]]), cost)
    made, wanted = jax.jit(parallel_backward)(dynamics, cost), jax.jit(backward)(dynamics, cost)
    assert made.ok and wanted.ok
    rtol = 1e-8 if dtype == np.float64 else 2e-3
    for ours, theirs in zip(made[:4], wanted[:4], strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.max(np.abs(theirs)))
    np.testing.assert_allclose(
        made.linear + 0.5 * made.quadratic, wanted.linear + 0.5 * wanted.quadratic, rtol=rtol
    )


def test_the_parallel_pass_promises_what_a_step_brings():
    """At any step size, and with a price on changes of the controls."""
    dynamics, cost = problem()
    back = parallel_backward(dynamics, cost, mu=0.7)

    def change(alpha):
        x, total = jnp.zeros(n), 0.0
        for t in range(T + 1):
            u = alpha * back.k[t] + back.K[t] @ x if t < T else jnp.zeros(m)
            total += cost.q[t] @ x + cost.r[t] @ u + 0.5 * x @ cost.Q[t] @ x + 0.5 * u @ cost.R[t] @ u
            total += x @ cost.M[t] @ u
            x = dynamics.A[t] @ x + dynamics.B[t] @ u if t < T else x
        return total

    for alpha in (1.0, 0.3):
        np.testing.assert_allclose(
            alpha * back.linear + 0.5 * alpha**2 * back.quadratic, change(alpha), rtol=1e-9
        )
    dearer = cost._replace(R=cost.R + 0.7 * jnp.eye(m)[None])
    np.testing.assert_allclose(back.k, backward(dynamics, dearer).k, rtol=1e-8)


def test_the_parallel_pass_says_where_it_cannot():
    dynamics, cost = problem()
    assert not parallel_backward(dynamics, cost._replace(R=cost.R.at[2].set(-jnp.eye(m)))).ok
    assert parallel_backward(dynamics, cost._replace(R=cost.R.at[2].set(-jnp.eye(m))), mu=3.0).ok


@pytest.mark.parametrize("sweep", [backward, parallel_backward])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_what_rounding_leaves_does_not_grow_with_an_unstable_plant(sweep, dtype, rtol):
    """The cart-pole balanced for 300 steps, its open loop growing by 1.17 a step; beside Riccati in NumPy."""
    length, plant = 300, cartpole().linearize(jnp.zeros(4), jnp.zeros(1))
    A, B = np.asarray(plant.A), np.asarray(plant.B)
    assert 1.1 < np.max(np.abs(np.linalg.eigvals(A))) < 1.3
    P, gains = np.eye(4), []
    for _ in range(length):
        K = -np.linalg.solve(0.1 * np.eye(1) + B.T @ P @ B, B.T @ P @ A)
        closed = A + B @ K
        P = np.eye(4) + 0.1 * K.T @ K + closed.T @ P @ closed
        P = 0.5 * (P + P.T)
        gains.insert(0, K)

    def rows(a, count):
        return jnp.asarray(np.broadcast_to(a, (count, *np.shape(a))), dtype)

    dynamics = LinearDynamics(*(rows(a, length) for a in (A, B, np.zeros((0, 4)), np.zeros((0, 1)))))
    zero = np.zeros
    cost = QuadraticCost(
        *(rows(a, length + 1) for a in (0.0, zero(4), zero(1), np.eye(4), 0.1 * np.eye(1), zero((4, 1)))),
        rows(zero(4), length + 1),
        rows(zero(1), length + 1),
    )
    made = jax.jit(sweep)(dynamics, cost)
    assert made.ok
    np.testing.assert_allclose(made.K, gains, rtol=rtol, atol=rtol)

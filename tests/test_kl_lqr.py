"""The C-step against oracles: divergence, Monte Carlo, a dense problem, the gradient of the Lagrangian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.gaussian import Gaussian
from gps.rollout import saturate
from gps.types import Limits, LinearDynamics, LinearGaussian, QuadraticCost
from teachers.kl_lqr import KLStatus, kl_lqr
from teachers.kl_pass import make_problem, solve_at

n, m, T = 4, 2, 10


def problem(rng, scale=1.0, indefinite=False, condition=10.0, reach=1.0, dtype=np.float64):
    """A random problem; `reach` scales what the controls can do."""
    A, B = np.eye(n) + 0.1 * rng.normal(size=(T, n, n)), 0.3 * reach * rng.normal(size=(T, n, m))
    G = rng.normal(size=(T + 1, n + m, n + m))
    H = scale * (G @ G.transpose(0, 2, 1) / (n + m) - 0.5 * indefinite * np.eye(n + m))
    g = scale * rng.normal(size=(T + 1, n + m))
    H[-1, n:], H[-1, :, n:], g[-1, n:] = 0, 0, 0
    xs, us = rng.normal(size=(T + 1, n)), np.concatenate([0.3 * rng.normal(size=(T, m)), np.zeros((1, m))])
    cost = QuadraticCost(
        rng.normal(size=T + 1), g[:, :n], g[:, n:], H[:, :n, :n], H[:, n:, n:], H[:, :n, n:], xs, us
    )
    turn, _ = np.linalg.qr(rng.normal(size=(T, m, m)))
    spread = 0.1 * condition ** rng.uniform(-0.5, 0.5, size=(T, m))
    S = np.einsum("tij,tj,tkj->tik", turn, spread, turn)
    previous = LinearGaussian(
        xs[:T],
        us[:T] + 0.2 * rng.normal(size=(T, m)),
        0.3 * rng.normal(size=(T, m, n)),
        0.5 * (S + S.transpose(0, 2, 1)),
    )
    root, ripple = 0.3 * rng.normal(size=(n, n)), 0.05 * rng.normal(size=(T, n, n))
    start = Gaussian(0.1 * rng.normal(size=n), root @ root.T + 1e-3 * np.eye(n))
    dynamics = LinearDynamics(A, B, np.zeros((T, 0, n)), np.zeros((T, 0, m)))
    made = (dynamics, cost, previous, start, ripple @ ripple.transpose(0, 2, 1))
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), made)


def solve(given, bound, **options):
    dynamics, cost, previous, start, noise = given
    return kl_lqr(dynamics, cost, previous, bound, start=start, noise=noise, **options)


run = jax.jit(solve)


def divergence(given, controller):
    """KL per step along the controller's marginals, in float64."""
    dynamics, cost, previous, start, noise = jax.tree.map(lambda leaf: np.asarray(leaf, float), given)
    mean, spread, found = start.mean, start.cov, []
    for t in range(T):
        K, cov = (np.asarray(part[t], float) for part in (controller.K, controller.cov))
        shift = np.asarray(controller.us[t], float) - previous.us[t] + (K - previous.K[t]) @ mean
        P = np.linalg.inv(previous.cov[t])
        turn = K - previous.K[t]
        ratio = np.linalg.slogdet(P @ cov)[1]
        square = shift @ P @ shift + np.trace(turn.T @ P @ turn @ spread)
        found.append(0.5 * (np.trace(P @ cov) - m - ratio + square))
        closed = dynamics.A[t] + dynamics.B[t] @ K
        mean = closed @ mean + dynamics.B[t] @ (np.asarray(controller.us[t], float) - cost.u[t])
        spread = closed @ spread @ closed.T + dynamics.B[t] @ cov @ dynamics.B[t].T + noise[t]
    return np.array(found)


def batch(seed, count, dtype=np.float64, condition=6, each=False):
    """Problems and bounds: indefinite or not, nearly uncontrollable or not, tiny and huge numbers."""
    rng = np.random.default_rng(seed)
    made, bounds = [], []
    for i in range(count):
        settings = {
            "scale": 10 ** rng.uniform(-3, 3),
            "indefinite": not each and i % 2 == 1,
            "condition": 10 ** rng.uniform(0, condition),
            "reach": 10 ** rng.uniform(-6, -3) if i % 5 == 0 else 1.0,
        }
        made.append(problem(rng, dtype=dtype, **settings))
        size = 10 ** rng.uniform(-4, 4)
        bounds.append(size / T * np.exp(rng.normal(size=T)) if each else size)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *made), np.array(bounds, dtype), made


def kept(kl, bound, eta, status):
    """The contract, with the divergence measured by the oracle."""
    near = np.abs(kl / bound - 1) <= 0.1
    idle = (eta <= 1.001e-8) & (kl <= 1.1 * bound)
    return status <= KLStatus.INACTIVE and bool(np.all(near | idle))


@pytest.mark.parametrize(
    ("count", "dtype", "condition", "each"),
    [(600, np.float64, 8, False), (400, np.float32, 4, False), (200, np.float64, 6, True)],
)
def test_the_divergence_is_the_bound_or_the_constraint_is_idle(count, dtype, condition, each):
    given, bounds, made = batch(0, count, dtype, condition, each)
    found = jax.jit(jax.vmap(solve))(given, bounds)
    controllers = [
        jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found.controller) for i in range(count)
    ]
    assert all(np.all(np.isfinite(leaf)) for one in controllers for leaf in one)
    bad = []
    for i in range(count):
        kl, eta = divergence(made[i], controllers[i]), np.asarray(found.eta[i], float)
        kl, eta = (kl, eta) if each else (kl.sum(), eta[0])
        if not kept(kl, bounds[i], eta, int(found.status[i])):
            bad.append((i, int(found.status[i]), kl / bounds[i]))
    assert bad == []
    assert {int(s) for s in found.status} == {KLStatus.ACTIVE, KLStatus.INACTIVE} or each
    assert np.median(found.passes) < 15


def test_reported_divergence_is_the_oracles():
    given = problem(np.random.default_rng(1))
    found = run(given, 3.0)
    np.testing.assert_allclose(found.kl, divergence(given, found.controller), rtol=1e-9)
    tiny = run(given, 1e-9)  # where the closed form would lose its digits
    np.testing.assert_allclose(tiny.kl.sum(), 1e-9, rtol=0.05)
    assert tiny.status == KLStatus.ACTIVE


def test_divergence_by_monte_carlo():
    given = problem(np.random.default_rng(2))
    dynamics, cost, previous, start, noise = given
    found = run(given, 2.0)
    rng, N = np.random.default_rng(0), 40000
    x = rng.multivariate_normal(start.mean, start.cov, N)
    ratio = np.zeros(N)
    for t in range(T):
        parts = []
        for policy in (found.controller, previous):
            K, cov = np.asarray(policy.K[t]), np.asarray(policy.cov[t])
            parts.append((np.asarray(policy.us[t]) + x @ K.T, cov))
        u = parts[0][0] + rng.multivariate_normal(np.zeros(m), parts[0][1], N)
        for sign, (mean, cov) in zip((1, -1), parts, strict=True):
            white = np.linalg.solve(np.linalg.cholesky(cov), (u - mean).T)
            ratio -= sign * 0.5 * (np.sum(white**2, axis=0) + np.linalg.slogdet(cov)[1])
        x = x @ dynamics.A[t].T + (u - cost.u[t]) @ dynamics.B[t].T
        x = x + rng.multivariate_normal(np.zeros(n), noise[t], N)
    error = 4 * ratio.std() / np.sqrt(N)
    assert error < 0.1
    assert abs(ratio.mean() - float(found.kl.sum())) < error


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1, 2))
def slopes(us, K, cov, given, eta, entropy):
    """Of E_p[Σ c] + Σ η KL(p ‖ p̄) − Σ entropy H(p), by moments and written out."""
    dynamics, cost, previous, start, noise = jax.tree.map(jnp.asarray, given)

    def step(carry, t):
        mean, spread, total = carry
        k = us[t] - cost.u[t]
        u = k + K[t] @ mean
        cross = spread @ K[t].T
        control = K[t] @ cross + cov[t]
        total += cost.q[t] @ mean + cost.r[t] @ u + mean @ cost.M[t] @ u
        total += 0.5 * (mean @ cost.Q[t] @ mean + u @ cost.R[t] @ u + jnp.sum(cost.Q[t] * spread))
        total += 0.5 * jnp.sum(cost.R[t] * control) + jnp.sum(cost.M[t] * cross)
        P, turn = jnp.linalg.inv(previous.cov[t]), K[t] - previous.K[t]
        shift = us[t] - previous.us[t] + turn @ mean
        square = shift @ P @ shift + jnp.sum(P * (turn @ spread @ turn.T))
        log_det = jnp.linalg.slogdet(cov[t])[1]
        total += 0.5 * eta[t] * (jnp.sum(P * cov[t]) - log_det + square) - 0.5 * entropy * log_det
        closed = dynamics.A[t] + dynamics.B[t] @ K[t]
        mean = closed @ mean + dynamics.B[t] @ k
        spread = closed @ spread @ closed.T + dynamics.B[t] @ cov[t] @ dynamics.B[t].T + noise[t]
        return (mean, spread, total), None

    (mean, spread, total), _ = jax.lax.scan(step, (start.mean, start.cov, 0.0), jnp.arange(T))
    return total + cost.q[T] @ mean + 0.5 * (mean @ cost.Q[T] @ mean + jnp.sum(cost.Q[T] * spread))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_lagrangian_is_stationary(each, entropy):
    given = problem(np.random.default_rng(3), indefinite=not each)
    bound = np.full(T, 0.2) if each else 2.0
    found = jax.jit(functools.partial(solve, entropy=entropy))(given, bound)
    assert found.status == KLStatus.ACTIVE
    p = found.controller
    du, dK, dcov = slopes(p.us, p.K, p.cov, given, found.eta, entropy)
    symmetric = dcov + jnp.swapaxes(dcov, 1, 2)  # covariances move symmetrically
    assert all(float(jnp.max(jnp.abs(slope))) < 1e-9 for slope in (du, dK, symmetric))
    other = slopes(p.us, p.K, p.cov, given, 1.3 * found.eta, entropy)
    assert float(jnp.max(jnp.abs(other[0]))) > 1e-3


def test_without_a_bound_it_is_the_dense_minimum():
    given = problem(np.random.default_rng(4))
    dynamics, cost, _, start, _ = given
    found = run(given, 1e12)
    assert found.status == KLStatus.INACTIVE
    maps, free = np.zeros((n, T * m)), start.mean.copy()
    H, g = np.zeros((T * m, T * m)), np.zeros(T * m)
    for t in range(T + 1):
        pick = np.zeros((m, T * m))
        if t < T:
            pick[:, t * m : (t + 1) * m] = np.eye(m)
        H += maps.T @ cost.Q[t] @ maps + pick.T @ cost.R[t] @ pick
        H += maps.T @ cost.M[t] @ pick + pick.T @ cost.M[t].T @ maps
        g += maps.T @ (cost.Q[t] @ free + cost.q[t]) + pick.T @ (cost.r[t] + cost.M[t].T @ free)
        if t < T:
            maps, free = dynamics.A[t] @ maps + dynamics.B[t] @ pick, dynamics.A[t] @ free
    best, mean = -np.linalg.solve(H, g).reshape(T, m), start.mean
    for t in range(T):
        u = found.controller.us[t] - cost.u[t] + found.controller.K[t] @ mean
        np.testing.assert_allclose(u, best[t], atol=1e-6)
        mean = dynamics.A[t] @ mean + dynamics.B[t] @ u


def test_limits_hold_the_mean_at_the_nominal_states():
    given = problem(np.random.default_rng(5))
    limits = Limits(np.array([-0.2, -np.inf]), np.array([0.25, 0.3]))
    bounded = jax.jit(functools.partial(solve, limits=limits))
    found = bounded(given, 20.0)
    p = found.controller
    assert found.status == KLStatus.ACTIVE
    np.testing.assert_allclose(found.kl.sum(), divergence(given, p).sum(), rtol=1e-9)
    us = np.asarray(p.us)
    assert np.all(us >= limits.low - 1e-12) and np.all(us <= limits.high + 1e-12)
    held = np.isclose(us, limits.low) | np.isclose(us, limits.high)
    assert 2 < held.sum() < T * m - 2, "the test should have both kinds of rows"
    assert np.abs(np.asarray(p.K)[held]).max() < 1e-9 and np.all(np.any(np.asarray(p.K)[~held] != 0, axis=-1))
    # The last step is a box-QP on its own: no better control is near.
    dynamics, cost, previous, _, _ = given
    V, v, B = cost.Q[T], cost.q[T], dynamics.B[T - 1]
    P, eta = np.linalg.inv(previous.cov[T - 1]), float(found.eta[-1])

    def value(u):
        k, shift = u - cost.u[T - 1], u - previous.us[T - 1]
        x = B @ k
        own = cost.r[T - 1] @ k + 0.5 * k @ cost.R[T - 1] @ k
        return own + v @ x + 0.5 * x @ V @ x + 0.5 * eta * shift @ P @ shift

    rng = np.random.default_rng(0)
    near = np.clip(us[-1] + 1e-3 * rng.normal(size=(200, m)), limits.low, limits.high)
    assert min(value(u) for u in near) >= value(us[-1]) - 1e-12


def test_where_the_limits_make_the_divergence_jump_across_the_bound_it_ends_below():
    limits = Limits(np.full(m, -0.2), np.full(m, 0.2))
    made = [problem(np.random.default_rng(seed), condition=10.0) for seed in range(60)]
    made = [(*one[:2], saturate(one[2], limits), *one[3:]) for one in made]
    given = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    bounds = 10 ** np.random.default_rng(8).uniform(-1, 2, size=60)
    found = jax.jit(jax.vmap(functools.partial(solve, limits=limits)))(given, bounds)
    assert np.all(found.status <= KLStatus.BELOW)
    below = np.flatnonzero(found.status == KLStatus.BELOW)
    assert 0 < below.size < 20

    @jax.jit
    def divergence_at(given, eta):
        dynamics, cost, previous, start, noise = given
        problem = make_problem(dynamics, cost, previous, start, noise, 0.0, limits)
        return jnp.sum(solve_at(problem, jnp.full(T, eta)).kl)

    for i in range(60):
        p = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found.controller)
        assert divergence(made[i], p).sum() <= 1.1 * bounds[i]
        if i in below:
            assert divergence_at(made[i], found.eta[i, 0]) < 0.95 * bounds[i]
            assert not divergence_at(made[i], found.eta[i, 0] * (1 - 1e-4)) < 1.05 * bounds[i]


def test_a_problem_that_cannot_be_solved_returns_the_previous_controller():
    given = problem(np.random.default_rng(6))
    dynamics, cost, previous, start, noise = given
    everywhere = cost._replace(Q=cost.Q * np.nan)
    hopeless = cost._replace(R=cost.R - 1e5 * np.eye(m))
    for broken, options, expected in (
        (everywhere, {}, KLStatus.NOT_FINITE),
        (hopeless, {"eta_range": (1e-8, 1.0)}, KLStatus.NOT_PD),
        (cost, {"eta_range": (1e-8, 1e-7)}, KLStatus.MISSED),
    ):
        found = jax.jit(functools.partial(solve, **options))((dynamics, broken, previous, start, noise), 1e-3)
        assert found.status == expected
        for new, old in zip(found.controller, previous, strict=True):
            np.testing.assert_array_equal(new, old)
    void = previous._replace(cov=previous.cov.copy())
    void.cov[3] = -np.eye(m)
    found = run((dynamics, cost, void, start, noise), 1.0)
    assert found.status == KLStatus.NOT_FINITE
    assert np.all(np.isfinite(found.controller.K))


def test_negative_curvature_at_the_first_step_is_overcome():
    given = problem(np.random.default_rng(7))
    dynamics, cost, previous, start, noise = given
    R = cost.R.copy()
    R[0] -= 80 * np.eye(m)
    found = run((dynamics, cost._replace(R=R), previous, start, noise), 1.0)
    assert found.status == KLStatus.ACTIVE
    assert float(found.eta[0]) > 1


def test_a_warm_start_saves_passes():
    given = problem(np.random.default_rng(8), scale=100.0)
    cold = run(given, 0.1)
    warm = jax.jit(lambda given, bound, eta: solve(given, bound, eta=eta))(given, 0.1, cold.eta)
    assert int(warm.passes) == 1 < int(cold.passes)
    np.testing.assert_allclose(warm.controller.K, cold.controller.K, atol=1e-12)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.array([1.0, 0.0])])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be positive, got"):
        solve(problem(np.random.default_rng(0)), bound)


def test_where_the_divergence_jumps_over_the_bound_the_step_stays_below():
    """A control that comes to its limit loses its gain at once, which takes half a nat here."""
    one, T = jnp.ones((1, 1, 1)), 1
    dynamics = LinearDynamics(one, one, jnp.zeros((1, 0, 1)), jnp.zeros((1, 0, 1)))
    flat = jnp.zeros((T + 1, 1, 1))
    xs, us = jnp.zeros((T + 1, 1)), jnp.zeros((T + 1, 1))
    push = jnp.asarray([[-1.0], [0.0]])
    cost = QuadraticCost(jnp.zeros(T + 1), xs, push, flat, flat.at[0].set(1e-6), flat, xs, us)
    previous = LinearGaussian(xs[:T], us[:T], one, one)
    start = Gaussian(jnp.zeros(1), jnp.eye(1))
    limits = Limits(np.array([-1.0]), np.array([1.0]))

    def solve(bound):
        return kl_lqr(dynamics, cost, previous, bound, start=start, limits=limits)

    for bound, status in ((0.3, KLStatus.ACTIVE), (0.7, KLStatus.BELOW)):
        found = jax.jit(solve)(jnp.asarray(bound))
        assert int(found.status) == status
        assert 0.29 < float(found.kl.sum()) <= 1.05 * bound
        assert 0.7 < float(found.controller.us[0, 0]) <= 1

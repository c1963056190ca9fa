import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.costs import quadratic, residual_cost, smooth_abs
from gps.expand import linearise, project_psd, quadratise
from gps.plant import plant
from gps.rollout import open_loop

T = 4


def sense(x, u):
    return jnp.stack([jnp.sin(x[0]) * x[1], x[1] * u[0] + x[0] ** 2])


def stage(x, u, y, t):
    return jnp.cosh(x[0] * u[0]) + y[0] ** 2 * (1 + t) + y[1] * x[1] + u[1] ** 4


def last(x, y):
    return jnp.exp(0.3 * x[0]) + y[0] * y[1] + x[1] ** 2


def manifold(env):
    """Two states whose tangent coordinates are not theirs: x = x̄ · exp(δ)."""
    return env._replace(
        plus=lambda x, dx: x * jnp.exp(dx),
        minus=lambda x, x_bar: jnp.log(x / x_bar),
        linearize=lambda x, u: env.linearize(x, u)._replace(C=env.linearize(x, u).C * x[None, :]),
    )


def make(cost=stage, final=last):
    env = plant(lambda x, u: x + 0.1 * u * x[::-1], cost, final, 2, 2, horizon=T, sense=sense)
    return manifold(env)


def nominal():
    rng = np.random.default_rng(1)
    return rng.uniform(0.5, 1.5, (T + 1, 2)), rng.normal(size=(T, 2))


def expand(env, **options):
    xs, us = nominal()
    ys = jax.vmap(env.sense)(xs, np.vstack([us, np.zeros((1, 2))]))
    return jax.jit(lambda *a: quadratise(env, *a, linearise(env, *a[:2]), **options))(xs, us, ys), np.array(
        ys
    )


def model_of_sensors(x, u, y, h=1e-6):
    """C, D by central differences in (exp-coordinates, control)."""

    def f(z):
        return np.array(sense(x * np.exp(z[:2]), u + z[2:]))

    return np.stack([(f(h * e) - f(-h * e)) / (2 * h) for e in np.eye(4)], axis=1)


def differences(f, n, h=1e-4):
    """Gradient and Hessian of f at 0 by central differences."""
    eye = h * np.eye(n)
    g = np.array([(f(e) - f(-e)) / (2 * h) for e in eye])
    H = np.array([[f(a + b) - f(a - b) - f(b - a) + f(-a - b) for a in eye] for b in eye]) / (4 * h * h)
    return g, H


def psd(H):
    values, vectors = np.linalg.eigh(H)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def np_stage(x, u, y, t):
    return np.cosh(x[0] * u[0]) + y[0] ** 2 * (1 + t) + y[1] * x[1] + u[1] ** 4


def np_last(x, y):
    return np.exp(0.3 * x[0]) + y[0] * y[1] + x[1] ** 2


def test_exact_expansion_against_finite_differences():
    xs, us = nominal()
    model, ys = expand(make(), t0=3)
    indefinite = 0
    for t in range(T):
        CD = model_of_sensors(xs[t], us[t], ys[t])

        def f(z, t=t, CD=CD):
            return np_stage(xs[t] * np.exp(z[:2]), us[t] + z[2:], ys[t] + CD @ z, t + 3)

        g, H = differences(f, 4)
        indefinite += np.linalg.eigvalsh(H).min() < -0.1
        H = psd(H)
        np.testing.assert_allclose(model.c[t], f(np.zeros(4)), rtol=1e-12)
        np.testing.assert_allclose(
            np.concatenate([model.q[t], model.r[t]]), g, atol=2e-6 * (1 + abs(g).max())
        )
        block = np.block([[model.Q[t], model.M[t]], [model.M[t].T, model.R[t]]])
        np.testing.assert_allclose(block, H, atol=2e-5 * (1 + abs(H).max()))
    assert indefinite, "the test should need the projection"
    C = model_of_sensors(xs[T], np.zeros(2), ys[T])[:, :2]
    g, H = differences(lambda z: np_last(xs[T] * np.exp(z), ys[T] + C @ z), 2)
    np.testing.assert_allclose(model.q[T], g, atol=1e-6 * (1 + abs(g).max()))
    np.testing.assert_allclose(model.Q[T], psd(H), atol=2e-5 * (1 + abs(H).max()))
    assert not np.any(model.r[T]) and not np.any(model.R[T]) and not np.any(model.M[T])
    np.testing.assert_array_equal(model.x, xs)
    np.testing.assert_array_equal(model.u[:T], us)


def residual(x, u, y, t):
    return jnp.stack([x[0] * u[0], y[0] + u[1], y[1] - 1])


def test_gauss_newton_against_finite_difference_jacobians():
    weights = (2.0, 0.7, 1.5)
    cost = residual_cost(residual, weights, (quadratic, smooth_abs(0.3), quadratic))
    final = residual_cost(lambda x, y: jnp.stack([x[0], y[0], y[1]]), weights, (quadratic,) * 3)
    xs, us = nominal()
    model, ys = expand(make(cost, final))
    for t in range(T):
        CD = model_of_sensors(xs[t], us[t], ys[t])

        def r(z, t=t, CD=CD):
            x, u, y = xs[t] * np.exp(z[:2]), us[t] + z[2:], ys[t] + CD @ z
            return np.array([x[0] * u[0], y[0] + u[1], y[1] - 1])

        J = np.stack([(r(1e-6 * e) - r(-1e-6 * e)) / 2e-6 for e in np.eye(4)], axis=1)
        r0 = r(np.zeros(4))
        slope = np.array([2 * r0[0], 0.7 * r0[1] / np.sqrt(r0[1] ** 2 + 0.09), 1.5 * r0[2]])
        bend = np.array([2.0, 0.7 * 0.09 / (r0[1] ** 2 + 0.09) ** 1.5, 1.5])
        H = J.T @ np.diag(bend) @ J
        np.testing.assert_allclose(np.concatenate([model.q[t], model.r[t]]), J.T @ slope, atol=1e-7)
        np.testing.assert_allclose(np.block([model.Q[t], model.M[t]]), H[:2], atol=1e-7)
        np.testing.assert_allclose(model.R[t], H[2:, 2:], atol=1e-7)


def test_projection_leaves_definite_matrices_alone():
    rng = np.random.default_rng(2)
    G = rng.normal(size=(5, 3, 2))
    low_rank = G @ G.transpose(0, 2, 1)
    project = jax.jit(project_psd)
    np.testing.assert_allclose(project(low_rank), low_rank, atol=1e-13)
    mixed = low_rank - 0.5 * np.eye(3)
    np.testing.assert_allclose(project(mixed), [psd(H) for H in mixed], atol=1e-12)
    both = jax.jit(jax.vmap(project_psd))(np.stack([low_rank, mixed]))
    np.testing.assert_allclose(both[0], low_rank, atol=1e-13)


def test_gauss_newton_needs_residuals_and_dtype_is_kept():
    env = make()
    xs, us = nominal()
    with pytest.raises(ValueError, match="ResidualCost"):
        expand(env, hessian="gauss_newton")

    def both(xs, us):
        dynamics = linearise(env, xs, us)
        ys = env.rollout(xs[0], open_loop(env, xs[0], us), 0 * us).ys
        return dynamics, quadratise(env, xs, us, ys, dynamics)

    shapes = jax.eval_shape(both, jnp.asarray(xs, jnp.float32), jnp.asarray(us, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    dynamics, _ = shapes
    assert dynamics.A.shape[0] == T and dynamics.C.shape == (T + 1, 2, 2)


def test_derivatives_between_knots_are_interpolated():
    env = plant(
        lambda x, u: jnp.sin(x) * u, stage, last, 2, 2, horizon=9, sense=lambda x, u: jnp.stack([x @ u, x[0]])
    )
    rng = np.random.default_rng(0)
    xs, us = rng.normal(size=(10, 2)), rng.normal(size=(9, 2))
    full = linearise(env, xs, us)
    # Ten knots of A and B with the zero control of the last, which is not returned.
    A = np.concatenate([full.A, env.linearize(xs[9], np.zeros(2)).A[None]])
    for every, knots in ((4, [0, 4, 8, 9]), (3, [0, 3, 6, 9]), (20, [0, 9])):
        found = linearise(env, xs, us, every)
        for name, rows in (("A", A), ("C", full.C)):
            wanted = np.empty_like(rows)
            for i, j in np.ndindex(2, 2):
                wanted[:, i, j] = np.interp(np.arange(10), knots, rows[knots, i, j])
            ours = getattr(found, name)
            np.testing.assert_allclose(ours, wanted[: len(ours)], atol=1e-12)

"""Fitted dynamics against least squares and a NumPy regression, and what the prior is good for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.gmm import GMM, fit_gmm, moments_at, seed_gmm
from teachers.fitted import fit_dynamics, transitions

n, m, T = 3, 2, 6


def rollouts(N, seed=0, noise=0.05):
    """Of a random affine time-varying system: (xs, us, A, B)."""
    rng = np.random.default_rng(seed)
    A, B = np.eye(n) + 0.2 * rng.normal(size=(T, n, n)), rng.normal(size=(T, n, m))
    c = rng.normal(size=(T, n))
    xs, us = [rng.normal(size=(N, n))], rng.normal(size=(N, T, m))
    for t in range(T):
        xs.append(xs[-1] @ A[t].T + us[:, t] @ B[t].T + c[t] + noise * rng.normal(size=(N, n)))
    return np.stack(xs, axis=1), us, A, B


def test_without_prior_it_is_least_squares():
    xs, us, _, _ = rollouts(40)
    found = jax.jit(functools.partial(fit_dynamics, ridge=1e-12))(xs, us)
    for t in range(T):
        inputs = np.concatenate([xs[:, t], us[:, t], np.ones((40, 1))], axis=1)
        gains, _, _, _ = np.linalg.lstsq(inputs, xs[:, t + 1], rcond=None)
        np.testing.assert_allclose(found.dynamics.A[t], gains[:n].T, atol=1e-8)
        np.testing.assert_allclose(found.dynamics.B[t], gains[n:-1].T, atol=1e-8)
        rest = xs[:, t + 1] - inputs @ gains
        np.testing.assert_allclose(found.noise[t], rest.T @ rest / 40, atol=1e-10)
    np.testing.assert_allclose(found.xs, xs.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.start.cov, np.cov(xs[:, 0].T, bias=True), atol=1e-12)


def test_a_rollout_without_weight_is_not_there():
    xs, us, _, _ = rollouts(30)
    xs[4], us[4] = 1e3, -1e3
    weight = np.where(np.arange(30) == 4, 0.0, 1.0)
    kept = np.arange(30) != 4
    prior = GMM(np.ones(1), np.zeros((1, 2 * n + m)), np.eye(2 * n + m)[None])
    for mixture in (None, prior):
        fit = jax.jit(functools.partial(fit_dynamics, prior=mixture))
        for one, other in zip(
            jax.tree.leaves(fit(xs, us, weight)), jax.tree.leaves(fit(xs[kept], us[kept])), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-9)


def test_with_prior_against_numpy_and_a_ridge_towards_an_integrator():
    xs, us, _, _ = rollouts(4)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(2, 2 * n + m, 2 * n + m))
    mixture = GMM(np.array([0.4, 0.6]), rng.normal(size=(2, 2 * n + m)), root @ root.transpose(0, 2, 1))
    A0, B0 = np.eye(n) + np.diag([0.1, 0.1], 1), np.zeros((n, m))
    ridge = np.array([1e-2, 1e-2, 0.3, 0.2, 0.2])
    found = jax.jit(functools.partial(fit_dynamics, prior=mixture, strength=2.5, ridge=ridge, base=(A0, B0)))(
        xs, us
    )
    look = jax.jit(moments_at)
    for t in range(T):
        z = np.concatenate([xs[:, t], us[:, t], xs[:, t + 1]], axis=1)
        prior = look(mixture, z)
        away = z.mean(axis=0) - prior.mean
        S = np.cov(z.T, bias=True)
        spread = (4 * S + 2.5 * prior.cov + 4 * 2.5 / 6.5 * np.outer(away, away)) / 6.5
        W0 = np.concatenate([A0, B0], axis=1)
        own, cross = spread[: n + m, : n + m], spread[n + m :, : n + m]
        # argmin over W of tr E|x' − W(x, u)|² + Σ ridge |W − W0|²
        W = W0 + (cross - W0 @ own) @ np.linalg.inv(own + np.diag(ridge))
        np.testing.assert_allclose(found.dynamics.A[t], W[:, :n], atol=1e-9)
        np.testing.assert_allclose(found.dynamics.B[t], W[:, n:], atol=1e-9)
        assert np.linalg.eigvalsh(found.noise[t])[0] > 0


def test_the_prior_makes_few_rollouts_enough():
    """One system at all steps, five rollouts: a single component knows what twenty times as many would."""
    rng = np.random.default_rng(0)
    A, B = np.eye(n) + 0.2 * rng.normal(size=(n, n)), rng.normal(size=(n, m))
    steps = 40

    def sample(N):
        xs, us = [0.3 * rng.normal(size=(N, n))], rng.normal(size=(N, steps, m))
        for t in range(steps):
            xs.append(0.8 * xs[-1] @ A.T + us[:, t] @ B.T + 0.02 * rng.normal(size=(N, n)))
        return np.stack(xs, axis=1), us

    def error(found):
        return float(np.sqrt(np.mean((np.asarray(found.dynamics.A) - 0.8 * A) ** 2)))

    xs, us = sample(5)
    points = transitions(jnp.asarray(xs), jnp.asarray(us)).reshape(-1, 2 * n + m)
    weight = jnp.ones(len(points))
    start = jax.jit(functools.partial(seed_gmm, clusters=1))(jax.random.key(0), points, weight)
    mixture, _ = jax.jit(fit_gmm)(start, points, weight)
    informed = error(jax.jit(functools.partial(fit_dynamics, prior=mixture, strength=20.0))(xs, us))
    plain = {N: error(jax.jit(fit_dynamics)(*sample(N))) for N in (7, 100)}
    assert informed < plain[100] < plain[7]


def test_too_few_rollouts_and_wrong_shapes_say_so():
    xs, us, _, _ = rollouts(5)
    with pytest.raises(ValueError, match=r"5 rollouts do not determine 5 gains .* at least 6 rollouts"):
        fit_dynamics(xs, us)
    with pytest.raises(ValueError, match=r"expected states \[N, T\+1, n\] .* got \[5, 6, 3\]"):
        fit_dynamics(xs[:, 1:], us)

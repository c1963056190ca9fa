"""Mixtures: a likelihood that only rises, clusters found again, and data that is degenerate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gps.gmm import GMM, PSEUDO_COUNTS, fit_gmm, moments_at, seed_gmm

CENTRES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
COV = np.array([[1.0, 0.3], [0.3, 0.5]])
SPREAD = 1e-2

seed = jax.jit(functools.partial(seed_gmm, spread=SPREAD), static_argnums=3)
fit = jax.jit(fit_gmm, static_argnames=("iterations", "tolerance"))


def clouds(n=200, rng_seed=0):
    """n, 2n and 3n points around the centres."""
    rng = np.random.default_rng(rng_seed)
    return np.concatenate([rng.multivariate_normal(c, COV, n * (i + 1)) for i, c in enumerate(CENTRES)])


def objective(mixture, points, weight):
    """The penalised log-likelihood per point, by SciPy."""
    joint = [
        np.log(w) + multivariate_normal(np.asarray(mean), np.asarray(cov)).logpdf(points)
        for w, mean, cov in zip(*mixture, strict=True)
    ]
    mean = weight @ points / weight.sum()
    base = SPREAD * np.diag(weight @ (points - mean) ** 2 / weight.sum())
    penalty = np.sum(np.log(mixture.weights))
    for cov in np.asarray(mixture.covs):
        penalty -= 0.5 * PSEUDO_COUNTS * (np.linalg.slogdet(cov)[1] + np.trace(base @ np.linalg.inv(cov)))
    return (weight @ logsumexp(joint, axis=0) + penalty) / weight.sum()


def test_finds_the_clouds_and_rises_all_the_way():
    points = clouds()
    weight = np.ones(len(points))
    start = seed(jax.random.key(0), points, weight, 3)
    mixture, trace = fit(start, points, weight, iterations=200, tolerance=1e-9)
    trace = np.asarray(trace)
    made = trace[~np.isnan(trace)]
    assert 5 < len(made) < 200
    assert np.all(np.diff(made) >= -1e-12)
    np.testing.assert_allclose(made[0], objective(start, points, weight), rtol=1e-10)
    np.testing.assert_allclose(made[-1], objective(mixture, points, weight), rtol=1e-6)
    order = [int(np.argmin(np.linalg.norm(np.asarray(mixture.means) - c, axis=1))) for c in CENTRES]
    np.testing.assert_allclose(np.asarray(mixture.means)[order], CENTRES, atol=0.25)
    np.testing.assert_allclose(np.asarray(mixture.weights)[order], [1 / 6, 2 / 6, 3 / 6], atol=0.03)
    np.testing.assert_allclose(np.asarray(mixture.covs)[order], np.tile(COV, (3, 1, 1)), atol=0.25)


@pytest.mark.parametrize("key", range(5))
def test_rises_in_more_dimensions_with_more_clusters_than_there_are(key):
    rng = np.random.default_rng(key)
    points = rng.normal(size=(120, 7)) @ rng.normal(size=(7, 7)) * 10 ** rng.uniform(-3, 3, size=7)
    weight = rng.uniform(0.5, 2.0, size=120)
    start = seed(jax.random.key(key), points, weight, 12)
    mixture, trace = fit(start, points, weight, iterations=60, tolerance=0.0)
    made = np.asarray(trace)[~np.isnan(trace)]
    assert np.all(np.diff(made) >= -1e-9 * np.abs(made[1:]))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in mixture)
    np.testing.assert_allclose(jnp.sum(mixture.weights), 1.0, rtol=1e-12)
    assert min(np.linalg.eigvalsh(cov / np.outer(s, s))[0] for cov, s in _scaled(mixture)) > 0


def _scaled(mixture):
    return [(np.asarray(cov), np.sqrt(np.diagonal(cov))) for cov in mixture.covs]


def test_a_warm_start_is_nearly_done():
    points = clouds()
    weight = np.ones(len(points))
    mixture, _ = fit(seed(jax.random.key(0), points, weight, 3), points, weight, iterations=100)
    more = clouds(rng_seed=1)
    warm = np.asarray(fit(mixture, more, weight, iterations=100)[1])
    cold = np.asarray(fit(seed(jax.random.key(3), more, weight, 3), more, weight, iterations=100)[1])
    assert np.sum(~np.isnan(warm)) < np.sum(~np.isnan(cold))


def test_a_constant_entry_equal_points_and_rows_without_weight():
    points = np.concatenate([clouds(20), np.full((120, 1), 3.0)], axis=1)
    points[100:] = 1e6
    weight = np.where(np.arange(120) < 100, 1.0, 0.0)
    mixture, _ = fit(seed(jax.random.key(1), points, weight, 4), points, weight)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in mixture)
    np.testing.assert_allclose(mixture.means[:, 2], 3.0, atol=1e-6)
    assert float(jnp.max(jnp.abs(mixture.means))) < 10
    same = np.ones((10, 3))
    mixture, _ = fit(seed(jax.random.key(1), same, np.ones(10), 3), same, np.ones(10))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in mixture)


def test_seeds_are_spread_out():
    points = clouds()
    start = seed(jax.random.key(2), points, np.ones(len(points)), 3)
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(start.means) for b in start.means[:i]]
    assert min(gaps) > 2.0
    with pytest.raises(ValueError, match="at least 1 cluster, got 0"):
        seed_gmm(jax.random.key(0), points, np.ones(len(points)), 0)


def test_moments_where_the_points_are():
    mixture = GMM(np.array([0.3, 0.7]), np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([COV, 2 * COV]))
    points = np.array([[0.3, 0.2], [1.0, 0.5], [-1.0, 0.0]])
    parts = [multivariate_normal(m, c) for m, c in zip(mixture.means, mixture.covs, strict=True)]
    joint = np.stack([w * part.pdf(points) for w, part in zip(mixture.weights, parts, strict=True)], axis=1)
    shares = np.mean(joint / joint.sum(axis=1, keepdims=True), axis=0)
    mean = shares @ mixture.means
    second = sum(
        s * (c + np.outer(m, m)) for s, m, c in zip(shares, mixture.means, mixture.covs, strict=True)
    )
    found = jax.jit(moments_at)(mixture, points)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.cov, second - np.outer(mean, mean), rtol=1e-10)

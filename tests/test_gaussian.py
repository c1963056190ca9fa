import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import spd
from scipy.stats import multivariate_normal

from gps.gaussian import Gaussian, inverse_spd, log_det_chol, symmetrise


def random_gaussian(rng, n, dtype=np.float64):
    return Gaussian(jnp.asarray(rng.normal(size=n), dtype), jnp.asarray(spd(rng, n), dtype))


@pytest.mark.parametrize("n", [1, 4])
def test_log_prob_and_entropy_agree_with_scipy(n):
    rng = np.random.default_rng(n)
    dist = random_gaussian(rng, n)
    oracle = multivariate_normal(np.asarray(dist.mean), np.asarray(dist.cov))
    value = rng.normal(size=n)
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(value)), oracle.logpdf(value), rtol=1e-12)
    np.testing.assert_allclose(dist.entropy(), oracle.entropy(), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 3])
def test_kl_agrees_with_monte_carlo(n):
    rng = np.random.default_rng(10 + n)
    p, q = random_gaussian(rng, n), random_gaussian(rng, n)
    draws = rng.multivariate_normal(np.asarray(p.mean), np.asarray(p.cov), 200_000)
    ratio = multivariate_normal(p.mean, p.cov).logpdf(draws) - multivariate_normal(q.mean, q.cov).logpdf(
        draws
    )
    error = ratio.std() / np.sqrt(len(draws))
    assert abs(float(p.kl(q)) - ratio.mean()) < 4 * error
    assert abs(float(p.kl(q)) - float(q.kl(p))) > 20 * error  # the two directions differ


def test_kl_agrees_with_the_formula_in_numpy():
    rng = np.random.default_rng(3)
    p, q = random_gaussian(rng, 4), random_gaussian(rng, 4)
    precision, shift = np.linalg.inv(q.cov), np.asarray(q.mean - p.mean)
    log_ratio = np.linalg.slogdet(q.cov)[1] - np.linalg.slogdet(p.cov)[1]
    expected = 0.5 * (np.trace(precision @ p.cov) + shift @ precision @ shift - 4 + log_ratio)
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-12)
    assert abs(float(p.kl(p))) < 1e-12


def test_samples_have_the_mean_and_covariance():
    rng = np.random.default_rng(4)
    dist = random_gaussian(rng, 3)
    draws = np.asarray(jax.vmap(dist.sample)(jax.random.split(jax.random.key(0), 100_000)))
    std = np.sqrt(np.diag(dist.cov))
    assert np.all(np.abs(draws.mean(0) - dist.mean) < 5 * std / np.sqrt(len(draws)))
    np.testing.assert_allclose(np.cov(draws.T), dist.cov, atol=5 * std.max() ** 2 * np.sqrt(2 / len(draws)))


def test_contract_of_samples():
    dist = random_gaussian(np.random.default_rng(5), 3, np.float32)
    one, same, other = (dist.sample(jax.random.key(k)) for k in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.dtype == dist.mode().dtype == dist.log_prob(one).dtype == dist.kl(dist).dtype == np.float32
    assert np.array_equal(dist.mode(), dist.mean)


def test_a_batch_by_vmap_is_its_elements():
    rng = np.random.default_rng(6)
    ps, qs = ([random_gaussian(rng, 2) for _ in range(5)] for _ in range(2))

    def stack(items):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)

    batch = jax.vmap(lambda p, q: p.kl(q))(stack(ps), stack(qs))
    np.testing.assert_allclose(batch, [float(p.kl(q)) for p, q in zip(ps, qs, strict=True)], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 5])
def test_linear_algebra_agrees_with_numpy(n):
    rng = np.random.default_rng(7)
    matrix = spd(rng, n)
    inverse = inverse_spd(jnp.asarray(matrix))
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-9)
    np.testing.assert_allclose(
        log_det_chol(jnp.linalg.cholesky(matrix)), np.linalg.slogdet(matrix)[1], rtol=1e-10
    )
    skew = rng.normal(size=(n, n))
    np.testing.assert_allclose(symmetrise(jnp.asarray(matrix + skew - skew.T)), matrix, atol=1e-12)

"""A Gaussian behind tanh, beside numerical integrals and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.squashed import Squashed


def made(mean=(0.3, -1.2), std=(0.8, 0.5), centre=(1.0, 0.0), half=(2.0, 0.5)):
    return Squashed(*(jnp.asarray(value, float) for value in (mean, std, centre, half)))


@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.7])
def test_density_integrates_to_one_over_the_box(mean):
    dist = made((mean,), (0.6,), (1.0,), (2.0,))
    z = np.linspace(-9, 9, 200_001)
    u = 1 + 2 * np.tanh(z)
    density = np.exp(jax.vmap(dist.log_prob)(jnp.asarray(u)[:, None]))
    assert np.trapezoid(density, u) == pytest.approx(1, abs=1e-5)


def test_samples_stay_in_the_box_and_know_their_density():
    dist, keys = made(), jax.random.split(jax.random.key(0), 2000)
    values, log_prob = jax.vmap(dist.sample_log_prob)(keys)
    mean, std, centre, half = (np.asarray(leaf) for leaf in dist)
    assert np.all(np.abs(np.asarray(values) - centre) < half)
    np.testing.assert_allclose(log_prob, jax.vmap(dist.log_prob)(values), rtol=1e-8)
    np.testing.assert_array_equal(values, jax.vmap(dist.sample)(keys))
    z = mean + std * np.random.default_rng(1).normal(size=(200_000, 2))
    np.testing.assert_allclose(values.mean(0), centre + half * np.tanh(z).mean(0), atol=0.06)


def test_kl_is_the_mean_log_ratio():
    one, other = made(), made((0.0, -1.0), (1.0, 0.9))
    values, log_prob = jax.vmap(one.sample_log_prob)(jax.random.split(jax.random.key(2), 100_000))
    ratio = log_prob - jax.vmap(other.log_prob)(values)
    assert float(one.kl(other)) == pytest.approx(float(ratio.mean()), abs=4 * float(ratio.std()) / 300)
    assert float(one.kl(one)) == pytest.approx(0, abs=1e-12)


def test_mode_and_edges():
    dist = made()
    np.testing.assert_allclose(dist.mode(), dist.centre + dist.half * np.tanh(dist.mean))
    edge = dist.centre + dist.half
    assert np.isfinite(dist.log_prob(edge)) and np.all(np.isfinite(jax.grad(dist.log_prob)(edge)))


def test_what_was_drawn_moves_with_the_mean():
    def value(mean):
        return made()._replace(mean=mean).sample_log_prob(jax.random.key(3))[0][0]

    slope, step = jax.grad(value)(made().mean), 1e-6
    above, below = (value(made().mean + jnp.array([sign * step, 0])) for sign in (1, -1))
    np.testing.assert_allclose(slope, [(above - below) / (2 * step), 0], atol=1e-6)

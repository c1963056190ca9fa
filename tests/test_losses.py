import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import random_steps, spd
from scipy.stats import multivariate_normal

from gps.choice import Choice
from gps.gaussian import Gaussian
from students import kl, label_covariance, mse, nll
from students.losses import named


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def row(steps, i):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[i]), steps._replace(next_slot=(), key=()))


def policy(rng, n=3):
    return Gaussian(jnp.asarray(rng.normal(size=n)), jnp.asarray(spd(rng, n)))


@pytest.mark.parametrize(("target", "field"), [("label", "mean"), ("executed", "action")])
def test_nll_agrees_with_scipy(rng, target, field):
    dist, step = policy(rng), row(random_steps(rng, 4, nu=3), 2)
    oracle = -multivariate_normal(dist.mean, dist.cov).logpdf(getattr(step, field))
    np.testing.assert_allclose(nll(target)(dist, step), oracle, rtol=1e-12)


def test_kl_is_the_divergence_less_the_labels_constant(rng):
    dist, step = policy(rng), row(random_steps(rng, 4, nu=3), 1)
    teacher = multivariate_normal(step.mean, np.linalg.inv(step.precision))
    draws = rng.multivariate_normal(dist.mean, dist.cov, 400_000)
    ratio = multivariate_normal(dist.mean, dist.cov).logpdf(draws) - teacher.logpdf(draws)
    value = float(kl()(dist, step)) - 0.5 * np.linalg.slogdet(step.precision)[1]
    assert abs(value - ratio.mean()) < 4 * ratio.std() / np.sqrt(len(draws))
    regression = kl(covariance=False)(dist, step)
    error = np.asarray(dist.mean - step.mean)
    np.testing.assert_allclose(regression, 0.5 * error @ np.asarray(step.precision) @ error, rtol=1e-12)


def test_kl_takes_a_singular_precision(rng):
    dist, step = policy(rng), row(random_steps(rng, 1, nu=3), 0)
    direction = rng.normal(size=3)
    step = step._replace(precision=jnp.asarray(np.outer(direction, direction)))
    gradient = jax.grad(lambda mean: kl()(dist._replace(mean=mean), step))(dist.mean)
    error = np.asarray(dist.mean - step.mean)
    np.testing.assert_allclose(gradient, direction * (direction @ error), rtol=1e-10)


def test_mse_is_the_mean_over_controls(rng):
    dist, step = policy(rng), row(random_steps(rng, 1, nu=3), 0)
    np.testing.assert_allclose(
        mse()(dist, step), np.mean((np.asarray(dist.mean) - step.mean) ** 2), rtol=1e-12
    )


def test_label_covariance_is_where_the_weighted_kl_is_stationary(rng):
    steps = random_steps(rng, 30, nu=3)
    steps = steps._replace(weight=steps.weight.at[::4].set(0), precision=steps.precision.at[::4].set(jnp.nan))
    means = jnp.asarray(rng.normal(size=(30, 3)))

    def total(cov):
        """Σ w KL written with inverses and determinants, in NumPy's terms."""
        error = means - steps.mean
        quadratic = jnp.einsum("ni,nij,nj->n", error, steps.precision, error)
        spread = jnp.einsum("nij,ji->n", steps.precision, cov) - jnp.linalg.slogdet(cov)[1]
        return jnp.sum(jnp.where(steps.weight > 0, steps.weight * (quadratic + spread), 0))

    best = jax.jit(label_covariance)(steps)
    scale = np.sum(steps.weight) * np.linalg.norm(np.linalg.inv(best))
    steps = steps._replace(precision=jnp.where(steps.weight[:, None, None] > 0, steps.precision, 0))
    slope = jax.jit(jax.grad(total))
    assert np.linalg.norm(slope(best)) < 1e-10 * scale
    assert np.linalg.norm(slope(1.1 * best)) > 1e-2 * scale


@pytest.mark.parametrize("loss", [nll(), nll("executed"), kl(), kl(covariance=False), mse()])
def test_losses_vmap_and_keep_the_dtype(rng, loss):
    loss = jax.jit(loss)
    steps = random_steps(rng, 6, nu=3, dtype=np.float32)
    dists = Gaussian(
        jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), jnp.asarray(spd(rng, 3, (6,)), jnp.float32)
    )
    batch = jax.vmap(loss)(dists, steps._replace(next_slot=(), key=()))
    assert batch.dtype == np.float32
    alone = [float(loss(Gaussian(dists.mean[i], dists.cov[i]), row(steps, i))) for i in range(6)]
    np.testing.assert_allclose(batch, alone, rtol=1e-4, atol=1e-5)


def test_an_unknown_target_is_an_error():
    with pytest.raises(ValueError, match="'label' or 'executed', got 'teacher'"):
        nll("teacher")


def test_an_unknown_name_of_a_loss_is_an_error():
    with pytest.raises(ValueError, match="loss must be one of kl, nll, mse, got 'msee'"):
        named("msee")


@pytest.mark.parametrize("loss", [kl(), mse()])
def test_a_choice_or_a_mixture_is_taught_by_nll(loss):
    choice = Choice(jnp.zeros(2), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="has a Choice: take 'nll'"):
        loss(choice, None)

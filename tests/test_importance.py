"""Importance sampling over trajectories against known integrals: linear dynamics, Gaussian controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.gaussian import Gaussian
from gps.importance import controller_log_probs, effective_samples, estimate, fusion, log_normaliser, weights
from gps.types import LinearGaussian

KEY = jax.random.key(5)
T = 3
START, PUSH = 0.5, 0.4
"""x' = x + PUSH u, from START."""


def controller(gain, mean, std):
    """u ~ N(mean + gain x, std²)."""
    each = lambda value, *shape: jnp.full((T, *shape), value)  # noqa: E731
    return LinearGaussian(each(0.0, 1), each(mean, 1), each(gain, 1, 1), each(std**2, 1, 1))


PI, OTHER, THIRD = controller(-0.8, 0.1, 0.5), controller(-0.4, 0.0, 0.7), controller(-1.1, 0.3, 0.8)


def roll(key, law):
    """(states [T], controls [T]) of one trajectory."""

    def step(x, knot):
        k, noise = knot
        u = k.us + k.K @ (x - k.xs) + jnp.sqrt(k.cov[0]) * noise
        return x + PUSH * u, (x, u)

    return jax.lax.scan(step, jnp.array([START]), (law, jax.random.normal(key, (T, 1))))[1]


def reward(xs, us):
    """[T]"""
    return 1 - xs[:, 0] ** 2 - 0.3 * us[:, 0] ** 2 + 0.5 * us[:, 0]


def law_of_controls(law):
    """Mean [T] and covariance [T, T] of (u_0 … u_{T-1}); and states = offset + matrix @ controls."""
    reach = PUSH * np.tril(np.ones((T, T)), -1)
    gain, mean, std = float(law.K[0, 0, 0]), float(law.us[0, 0]), float(law.cov[0, 0, 0]) ** 0.5
    loop = np.linalg.inv(np.eye(T) - gain * reach)
    return loop @ np.full(T, mean + gain * START), std**2 * loop @ loop.T, reach


def quadratic(t):
    """Reward of step t as c + b·u + uᵀAu."""
    _, _, reach = law_of_controls(PI)
    row, unit = reach[t], np.eye(T)[t]
    A = -np.outer(row, row) - 0.3 * np.outer(unit, unit)
    return 1 - START**2, -2 * START * row + 0.5 * unit, A


def expectation(t, mean, cov):
    c, b, A = quadratic(t)
    return c + b @ mean + mean @ A @ mean + np.trace(A @ cov)


def square(t, mean, cov):
    """E[r_t²]."""
    _, b, A = quadratic(t)
    slope = b + 2 * A @ mean
    return expectation(t, mean, cov) ** 2 + slope @ cov @ slope + 2 * np.trace(A @ cov @ A @ cov)


TRUTH = sum(expectation(t, *law_of_controls(PI)[:2]) for t in range(T))


def batch(key, laws, number):
    """`number` trajectories of each law: (log π, log q, share, rewards)."""
    keys = jax.random.split(key, len(laws) * number).reshape(len(laws), number)
    both = [jax.vmap(roll, (0, None))(k, law) for k, law in zip(keys, laws, strict=True)]
    xs, us = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *both)

    def log_prob(law):
        return jax.vmap(lambda x, u: controller_log_probs(law, x, u, jnp.subtract))(xs, us)

    share = jnp.full(len(laws), 1 / len(laws))
    return log_prob(PI), jnp.stack([log_prob(law) for law in laws]), share, jax.vmap(reward)(xs, us)


def many(laws, number, function, batches=4000):
    """`function`(log weights, rewards) over batches."""

    def one(key):
        log_pi, log_q, share, rewards = batch(key, laws, number)
        return function(weights(log_pi, fusion(log_q, share)).log, rewards)

    return np.asarray(
        jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(jax.random.split(KEY, batches))
    )


def test_the_density_of_a_controller_is_that_of_its_gaussians():
    xs, us = roll(KEY, OTHER)
    expected = [Gaussian(-0.4 * x, jnp.array([[0.49]])).log_prob(u) for x, u in zip(xs, us, strict=True)]
    np.testing.assert_allclose(controller_log_probs(OTHER, xs, us, jnp.subtract), expected, rtol=1e-12)


@pytest.mark.parametrize("laws", [(PI,), (OTHER,), (OTHER, THIRD), (PI, OTHER, THIRD)])
def test_the_plain_estimate_is_unbiased(laws):
    found = many(laws, 8, lambda log, r: estimate(log, r, normalised=False))
    assert abs(found.mean() - TRUTH) < 4 * found.std() / len(found) ** 0.5
    assert found.std() / len(found) ** 0.5 < 0.02 * abs(TRUTH)


def test_the_normalised_estimate_has_a_bias_that_falls_with_the_number_of_samples():
    bias = [abs(many((OTHER, THIRD), n, estimate).mean() - TRUTH) for n in (2, 16)]
    assert bias[1] < bias[0] / 4 and bias[0] > 0.01


@pytest.mark.parametrize("law", [OTHER, THIRD])
def test_the_variance_is_what_the_integral_says(law):
    """Of the last reward: ∫ p²/q r² is a Gaussian integral, rewards being quadratic in the controls."""
    mp, Sp, _ = law_of_controls(PI)
    mq, Sq, _ = law_of_controls(law)
    precision = 2 * np.linalg.inv(Sp) - np.linalg.inv(Sq)
    assert np.all(np.linalg.eigvalsh(precision) > 0), "else the variance is infinite"
    S = np.linalg.inv(precision)
    m = S @ (2 * np.linalg.solve(Sp, mp) - np.linalg.solve(Sq, mq))
    exponent = m @ precision @ m - 2 * mp @ np.linalg.solve(Sp, mp) + mq @ np.linalg.solve(Sq, mq)
    size = np.linalg.det(S) ** 0.5 * np.linalg.det(Sq) ** 0.5 / np.linalg.det(Sp) * np.exp(exponent / 2)
    expected = size * square(T - 1, m, S) - expectation(T - 1, mp, Sp) ** 2

    def last(log, r):
        return estimate(log, r.at[:, :-1].set(0), normalised=False)

    found = many((law,), 1, last, 400_000)
    assert found.var() == pytest.approx(expected, rel=0.03)


def test_a_reward_is_weighed_by_what_led_to_it_only():
    """The first reward does not know of later controls: whole trajectories as weights only add variance."""

    def first(log, r):
        return estimate(log, r.at[:, 1:].set(0), normalised=False)

    def whole(log, r):
        return first(jnp.broadcast_to(log[:, -1:], log.shape), r)

    per_decision, by_trajectory = many((OTHER,), 8, first), many((OTHER,), 8, whole)
    assert per_decision.var() < 0.7 * by_trajectory.var()


def test_no_distribution_beats_one_in_proportion_to_density_times_size():
    """Optimal q ∝ p |f|; its variance is (E|f|)² − (E f)², none for rewards of one sign."""
    rng = np.random.default_rng(0)
    u = np.linspace(-3, 3, 60)
    p = np.exp(-(u**2) / 2)
    p /= p.sum()

    def variance(f, q):
        drawn = q > 0
        log_q = jnp.log(q[drawn])[None, :, None]
        w = np.exp(np.asarray(weights(jnp.log(p[drawn])[:, None], fusion(log_q, jnp.ones(1))).log))[:, 0]
        return np.sum(q[drawn] * (w * f[drawn]) ** 2) - np.sum(p * f) ** 2

    for f in (u**2 + 0.1, u**3 - 0.5):
        best = p * np.abs(f) / np.sum(p * np.abs(f))
        exact = np.sum(p * np.abs(f)) ** 2 - np.sum(p * f) ** 2
        assert variance(f, best) == pytest.approx(exact, abs=1e-12)
        for _ in range(50):
            other = best * rng.uniform(0.5, 2, u.size)
            assert variance(f, other / other.sum()) > exact
        assert variance(f, p) > exact


def test_effective_samples_and_normaliser():
    even, one = jnp.zeros((5, 2)), jnp.array([[0.0, 0.0], [-60.0, 0.0], [-60.0, 0.0]])
    np.testing.assert_allclose(effective_samples(even), [5, 5])
    np.testing.assert_allclose(effective_samples(one), [1, 3])
    np.testing.assert_allclose(log_normaliser(even + jnp.log(2.0)), np.log([2, 2]))


def test_its_slope_is_that_of_the_score_function():
    """At π = q: Σ_t r_t Σ_{s ≤ t} ∇ log π(u_s)."""
    xs, us = jax.vmap(roll, (0, None))(jax.random.split(KEY, 30), PI)
    rewards = jax.vmap(reward)(xs, us)

    def log_prob(shift):
        law = PI._replace(us=PI.us + shift)
        return jax.vmap(lambda x, u: controller_log_probs(law, x, u, jnp.subtract))(xs, us)

    def value(shift):
        return estimate(
            weights(log_prob(shift), fusion(log_prob(0.0)[None], jnp.ones(1))).log, rewards, normalised=False
        )

    score = np.asarray(jax.jacfwd(log_prob)(0.0))
    expected = np.mean(np.sum(np.asarray(rewards) * np.cumsum(score, axis=1), axis=1))
    assert float(jax.grad(value)(0.0)) == pytest.approx(expected, rel=1e-9)


def test_what_nobody_can_have_drawn_is_left_out_and_counted():
    log_q = jnp.array([[[0.0, -jnp.inf], [0.0, 0.0]], [[-jnp.inf, -jnp.inf], [0.0, 0.0]]])
    found = weights(jnp.zeros((2, 2)), fusion(log_q, jnp.array([0.5, 0.5])))
    assert int(found.lost) == 1
    np.testing.assert_allclose(estimate(found.log, jnp.array([[1.0, 99.0], [3.0, 4.0]])), (2 * 1 + 3) / 3 + 4)
    nothing = weights(jnp.zeros((1, 1)), fusion(jnp.full((1, 1, 1), -jnp.inf), jnp.ones(1)))
    assert float(estimate(nothing.log, jnp.ones((1, 1)))) == 0 == float(effective_samples(nothing.log)[0])

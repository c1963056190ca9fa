"""What a policy is worth, from episodes that others drove: importance sampling over trajectories.

Dynamics cancel in the ratio of two densities of one trajectory: what is left are the policies' densities of
the controls. Arrays are [N, T], of N trajectories of T control steps in the same condition.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from gps.gaussian import Gaussian
from gps.types import LinearGaussian

__all__ = [
    "Weights",
    "controller_log_probs",
    "effective_samples",
    "estimate",
    "fusion",
    "log_normaliser",
    "weights",
]


class Weights(NamedTuple):
    """Made by `weights`."""

    log: Float[Array, "N T"]
    """log π(u_0 … u_t) − log q(u_0 … u_t); −∞ from where q is 0."""
    lost: Int[Array, ""]
    """Trajectories that q cannot have drawn, at least not to their end."""


def fusion(log_q: Float[Array, "J N T"], share: Float[Array, " J"]) -> Float[Array, "N T"]:
    """Log-densities of the prefixes u_0 … u_t of trajectories that were drawn from Σ_j share_j q_j.

    The mixture is one over whole trajectories (the fusion distribution of Levine & Koltun 2013, section 4): a
    trajectory has one driver from its beginning to its end. Hence the density of a prefix is the mixture of
    the products Π_{s ≤ t} q_j(u_s | x_s), not the product of mixtures.

    Args:
        log_q: log q_j(u_t | x_t) of each driver.
        share: of the trajectories that each of them drew; they add up to 1.
    """
    return logsumexp(jnp.cumsum(log_q, axis=2) + jnp.log(share)[:, None, None], axis=0)


def weights(log_pi: Float[Array, "N T"], drawn_by: Float[Array, "N T"]) -> Weights:
    """Of the prefixes of trajectories: log π(u_t | x_t), and the log-density of what drew them (`fusion`)."""
    possible = jnp.isfinite(drawn_by)
    log = jnp.where(possible, jnp.cumsum(log_pi, axis=1) - jnp.where(possible, drawn_by, 0), -jnp.inf)
    return Weights(log, jnp.sum(~possible[:, -1], dtype=jnp.int32))


def estimate(log_weight: Float[Array, "N T"], reward: Float[Array, "N T"], normalised: bool = True) -> Array:
    """Σ_t of the mean of r_t under π: each reward is weighed by what led to it (Precup et al. 2000).

    Divided by the sum of the weights it is biased of order 1 / N, and varies less; else, divided by N, it is
    unbiased. Differentiable in the policy. 0 where no trajectory is possible.
    """
    if normalised:
        return jnp.sum(_shares(log_weight) * reward)
    return jnp.sum(jnp.exp(log_weight) * reward) / log_weight.shape[0]


def log_normaliser(log_weight: Float[Array, "N T"]) -> Float[Array, " T"]:
    """The logarithm of Z_t, the mean of the weights: 1 is expected, less says that π goes where nobody was.

    A multiple of its sum in the objective keeps a policy near the samples (Levine & Koltun 2013, equation 3).
    """
    return logsumexp(log_weight, axis=0) - jnp.log(jnp.asarray(log_weight.shape[0], log_weight.dtype))


def effective_samples(log_weight: Float[Array, "N T"]) -> Float[Array, " T"]:
    """(Σ w)² / Σ w²: as many draws from π itself would tell about as much (Kish 1965)."""
    total = jnp.sum(_shares(log_weight) ** 2, axis=0)
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


def controller_log_probs(
    controller: LinearGaussian,
    xs: Float[Array, "T nx"],
    us: Float[Array, "T nu"],
    minus: Callable[..., Array],
) -> Float[Array, " T"]:
    """Log-densities of controls as they were drawn, before they were clipped; `minus` is that of the env."""

    def one(knot: LinearGaussian, x: Array, u: Array) -> Array:
        return Gaussian(knot.us + knot.K @ minus(x, knot.xs), knot.cov).log_prob(u)

    return jax.vmap(one)(controller, xs, us)


def _shares(log_weight: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """Of each trajectory in the sum of the weights at t; 0 where none is possible."""
    top = jax.lax.stop_gradient(jnp.max(log_weight, axis=0))
    weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(top), top, 0)[None])
    total = jnp.sum(weight, axis=0)
    return weight / jnp.where(total > 0, total, 1)[None]

"""Running mean and variance of the student's inputs, merged batch by batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Moments", "initial_moments", "merge", "normalise"]

CONSTANT = 1e-5
"""A standard deviation below this share of the mean is rounding error of float32: the input is a constant."""
CLIP = 10.0
"""Normalised inputs stay within this many standard deviations."""


class Moments(NamedTuple):
    """Weighted mean and (biased) variance of everything seen so far, and the total weight it stands for."""

    weight: Float[Array, ""]
    mean: Float[Array, " n"]
    var: Float[Array, " n"]


def initial_moments(n: int, dtype: jnp.dtype = jnp.float32) -> Moments:
    """Nothing seen: `normalise` is the identity (up to its clip)."""
    return Moments(jnp.zeros((), dtype), jnp.zeros(n, dtype), jnp.ones(n, dtype))


def merge(moments: Moments, values: Float[Array, "m n"], weight: Float[Array, " m"]) -> Moments:
    """Add m weighted rows; rows with weight 0 may hold anything, NaN included.

    The parallel update of Chan, Golub & LeVeque (1983), with weights: total = w_a + w_b, δ = mean_b − mean_a,
    mean = mean_a + δ w_b / total, var = (w_a var_a + w_b var_b + δ² w_a w_b / total) / total.
    """
    dtype = moments.mean.dtype
    values = jnp.where((weight > 0)[:, None], values, 0).astype(dtype)
    weight = weight.astype(dtype)
    added = jnp.sum(weight)
    total = moments.weight + added
    mean = weight @ values / _positive(added)
    var = weight @ (values - mean[None]) ** 2 / _positive(added)
    share = added / _positive(total)
    shift = mean - moments.mean
    return jax.tree.map(
        lambda new, old: jnp.where(added > 0, new, old),
        Moments(
            total,
            moments.mean + shift * share,
            (1 - share) * moments.var + share * var + share * (1 - share) * shift**2,
        ),
        moments,
    )


def normalise(moments: Moments, value: Float[Array, " n"], min_std: float = 0.0) -> Float[Array, " n"]:
    """(value − mean) / std, clipped to ±`CLIP`; 0 for an input that has been constant so far.

    `min_std` (units of the observation) is added to the spread in quadrature. An input that a good teacher
    holds almost still would otherwise be blown up by the first deviation a student makes.
    """
    std = jnp.sqrt(moments.var + min_std**2)
    varies = std > CONSTANT * jnp.abs(moments.mean)
    scale = jnp.where(varies, 1 / jnp.where(varies, std, 1), 0)
    return jnp.clip((value - moments.mean) * scale, -CLIP, CLIP)


def _positive(weight: Float[Array, ""]) -> Float[Array, ""]:
    """The weight, or 1 where it is 0, to divide by."""
    return jnp.where(weight > 0, weight, 1)

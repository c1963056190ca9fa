"""Weights of samples at the temperature of relative entropy policy search, and what Gaussian noise becomes.

Peters, Mülling & Altün 2010 (REPS); PI² uses them at each step (Chebotar et al. 2017, arXiv 1610.00529).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import symmetrise
from gps.linalg import cholesky, eigh, lower_inverse
from gps.types import Limits, LinearGaussian

__all__ = ["Tilt", "boltzmann", "largest", "reps", "reweight", "tilted"]


class Tilt(NamedTuple):
    """What becomes of noise z ~ N(0, I) under new weights: N(shift, cov)."""

    shift: Float[Array, " nu"]
    cov: Float[Array, "nu nu"]
    eta: Float[Array, ""]
    """The temperature, in units of the cost."""


def reps(
    costs: Float[Array, " S"], share: Float[Array, " S"], bound: Float[Array, ""]
) -> tuple[Float[Array, " S"], Float[Array, ""]]:
    """Weights w ∝ share · exp(−costs/η) with KL(w ‖ share) = `bound`, nats, and η, in units of the costs.

    η minimises the dual η · bound + η log Σ share · exp(−costs/η), whose slope is bound − KL. The divergence
    falls with η and is at most (range of costs / η)² / 8, hence the bracket of the bisection. A bound beyond
    what the best sample alone has leaves η at a rounding error of the range.
    """
    cheapest = jnp.min(jnp.where(share > 0, costs, jnp.inf))
    above = jnp.where(share > 0, costs - cheapest, 0)
    scale = jnp.where(jnp.max(above) > 0, jnp.max(above), 1)
    limits = jnp.finfo(costs.dtype)
    low = jnp.log(jnp.asarray(limits.eps, costs.dtype))
    high = jnp.maximum(-0.5 * jnp.log(8 * jnp.maximum(bound, limits.tiny)), low)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        over = boltzmann(above / scale, share, jnp.exp(middle))[1] > bound
        return jnp.where(over, middle, ends[0]), jnp.where(over, ends[1], middle)

    eta = scale * jnp.exp(jax.lax.fori_loop(0, 60, halve, (low, high))[1])
    return boltzmann(above, share, eta)[0], eta


def boltzmann(
    costs: Float[Array, " S"], share: Float[Array, " S"], eta: Float[Array, ""]
) -> tuple[Float[Array, " S"], Float[Array, ""]]:
    """Weights ∝ share · exp(−costs/η) and their divergence from `share`, nats; the least cost is 0."""
    logits = -costs / eta
    weights = share * jnp.exp(logits)
    total = jnp.where(jnp.any(share > 0), jnp.sum(weights), 1)
    weights = weights / total
    return weights, weights @ logits - jnp.log(total)


def reweight(
    z: Float[Array, "S nu"],
    costs: Float[Array, " S"],
    share: Float[Array, " S"],
    bound: Float[Array, ""],
    inertia: float,
) -> Tilt:
    """PI² at one step, in units of the noise: z is what rollouts had, `costs` are theirs to go.

    With w from `reps`, ω = `share` and z̄ = Σ w z:

        shift = Σ (w − ω) z,        cov = (n Σ w (z − z̄)(z − z̄)ᵀ + n₀ I) / (n − 1 + n₀)

    The rollouts' own mean, zero but for chance, is taken off: equal costs move nothing. n = 1 / Σ w² is how
    many rollouts the weights leave, and n₀ = `inertia`, which keeps the covariance positive definite; weights
    that know nothing of z leave it as it is on average.
    """
    w, eta = reps(costs, share, bound)
    left = 1 / jnp.where(jnp.any(share > 0), w @ w, 1)
    away = z - (w @ z)[None]
    scatter = left * (away * w[:, None]).T @ away
    eye = jnp.eye(z.shape[1], dtype=z.dtype)
    return Tilt((w - share) @ z, symmetrise(scatter + inertia * eye) / (left - 1 + inertia), eta)


def tilted(
    base: LinearGaussian,
    tilt: Tilt,
    there: Float[Array, "T nu"],
    bound: Float[Array, " T"],
    limits: Limits,
) -> tuple[LinearGaussian, Float[Array, " T"]]:
    """`base` with its noise as `tilt` [T] has it, and the divergence from it at each step, nats.

    The gains stay, and with them the divergence is the same at every state. Mean controls, `there` before,
    stay in the limits. The bound that held for the weights need not hold for the Gaussian made of them: it is
    drawn back towards `base`, mean and covariance alike, until it does.
    """

    def one(p: LinearGaussian, tilt: Tilt, there: Array, bound: Array) -> tuple[LinearGaussian, Array]:
        L = cholesky(p.cov)
        low, high = (jnp.asarray(side, there.dtype) for side in limits)
        move = jnp.clip(there + L @ tilt.shift, low, high) - there
        way = jnp.sum((lower_inverse(L) @ move) ** 2)
        grown = eigh(tilt.cov)[0] - 1

        def kl(s: Array) -> Array:
            return 0.5 * (s**2 * way + jnp.sum(s * grown - jnp.log1p(s * grown)))

        s = largest(lambda s: kl(s) <= bound, there.dtype)
        cov = symmetrise(p.cov + s * (L @ tilt.cov @ L.T - p.cov))
        return p._replace(us=p.us + s * move, cov=cov), kl(s)

    return jax.vmap(one)(base, tilt, there, bound)


def largest(fits: Callable[[Array], Array], dtype: jnp.dtype) -> Float[Array, ""]:
    """The largest share in [0, 1] that `fits`, to nine digits, where every smaller one does."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        good = fits(middle)
        return jnp.where(good, middle, ends[0]), jnp.where(good, ends[1], middle)

    one = jnp.ones((), dtype)
    return jnp.where(fits(one), one, jax.lax.fori_loop(0, 30, halve, (0 * one, one))[0])

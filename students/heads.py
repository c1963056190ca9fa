"""How the last numbers of a network become a distribution over actions."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gps.choice import Choice, Ranked
from gps.gaussian import Gaussian
from gps.mixture import Mixture
from gps.squashed import Squashed
from gps.types import Limits

__all__ = [
    "Covariance",
    "Head",
    "choice_head",
    "gaussian_head",
    "mixture_head",
    "ranked_head",
    "squashed_head",
]

LOG_STD_FLOOR = -6.0
"""Keeps a likelihood fitted to a deterministic teacher finite: a standard deviation of 0.25 % of the
half-range."""

Covariance = Literal["learned", "labels", "network"]


class Head(NamedTuple):
    """Made for one network."""

    outputs: int
    """Numbers that the network has to return."""
    params: dict[str, Array]
    """Parameters beside the network's."""
    distribution: Callable[[PyTree, Float[Array, " outputs"]], Any]
    """(params, raw) → distribution over actions."""


def gaussian_head(nu: int, limits: Limits | None, covariance: Covariance, log_std: float, dtype: Any) -> Head:
    """N(clip(centre + half · raw), S): centre and half-range of the limits, S as `students.mlp` says."""
    seen = covariance == "network"
    low, high, centre, half = _box(nu, limits, dtype)
    std = jnp.full(nu, log_std, dtype)
    params = {
        "learned": {"log_std": std},
        "labels": {"cov": jnp.diag((half * jnp.exp(std)) ** 2)},
        "network": {},
    }

    def distribution(params: PyTree, raw: Array) -> Gaussian:
        mean = clip_straight_through(centre + half * raw[:nu], low, high)
        if covariance == "labels":
            return Gaussian(mean, jax.lax.stop_gradient(params["cov"]))
        exponent = log_std + raw[nu:] if seen else params["log_std"]
        return Gaussian(mean, jnp.diag((half * jnp.exp(_floored(exponent))) ** 2))

    return Head(2 * nu if seen else nu, params[covariance], distribution)


def mixture_head(nu: int, limits: Limits | None, components: int, log_std: float, dtype: Any) -> Head:
    """Σ_k w_k N(μ_k, diag σ_k²), all of them from the network (Bishop 1994, mixture density networks).

    The components begin spread evenly over the inner half of the limits: equal ones would stay equal.
    """
    low, high, centre, half = _box(nu, limits, dtype)
    spread = jnp.linspace(-0.5, 0.5, components, dtype=dtype)[:, None]

    def distribution(params: PyTree, raw: Array) -> Mixture:
        logits, rest = raw[:components], raw[components:].reshape(2, components, nu)
        means = jax.vmap(lambda m: clip_straight_through(m, low, high))(
            centre[None] + half[None] * (spread + rest[0])
        )
        return Mixture(jax.nn.log_softmax(logits), means, half[None] * jnp.exp(_floored(log_std + rest[1])))

    return Head(components * (1 + 2 * nu), {}, distribution)


def squashed_head(nu: int, limits: Limits, log_std: float, dtype: Any) -> Head:
    """Tanh of N(m, diag s²) within the limits, both from the network; log s in [LOG_STD_FLOOR, 2]."""
    low, high, centre, half = _box(nu, limits, dtype)
    if not bool(jnp.all(jnp.isfinite(low) & jnp.isfinite(high))):
        raise ValueError(
            f"what tanh keeps inside limits needs finite ones, got {limits.low} to {limits.high}"
        )

    def distribution(params: PyTree, raw: Array) -> Squashed:
        log = clip_straight_through(log_std + raw[nu:], *(jnp.asarray(n, dtype) for n in (LOG_STD_FLOOR, 2)))
        return Squashed(raw[:nu], jnp.exp(log), centre, half)

    return Head(2 * nu, {}, distribution)


def choice_head(nu: int, choices: tuple[tuple[float, ...], ...], dtype: Any) -> Head:
    """A probability for each of `choices`, controls [nu]."""
    controls = jnp.asarray(choices, dtype)
    if controls.ndim != 2 or controls.shape[0] < 2 or controls.shape[1] != nu:
        raise ValueError(f"choices must be at least two controls of {nu} numbers, got shape {controls.shape}")
    return Head(len(choices), {}, lambda params, raw: Choice(raw, controls))


def ranked_head(nu: int, choices: tuple[tuple[float, ...], ...], dtype: Any) -> Head:
    """A value for each of `choices`, controls [nu]."""
    head = choice_head(nu, choices, dtype)
    return head._replace(distribution=lambda params, raw: Ranked(*head.distribution(params, raw)))


@jax.custom_jvp
def clip_straight_through(
    value: Float[Array, " n"], low: Float[Array, " n"], high: Float[Array, " n"]
) -> Float[Array, " n"]:
    """clip(value, low, high) with derivative 1 with respect to `value` everywhere, and 0 to the limits."""
    return jnp.clip(value, low, high)


@clip_straight_through.defjvp
def _clip_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return clip_straight_through(*primals), tangents[0]


def _floored(log_std: Array) -> Array:
    return clip_straight_through(log_std, jnp.asarray(LOG_STD_FLOOR, log_std.dtype), jnp.inf)


def _box(nu: int, limits: Limits | None, dtype: Any) -> tuple[Array, Array, Array, Array]:
    """(low, high, centre, half-range); centre 0 and half-range 1 where a limit is infinite."""
    if limits is not None and (np.shape(limits.low) != (nu,) or np.shape(limits.high) != (nu,)):
        shapes = np.shape(limits.low), np.shape(limits.high)
        raise ValueError(f"limits for {nu} controls must have shape ({nu},), got {shapes[0]} and {shapes[1]}")
    if limits is not None and not np.all(np.asarray(limits.low) < np.asarray(limits.high)):
        raise ValueError(f"limits need low < high, got {limits.low} and {limits.high}")
    low = jnp.full(nu, -jnp.inf, dtype) if limits is None else jnp.asarray(limits.low, dtype)
    high = jnp.full(nu, jnp.inf, dtype) if limits is None else jnp.asarray(limits.high, dtype)
    bounded = jnp.isfinite(low) & jnp.isfinite(high)
    centre = jnp.where(bounded, (low + high) / 2, 0)
    half = jnp.where(bounded, (high - low) / 2, 1)
    return low, high, centre, half

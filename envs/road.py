"""An endless winding road: the graph of a sum of sines along x. It never ends or meets itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Road", "Winding", "bend", "nearest", "paved", "planted", "sample_phases"]


class Winding(NamedTuple):
    """How roads wind: y(x) = Σ aᵢ sin(2π x / λᵢ + φᵢ)."""

    lengths: tuple[float, ...]
    """λᵢ, m."""
    heights: tuple[float, ...]
    """aᵢ, m."""


class Road(NamedTuple):
    """The centre line at one x."""

    y: Float[Array, ""]
    """m."""
    heading: Float[Array, ""]
    """rad."""
    curvature: Float[Array, ""]
    """1/m, positive to the left."""


def sample_phases(key: Array, winding: Winding) -> Float[Array, " k"]:
    """φᵢ of a road."""
    return jax.random.uniform(key, (len(winding.lengths),), maxval=2 * jnp.pi)


def bend(winding: Winding, phases: Float[Array, " k"], x: Float[Array, ""]) -> Road:
    """The centre line at `x`."""
    y, slope, second = _graph(winding, phases, x)
    return Road(y, jnp.arctan(slope), second / (1 + slope**2) ** 1.5)


def nearest(winding: Winding, phases: Float[Array, " k"], pos: Float[Array, " 2"]) -> tuple[Array, Road]:
    """(distance of `pos` from the centre line, positive to the left, m; the road at the nearest point).

    Two Newton steps from the point at the same x, whose error is below a millimetre within 3 m of a road that
    bends no tighter than at a radius of 20 m.
    """
    x = pos[0]
    for _ in range(2):
        y, slope, second = _graph(winding, phases, x)
        away = y - pos[1]
        x = x - (x - pos[0] + away * slope) / (1 + slope**2 + away * second)
    road = bend(winding, phases, x)
    return (pos[1] - road.y) * jnp.cos(road.heading) - (pos[0] - x) * jnp.sin(road.heading), road


def paved(
    winding: Winding, phases: Float[Array, " k"], x: Float[Array, ""], length: float, count: int
) -> tuple[Float[Array, "n 3"], Float[Array, "n 4"]]:
    """(positions, quaternions) of pieces of road, `length` m of x each: one behind `x`, the others ahead.

    They stand still: as x moves on, the hindmost becomes the foremost.
    """

    def piece(i: Array) -> tuple[Array, Array]:
        at = (jnp.floor(x / length) + i + 0.5) * length
        road = bend(winding, phases, at)
        half, zero = road.heading / 2, jnp.zeros_like(at)
        return jnp.stack([at, road.y, zero]), jnp.stack([jnp.cos(half), zero, zero, jnp.sin(half)])

    return jax.vmap(piece)(jnp.arange(count, dtype=x.dtype) - 1)


def planted(
    winding: Winding,
    phases: Float[Array, " k"],
    x: Float[Array, ""],
    spacing: float,
    count: int,
    reach: tuple[float, float],
) -> tuple[Float[Array, "n 3"], Float[Array, "n 4"]]:
    """(positions, quaternions) of what stands upright beside the road, one every `spacing` m of x.

    Left or right, and how far within `reach`, m, is left to chance.
    They stand still, and are the same whenever one comes by.
    """
    near, far = reach

    def place(i: Array) -> tuple[Array, Array]:
        number = jnp.floor(x / spacing) + i
        at = number * spacing
        chance = jnp.mod(jnp.sin(number * 12.9898 + phases[0].astype(x.dtype)) * 437.585453, 1.0)
        side = jnp.where(chance < 0.5, -1, 1) * (near + (far - near) * jnp.abs(2 * chance - 1))
        where = jnp.stack([at, bend(winding, phases, at).y + side, jnp.zeros_like(at)])
        return where, jnp.array([1.0, 0.0, 0.0, 0.0], x.dtype)

    return jax.vmap(place)(jnp.arange(count, dtype=x.dtype))


def _graph(winding: Winding, phases: Array, x: Array) -> tuple[Array, Array, Array]:
    """The graph and its first two derivatives."""
    rate = jnp.asarray(2 * jnp.pi, x.dtype) / jnp.asarray(winding.lengths, x.dtype)
    heights, angle = jnp.asarray(winding.heights, x.dtype), rate * x + phases.astype(x.dtype)
    sine = heights * jnp.sin(angle)
    return jnp.sum(sine), jnp.sum(heights * rate * jnp.cos(angle)), -jnp.sum(rate**2 * sine)

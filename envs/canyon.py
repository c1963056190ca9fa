"""Course and walls of a winding canyon: where they are, how far, and the boxes that stand for them.

Both walls are polylines over x = … 0, STEP, 2 STEP …, `width` apart along y. The boxes follow the drone like
a treadmill: those around it always stand where the course has its segments there, so a canyon is endless.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STEP = 1.0
"""Length of a wall's segment along x, m."""
BEHIND, AHEAD = 3, 9
"""Segments that stand behind the drone and before it; the laser reaches 8 m."""
THICKNESS = 0.5
STEEPEST = 1.0
"""|dy/dx| of the course stays below it."""
HALF_LENGTH = 0.5 * STEP * float(np.hypot(1.0, STEEPEST))
"""Of every box, m: as long as the steepest segment needs."""


def centre_line(course: Float[Array, "waves 2"], x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Where the course is at each x: its y, m."""
    a, k = course[:, 0].astype(x.dtype), course[:, 1].astype(x.dtype)
    return (1 - jnp.cos(jnp.outer(x, k))) @ a


def wall_distances(
    course: Float[Array, "waves 2"], pos: Float[Array, " 3"], width: float
) -> Float[Array, " 2"]:
    """From `pos` to the left and the right wall, as their boxes stand, m; negative behind a wall."""
    first = jnp.floor(pos[0] / STEP)
    x, y = _knots(course, first - 2, 6)
    line = jnp.interp(pos[0], x, y)

    def distance(side: float) -> Array:
        wall = y + side * width / 2
        start, chord = jnp.stack([x, wall], axis=1)[:-1], jnp.stack([jnp.diff(x), jnp.diff(wall)], axis=1)
        near = jax.vmap(_segment_distance, (None, 0, 0))(pos[:2], start + chord / 2, chord)
        inside = jnp.where(side * (line + side * width / 2 - pos[1]) > 0, 1.0, -1.0).astype(pos.dtype)
        return inside * jnp.min(near)

    return jnp.stack([distance(1.0), distance(-1.0)])


def _segment_distance(
    pos: Float[Array, " 2"], middle: Float[Array, " 2"], chord: Float[Array, " 2"]
) -> Array:
    """From `pos` to a box's inner face, which is as long as the steepest segment needs."""
    along = chord / jnp.sqrt(jnp.sum(chord**2))
    reach = jnp.clip((pos - middle) @ along, -HALF_LENGTH, HALF_LENGTH)
    return jnp.sqrt(jnp.sum((pos - middle - reach * along) ** 2) + 1e-12)


def boxes(course: Array, x: Array, width: float) -> tuple[Float[Array, "m 3"], Float[Array, "m 4"]]:
    """Poses of the boxes of the left wall, then of the right one, around state `x`."""
    at, y = _knots(course, jnp.floor(x[0] / STEP) - BEHIND, BEHIND + AHEAD + 1)
    angle = jnp.arctan2(jnp.diff(y), jnp.diff(at))
    middle = jnp.stack([at[:-1] + STEP / 2, (y[:-1] + y[1:]) / 2, jnp.full_like(angle, 2.0)], axis=1)
    outward = jnp.stack([-jnp.sin(angle), jnp.cos(angle), jnp.zeros_like(angle)], axis=1) * (THICKNESS / 2)
    across = jnp.zeros_like(middle).at[:, 1].set(width / 2)
    zero = jnp.zeros_like(angle)
    quat = jnp.stack([jnp.cos(angle / 2), zero, zero, jnp.sin(angle / 2)], axis=1)
    pos = jnp.concatenate([middle + across + outward, middle - across - outward])
    return pos, jnp.concatenate([quat, quat])


def _knots(course: Array, first: Array, count: int) -> tuple[Array, Array]:
    x = (first + jnp.arange(count, dtype=first.dtype)) * STEP
    return x, centre_line(course, x)

"""An endless random forest: where the trees stand, and how far they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TILE = np.array([48, 20])
"""The forest repeats with this period in x and y, m: it has no edge to flee to."""
CLEARING = 3.0
"""Free of trees around the start, m."""
THICKEST = 0.3
"""Radius of the thickest tree, m; the thinnest has half of it."""


class Trees(NamedTuple):
    """A forest."""

    centres: Float[Array, "n 2"]
    """m; tree i has radius `radii(n)[i]`."""
    near: Int[Array, "48 20 k"]
    """The trees within `reach` of any place in a square metre, as indices; -1 where there are no more."""


def radii(count: int) -> np.ndarray:
    """Radius of each tree, m, in a fixed shuffled order (a geom's size is not a context)."""
    return THICKEST / 2 * (1 + (np.arange(count) * 0.618034) % 1.0)


def sample_trees(key: Array, count: int, gap: float, reach: float, tries: int = 512) -> Trees:
    """Trees, each at the first of `tries` places that keeps `gap` and the clearing, or the best of them."""
    spots = jax.random.uniform(key, (count, tries // 16, 16, 2)) * TILE.reshape(1, 1, 1, 2)

    def place(i: int, trees: Trees) -> Array:
        def room(spot: Array) -> Array:
            near = trees.near[tuple(_cell(spot))]
            square = jnp.sum(offsets(spot, trees.centres[near]) ** 2, axis=1)
            apart = jnp.sqrt(jnp.min(jnp.where(near < 0, jnp.inf, square)))
            return jnp.minimum(apart, jnp.linalg.norm(_offset(jnp.zeros(2), spot)) - CLEARING + gap)

        def look(best: tuple) -> tuple:
            rooms = jax.vmap(room)(spots[i, best[0]])
            j = jnp.argmax(jnp.minimum(rooms, gap))
            spot = jnp.where(rooms[j] > best[2], spots[i, best[0], j], best[1])
            return best[0] + 1, spot, jnp.maximum(rooms[j], best[2])

        searching = lambda best: (best[0] < tries // 16) & (best[2] < gap)  # noqa: E731
        return jax.lax.while_loop(searching, look, (0, spots[i, 0, 0], -jnp.inf))[1]

    return _plant(place, count, gap, reach)


def two_rows(count: int, gap: float, reach: float) -> Trees:
    """Trees beside the way, none on it."""

    def place(i: int, trees: Trees) -> Array:
        return jnp.stack([TILE[0] * i / count, jnp.where(i % 2 == 1, 5.0, 15.0)])

    return _plant(place, count, gap, reach)


def _plant(place: Callable[[int, Trees], Array], count: int, gap: float, reach: float) -> Trees:
    """Trees at place(i, the trees planted so far)."""
    far = max(gap, reach + THICKEST) + np.sqrt(0.5)
    side = np.arange(-np.ceil(far), np.ceil(far) + 1).astype(int)
    around = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

    def plant(i: int, carry: tuple[Trees, Array]) -> tuple[Trees, Array]:
        trees, met = carry
        centre = place(i, trees)
        cells = (_cell(centre)[None] + around) % TILE[None]
        reached = jnp.linalg.norm(offsets(centre, cells + 0.5), axis=1) < far
        x, y = jnp.where(reached, cells.T, _NOWHERE)
        near = trees.near.at[x, y, met[x, y]].set(i, mode="drop")
        return Trees(trees.centres.at[i].set(centre), near), met.at[x, y].add(1, mode="drop")

    none = Trees(jnp.zeros((count, 2)), jnp.full((*TILE, _most(count, gap, far)), -1))
    return jax.lax.fori_loop(0, count, plant, (none, jnp.zeros(TILE, int)))[0]


def _most(count: int, gap: float, far: float) -> int:
    """The most trees `gap` m apart within `far` m of a point: no packing of discs is denser than π/√12.

    Where a forest could not keep its gap and more crowd in, `Trees.near` leaves the last ones out.
    """
    return max(1, min(count, int(np.pi / np.sqrt(12) * (1 + 2 * far / gap) ** 2)))


def distances(trees: Trees, pos: Float[Array, " 2"]) -> Float[Array, " k"]:
    """From `pos` to the bark of every tree within `reach` of it (and perhaps some more), m; ∞ fills up."""
    near = jnp.asarray(trees.near)[tuple(_cell(pos))]
    way = offsets(pos, jnp.asarray(trees.centres)[near])
    radius = jnp.asarray(radii(trees.centres.shape[0]), pos.dtype)[near]
    return jnp.where(near < 0, jnp.inf, jnp.sqrt(jnp.sum(way**2, axis=1)) - radius)


_NOWHERE = 1 << 20
"""An index beyond every array: what is written there is dropped."""


def _offset(pos: Float[Array, " 2"], tree: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """From `pos` to the nearest image of a tree in the periodic forest."""
    tile = jnp.asarray(TILE, pos.dtype)
    way = tree.astype(pos.dtype) - pos
    return way - tile * jnp.round(way / tile)


offsets = jax.vmap(_offset, in_axes=(None, 0))
"""(pos [2], trees [n, 2]) → [n, 2]: from `pos` to the nearest image of every tree, m."""


def _cell(pos: Float[Array, " 2"]) -> Int[Array, " 2"]:
    """The square metre of the tile that a place is in."""
    return jnp.floor(pos).astype(int) % TILE

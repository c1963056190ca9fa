"""Experience that is used more than once: a ring of rows of one shape, as a pytree of arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

__all__ = ["Replay", "Transition", "add", "empty", "filled", "sample"]


class Transition(NamedTuple):
    """A row of the replay; numbers in single precision."""

    obs: PyTree
    u: Float[Array, " nu"]
    reward: Float[Array, ""]
    next_obs: PyTree
    terminated: Bool[Array, ""]


class Replay(NamedTuple):
    """Rows [N, …] of any pytree; the oldest give way."""

    rows: PyTree
    written: Int[Array, ""]
    """Rows ever written; the next one goes to slot `written` mod N."""


def empty(capacity: int, example: PyTree) -> Replay:
    """A replay of `capacity` free slots for rows such as `example`, of which shapes and dtypes are read.

    Raises:
        ValueError: the capacity is not positive.
    """
    if capacity < 1:
        raise ValueError(f"a replay needs a capacity of at least 1 row, got {capacity}")
    blank = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
    return Replay(blank, jnp.zeros((), jnp.int32))


def add(replay: Replay, rows: PyTree) -> Replay:
    """Write rows [M, …] behind those written last. Of more rows than slots the last ones stay.

    Raises:
        ValueError: their shapes are not those of the replay.
    """
    capacity, count = (jax.tree.leaves(tree)[0].shape[0] for tree in (replay.rows, rows))

    def write(path: tuple, stored: Array, new: Array) -> Array:
        if new.shape != (count, *stored.shape[1:]):
            name = jax.tree_util.keystr(path)
            expected = (count, *stored.shape[1:])
            raise ValueError(f"rows{name} must have shape {expected} as the replay has, got {new.shape}")
        kept = new[-capacity:]
        slots = (replay.written + count - kept.shape[0] + jnp.arange(kept.shape[0])) % capacity
        return stored.at[slots].set(kept.astype(stored.dtype))

    return Replay(jax.tree_util.tree_map_with_path(write, replay.rows, rows), replay.written + count)


def filled(replay: Replay) -> Int[Array, ""]:
    """How many rows there are."""
    return jnp.minimum(replay.written, jax.tree.leaves(replay.rows)[0].shape[0])


def sample(key: Key[Array, ""], replay: Replay, count: int) -> PyTree:
    """`count` rows at random, any of them perhaps more than once. There has to be one at least."""
    slots = jax.random.randint(key, (count,), 0, jnp.maximum(filled(replay), 1))
    return jax.tree.map(lambda leaf: leaf[slots], replay.rows)

"""A ring of labelled steps with fixed capacity, so that every program over it has static shapes.

A slot with weight 0 is empty. Filled slots are the first `size` ones until the ring has gone round once.
Everything here is pure and works under `jit` and `vmap`; a batch of datasets is a dataset with a leading
axis.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.types import Dataset

__all__ = ["add", "empty", "single", "size", "split"]


def single(tree: PyTree) -> PyTree:
    """Floating point numbers in single precision, as observations and labels are stored."""

    def one(leaf: Array) -> Array:
        return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def empty(capacity: int, example: Dataset) -> Dataset:
    """A dataset of `capacity` empty slots.

    Args:
        capacity: number of slots N.
        example: one step, i.e. a `Dataset` whose fields have no leading axis. Only shapes and dtypes are
            read, so `jax.eval_shape` of whatever makes the steps will do. `next_slot` is not read.

    Raises:
        ValueError: if the capacity is not positive.
    """
    if capacity < 1:
        raise ValueError(f"a dataset needs a capacity of at least 1 step, got {capacity}")
    blank = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), _fields(example))
    return blank._replace(next_slot=jnp.zeros((), jnp.int32))


def size(dataset: Dataset) -> Int[Array, ""]:
    """Number of filled slots."""
    return jnp.sum(dataset.weight > 0, dtype=jnp.int32)


def add(dataset: Dataset, steps: Dataset) -> Dataset:
    """Write M steps behind those stored last, the oldest giving way once the ring is full.

    Steps with weight 0 are left out and take no slot. Of more steps than slots the last ones stay. `steps`
    has a leading M on every field (its `next_slot` is not read); each field is cast to the dtype stored.

    Raises:
        ValueError: if a field of `steps` does not have the shape that is stored.
    """
    _check_fields(dataset, steps)
    capacity = dataset.weight.shape[0]
    kept = steps.weight > 0
    rank = jnp.cumsum(kept, dtype=jnp.int32) - 1
    count = jnp.sum(kept, dtype=jnp.int32)
    survives = kept & (rank >= count - capacity)  # one writer per slot: the order of a scatter is undefined
    slot = jnp.where(survives, (dataset.next_slot + rank) % capacity, capacity)

    def write(stored: Array, new: Array) -> Array:
        cast = new if new.dtype == stored.dtype else new.astype(stored.dtype)  # keys know no astype
        return stored.at[slot].set(cast, mode="drop")

    written = jax.tree.map(write, _fields(dataset), _fields(steps))
    return written._replace(next_slot=(dataset.next_slot + count) % capacity)


def split(
    key: Key[Array, ""], weight: Float[Array, " N"], fraction: float, block: int = 1
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Weights of the training part and of the held-out part; each slot keeps its weight in exactly one.

    Stratified: of every 1 / fraction consecutive blocks of slots one is held out, so that the held-out
    share is right however full the ring is. The part a slot belongs to depends on `key`, `fraction`, `block`
    and N only: while data is added, no held-out step ever becomes a training step. Neighbouring steps of an
    episode resemble each other; `block` consecutive slots stay together (an episode's length makes an honest
    split).

    Raises:
        ValueError: if `fraction` is outside [0, 1) or `block` is not positive.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), got {fraction}")
    if block < 1:
        raise ValueError(f"a block needs at least 1 slot, got {block}")
    if fraction == 0:
        return weight, jnp.zeros_like(weight)
    blocks = -(-weight.shape[0] // block)
    stratum = jnp.floor(jnp.arange(blocks, dtype=jnp.float32) * fraction).astype(jnp.int32)
    draw = jax.random.uniform(key, (blocks,), jnp.float32)
    highest = jax.ops.segment_max(draw, stratum, num_segments=blocks, indices_are_sorted=True)
    held_out = jnp.repeat(draw == highest[stratum], block)[: weight.shape[0]]
    return jnp.where(held_out, 0, weight), jnp.where(held_out, weight, 0)


def _fields(dataset: Dataset) -> Dataset:
    """The per-step fields; `next_slot`, which has no step axis, left out."""
    return dataset._replace(next_slot=())


def _check_fields(dataset: Dataset, steps: Dataset) -> None:
    """Shapes agree in all but the leading axis, and all of `steps` share that axis."""
    count = steps.weight.shape[0]

    def check(path: tuple, stored: Array, new: Array) -> None:
        expected = (count, *stored.shape[1:])
        if new.shape != expected:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"steps{name}: the dataset stores shape {expected}, got {new.shape}")

    jax.tree_util.tree_map_with_path(check, _fields(dataset), _fields(steps))

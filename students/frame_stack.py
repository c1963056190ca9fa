"""A student that sees its last n observations at once (frames stacked, as in Mnih et al. 2015)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from gps.types import Student, Unroll

__all__ = ["frame_stack"]


class Frames(NamedTuple):
    """What it remembers."""

    past: PyTree
    """The last n − 1 observations, oldest first: [n − 1, …] in every leaf."""
    fresh: Bool[Array, ""]
    """No observation has been made in this episode."""
    inner: PyTree
    """What the student inside remembers."""


def frame_stack(student: Student, n: int, length: int | None = None) -> Student:
    """`student` on the last `n` observations, oldest first: every leaf gains a leading axis [n].

    What `envs.observations.history` shows, but remembered by the student: a dataset stores each observation
    once and the stack is made when it is read, and an exported student needs the present observation only.
    An episode begins with n copies of its first observation.

    Args:
        student: sees stacks; images of a stack become channels (`students.inputs`).
        n: observations in a stack.
        length: of the windows it learns from, whose first n − 1 steps only fill the stack; by default 4 n, or
            longer by n − 1 than those of a `student` that remembers by itself.

    Raises:
        ValueError: n < 1, or windows too short to fill a stack.
    """
    if n < 1 or n != int(n):
        raise ValueError(f"a stack needs a whole number of observations, at least 1, got {n}")
    inner = Unroll(3 * n + 1, 0) if student.unroll is None else student.unroll
    unroll = Unroll(inner.length + n - 1 if length is None else length, inner.burn_in + n - 1)
    if unroll.length <= max(unroll.burn_in, 1):
        raise ValueError(
            f"windows of {unroll.length} steps begin with {unroll.burn_in} that only warm the memory up: "
            f"length must be more than that, and at least 2"
        )

    def init(key: Key[Array, ""], obs: PyTree) -> tuple[PyTree, PyTree]:
        return student.init(key, _copies(obs, n))

    def initial_carry(obs: PyTree) -> Frames:
        past = jax.tree.map(lambda leaf: jnp.zeros((n - 1, *leaf.shape), leaf.dtype), obs)
        stack = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape), leaf.dtype), obs)
        return Frames(past, jnp.asarray(True), student.initial_carry(stack))

    def apply(variables: tuple, obs: PyTree, carry: Frames) -> tuple[Any, Frames]:
        start = _copies(obs, n - 1)
        past = jax.tree.map(lambda first, seen: jnp.where(carry.fresh, first, seen), start, carry.past)
        stack = jax.tree.map(lambda old, new: jnp.concatenate([old, new[None]]), past, obs)
        dist, inner_carry = student.apply(variables, stack, carry.inner)
        return dist, Frames(jax.tree.map(lambda leaf: leaf[1:], stack), jnp.asarray(False), inner_carry)

    def apply_sequence(variables: tuple, obs: PyTree, first: Bool[Array, " T"], carry: Frames) -> Any:
        rows = _rows(first, carry.fresh, n)

        def stacks(seen: Array, past: Array) -> Array:
            return jnp.concatenate([past, seen])[rows]

        return student.apply_sequence(variables, jax.tree.map(stacks, obs, carry.past), first, carry.inner)

    def observe_statistics(variables: tuple, obs: PyTree, weight: Array) -> tuple[PyTree, PyTree]:
        seen = jax.vmap(lambda one: _copies(one, n))(obs)
        return student.observe_statistics(variables, seen, weight)

    return Student(init, initial_carry, apply, apply_sequence, observe_statistics, unroll)


def _rows(first: Bool[Array, " T"], fresh: Bool[Array, ""], n: int) -> Int[Array, "T n"]:
    """Where the frames of each stack lie in a sequence that n − 1 remembered frames precede.

    None reaches back beyond the beginning of its episode: that frame is repeated.
    """
    t = jnp.arange(first.shape[0])
    begun = jax.lax.cummax(jnp.where(first, t, jnp.where(fresh, 0, 1 - n)))
    return jnp.maximum(t[:, None] - jnp.arange(n)[::-1][None], begun[:, None]) + n - 1


def _copies(obs: PyTree, n: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (n, *leaf.shape)), obs)

"""Several students as one: at every step a member is drawn, and acts (a stochastic mixture of policies)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt

from gps.types import Student
from students.shuffle import mixed

__all__ = ["Crowd", "crowd", "share"]


class Crowd(NamedTuple):
    """What no optimiser moves."""

    statistics: PyTree
    """Of the inputs, [members, …]."""
    shares: Float[Array, " members"]
    """With which each of them acts."""


def crowd(student: Student, members: int) -> Student:
    """`members` copies of `student`, one of which acts at each step, drawn by their shares.

    The draw is a hash of what is seen: a policy is a function of its observations, and what a crowd does
    without noise is the mixture's behaviour, not that of its largest member. Each has parameters of its own,
    input statistics and, where `student` remembers, a memory. The first has all of the share, until `share`
    says otherwise. Who has all of it learns alone: parameters what is fitted, statistics what is seen.

    Args:
        student: of one kind.
        members: how many.

    Raises:
        ValueError: less than one.
    """
    if members < 1:
        raise ValueError(f"a crowd needs at least 1 member, got {members}")

    def init(key: Key[Array, ""], obs: PyTree) -> tuple[PyTree, Crowd]:
        params, statistics = jax.vmap(lambda one: student.init(one, obs))(jax.random.split(key, members))
        return params, Crowd(statistics, jnp.zeros(members, jnp.float32).at[0].set(1))

    def initial_carry(obs: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), student.initial_carry(obs)
        )

    def apply(variables: tuple, obs: PyTree, carry: PyTree) -> tuple[Any, PyTree]:
        params, (statistics, shares) = variables
        dists, carry = jax.vmap(student.apply, (0, None, 0))((params, statistics), obs, carry)
        member = _drawn(obs, shares)
        return jax.tree.map(lambda leaf: leaf[member], dists), carry

    def apply_sequence(variables: tuple, obs: PyTree, first: Bool[Array, " T"], carry: PyTree) -> Any:
        params, (statistics, shares) = variables
        run = jax.vmap(student.apply_sequence, (0, None, None, 0))
        dists = run((params, statistics), obs, first, carry)
        member = jax.vmap(_drawn, (0, None))(obs, shares)
        return jax.tree.map(lambda leaf: leaf[member, jnp.arange(member.shape[0])], dists)

    def observe_statistics(variables: tuple, obs: PyTree, weight: Array) -> tuple[PyTree, Crowd]:
        params, (statistics, shares) = variables
        _, seen = jax.vmap(lambda one: student.observe_statistics(one, obs, weight))((params, statistics))

        def mine(new: Array, old: Array) -> Array:
            return jnp.where((shares == 1).reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return params, Crowd(jax.tree.map(mine, seen, statistics), shares)

    return Student(init, initial_carry, apply, apply_sequence, observe_statistics, student.unroll)


def share(variables: tuple[PyTree, Crowd], shares: Float[Array, " members"]) -> tuple[PyTree, Crowd]:
    """A crowd's variables with other shares; they are not negative and sum to one."""
    params, statistics = variables
    return params, statistics._replace(shares=shares.astype(jnp.float32))


def _drawn(obs: PyTree, shares: Float[Array, " members"]) -> Int[Array, ""]:
    """A member, by its share."""
    below = jnp.cumsum(shares)
    uniform = (mixed(_word(obs)) >> 8).astype(jnp.float32) * 2.0**-24
    return jnp.argmax(uniform * (1 - 1e-6) * below[-1] < below)


def _word(obs: PyTree) -> UInt[Array, ""]:
    """The bits of an observation as one word: of each number together with its place, mixed and added."""
    word = jnp.uint32(0)
    for leaf in jax.tree.leaves(obs):
        whole = not jnp.issubdtype(leaf.dtype, jnp.floating)
        bits = leaf.astype(jnp.uint32) if whole else leaf.astype(jnp.float32).view(jnp.uint32)
        flat = bits.reshape(-1)
        place = mixed(jnp.arange(1, flat.shape[0] + 1, dtype=jnp.uint32))
        word = mixed(word) + jnp.sum(mixed(flat ^ place), dtype=jnp.uint32)
    return word

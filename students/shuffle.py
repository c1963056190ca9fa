"""An endless stream of shuffled epochs, computed where it is needed instead of stored.

Sorting random keys costs about 400 ns per element in XLA on a CPU, half of what a gradient step on a small
network costs per sample. The swap-or-not shuffle (Hoang, Morris & Rogaway, CRYPTO 2012) is a bijection of
{0, …, n−1} for any n, a few integer operations per element and round, and needs no array of length n: n
may be traced.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt

__all__ = ["mixed", "seed_of", "stream"]

ROUNDS = 24
"""Enough that permutations of small n pass a chi-square test, see `tests/test_fit.py`."""

SHIFT, MIX_1, MIX_2 = 16, 0x7FEB352D, 0x846CA68B


def seed_of(key: Key[Array, ""]) -> UInt[Array, "2"]:
    """The seed of a stream."""
    return jax.random.bits(key, (2,), jnp.uint32)


def stream(
    seed: UInt[Array, "2"], batch: Int[Array, ""], n: Int[Array, ""], batch_size: int
) -> Int[Array, " batch_size"]:
    """Elements batch·batch_size … (batch+1)·batch_size − 1 of a stream over {0, …, n−1}.

    The stream is one random permutation after another, so that any n consecutive elements that start at a
    multiple of n are all different. (With n < batch_size the permutations are those of a few copies of the
    set, as many as fill a batch.) It repeats after 2³² elements.
    """
    n = jnp.maximum(n, 1).astype(jnp.uint32)
    period = n * ((batch_size + n - 1) // n)
    start = jnp.asarray(batch).astype(jnp.uint32) * jnp.uint32(batch_size)
    epoch, offset = start // period, start % period
    position = offset + jnp.arange(batch_size, dtype=jnp.uint32)
    wraps = position >= period
    position = jnp.where(wraps, position - period, position)
    shifts_now, salts_now = _round_keys(seed, epoch, period)
    shifts_next, salts_next = _round_keys(seed, epoch + 1, period)

    def swapped_or_not(r: Int[Array, ""], position: UInt[Array, " batch_size"]) -> UInt[Array, " batch_size"]:
        shift = jnp.where(wraps, shifts_next[r], shifts_now[r])
        salt = jnp.where(wraps, salts_next[r], salts_now[r])
        partner = jnp.where(shift >= position, shift - position, shift + period - position)
        swap = mixed(jnp.maximum(position, partner) ^ salt) >> 31
        return jnp.where(swap == 1, partner, position)

    # a loop, for in one expression of all rounds XLA writes each out as often as the next one reads it
    position = jax.lax.fori_loop(0, ROUNDS, swapped_or_not, position)
    return (position % n).astype(jnp.int32)


def _round_keys(
    seed: UInt[Array, "2"], epoch: UInt[Array, ""], period: UInt[Array, ""]
) -> tuple[UInt[Array, " rounds"], UInt[Array, " rounds"]]:
    """For every round the sum that pairs the elements, and the salt of the coin that swaps a pair."""
    counter = jnp.arange(1, 2 * ROUNDS + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    words = mixed(mixed(counter ^ seed[0]) + epoch * jnp.uint32(0x85EBCA6B) + seed[1])
    return words[:ROUNDS] % period, words[ROUNDS:]


def mixed(word: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """A 32-bit mixer with low bias (Wellons, 'lowbias32')."""
    word = (word ^ (word >> SHIFT)) * jnp.uint32(MIX_1)
    word = (word ^ (word >> (SHIFT - 1))) * jnp.uint32(MIX_2)
    return word ^ (word >> SHIFT)

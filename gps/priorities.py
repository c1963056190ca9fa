"""Prioritised experience replay: rows are drawn the more often the less was expected of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

__all__ = ["draw"]


def draw(
    key: Key[Array, ""], priority: Float[Array, " N"], count: int, beta: Float[Array, ""] | float
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """`count` rows with probability P_i in proportion to `priority`, and what each has to weigh.

    One from each of `count` equal shares of the total (Schaul et al. 2016, appendix B.2.1). The weights
    (N P_i)^−β, N the rows of positive priority, divided by the largest of those drawn, undo with β = 1 that
    some rows are drawn more often. Rows of priority 0 are never drawn; there has to be another.
    """
    reach = jax.lax.cummax(
        jnp.where(priority > 0, jnp.cumsum(priority), 0)
    )  # rounding lets nothing in between
    share = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count
    last = jnp.max(jnp.where(priority > 0, jnp.arange(priority.shape[0]), 0))
    slots = jnp.minimum(jnp.searchsorted(reach, share.astype(reach.dtype) * reach[-1], side="right"), last)
    chance = priority[slots] / reach[-1] * jnp.sum(priority > 0)
    log_weight = -beta * jnp.log(jnp.where(chance > 0, chance, 1))
    return slots.astype(jnp.int32), jnp.exp(log_weight - jnp.max(log_weight))

"""The starts that a task is trained from, and others to test on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from gps.types import Env

__all__ = ["Conditions", "draw_conditions", "training_conditions"]


class Conditions(NamedTuple):
    """M fixed starts."""

    context: PyTree
    """[M, …]."""
    x0: Float[Array, "M nx"]


def training_conditions(env: Env, key: Key[Array, ""], number: int | None = None) -> Conditions:
    """`number` starts drawn at random, or the task's own set (`Env.conditions`) if None.

    Raises:
        ValueError: the task has no set of its own and no number is given, or the number is not positive.
    """
    if number is None and env.conditions is None:
        raise ValueError(
            f"{env.name} has no fixed set of training conditions: say how many to draw, conditions=4"
        )
    if number is not None:
        if number < 1:
            raise ValueError(f"there must be at least 1 condition, got {number}")
        return draw_conditions(env, key, number)
    context = jax.tree.map(jnp.asarray, env.conditions)
    leaves = jax.tree.leaves(context)
    if not leaves or not leaves[0].ndim or not leaves[0].shape[0]:
        raise ValueError(f"{env.name}: conditions must be contexts [M, …] with M at least 1, got {context}")
    count = leaves[0].shape[0]
    x0 = jax.vmap(lambda one, k: env.bind(one).init(k))(context, jax.random.split(key, count))
    return Conditions(context, x0)


def draw_conditions(env: Env, key: Key[Array, ""], number: int) -> Conditions:
    """Starts drawn from the task's own distribution."""

    def draw(key: Array) -> tuple[PyTree, Array]:
        context_key, init_key = jax.random.split(key)
        context = env.sample_context(context_key)
        return context, env.bind(context).init(init_key)

    return Conditions(*jax.vmap(draw)(jax.random.split(key, number)))

"""Changes to single steps while they are learnt from: more data for nothing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from gps.types import Dataset, Mirror

__all__ = ["Augment", "reflect"]

Augment = Callable[[Key[Array, ""], Dataset], Dataset]
"""(key, step) → step: a row of a dataset, of which a loss reads observation, action and label."""


def reflect(mirror: Mirror) -> Augment:
    """Shows every other step, by chance, in the mirror of the task (`Env.mirror`)."""

    def augment(key: Key[Array, ""], step: Dataset) -> Dataset:
        turn = jnp.asarray(mirror.control, step.mean.dtype)
        image = step._replace(
            obs=mirror.obs(step.obs),
            action=turn @ step.action,
            mean=turn @ step.mean,
            precision=turn @ step.precision @ turn.T,
        )
        flip = jax.random.bernoulli(key)
        return jax.tree.map(lambda a, b: jnp.where(flip, a, b), image, step)

    return augment

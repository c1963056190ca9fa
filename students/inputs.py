"""An observation as what networks take: a vector of numbers, normalised, and a stack of images.

A leaf of the observation with at least three dimensions is an image [height, width, channels]; what stands
before these (a history) becomes channels, oldest first. All images of an observation have the same height
and width. Everything else is flattened into the vector.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

__all__ = ["images", "vector"]


def vector(obs: PyTree, dtype: Any, pixels: bool = False) -> Float[Array, " n"]:
    """All leaves that are not images (with `pixels`, these too), in pytree order; it may be empty."""
    flat = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(obs) if pixels or leaf.ndim < 3]
    return jnp.concatenate([jnp.zeros(0, dtype), *flat])


def images(obs: PyTree, dtype: Any) -> Float[Array, "height width channels"]:
    """All images on top of each other; bytes from 0 to 255 become −1 to 1, other numbers stay as they are.

    Raises:
        ValueError: there is none, or their sizes differ.
    """
    leaves = [leaf for leaf in jax.tree.leaves(obs) if leaf.ndim >= 3]
    sizes = {leaf.shape[-3:-1] for leaf in leaves}
    if len(sizes) != 1:
        shapes = [leaf.shape for leaf in jax.tree.leaves(obs)]
        raise ValueError(
            "a network that sees needs images [height, width, channels] of one size, the observation has the "
            f"shapes {shapes}: observe a Camera, or take students.mlp"
        )
    return jnp.concatenate([_channels(leaf, dtype) for leaf in leaves], axis=-1)


def _channels(leaf: Array, dtype: Any) -> Float[Array, "height width channels"]:
    scaled = leaf.astype(dtype) / 127.5 - 1 if leaf.dtype == jnp.uint8 else leaf.astype(dtype)
    frames = scaled.reshape(-1, *scaled.shape[-3:])
    return jnp.concatenate(list(frames), axis=-1)

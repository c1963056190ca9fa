"""Changes to steps while they are learnt from: more data for nothing.

What a student that remembers learns from are windows of consecutive steps, and what changes one of them
changes all: a world in the mirror stays there. A student without memory sees windows of one step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.types import Dataset, Mirror

__all__ = ["Augment", "brightness", "chain", "pixel_noise", "reflect", "shift"]

Augment = Callable[[Key[Array, ""], Dataset], Dataset]
"""(key, window [length, …]) → window: rows of a dataset, of which a loss reads observation, action and
label."""


def reflect(mirror: Mirror) -> Augment:
    """Shows every other window, by chance, in the mirror of the task (`Env.mirror`)."""

    def image(step: Dataset) -> Dataset:
        turn = jnp.asarray(mirror.control, step.mean.dtype)
        return step._replace(
            obs=mirror.obs(step.obs),
            action=turn @ step.action,
            mean=turn @ step.mean,
            precision=turn @ step.precision @ turn.T,
        )

    def augment(key: Key[Array, ""], window: Dataset) -> Dataset:
        flip = jax.random.bernoulli(key)
        return jax.tree.map(lambda a, b: jnp.where(flip, a, b), jax.vmap(image)(window), window)

    return augment


def shift(pixels: int = 4) -> Augment:
    """Moves all images of a window by up to `pixels` in each direction, the same way; edges are repeated.

    Random shifts of Kostrikov, Yarats & Fergus (2021). The label stays, so that it suits tasks in which what
    to do does not hang on the last pixel.

    Raises:
        ValueError: no whole number of pixels, or less than 1.
    """
    if pixels < 1 or pixels != int(pixels):
        raise ValueError(f"shift needs a whole number of pixels, at least 1, got {pixels}")

    def change(key: Key[Array, ""], images: list[Array]) -> list[Array]:
        down, across = jax.random.randint(key, (2,), 0, 2 * pixels + 1)

        def moved(image: Array) -> Array:
            leading = image.ndim - 3
            padded = jnp.pad(image, [(0, 0)] * leading + [(pixels, pixels)] * 2 + [(0, 0)], "edge")
            return jax.lax.dynamic_slice(padded, [0] * leading + [down, across, 0], image.shape)

        return [moved(image) for image in images]

    return _on_images(change)


def brightness(amount: float = 0.2) -> Augment:
    """Multiplies all images of a window by one factor, uniform in [1 − amount, 1 + amount].

    Raises:
        ValueError: amount outside (0, 1].
    """
    if not 0 < amount <= 1:
        raise ValueError(f"brightness changes by an amount in (0, 1], got {amount}")

    def change(key: Key[Array, ""], images: list[Array]) -> list[Array]:
        factor = jax.random.uniform(key, (), jnp.float32, 1 - amount, 1 + amount)
        return [_bytes(image * factor) for image in images]

    return _on_images(change)


def pixel_noise(std: float = 8.0) -> Augment:
    """Adds noise of `std` grey levels (of 255), its own for every pixel of every camera and step.

    Raises:
        ValueError: a standard deviation that is not positive and finite.
    """
    if not 0 < std < float("inf"):
        raise ValueError(f"pixel_noise needs a positive, finite standard deviation, got {std}")

    def change(key: Key[Array, ""], images: list[Array]) -> list[Array]:
        def noisy(key: Key[Array, ""], image: Array) -> Array:
            return _bytes(image + std * jax.random.normal(key, image.shape, jnp.float32))

        return [
            noisy(key, image) for key, image in zip(jax.random.split(key, len(images)), images, strict=True)
        ]

    return _on_images(change)


def chain(*changes: Augment) -> Augment:
    """One change after the other."""

    def augment(key: Key[Array, ""], window: Dataset) -> Dataset:
        for i, change in enumerate(changes):
            window = change(jax.random.fold_in(key, i), window)
        return window

    return augment


def _on_images(change: Callable[[Array, list[Array]], list[Array]]) -> Augment:
    """`change` of all images of bytes in an observation, by one key."""

    def augment(key: Key[Array, ""], window: Dataset) -> Dataset:
        leaves, tree = jax.tree.flatten(window.obs)
        at = [i for i, leaf in enumerate(leaves) if _is_image(leaf)]
        if not at:
            raise ValueError(
                "there are no images of bytes [height, width, channels] to change in observations of shapes "
                f"{[leaf.shape[1:] for leaf in leaves]}"
            )
        for i, image in zip(at, change(key, [leaves[i] for i in at]), strict=True):
            leaves[i] = image
        return window._replace(obs=jax.tree.unflatten(tree, leaves))

    return augment


def _is_image(leaf: Array) -> bool:
    """Bytes with [height, width, channels] behind the axis of steps."""
    return leaf.ndim >= 4 and leaf.dtype == jnp.uint8


def _bytes(images: Float[Array, "..."]) -> Array:
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)

"""What a student sees, as a film: every image of its observation, for any task with cameras."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt8

from gps import plots
from gps.placement import cpu_jit
from gps.rollout import first_observation
from gps.types import Env
from gps.video import Clip, Drawing, Frame

__all__ = ["in_columns", "pictures", "sights"]

COLOURS = ("#1c5fb0", "#c2255c", "#7048e8", "#0b7285")
"""One per driver."""
WIDE = 4.2
"""Inches per driver."""


def frames(env: Env, clip: Clip, titles: Sequence[str], steps: Sequence[int]) -> Iterator[Frame]:
    """For each driver its images on top of each other; they stand still when its episode is over."""
    at = np.minimum(np.asarray(steps)[:, None], clip.lasted[None] - 1)  # [frames, n]
    yield from in_columns(pictures(env, clip.context, clip.xs[np.arange(len(titles)), at]), titles)


def in_columns(
    shown: Sequence[UInt8[np.ndarray, "k n height width 3"]], titles: Sequence[str]
) -> Iterator[Frame]:
    """A frame for each k: a column of pictures for each of n drivers, under its title."""
    tall = sum(image.shape[2] / image.shape[3] for image in shown)
    figure = plots.blank(WIDE * len(titles), WIDE * tall + 0.4)
    axes = figure.subplots(len(shown), len(titles), squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.4 / (WIDE * tall + 0.4), 0.02, 0.02)
    drawn = [[] for _ in titles]
    for row, image in zip(axes, shown, strict=True):
        for i, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            drawn[i].append(ax.imshow(image[0, i], interpolation="nearest"))
    for ax, title, colour in zip(axes[0], titles, COLOURS * len(titles), strict=False):
        ax.set_title(title, color=colour, weight="bold", fontsize=12, pad=4)
    for k in range(len(shown[0])):
        for i, column in enumerate(drawn):
            for picture, image in zip(column, shown, strict=True):
                picture.set_data(image[k, i])
        yield plots.pixels(figure)


sights = Drawing(frames)
"""The student's images, side by side for every driver."""


def pictures(env: Env, context: PyTree, xs: np.ndarray) -> list[np.ndarray]:
    """Each image that the student sees at states [frames, n, nx], as bytes [frames, n, height, width, 3].

    Raises:
        ValueError: there is no image in its observation.
    """

    def look(context: PyTree, x: Array) -> list[Array]:
        obs = first_observation(jax.random.key(0), env.bind(context), x)
        return [leaf.reshape(-1, *leaf.shape[-3:])[-1] for leaf in jax.tree.leaves(obs) if leaf.ndim >= 3]

    found = cpu_jit(jax.vmap(jax.vmap(look), (None, 0)))(context, jnp.asarray(xs))
    if not found:
        raise ValueError(f"{env.name}: there is no image in what the student sees, choose another drawing")
    return [_colours(np.asarray(image)) for image in found]


def _colours(image: np.ndarray) -> np.ndarray:
    """Colours as they are; other numbers from black, the least, to white, the largest."""
    if image.dtype == np.uint8:
        return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    low, high = float(image.min()), float(image.max())
    grey = (255 * (image[..., :1] - low) / max(high - low, 1e-9)).astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)

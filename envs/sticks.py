"""How arms, poles and particles are shown: straight lines that move."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import mujoco
import numpy as np
from jaxtyping import Float

from envs import fork as fork_task
from envs import obstacle as obstacle_task
from envs import peg as peg_task
from envs.mjcf import load_model
from envs.reacher import LINK
from envs.swimmer import HALF
from gps import plots
from gps.types import Env
from gps.video import Clip, Drawing, Frame

__all__ = ["Sticks", "cartpole", "fork", "obstacle", "peg", "pendulum", "reacher", "sticks", "swimmer"]

COLOURS = ("#1c5fb0", "#c2255c", "#7048e8", "#0b7285")
"""One per driver."""


class Sticks(NamedTuple):
    """A figure of straight lines."""

    points: Callable[[np.ndarray, Any], Float[np.ndarray, "k 2"]]
    """(x, context) → the line's points; NaN lifts the pen."""
    reach: tuple[float, float]
    """Half the width and half the height that is shown."""
    target: Callable[[Any], np.ndarray] | None = None
    """Context → where to go."""
    scenery: Callable[[Any], Float[np.ndarray, "k 2"]] | None = None
    """Context → outlines of what stands around; NaN lifts the pen."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Of what is shown."""


def sticks(shape: Sticks) -> Drawing:
    """Lines that move, with what the last of their points has passed."""

    def frames(env: Env, clip: Clip, titles: Sequence[str], steps: Sequence[int]) -> Iterator[Frame]:
        (wide, tall), (across, up) = shape.reach, shape.centre
        figure = plots.blank(4.2 * len(titles), 4.2 * tall / wide)
        drawn = []
        for i, title in enumerate(titles):
            axes = figure.add_axes(
                (i / len(titles) + 0.003, 0.006, 1 / len(titles) - 0.006, 0.988), xticks=[], yticks=[]
            )
            axes.set(xlim=(across - wide, across + wide), ylim=(up - tall, up + tall), facecolor="#f4f8fc")
            axes.text(
                0.02,
                0.97,
                title,
                transform=axes.transAxes,
                va="top",
                fontsize=12,
                color=COLOURS[i % 4],
                weight="bold",
            )
            context = jax.tree.map(lambda leaf, i=i: leaf[i], clip.context)
            if shape.scenery is None:
                axes.axhline(0, color="#b8c4d0", linewidth=1)
            else:
                axes.plot(*shape.scenery(context).T, color="#8a6d3b", linewidth=2)
            if shape.target is not None:
                axes.plot(*shape.target(context), "o", color="#d9480f", markersize=14, alpha=0.6)
            path = np.array([shape.points(x, context) for x in clip.xs[i, : clip.lasted[i]]])
            trail = axes.plot([], [], color=COLOURS[i % 4], linewidth=1, alpha=0.6)[0]
            drawn.append(
                (path, trail, axes.plot([], [], color="#222222", linewidth=5, solid_capstyle="round")[0])
            )
        for t in steps:
            for path, trail, line in drawn:
                now = min(t, len(path) - 1)
                line.set_data(*path[now].T)
                trail.set_data(*path[max(0, now - 25) : now + 1, -1].T)
            yield plots.pixels(figure)

    return Drawing(frames)


def _pendulum(x: np.ndarray, context: Any) -> np.ndarray:
    return np.array([[0, 0], [np.sin(x[0]), np.cos(x[0])]])


def _cartpole(x: np.ndarray, context: Any) -> np.ndarray:
    cart = [[x[0] - 0.25, 0], [x[0] + 0.25, 0], [np.nan, np.nan], [x[0], 0]]
    return np.array([*cart, [x[0] + np.sin(x[1]), np.cos(x[1])]])


def _reacher(x: np.ndarray, context: Any) -> np.ndarray:
    angles = np.array([x[0], x[0] + x[1]])
    links = LINK * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(links, axis=0)])


@functools.cache
def _arm() -> mujoco.MjModel:
    return load_model(peg_task.ASSET)


def _peg(x: np.ndarray, context: Any) -> np.ndarray:
    """From the side: the joints, then the peg from its top to its tip, along y and z."""
    model = _arm()
    data = mujoco.MjData(model)
    data.qpos[:] = x[: model.nq]
    mujoco.mj_kinematics(model, data)
    joints = data.xpos[1 : model.body("peg").id + 1, 1:]
    return np.concatenate([joints, data.site_xpos[::-1, 1:]])


def _table(offset: np.ndarray) -> np.ndarray:
    """The hole, cut along y."""
    y, z = peg_task.TARGET[1] + float(offset[1]), (peg_task.RIM, peg_task.TARGET[2])
    half, far = peg_task.HALF, 0.35
    outline = [(-far, z[0]), (-half, z[0]), (-half, z[1]), (half, z[1]), (half, z[0]), (far, z[0])]
    return np.array(outline) + np.array([y, 0])


def _particle(x: np.ndarray, context: Any) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 13)
    return x[:2] + 0.1 * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _walls(asset: Path) -> np.ndarray:
    """Outlines, from above, of the boxes that stand still."""
    model = load_model(asset)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
    still = np.flatnonzero(model.geom_bodyid == 0)
    boxes = [i for i in still if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_BOX]
    outlines = [model.geom_pos[i, :2] + corners * model.geom_size[i, :2] for i in boxes]
    return np.concatenate([np.vstack([outline, [np.nan, np.nan]]) for outline in outlines])


def _swimmer(x: np.ndarray, context: Any) -> np.ndarray:
    """From the tail to the head."""
    angles = x[2] + np.array([x[4], 0.0, x[3]])
    links = 2 * HALF * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tail = x[:2] - links[0] - links[1] / 2
    return np.concatenate([tail[None], tail + np.cumsum(links, axis=0)])


pendulum = sticks(Sticks(_pendulum, (1.3, 1.3)))
cartpole = sticks(Sticks(_cartpole, (2.8, 1.4)))
reacher = sticks(Sticks(_reacher, (0.35, 0.35), target=np.asarray))
peg = sticks(Sticks(_peg, (0.75, 0.6), scenery=_table, centre=(0.0, -0.15)))
obstacle = sticks(
    Sticks(
        _particle,
        (2.1, 2.1),
        target=lambda y0: np.array(obstacle_task.GOAL),
        scenery=lambda context: _walls(obstacle_task.ASSET),
        centre=(1.6, 0.0),
    )
)
swimmer = sticks(Sticks(_swimmer, (0.8, 0.4), centre=(0.4, 0.0)))
fork = sticks(
    Sticks(
        _particle,
        (5.0, 2.2),
        target=lambda sign: np.array([9.0, float(sign.side) * fork_task.BRANCH]),
        scenery=lambda sign: _walls(fork_task.ASSET),
        centre=(4.0, 0.0),
    )
)

"""Roll a ball through a corridor that turns back on itself; what counts is only how long it is at the goal.

State (4): place of the ball, m, and its velocity. Controls (2): forces in [−1, 1], units of 3 N. The student
sees the state. The reward is 1 in each control step that ends with the ball at the goal, else 0. The teacher
knows the way and takes its time.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs.bodies import bodies
from envs.camera import Camera
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from gps.gaussian import Gaussian
from gps.types import Action, Env, Teacher

STUDENT = {"hidden": (64, 64)}
ASSET = Path(__file__).parent / "assets" / "maze.xml"
SUBSTEPS = 5
drawing = bodies(Camera("above", 360, 360))
WAY = np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]])
"""Corners of the corridor's middle, from the start to the goal, m."""
GOAL, REACH = WAY[-1], 0.3
SPEED = 0.8
"""Of the teacher, m/s."""
STD = 0.2
"""Of the teacher's labels, units of the control."""


def point_maze(horizon: int = 200) -> Env:
    """Roll a ball to the goal.

    Args:
        horizon: control steps of .05 s in an episode.
    """
    sim = engine(load_model(ASSET), substeps=SUBSTEPS)
    goal = np.asarray(GOAL)

    def there(x: Array) -> Array:
        return (jnp.sum((x[:2] - jnp.asarray(goal, x.dtype)) ** 2) < REACH**2).astype(x.dtype)

    task = Task(
        cost=lambda x, u, y, t: 1 - there(x),
        final_cost=lambda x, y: 1 - there(x),
        init=start,
        observe=lambda x, y: x,
        reward=lambda x, u, x_next: there(x_next),
        metrics=lambda x, u: {"at_goal": there(x)},
    )
    return from_engine(sim, lambda context: task, horizon=horizon, name="point_maze")


def start(key: Array) -> Float[Array, " 4"]:
    """Within .2 m of the corridor's beginning, at rest."""
    place = jnp.asarray(WAY[0]) + jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
    return jnp.concatenate([place, jnp.zeros(2)])


def teacher(env: Env, speed: float = SPEED) -> Teacher:
    """Rolls along the middle of the corridor, turning at its corners.

    Args:
        env: not asked: the way is known.
        speed: m/s.
    """
    corners, cov = np.asarray(WAY), np.eye(2) * STD**2

    def act(key: Array, state: tuple, x: Array, t: Array) -> tuple[Action, tuple]:
        dtype = x.dtype
        ahead = jnp.asarray(corners, dtype)[next_corner(x)] - x[:2]
        wanted = ahead * jnp.minimum(speed / jnp.maximum(jnp.linalg.norm(ahead), 1e-6), 1.0)
        mean = jnp.clip(2 * (wanted - x[2:]) + 0.5 * wanted / 3, -1, 1)
        spread = jnp.asarray(cov, dtype)
        precision = jnp.asarray(np.linalg.inv(cov), dtype)
        return Action(Gaussian(mean, spread), precision, -precision @ mean, jnp.int32(0)), state

    return Teacher(lambda key, x0: (), act)


def next_corner(x: Float[Array, " 4"]) -> Int[Array, ""]:
    """Index in `WAY`: a corner counts as passed within .2 m of the next leg's middle."""
    right, top = x[0] > WAY[1, 0] - 0.2, x[1] > WAY[2, 1] - 0.2
    before_top = (x[1] > 1) | right
    return jnp.where(top, 3, jnp.where(before_top, 2, 1))

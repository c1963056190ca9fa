"""Swing two rods up by the joint between them, with three torques to choose from.

State (4): angle of the upper rod from hanging and of the lower one from the upper, rad, and their velocities.
Control (1): torque in units of 2 Nm, −1, 0 or 1 by the rules (`students.ranked`), though all between works.
The student sees cosine and sine of both angles, and the velocities. The reward is 1 in each control step that
ends with the tip more than a rod's length above the shoulder, else 0. The teacher plans with all torques
between the limits, towards both rods upright; from some starts it gets there late, or never.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.bodies import bodies
from envs.camera import Camera
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from gps.costs import quadratic, residual_cost
from gps.types import Env

TEACHER = {"horizon": 80, "initial_iterations": 30}
STUDENT = {"hidden": (64, 64)}
ASSET = Path(__file__).parent / "assets" / "acrobot.xml"
SUBSTEPS = 4
drawing = bodies(Camera("side", 360, 360))


def acrobot_discrete(horizon: int = 200) -> Env:
    """Swing up.

    Args:
        horizon: control steps of .05 s in an episode.
    """
    sim = engine(load_model(ASSET), substeps=SUBSTEPS)
    norms = (quadratic,) * 2
    task = Task(
        cost=residual_cost(lambda x, u, y, t: jnp.concatenate([_posture(x), u]), (1.0, 0.1), norms, (6, 1)),
        final_cost=residual_cost(lambda x, y: _posture(x), (10.0,), norms[:1], (6,)),
        init=start,
        observe=lambda x, y: jnp.concatenate([jnp.cos(x[:2]), jnp.sin(x[:2]), x[2:]]),
        reward=lambda x, u, x_next: above(x_next),
        metrics=lambda x, u: {"above": above(x)},
    )
    return from_engine(sim, lambda context: task, horizon=horizon, name="acrobot_discrete")


def start(key: Array) -> Float[Array, " 4"]:
    """Hanging, up to .1 rad and rad/s off."""
    return jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)


def above(x: Float[Array, " 4"]) -> Float[Array, ""]:
    """1 where the tip is a rod's length above the shoulder, else 0."""
    height = -jnp.cos(x[0]) - jnp.cos(x[0] + x[1])
    return (height > 1).astype(x.dtype)


def _posture(x: Float[Array, " 4"]) -> Float[Array, " 6"]:
    """Direction of both rods from upright [4], velocities."""
    upper, lower = x[0], x[0] + x[1]
    return jnp.stack(
        [jnp.cos(upper) + 1, jnp.sin(upper), jnp.cos(lower) + 1, jnp.sin(lower), 0.1 * x[2], 0.1 * x[3]]
    )

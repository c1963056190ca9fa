"""Swing a rod up with a motor too weak to lift it: it must be pumped.

State (2): angle (0 upright) and angular velocity. Control (1): torque in [−1, 1], units of 2 Nm; the weight
exerts up to 4.9 Nm. The student sees cosine and sine of the angle, and the angular velocity.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.mjcf import Backend, Task, from_engine, load_model, simulator
from gps.costs import quadratic, residual_cost
from gps.types import Env

TEACHER = {"horizon": 40, "initial_iterations": 30}
"""Settings of `teachers.mpc` that solve the task, and of the student that learns it."""
STUDENT = {"hidden": (64, 64)}
ASSET = Path(__file__).parent / "assets" / "pendulum.xml"
SUBSTEPS = 2
UPRIGHT = 0.2
"""The rod counts as upright within this angle, rad."""


def pendulum(horizon: int = 150, backend: Backend = "c") -> Env:
    """Swing a pendulum up and balance it.

    Args:
        horizon: control steps of .05 s in an episode.
        backend: who computes the physics.
    """
    sizes, norms = (2, 1, 1), (quadratic,) * 3
    stage = residual_cost(
        lambda x, u, y, t: jnp.concatenate([_posture(x), u]), (2.0, 0.05, 0.2), norms, sizes
    )
    task = Task(
        cost=stage,
        final_cost=residual_cost(lambda x, y: _posture(x), (20.0, 2.0), norms[:2], sizes[:2]),
        init=start,
        observe=lambda x, y: jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]]),
        metrics=lambda x, u: {"upright": upright(x)},
    )
    sim = simulator(backend)(load_model(ASSET), substeps=SUBSTEPS)
    return from_engine(sim, lambda context: task, horizon=horizon, name="pendulum")


def start(key: Array) -> Float[Array, " 2"]:
    """Any angle, up to 1 rad/s."""
    scale = jnp.array([jnp.pi, 1.0])
    return scale * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def upright(x: Float[Array, " 2"]) -> Float[Array, ""]:
    """1 where the rod is upright, else 0."""
    return jnp.where(jnp.cos(x[0]) > jnp.cos(UPRIGHT), 1.0, 0.0).astype(x.dtype)


def _posture(x: Float[Array, " 2"]) -> Float[Array, " 3"]:
    """Direction of the rod from upright [2], angular velocity."""
    return jnp.stack([jnp.cos(x[0]) - 1, jnp.sin(x[0]), x[1]])

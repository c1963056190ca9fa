"""Move the tip of a two-joint arm to a target that is another one in every episode.

State (4): shoulder and elbow angle, their velocities. Controls (2): torques in [−1, 1], units of .05 Nm.
The student sees cosines and sines of the angles, velocities, target, and the way from the tip to it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.mjcf import Backend, Task, from_engine, load_model, simulator
from gps.costs import quadratic, residual_cost
from gps.types import Env

TEACHER = {"horizon": 20, "initial_iterations": 20}
"""Settings of `teachers.mpc` that solve the task, and of the student that learns it."""
STUDENT = {"hidden": (128, 128)}
ASSET = Path(__file__).parent / "assets" / "reacher.xml"
SUBSTEPS = 2
LINK = 0.15
"""Length of each link, m."""
NEAREST, FARTHEST = 0.06, 0.27
"""Distances of targets from the shoulder, m."""


def reacher(horizon: int = 75, backend: Backend = "c") -> Env:
    """Reach a target with two joints; the context is the target's position [2], m.

    Args:
        horizon: control steps of .04 s in an episode.
        backend: who computes the physics.
    """

    def define(target: Float[Array, " 2"]) -> Task:
        def way(x: Array) -> Array:
            return jnp.asarray(target, x.dtype) - tip(x)

        def distance(x: Array) -> Array:
            return jnp.sqrt(jnp.sum(way(x) ** 2))

        stage = residual_cost(
            lambda x, u, y, t: jnp.concatenate([way(x), x[2:], u]),
            (200.0, 0.01, 0.05), (quadratic,) * 3, (2, 2, 2),
        )  # fmt: skip
        final = residual_cost(
            lambda x, y: jnp.concatenate([way(x), x[2:]]), (2000.0, 0.1), (quadratic,) * 2, (2, 2)
        )
        return Task(
            cost=stage,
            final_cost=final,
            init=start,
            observe=lambda x, y: jnp.concatenate(
                [jnp.cos(x[:2]), jnp.sin(x[:2]), x[2:], jnp.asarray(target, x.dtype), way(x)]
            ),
            metrics=lambda x, u: {"distance": distance(x), "reached": (distance(x) < 0.01).astype(x.dtype)},
        )

    sim = simulator(backend)(load_model(ASSET), substeps=SUBSTEPS)
    return from_engine(
        sim, define, sample_target, default_context=np.array([0.2, 0.1]), horizon=horizon, name="reacher"
    )


def tip(x: Float[Array, " 4"]) -> Float[Array, " 2"]:
    """Position of the arm's end, m."""
    shoulder, elbow = x[0], x[0] + x[1]
    return LINK * jnp.stack([jnp.cos(shoulder) + jnp.cos(elbow), jnp.sin(shoulder) + jnp.sin(elbow)])


def sample_target(key: Array) -> Float[Array, " 2"]:
    """Any direction and distance within reach."""
    keys = jax.random.split(key)
    angle = jax.random.uniform(keys[0], (), minval=-jnp.pi, maxval=jnp.pi)
    radius = jax.random.uniform(keys[1], (), minval=NEAREST, maxval=FARTHEST)
    return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def start(key: Array) -> Float[Array, " 4"]:
    """Any shoulder angle, the elbow bent by up to 2.5 rad to either side, at rest."""
    angles = jnp.array([jnp.pi, 2.5]) * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    return jnp.concatenate([angles, jnp.zeros_like(angles)])

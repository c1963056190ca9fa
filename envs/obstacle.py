"""Move a particle round walls to a goal that it cannot go straight to (Montgomery & Levine 2016).

State (4): position and velocity in the plane. Controls (2): forces in [−1, 1] N. The student sees all of the
state; the context is where the particle begins, its y, m.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.mjcf import Backend, Task, from_engine, load_model, simulator
from gps.types import Env

TEACHER = {"horizon": 60, "initial_iterations": 30}
LOCAL = {"std": 0.3, "clusters": 5, "remember": 5, "ridge": 1e-4}
STUDENT = {"hidden": (100, 100), "covariance": "labels"}
"""Settings of `teachers.mpc`, of `teachers.local_lqr` and of the student."""
ASSET = Path(__file__).parent / "assets" / "obstacle.xml"
SUBSTEPS = 5
GOAL = (3.0, 0.0)
"""m."""
FARTHEST = 1.5
"""Starts have |y| up to this, m."""
FORCE_WEIGHT = 5.0
"""1 N² costs as much as 1 m from the goal: the limits bind at the start only."""
LAST = 10.0
"""The last step's distance counts this many times."""


def obstacle(horizon: int = 200, backend: Backend = "c") -> Env:
    """Reach a goal behind walls.

    Args:
        horizon: control steps of .05 s in an episode.
        backend: who computes the physics.
    """
    sim = simulator(backend)(load_model(ASSET), substeps=SUBSTEPS)

    def define(y0: Float[Array, ""]) -> Task:
        return Task(
            cost=lambda x, u, y, t: FORCE_WEIGHT * jnp.sum(u**2) + distance_cost(way(x)),
            final_cost=lambda x, y: LAST * distance_cost(way(x)),
            init=lambda key: jnp.zeros(4).at[1].set(y0),
            observe=lambda x, y: x,
            metrics=lambda x, u: {"distance": jnp.sqrt(jnp.sum(way(x) ** 2))},
        )

    env = from_engine(
        sim,
        define,
        lambda key: jax.random.uniform(key, (), minval=-FARTHEST, maxval=FARTHEST),
        default_context=np.zeros(()),
        horizon=horizon,
        name="obstacle",
    )
    return env._replace(conditions=np.linspace(-FARTHEST, FARTHEST, 5))


def way(x: Float[Array, " 4"]) -> Float[Array, " 2"]:
    """From the goal, m."""
    return x[:2] - jnp.asarray(GOAL, x.dtype)


def distance_cost(away: Float[Array, " 2"]) -> Float[Array, ""]:
    """5 d² + .1 sqrt(1e-5 + d²)."""
    square = jnp.sum(away**2)
    return 5 * square + 0.1 * jnp.sqrt(1e-5 + square)

"""Three links swim in a fluid, driven by the torques of two joints (the swimmer of Levine & Abbeel 2014).

State (10): position of the middle link's centre, its heading and the two joints' angles, then their rates.
Controls (2): torques in [−1, 1], units of .5 Nm. The student sees the heading, the joints and all angular
rates; neither where it is nor how fast it goes. The context is how neck and waist are bent at first, rad.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from gps.costs import quadratic, residual_cost
from gps.types import Env

TEACHER = {"horizon": 40, "initial_iterations": 40}
LOCAL = {"std": 0.5, "clusters": 0, "remember": 30, "reuse": 0.75, "ridge": 1e-8, "entropy": 3e-4}
STUDENT = {"hidden": (100, 100), "covariance": "labels"}
"""Settings of `teachers.mpc`, of `teachers.local_lqr` and of the student."""
ASSET = Path(__file__).parent / "assets" / "swimmer.xml"
SUBSTEPS = 5
HALF = 0.1
"""Half of a link, m."""
BENT = 0.5
"""Joints are bent by up to this at first, rad."""


def swimmer(speed: float = 0.15, horizon: int = 100) -> Env:
    """Swim along x.

    Args:
        speed: that the cost asks for, m/s.
        horizon: control steps of .05 s in an episode.

    Raises:
        ValueError: a speed that is not positive and finite.
    """
    if not 0 < speed < np.inf:
        raise ValueError(f"the speed asked for must be positive and finite, got {speed} m/s")
    stage = residual_cost(
        lambda x, u, y, t: jnp.concatenate([centre_velocity(x)[:1] - speed, u]),
        (1.0 / speed**2, 0.05), (quadratic,) * 2, (1, 2),
    )  # fmt: skip
    final = residual_cost(lambda x, y: centre_velocity(x)[:1] - speed, (1.0 / speed**2,), (quadratic,), (1,))

    def define(bend: Float[Array, " 2"]) -> Task:
        return Task(
            cost=stage,
            final_cost=final,
            init=lambda key: jnp.zeros(10).at[3:5].set(jnp.asarray(bend)),
            observe=lambda x, y: jnp.concatenate([jnp.sin(x[2:3]), jnp.cos(x[2:3]), x[3:5], x[7:10]]),
            metrics=lambda x, u: {"speed": centre_velocity(x)[0], "travelled": centre(x)[0]},
        )

    env = from_engine(
        engine(load_model(ASSET), substeps=SUBSTEPS),
        define,
        lambda key: jax.random.uniform(key, (2,), minval=-BENT, maxval=BENT),
        default_context=np.zeros(2),
        horizon=horizon,
        name="swimmer",
    )
    sides = np.array([-BENT, BENT])
    return env._replace(conditions=np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2))


def centre(x: Float[Array, " 10"]) -> Float[Array, " 2"]:
    """Of mass: three like links, the middle one's centre being the position in the state, m."""
    neck, waist = x[2] + x[3], x[2] + x[4]
    return x[:2] + HALF / 3 * jnp.stack([jnp.cos(neck) - jnp.cos(waist), jnp.sin(neck) - jnp.sin(waist)])


def centre_velocity(x: Float[Array, " 10"]) -> Float[Array, " 2"]:
    """Of the centre of mass, m/s."""
    still = jnp.zeros_like(x[5:])
    return jax.jvp(centre, (x,), (jnp.concatenate([x[5:], still]),))[1]

"""Remember a sign: red says left, blue says right, and it is out of sight long before the road forks.

State (4): place along and across the corridor, m, and the velocities. Control (2): forces along and across,
in [−1, 1], units of 6 N. The student sees a camera that looks forward, and how fast it moves; its place it
has to see. The teacher knows the branch, and keeps to the middle until the sign has passed by, and gusts blow
across the corridor: without them a student steers a hair's breadth to the side that the sign says, and reads
off its own place in the end what it was (a memoryless one then succeeds in 80 to 100 % of the worlds).
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.camera import Camera
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from envs.wind import blow, check_strength, sample_waves
from gps.costs import quadratic, residual_cost
from gps.types import Env, Unroll

POLICY = "cnn"
STUDENT = {"memory": "gru", "unroll": Unroll(128, 0)}
TEACHER = {"horizon": 25, "initial_iterations": 10}
ASSET = Path(__file__).parent / "assets" / "fork.xml"
SPEED = 1.5
"""m/s."""
SIGN, FORK, BRANCH = 2.2, 5.0, 1.15
"""Where the sign stands and the branches begin, and how far these are from the middle, m."""
WEDGE = 6.4
"""Where what stands between the branches begins, m."""
WEIGHTS = (1.0, 4.0, 0.2, 0.1)
"""Of speed, place across the road, speed across it and force."""
SUBSTEPS = 2
WAVES = (1.0, 2.0, 3.0, 4.0)
"""Wave numbers of the gusts, rad/m."""


class Sign(NamedTuple):
    """The context of an episode."""

    side: Float[Array, ""]
    """1: the left branch, y > 0; −1: the right."""
    gust: Float[Array, "k 2"]
    """Waves of the wind along the corridor (`envs.wind`)."""


def fork(height: int = 32, width: int = 48, gust: float = 2.0, horizon: int = 110) -> Env:
    """Take the branch that a sign told, when it is no longer to be seen.

    Args:
        height: of the student's images, pixels.
        width: of the student's images, pixels.
        gust: root mean square of the wind's force across the corridor, N; the teacher's model has no wind.
        horizon: control steps of .05 s in an episode.

    Raises:
        ValueError: a wind that is negative or not finite.
    """
    check_strength("gust", gust)
    sim = engine(load_model(ASSET), substeps=SUBSTEPS)
    look = sim.camera(Camera("front", height, width))
    hidden = jnp.array([SIGN, 0.55, -5.0])

    def define(sign: Sign, planning: bool) -> Task:
        shown = jnp.array([SIGN, 0.55, 0.5])
        left = jnp.stack([shown, hidden])
        signs = jnp.where(sign.side > 0, left, left[::-1])
        still = sim.make_inputs(mocap_pos=signs)

        def blown(x: Array) -> Array:
            force = gust * blow(sign.gust, WAVES, x[0])
            return sim.make_inputs(jnp.stack([jnp.zeros_like(force), force]), signs)

        def away(x: Array) -> Array:
            middle = sign.side.astype(x.dtype) * BRANCH * jax.nn.sigmoid((x[0] - FORK) / 0.15)
            return jnp.stack([x[2] - SPEED, x[1] - middle, x[3]])

        stage = residual_cost(
            lambda x, u, y, t: jnp.concatenate([away(x), u]), WEIGHTS, (quadratic,) * 4, (1, 1, 1, 2)
        )
        final = residual_cost(lambda x, y: away(x), WEIGHTS[:3], (quadratic,) * 3)
        return Task(
            cost=stage,
            final_cost=final,
            init=start,
            observe=lambda x, y: x if planning else look(x, still) | {"velocity": y},
            failed=lambda x, y: failed(x, sign.side),
            inputs=still if planning else blown,
            planning=None if planning else model(sign),
            metrics=lambda x, u: {"taken": taken(x, sign.side).astype(x.dtype)},
        )

    def model(sign: Sign) -> Env:
        return from_engine(
            sim,
            partial(define, planning=True),
            default_context=sign,
            horizon=horizon,
            name="fork without wind",
        )

    return from_engine(
        sim,
        partial(define, planning=False),
        sample_sign,
        default_context=Sign(jnp.asarray(1.0), jnp.zeros((len(WAVES), 2))),
        horizon=horizon,
        name="fork",
    )


def sample_sign(key: Array) -> Sign:
    """Left or right, each as often, and the wind."""
    side_key, gust_key = jax.random.split(key)
    side = jax.random.rademacher(side_key, (), jnp.result_type(float))
    return Sign(side, sample_waves(gust_key, len(WAVES)))


def start(key: Array) -> Float[Array, " 4"]:
    """Near the beginning of the corridor and its middle, slow."""
    noise = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    return noise * jnp.array([0.3, 0.2, 0.2, 0.1]) + jnp.array([0.0, 0.0, 1.0, 0.0])


def taken(x: Float[Array, " 4"], side: Float[Array, ""]) -> Array:
    """It is in the branch that the sign told."""
    return (x[0] > WEDGE) & (x[1] * side > 0)


def failed(x: Float[Array, " 4"], side: Float[Array, ""]) -> Array:
    """It met a wall or the wedge, or took the wrong branch."""
    wall = jnp.where(x[0] < FORK, jnp.abs(x[1]) > 0.7, jnp.abs(x[1]) > 1.8)
    wedge = (x[0] > WEDGE) & (jnp.abs(x[1]) < 0.5)
    return wall | wedge | ((x[0] > WEDGE) & (x[1] * side < 0))

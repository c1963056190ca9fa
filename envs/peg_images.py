"""Put a peg into a hole that is elsewhere each time, with the torques of an arm and a camera in its hand.

Arm, peg and hole are those of `envs.peg`. The student sees the picture of a camera in front of the peg, and
the joints' angles and velocities; the teacher knows where the hole is. It plans with an arm free of contacts,
which have no derivatives worth following: a funnel over the hole in the cost that it plans with keeps the peg
off the table until it stands over the hole.
"""

from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PyTree

from envs import peg
from envs.camera import Camera
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from gps.costs import quadratic, residual_cost
from gps.types import Env

POLICY = "spatial_softmax"
STUDENT = {"layers": ((16, 5, 3), (16, 3, 1), (16, 3, 1))}
TEACHER, LOCAL = peg.TEACHER, peg.LOCAL
WEIGHTS = (1.0, 1.0, 1.0, 4.0, 1.0, 0.1)
"""Of place, height, upright, funnel, joint velocities and torques in the planner's cost."""
SCALE = 0.1
"""Of the first three, m."""
FUNNEL, CLEAR = 0.06, 0.01
"""Height over the rim below which the peg is to stand over the hole, and how exactly, m."""
RANGE = 0.25
"""Distances from the hole beyond this count no more than by their first power, m."""


def peg_images(
    height: int = 48, width: int = 48, spread: float = 0.1, blind: bool = False, horizon: int = 100
) -> Env:
    """Insert a peg by sight.

    Args:
        height: of the student's images, pixels.
        width: of the student's images, pixels.
        spread: the hole is up to this far from its usual place, along x and along y, m.
        blind: the pictures are black, as a control of what sight is worth.
        horizon: control steps of .05 s in an episode.

    Raises:
        ValueError: holes that the arm does not reach.
    """
    peg.check_spread(spread)
    sim = engine(load_model(peg.ASSET), substeps=peg.SUBSTEPS)
    look = sim.camera(Camera("hand", height, width))
    plan = engine(_free_model(), substeps=2)

    def define(offset: Float[Array, " 2"], planning: bool) -> Task:
        moved = peg.table_at(sim, offset)

        def posture(x: Array, y: Array) -> Float[Array, " 15"]:
            away = peg.from_target(offset, y)
            low = jax.nn.relu(FUNNEL + peg.RIM - y[2]) / FUNNEL
            parts = (
                _soft(away[:3]) / SCALE,
                (away[3:] - away[:3]) / SCALE,
                low * away[:2] / CLEAR,
                x[7:],
            )
            return jnp.concatenate(parts)

        def effort(x: Array, u: Array, y: Array, t: Array) -> Float[Array, " 22"]:
            return jnp.concatenate([posture(x, y), u / jnp.sqrt(jnp.asarray(peg.GAINS, u.dtype))])

        def seen(x: Array, y: Array) -> PyTree:
            picture = look(x, moved)["hand"]
            return {"hand": jnp.zeros_like(picture) if blind else picture, "joints": x}

        if planning:
            sizes, norms = (2, 1, 3, 2, 7, 7), (quadratic,) * 6
            last = tuple(5 * w for w in WEIGHTS[:-1])
            return Task(
                cost=residual_cost(effort, WEIGHTS, norms, sizes),
                final_cost=residual_cost(posture, last, norms[:-1], sizes[:-1]),
                init=peg.start,
                observe=lambda x, y: x,
            )
        return Task(
            cost=lambda x, u, y, t: peg.cost(offset, u, y),
            final_cost=lambda x, y: peg.LAST * peg.distance_cost(peg.from_target(offset, y)),
            init=peg.start,
            observe=seen,
            inputs=moved,
            metrics=lambda x, u: peg.progress(offset, sim.sense(x, jnp.zeros_like(u), moved)),
            planning=model(offset),
        )

    def model(offset: PyTree) -> Env:
        define_plan = partial(define, planning=True)
        return from_engine(plan, define_plan, default_context=offset, horizon=horizon, name="free arm")

    env = from_engine(
        sim,
        partial(define, planning=False),
        lambda key: peg.sample_hole(key, spread),
        default_context=np.zeros(2),
        horizon=horizon,
        name="peg_images",
    )
    return env._replace(conditions=peg.grid(spread, 3))


def _soft(away: Array) -> Array:
    """Grows as the root of |away| beyond `RANGE`, so that its square is a distance."""
    return away / jnp.sqrt(jnp.sqrt(1 + (away / RANGE) ** 2))


def _free_model() -> mujoco.MjModel:
    """The arm that touches nothing, in coarser steps."""
    spec = mujoco.MjSpec.from_file(str(peg.ASSET))
    spec.option.timestep = peg.SUBSTEPS * spec.option.timestep / 2
    model = spec.compile()
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    return model

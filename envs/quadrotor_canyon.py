"""Fly through a winding canyon: the teacher knows its course, the student has a laser.

Both walls are polylines over x = … 0, STEP, 2 STEP …, made of MuJoCo boxes that follow the drone like a
treadmill: the boxes around it always stand where the course has its segments there, so the canyon is endless.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs import quadrotor as quad
from envs.mjcf import Task, from_engine
from gps.types import Env

STEP = 1.0
"""Length of a wall's segment along x, m."""
BEHIND, AHEAD = 3, 9
"""Segments that stand behind the drone and before it; the laser reaches 8 m."""
THICKNESS = 0.5
STEEPEST = 1.0
"""|dy/dx| of the course stays below it."""
WAVES = 3


class Canyon(NamedTuple):
    """The context of an episode: the centre-line is y = Σ_i a_i (1 − cos k_i x), straight ahead at first."""

    course: Float[Array, "WAVES 2"]
    """(a, k) of each wave: m, 1/m; a has either sign."""
    gust: Float[Array, "k 4"]


def quadrotor_canyon(
    width: float = 3.0,
    bend: float = 14.0,
    slope: float = 0.7,
    speed: float = 3.0,
    gust: float = 0.2,
    horizon: int = 400,
) -> Env:
    """The task.

    Args:
        width: of the canyon along y, m.
        bend: shortest wavelength of its course, m.
        slope: steepest dy/dx that a course can have.
        speed: commanded, m/s.
        gust: root mean square of the wind's force, N; the teacher's model has no wind.
        horizon: control steps of .05 s in an episode.
    """
    if width < 4 * quad.RADIUS or bend < 4 * STEP or not 0 <= slope <= STEEPEST:
        raise ValueError(
            f"expected width >= {4 * quad.RADIUS:.1f} m, bend >= {4 * STEP:.0f} m, 0 <= slope <= {STEEPEST}; "
            f"came {width}, {bend} and {slope}"
        )
    sees, moves = quad.world_engines(_model())
    plan_engine = quad.planning_engine()

    def define(context: Canyon, planning: bool) -> Task:
        stage, final = quad.flight_cost(
            speed, lambda pos: wall_distances(context.course, pos, width) - quad.RADIUS, 2
        )

        def inputs(x: Array) -> Array:
            pos, quat = _boxes(context.course, x, width)
            return sees.make_inputs(quad.gust_force(context.gust, x[:3], gust), pos, quat)

        return Task(
            cost=stage,
            final_cost=final,
            init=quad.start(speed, lateral=width / 2 - 2 * quad.RADIUS),
            observe=quad.observe(speed) if not planning else lambda x, y: x,
            failed=quad.failed if not planning else Task._field_defaults["failed"],
            inputs=None if planning else inputs,
            metrics=lambda x, u: {"speed": x[7]},
            planning=None if planning else model(context),
        )

    def model(context: Canyon) -> Env:
        define_plan = functools.partial(define, planning=True)
        return from_engine(
            plan_engine, define_plan, default_context=context, horizon=horizon, name="quadrotor"
        )

    return from_engine(
        sees,
        functools.partial(define, planning=False),
        lambda key: sample_canyon(key, bend, slope),
        default_context=Canyon(np.zeros((WAVES, 2)), np.zeros((quad.NUM_GUSTS, 4))),
        horizon=horizon,
        name="quadrotor_canyon",
        dynamics=moves,
    )


def sample_canyon(key: Array, bend: float, slope: float) -> Canyon:
    """Waves of 1 to 3 times the wavelength `bend`, which share out the steepest slope among them."""
    keys = jax.random.split(key, 4)
    k = 2 * jnp.pi / (bend * jax.random.uniform(keys[0], (WAVES,), minval=1.0, maxval=3.0))
    share = jax.random.uniform(keys[1], (WAVES,), minval=0.2, maxval=1.0)
    amplitude = slope * share / jnp.sum(share) / k * jax.random.rademacher(keys[2], (WAVES,), k.dtype)
    return Canyon(jnp.stack([amplitude, k], axis=1), quad.sample_gust(keys[3]))


def centre_line(course: Float[Array, "WAVES 2"], x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Where the course is at each x: its y, m."""
    a, k = course[:, 0].astype(x.dtype), course[:, 1].astype(x.dtype)
    return (1 - jnp.cos(jnp.outer(x, k))) @ a


def wall_distances(
    course: Float[Array, "WAVES 2"], pos: Float[Array, " 3"], width: float
) -> Float[Array, " 2"]:
    """From `pos` to the left and the right wall, as their boxes stand, m; negative behind a wall."""
    first = jnp.floor(pos[0] / STEP)
    x, y = _knots(course, first - 2, 6)
    line = jnp.interp(pos[0], x, y)

    def distance(side: float) -> Array:
        wall = y + side * width / 2
        start, chord = jnp.stack([x, wall], axis=1)[:-1], jnp.stack([jnp.diff(x), jnp.diff(wall)], axis=1)
        near = jax.vmap(_segment_distance, (None, 0, 0))(pos[:2], start + chord / 2, chord)
        inside = jnp.where(side * (line + side * width / 2 - pos[1]) > 0, 1.0, -1.0).astype(pos.dtype)
        return inside * jnp.min(near)

    return jnp.stack([distance(1.0), distance(-1.0)])


def _segment_distance(
    pos: Float[Array, " 2"], middle: Float[Array, " 2"], chord: Float[Array, " 2"]
) -> Array:
    """From `pos` to a box's inner face, which is as long as the steepest segment needs."""
    along = chord / jnp.sqrt(jnp.sum(chord**2))
    reach = jnp.clip((pos - middle) @ along, -_half_length(), _half_length())
    return jnp.sqrt(jnp.sum((pos - middle - reach * along) ** 2) + 1e-12)


def _half_length() -> float:
    return 0.5 * STEP * float(np.hypot(1.0, STEEPEST))


def _boxes(course: Array, x: Array, width: float) -> tuple[Float[Array, "m 3"], Float[Array, "m 4"]]:
    """Poses of the boxes of the left wall, then of the right one, around state `x`."""
    at, y = _knots(course, jnp.floor(x[0] / STEP) - BEHIND, BEHIND + AHEAD + 1)
    angle = jnp.arctan2(jnp.diff(y), jnp.diff(at))
    middle = jnp.stack([at[:-1] + STEP / 2, (y[:-1] + y[1:]) / 2, jnp.full_like(angle, 2.0)], axis=1)
    outward = jnp.stack([-jnp.sin(angle), jnp.cos(angle), jnp.zeros_like(angle)], axis=1) * (THICKNESS / 2)
    across = jnp.zeros_like(middle).at[:, 1].set(width / 2)
    zero = jnp.zeros_like(angle)
    quat = jnp.stack([jnp.cos(angle / 2), zero, zero, jnp.sin(angle / 2)], axis=1)
    pos = jnp.concatenate([middle + across + outward, middle - across - outward])
    return pos, jnp.concatenate([quat, quat])


def _model() -> mujoco.MjModel:
    def build(spec: mujoco.MjSpec) -> None:
        size = [_half_length(), THICKNESS / 2, 4.0]
        for side in ("left", "right"):
            for i in range(BEHIND + AHEAD):
                wall = spec.worldbody.add_body(name=f"{side}{i}", mocap=True, pos=[i, 10.0, 2.0])
                wall.add_geom(spec.find_default("obstacle"), type=mujoco.mjtGeom.mjGEOM_BOX, size=size)

    return quad.world(build)


def _knots(course: Array, first: Array, count: int) -> tuple[Array, Array]:
    x = (first + jnp.arange(count, dtype=first.dtype)) * STEP
    return x, centre_line(course, x)

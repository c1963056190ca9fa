"""Fly through a winding canyon: the teacher knows its course, the student has a laser."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float

from envs import canyon
from envs import quadrotor as quad
from envs.mjcf import Task, from_engine
from gps.types import Env

TEACHER, STUDENT = quad.TEACHER, quad.STUDENT
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
    sideways: float = 1.0,
    horizon: int = 400,
) -> Env:
    """Fly through a winding canyon, in gusts.

    Args:
        width: of the canyon along y, m.
        bend: shortest wavelength of its course, m.
        slope: steepest dy/dx that a course can have.
        speed: commanded, m/s.
        gust: root mean square of the wind's force, N; the teacher's model has no wind.
        sideways: weight of sideways speed in the flight cost (forward speed has 1); with less the teacher
            dodges rather than brakes.
        horizon: control steps of .05 s in an episode.
    """
    quad.check_flight(speed, gust, sideways)
    if width < 4 * quad.RADIUS or bend < 4 * canyon.STEP or not 0 <= slope <= canyon.STEEPEST:
        raise ValueError(
            f"expected width >= {4 * quad.RADIUS:.1f} m, bend >= {4 * canyon.STEP:.0f} m and "
            f"0 <= slope <= {canyon.STEEPEST}, came {width}, {bend} and {slope}"
        )
    sees, moves = quad.world_engines(_model())
    plan_engine = quad.planning_engine()

    def define(context: Canyon, planning: bool) -> Task:
        stage, final = quad.flight_cost(
            speed, sideways, lambda pos: canyon.wall_distances(context.course, pos, width) - quad.RADIUS, 2
        )

        def inputs(x: Array) -> Array:
            pos, quat = canyon.boxes(context.course, x, width)
            return sees.make_inputs(quad.gust_force(context.gust, x[:3], gust), pos, quat)

        return Task(
            cost=stage,
            final_cost=final,
            init=quad.start(speed, lateral=max(0.0, width / 2 - quad.RADIUS - quad.SAFE_DISTANCE)),
            observe=quad.observe(speed) if not planning else lambda x, y: x,
            failed=quad.failed if not planning else Task._field_defaults["failed"],
            inputs=None if planning else inputs,
            metrics=quad.metrics,
            mirror=quad.LEFT_IS_RIGHT,
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
        default_context=Canyon(jnp.zeros((WAVES, 2)), jnp.zeros((quad.NUM_GUSTS, 4))),
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


def _model() -> mujoco.MjModel:
    def build(spec: mujoco.MjSpec) -> None:
        size = [canyon.HALF_LENGTH, canyon.THICKNESS / 2, 4.0]
        for side in ("left", "right"):
            for i in range(canyon.BEHIND + canyon.AHEAD):
                wall = spec.worldbody.add_body(name=f"{side}{i}", mocap=True, pos=[i, 10.0, 2.0])
                wall.add_geom(spec.find_default("obstacle"), type=mujoco.mjtGeom.mjGEOM_BOX, size=size)

    return quad.world(build)

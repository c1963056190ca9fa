"""Keep a car in its lane on a winding road: the student sees the road, the teacher knows it.

State (14): place, height and heading of the car at its rear axle, angles of rear wheel, steering and front
wheel, and their velocities. Control (1): steering angle, rad. Tyres roll and slip on the ground as MuJoCo's
contacts do; cruise control is a constant torque on a damped axle. `Env.views` are the cameras left, in the
middle and right, each with the steering angle that leads back to the lane (Bojarski et al. 2016).

Crosswind pulls at the steering. The teacher knows it, holds against it and never leaves the middle; the
student cannot see it, and is driven to where the teacher never was. (Without wind behaviour cloning drives as
well as any other: the road alone tells it all that it has to do.)
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs.camera import Camera
from envs.mjcf import Task, from_engine
from envs.mujoco import engine
from envs.road import Winding, bend, nearest, paved, planted, sample_phases
from envs.wind import blow, check_strength, sample_waves
from gps.costs import quadratic, residual_cost
from gps.types import Env, View

POLICY = "cnn"
STUDENT = {"covariance": "labels"}
TEACHER = {"horizon": 20, "initial_iterations": 10}
ASSET = Path(__file__).parent / "assets" / "car.xml"
WINDING = Winding((67.0, 109.0, 181.0), (1.6, 3.2, 5.5))
SPEED = 10.0
"""m/s."""
WHEELBASE = 2.6
"""m."""
CAMERAS = {"centre": 0.0, "left": 0.7, "right": -0.7}
"""How far to the left of the middle each looks from, m."""
TURN = 0.08
"""Pictures from the side are turned by at most this, rad: without it a student learns nothing of its heading,
and swings about the middle of the lane undamped."""
RECOVERY = 2.0
"""Seconds in which a label leads back to the lane."""
LANE = 1.0
"""Distance from the middle of the lane at which a driver would intervene, m."""
WEIGHTS = (1.0, 10.0, 20.0)
"""Of distance from the middle, m², heading, rad², and change of the steering angle, rad²."""
SUBSTEPS, PLAN_SUBSTEPS = 10, 2
CONTROL_DT = 0.1
RADIUS, DRAG = 0.3, 30.0
"""Of a wheel, m, and of the axle, N m s."""
TILE, TILES, BUSHES = 3.0, 16, 8
"""The pieces of road that are shown around the car, m each, and what grows beside it."""
X, Y, YAW, REAR, STEERING = 0, 1, 3, 4, 5
"""Where these stand in the state."""
STIFFNESS = 900.0
"""Of the steering, N m / rad."""
WAVES = tuple(2 * np.pi / length for length in (40.0, 64.0, 103.0, 165.0))
"""Wave numbers of the wind along x, rad/m."""


class Drive(NamedTuple):
    """The context of an episode."""

    phases: Float[Array, " k"]
    """Of the road (`envs.road`)."""
    gust: Float[Array, "n 2"]
    """Waves of the wind along x (`envs.wind`)."""


def lane_drive(height: int = 36, width: int = 72, wind: float = 0.01, horizon: int = 600) -> Env:
    """Steer by a camera in the middle.

    Args:
        wind: root mean square of the angle by which it turns the steering, rad.
        height: of the student's images, pixels.
        width: of the student's images, pixels.
        horizon: control steps of .1 s in an episode.

    Raises:
        ValueError: a wind that is negative or not finite.
    """
    check_strength("wind", wind)
    sim = engine(_model(), SUBSTEPS, eps=1e-5, centered=True)
    looks = {name: sim.camera(Camera(name, height, width)) for name in CAMERAS}
    plan = engine(_planning_model(), PLAN_SUBSTEPS, sensors=False, inputs=True, eps=1e-4)

    def define(drive: Drive, planning: bool) -> Task:
        def away(x: Array) -> Float[Array, " 2"]:
            offset, road = nearest(WINDING, drive.phases, x[:2])
            return jnp.stack([offset, x[YAW] - road.heading])

        def seen(name: str, x: Array) -> dict[str, Array]:
            return {"road": looks[name](x, around(x))[name]}

        def around(x: Array) -> Array:
            return sim.make_inputs(forces(x), *scenery(drive.phases, x))

        def forces(x: Array) -> Float[Array, " 7"]:
            pull = STIFFNESS * wind * blow(drive.gust, WAVES, x[X])
            return (
                jnp.zeros(sim.model.nv, x.dtype)
                .at[jnp.array([REAR, STEERING])]
                .set(jnp.stack([jnp.asarray(DRAG * SPEED / RADIUS, x.dtype), pull]))
            )

        def aside(name: str, key: Array, x: Array, y: Array) -> dict[str, Array]:
            return seen(name, x.at[YAW].add(turned(name, key, x.dtype)))

        init = partial(start, drive.phases)
        stage = residual_cost(
            lambda x, u, y, t: jnp.concatenate([away(x), u - x[STEERING : STEERING + 1]]),
            WEIGHTS,
            (quadratic,) * 3,
        )
        final = residual_cost(lambda x, y: away(x), tuple(5 * w for w in WEIGHTS[:2]), (quadratic,) * 2)
        if planning:
            return Task(stage, final, init, lambda x, y: x, inputs=lambda x: plan.make_inputs(forces(x)))
        return Task(
            cost=stage,
            final_cost=final,
            init=init,
            observe=lambda x, y: seen("centre", x),
            failed=lambda x, y: jnp.abs(away(x)[0]) > LANE,
            inputs=around,
            metrics=lambda x, u: {"offset": jnp.abs(away(x)[0])},
            views=tuple(View(partial(aside, name), partial(back_to_lane, name)) for name in CAMERAS),
            planning=model(drive),
        )

    def model(drive: Drive) -> Env:
        define_plan = partial(define, planning=True)
        return from_engine(plan, define_plan, default_context=drive, horizon=horizon, name="car")

    return from_engine(
        sim,
        partial(define, planning=False),
        sample_drive,
        default_context=Drive(jnp.zeros(len(WINDING.lengths)), jnp.zeros((len(WAVES), 2))),
        horizon=horizon,
        name="lane_drive",
    )


def sample_drive(key: Array) -> Drive:
    """Any road, any wind."""
    road_key, gust_key = jax.random.split(key)
    return Drive(sample_phases(road_key, WINDING), sample_waves(gust_key, len(WAVES)))


def start(phases: Float[Array, " k"], key: Array) -> Float[Array, " 14"]:
    """At speed in the middle of the lane, somewhere within a metre of x = 0."""
    where = jax.random.uniform(key, (), minval=-1.0)
    road, spin = bend(WINDING, phases, where), SPEED / RADIUS
    steering = jnp.arctan(WHEELBASE * road.curvature)
    along = SPEED * jnp.stack([jnp.cos(road.heading), jnp.sin(road.heading)])
    qpos = (
        jnp.zeros(7)
        .at[jnp.array([X, Y, YAW, STEERING])]
        .set(jnp.stack([where, road.y, road.heading, steering]))
    )
    return jnp.concatenate([qpos, along, jnp.array([0.0, 0.0, spin, 0.0, spin])])


def turned(name: str, key: Array, dtype: jnp.dtype) -> Float[Array, ""]:
    """How far a picture of this camera is turned to the left, rad: those from the side at random."""
    turn = jax.random.uniform(key, (), dtype, minval=-TURN, maxval=TURN)
    return turn if CAMERAS[name] else jnp.zeros_like(turn)


def back_to_lane(name: str, key: Array, x: Float[Array, " 14"], u: Float[Array, " 1"]) -> Float[Array, " 1"]:
    """The steering angle that a picture of this camera asks for, where the driver's is `u`.

    On top of the driver's own curvature, that of a cubic back to the lane (`recovery`).
    """
    offset = jnp.asarray(CAMERAS[name], u.dtype)
    back = recovery(offset, turned(name, key, u.dtype), SPEED * RECOVERY)
    return jnp.arctan(jnp.tan(u) + WHEELBASE * back)


def recovery(offset: Array, heading: Array, length: float) -> Array:
    """Curvature, 1/m, that begins the way from `offset`, m, and `heading`, rad, to 0 and 0 after `length` m.

    The value at s = 0 of y''(s) = −(6 y₀ + 4 L ψ₀) / L² + 6 s (2 y₀ + L ψ₀) / L³ of the cubic that does so.
    """
    return -(6 * offset + 4 * length * heading) / length**2


def scenery(phases: Float[Array, " k"], x: Float[Array, " 14"]) -> tuple[Array, Array]:
    """(positions, quaternions) of the tiles and bushes around the car, which stand still as it drives by."""
    tiles = paved(WINDING, phases, x[X], TILE, TILES)
    bushes = planted(WINDING, phases, x[X], 2 * TILE, BUSHES, (3.5, 11.5))
    return jnp.concatenate([tiles[0], bushes[0]]), jnp.concatenate([tiles[1], bushes[1]])


def _model() -> mujoco.MjModel:
    """The car, and what its cameras see."""
    spec = mujoco.MjSpec.from_file(str(ASSET))
    box, ball = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID
    silent = {"contype": 0, "conaffinity": 0}
    for i in range(TILES):
        tile = spec.worldbody.add_body(name=f"tile{i}", mocap=True)
        tile.add_geom(type=box, size=[1.75, 2.1, 0.01], rgba=[0.3, 0.3, 0.32, 1], **silent)
        for side, colour in ((1.8, [0.95, 0.8, 0.2, 1]), (-1.8, [0.95, 0.95, 0.95, 1])):
            tile.add_geom(type=box, pos=[0, side, 0.01], size=[1.7, 0.08, 0.01], rgba=colour, **silent)
    for i in range(BUSHES):
        bush = spec.worldbody.add_body(name=f"bush{i}", mocap=True)
        bush.add_geom(type=ball, size=[0.8, 0.8, 1.2 + 0.3 * (i % 3)], rgba=[0.15, 0.35, 0.12, 1], **silent)
    return spec.compile()


def _planning_model() -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(ASSET))
    spec.option.timestep = CONTROL_DT / PLAN_SUBSTEPS
    return spec.compile()

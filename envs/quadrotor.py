"""What the quadrotor worlds share: the model, the flight cost, the laser, gusts and failure.

State (13): position, quaternion, world velocity, body angular velocity. Controls (4): thrusts in [0, 1],
.5 hovers. The student sees 30 laser ranges over 180° ahead, attitude, velocities and an altimeter.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs.manifold import quat_rotate
from envs.mujoco import Engine, engine
from gps.costs import quadratic, residual_cost
from gps.types import Mirror, ResidualCost

ASSET = Path(__file__).parent / "assets" / "quadrotor.xml"
RADIUS = 0.2
"""Of the sphere around the drone that collides, m."""
ALTITUDE = 1.5
"""Commanded height, m."""
HOVER = 0.5
TEACHER = {"horizon": 18, "initial_iterations": 0, "start": (HOVER,) * 4}
"""Settings of `teachers.mpc` that fly in every world, and of the student that learns it."""
STUDENT = {"hidden": (128, 128), "activation": "relu", "min_std": 0.1}
NUM_RAYS = 30
RANGE = 8.0
"""Of the laser, m."""
CONTROL_DT = 0.05
SAFE_DISTANCE = 0.5
"""Clearance below which the flight cost pushes away, m."""
WEIGHTS = (2.0, 1.0, 2.0, 2.0, 0.5, 0.1, 60.0, 3.0)
"""Of the flight cost: forward and climbing speed, height, heading, tilt, body rates, clearance, thrust.
With less on the thrust the labels are at their limits every other step, which no student follows."""


def world(add_obstacles: Callable[[mujoco.MjSpec], None], rays: int = NUM_RAYS) -> mujoco.MjModel:
    """The drone with its laser, and the obstacles that `add_obstacles` puts into the specification."""
    spec = mujoco.MjSpec.from_file(str(ASSET))
    drone = spec.body("drone")
    for i, angle in enumerate(np.linspace(np.pi / 2, -np.pi / 2, rays)):
        turn = np.sqrt(0.5) * np.array(
            [1, -np.sin(angle), np.cos(angle), 0]
        )  # brings z to the ray's direction
        drone.add_site(name=f"ray{i}", size=[0.005, 0.005, 0.005], group=4, quat=turn)
        spec.add_sensor(
            name=f"ray{i}",
            type=mujoco.mjtSensor.mjSENS_RANGEFINDER,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=f"ray{i}",
            intprm=[1 << int(mujoco.mjtRayDataField.mjRAYDATA_DIST), 0, 0],
        )
    add_obstacles(spec)
    return spec.compile()


def planning_engine() -> Engine:
    """The drone alone, in one coarse step per control step: contacts are the cost's business."""
    spec = mujoco.MjSpec.from_file(str(ASSET))
    spec.option.timestep = CONTROL_DT
    model = spec.compile()
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    return engine(model, sensors=False)


def world_engines(model: mujoco.MjModel) -> tuple[Engine, Engine]:
    """(senses, moves): the laser is read once per control step, not in every engine step."""
    substeps = round(CONTROL_DT / model.opt.timestep)
    return (engine(model, substeps, inputs=True), engine(model, substeps, sensors=False, inputs=True))


def check_flight(speed: float, gust: float, sideways: float) -> None:
    """Raise a ValueError on a flight that cannot be meant."""
    for name, value in (("speed", speed), ("gust", gust), ("sideways", sideways)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def flight_cost(
    speed: float,
    sideways: float,
    clearances: Callable[[Float[Array, " 3"]], Float[Array, " k"]],
    num_clearances: int,
) -> tuple[ResidualCost, ResidualCost]:
    """(stage, final) cost of flying along +x at `speed` m/s; `clearances` is position → [k], m.

    Squares weighted by `WEIGHTS`, sideways speed by `sideways`, and as clearance (max(0, .5 − d) / .5)²;
    the final cost is five times the stage cost without the thrust.
    """
    sizes = (1, 1, 1, 1, 1, 2, 3, num_clearances)
    norms = (quadratic,) * len(sizes)

    def flight(x: Array) -> Array:
        pos, quat, vel, rates = x[:3], x[3:7], x[7:10], x[10:13]
        forward = quat_rotate(quat, jnp.array([1.0, 0.0, 0.0], x.dtype))
        up = quat_rotate(quat, jnp.array([0.0, 0.0, 1.0], x.dtype))
        near = jnp.maximum(SAFE_DISTANCE - clearances(pos), 0) / SAFE_DISTANCE
        target = jnp.array([speed, 0.0, 0.0], x.dtype)
        return jnp.concatenate([vel - target, pos[2:] - ALTITUDE, forward[1:2], up[:2], rates, near])

    def stage(x: Array, u: Array, y: Array, t: Array) -> Array:
        return jnp.concatenate([flight(x), u - HOVER])

    double = tuple(2 * w for w in (WEIGHTS[0], sideways, *WEIGHTS[1:]))
    return (
        residual_cost(stage, double, (*norms, quadratic), (*sizes, 4)),
        residual_cost(lambda x, y: flight(x), tuple(5 * w for w in double[:-1]), norms, sizes),
    )


def observe(speed: float) -> Callable[[Array, Array], Array]:
    """(x, y) → [40]: inverse ranges, heading, up; velocity error and rates in the body's frame; height."""

    def see(x: Array, y: Array) -> Array:
        ranges = y[1:]
        inverse = jnp.where(ranges < 0, 1 / RANGE, 1 / jnp.clip(ranges, RADIUS, RANGE))
        return jnp.concatenate([inverse, inertial(x, speed)])

    return see


def inertial(x: Float[Array, " 13"], speed: float) -> Float[Array, " 10"]:
    """Heading, up; velocity error and rates in the body's frame; height over the one commanded."""
    back = x[3:7] * jnp.array([1, -1, -1, -1], x.dtype)
    forward = quat_rotate(x[3:7], jnp.array([1.0, 0.0, 0.0], x.dtype))
    up = quat_rotate(back, jnp.array([0.0, 0.0, 1.0], x.dtype))
    error = quat_rotate(back, x[7:10] - jnp.array([speed, 0.0, 0.0], x.dtype))
    return jnp.concatenate([forward[1:2], up[:2], error, x[10:13], x[2:3] - ALTITUDE])


INERTIAL_SIGNS = np.array([-1, 1, -1, 1, -1, 1, -1, 1, -1, 1])
"""Of `inertial` in the mirror: heading, roll, sideways speed, roll and yaw rate change signs."""
MOTORS_SWAPPED = np.eye(4)[[1, 0, 3, 2]]
_SWAPPED = np.r_[NUM_RAYS - 1 : -1 : -1, NUM_RAYS : NUM_RAYS + 10]
_SIGNS = np.r_[np.ones(NUM_RAYS), INERTIAL_SIGNS]
LEFT_IS_RIGHT = Mirror(lambda obs: obs[_SWAPPED] * jnp.asarray(_SIGNS, obs.dtype), MOTORS_SWAPPED)
"""Rays and motors change sides."""


def failed(x: Float[Array, " 13"], y: Float[Array, " 31"]) -> Array:
    """Contact with anything, height outside [.2, 3.5] m or a tilt beyond 72° (R33 < .3)."""
    up = quat_rotate(x[3:7], jnp.array([0.0, 0.0, 1.0], x.dtype))
    return (y[0] > 0) | (x[2] < 0.2) | (x[2] > 3.5) | (up[2] < 0.3)


def metrics(x: Float[Array, " 13"], u: Float[Array, " 4"]) -> dict[str, Array]:
    """Horizontal speed, and the part of it along +x, m/s."""
    return {"speed": jnp.hypot(x[7], x[8]), "advance": x[7]}


def start(speed: float, lateral: float) -> Callable[..., Float[Array, " 13"]]:
    """Level flight at the commanded speed, height and heading, at most `lateral` m to either side."""

    def init(key: Array) -> Array:
        y0 = jax.random.uniform(key, (), minval=-lateral, maxval=lateral)
        pos = jnp.stack([jnp.zeros_like(y0), y0, jnp.full_like(y0, ALTITUDE)])
        rest = jnp.array([1.0, 0, 0, 0, speed, 0, 0, 0, 0, 0], pos.dtype)
        return jnp.concatenate([pos, rest])

    return init


NUM_GUSTS = 6


def sample_gust(key: Array) -> Float[Array, "k 4"]:
    """A frozen field of NUM_GUSTS plane waves: wave vector (2, 1/m), phase, direction; see `gust_force`."""
    keys = jax.random.split(key, 3)
    length = jax.random.uniform(keys[0], (NUM_GUSTS, 2), minval=-1.0, maxval=1.0)
    phase, heading = jax.random.uniform(keys[1], (2, NUM_GUSTS), maxval=2 * jnp.pi)
    return jnp.concatenate([length, phase[:, None], heading[:, None]], axis=1)


def gust_force(waves: Float[Array, "k 4"], pos: Float[Array, " 3"], gust: float) -> Float[Array, " 6"]:
    """Horizontal force at `pos` as qfrc_applied of the free joint, N; `gust` is its root mean square.

    The air is frozen and the drone flies through it, so that the state alone determines the force.
    """
    wave = jnp.sin(waves[:, :2] @ pos[:2] + waves[:, 2]) * (gust * jnp.sqrt(2.0 / NUM_GUSTS))
    force = jnp.stack([wave @ jnp.cos(waves[:, 3]), wave @ jnp.sin(waves[:, 3])])
    return jnp.concatenate([force, jnp.zeros(4, force.dtype)]).astype(pos.dtype)

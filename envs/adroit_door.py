"""Unlatch and open a door with the Adroit hand, for a reward that is rare (Rajeswaran et al. 2018).

Model, controls, starts and rewards are those of gymnasium-robotics' AdroitHandDoorSparse-v1, whose files are
read (`pip install 'guided-policy-search[robotics]'`). The place of the door, which it writes into the model
when an episode begins, is the pose of a mocap body here, and so an input of the engine.

State (60): 28 places and angles of arm and hand, m and rad, those of hinge and latch, then all velocities.
Controls (28): targets of the actuators, in [−1, 1]. The student sees the 39 numbers that gymnasium-robotics
shows; the places of palm and handle among them, which it reads one engine step late, are those of the state.
The reward is 10 in each control step that ends with the door open by 1.35 rad, else −0.1. The teacher plans
by path integrals with larger engine steps; it is told of the way to the handle, of latch and hinge, and tries
little with wrist and next to nothing with the fingers: what does not matter would wander.

What that teacher does is fast and different in every episode, which a student, who sees no velocities, does
not learn well from a few of them. `benchmarks.adroit` has another, and clones of both: whole courses
(`teachers.planned`), alike because they begin with the same one, under a price on haste.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from envs.bodies import bodies
from envs.camera import Camera
from envs.mjcf import Task, from_engine, sensor_slices
from envs.mujoco import Engine, coarser, engine
from gps.types import Env

TEACHER = {"horizon": 48, "initial_iterations": 10}
PLANNER = ("mppi", {"samples": 32, "scale": np.array([1.0] * 4 + [0.25] * 2 + [0.02] * 22)})
STUDENT = {"hidden": (128, 128)}
"""Settings of `teachers.mpc`, of its planner, and of the student."""
drawing = bodies(Camera("vil_camera", 360, 360))
HINGE, LATCH = 28, 29
"""In x, rad."""
OPEN, UNLATCHED, AJAR = 1.35, 1.2, 0.1
"""rad: an open door, a latch that is turned far enough, a door that has left its latch."""
FRAMES = np.array([[-0.3, 0.25, 0.252], [-0.2, 0.35, 0.35]])
"""Corners of the box in which the door's frame may stand, m."""
SUBSTEPS, COARSE = 5, 2
"""Engine steps per control step of .01 s; of the planner's model, by implicitfast."""
WEIGHTS = {"reach": 1.0, "latch": 1.0, "door": 2.0, "velocity": 1e-3, "control": 0.3}
"""Of the planner's cost: per m and rad, per (rad/s)² and squared control."""
BRISK, ARM = 2.0, 6
"""m/s and rad/s, beyond which arm and wrist, the first of the hinges and slides, are hasty."""
GAINS = (("A_WRJ1", "A_WRJ0", 10.0), ("A_FFJ3", "A_THJ0", 1.0))
"""Of position servos, which gymnasium-robotics sets when it has loaded the model: first, last, Nm/rad."""


def adroit_door(horizon: int = 200, haste: float = 0.0) -> Env:
    """Open a door. Its context is the place of the door's frame [3], m.

    Args:
        horizon: control steps of .01 s in an episode.
        haste: price in the planner's cost, per squared m/s and rad/s beyond 2, on each joint of the arm.

    Raises:
        ImportError: gymnasium-robotics is not installed.
        ValueError: a price that is negative or not a number.
    """
    if not 0 <= haste < np.inf:
        raise ValueError(f"haste must be at least 0 and finite, came {haste}")
    model = _model()
    middle = FRAMES.mean(axis=0)

    def place(key: Array) -> Float[Array, " 3"]:
        low, high = jnp.asarray(FRAMES)
        return jax.random.uniform(key, (3,), low.dtype, low, high)

    sim = engine(model, substeps=SUBSTEPS)
    rough = coarser(sim, COARSE)
    model_of_plans = from_engine(
        rough,
        lambda frame: _task(rough, frame, None, haste),
        place,
        default_context=middle,
        horizon=horizon,
        name="adroit_door, larger steps",
    )
    return from_engine(
        sim,
        lambda frame: _task(sim, frame, model_of_plans.bind(frame), haste),
        place,
        default_context=middle,
        horizon=horizon,
        name="adroit_door",
    )


def opened(x: Float[Array, " 60"]) -> Bool[Array, ""]:
    """Whether the door stands open."""
    return x[HINGE] >= OPEN


def _task(sim: Engine, frame: Float[Array, " 3"], planning: Env | None, haste: float) -> Task:
    model, found, frame = sim.model, sensor_slices(sim.model), jnp.asarray(frame)
    palm, handle, nq = found["palm"], found["handle"], sim.model.nq
    rest = np.concatenate([model.qpos0, np.zeros(model.nv)])
    tracker = model.body_pos[model.body("vive_tracker").id]

    def posture(x: Array, y: Array) -> Array:
        away = jnp.sqrt(jnp.sum((y[palm] - y[handle]) ** 2) + 1e-4)
        latched = jnp.where(x[HINGE] < AJAR, jax.nn.relu(UNLATCHED - x[LATCH]), 0)
        shut, speed = jax.nn.relu(OPEN + 0.15 - x[HINGE]), jnp.sum(x[nq : nq + HINGE] ** 2)
        way = WEIGHTS["reach"] * away + WEIGHTS["latch"] * latched + WEIGHTS["door"] * shut
        hasty = jnp.sum(jax.nn.relu(jnp.abs(x[nq : nq + ARM]) - BRISK) ** 2)
        return way + WEIGHTS["velocity"] * speed + haste * hasty

    def observe(x: Array, y: Array) -> Float[Array, " 39"]:
        wide = jnp.where(x[HINGE] > 1, 1, -1).astype(x.dtype)
        turned = jnp.stack([x[LATCH], x[HINGE]])
        return jnp.concatenate([x[1:HINGE], turned, y[palm], y[handle], y[palm] - y[handle], wide[None]])

    return Task(
        cost=lambda x, u, y, t: posture(x, y) + WEIGHTS["control"] * jnp.sum(u**2),
        final_cost=posture,
        init=lambda key: jnp.asarray(rest),
        observe=observe,
        inputs=sim.make_inputs(mocap_pos=jnp.stack([jnp.asarray(tracker, frame.dtype), frame])),
        reward=lambda x, u, x_next: jnp.where(opened(x_next), 10.0, -0.1).astype(x.dtype),
        metrics=lambda x, u: {"opened": opened(x).astype(x.dtype)},
        planning=planning,
    )


def _model() -> mujoco.MjModel:
    """That of gymnasium-robotics, with a door that can be moved, two sensors, and controls in [−1, 1].

    A servo's force is gain · u + bias − gain · q. Scaled controls are a scaled gain and another bias.
    """
    package = importlib.util.find_spec("gymnasium_robotics")
    if package is None or package.origin is None:
        raise ImportError("gymnasium-robotics is not installed: pip install 'guided-policy-search[robotics]'")
    folder = Path(package.origin).parent / "envs" / "assets" / "adroit_hand"
    spec = mujoco.MjSpec.from_file(str(folder / "adroit_door.xml"))
    spec.body("frame").mocap = True
    for site, name in (("S_grasp", "palm"), ("S_handle", "handle")):
        kind, of = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_SITE
        spec.add_sensor(type=kind, objtype=of, objname=site, name=name)
    model = spec.compile()
    for first, last, gain in GAINS:
        rows = slice(model.actuator(first).id, model.actuator(last).id + 1)
        model.actuator_gainprm[rows, :3] = [gain, 0, 0]
        model.actuator_biasprm[rows, :3] = [0, -gain, 0]
    low, high = model.actuator_ctrlrange.T
    model.actuator_biasprm[:, 0] += model.actuator_gainprm[:, 0] * (low + high) / 2
    model.actuator_gainprm[:, 0] *= (high - low) / 2
    model.actuator_ctrlrange[:] = [-1, 1]
    return model

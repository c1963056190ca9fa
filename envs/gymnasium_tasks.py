"""What `envs.gymnasium` knows of each of Gymnasium's MuJoCo v5 tasks.

Rewards, starts and ends are those of gymnasium 1.x at its default settings. A planning cost is the negative
reward in terms that a planner can follow, per control step: the way forward is paid for at the end of the
plan, which is the sum of the reward's velocities (for the hopper a speed), and what ends an episode is
priced before it is reached.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from gps.types import Cost, FinalCost

__all__ = ["TASKS", "GymTask"]

FALL = 100.0
"""Price of each step in a state that ends the episode, or is about to."""


HOPPER_SPEED = 2.2
"""m/s."""


class GymTask(NamedTuple):
    """One task. x = (qpos, qvel)."""

    start: Callable[..., Float[Array, " nx"]]
    """(key, qpos, qvel of the model's start) → x."""
    reward: Callable[..., Float[Array, ""]]
    """(x, u, x', dt, what was read before, and after the step) → reward."""
    costs: Callable[[float], tuple[Cost, FinalCost]]
    """Seconds per control step → planning cost of a step and of the last state."""
    observe: Callable[[Float[Array, " nx"]], Float[Array, " n"]]
    failed: Callable[[Float[Array, " nx"]], Array] = lambda x: jnp.asarray(False)
    """x' → whether the episode ends."""
    reads: Callable[[mujoco.MjModel, mujoco.MjData], np.ndarray] | None = None
    """What the reward reads of the engine beside the state."""
    coarse: int = 0
    """implicitfast steps per control step of the planning model; 0: the model itself."""
    sensors: tuple[tuple[mujoco.mjtSensor, mujoco.mjtObj, str], ...] = ()
    """Sensors (kind, of what, its name) that the planning cost reads, three numbers each."""


# ------------------------------------------------------------------------------- parts


def _start(size: float, normal: float | None = None) -> Callable[..., Array]:
    """Uniform noise of `size`; of the velocities normal noise of size `normal`, if given."""

    def start(key: Array, qpos: Array, qvel: Array) -> Array:
        pos_key, vel_key = jax.random.split(key)
        qpos = qpos + jax.random.uniform(pos_key, qpos.shape, qpos.dtype, -size, size)
        if normal is None:
            qvel = qvel + jax.random.uniform(vel_key, qvel.shape, qvel.dtype, -size, size)
        else:
            qvel = qvel + normal * jax.random.normal(vel_key, qvel.shape, qvel.dtype)
        return jnp.concatenate([qpos, qvel])

    return start


def _observe(nq: int, skip: int, clip: float | None = None) -> Callable[[Array], Array]:
    """Positions but the first `skip`, and velocities."""

    def observe(x: Array) -> Array:
        qvel = x[nq:] if clip is None else jnp.clip(x[nq:], -clip, clip)
        return jnp.concatenate([x[skip:nq], qvel])

    return observe


def _forward(
    control: float, alive: float = 0.0, healthy: Callable[[Array], Array] = lambda x: jnp.asarray(True)
) -> Callable[..., Array]:
    """The velocity of the first position, a bonus, a price on controls."""

    def reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
        return (x_next[0] - x[0]) / dt + alive * healthy(x_next) - control * jnp.sum(u**2)

    return reward


def _price(inside: Array) -> Array:
    return jnp.where(inside, 0.0, FALL)


# ------------------------------------------------------------------------------- tasks


def _half_cheetah(dt: float) -> tuple[Cost, FinalCost]:
    """The speed at the end of the plan is worth the way of .1 s."""

    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        return 0.1 * jnp.sum(u**2) + 0.3 * x[2] ** 2

    return cost, lambda x, y: -(x[0] + 0.1 * x[9]) / dt


def _hopper_healthy(x: Array) -> Array:
    return (x[1] > 0.7) & (jnp.abs(x[2]) < 0.2) & jnp.all(jnp.abs(x[2:]) < 100)


def _hopper(dt: float) -> tuple[Cost, FinalCost]:
    """A speed and a height that it can keep: paid by the metre it leaps, and does not land on its foot."""

    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        near = 200 * jax.nn.relu(1.0 - x[1]) + 100 * jax.nn.relu(jnp.abs(x[2]) - 0.08)
        high, fast = 50 * jax.nn.relu(x[1] - 1.25), x[6] - HOPPER_SPEED
        away = 3 * jnp.abs(fast) + 2 * fast**2 + high
        return 1e-3 * jnp.sum(u**2) + away + near + _price((x[1] > 0.75) & (jnp.abs(x[2]) < 0.19))

    return cost, lambda x, y: 20 * x[2] ** 2 + 0.2 * x[8] ** 2


def _walker_healthy(x: Array) -> Array:
    return (x[1] > 0.8) & (x[1] < 2.0) & (jnp.abs(x[2]) < 1.0)


def _walker(dt: float) -> tuple[Cost, FinalCost]:
    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        near = 20 * jax.nn.relu(1.0 - x[1]) + 20 * jax.nn.relu(jnp.abs(x[2]) - 0.5)
        inside = (x[1] > 0.85) & (x[1] < 1.95) & (jnp.abs(x[2]) < 0.95)
        return 1e-3 * jnp.sum(u**2) + near + _price(inside)

    return cost, lambda x, y: -x[0] / dt


def _swimmer(dt: float) -> tuple[Cost, FinalCost]:
    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        return 1e-4 * jnp.sum(u**2)

    return cost, lambda x, y: -y[0] / dt


def _ant_healthy(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x)) & (x[2] >= 0.2) & (x[2] <= 1.0)


def _ant_reads(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    contact = np.sum(np.clip(data.cfrc_ext, -1, 1) ** 2)
    return np.array([data.xpos[1, 0], contact])


def _ant_reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
    forward = (after[0] - before[0]) / dt
    return forward + _ant_healthy(x_next) - 0.5 * jnp.sum(u**2) - 5e-4 * after[1]


def _ant(dt: float) -> tuple[Cost, FinalCost]:
    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        near = 50 * jax.nn.relu(0.4 - x[2]) + 50 * jax.nn.relu(x[2] - 0.85)
        tilt = x[4] ** 2 + x[5] ** 2
        return 0.5 * jnp.sum(u**2) + near + tilt + _price((x[2] > 0.22) & (x[2] < 0.95))

    return cost, lambda x, y: -x[0] / dt


def _humanoid_healthy(x: Array) -> Array:
    return (x[2] > 1.0) & (x[2] < 2.0)


def _humanoid_reads(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    centre = model.body_mass @ data.xipos[:, 0] / model.body_mass.sum()
    return np.array([centre, np.sum(data.cfrc_ext**2)])


def _humanoid_reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
    forward, contact = (after[0] - before[0]) / dt, jnp.minimum(5e-7 * after[1], 10.0)
    return 1.25 * forward + 5.0 * _humanoid_healthy(x_next) - 0.1 * jnp.sum(u**2) - contact


def _humanoid(dt: float) -> tuple[Cost, FinalCost]:
    def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
        near = 50 * jax.nn.relu(1.2 - x[2])
        return 0.1 * jnp.sum(u**2) + near + _price((x[2] > 1.05) & (x[2] < 1.95))

    return cost, lambda x, y: -1.25 * y[0] / dt


def _reacher_start(key: Array, qpos: Array, qvel: Array) -> Array:
    """A goal in the disc of radius .2, uniform in its area."""
    arm_key, radius_key, angle_key, vel_key = jax.random.split(key, 4)
    arm = qpos[:2] + jax.random.uniform(arm_key, (2,), qpos.dtype, -0.1, 0.1)
    radius = 0.2 * jnp.sqrt(jax.random.uniform(radius_key, (), qpos.dtype))
    angle = jax.random.uniform(angle_key, (), qpos.dtype, -jnp.pi, jnp.pi)
    goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    vel = qvel[:2] + jax.random.uniform(vel_key, (2,), qvel.dtype, -0.005, 0.005)
    return jnp.concatenate([arm, goal, vel, jnp.zeros_like(goal)])


def _reacher_reads(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return data.body("fingertip").xpos - data.body("target").xpos


def _reacher_reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
    return -jnp.linalg.norm(after) - jnp.sum(u**2)


def _fingertip(x: Array) -> Array:
    """Its place in the plane."""
    angles = jnp.stack([x[0], x[0] + x[1]])
    return jnp.array([0.1, 0.11]) @ jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def _reacher_observe(x: Array) -> Array:
    return jnp.concatenate([jnp.cos(x[:2]), jnp.sin(x[:2]), x[2:4], x[4:6], _fingertip(x) - x[2:4]])


def _reacher(dt: float) -> tuple[Cost, FinalCost]:
    def final(x: Array, y: Array) -> Array:
        return jnp.sqrt(jnp.sum((_fingertip(x) - x[2:4]) ** 2) + 1e-6)

    return lambda x, u, y, t: final(x, y) + jnp.sum(u**2), final


def _pendulum_failed(x: Array) -> Array:
    return ~jnp.all(jnp.isfinite(x)) | (jnp.abs(x[1]) > 0.2)


def _pendulum_reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
    return jnp.where(_pendulum_failed(x_next), 0.0, 1.0)


def _pendulum(dt: float) -> tuple[Cost, FinalCost]:
    def final(x: Array, y: Array) -> Array:
        return 10 * x[1] ** 2 + x[0] ** 2 + 0.1 * jnp.sum(x[2:] ** 2)

    return lambda x, u, y, t: final(x, y) + 1e-3 * jnp.sum(u**2), final


def _tip(x: Array) -> Array:
    """Place of the upper pole's end, (x, z)."""
    angles = jnp.stack([x[1], x[1] + x[2]])
    return jnp.stack([x[0] + 0.6 * jnp.sum(jnp.sin(angles)), 0.6 * jnp.sum(jnp.cos(angles))])


def _double_reads(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return data.site_xpos[0, ::2]


def _double_reward(x: Array, u: Array, x_next: Array, dt: float, before: Array, after: Array) -> Array:
    away = 0.01 * after[0] ** 2 + (after[1] - 2) ** 2
    fast = 1e-3 * x_next[4] ** 2 + 5e-3 * x_next[5] ** 2
    return jnp.where(after[1] <= 1, 0.0, 10.0) - away - fast


def _double_observe(x: Array) -> Array:
    """Gymnasium's but its last number, the force that holds the cart at the end of its rail."""
    return jnp.concatenate([x[:1], jnp.sin(x[1:3]), jnp.cos(x[1:3]), jnp.clip(x[3:], -10, 10)])


def _double(dt: float) -> tuple[Cost, FinalCost]:
    def final(x: Array, y: Array) -> Array:
        tip = _tip(x)
        upright = 10 * ((tip[0] - x[0]) ** 2 + (tip[1] - 1.2) ** 2)
        return upright + 0.5 * x[0] ** 2 + 0.1 * jnp.sum(x[3:] ** 2)

    return lambda x, u, y, t: final(x, y) + 1e-2 * jnp.sum(u**2), final


_SUBTREE = (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtObj.mjOBJ_BODY)

TASKS: dict[str, GymTask] = {
    "HalfCheetah": GymTask(_start(0.1, 0.1), _forward(0.1), _half_cheetah, _observe(9, 1)),
    "Hopper": GymTask(
        start=_start(5e-3),
        reward=_forward(1e-3, 1.0, _hopper_healthy),
        costs=_hopper,
        observe=_observe(6, 1, 10.0),
        failed=lambda x: ~_hopper_healthy(x),
        coarse=4,
    ),
    "Walker2d": GymTask(
        start=_start(5e-3),
        reward=_forward(1e-3, 1.0, _walker_healthy),
        costs=_walker,
        observe=_observe(9, 1, 10.0),
        failed=lambda x: ~_walker_healthy(x),
        coarse=2,
    ),
    "Swimmer": GymTask(
        start=_start(0.1),
        reward=_forward(1e-4),
        costs=_swimmer,
        observe=_observe(5, 2),
        coarse=2,
        sensors=((*_SUBTREE, "torso"),),
    ),
    "Ant": GymTask(
        start=_start(0.1, 0.1),
        reward=_ant_reward,
        costs=_ant,
        observe=_observe(15, 2),
        failed=lambda x: ~_ant_healthy(x),
        reads=_ant_reads,
        coarse=5,
    ),
    "Humanoid": GymTask(
        start=_start(1e-2),
        reward=_humanoid_reward,
        costs=_humanoid,
        observe=_observe(24, 2),
        failed=lambda x: ~_humanoid_healthy(x),
        reads=_humanoid_reads,
        coarse=2,
        sensors=((*_SUBTREE, "torso"),),
    ),
    "Reacher": GymTask(_reacher_start, _reacher_reward, _reacher, _reacher_observe, reads=_reacher_reads),
    "InvertedPendulum": GymTask(_start(0.01), _pendulum_reward, _pendulum, lambda x: x, _pendulum_failed),
    "InvertedDoublePendulum": GymTask(
        start=_start(0.1, 0.1),
        reward=_double_reward,
        costs=_double,
        observe=_double_observe,
        failed=lambda x: _tip(x)[1] <= 1,
        reads=_double_reads,
    ),
}

"""Gymnasium's MuJoCo tasks as an `Env`: their model and frame skip, their reward, their observations.

    env = from_gymnasium("HalfCheetah-v5")

Planners get a cost of their own and, where that pays, a coarser model of the same robot (`Env.planning`);
both are said in `envs.gymnasium_tasks`.
"""

import copy
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs.gymnasium_tasks import TASKS, GymTask
from envs.mjcf import Task, from_engine
from envs.mujoco import Engine, coarser, engine
from gps.types import Env

if TYPE_CHECKING:
    import gymnasium

__all__ = ["from_gymnasium", "state_of"]


def from_gymnasium(task: "str | gymnasium.Env", coarse: int | None = None, **options: Any) -> Env:
    """The task as an `Env`; x is (qpos, qvel).

    `reward(x, u, x')` is gymnasium's own, of a step that begins in x. Derived quantities that gymnasium reads
    after a step (positions of bodies, contact forces) are those that it reads, which the last stage of the
    integrator left: the step is made again to have them, outside the jitted program. Ant and Humanoid also
    read such positions *before* a step, where the last step left them; here they are those of x.

    Args:
        task: an id such as "HalfCheetah-v5", or a made environment.
        coarse: implicitfast steps per control step of the planning model; 0: plan on the model itself.
            By default what `TASKS` says.
        options: of `gymnasium.make` that leave the task as it is: `render_mode`, `max_episode_steps`, ….

    Raises:
        ImportError: gymnasium is not installed.
        ValueError: a task that is not one of `TASKS`, or with other weights, ends or robots than by default.
        gymnasium.error.Error: an id that gymnasium does not know.
    """
    wrapped = _made(task, options)
    name, spec = _spec(wrapped)
    made: Any = wrapped.unwrapped
    sim = engine(_with_sensors(made, spec), substeps=made.frame_skip)
    dt, length = float(made.dt), wrapped.spec.max_episode_steps or 1000
    steps = spec.coarse if coarse is None else coarse
    cost, final_cost = spec.costs(dt)
    reward = _reward(made, spec, dt)
    qpos, qvel = np.array(made.init_qpos), np.array(made.init_qvel)

    def of(sim: Engine, planning: Env | None) -> Env:
        task = Task(
            cost=cost,
            final_cost=final_cost,
            init=lambda key: spec.start(key, jnp.asarray(qpos), jnp.asarray(qvel)),
            observe=lambda x, y: spec.observe(x),
            failed=lambda x, y: spec.failed(x),
            reward=reward,
            planning=planning,
        )
        return from_engine(sim, lambda context: task, horizon=length, name=name)

    return of(sim, of(coarser(sim, steps), None) if steps else None)


def state_of(env: "gymnasium.Env") -> Float[np.ndarray, " nx"]:
    """The state (qpos, qvel) of a gymnasium environment as it stands now."""
    made: Any = env.unwrapped
    data = made.data
    return np.concatenate([data.qpos, data.qvel])


# ------------------------------------------------------------------------------------- internals

UNTOUCHED = {
    "camera_id",
    "camera_name",
    "default_camera_config",
    "frame_skip",
    "height",
    "max_geom",
    "render_mode",
    "visual_options",
    "width",
}
"""Options of gymnasium's environments that leave reward, starts and ends alone."""


def _made(task: "str | gymnasium.Env", options: dict[str, Any]) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("gymnasium is not installed: pip install 'guided-policy-search[gym]'") from error
    if isinstance(task, str):
        return gymnasium.make(task, **options)
    if not isinstance(task, gymnasium.Env):
        raise ValueError(f"task must be an id such as 'HalfCheetah-v5', or a gymnasium.Env, came {task!r}")
    return task


def _spec(made: Any) -> tuple[str, GymTask]:
    name = made.spec.id if made.spec else type(made).__name__
    kind = name.split("-")[0]
    if kind not in TASKS or not name.endswith("-v5"):
        close = difflib.get_close_matches(kind, TASKS, 1)
        hint = f"did you mean {close[0]}-v5? " if close else ""
        own = "for another use envs.from_mjcf(env.unwrapped.model, cost=…, substeps=env.unwrapped.frame_skip)"
        raise ValueError(
            f"no task {name!r} here: {hint}known are {', '.join(f'{kind}-v5' for kind in TASKS)}; "
            + (own if hasattr(made.unwrapped, "model") else "it is not one of MuJoCo's")
        )
    changed = sorted(set(made.spec.kwargs) - UNTOUCHED) if made.spec else []
    if changed:
        raise ValueError(
            f"{name} is known with the settings that it has by default, came {', '.join(changed)}: what is "
            "said of its reward and its ends here would not hold"
        )
    return name, TASKS[kind]


def _with_sensors(made: Any, spec: GymTask) -> mujoco.MjModel:
    """The task's model with the sensors of its planning cost."""
    if not spec.sensors:
        return made.model
    source = mujoco.MjSpec.from_file(made.fullpath)
    if not _same_numbers(source.compile(), made.model):
        raise ValueError(
            f"the model of {made.spec.id} was changed after it was made, and its planning cost reads sensors "
            "that are added to the file: use envs.from_mjcf(model, cost=…)"
        )
    for kind, of, name in spec.sensors:
        source.add_sensor(type=kind, objtype=of, objname=name)
    return source.compile()


def _same_numbers(one: mujoco.MjModel, other: mujoco.MjModel) -> bool:
    """Whether the physics of two models is the same."""
    names = [n for n in dir(one) if isinstance(getattr(one, n), np.ndarray)]
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def _reward(made: Any, spec: GymTask, dt: float) -> Callable[..., Array]:
    """(x, u, x') → reward."""
    if spec.reads is None:
        none = jnp.zeros(0)
        return lambda x, u, x_next: spec.reward(x, u, x_next, dt, none, none)
    model, reads, skip = copy.copy(made.model), spec.reads, made.frame_skip
    nq, size = model.nq, reads(model, mujoco.MjData(model)).size

    def look(x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = x[:nq], x[nq:], u
        mujoco.mj_forward(model, data)
        before = reads(model, data)
        mujoco.mj_step(model, data, nstep=skip)
        mujoco.mj_rnePostConstraint(model, data)
        return before.astype(x.dtype), reads(model, data).astype(x.dtype)

    def reward(x: Array, u: Array, x_next: Array) -> Array:
        shape = jax.ShapeDtypeStruct((size,), x.dtype)
        before, after = jax.pure_callback(look, (shape, shape), x, u, vmap_method="sequential")
        return spec.reward(x, u, x_next, dt, before, after)

    return reward

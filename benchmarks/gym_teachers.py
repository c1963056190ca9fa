"""Teachers that plan at every step of Gymnasium's MuJoCo tasks: the return of an episode, and what it takes.

The world is gymnasium's own, and so are the rewards that are summed; the teacher gets its (qpos, qvel) and
plans on `envs.gymnasium.from_gymnasium`'s model and cost. Settings were chosen on seeds from 100 on. Episodes
are kept in runs/gym_teachers and not run again; the time of a step is measured anew, along 30 of them.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import teachers
from benchmarks.harness import Row, kept, main
from envs.export import Episode, record
from envs.gymnasium import from_gymnasium
from envs.gymnasium_tasks import TASKS
from gps.placement import cpu_jit
from gps.types import Teacher
from teachers.planner import Planner

SEEDS = (0, 1, 2)


class Setting(NamedTuple):
    """The teacher of one task."""

    horizon: int
    iterations: int
    planner: Callable[..., Planner]
    target: str
    """Of the mean return."""
    initial_iterations: int = 0


def sampling(horizon: int, iterations: int, target: str, **options: Any) -> Setting:
    """CEM with these settings."""
    return Setting(horizon, iterations, partial(teachers.cem, **options), target)


SETTINGS = {
    "HalfCheetah": sampling(
        16, 9, ">= 10000", samples=140, noise=teachers.white(), std=1.5, elites=12, keep=6
    ),
    "Walker2d": sampling(
        60, 5, ">= 5800", samples=80, noise=teachers.spline(10), std=0.6, elites=8, keep=4, returns="mean"
    ),
    "Humanoid": sampling(40, 4, ">= 6500", samples=80, noise=teachers.spline(8), std=0.6, elites=8, keep=4),
    "Ant": sampling(
        16, 5, ">= 5000", samples=80, noise=teachers.coloured(1.0), std=0.8, elites=8, keep=4, returns="mean"
    ),
    "Swimmer": sampling(60, 6, ">= 340", samples=100, noise=teachers.spline(8), std=1.0, elites=10, keep=4),
    "Hopper": sampling(
        80, 4, ">= 3000", samples=64, noise=teachers.spline(12), std=0.4, elites=8, keep=4, returns="mean"
    ),
    "InvertedPendulum": Setting(20, 1, teachers.ilqr, ">= 1000", 50),
    "InvertedDoublePendulum": Setting(20, 5, teachers.ilqr, ">= 9300", 100),
    "Reacher": sampling(15, 3, ">= -5", samples=32),
}


def teacher(setting: Setting) -> Callable[..., Teacher]:
    """(env, …) → the teacher of the task; the rest goes to `teachers.mpc`."""
    return partial(
        teachers.mpc,
        horizon=setting.horizon,
        iterations=setting.iterations,
        initial_iterations=setting.initial_iterations,
        planner=setting.planner,
    )


def drive(task: str, setting: Setting, seed: int, steps: int | None = None) -> Episode:
    """One episode of gymnasium's task, of at most `steps` control steps."""
    world = gymnasium.make(f"{task}-v5")
    env = from_gymnasium(world)
    return record(env._replace(horizon=steps or env.horizon), teacher(setting), 1, world=world, seed=seed)[0]


def pace(task: str, setting: Setting, steps: int) -> float:
    """Seconds per control step, the median along the first steps of an episode, without compiling."""
    states = drive(task, setting, SEEDS[0], steps).states
    made = teacher(setting)(from_gymnasium(f"{task}-v5"))
    act, key, spent = cpu_jit(made.act), jax.random.key(SEEDS[0]), []
    state = cpu_jit(made.init)(key, jnp.asarray(states[0]))
    jax.block_until_ready(act(key, state, jnp.asarray(states[0]), 0))  # compile
    for t, x in enumerate(states[:-1]):
        begun = time.perf_counter()
        _, state = jax.block_until_ready(act(jax.random.fold_in(key, t), state, jnp.asarray(x), t))
        spent.append(time.perf_counter() - begun)
    return float(np.median(spent))


def substeps(task: str) -> int:
    """Engine steps per control step of the planning model."""
    world: Any = gymnasium.make(f"{task}-v5").unwrapped
    return TASKS[task].coarse or world.frame_skip


def outcome(task: str, setting: Setting, seed: int, steps: int | None) -> dict[str, Any]:
    """An episode's return and whether it ended before its time, kept."""

    def make() -> dict[str, Any]:
        episode = drive(task, setting, seed, steps)
        return {"return": float(np.sum(episode.rewards)), "fell": episode.terminated}

    return kept([Path(__file__)], [gymnasium.__version__, task, seed, steps], make)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        setting = SETTINGS[task]
        seeds, steps = (SEEDS[:1], 3) if fast else (SEEDS, None)
        episodes = [outcome(task, setting, seed, steps) for seed in seeds]
        returns = np.array([one["return"] for one in episodes])
        found = [
            Row("return, mean", returns.mean(), "reward", None if fast else setting.target),
            Row("return, worst seed", returns.min(), "reward"),
            Row("episodes to the end", float(np.mean([not one["fell"] for one in episodes])), "share"),
            Row("median time per control step", pace(task, setting, steps or 30), "s", "<= 0.3"),
        ]
        samples = setting.planner.keywords.get("samples") if isinstance(setting.planner, partial) else None
        if samples:
            steps = samples * setting.iterations * setting.horizon * substeps(task)
            found.append(Row("engine steps per control step", steps, "mj_step"))
        return found

    return rows


if __name__ == "__main__":
    main("gym_teachers", {task: case(task) for task in SETTINGS}, seeds=SEEDS)

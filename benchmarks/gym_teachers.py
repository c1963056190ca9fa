"""Teachers that plan at every step of Gymnasium's MuJoCo tasks: the return of an episode, and what it takes.

The world is gymnasium's own, and so are the rewards that are summed; the teacher gets its (qpos, qvel) and
plans on `envs.gymnasium.from_gymnasium`'s model and cost. Settings were chosen on seeds from 100 on. Episodes
are kept in runs/gym_teachers and not run again; the time of a step is measured anew, in 30 of them.
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
from envs.gymnasium import from_gymnasium, state_of
from envs.gymnasium_tasks import TASKS
from gps.placement import cpu_jit
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


class Episode(NamedTuple):
    """What one came to."""

    reward: float
    """Sum of them: the return."""
    length: int
    seconds: float
    """Per control step, the median, without compiling."""
    ended: bool
    """Before its time, by a fall."""


def drive(task: str, setting: Setting, seed: int, steps: int | None = None) -> Episode:
    """One episode of gymnasium's task, of at most `steps` control steps."""
    world = gymnasium.make(f"{task}-v5")
    env = from_gymnasium(world)
    teacher = teachers.mpc(
        env,
        setting.horizon,
        setting.iterations,
        initial_iterations=setting.initial_iterations,
        planner=setting.planner,
    )
    act, key = cpu_jit(teacher.act), jax.random.key(seed)
    world.reset(seed=seed)
    state = cpu_jit(teacher.init)(key, jnp.asarray(state_of(world)))
    jax.block_until_ready(act(key, state, jnp.asarray(state_of(world)), 0))  # compile
    total, spent, terminated = 0.0, [], False
    for t in range(min(steps or env.horizon, env.horizon)):
        begun = time.perf_counter()
        action, state = act(jax.random.fold_in(key, t), state, jnp.asarray(state_of(world)), t)
        u = np.asarray(action.dist.mean)
        spent.append(time.perf_counter() - begun)
        _, reward, terminated, _, _ = world.step(u)
        total += float(reward)
        if terminated:
            break
    return Episode(total, len(spent), float(np.median(spent)), terminated)


def substeps(task: str) -> int:
    """Engine steps per control step of the planning model."""
    world: Any = gymnasium.make(f"{task}-v5").unwrapped
    return TASKS[task].coarse or world.frame_skip


def episode(task: str, setting: Setting, seed: int, steps: int | None) -> Episode:
    """The same, kept."""
    row = kept(
        Path(__file__),
        [gymnasium.__version__, task, seed, steps],
        lambda: drive(task, setting, seed, steps)._asdict(),
    )
    return Episode(*(row[name] for name in Episode._fields))


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        setting = SETTINGS[task]
        seeds, steps = (SEEDS[:1], 3) if fast else (SEEDS, None)
        episodes = [episode(task, setting, seed, steps) for seed in seeds]
        pace = drive(task, setting, seeds[0], 3 if fast else 30).seconds
        returns = np.array([one.reward for one in episodes])
        found = [
            Row("return, mean", returns.mean(), "reward", None if fast else setting.target),
            Row("return, worst seed", returns.min(), "reward"),
            Row("episodes to the end", float(np.mean([not one.ended for one in episodes])), "share"),
            Row("median time per control step", pace, "s", "<= 0.3"),
        ]
        samples = setting.planner.keywords.get("samples") if isinstance(setting.planner, partial) else None
        if samples:
            steps = samples * setting.iterations * setting.horizon * substeps(task)
            found.append(Row("engine steps per control step", steps, "mj_step"))
        return found

    return rows


if __name__ == "__main__":
    main("gym_teachers", {task: case(task) for task in SETTINGS}, seeds=SEEDS)

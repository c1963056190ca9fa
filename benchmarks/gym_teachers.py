"""Teachers that plan at every step of Gymnasium's MuJoCo tasks: the return of an episode, and what it takes.

The world is gymnasium's own, and so are the rewards that are summed; the teacher gets its (qpos, qvel) and
plans on `envs.gymnasium.from_gymnasium`'s model and cost. Settings were chosen on seeds from 100 on. Episodes
are kept in runs/gym_teachers and not run again; seconds are those of the run that is kept, not compiling.
"""

import functools
import time
from collections.abc import Callable
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
    rollouts: int = 0
    """In each iteration; 0 for iLQR, whose engine steps are not counted."""


def sampling(horizon: int, iterations: int, target: str, samples: int, **options: Any) -> Setting:
    """CEM with these settings."""
    planner = functools.partial(teachers.cem, samples=samples, **options)
    return Setting(horizon, iterations, planner, target, rollouts=samples)


SETTINGS = {
    "HalfCheetah": sampling(16, 8, ">= 10000", 100, noise=teachers.white(), std=1.5, elites=12, keep=6),
    "Walker2d": sampling(60, 4, ">= 5800", 64, noise=teachers.spline(10), std=0.6, elites=6, keep=4),
    "Humanoid": sampling(40, 4, ">= 6500", 80, noise=teachers.spline(8), std=0.6, elites=8, keep=4),
    "Ant": sampling(16, 4, ">= 5000", 60, noise=teachers.coloured(1.0), std=0.8, elites=8, keep=4),
    "Swimmer": sampling(100, 6, ">= 340", 100, noise=teachers.spline(12), std=1.0, elites=10, keep=4),
    "Hopper": sampling(80, 3, ">= 3000", 64, noise=teachers.spline(12), std=0.4, elites=8, keep=4),
    "InvertedPendulum": Setting(20, 1, teachers.ilqr, ">= 1000", 50),
    "InvertedDoublePendulum": Setting(20, 5, teachers.ilqr, ">= 9300", 100),
    "Reacher": sampling(15, 3, ">= -5", 32),
}


class Episode(NamedTuple):
    """What one came to."""

    reward: float
    """Sum of them: the return."""
    length: int
    seconds: float
    """Per control step, the median."""
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
    act, key = jax.jit(teacher.act), jax.random.key(seed)
    world.reset(seed=seed)
    state = jax.jit(teacher.init)(key, jnp.asarray(state_of(world)))
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
        returns = np.array([one.reward for one in episodes])
        sampled = setting.rollouts * setting.iterations * setting.horizon
        found = [
            Row("return, mean", returns.mean(), "reward", None if fast else setting.target),
            Row("return, worst seed", returns.min(), "reward"),
            Row("episodes to the end", float(np.mean([not one.ended for one in episodes])), "share"),
            Row(
                "median time per control step, slowest seed",
                max(one.seconds for one in episodes),
                "s",
                "<= 0.3",
            ),
        ]
        if sampled:
            found.append(Row("engine steps per control step", sampled * substeps(task), "mj_step"))
        return found

    return rows


if __name__ == "__main__":
    main("gym_teachers", {task: case(task) for task in SETTINGS}, seeds=SEEDS)

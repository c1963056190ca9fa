"""Students of Gymnasium's MuJoCo tasks: gymnasium's own observations, taught by the planners.

Of the double pendulum's observations they see all but the last, the force at the end of its rail.

Teacher and student are judged in gymnasium's own worlds, from the same starts, by its own rewards; the
teachers are those of `benchmarks.gym_teachers`, but where the lessons name another. What a student keeps is
its share of what its teacher gains over doing nothing. Training is kept in runs/gym_students, iteration by
iteration, and goes on where it was stopped.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

import teachers
from benchmarks import gym_teachers
from benchmarks.gym_teachers import Setting, sampling
from benchmarks.harness import Row, kept, main, place
from envs.gymnasium import from_gymnasium
from gps import checkpoint
from gps.algorithms.coaching import coaching
from gps.algorithms.dagger import dagger
from gps.labels import example_row
from gps.placement import cpu_jit
from gps.types import Algorithm, Env
from students.policies import mlp

SCRIPTS = [Path(__file__), Path(gym_teachers.__file__)]

SEED = 0
"""Of the training; its worlds are none of those that judge."""


class Lessons(NamedTuple):
    """How a student is taught."""

    algorithm: Callable[..., Algorithm]
    iterations: int
    num_worlds: int
    num_steps: int
    updates: int = 4000
    hidden: tuple[int, ...] = (256, 256)
    setting: Setting | None = None
    """Of the teacher; None: that of `gym_teachers`."""
    episodes: int = 3
    """That judge, from seed 0 on."""
    target: str = ">= 0.9"


GENTLE = sampling(16, 4, "", samples=64, noise=teachers.white(), std=0.6, elites=8, keep=4, returns="mean")
"""A cheetah's teacher that acts by the mean of its best samples, and takes a fifth of the rollouts."""

LESSONS = {
    "Reacher": Lessons(dagger, iterations=20, num_worlds=64, num_steps=50, episodes=20),
    "InvertedDoublePendulum": Lessons(
        functools.partial(dagger, loss="mse"),
        iterations=16,
        num_worlds=12,
        num_steps=250,
        updates=8000,
        hidden=(64, 64),
        episodes=8,
    ),
    "HalfCheetah": Lessons(
        functools.partial(coaching, price=0.3, window=8),
        iterations=40,
        num_worlds=8,
        num_steps=125,
        updates=500,
        hidden=(128, 128),
        setting=GENTLE,
    ),
}


def rows_of(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        lessons, steps = LESSONS[task], 3 if fast else None
        if fast:
            lessons = lessons._replace(iterations=2, num_worlds=2, num_steps=3, updates=10, episodes=1)
        world, setting = gymnasium.make(f"{task}-v5"), lessons.setting or gym_teachers.SETTINGS[task]
        env, seeds = from_gymnasium(world), range(lessons.episodes)

        def shown(seed: int) -> dict[str, Any]:
            return {"return": float(np.sum(gym_teachers.drive(task, setting, seed, steps).rewards))}

        act, labels = taught(task, env, setting, lessons, fast)
        own = np.mean([play(world, seed, steps, act) for seed in seeds])
        idle = np.mean([play(world, seed, steps, lambda obs: np.zeros(env.nu)) for seed in seeds])
        said = [gymnasium.__version__, task, steps]
        episodes = [kept(SCRIPTS, [*said, seed], functools.partial(shown, seed)) for seed in seeds]
        best = np.mean([episode["return"] for episode in episodes])
        return [
            Row("student's return, mean", float(own), "reward"),
            Row("teacher's return, mean", float(best), "reward"),
            Row("return of doing nothing, mean", float(idle), "reward"),
            Row("share kept", float((own - idle) / (best - idle)), "share", None if fast else lessons.target),
            Row("labelled states", labels, "1"),
        ]

    return rows


def taught(
    task: str, env: Env, setting: Setting, lessons: Lessons, fast: bool
) -> tuple[Callable[[np.ndarray], Any], int]:
    """(what the student does with gymnasium's observation, how many labels it took), resumed if kept."""
    student = mlp(env.nu, hidden=lessons.hidden, limits=env.limits)
    algorithm = lessons.algorithm(
        env,
        gym_teachers.teacher(setting),
        student,
        iterations=lessons.iterations,
        num_worlds=lessons.num_worlds,
        num_steps=lessons.num_steps,
        updates=lessons.updates,
        test_worlds=0,
    )
    folder, _ = place(SCRIPTS, [gymnasium.__version__, task, fast])
    init_key, run_key = jax.random.split(jax.random.key(SEED))
    state, begun = algorithm.init(init_key), 0
    if folder.exists() and checkpoint.steps(folder):
        begun, state = checkpoint.restore(folder, state)
    for i in range(begun, lessons.iterations):
        state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        checkpoint.save(folder, i + 1, state)
    variables, known = algorithm.policy(state), example_row(env, init_key).obs.size

    @cpu_jit
    def act(obs: Any) -> jax.Array:
        return student.apply(variables, obs[:known], ())[0].mode()

    return act, int(state.totals["samples"])


def play(world: gymnasium.Env, seed: int, steps: int | None, act: Callable[[np.ndarray], Any]) -> float:
    """The return of one episode in gymnasium's world."""
    obs, _ = world.reset(seed=seed)
    total, over, t = 0.0, False, 0
    while not over and t != steps:
        obs, reward, terminated, truncated, _ = world.step(np.asarray(act(obs)))
        total, over, t = total + float(reward), terminated or truncated, t + 1
    return total


if __name__ == "__main__":
    seeds = range(max(lessons.episodes for lessons in LESSONS.values()))
    main("gym_students", {task: rows_of(task) for task in LESSONS}, seeds=seeds)

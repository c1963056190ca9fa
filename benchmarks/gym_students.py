"""Students of Gymnasium's MuJoCo tasks: gymnasium's own observations, taught by DAgger from the planners.

Of the double pendulum's observations they see all but the last, the force at the end of its rail.

The teachers are those of `benchmarks.gym_teachers`; both are judged in gymnasium's own worlds, from the same
starts, by its own rewards. What a student keeps is its share of what its teacher gains over doing nothing.
Training is kept in runs/gym_students, iteration by iteration, and goes on where it was stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from benchmarks import gym_teachers
from benchmarks.harness import Row, main, place
from envs.gymnasium import from_gymnasium
from gps import checkpoint
from gps.algorithms.dagger import dagger
from gps.labels import example_row
from gps.placement import cpu_jit
from gps.types import Env
from students.networks import mlp

SEED = 0
"""Of the training; its worlds are none of those that judge."""


class Lessons(NamedTuple):
    """How a student is taught."""

    iterations: int
    num_worlds: int
    num_steps: int
    beta: float = 0.0
    updates: int = 4000
    hidden: tuple[int, ...] = (256, 256)
    episodes: int = 3
    """That judge, from seed 0 on."""
    target: str = ">= 0.9"


LESSONS = {
    "Reacher": Lessons(iterations=20, num_worlds=64, num_steps=50, episodes=20),
    "InvertedDoublePendulum": Lessons(iterations=6, num_worlds=8, num_steps=150),
    "HalfCheetah": Lessons(iterations=10, num_worlds=4, num_steps=250, beta=0.7),
}


def rows_of(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        lessons, steps = LESSONS[task], 3 if fast else None
        if fast:
            lessons = lessons._replace(iterations=2, num_worlds=2, num_steps=3, updates=10, episodes=1)
        world = gymnasium.make(f"{task}-v5")
        env, setting, seeds = from_gymnasium(world), gym_teachers.SETTINGS[task], range(lessons.episodes)
        act, labels = taught(task, env, lessons)
        own = np.mean([play(world, seed, steps, act) for seed in seeds])
        idle = np.mean([play(world, seed, steps, lambda obs: np.zeros(env.nu)) for seed in seeds])
        best = np.mean([gym_teachers.outcome(task, setting, seed, steps)["return"] for seed in seeds])
        return [
            Row("student's return, mean", float(own), "reward"),
            Row("teacher's return, mean", float(best), "reward"),
            Row("return of doing nothing, mean", float(idle), "reward"),
            Row("share kept", float((own - idle) / (best - idle)), "share", None if fast else lessons.target),
            Row("labelled states", labels, "1"),
        ]

    return rows


def taught(task: str, env: Env, lessons: Lessons) -> tuple[Callable[[np.ndarray], Any], int]:
    """(what the student does with gymnasium's observation, how many labels it took), resumed if kept."""
    student = mlp(env.nu, hidden=lessons.hidden, limits=env.limits)
    algorithm = dagger(
        env,
        gym_teachers.teacher(gym_teachers.SETTINGS[task]),
        student,
        beta=lessons.beta,
        iterations=lessons.iterations,
        num_worlds=lessons.num_worlds,
        num_steps=lessons.num_steps,
        updates=lessons.updates,
        test_worlds=0,
    )
    folder, _ = place([Path(__file__), Path(gym_teachers.__file__)], [task, lessons])
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
        return student.apply(variables, obs[:known], student.initial_carry())[0].mode()

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

"""Students of Gymnasium's MuJoCo tasks: gymnasium's own observations, taught by DAgger from the planners.

Of the double pendulum's observations they see all but the last, the force at the end of its rail.

The teachers are those of `benchmarks.gym_teachers`; both are judged in gymnasium's own worlds, from the same
starts, by its own rewards. What a student keeps is its share of what its teacher gains over doing nothing.
Training is kept in runs/gym_students, iteration by iteration, and goes on where it was stopped.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from benchmarks import gym_teachers
from benchmarks.harness import KEPT, Row, main
from envs.gymnasium import from_gymnasium
from gps import checkpoint
from gps.algorithms.dagger import dagger
from gps.labels import example_row
from gps.placement import cpu_jit
from gps.run import versions
from gps.types import Algorithm, Student
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
    target: str = ">= 0.9"


LESSONS = {
    "Reacher": Lessons(iterations=6, num_worlds=32, num_steps=50),
    "InvertedDoublePendulum": Lessons(iterations=6, num_worlds=8, num_steps=150),
    "HalfCheetah": Lessons(iterations=10, num_worlds=4, num_steps=250, beta=0.7),
}


def rows_of(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        lessons, seeds = LESSONS[task], gym_teachers.SEEDS
        if fast:
            lessons, seeds = lessons._replace(iterations=2, num_worlds=2, num_steps=3, updates=10), seeds[:1]
        student = student_of(task, lessons)
        variables, info = taught(task, lessons, student)
        steps = 3 if fast else None
        own = np.mean([play(task, seed, steps, student, variables) for seed in seeds])
        idle = np.mean([play(task, seed, steps) for seed in seeds])
        setting = gym_teachers.SETTINGS[task]
        best = np.mean([gym_teachers.outcome(task, setting, seed, steps)["return"] for seed in seeds])
        return [
            Row("student's return, mean", float(own), "reward"),
            Row("teacher's return, mean", float(best), "reward"),
            Row("return of doing nothing, mean", float(idle), "reward"),
            Row("share kept", float((own - idle) / (best - idle)), "share", None if fast else lessons.target),
            Row("labelled states", int(info["total_samples"]), "1"),
        ]

    return rows


def student_of(task: str, lessons: Lessons) -> Student:
    """A network on gymnasium's observations."""
    env = from_gymnasium(f"{task}-v5")
    return mlp(env.nu, hidden=lessons.hidden, limits=env.limits)


def taught(task: str, lessons: Lessons, student: Student) -> tuple[Any, dict[str, Any]]:
    """(the student's variables, the last iteration's info), resumed from what is kept."""
    env, setting = from_gymnasium(f"{task}-v5"), gym_teachers.SETTINGS[task]
    algorithm: Algorithm = dagger(
        env,
        gym_teachers.teacher(setting),
        student,
        beta=lessons.beta,
        iterations=lessons.iterations,
        num_worlds=lessons.num_worlds,
        num_steps=lessons.num_steps,
        updates=lessons.updates,
        test_worlds=0,
    )
    code = [
        hashlib.sha256(Path(script).read_bytes()).hexdigest() for script in (__file__, gym_teachers.__file__)
    ]
    said = json.dumps([versions(), *code, task, lessons])
    place = KEPT / "gym_students" / hashlib.sha256(said.encode()).hexdigest()[:16]
    init_key, run_key = jax.random.split(jax.random.key(SEED))
    state, begun = algorithm.init(init_key), 0
    if place.exists() and checkpoint.steps(place):
        begun, state = checkpoint.restore(place, state)
    for i in range(begun, lessons.iterations):
        state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        checkpoint.save(place, i + 1, state)
    return algorithm.policy(state), {f"total_{name}": count for name, count in state.totals.items()}


def play(
    task: str, seed: int, steps: int | None, student: Student | None = None, variables: Any = ()
) -> float:
    """The return of one episode in gymnasium's world, of the student or of controls that are zero."""
    world = gymnasium.make(f"{task}-v5")
    known = example_row(from_gymnasium(world), jax.random.key(0)).obs.size
    obs, _ = world.reset(seed=seed)
    carry = () if student is None else student.initial_carry()
    act = None if student is None else cpu_jit(student.apply)
    total, over, t = 0.0, False, 0
    assert world.action_space.shape is not None
    u = np.zeros(world.action_space.shape)
    while not over and t != steps:
        if act is not None:
            dist, carry = act(variables, obs[:known], carry)
            u = np.asarray(dist.mode())
        obs, reward, terminated, truncated, _ = world.step(u)
        total, over, t = total + float(reward), terminated or truncated, t + 1
    return total


if __name__ == "__main__":
    main("gym_students", {task: rows_of(task) for task in LESSONS}, seeds=(SEED, *gym_teachers.SEEDS))

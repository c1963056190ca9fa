"""Students that see by cameras, and remember: what each kind of them makes of a task.

Every student of a task is taught by the same algorithm with the same frames and updates. Runs are kept in
runs/perception and not made again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import students
import teachers
from benchmarks.harness import Row, kept, main
from envs import fork
from gps.algorithms.dagger import dagger
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Env, Student

SEEDS = (0, 1, 2)
WORLDS = 200
"""Unseen ones that judge each student."""


class Lessons(NamedTuple):
    """How the students of a task are taught."""

    env: Callable[[], Env]
    teacher: dict[str, Any]
    students: dict[str, tuple[Callable[..., Student], str]]
    """name → (its factory, the target of the share of worlds in which it succeeds)."""
    iterations: int
    num_worlds: int
    num_steps: int
    updates: int
    batch_size: int


LESSONS = {
    "fork": Lessons(
        env=fork.fork,
        teacher=fork.TEACHER,
        students={
            "cnn, memoryless": (students.cnn, "<= 0.6"),
            "cnn + gru": (partial(students.cnn, **fork.STUDENT), ">= 0.95"),
        },
        iterations=8,
        num_worlds=16,
        num_steps=110,
        updates=600,
        batch_size=512,
    ),
}


def outcome(task: str, name: str, seed: int, fast: bool) -> dict[str, Any]:
    """What a student of `task` comes to, kept."""
    lessons = LESSONS[task]
    if fast:
        lessons = lessons._replace(iterations=1, num_worlds=4, updates=2)

    def make() -> dict[str, Any]:
        env = lessons.env()
        student = lessons.students[name][0](env.nu, limits=env.limits)
        algorithm = dagger(
            env,
            partial(teachers.mpc, **lessons.teacher),
            student,
            iterations=lessons.iterations,
            num_worlds=lessons.num_worlds,
            num_steps=lessons.num_steps,
            updates=lessons.updates,
            batch_size=lessons.batch_size,
            loss="mse",
            test_worlds=0,
        )
        init_key, run_key, judge_key = jax.random.split(jax.random.key(seed), 3)
        state = algorithm.init(init_key)
        for i in range(lessons.iterations):
            state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        keys = jax.random.split(judge_key, 4 if fast else WORLDS)
        scores, _ = cpu_jit(evaluate(env, student=student))(keys, algorithm.policy(state))
        return {
            "success": float(jnp.mean(scores.survived)),
            "frames": int(state.totals["samples"]),
            "updates": int(state.totals["gradient_updates"]),
        }

    return kept([Path(__file__)], [task, name, seed, fast], make)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        found = []
        for name, (_, target) in LESSONS[task].students.items():
            runs = [outcome(task, name, seed, fast) for seed in (SEEDS[:1] if fast else SEEDS)]
            success = np.array([run["success"] for run in runs])
            wanted = None if fast else target
            found += [
                Row(f"{name}: success, mean", float(success.mean()), "share", wanted),
                Row(f"{name}: success, worst seed", float(success.min()), "share"),
                Row(f"{name}: frames per seed", float(runs[0]["frames"]), "1"),
                Row(f"{name}: updates per seed", float(runs[0]["updates"]), "1"),
            ]
        return found

    return rows


if __name__ == "__main__":
    main("perception", {task: case(task) for task in LESSONS}, seeds=SEEDS, x64=False)

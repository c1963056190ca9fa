"""Students that see by cameras, and remember: what each way to teach them makes of a task.

All students of a task learn from as many frames with as many updates. Runs are kept in runs/perception and
not made again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.stats import bootstrap

import students
import teachers
from benchmarks.harness import Row, kept, main
from envs import fork, lane_drive
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.plato import plato
from gps.algorithms.side_cameras import side_cameras
from gps.episodes import episodes, student_drives
from gps.evaluate import autonomy, evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, Student

SEEDS = (0, 1, 2)

Judge = Callable[[Env, Student, Array, PyTree, bool], Float[np.ndarray, " worlds"]]
"""(env, student, key, variables, fast) → a score for each unseen world."""


class Course(NamedTuple):
    """One way to learn."""

    algorithm: Callable[..., Algorithm]
    """(env, make_teacher, student, **budget) → Algorithm."""
    student: Callable[..., Student]
    target: str | None = None
    """Of the mean score."""
    looks: int = 1
    """How many frames it makes of each state: it then gets as many states less."""


class Lessons(NamedTuple):
    """A task, and what is compared on it."""

    env: Callable[[], Env]
    teacher: dict[str, Any]
    courses: dict[str, Course]
    budget: dict[str, int]
    """Of every course, in frames."""
    judge: Judge
    score: tuple[str, str]
    """What the judge measures, and its unit."""
    gap: tuple[str, str, str] | None = None
    """(a better course, a worse one, target of the difference)."""


def survival(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> np.ndarray:
    """1 in each of 200 worlds in which the student does not fail, else 0."""
    keys = jax.random.split(key, 4 if fast else 200)
    scores, _ = cpu_jit(evaluate(env, student=student))(keys, variables)
    return np.asarray(scores.survived)


def driving(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> np.ndarray:
    """Autonomy, %, in a minute on each of 30 roads; after an intervention it goes on on another road."""
    keys, steps = jax.random.split(key, 2 if fast else 30), 20 if fast else 600
    run = cpu_jit(episodes(env, student_drives, steps, student=student, spares=12))
    interventions = np.asarray(run(keys, variables, ()).failed).sum(axis=0)
    return np.asarray(autonomy(interventions, steps * env.dt))


MSE = {"loss": "mse"}
LESSONS = {
    "fork": Lessons(
        env=fork.fork,
        teacher=fork.TEACHER,
        courses={
            "cnn, memoryless": Course(partial(dagger, **MSE), students.cnn, "<= 0.6"),
            "cnn + gru": Course(partial(dagger, **MSE), partial(students.cnn, **fork.STUDENT), ">= 0.95"),
        },
        budget={"iterations": 8, "num_worlds": 16, "num_steps": 110, "updates": 600, "batch_size": 512},
        judge=survival,
        score=("success", "share"),
    ),
    "lane_drive": Lessons(
        env=lane_drive.lane_drive,
        teacher=lane_drive.TEACHER,
        courses={
            "BC, centre camera": Course(partial(bc, **MSE), students.cnn),
            "BC, three cameras": Course(partial(side_cameras, **MSE), students.cnn, ">= 95", looks=3),
            "DAgger": Course(partial(dagger, **MSE), students.cnn, ">= 98"),
            "PLATO": Course(plato, students.cnn, ">= 98"),
        },
        budget={"iterations": 6, "num_worlds": 8, "num_steps": 150, "updates": 600, "batch_size": 256},
        judge=driving,
        score=("autonomy", "%"),
        gap=("BC, three cameras", "BC, centre camera", ">= 10"),
    ),
}


def outcome(task: str, name: str, seed: int, fast: bool) -> dict[str, Any]:
    """What a course of `task` comes to, kept."""
    lessons = LESSONS[task]
    course, budget = lessons.courses[name], dict(lessons.budget)
    budget["num_steps"] //= course.looks
    if fast:
        budget |= {"iterations": 1, "num_worlds": 4, "updates": 2}

    def make() -> dict[str, Any]:
        env = lessons.env()
        student = course.student(env.nu, limits=env.limits)
        teacher = partial(teachers.mpc, **lessons.teacher)
        algorithm = course.algorithm(env, teacher, student, test_worlds=0, **budget)
        init_key, run_key, judge_key = jax.random.split(jax.random.key(seed), 3)
        state = algorithm.init(init_key)
        for i in range(budget["iterations"]):
            state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        scores = lessons.judge(env, student, judge_key, algorithm.policy(state), fast)
        return {
            "scores": [float(score) for score in scores],
            "frames": int(state.totals["samples"]),
            "updates": int(state.totals["gradient_updates"]),
        }

    return kept([Path(__file__)], [task, name, seed, fast], make)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""
    lessons = LESSONS[task]
    score, unit = lessons.score

    def rows(fast: bool) -> list[Row]:
        found, known = [], {}
        for name, course in lessons.courses.items():
            runs = [outcome(task, name, seed, fast) for seed in (SEEDS[:1] if fast else SEEDS)]
            scores = np.array([run["scores"] for run in runs])
            low, high = _interval(scores.ravel())
            known[name] = float(scores.mean()), low, high
            found += [
                Row(f"{name}: {score}, mean", known[name][0], unit, None if fast else course.target),
                Row(f"{name}: {score}, worst seed", float(scores.mean(axis=1).min()), unit),
                Row(f"{name}: {score}, 95 % interval from", low, unit),
                Row(f"{name}: {score}, 95 % interval to", high, unit),
                Row(f"{name}: frames per seed", float(runs[0]["frames"]), "1"),
                Row(f"{name}: updates per seed", float(runs[0]["updates"]), "1"),
            ]
        if lessons.gap is not None and not fast:
            better, worse, target = lessons.gap
            found += [
                Row(f"{better} less {worse}: {score}", known[better][0] - known[worse][0], unit, target),
                Row(
                    f"{better} less {worse}: between the intervals",
                    known[better][1] - known[worse][2],
                    unit,
                    "> 0",
                ),
            ]
        return found

    return rows


def _interval(scores: np.ndarray) -> tuple[float, float]:
    """Of the mean, 95 %, by bootstrap over worlds and seeds."""
    if np.ptp(scores) == 0:
        return float(scores[0]), float(scores[0])
    low, high = bootstrap((scores,), np.mean, rng=0, method="percentile").confidence_interval
    return float(low), float(high)


if __name__ == "__main__":
    main("perception", {task: case(task) for task in LESSONS}, seeds=SEEDS, x64=False)

"""Students that see by cameras, and remember: what each way to teach them makes of a task.

The comparisons are written down in `benchmarks.lessons`. Runs are kept in runs/perception and not made again.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import bootstrap

import teachers
from benchmarks.harness import Row, kept, main
from benchmarks.lessons import LESSONS, Lessons, Verdict
from envs import sights
from gps import plots
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm

FAST = {"iterations": 1, "num_worlds": 4, "updates": 2}
PICTURES, FOLDER = 7, Path(__file__).resolve().parents[1] / "docs"
"""In a film, and where these go."""


class Taught(NamedTuple):
    """A course made ready, its programs compiled once for all seeds."""

    algorithm: Algorithm
    iterations: int
    verdict: Verdict


@cache
def ready(task: str, name: str, fast: bool) -> Taught:
    """The course `name` of `task`."""
    lessons = LESSONS[task]
    course = lessons.courses[name]
    budget = dict(lessons.budget if course.budget is None else course.budget)
    if "num_steps" in budget:
        budget["num_steps"] //= course.looks
    if fast:
        budget |= {key: value for key, value in FAST.items() if key in budget}
    env = (course.env or lessons.env)()
    student = course.student(env.nu, limits=env.limits)
    teacher = partial(teachers.mpc, **lessons.teacher)
    algorithm = course.algorithm(env, teacher, student, test_worlds=0, **budget)
    return Taught(algorithm, budget["iterations"], lessons.judge(env, student, fast))


def outcome(task: str, name: str, seed: int, fast: bool) -> dict[str, Any]:
    """What a course of `task` comes to, kept."""

    def make() -> dict[str, Any]:
        algorithm, iterations, verdict = ready(task, name, fast)
        init_key, run_key, judge_key = jax.random.split(jax.random.key(seed), 3)
        state = algorithm.init(init_key)
        for i in range(iterations):
            state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        scores = verdict(judge_key, algorithm.policy(state))
        return {
            "scores": {score: found.tolist() for score, found in scores.items()},
            "frames": int(state.totals["samples"]),
            "updates": int(state.totals["gradient_updates"]),
        }

    return kept([Path(__file__), Path(__file__).with_name("lessons.py")], [task, name, seed, fast], make)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""
    lessons = LESSONS[task]

    def rows(fast: bool) -> list[Row]:
        found, known = [], {}
        for name, course in lessons.courses.items():
            runs = [outcome(task, name, seed, fast) for seed in lessons.seeds[: 1 if fast else None]]
            for (score, unit), target in zip(lessons.units.items(), course.targets, strict=True):
                scores = np.array([run["scores"][score] for run in runs])
                mean, (low, high) = float(scores.mean()), _interval(scores.ravel())
                known[name, score] = mean, low, high
                found += [
                    Row(f"{name}: {score}, mean", mean, unit, None if fast else target),
                    Row(f"{name}: {score}, worst seed", float(scores.mean(axis=1).min()), unit),
                    Row(f"{name}: {score}, 95 % interval from", low, unit),
                    Row(f"{name}: {score}, 95 % interval to", high, unit),
                ]
            found += [
                Row(f"{name}: frames per seed", float(runs[0]["frames"]), "1"),
                Row(f"{name}: updates per seed", float(runs[0]["updates"]), "1"),
            ]
        if lessons.filmed is not None and not fast:
            film(lessons, lessons.filmed)
        return found if lessons.gap is None or fast else found + _gap(lessons, known)

    return rows


def film(lessons: Lessons, steps: int) -> None:
    """What the student would see where its teacher goes in `steps` of an episode, as a png."""
    env = lessons.env()
    keys = jax.random.split(jax.random.key(lessons.seeds[0]), 1)
    teach = evaluate(env, make_teacher=partial(teachers.mpc, **lessons.teacher), num_steps=steps)
    driven = cpu_jit(teach)(keys, ())[1]
    at = np.linspace(0, steps - 1, PICTURES).round().astype(int)
    context = jax.vmap(env.sample_context)(driven.key[0])
    rows = [
        np.concatenate(list(_framed(shown[:, 0])), axis=1)
        for shown in sights.pictures(env, context, np.asarray(driven.x)[at])
    ]
    plots.save_pixels(np.concatenate(rows), FOLDER / f"sight_{env.name}.png")


def _framed(shown: np.ndarray) -> np.ndarray:
    """Larger, with white around: [n, height, width, 3]."""
    larger = max(1, round(240 / shown.shape[2]))
    big = shown.repeat(larger, axis=1).repeat(larger, axis=2)
    n, height, width, colours = big.shape
    framed = np.full((n, height + 6, width + 6, colours), 255, np.uint8)
    framed[:, 3:-3, 3:-3] = big
    return framed


def _gap(lessons: Lessons, known: dict[tuple[str, str], tuple[float, float, float]]) -> list[Row]:
    """How much better the one course is than the other, and whether their intervals are apart."""
    assert lessons.gap is not None
    score, unit = next(iter(lessons.units.items()))
    better, worse, target = lessons.gap
    (high_mean, above, _), (low_mean, _, below) = known[better, score], known[worse, score]
    return [
        Row(f"{better} less {worse}: {score}", high_mean - low_mean, unit, target),
        Row(f"{better} less {worse}: between the intervals", above - below, unit, "> 0"),
    ]


def _interval(scores: np.ndarray) -> tuple[float, float]:
    """Of the mean, 95 %, by bootstrap over worlds and seeds."""
    if np.ptp(scores) == 0:
        return float(scores[0]), float(scores[0])
    low, high = bootstrap((scores,), np.mean, rng=0, method="percentile").confidence_interval
    return float(low), float(high)


if __name__ == "__main__":
    seeds = sorted({seed for lessons in LESSONS.values() for seed in lessons.seeds})
    main("perception", {task: case(task) for task in LESSONS}, seeds=seeds, x64=False)

"""Students that see by cameras, and remember: what each way to teach them makes of a task.

All students of a task learn from as many frames with as many updates. Runs are kept in runs/perception and
not made again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.stats import bootstrap

import students
import teachers
from benchmarks.harness import Row, kept, main
from envs import (
    cartpole_pixels,
    forest_trail,
    fork,
    lane_drive,
    peg_images,
    quadrotor_depth,
    quadrotor_forest,
    sights,
)
from gps import plots
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.mdgps import mdgps
from gps.algorithms.plato import plato
from gps.algorithms.side_cameras import side_cameras
from gps.episodes import episodes, student_drives
from gps.evaluate import autonomy, evaluate
from gps.labels import as_dataset, looked_at
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, Limits, Student

SEEDS = (0, 1, 2)
PICTURES = Path(__file__).resolve().parents[1] / "docs"

Judge = Callable[[Env, Student, Array, PyTree, bool], dict[str, Float[np.ndarray, " worlds"]]]
"""(env, student, key, variables, fast) → scores for each unseen world, by their names."""


class Course(NamedTuple):
    """One way to learn."""

    algorithm: Callable[..., Algorithm]
    """(env, make_teacher, student, **budget) → Algorithm."""
    student: Callable[..., Student]
    targets: tuple[str | None, ...]
    """Of the mean of each score."""
    env: Callable[[], Env] | None = None
    """Its own, where it is not that of the others."""
    budget: dict[str, int] | None = None
    """Its own, where it cannot be measured by that of the others."""
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
    units: dict[str, str]
    """What the judge measures, and its units."""
    filmed: int = 100
    """Steps of the teacher's in the picture of what the student sees."""
    gap: tuple[str, str, str] | None = None
    """(a better course, a worse one, target of the difference in the first score)."""


def survival(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> dict[str, np.ndarray]:
    """1 in each of 200 worlds in which the student does not fail, else 0."""
    keys = jax.random.split(key, 4 if fast else 200)
    scores, _ = cpu_jit(evaluate(env, student=student))(keys, variables)
    return {"success": np.asarray(scores.survived)}


def balancing(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> dict[str, np.ndarray]:
    """1 in each of 200 worlds in which the pole stands during the last second, else 0."""
    keys, last = jax.random.split(key, 4 if fast else 200), round(1 / env.dt)
    scores, driven = cpu_jit(evaluate(env, student=student))(keys, variables)
    stood = np.asarray(driven.metrics["upright"][-last:]).min(axis=0)
    return {"success": stood * np.asarray(scores.survived)}


def inserting(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> dict[str, np.ndarray]:
    """1 for each of 100 unseen holes that the peg is in at the end, else 0."""
    keys = jax.random.split(key, 4 if fast else 100)
    _, driven = cpu_jit(evaluate(env, student=student))(keys, variables)
    return {"inserted": np.asarray(driven.metrics["inserted"][-1])}


def driving(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> dict[str, np.ndarray]:
    """Autonomy, %, in a minute on each of 30 roads; after an intervention it goes on on another road."""
    keys, steps = jax.random.split(key, 2 if fast else 30), 20 if fast else 600
    run = cpu_jit(episodes(env, student_drives, steps, student=student, spares=12))
    interventions = np.asarray(run(keys, variables, ()).failed).sum(axis=0)
    return {"autonomy": np.asarray(autonomy(interventions, steps * env.dt))}


def hiking(env: Env, student: Student, key: Array, variables: PyTree, fast: bool) -> dict[str, np.ndarray]:
    """On each of 30 trails: metres flown until it is left, and classes told right as a hiker walks it."""
    keys, walk = jax.random.split(key, 2 if fast else 30), 10 if fast else 200
    _, flown = cpu_jit(evaluate(env, student=student, num_steps=20 if fast else None))(keys, variables)
    way = np.asarray(flown.metrics["speed"]) * np.asarray(flown.alive) * env.dt
    teacher = partial(teachers.mpc, **forest_trail.TEACHER)

    @cpu_jit
    def classify(keys: Array, variables: PyTree) -> Array:
        _, walked = evaluate(env, make_teacher=teacher, num_steps=walk)(keys, ())
        seen = looked_at(key, env, as_dataset(walked))

        def right(obs: PyTree, called: Array) -> Array:
            choice: Any = student.apply(variables, obs, ())[0]
            return jnp.all(choice.controls[jnp.argmax(choice.logits)] == called.astype(choice.controls.dtype))

        return jax.vmap(right)(seen.obs, seen.mean).reshape(len(env.views), keys.shape[0], walk)

    told = np.asarray(classify(keys, variables))
    return {"flight": way.sum(axis=0), "accuracy": 100 * told.mean(axis=(0, 2))}


def four_frames(nu: int, limits: Limits) -> Student:
    """The cnn on its last four observations."""
    return students.frame_stack(students.cnn(nu, limits=limits), 4, 16)


def by_local_teachers(
    env: Env, planner: Any, student: Student, iterations: int, test_worlds: int, **budget: Any
) -> Algorithm:
    """MDGPS: in place of the planner local teachers, who fit models to rollouts in `Env.conditions`."""
    local = partial(teachers.local_lqr, **peg_images.LOCAL)
    return mdgps(env, local, student, linearisation="regression", test_conditions=test_worlds, **budget)


MSE = {"loss": "mse"}
POINTS = partial(students.spatial_softmax, **peg_images.STUDENT)
FAST = {"iterations": 1, "num_worlds": 4, "updates": 2}
GUIDED = {"iterations": 6, "samples": 5, "updates": 1000, "batch_size": 256}
LESSONS = {
    "fork": Lessons(
        env=fork.fork,
        teacher=fork.TEACHER,
        courses={
            "cnn, memoryless": Course(partial(dagger, **MSE), students.cnn, ("<= 0.6",)),
            "cnn + gru": Course(partial(dagger, **MSE), partial(students.cnn, **fork.STUDENT), (">= 0.95",)),
        },
        budget={"iterations": 8, "num_worlds": 16, "num_steps": 110, "updates": 600, "batch_size": 512},
        judge=survival,
        units={"success": "share"},
    ),
    "cartpole_pixels": Lessons(
        env=cartpole_pixels.cartpole_pixels,
        teacher=cartpole_pixels.TEACHER,
        courses={
            "cnn, single frame": Course(partial(dagger, **MSE), students.cnn, (None,)),
            "cnn, four frames": Course(partial(dagger, **MSE), four_frames, (">= 0.95",)),
            "cnn + gru": Course(
                partial(dagger, **MSE), partial(students.cnn, **cartpole_pixels.STUDENT), (">= 0.95",)
            ),
        },
        budget={"iterations": 8, "num_worlds": 16, "num_steps": 150, "updates": 600, "batch_size": 256},
        judge=balancing,
        units={"success": "share"},
        filmed=25,
    ),
    "lane_drive": Lessons(
        env=lane_drive.lane_drive,
        teacher=lane_drive.TEACHER,
        courses={
            "BC, centre camera": Course(partial(bc, **MSE), students.cnn, (None,)),
            "BC, three cameras": Course(partial(side_cameras, **MSE), students.cnn, (">= 95",), looks=3),
            "DAgger": Course(partial(dagger, **MSE), students.cnn, (">= 98",)),
            "PLATO": Course(plato, students.cnn, (">= 98",)),
        },
        budget={"iterations": 6, "num_worlds": 8, "num_steps": 150, "updates": 600, "batch_size": 256},
        judge=driving,
        units={"autonomy": "%"},
        gap=("BC, three cameras", "BC, centre camera", ">= 10"),
    ),
    "quadrotor_depth": Lessons(
        env=quadrotor_depth.quadrotor_depth,
        teacher=quadrotor_depth.TEACHER,
        courses={
            "DAgger, 30 laser rays": Course(
                dagger,
                partial(students.mlp, **quadrotor_forest.STUDENT),
                (None,),
                env=quadrotor_forest.quadrotor_forest,
            ),
            "DAgger, depth camera": Course(dagger, partial(students.cnn, **quadrotor_depth.STUDENT), (None,)),
        },
        budget={"iterations": 8, "num_worlds": 16, "num_steps": 150, "updates": 1000, "batch_size": 256},
        judge=survival,
        units={"success": "share"},
    ),
    "peg_images": Lessons(
        env=peg_images.peg_images,
        teacher=peg_images.TEACHER,
        courses={
            "DAgger": Course(dagger, POINTS, (">= 0.9",)),
            "PLATO": Course(plato, POINTS, (">= 0.9",)),
            "DAgger, blind": Course(
                partial(dagger, **MSE), POINTS, ("<= 0.3",), env=partial(peg_images.peg_images, blind=True)
            ),
            "MDGPS": Course(by_local_teachers, POINTS, (">= 0.9",), budget=GUIDED),
        },
        budget={"iterations": 6, "num_worlds": 32, "num_steps": 40, "updates": 600, "batch_size": 256},
        judge=inserting,
        units={"inserted": "share"},
        filmed=22,
    ),
    "forest_trail": Lessons(
        env=partial(forest_trail.forest_trail, horizon=2400),
        teacher=forest_trail.TEACHER,
        courses={
            "three cameras": Course(
                partial(side_cameras, loss="nll"),
                partial(students.classifier, **forest_trail.STUDENT),
                (">= 200", ">= 90"),
                looks=3,
            ),
        },
        budget={"iterations": 4, "num_worlds": 16, "num_steps": 150, "updates": 400, "batch_size": 256},
        judge=hiking,
        units={"flight": "m", "accuracy": "%"},
    ),
}


def outcome(task: str, name: str, seed: int, fast: bool) -> dict[str, Any]:
    """What a course of `task` comes to, kept."""
    lessons = LESSONS[task]
    course = lessons.courses[name]
    budget = dict(lessons.budget if course.budget is None else course.budget)
    if "num_steps" in budget:
        budget["num_steps"] //= course.looks
    if fast:
        budget |= {key: value for key, value in FAST.items() if key in budget}

    def make() -> dict[str, Any]:
        env = (course.env or lessons.env)()
        student = course.student(env.nu, limits=env.limits)
        teacher = partial(teachers.mpc, **lessons.teacher)
        algorithm = course.algorithm(env, teacher, student, test_worlds=0, **budget)
        init_key, run_key, judge_key = jax.random.split(jax.random.key(seed), 3)
        state = algorithm.init(init_key)
        for i in range(budget["iterations"]):
            state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
        scores = lessons.judge(env, student, judge_key, algorithm.policy(state), fast)
        return {
            "scores": {name: [float(score) for score in found] for name, found in scores.items()},
            "frames": int(state.totals["samples"]),
            "updates": int(state.totals["gradient_updates"]),
        }

    return kept([Path(__file__)], [task, name, seed, fast], make)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""
    lessons = LESSONS[task]

    def rows(fast: bool) -> list[Row]:
        found, known = [], {}
        for name, course in lessons.courses.items():
            runs = [outcome(task, name, seed, fast) for seed in (SEEDS[:1] if fast else SEEDS)]
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
        if not fast:
            film(task)
        return found if lessons.gap is None or fast else found + _gap(lessons, known)

    return rows


def film(task: str, pictures: int = 7) -> None:
    """What the student would see where its teacher goes, in a world of the first seed, as a png."""
    lessons = LESSONS[task]
    env = lessons.env()
    keys = jax.random.split(jax.random.key(SEEDS[0]), 1)
    teach = evaluate(env, make_teacher=partial(teachers.mpc, **lessons.teacher), num_steps=lessons.filmed)
    driven = cpu_jit(teach)(keys, ())[1]
    at = np.linspace(0, lessons.filmed - 1, pictures).round().astype(int)
    context = jax.vmap(env.sample_context)(driven.key[0])
    rows = [
        np.concatenate(list(_framed(shown[:, 0])), axis=1)
        for shown in sights.pictures(env, context, np.asarray(driven.x)[at])
    ]
    plots.save_pixels(np.concatenate(rows), PICTURES / f"sight_{task}.png")


def _framed(shown: np.ndarray) -> np.ndarray:
    """Larger, with white around: [n, height, width, 3]."""
    larger = max(1, round(240 / shown.shape[2]))
    big = shown.repeat(larger, axis=1).repeat(larger, axis=2)
    return np.pad(big, [(0, 0), (3, 3), (3, 3), (0, 0)], constant_values=255)


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
    main("perception", {task: case(task) for task in LESSONS}, seeds=SEEDS, x64=False)

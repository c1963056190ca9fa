"""DAgger that asks a person: the student drives, then somebody says what should have been done.

Ross, Gordon & Bagnell 2011; labels after the fact, as a pilot gave them in Ross et al. 2013, "Learning
monocular reactive UAV control". The loop is that of `imitation`, but a person answers slowly: of `every`
control steps one is asked about. `gps label` asks in the terminal, or reads a file of answers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gps import dataset as data
from gps.algorithms.imitation import Budget, ImitationState, aggregation, summary
from gps.episodes import Steps, episodes, student_drives
from gps.labels import as_dataset
from gps.placement import cpu_jit
from gps.types import Action, Algorithm, Dataset, Env, Gaussian, Student, Teacher
from students.losses import LossName

__all__ = ["Ask", "Questions", "asked"]

ROOM = 100
"""Iterations whose answers are kept at least: a run that is lengthened forgets none of them."""
SKIPPED = 1
"""Status of a label: nobody said what should be done."""


class Questions(NamedTuple):
    """What should have been done at these steps?"""

    iteration: int
    """That is being made, from 0."""
    steps: Steps
    """NumPy arrays [T, W, …]: what the student did."""
    rows: tuple[tuple[int, int], ...]
    """(step, world) of each, those of a world one after another."""
    proposed: Float[np.ndarray, "Q nu"]
    """What the student did there, without noise."""


Ask = Callable[[Questions], Float[np.ndarray, "Q nu"]]
"""Controls within the limits; NaN where there is no answer."""


def asked(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | None,
    student: Student,
    *,
    ask: Ask | None = None,
    every: int = 10,
    iterations: int = 8,
    num_worlds: int = 1,
    num_steps: int = 150,
    updates: int = 500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    loss: LossName = "mse",
    test_worlds: int = 16,
) -> Algorithm:
    """Each iteration the student drives and the answers join those given before.

    Args:
        env: the task.
        make_teacher: not asked.
        student: the policy.
        ask: who answers; None: an algorithm that can begin and be judged, but not go on.
        every: control steps from one question to the next.
        iterations: of driving, asking and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last updates of each iteration.
        loss: what the student minimises over the labels, see `students.losses`.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: less than one step between questions, or more than one for a student that remembers; from
            `step`, nobody to ask, or answers of another shape or outside the limits.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 control step, got {every}")
    if every > 1 and student.unroll is not None:
        raise ValueError(
            f"a student that remembers learns from steps one after another: set every to 1, got {every}"
        )
    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    rows = tuple((t, world) for world in range(num_worlds) for t in range(0, num_steps, every))
    at = tuple(np.asarray(axis, int) for axis in zip(*rows, strict=True))

    @cpu_jit
    def drive(key: Array, variables: Any) -> Steps:
        run = episodes(env, student_drives, num_steps, student=student)
        return run(jax.random.split(key, num_worlds), variables, ())

    @cpu_jit
    def learn(dataset: Dataset, steps: Steps, answers: Array) -> tuple[Dataset, dict[str, Array]]:
        given = jnp.all(jnp.isfinite(answers), axis=1)
        labelled = steps._replace(action=_labels(steps.u, at, answers, given))
        info = summary(labelled) | {
            "teacher_queries": jnp.int32(len(rows)),
            "refused_labels": jnp.int32(0),
            "unanswered": jnp.sum(~given),
            "samples": jnp.sum(given),
        }
        return data.add(dataset, as_dataset(labelled)), info

    def gather(key: Array, state: ImitationState) -> tuple[Dataset, dict[str, Any]]:
        if ask is None:
            raise ValueError("nobody is there to answer: use gps label, or pass ask=")
        steps = drive(key, state.fit.variables)
        shown = jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), steps)
        proposed = np.asarray(shown.student_mean)[at]
        answers = np.asarray(ask(Questions(int(state.iteration), shown, rows, proposed)), float)
        _check(answers, len(rows), env)
        return learn(state.dataset, steps, jnp.asarray(answers))

    capacity = max(iterations, ROOM) * len(rows)
    return aggregation(env, student, gather, capacity, budget, loss=loss, periodic=True)


def _labels(u: Float[Array, "T W nu"], at: tuple[np.ndarray, ...], answers: Array, given: Array) -> Action:
    """The answers as actions of a teacher; an error costs the same in every control, for nobody says what."""
    T, W, nu = u.shape
    mean = jnp.zeros_like(u).at[at].set(jnp.where(given[:, None], answers, 0).astype(u.dtype))
    one = jnp.broadcast_to(jnp.eye(nu, dtype=u.dtype), (T, W, nu, nu))
    status = jnp.full((T, W), SKIPPED, jnp.int32).at[at].set(jnp.where(given, 0, SKIPPED))
    return Action(Gaussian(mean, one), one, -mean, status)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _check(answers: np.ndarray, count: int, env: Env) -> None:
    if answers.shape != (count, env.nu):
        raise ValueError(f"{count} questions ask for answers {(count, env.nu)}, came {answers.shape}")
    low, high = (np.asarray(side) for side in env.limits)
    there = answers[np.all(np.isfinite(answers), axis=1)]
    if np.any((there < low) | (there > high)):
        raise ValueError(
            f"answers must be within {low} and {high}, came {there.min(axis=0)} to {there.max(0)}"
        )

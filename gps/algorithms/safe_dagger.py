"""SafeDAgger: the student drives unless it departs from the teacher (Zhang & Cho, AAAI 2017)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gps.algorithms.imitation import Budget, ImitationState, imitation
from gps.episodes import TEACHER, Steps, student_drives, teacher_drives
from gps.types import Action, Algorithm, Env, Gaussian, Student, Teacher
from students.augment import Augment
from students.losses import LossName


def safe_dagger(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    threshold: float = 0.25,
    iterations: int = 8,
    num_worlds: int = 8,
    num_steps: int = 150,
    updates: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    loss: LossName = "kl",
    test_worlds: int = 16,
    augment: Augment | None = None,
) -> Algorithm:
    """Where ‖π(o) − u*‖, in half-ranges of the limits, is more than `threshold`, the teacher drives.

    Only there the student has something to learn, and only these labels are kept (the paper's D'); the
    teacher drives all of iteration 0. The paper predicts the distance by a network, to ask the teacher less
    often: here it is measured, and the teacher is asked in every step.

    Args:
        env: the task; its limits are finite.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy.
        threshold: τ, the root of the paper's.
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last iterations.
        loss: what the student minimises over the labels, see `students.losses`.
        test_worlds: worlds on which the student alone is tried after each iteration.
        augment: changes to steps as they are learnt from (`students.augment`), besides the task's mirror.

    Raises:
        ValueError: the threshold is negative, or the limits are not finite.
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be at least 0 and finite, got {threshold}")
    if not all(math.isfinite(side) for side in (*env.limits.low, *env.limits.high)):
        raise ValueError(f"{env.name}: distances need controls with finite limits, got {env.limits}")

    def allowed(state: ImitationState) -> Array:
        return jnp.where(state.iteration == 0, -1.0, threshold)

    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(
        env,
        make_teacher,
        student,
        student_drives_safely,
        allowed,
        budget,
        loss=loss,
        augment=augment,
        chosen=where_taught,
    )


def student_drives_safely(key: Array, allowed: PyTree, action: Action, dist: Gaussian, env: Env) -> tuple:
    """The student, unless it is further than `allowed` from the teacher."""
    teacher = teacher_drives(key, (), action, dist, env)
    own = student_drives(key, (), action, dist, env)
    low, high = (jnp.asarray(side) for side in env.limits)
    apart = jnp.linalg.norm((own[0] - teacher[0]) / ((high - low) / 2))
    safe = apart <= allowed
    return jax.tree.map(lambda a, b: jnp.where(safe, a, b), own, teacher)


def where_taught(steps: Steps) -> Float[Array, "T W"]:
    """1 where the teacher drove, else 0."""
    return (steps.behaviour == TEACHER).astype(steps.cost.dtype)

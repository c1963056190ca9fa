"""DAgger: the student drives, the teacher labels (Ross, Gordon & Bagnell 2011)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gps.algorithms.imitation import Budget, ImitationState, imitation
from gps.episodes import student_drives, teacher_drives
from gps.types import Action, Algorithm, Env, Gaussian, Student, Teacher
from students.augment import Augment
from students.losses import LossName


def dagger(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    beta: float = 0.0,
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
    """In iteration i each step is driven by the teacher with probability β_i = beta^i, else by the student.

    The teacher drives all of iteration 0; beta = 0 is the paper's parameter-free schedule I(i = 0), its
    other choice is e.g. .9. Every label ever made stays in the dataset.

    Args:
        env: the task.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy.
        beta: base of the schedule, in [0, 1].
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
        ValueError: beta is not a probability.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")

    def schedule(state: ImitationState) -> Array:
        return jnp.where(state.iteration == 0, 1.0, jnp.power(jnp.float32(beta), state.iteration))

    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(env, make_teacher, student, mixture_drives, schedule, budget, loss=loss, augment=augment)


def mixture_drives(key: Array, beta: PyTree, action: Action, dist: Gaussian, env: Env) -> tuple:
    """The teacher with probability beta, else the student."""
    teacher = teacher_drives(key, (), action, dist, env)
    own = student_drives(key, (), action, dist, env)
    asks = jax.random.uniform(key) < beta
    return jax.tree.map(lambda a, b: jnp.where(asks, a, b), teacher, own)

"""Behaviour cloning: the teacher drives, the student imitates its labels."""

from collections.abc import Callable

from gps.algorithms.imitation import Budget, imitation
from gps.episodes import teacher_drives
from gps.types import Algorithm, Env, Student, Teacher
from students.augment import Augment
from students.losses import LossName


def bc(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
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
    """Supervised learning on the teacher's own states (Pomerleau 1989), without noise on its actions.

    Args:
        env: the task.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy.
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last iterations.
        loss: what the student minimises over the labels, see `students.losses`.
        test_worlds: worlds on which the student alone is tried after each iteration.
        augment: changes to steps as they are learnt from (`students.augment`), besides the task's mirror.
    """
    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(
        env, make_teacher, student, teacher_drives, lambda state: (), budget, loss=loss, augment=augment
    )

"""Demonstrations seen from the side, as if the driver had left his way (Bojarski et al. 2016)."""

from collections.abc import Callable

from gps.algorithms.imitation import Budget, imitation
from gps.episodes import teacher_drives
from gps.types import Algorithm, Env, Student, Teacher
from students.augment import Augment
from students.losses import LossName


def side_cameras(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    iterations: int = 8,
    num_worlds: int = 8,
    num_steps: int = 50,
    updates: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    loss: LossName = "kl",
    test_worlds: int = 16,
    augment: Augment | None = None,
) -> Algorithm:
    """Behaviour cloning on every state of the demonstrations as each of `Env.views` shows it.

    A camera to the left of the driver shows what he would see if the car had drifted to the left, and is
    labelled with the command that brings it back: the student learns to recover from errors that the teacher
    never makes. The simulator's states are kept and looked at again; no picture is warped.

    Args:
        env: a task with `views`.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy, which is to act on the first of the views.
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration, each as many labels as there are views.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last iterations.
        loss: what the student minimises over the labels, see `students.losses`.
        test_worlds: worlds on which the student alone is tried after each iteration.
        augment: changes to steps as they are learnt from (`students.augment`), besides the task's mirror.

    Raises:
        ValueError: the env has no views.
    """
    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(
        env,
        make_teacher,
        student,
        teacher_drives,
        lambda state: (),
        budget,
        loss=loss,
        views=True,
        augment=augment,
    )

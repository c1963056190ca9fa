"""Path integral guided policy search: MDGPS whose local teachers learn without a model.

Chebotar, Kalakrishnan, Yahya, Li, Schaal & Levine 2017, arXiv 1610.00529.
"""

from collections.abc import Callable

from gps.algorithms.mdgps import mdgps
from gps.types import Algorithm, Env, LocalTeacher, Student

__all__ = ["pigps"]


def pigps(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    on_policy: bool = True,
    epsilon: float = 1.0,
    conditions: int | None = None,
    samples: int = 15,
    updates: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    copies: int = 3,
    jitter: float = 1.0,
    test_conditions: int = 8,
) -> Algorithm:
    """MDGPS as it is with `teachers.local_pi2`: rollouts of the student, and a bound that stays as it is.

    The student's own rollouts are what PI² should weigh, because its noise is measured from the student's
    controls; and without a model no improvement is foreseen that a step rule could
    compare. Any other local teacher does as well.

    PI² improves what it starts with, as far as its shrinking noise reaches (`inertia` of the teacher slows
    that); the paper starts from demonstrations. Far from a solution it needs many times the rollouts of
    `mdgps` with a fitted model, or with `teachers.local_pilqr`.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy.
        on_policy: whether rollouts are the student's own, rather than the local controllers'.
        epsilon: ε, nats per control step.
        conditions: how many to draw at random; the task's own set by default.
        samples: rollouts per condition and iteration.
        updates: gradient updates per S-step.
        batch_size: labels per update.
        learning_rate: of Adam, falling to 0 within each S-step.
        copies: moved copies of each state that is labelled.
        jitter: how far they are moved, in standard deviations of the rollouts.
        test_conditions: others, in which the student is tried after each iteration; training never sees them.

    Raises:
        ValueError: settings that cannot work, or a task without conditions of its own and none asked for.
    """
    return mdgps(
        env,
        make_teacher,
        student,
        on_policy=on_policy,
        step_rule="none",
        epsilon=epsilon,
        conditions=conditions,
        samples=samples,
        updates=updates,
        batch_size=batch_size,
        learning_rate=learning_rate,
        copies=copies,
        jitter=jitter,
        test_conditions=test_conditions,
    )

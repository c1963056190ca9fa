"""SAC: off-policy reinforcement learning with a price on predictability (Haarnoja et al. 2018)."""

from collections.abc import Callable

from gps.algorithms.off_policy import Settings, off_policy
from gps.types import Algorithm, Env, Student, Teacher

__all__ = ["sac"]


def sac(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | None,
    student: Student,
    *,
    num_worlds: int = 8,
    num_steps: int = 128,
    updates_per_step: float = 1.0,
    warm_up: int = 2048,
    capacity: int = 200_000,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    discount: float = 0.99,
    tau: float = 0.005,
    critics: int = 2,
    layer_norm: bool = False,
    critic_hidden: tuple[int, ...] = (256, 256),
    test_worlds: int = 16,
) -> Algorithm:
    """Soft actor-critic from scratch; the teacher is not asked. Reward is `Env.reward`, or −cost.

    Args:
        env: the task; its limits are finite.
        make_teacher: not called.
        student: a `students.squashed`.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates_per_step: gradient updates per control step of one world.
        warm_up: control steps, in all worlds together, whose controls are drawn uniformly.
        capacity: of the replay.
        batch_size: transitions per update.
        learning_rate: of Adam, for student, critics and the price of entropy.
        discount: γ.
        tau: share of the new parameters in the target's at each update.
        critics: members of the ensemble.
        layer_norm: in the critics.
        critic_hidden: widths of their layers.
        test_worlds: worlds on which the student alone is tried after each iteration.
    """
    return off_policy(
        env,
        student,
        Settings(
            num_worlds,
            num_steps,
            updates_per_step,
            warm_up,
            capacity,
            batch_size,
            learning_rate,
            discount,
            tau,
            critics,
            layer_norm,
            critic_hidden,
            test_worlds,
        ),
    )

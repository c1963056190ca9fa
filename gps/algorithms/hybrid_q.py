"""Q-learning with demonstrations in the buffer and as an auxiliary loss of the actor (Nair et al. 2018)."""

from collections.abc import Callable

from gps.algorithms.off_policy import Settings, off_policy
from gps.demonstrations import demonstrations as record
from gps.recordings import Recording
from gps.types import Algorithm, Env, Student, Teacher

__all__ = ["hybrid_q"]


def hybrid_q(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | Recording,
    student: Student,
    *,
    demonstrations: int = 20,
    noise: float = 0.0,
    demonstrated: float = 0.5,
    clone: float = 2.0,
    num_worlds: int = 8,
    num_steps: int = 128,
    updates_per_step: float = 1.0,
    warm_up: int = 512,
    capacity: int = 200_000,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    discount: float = 0.99,
    tau: float = 0.005,
    critics: int = 2,
    layer_norm: bool = True,
    critic_hidden: tuple[int, ...] = (256, 256),
    test_worlds: int = 16,
) -> Algorithm:
    """`q_demo`, whose student is drawn to the demonstrated control wherever the critic thinks it better.

    Args:
        env: the task; its limits are finite.
        make_teacher: Env → Teacher, who shows whole episodes; or what was recorded (`gps.recordings`).
        student: a `students.squashed`.
        demonstrations: episodes that are shown.
        noise: of the hand that shows them, in half-ranges of the limits.
        demonstrated: their share of each batch.
        clone: weight of the mean squared distance from what was demonstrated, in half-ranges of the limits.
        num_worlds: as in `q_demo`, and so the rest.
        num_steps: control steps per world and iteration.
        updates_per_step: gradient updates per control step of one world.
        warm_up: control steps whose controls are drawn uniformly.
        capacity: of the replay of its own steps.
        batch_size: transitions per update.
        learning_rate: of Adam.
        discount: γ.
        tau: share of the new parameters in the target's at each update.
        critics: members of the ensemble.
        layer_norm: in the critics.
        critic_hidden: widths of their layers.
        test_worlds: worlds on which the student alone is tried after each iteration.
    """
    settings = Settings(
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
        demonstrated,
        clone,
    )
    return off_policy(env, student, settings, record(env, make_teacher, demonstrations, noise))

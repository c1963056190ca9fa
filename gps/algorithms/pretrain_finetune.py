"""Imitate first, then go on by reinforcement, without losing what was learned."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from gps.algorithms.on_policy import Settings, Taught, on_policy
from gps.algorithms.ppo import Clipped, clipped
from gps.demonstrations import demonstrations as record
from gps.placement import student_jit
from gps.recordings import Recording
from gps.types import Algorithm, Env, Student, Teacher
from students.fit import adam, fit
from students.losses import LossName, named

__all__ = ["imitated", "pretrain_finetune"]


def pretrain_finetune(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | Recording,
    student: Student,
    *,
    demonstrations: int = 20,
    noise: float = 0.0,
    pretrain_updates: int = 3000,
    loss: LossName = "mse",
    anchor: float = 0.1,
    decay: float = 0.97,
    wait: int = 15,
    iterations: int = 100,
    num_worlds: int = 32,
    num_steps: int = 64,
    epochs: int = 8,
    parts: int = 8,
    learning_rate: float = 3e-4,
    clip: float = 0.2,
    discount: float = 0.99,
    trace: float = 0.95,
    critic_updates: int = 80,
    critic_hidden: tuple[int, ...] = (64, 64),
    test_worlds: int = 16,
) -> Algorithm:
    """Behaviour cloning, then PPO from there.

    The first batches of reinforcement, judged by a critic that knows nothing, undo an imitation that nothing
    holds: `wait` iterations teach the critic alone, and `anchor` prices the KL divergence from what was
    imitated. Explore little (a student with log_std = −2), for what was imitated works only near where it was
    shown, and let the demonstrator's hand shake (`noise`), which widens that.

    Args:
        env: the task.
        make_teacher: Env → Teacher, who shows whole episodes; or what was recorded (`gps.recordings`).
        student: the policy, of any kind that `fit` teaches and whose distribution has a density.
        demonstrations: episodes that are shown.
        noise: of the hand that shows them, in half-ranges of the limits.
        pretrain_updates: gradient updates of the imitation.
        loss: of the imitation, see `students.losses`; by 'mse' the spread stays what the student begins with.
        anchor: what a nat of KL(imitated ‖ policy) costs, in standard deviations of the advantage.
        decay: the anchor's price falls by this factor in each iteration after `wait`; 1 holds it.
        wait: iterations in which the critic alone learns.
        iterations: of collecting and improving, after the imitation.
        num_worlds: as in `ppo`, and so the rest.
        num_steps: control steps per world and iteration.
        epochs: passes over an iteration's experience.
        parts: minibatches per pass.
        learning_rate: of Adam, falling to 0 over the iterations.
        clip: ε.
        discount: γ.
        trace: λ of the advantage estimate.
        critic_updates: gradient updates of the critic per iteration.
        critic_hidden: widths of the critic's layers.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: settings that cannot work.
    """
    if not anchor >= 0 or pretrain_updates < 1:
        raise ValueError(
            f"anchor must be at least 0, pretrain_updates at least 1, got {anchor} and {pretrain_updates}"
        )
    taught = imitated(env, make_teacher, student, demonstrations, noise, pretrain_updates, loss)
    settings = Settings(
        num_worlds,
        num_steps,
        discount,
        trace,
        critic_updates,
        critic_hidden=critic_hidden,
        wait=wait,
        test_worlds=test_worlds,
    )
    step = Clipped(epochs, parts, learning_rate, clip, anchor=anchor, decay=decay)
    return on_policy(env, student, clipped(student, env.limits, step, iterations), settings, taught)


def imitated(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | Recording,
    student: Student,
    count: int,
    noise: float,
    updates: int,
    loss: LossName,
) -> Callable[[Key[Array, ""]], Taught]:
    """Key → the student after `updates` of behaviour cloning on `count` episodes of the teacher.

    `noise` as in `gps.demonstrations`.
    """
    show = record(env, make_teacher, count, noise)
    fitter = fit(student, named(loss), adam(updates=updates), batch_size=_batch(student), updates=updates)
    improve = student_jit(fitter.run)

    def taught(key: Key[Array, ""]) -> Taught:
        show_key, student_key, fit_key = jax.random.split(key, 3)
        shown = show(show_key)
        labels = shown.labels
        obs = jax.tree.map(lambda leaf: leaf[0], labels.obs)
        state = fitter.init(fit_key, student.init(student_key, obs))
        state, _ = improve(fit_key, state, labels)
        return Taught(state.variables, labels, shown.steps, jnp.int32(updates))

    return taught


def _batch(student: Student) -> int:
    """About 256 steps, whole windows of a student that remembers."""
    length = 1 if student.unroll is None else student.unroll.length
    return length * max(1, 256 // length)

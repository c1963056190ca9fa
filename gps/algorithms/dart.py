"""DART: the teacher drives with a hand that shakes as much as the student errs (Laskey et al., CoRL 2017)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gps.algorithms.imitation import Budget, ImitationState, imitation
from gps.episodes import teacher_shakes
from gps.types import Algorithm, Env, Student, Teacher
from students.augment import Augment
from students.losses import LossName

LEAST = 1e-6
"""Standard deviation that is always there, in half-ranges of the limits: a density needs one."""


def dart(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    alpha: float | None = None,
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
    """Iteration 0 is without noise; then its covariance is that of the student's errors on the labels.

    Σ = mean of (π(o) − u*)(π(o) − u*)ᵀ, scaled to α / T (tr Σ)⁻¹ Σ if `alpha` is given (section 4.2): the
    teacher's own states then include those that the student's errors lead to, without that the student ever
    drives. These are errors on labels that it learned from (the paper: on others), hence on the small side.

    Args:
        env: the task; its limits are finite.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy.
        alpha: α, the squared error, in units of the control, that the student is expected to make in the end,
            summed over an episode of T = `Env.horizon` steps; None: as large as it is.
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
        ValueError: alpha is not positive and finite, or the limits are not.
    """
    if alpha is not None and not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    half = (np.asarray(env.limits.high) - np.asarray(env.limits.low)) / 2
    if not np.all(np.isfinite(half)):
        raise ValueError(f"{env.name}: noise needs controls with finite limits, got {env.limits}")
    least = np.diag((LEAST * half) ** 2).astype(np.float32)

    def spread(state: ImitationState) -> Float[Array, "nu nu"]:
        labels = state.dataset
        carry = student.initial_carry(jax.tree.map(lambda leaf: leaf[0], labels.obs))
        said = student.apply_sequence(state.fit.variables, labels.obs, labels.first, carry)
        error = jax.vmap(lambda dist: dist.mode())(said) - labels.mean
        weight = labels.weight / jnp.maximum(jnp.sum(labels.weight), 1)
        cov = jnp.einsum("n,ni,nj->ij", weight, error, error)
        if alpha is not None:
            cov *= alpha / env.horizon / jnp.maximum(jnp.trace(cov), 1e-12)
        return jnp.where(state.iteration > 0, cov, 0.0) + least

    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(env, make_teacher, student, teacher_shakes, spread, budget, loss=loss, augment=augment)

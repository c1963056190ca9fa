"""PLATO: the teacher drives as the student would like it to (Kahn, Zhang, Levine & Abbeel, ICRA 2017)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.algorithms.imitation import Budget, ImitationState, imitation
from gps.episodes import MIXTURE, teacher_drives
from gps.gaussian import inverse_spd, symmetrise
from gps.types import Action, Algorithm, Env, Gaussian, Student, Teacher
from students.augment import Augment
from teachers.tilt import temper, tilt


def plato(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    lam: float = 3.0,
    regret: float = math.inf,
    iterations: int = 8,
    num_worlds: int = 8,
    num_steps: int = 150,
    updates: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    test_worlds: int = 16,
    augment: Augment | None = None,
) -> Algorithm:
    """Act with argmin_π J(π | x) + λ KL(π ‖ student), label with the same planner without the KL term.

    The student is never executed. λ is dimensionless: the student's covariance in the KL term is the inverse
    of the mean Quu of all labels so far. λ = 0 is behaviour cloning, λ = ∞ visits the states of DAgger. The
    teacher drives iteration 0 alone, while the student knows nothing.

    As published, one λ serves all states: what is safe near an obstacle holds the student back everywhere.
    A finite `regret` bounds the compromise at each state (ours, see `teachers.temper`): then λ can be ∞, and
    the student is followed exactly wherever its action costs at most that much more than the teacher's.

    Args:
        env: the task.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: the policy.
        lam: weight λ of the KL term, at most.
        regret: the most that an action may cost more than the teacher's, in units of its Quu: of its
            cost-to-go if it has derivatives (`gps.types.Action`).
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last iterations.
        test_worlds: worlds on which the student alone is tried after each iteration.
        augment: changes to steps as they are learnt from (`students.augment`), besides the task's mirror.

    Raises:
        ValueError: lam is negative, or regret not positive.
    """
    if not lam >= 0:
        raise ValueError(f"lam must be at least 0, got {lam}")
    if not regret > 0:
        raise ValueError(f"regret must be positive, got {regret}; lam=0 is the way to follow the teacher")

    def settings(state: ImitationState) -> Pull:
        weight, precision = state.dataset.weight, state.dataset.precision
        mean = jnp.einsum("n,nij->ij", weight, precision) / jnp.maximum(jnp.sum(weight), 1)
        eye = jnp.eye(env.nu, dtype=mean.dtype)
        begun = (state.iteration > 0) & (jnp.sum(weight) > 0)
        cov = inverse_spd(symmetrise(jnp.where(begun, mean, eye)))
        return Pull(jnp.where(begun, lam, 0.0), cov, jnp.asarray(regret, cov.dtype))

    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(env, make_teacher, student, adapted_drives, settings, budget, augment=augment)


class Pull(NamedTuple):
    """The KL term of an iteration."""

    lam: Float[Array, ""]
    cov: Float[Array, "nu nu"]
    regret: Float[Array, ""]


def adapted_drives(key: Array, pull: Pull, action: Action, dist: Gaussian, env: Env) -> tuple:
    """The mean of π_λ, tempered, without noise; for λ = 0 that of the label itself, as in BC.

    Where the planner disowns its label there is nothing to weigh the student against: the teacher drives.
    """
    dtype = action.q.dtype
    lam = pull.lam.astype(dtype)
    tilted = tilt(action, dist, lam, env.limits, pull.cov.astype(dtype))
    u = temper(action, tilted.mean, pull.regret.astype(dtype))
    adapted = u, tilted._replace(mean=u).log_prob(u), jnp.int32(MIXTURE)
    teacher = teacher_drives(key, (), action, dist, env)
    pulled = (lam > 0) & (action.status == 0)
    return jax.tree.map(lambda a, b: jnp.where(pulled, a, b), adapted, teacher)

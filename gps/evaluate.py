"""What a policy is worth on worlds it has not seen: time to failure, cost, figures of merit, drift."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.episodes import Steps, episodes, student_drives, teacher_drives
from gps.types import Action, Env, Gaussian, Student, Teacher

__all__ = ["Drift", "Scores", "autonomy", "disagreement", "drift", "evaluate", "growth", "score"]


class Scores(NamedTuple):
    """Per world [W]."""

    time: Float[Array, " W"]
    """Seconds until failure, at most the episode's length."""
    survived: Float[Array, " W"]
    """1 where the whole episode was flown."""
    cost: Float[Array, " W"]
    """Mean cost per control step while it lasted."""
    reward: Float[Array, " W"]
    """The sum of rewards while it lasted: the return, not discounted."""
    metrics: dict[str, Float[Array, " W"]]
    """Of `Env.metrics`, likewise."""


class Drift(NamedTuple):
    """How far the student's own states are from those of its teacher (Ross et al. 2011).

    Means over the worlds that still last at t, 0 where none does.
    """

    loss_on_teacher: Float[Array, " T"]
    """`disagreement` along the teacher's episodes."""
    loss_on_student: Float[Array, " T"]
    """`disagreement` along the student's own."""
    divergence: Float[Array, " T"]
    """‖x_student ⊖ x_teacher‖ at the same time in the same world."""
    cost_teacher: Float[Array, " T"]
    """Of an episode of t + 1 control steps: the mean cost per step, summed up to t."""
    cost_student: Float[Array, " T"]
    alive: Int[Array, " T"]
    """Worlds in which both are still going."""


def evaluate(
    env: Env,
    *,
    make_teacher: Callable[[Env], Teacher] | None = None,
    student: Student | None = None,
    num_steps: int | None = None,
) -> Callable[[Key[Array, " W"], PyTree], tuple[Scores, Steps]]:
    """(keys [W], variables) → scores and steps of the student or, if only a teacher is given, of the teacher.

    Raises:
        ValueError: there is neither.
    """
    drive = teacher_drives if student is None else student_drives
    teacher = make_teacher if student is None else None
    steps = env.horizon if num_steps is None else num_steps
    run = episodes(env, drive, steps, make_teacher=teacher, student=student, replace=False)

    def scored(keys: Array, variables: PyTree = ()) -> tuple[Scores, Steps]:
        steps = run(keys, variables, ())
        return score(steps, env.dt), steps

    return scored


def score(steps: Steps, dt: float) -> Scores:
    """`Scores` of episodes that were not replaced."""
    lasted = jnp.sum(steps.alive, axis=0)
    failed = jnp.any(steps.failed & steps.alive, axis=0)

    def mean(values: Array) -> Array:
        total = jnp.sum(jnp.where(steps.alive, values, jnp.zeros_like(values)), axis=0)
        return total / jnp.maximum(lasted, 1)

    return Scores(
        time=lasted * dt,
        survived=(~failed).astype(steps.cost.dtype),
        cost=mean(steps.cost),
        reward=jnp.sum(jnp.where(steps.alive, steps.reward, jnp.zeros_like(steps.reward)), axis=0),
        metrics=jax.tree.map(mean, steps.metrics),
    )


def drift(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    num_steps: int | None = None,
) -> Callable[[Key[Array, " W"], PyTree], Drift]:
    """(keys [W], variables) → the drift of the student against the teacher in the same worlds."""
    length = env.horizon if num_steps is None else num_steps
    fly = episodes(env, _either_drives, length, make_teacher=make_teacher, student=student, replace=False)

    def run(keys: Array, variables: PyTree) -> Drift:
        both = jax.lax.map(lambda taught: fly(keys, variables, taught), jnp.array([True, False]))
        teacher, own = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
        together = teacher.alive & own.alive
        apart = jax.vmap(jax.vmap(env.minus))(own.x, teacher.x)
        return Drift(
            loss_on_teacher=_mean(disagreement(teacher), teacher.alive),
            loss_on_student=_mean(disagreement(own), own.alive),
            divergence=_mean(jnp.linalg.norm(apart, axis=-1), together),
            cost_teacher=jnp.cumsum(_mean(teacher.cost, teacher.alive)),
            cost_student=jnp.cumsum(_mean(own.cost, own.alive)),
            alive=jnp.sum(together, axis=1),
        )

    return run


def disagreement(steps: Steps) -> Float[Array, "T W"]:
    """½ (μ_θ − m)ᵀ Quu (μ_θ − m): what the student's mean costs more than the label.

    0 where the teacher disowns its label.

    Raises:
        ValueError: the steps lack a teacher or a student.
    """
    if steps.action is None or steps.student_mean is None:
        raise ValueError("disagreement takes two: pass make_teacher and student to `episodes`")
    gap = steps.student_mean - steps.action.dist.mean
    quadratic = 0.5 * jnp.einsum("twi,twij,twj->tw", gap, steps.action.Quu, gap)
    return jnp.where(steps.action.status == 0, quadratic, jnp.zeros_like(quadratic))


def autonomy(interventions: ArrayLike, seconds: float) -> Float[Array, "..."]:
    """(1 − 6 s · interventions / elapsed) · 100, %: the time without a driver (Bojarski et al. 2016)."""
    return 100 * (1 - 6 * jnp.asarray(interventions) / seconds)


def growth(cost: Float[Array, " T"], skip: int = 0) -> Float[Array, ""]:
    """The exponent p that fits cost ∝ Tᵖ best: least-squares slope of log cost over log T, T = skip + 1, ….

    2 is the worst that compounding errors do, 1 the worst of on-policy learning (Ross & Bagnell 2010). Costs
    must be positive.
    """
    length = jnp.log(jnp.arange(skip + 1, cost.shape[0] + 1, dtype=cost.dtype))
    length = length - jnp.mean(length)
    return length @ jnp.log(cost[skip:]) / (length @ length)


def _either_drives(key: Array, taught: Array, action: Action, dist: Gaussian, env: Env) -> tuple:
    """The teacher if `taught`, else the student: one program for both."""
    pilots = (drives(key, (), action, dist, env) for drives in (teacher_drives, student_drives))
    return jax.tree.map(lambda a, b: jnp.where(taught, a, b), *pilots)


def _mean(values: Float[Array, "T W"], alive: Array) -> Float[Array, " T"]:
    total = jnp.sum(jnp.where(alive, values, jnp.zeros_like(values)), axis=1)
    return total / jnp.maximum(jnp.sum(alive, axis=1), 1)

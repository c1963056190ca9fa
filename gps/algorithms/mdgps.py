"""MDGPS: guided policy search as approximate mirror descent (Montgomery & Levine, NIPS 2016)."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from gps.algorithms.guided import CStep, Method, Now, Plan, guided
from gps.algorithms.phases import Linearisation, improve_near
from gps.algorithms.step_rules import StepRule, Steps, adjust, check_rule, first_steps, foresee
from gps.algorithms.supervise import Supervision, Targets
from gps.types import Algorithm, Env, KLTerm, LocalTeacher, Student

__all__ = ["mdgps"]


def mdgps(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    on_policy: bool = False,
    step_rule: StepRule = "classic",
    epsilon: float = 1.0,
    multipliers: tuple[float, float] = (0.01, 1.0),
    linearisation: Linearisation = "exact",
    conditions: int | None = None,
    samples: int = 5,
    updates: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    copies: int = 3,
    jitter: float = 1.0,
    test_conditions: int = 8,
) -> Algorithm:
    """C-step: min_p E_p[Σ c] with KL(p ‖ π̄) ≤ ε T · multiplier; S-step: min_θ Σ KL(π_θ ‖ p).

    π̄ is the student as a linear-Gaussian controller along the rollouts of a condition.

    Beyond the paper: labels on moved states (`gps.algorithms.supervise.labels`), the student linearised over
    all rollouts (`phases.student_controller`), local teachers that fall back on themselves
    (`phases.improve_near`), and the iterate with the cheapest noise-free trials is handed out.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy.
        on_policy: whether rollouts are the student's own, rather than the local controllers'.
        step_rule: how the bound's multiplier goes: none, classic, global or mc, see `step_rules.adjust`.
        epsilon: ε, nats per control step.
        multipliers: least and largest multiplier.
        linearisation: of the student: exact, or by regression over the rollouts for one that remembers.
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
    check_epsilon(epsilon)
    check_rule(step_rule, multipliers)

    def c_step(bound: Env, teacher: LocalTeacher, now: Now, steps: Steps) -> CStep:
        multiplier = adjust(step_rule, multipliers, steps, teacher, now)
        limit, pi = epsilon * env.horizon * multiplier, now.pi()
        local, found = improve_near(teacher, now.learned, [KLTerm(pi, bound=limit)], limit)
        controller = teacher.controller(local)
        targets = Targets(controller, jnp.ones(env.horizon, controller.us.dtype))
        return CStep(
            local, foresee(teacher, local, pi, multiplier), targets, report(found, limit, multiplier)
        )

    supervision = Supervision(updates, batch_size, learning_rate, copies, jitter)
    plan = Plan(samples, conditions, test_conditions, on_policy, supervision, linearisation)
    return guided(env, make_teacher, student, Method(lambda x0: first_steps(x0.dtype), c_step), plan)


def report(found: dict[str, Array], limit: Array, multiplier: Array) -> dict[str, Array]:
    """What a human wants to see of a C-step, from the info of `LocalTeacher.improve`."""
    return {
        "kl": jnp.sum(found["kl"]),
        "kl_bound": limit,
        "eta": jnp.exp(jnp.mean(jnp.log(found["eta"]))),
        "step_multiplier": multiplier,
        "failed_solves": ~found["solved"],
    }


def check_epsilon(epsilon: float) -> None:
    """Raise where no KL bound can be made of it."""
    if not 0 < epsilon < math.inf:
        raise ValueError(
            f"epsilon, the KL bound per control step, must be positive and finite, got {epsilon}"
        )

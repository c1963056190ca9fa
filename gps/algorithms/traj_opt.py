"""Trajectory optimisation alone: local controllers that a student imitates, but that do not wait for it."""

from collections.abc import Callable

import jax.numpy as jnp

from gps.algorithms.guided import CStep, Method, Now, Plan, guided
from gps.algorithms.mdgps import check_epsilon, report
from gps.algorithms.step_rules import OWN_RULES, StepRule, Steps, adjust, check_rule, first_steps, foresee
from gps.algorithms.supervise import Supervision, Targets
from gps.types import Algorithm, Env, KLTerm, LocalTeacher, Student

__all__ = ["alone", "traj_opt"]


def traj_opt(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    step_rule: StepRule = "classic",
    epsilon: float = 1.0,
    multipliers: tuple[float, float] = (0.01, 1.0),
    conditions: int | None = None,
    samples: int = 5,
    updates: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    copies: int = 3,
    jitter: float = 1.0,
    test_conditions: int = 8,
) -> Algorithm:
    """Every local controller improves within ε T · multiplier of itself (Levine & Abbeel 2014, section 3).

    The baseline that guided policy search is measured against: with nothing that holds the controllers
    together, they need not be what one student can do.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy.
        step_rule: how the bound's multiplier goes: none, classic or mc, see `step_rules.adjust`.
        epsilon: ε, nats per control step.
        multipliers: least and largest multiplier.
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
    check_rule(step_rule, multipliers, OWN_RULES)

    supervision = Supervision(updates, batch_size, learning_rate, copies, jitter)
    plan = Plan(samples, conditions, test_conditions, False, supervision)
    method = Method(lambda x0: first_steps(x0.dtype), alone(step_rule, epsilon, multipliers))
    return guided(env, make_teacher, student, method, plan)


def alone(
    step_rule: StepRule, epsilon: float, multipliers: tuple[float, float]
) -> Callable[[Env, LocalTeacher, Now, Steps], CStep]:
    """The C-step of a controller that stays near to what it did itself; the student is not looked at."""

    def c_step(bound: Env, teacher: LocalTeacher, now: Now, steps: Steps) -> CStep:
        before = teacher.controller(now.learned)
        multiplier = adjust(step_rule, multipliers, steps, teacher, now)
        limit = epsilon * bound.horizon * multiplier
        local, found = teacher.improve(now.learned, (KLTerm(before, bound=limit),))
        controller = teacher.controller(local)
        targets = Targets(controller, jnp.ones(bound.horizon, controller.us.dtype))
        return CStep(
            local, foresee(teacher, local, before, multiplier), targets, report(found, limit, multiplier)
        )

    return c_step

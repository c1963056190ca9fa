"""MDGPS: guided policy search as approximate mirror descent (Montgomery & Levine, NIPS 2016)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.algorithms.guided import (
    COUNTED,
    STEP_RULES,
    StepRule,
    adjust,
    batched,
    counted,
    explore,
    improve_near,
    student_controller,
    trial,
)
from gps.algorithms.supervise import Supervision, labels, supervise
from gps.conditions import Conditions, held_out, training_conditions
from gps.labels import example_row
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, KLTerm, LocalTeacher, Student, Trajectory
from students.fit import FitState

__all__ = ["MDGPSState", "mdgps"]


class MDGPSState(NamedTuple):
    """All of a run."""

    fit: FitState
    local: PyTree
    """State of the local teachers [M]."""
    step: "Steps"
    conditions: Conditions
    best: PyTree
    """Variables of the iterate whose trials cost least so far."""
    best_cost: Float[Array, ""]
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


class Steps(NamedTuple):
    """What the step rule remembers, per condition [M]."""

    multiplier: Float[Array, " M"]
    """Of the KL bound."""
    before: Float[Array, " M"]
    """Expected cost of the student that the last C-step began at, by the model of then."""
    predicted: Float[Array, " M"]
    """And of the controller that it led to."""


def mdgps(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    on_policy: bool = False,
    step_rule: StepRule = "classic",
    epsilon: float = 1.0,
    multipliers: tuple[float, float] = (0.01, 1.0),
    conditions: int | None = None,
    samples: int = 5,
    iterations: int = 12,
    updates: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    copies: int = 3,
    jitter: float = 1.0,
    test_conditions: int = 8,
) -> Algorithm:
    """Local teachers improve within reach of the student, the student imitates them, in turns.

    C-step: min_p E_p[Σ c] with KL(p ‖ π̄) ≤ ε T · multiplier, π̄ the student as a linear-Gaussian controller. S-step:
    min_θ Σ KL(π_θ ‖ p). The first rollouts are those of the teachers' first controllers, and the student is
    fitted to these before the first C-step.

    The multiplier of each condition goes by the improvement that was foreseen and the one that came: the
    expected cost, by the new model, of the controller itself ('classic') or of the student that was fitted to
    it ('global'), or the mean cost of its rollouts ('mc'); 'none' leaves it at 1.

    Beyond the paper: labels on moved states (`gps.algorithms.supervise.labels`), the student linearised over
    all rollouts (`student_controller`), local teachers that fall back on themselves (`improve_near`), and the
    policy handed out is the iterate whose noise-free trials in the training conditions cost least.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy.
        on_policy: whether rollouts are the student's own, rather than the local controllers'.
        step_rule: none, classic, global or mc.
        epsilon: KL bound, nats per control step.
        multipliers: least and largest multiplier of the bound.
        conditions: how many to draw at random; the task's own set by default.
        samples: rollouts per condition and iteration.
        iterations: planned; nothing depends on it.
        updates: gradient updates per S-step.
        batch_size: labels per update.
        learning_rate: of Adam, falling to 0 within each S-step.
        copies: moved copies of each state that is labelled.
        jitter: how far they are moved, in standard deviations of the rollouts.
        test_conditions: others, on which the student is tried after each iteration; training never sees them.

    Raises:
        ValueError: settings that cannot work, or a task without conditions of its own and none asked for.
    """
    del iterations
    _check(epsilon, multipliers, samples, step_rule)
    settings = Supervision(updates, batch_size, learning_rate, copies, jitter)
    s_step = supervise(student, settings)
    label, try_out = cpu_jit(labels(env, settings)), trial(env, student)
    roll_out = cpu_jit(explore(env, make_teacher, samples, student if on_policy else None))
    controllers = cpu_jit(batched(env, make_teacher, lambda bound, teacher, local: teacher.controller(local)))

    @cpu_jit
    def init(key: Key[Array, ""]) -> MDGPSState:
        condition_key, teacher_key, fit_key, row_key = jax.random.split(key, 4)
        starts = training_conditions(env, condition_key, conditions)
        M, dtype = starts.x0.shape[0], starts.x0.dtype
        begin = batched(env, make_teacher, lambda bound, teacher, key, x0: teacher.init(key, x0))
        local = begin(starts.context, jax.random.split(teacher_key, M), starts.x0)
        fitted = s_step.init(fit_key, example_row(env, row_key))
        unknown = jnp.full(M, jnp.inf, dtype)
        steps, zero = Steps(jnp.ones(M, dtype), unknown, unknown), jnp.int32(0)
        worst = jnp.asarray(jnp.inf, dtype)
        return MDGPSState(
            fitted, local, steps, starts, fitted.variables, worst, zero, {name: zero for name in COUNTED}
        )

    @cpu_jit
    def c_step(state: MDGPSState, local: PyTree, paths: Trajectory, variables: PyTree) -> tuple:
        def one(bound: Env, teacher: LocalTeacher, local: PyTree, paths: Trajectory, last: Steps) -> tuple:
            pi = student_controller(bound, student)(variables, paths)
            expect = teacher.expected_cost
            before = jnp.inf if expect is None else expect(local, pi)
            rule = step_rule if expect is not None else "none"
            multiplier = last.multiplier
            if rule != "none" and expect is not None:
                actual = {
                    "classic": lambda: expect(local, teacher.controller(local)),
                    "global": lambda: before,
                    "mc": lambda: jnp.mean(jnp.sum(paths.costs, axis=1)),
                }[rule]()
                multiplier = adjust(multiplier, last.before, last.predicted, actual, multipliers)
            limit = epsilon * env.horizon * multiplier
            local, info = improve_near(teacher, local, [KLTerm(pi, bound=limit)], limit)
            predicted = jnp.inf if expect is None else expect(local, teacher.controller(local))
            info = {
                "kl": jnp.sum(info["kl"]),
                "kl_bound": limit,
                "eta": jnp.mean(info["eta"]),
                "failed_solves": info["status"] > 1,
            }
            return local, Steps(multiplier, *map(jnp.asarray, (before, predicted))), info

        return batched(env, make_teacher, one)(state.conditions.context, local, paths, state.step)

    @cpu_jit
    def test(conditions: Conditions, variables: PyTree) -> tuple[Array, dict[str, Array]]:
        costs, ends = try_out(conditions, variables)
        info = {"student_cost": jnp.mean(costs)} | _named("student", ends)
        if test_conditions:
            fresh_costs, fresh = try_out(held_out(env, jax.random.key(_TEST_SEED), test_conditions), variables)
            info |= {"test_cost": jnp.mean(fresh_costs)} | _named("test", fresh)
        return jnp.mean(costs), info

    def step(key: Key[Array, ""], state: MDGPSState) -> tuple[MDGPSState, dict[str, Any]]:
        roll_key, first_key, label_key, fit_key = jax.random.split(key, 4)
        begun, starts = int(state.iteration) > 0, state.conditions
        local, paths, seen = roll_out(roll_key, starts, state.local, state.fit.variables, on_policy and begun)
        fitted, spent = state.fit, updates
        if not begun:
            now = controllers(starts.context, local)
            fitted, _ = s_step.run(first_key, fitted, label(first_key, starts, now, paths))
            spent += updates
        local, steps, c_info = c_step(state, local, paths, fitted.variables)
        data = label(label_key, starts, controllers(starts.context, local), paths)
        fitted, s_info = s_step.run(fit_key, fitted, data)
        cost, tried = test(starts, fitted.variables)
        better = bool(cost < state.best_cost) or not begun
        M = starts.x0.shape[0]
        totals, counts = counted(
            state.totals,
            rollouts=M * samples,
            simulator_steps=M * samples * env.horizon,
            trial_rollouts=M,
            lost_rollouts=jnp.sum(seen["lost"]),
            samples=jnp.sum(data.weight > 0),
            gradient_updates=spent,
        )
        info = {
            "driver_cost": jnp.mean(seen["cost"]),
            **({} if on_policy and begun else {"teacher_cost": jnp.mean(seen["cost"])}),
            **_named("driver", seen["metrics"]),
            **tried,
            "kl": jnp.mean(c_info["kl"]),
            "kl_bound": jnp.mean(c_info["kl_bound"]),
            "eta": jnp.exp(jnp.mean(jnp.log(c_info["eta"]))),
            "step_multiplier": jnp.mean(steps.multiplier),
            "failed_solves": jnp.sum(c_info["failed_solves"]),
            "loss": s_info["loss"],
            "finite": s_info["finite"],
            **counts,
        }
        best = fitted.variables if better else state.best
        best_cost = cost if better else state.best_cost
        new = MDGPSState(fitted, local, steps, starts, best, best_cost, state.iteration + 1, totals)
        return new, info

    return Algorithm(init, step, lambda state: state.best)


_TEST_SEED = 0x7E57
"""The held-out conditions are the same in every iteration and every run."""


def _named(who: str, metrics: dict[str, Array]) -> dict[str, Array]:
    """Means of figures of merit of last states, by who drove."""
    return {f"{who}_{name}": jnp.mean(value) for name, value in metrics.items()}


def _check(epsilon: float, multipliers: tuple[float, float], samples: int, step_rule: str) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon, the KL bound per control step, must be positive and finite, got {epsilon}")
    if not 0 < multipliers[0] <= multipliers[1]:
        raise ValueError(f"multipliers must be 0 < least <= largest, got {multipliers}")
    if samples < 1:
        raise ValueError(f"samples per condition must be at least 1, got {samples}")
    if step_rule not in STEP_RULES:
        raise ValueError(f"step_rule must be one of {', '.join(STEP_RULES)}, got {step_rule!r}")

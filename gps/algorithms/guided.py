"""The loop that guided policy search methods share; they differ in what ties local teachers to the student.

    roll out ──▶ local teachers learn ──▶ C-step: each improves ──▶ S-step: the student imitates ──▶ …
                                             within reach of the student

Rollouts, models and C-steps run on the CPU, where the engine is; the S-step on the student's device.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.algorithms.phases import (
    COUNTED,
    Linearisation,
    batched,
    counted,
    explore,
    student_controller,
    trials,
)
from gps.algorithms.supervise import Supervision, Targets, labels, supervise
from gps.conditions import Conditions, training_conditions
from gps.labels import example_row
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, LinearGaussian, LocalTeacher, Student, Trajectory
from students.fit import FitState

__all__ = ["CStep", "GuidedState", "Method", "Now", "Plan", "guided"]


class Now(NamedTuple):
    """Where a C-step begins, in one condition."""

    learned: PyTree
    """The local teacher's state when it had learned from the rollouts."""
    local: PyTree
    """Its state now: the same in the first round of an iteration."""
    paths: Trajectory
    """The rollouts [N]."""
    pi: Callable[[], LinearGaussian]
    """The student as a controller along them, made when it is asked for."""
    first: Bool[Array, ""]
    """Whether this is the first round of an iteration."""


class CStep(NamedTuple):
    """What the C-step of one condition comes to."""

    local: PyTree
    """The local teacher's state."""
    memory: PyTree
    """The method's own."""
    targets: Targets
    """What the student is to imitate now."""
    info: dict[str, Array]
    """Scalars; `failed_solves` among them. Means over conditions are shown, of counts the sum."""


class Method(NamedTuple):
    """What tells one method from another, for one condition."""

    memory: Callable[[Array], PyTree]
    """x0 → what it remembers before the first C-step."""
    c_step: Callable[[Env, LocalTeacher, Now, PyTree], CStep]
    """(bound env, its teacher, where it begins, memory) → `CStep`."""
    rounds: int = 1
    """Of C-step and S-step per iteration."""


class Plan(NamedTuple):
    """How much of what."""

    samples: int
    """Rollouts per condition and iteration."""
    conditions: int | None
    """How many to draw at random; None: the task's own."""
    test_conditions: int
    """Others that the student is tried in after each iteration; training never sees them."""
    on_policy: bool
    """Whether rollouts, but the first ones, are the student's."""
    supervision: Supervision
    linearisation: Linearisation = "exact"
    """How the student becomes a controller."""


class GuidedState(NamedTuple):
    """All of a run."""

    fit: FitState
    local: PyTree
    """State of the local teachers [M]."""
    memory: PyTree
    """Of the method, per condition."""
    conditions: Conditions
    best: PyTree
    """Variables of the iterate whose trials cost least so far."""
    best_cost: Float[Array, ""]
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


def guided(
    env: Env, make_teacher: Callable[[Env], LocalTeacher], student: Student, method: Method, plan: Plan
) -> Algorithm:
    """Local teachers and the student improve in turns, as `method` ties them.

    The first rollouts are those of the local teachers' first controllers, and the student is fitted to these
    before the first C-step. The policy handed out is the iterate whose noise-free trials in the training
    conditions cost least.

    Raises:
        ValueError: settings that cannot work, or a task without conditions of its own and none asked for.
    """
    _check(env, plan)
    s_step = supervise(student, plan.supervision)
    label = cpu_jit(labels(env, plan.supervision))
    test = cpu_jit(trials(env, make_teacher, student, plan.test_conditions))
    roll_out = cpu_jit(explore(env, make_teacher, plan.samples, student if plan.on_policy else None))

    @cpu_jit
    def init(key: Key[Array, ""]) -> GuidedState:
        condition_key, teacher_key, fit_key, row_key = jax.random.split(key, 4)
        starts = training_conditions(env, condition_key, plan.conditions)
        begin = batched(env, make_teacher, lambda bound, teacher, key, x0: teacher.init(key, x0))
        local = begin(starts.context, jax.random.split(teacher_key, starts.x0.shape[0]), starts.x0)
        memory = jax.vmap(method.memory)(starts.x0)
        fitted = s_step.init(fit_key, example_row(env, row_key))
        worst, zero = jnp.asarray(jnp.inf, starts.x0.dtype), jnp.int32(0)
        totals = {name: zero for name in COUNTED}
        state = GuidedState(fitted, local, memory, starts, fitted.variables, worst, zero, totals)
        rehearse(state)
        return state

    def rehearse(state: GuidedState) -> None:
        """Trace an iteration's rollouts and C-step: what cannot work is refused before anything is run."""
        key, starts, variables = jax.random.key(0), state.conditions, state.fit.variables
        local, paths, _ = jax.eval_shape(roll_out, key, starts, state.local, variables, False)
        jax.eval_shape(c_step, starts, local, local, state.memory, paths, variables, True)

    @cpu_jit
    def first_targets(conditions: Conditions, local: PyTree) -> Targets:
        def one(bound: Env, teacher: LocalTeacher, local: PyTree) -> Targets:
            controller = teacher.controller(local)
            return Targets(controller, jnp.ones(env.horizon, controller.us.dtype))

        return batched(env, make_teacher, one)(conditions.context, local)

    @cpu_jit
    def c_step(
        starts: Conditions,
        learned: PyTree,
        local: PyTree,
        memory: PyTree,
        paths: Trajectory,
        variables: PyTree,
        first: bool,
    ) -> CStep:
        def one(bound: Env, teacher: LocalTeacher, *rows: PyTree) -> CStep:
            learned, local, memory, paths = rows
            along = student_controller(bound, student, plan.linearisation)
            pi = functools.cache(lambda: along(variables, paths))
            return method.c_step(bound, teacher, Now(learned, local, paths, pi, jnp.asarray(first)), memory)

        return batched(env, make_teacher, one)(starts.context, learned, local, memory, paths)

    def teach(key: Array, state: FitState, starts: Conditions, targets: Targets, paths: Trajectory) -> tuple:
        label_key, fit_key = jax.random.split(key)
        data = label(label_key, starts, targets, paths)
        fitted, info = s_step.run(fit_key, state, data)
        return fitted, info | {"samples": jnp.sum(data.weight > 0)}

    def step(key: Key[Array, ""], state: GuidedState) -> tuple[GuidedState, dict[str, Any]]:
        roll_key, first_key, *round_keys = jax.random.split(key, 2 + method.rounds)
        begun, starts = int(state.iteration) > 0, state.conditions
        own = plan.on_policy and begun
        local, paths, seen = roll_out(roll_key, starts, state.local, state.fit.variables, own)
        fitted, memory, taught = state.fit, state.memory, []
        if not begun:
            fitted, s_info = teach(first_key, fitted, starts, first_targets(starts, local), paths)
            taught.append(s_info)
        improved, c_info = local, {}
        for i, round_key in enumerate(round_keys):
            improved, memory, targets, c_info = c_step(
                starts, local, improved, memory, paths, fitted.variables, i == 0
            )
            fitted, s_info = teach(round_key, fitted, starts, targets, paths)
            taught.append(s_info)
        tried = test(starts, improved, fitted.variables)
        cost = tried["student_cost"]
        better = bool(cost < state.best_cost) or not begun
        M = starts.x0.shape[0]
        totals, counts = counted(
            state.totals,
            rollouts=M * plan.samples,
            simulator_steps=M * plan.samples * env.horizon,
            trial_rollouts=2 * M,
            lost_rollouts=jnp.sum(seen["lost"]),
            samples=sum(info["samples"] for info in taught),
            gradient_updates=sum(info["updates"] for info in taught),
        )
        spent = jnp.mean(seen["cost"])
        info = {"driver_cost": spent} | ({} if own else {"teacher_cost": spent})
        info |= _named("driver", seen["metrics"]) | tried
        info |= {name: _over_conditions(name, value) for name, value in c_info.items()}
        info |= {name: taught[-1][name] for name in ("loss", "finite")} | counts
        best, best_cost = (fitted.variables, cost) if better else (state.best, state.best_cost)
        return GuidedState(
            fitted, improved, memory, starts, best, best_cost, state.iteration + 1, totals
        ), info

    return Algorithm(init, step, lambda state: state.best)


# ------------------------------------------------------------------------------------- internals


def _named(who: str, metrics: dict[str, Array]) -> dict[str, Array]:
    """Means of figures of merit of last states, by who drove."""
    return {f"{who}_{name}": jnp.mean(value) for name, value in metrics.items()}


def _over_conditions(name: str, values: Float[Array, " M"]) -> Array:
    return jnp.sum(values) if name == "failed_solves" else jnp.mean(values)


def _check(env: Env, plan: Plan) -> None:
    if plan.samples < 1:
        raise ValueError(f"samples per condition must be at least 1, got {plan.samples}")
    if plan.test_conditions < 0:
        raise ValueError(f"test_conditions must be at least 0, got {plan.test_conditions}")
    if plan.linearisation not in get_args(Linearisation):
        raise ValueError(
            f"linearisation must be one of {', '.join(get_args(Linearisation))}, got {plan.linearisation!r}"
        )
    if plan.conditions is None and env.conditions is None:
        training_conditions(env, jax.random.key(0), None)
    settings = plan.supervision
    for name, least in (("updates", 1), ("batch_size", 1), ("copies", 0), ("jitter", 0)):
        if not getattr(settings, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {settings.learning_rate}")

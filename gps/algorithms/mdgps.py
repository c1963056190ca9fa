"""MDGPS: guided policy search as approximate mirror descent (Montgomery & Levine, NIPS 2016)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.algorithms.guided import (
    StepRule,
    adjust,
    batched,
    labelled,
    last_metrics,
    mean_path,
    roll_controllers,
    roll_student,
    trial,
)
from gps.conditions import Conditions, held_out, training_conditions
from gps.placement import cpu_jit, student_jit
from gps.types import Algorithm, Env, KLTerm, LinearGaussian, LocalTeacher, Status, Student, Trajectory
from teachers.controllers import recenter
from students.fit import FitState, adam, fit
from students.linearize import linearise
from students.losses import kl, label_covariance
from students.networks import set_covariance

__all__ = ["MDGPSState", "mdgps"]


class MDGPSState(NamedTuple):
    """All of a run."""

    fit: FitState
    best: PyTree
    """Variables of the iterate with the lowest cost so far."""
    best_cost: Float[Array, ""]
    local: PyTree
    """State of the local teachers [M]."""
    multiplier: Float[Array, " M"]
    """Of the KL bound."""
    before: Float[Array, " M"]
    """Expected cost of the linearised student that the last C-step began at."""
    predicted: Float[Array, " M"]
    """And of the controller that it led to, both by the model of then."""
    conditions: Conditions
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


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
    jitter: float = 1.0,
    copies: int = 3,
    floor: float = 0.3,
    test_conditions: int = 8,
) -> Algorithm:
    """TODO."""
    M_bounds = multipliers
    import optax
    decay = optax.cosine_decay_schedule(learning_rate, updates // 2)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(lambda count: decay(jnp.maximum(count % updates - updates // 2, 0))))
    fitter = fit(student, kl(covariance=False), optimizer, batch_size=batch_size, updates=updates)
    improve_student = student_jit(fitter.run)
    T = env.horizon
    try_out = trial(env, student)

    @cpu_jit
    def init(key: Key[Array, ""]) -> MDGPSState:
        condition_key, teacher_key, student_key, fit_key = jax.random.split(key, 4)
        starts = training_conditions(env, condition_key, conditions)
        M = starts.x0.shape[0]
        begin = batched(env, make_teacher, lambda bound, teacher, k, x: teacher.init(k, x))
        local = begin(starts.context, jax.random.split(teacher_key, M), starts.x0)
        bound = env.bind(jax.tree.map(lambda leaf: leaf[0], starts.context))
        x0 = starts.x0[0]
        rest = jnp.zeros(env.nu, x0.dtype)
        obs, _ = bound.observer.observe(key, bound.observer.init(key), x0, bound.sense(x0, rest), rest)
        fitted = fitter.init(fit_key, student.init(student_key, obs))
        inf = jnp.full(M, jnp.inf, x0.dtype)
        zero = jnp.int32(0)
        totals = {name: zero for name in ("rollouts", "simulator_steps", "samples", "gradient_updates", "lost_rollouts")}
        return MDGPSState(fitted, fitted.variables, inf[0], local, jnp.ones(M, x0.dtype), inf, inf, starts, zero, totals)

    @cpu_jit
    def collect(key: Array, state: MDGPSState) -> tuple[PyTree, Trajectory, dict]:
        """Rollouts of the local controllers, and what the local teachers learn from them."""

        def one(bound: Env, teacher: LocalTeacher, key: Array, x0: Array, local: PyTree) -> tuple:
            roll_key, learn_key = jax.random.split(key)
            driven = jnp.asarray(on_policy) & (state.iteration > 0)
            by_local = roll_controllers(bound, roll_key, teacher.controller(local), x0, samples)
            if on_policy:
                own = roll_student(bound, student, roll_key, state.fit.variables, x0, samples)
                by_local = jax.tree.map(lambda a, b: jnp.where(driven, a, b), own, by_local)
            local, info = teacher.learn(learn_key, local, by_local)
            return local, by_local, info | last_metrics_mean(bound, by_local)

        M = state.multiplier.shape[0]
        return batched(env, make_teacher, one)(
            state.conditions.context, jax.random.split(key, M), state.conditions.x0, state.local
        )

    @cpu_jit
    def label(key: Array, state: MDGPSState, local: PyTree, paths: Trajectory) -> Any:
        def spread(bound: Env, teacher: LocalTeacher, paths: Trajectory) -> Array:
            middle = mean_path(bound, paths)
            sound = (paths.status == Status.OK)[:, None, None]
            away = jax.vmap(jax.vmap(bound.minus), (0, None))(paths.xs[:, :-1], middle)
            return jnp.sum(jnp.where(sound, away**2, 0), axis=0) / jnp.maximum(jnp.sum(sound) - 1, 1)

        var = batched(env, make_teacher, spread)(state.conditions.context, paths)
        mean = jnp.mean(var, axis=0)
        std = jitter * jnp.sqrt(jnp.maximum(mean, floor**2 * jnp.mean(mean, axis=0, keepdims=True)))

        def one(bound: Env, teacher: LocalTeacher, key: Array, local: PyTree, paths: Trajectory) -> Any:
            return labelled(bound, key, teacher.controller(local), paths, std, copies)

        M = state.multiplier.shape[0]
        rows = batched(env, make_teacher, one)(
            state.conditions.context, jax.random.split(key, M), local, paths
        )
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, flat)
        return single._replace(next_slot=jnp.int32(0))

    @cpu_jit
    def control_step(state: MDGPSState, local: PyTree, paths: Trajectory, variables: PyTree) -> tuple:
        def one(bound: Env, teacher: LocalTeacher, local: PyTree, paths: Trajectory, multiplier: Array, before: Array, predicted: Array) -> tuple:
            middle = mean_path(bound, paths)
            each = jax.vmap(lambda xs: recenter(linearise(bound, student)(variables, xs), middle, bound.minus, bound.plus))(paths.xs[:, :-1])
            student_now = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)
            now = teacher.expected_cost(local, student_now)
            sampled = jnp.mean(jnp.sum(paths.costs, axis=1))
            actual = {
                "none": predicted,
                "classic": teacher.expected_cost(local, teacher.controller(local)),
                "global": now,
                "mc": sampled,
            }[step_rule]
            if step_rule != "none":
                multiplier = adjust(multiplier, before, predicted, actual, M_bounds)
            bound_now = epsilon * T * multiplier
            near, info = teacher.improve(local, (KLTerm(student_now, bound=bound_now),))
            alone, other = teacher.improve(local, (KLTerm(teacher.controller(local), bound=bound_now),))
            solved = info["status"] <= 1
            local = jax.tree.map(lambda a, b: jnp.where(solved, a, b), near, alone)
            foreseen = teacher.expected_cost(local, teacher.controller(local))
            info = {"kl": jnp.sum(info["kl"]), "kl_bound": bound_now, "eta": info["eta"][0], "status": info["status"]}
            return local, multiplier, now, foreseen, info | {"sampled": sampled}

        return batched(env, make_teacher, one)(
            state.conditions.context, local, paths, state.multiplier, state.before, state.predicted
        )

    @cpu_jit
    def test(state: MDGPSState, variables: PyTree) -> tuple:
        fresh = held_out(env, jax.random.key(0x7E57), test_conditions) if test_conditions else None
        return try_out(state.conditions, variables), None if fresh is None else try_out(fresh, variables)

    def supervise(key: Array, fitted: FitState, dataset: Any) -> tuple[FitState, dict]:
        """The S-step."""
        fitted, info = improve_student(key, fitted, dataset)
        variables = set_covariance(fitted.variables, label_covariance(dataset))
        return fitted._replace(variables=variables, start=fitted.variables[1]), info

    def step(key: Key[Array, ""], state: MDGPSState) -> tuple[MDGPSState, dict[str, Any]]:
        collect_key, first_key, label_key, fit_key = jax.random.split(key, 4)
        local, paths, seen = collect(collect_key, state)
        fitted = state.fit
        if int(state.iteration) == 0:
            fitted, _ = supervise(first_key, fitted, label(first_key, state, local, paths))
        local, multiplier, before, predicted, c_info = control_step(state, local, paths, fitted.variables)
        dataset = label(label_key, state, local, paths)
        fitted, s_info = supervise(fit_key, fitted, dataset)
        (costs, metrics), fresh = test(state, fitted.variables)
        cost = jnp.mean(costs)
        better = cost < state.best_cost
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), fitted.variables, state.best)
        info = {
            "local_cost": jnp.mean(c_info["sampled"]),
            "student_cost": cost,
            "kl": jnp.mean(c_info["kl"]),
            "kl_bound": jnp.mean(c_info["kl_bound"]),
            "eta": jnp.mean(c_info["eta"]),
            "multiplier": jnp.mean(multiplier),
            "failed_solves": jnp.sum(c_info["status"] > 1),
            "lost_rollouts": jnp.sum(seen["lost"]),
            "loss": s_info["loss"],
            "finite": s_info["finite"],
            "largest_A": jnp.max(seen["largest_A"]),
        }
        info |= {f"local_{name}": jnp.mean(v) for name, v in seen["metrics"].items()}
        info |= {f"student_{name}": jnp.mean(v) for name, v in metrics.items()}
        if fresh is not None:
            info |= {f"test_{name}": jnp.mean(v) for name, v in fresh[1].items()}
            info["test_cost"] = jnp.mean(fresh[0])
        new = MDGPSState(
            fitted, best, jnp.minimum(cost, state.best_cost), local, multiplier, before, predicted,
            state.conditions, state.iteration + 1, state.totals,
        )
        return new, info

    return Algorithm(init, step, lambda state: state.best)


def last_metrics_mean(bound, paths):
    return {"metrics": jax.tree.map(jnp.mean, jax.vmap(lambda p: last_metrics(bound, p))(paths))}

"""The loop that BC, DAgger and PLATO share: collect labels, aggregate, fit. They differ in who drives.

Collecting runs on the CPU, where the engine is; fitting on the student's device.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps import dataset as data
from gps.algorithms.trials import on_test_worlds
from gps.episodes import TEACHER, Drive, Steps, episodes
from gps.evaluate import disagreement
from gps.labels import as_dataset, example_row, looked_at
from gps.placement import cpu_jit, student_jit
from gps.types import Algorithm, Dataset, Env, Student, Teacher
from students.augment import Augment, chain, reflect
from students.fit import FitState, adam, fit
from students.losses import LossName, named

__all__ = ["COUNTED", "Budget", "ImitationState", "aggregation", "imitation", "summary"]


class Budget(NamedTuple):
    """What a run may spend; the same for every algorithm that is compared."""

    iterations: int
    """Planned: sets the dataset's capacity and where the learning rate decays."""
    num_worlds: int
    """Worlds side by side."""
    num_steps: int
    """Control steps per world and iteration."""
    updates: int
    """Gradient updates per iteration."""
    batch_size: int
    learning_rate: float
    test_worlds: int
    """Worlds on which the student alone is tried after each iteration; training never sees them."""


COUNTED = {
    "crashes": "episodes that ended in failure while training",
    "samples": "labelled states that the student learns from",
    "teacher_queries": "states that the teacher was asked about, refused labels included",
    "gradient_updates": "steps of the optimiser",
    "simulator_steps": "control steps of `Env.dt` seconds in the simulator, while training: neither those "
    "that the teacher plans with nor the trials on test worlds",
}
"""What a run spends. An iteration's info has each of them, and the sum since the start as `total_…`."""


class ImitationState(NamedTuple):
    """All of a run."""

    fit: FitState
    dataset: Dataset
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]
    """Of everything in `COUNTED`, since the start."""


Gather = Callable[[Array, ImitationState], tuple[Dataset, dict[str, Any]]]
"""(key, state) → (the dataset with what was collected, info with `taught`, `samples` and what is counted)."""


def imitation(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    drive: Drive,
    settings: Callable[[ImitationState], PyTree],
    budget: Budget,
    *,
    loss: LossName = "kl",
    window: int | None = None,
    views: bool = False,
    augment: Augment | None = None,
    coached: Callable[[ImitationState, Env], Env] = lambda state, bound: bound,
    chosen: Callable[[Steps], Float[Array, "T W"]] | None = None,
) -> Algorithm:
    """Dataset aggregation: `drive` acts with `settings`(state), the teacher labels every state met.

    The student minimises `loss` over the labels of the last `window` iterations (None: of all). `coached`
    makes the env in which the teacher plans from the bound one. With `views` every state is looked at through
    each of `Env.views`, and the student learns from these. `chosen` gives the weight of each label (None: 1);
    what weighs nothing is not kept. Steps that it learns from go through the task's mirror and `augment`. All
    randomness of an iteration comes from its key.

    Raises:
        ValueError: a budget that cannot be spent, a window without iterations, no such loss, or no views.
    """
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if views and not env.views:
        raise ValueError(
            f"{env.name} has no other views (Env.views; a wrapped env has none) to learn from: take bc, or a "
            "student that remembers (students.frame_stack) in place of a history"
        )

    @cpu_jit
    def gather(key: Array, state: ImitationState) -> tuple[Dataset, dict[str, Array]]:
        def teacher(bound: Env) -> Teacher:
            return make_teacher(coached(state, bound))

        key, view_key = jax.random.split(key) if views else (key, key)
        collect = episodes(env, drive, budget.num_steps, make_teacher=teacher, student=student)
        steps = collect(jax.random.split(key, budget.num_worlds), state.fit.variables, settings(state))
        rows = as_dataset(steps, None if chosen is None else chosen(steps))
        if views:
            rows = looked_at(view_key, env, rows)
        return data.add(state.dataset, rows), summary(steps) | {"samples": jnp.sum(rows.weight > 0)}

    looks = len(env.views) if views else 1
    capacity = (window or budget.iterations) * budget.num_worlds * budget.num_steps * looks
    return aggregation(env, student, gather, capacity, budget, loss=loss, augment=augment)


def aggregation(
    env: Env,
    student: Student,
    gather: Gather,
    capacity: int,
    budget: Budget,
    *,
    loss: LossName = "kl",
    augment: Augment | None = None,
    periodic: bool = False,
) -> Algorithm:
    """Each iteration `gather` adds labels to a dataset of `capacity` steps, and the student is fitted to all.

    The learning rate falls to 0 in the last iterations; `periodic`, in the last updates of each.

    Raises:
        ValueError: a budget that cannot be spent, or no such loss.
    """
    _check(budget)
    life = budget.updates * (1 if periodic else budget.iterations)
    optimizer = adam(budget.learning_rate, updates=life, periodic=periodic)
    if env.mirror is not None:
        augment = reflect(env.mirror) if augment is None else chain(reflect(env.mirror), augment)
    size, updates = budget.batch_size, budget.updates
    fitter = fit(student, named(loss), optimizer, batch_size=size, updates=updates, augment=augment)
    improve = student_jit(fitter.run)
    try_out = on_test_worlds(env, student, budget.test_worlds)

    @cpu_jit
    def init(key: Key[Array, ""]) -> ImitationState:
        row_key, student_key, fit_key = jax.random.split(key, 3)
        row = example_row(env, row_key)
        fitted = fitter.init(fit_key, student.init(student_key, row.obs))
        dataset = data.empty(capacity, row)
        zero = jnp.int32(0)
        return ImitationState(fitted, dataset, zero, {name: zero for name in COUNTED})

    def step(key: Key[Array, ""], state: ImitationState) -> tuple[ImitationState, dict[str, Any]]:
        collect_key, fit_key = jax.random.split(key)
        dataset, info = gather(collect_key, state)
        fitted, fit_info = improve(fit_key, state.fit, dataset)
        info["gradient_updates"] = fit_info["updates"]
        totals = {name: total + int(info[name]) for name, total in state.totals.items()}
        if info.pop("taught"):
            info["teacher_cost"] = info["driver_cost"]
        info |= {name: fit_info[name] for name in ("loss", "finite")}
        info |= {f"total_{name}": count for name, count in totals.items()} | try_out(fitted.variables)
        return ImitationState(fitted, dataset, state.iteration + 1, totals), info

    return Algorithm(init, step, lambda state: state.fit.variables)


def summary(steps: Steps) -> dict[str, Array]:
    """What a human wants to see of a collection; `taught`: the teacher alone drove."""
    assert steps.action is not None, "collected with a teacher"
    sound = steps.action.status == 0
    answered, asked = jnp.sum(sound), jnp.int32(steps.t.size)
    return {
        "crashes": jnp.sum(steps.failed),
        "teacher_queries": asked,
        "simulator_steps": asked,
        "refused_labels": asked - answered,
        "engine_failures": jnp.sum(steps.status != 0),
        "driver_cost": jnp.mean(steps.cost),
        "taught": jnp.all(steps.behaviour == TEACHER),
        "kl": jnp.sum(disagreement(steps)) / jnp.maximum(answered, 1),
    }


def _check(budget: Budget) -> None:
    for name, value in budget._asdict().items():
        least = 0 if name == "test_worlds" else 1
        if name != "learning_rate" and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < budget.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {budget.learning_rate}")

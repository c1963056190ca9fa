"""The loop that BC, DAgger and PLATO share: collect labels, aggregate, fit. They differ in who drives.

Collecting runs on the CPU, where the engine is; fitting on the student's device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from gps import dataset as data
from gps.episodes import Drive, Steps, as_dataset, episodes
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm, Dataset, Env, Student, Teacher
from students.fit import FitState, adam, fit
from students.losses import kl

__all__ = ["Budget", "ImitationState", "imitation"]


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


class ImitationState(NamedTuple):
    """All of a run."""

    fit: FitState
    dataset: Dataset
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]
    """Counted since the start: crashes, teacher queries, gradient updates, simulated control steps."""


def imitation(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    drive: Drive,
    settings: Callable[[ImitationState], PyTree],
    budget: Budget,
) -> Algorithm:
    """Dataset aggregation: `drive` acts with `settings`(state), the teacher labels every state met.

    The student minimises KL(student ‖ teacher) over all labels so far. All randomness of an iteration comes from
    its key.
    """
    _check(budget)
    collect = episodes(env, drive, budget.num_steps, make_teacher=make_teacher, student=student)
    fitter = fit(
        student,
        kl(),
        adam(budget.learning_rate, updates=budget.iterations * budget.updates),
        batch_size=budget.batch_size,
        updates=budget.updates,
    )
    capacity = budget.iterations * budget.num_worlds * budget.num_steps

    @cpu_jit
    def gather(key: Array, state: ImitationState) -> tuple[Dataset, dict[str, Array]]:
        worlds = jax.random.split(key, budget.num_worlds)
        steps = collect(worlds, state.fit.variables, settings(state))
        return _store(state.dataset, steps), _summary(steps)

    @cpu_jit
    def start(key: Array) -> ImitationState:
        keys = jax.random.split(key, 3)
        obs = _example_obs(env, keys[0])
        variables = student.init(keys[1], obs)
        one = jax.random.split(key, 1)
        example = jax.eval_shape(lambda: as_dataset(collect(one, variables, settings_at_start(variables))))
        row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), _rows(example))
        zero = jnp.int32(0)
        totals = dict.fromkeys(("crashes", "teacher_queries", "gradient_updates", "simulator_steps"), zero)
        return ImitationState(
            fitter.init(keys[2], variables), data.empty(capacity, _compact(row)), zero, totals
        )

    def settings_at_start(variables: PyTree) -> PyTree:
        blank = ImitationState(FitState(variables, (), (), ()), _no_data(env), jnp.int32(0), {})
        return settings(blank)

    test = cpu_jit(lambda keys, variables: evaluate(env, student=student)(keys, variables)[0])

    def init(key: Key[Array, ""]) -> ImitationState:
        return start(key)

    def step(key: Key[Array, ""], state: ImitationState) -> tuple[ImitationState, dict[str, Any]]:
        collect_key, fit_key = jax.random.split(key)
        dataset, info = gather(collect_key, state)
        fitted, fit_info = fitter.run(fit_key, state.fit, dataset)
        spent = {
            "crashes": info["crashes"],
            "teacher_queries": info["labels"],
            "gradient_updates": fit_info["updates"],
            "simulator_steps": info["steps"],
        }
        totals = {name: state.totals[name] + count.astype(jnp.int32) for name, count in spent.items()}
        info |= {name: fit_info[name] for name in ("loss", "samples")}
        info |= {f"total_{name}": count for name, count in totals.items()}
        if budget.test_worlds:
            worlds = jax.random.split(jax.random.key(_TEST_SEED), budget.test_worlds)
            scores = test(worlds, fitted.variables)
            info |= {"student_cost": jnp.mean(scores.cost), "student_time": jnp.mean(scores.time)}
        return ImitationState(fitted, dataset, state.iteration + 1, totals), info

    return Algorithm(init, step, lambda state: state.fit.variables)


_TEST_SEED = 0x7E57
"""The worlds of the progress display are the same in every iteration and every run."""


def _store(dataset: Dataset, steps: Steps) -> Dataset:
    return data.add(dataset, _compact(as_dataset(steps)))


def _compact(rows: Dataset) -> Dataset:
    """Observations and labels are stored in single precision; the state stays exact, to be looked at again."""

    def narrow(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        return leaf.astype(jnp.float32)

    narrowed = jax.tree.map(narrow, rows._replace(x=(), key=()))
    return narrowed._replace(x=rows.x, key=rows.key)


def _rows(example: Dataset) -> Dataset:
    return example._replace(next_slot=jax.ShapeDtypeStruct((1,), jnp.int32))


def _no_data(env: Env) -> Dataset:
    """A dataset of one empty slot, enough for `settings` to be traced before there is one."""
    fields = dict.fromkeys(Dataset._fields, ())
    precision, weight = jnp.zeros((1, env.nu, env.nu)), jnp.zeros(1)
    return Dataset(**(fields | {"precision": precision, "weight": weight}))


def _example_obs(env: Env, key: Array) -> PyTree:
    bound = env.bind(env.sample_context(key))
    x = bound.init(key)
    u = jnp.zeros(env.nu, x.dtype)
    return bound.observer.observe(key, bound.observer.init(key), x, bound.sense(x, u), u)[0]


def _summary(steps: Steps) -> dict[str, Array]:
    """What a human wants to see of a collection."""
    gap = steps.student_mean - steps.action.dist.mean
    quadratic = 0.5 * jnp.einsum("twi,twij,twj->tw", gap, steps.action.Quu, gap)
    sound = steps.action.status == 0
    return {
        "crashes": jnp.sum(steps.failed),
        "labels": jnp.sum(sound),
        "steps": jnp.int32(steps.t.size),
        "refused_labels": jnp.sum(~sound),
        "engine_failures": jnp.sum(steps.status != 0),
        "driver_cost": jnp.mean(steps.cost),
        "kl": jnp.sum(jnp.where(sound, quadratic, jnp.zeros_like(quadratic)))
        / jnp.maximum(jnp.sum(sound), 1),
    }


def _check(budget: Budget) -> None:
    for name, value in budget._asdict().items():
        least = 0 if name == "test_worlds" else 1
        if name != "learning_rate" and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not budget.learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {budget.learning_rate}")

"""SMILe: students take the teacher's place in a stochastic mixture, bit by bit (Ross & Bagnell 2010)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps import dataset as data
from gps.algorithms.dagger import mixture_drives
from gps.algorithms.imitation import Budget, ImitationState, aggregation, summary
from gps.algorithms.trials import on_test_worlds
from gps.episodes import episodes
from gps.labels import as_dataset
from gps.placement import cpu_jit
from gps.types import Algorithm, Dataset, Env, Student, Teacher
from students.crowd import Crowd, share
from students.losses import LossName

__all__ = ["shares", "smile"]


def smile(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    alpha: float = 0.3,
    iterations: int = 8,
    num_worlds: int = 8,
    num_steps: int = 150,
    updates: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    loss: LossName = "kl",
    test_worlds: int = 16,
) -> Algorithm:
    """In iteration i a new member learns from the teacher's labels of what the mixture before it has met.

    The policy that drives is π^i = (1 − α)^i π* + Σ_{j ≤ i} α (1 − α)^{j−1} π̂_j, each step by
    one of them; π̂_i is fitted to the labels of iteration i alone. The policy returned leaves the teacher out,
    and shares its part among the members.

    Args:
        env: the task.
        make_teacher: Env → Teacher, called on the env bound to an episode's context.
        student: a `students.crowd` of at least `iterations` members.
        alpha: share of what is left to the teacher that the newest member takes, in (0, 1].
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, which every member begins afresh.
        loss: what a member minimises over its labels, see `students.losses`.
        test_worlds: worlds on which the policy is tried after each iteration.

    Raises:
        ValueError: alpha is not a share; from `init`, a student that is no crowd, or one that is too small;
            from `step`, no member that is left, or no label for it.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], got {alpha}")
    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, 0)
    if test_worlds < 0:
        raise ValueError(f"test_worlds must be at least 0, got {test_worlds}")
    try_out = on_test_worlds(env, student, test_worlds)

    @cpu_jit
    def gather(key: Array, state: ImitationState) -> tuple[Dataset, dict[str, Array]]:
        left = jnp.power(jnp.float32(1 - alpha), state.iteration)
        collect = episodes(env, mixture_drives, num_steps, make_teacher=make_teacher, student=student)
        steps = collect(jax.random.split(key, num_worlds), policy(state), left)
        rows = as_dataset(steps)
        forgotten = state.dataset._replace(
            weight=jnp.zeros_like(state.dataset.weight), next_slot=jnp.int32(0)
        )
        return data.add(forgotten, rows), summary(steps) | {"samples": jnp.sum(rows.weight > 0)}

    inner = aggregation(env, student, gather, num_worlds * num_steps, budget, loss=loss, periodic=True)

    def init(key: Key[Array, ""]) -> ImitationState:
        state = inner.init(key)
        if _members(state) < iterations:
            raise ValueError(
                f"smile makes a new member in each of {iterations} iterations: give it a "
                f"students.crowd(student, {iterations}) (--student.members {iterations}), got "
                f"{_members(state) or 'no crowd'}"
            )
        return state

    def step(key: Key[Array, ""], state: ImitationState) -> tuple[ImitationState, dict[str, Any]]:
        if int(state.iteration) >= _members(state):
            raise ValueError(
                f"all {_members(state)} members of the crowd are made: begin a longer run with a larger crowd"
            )
        alone = jax.nn.one_hot(state.iteration, _members(state), dtype=jnp.float32)
        afresh = jax.tree.map(jnp.zeros_like, state.fit.opt_state)
        variables = share(state.fit.variables, alone)
        ready = state.fit._replace(variables=variables, opt_state=afresh, start=variables[1])
        done, info = inner.step(key, state._replace(fit=ready))
        if not int(info["samples"]):
            raise ValueError(f"member {int(done.iteration)} learns nothing: the teacher refused every label")
        return done, info | try_out(policy(done))

    def policy(state: ImitationState) -> tuple[PyTree, PyTree]:
        return share(state.fit.variables, shares(alpha, _members(state), state.iteration))

    return Algorithm(init, step, policy)


def shares(alpha: float, members: int, made: Int[Array, ""]) -> Float[Array, " members"]:
    """Of the first `made` members, the teacher's part left out; before there is any, the first has all."""
    j = jnp.arange(members)
    each = jnp.where(j < jnp.maximum(made, 1), jnp.power(jnp.float32(1 - alpha), j), 0)
    return each / jnp.sum(each)


def _members(state: ImitationState) -> int:
    """Of the crowd; 0 if there is none."""
    statistics = state.fit.variables[1]
    return statistics.shares.shape[0] if isinstance(statistics, Crowd) else 0

"""Judging: whole episodes of a student or of its teacher in unseen worlds, and their figures of merit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from gps.placement import cpu_jit
from gps.rollout import clip_control, guard_step, trajectory_costs
from gps.types import Env, Status, Student, Teacher, Trajectory

__all__ = ["Episodes", "figures", "student_driver", "teacher_driver"]

Driver = Callable[..., tuple[Array, PyTree]]
"""(key, memory, x, y, u_prev, t) → (u, memory)."""


class Episodes(NamedTuple):
    """n episodes, each in a world of its own."""

    contexts: PyTree
    trajectories: Trajectory
    alive: Bool[Array, "n T+1"]
    """False from the first failure or non-OK status on; the state is held there."""
    metrics: dict[str, Float[Array, "n T"]]


def student_driver(env: Env, student: Student) -> Callable[..., Episodes]:
    """(keys [n], variables) → n episodes driven by the student's mode, from what it may see; jitted."""

    def driver(bound: Env, key: Array, x0: Array, variables: PyTree) -> tuple[Driver, PyTree]:
        del x0

        def act(
            key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array, t: Array
        ) -> tuple[Array, PyTree]:
            del t
            seen, carry = memory
            obs, seen = bound.observer.observe(key, seen, x, y, u_prev)
            action, carry = student.apply(variables, obs, carry)
            return action.mode(), (seen, carry)

        return act, (bound.observer.init(key), student.initial_carry())

    return _batch(env, driver)


def teacher_driver(env: Env, make_teacher: Callable[[Env], Teacher]) -> Callable[..., Episodes]:
    """(keys [n],) → n episodes driven by the mean of the teacher's label; same keys, same worlds; jitted."""

    def driver(bound: Env, key: Array, x0: Array) -> tuple[Driver, PyTree]:
        teacher = make_teacher(bound)

        def act(
            key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array, t: Array
        ) -> tuple[Array, PyTree]:
            del y, u_prev
            action, memory = teacher.act(key, memory, x, t)
            return action.dist.mean, memory

        return act, teacher.init(key, x0)

    return _batch(env, driver)


def figures(env: Env, episodes: Episodes) -> dict[str, Any]:
    """Means over episodes, and the values per episode that a paired comparison needs."""
    alive = np.asarray(episodes.alive)
    steps = alive[:, :-1].sum(axis=1)
    each = {
        "time_to_failure": steps * env.dt,
        "survived": alive[:, -1].astype(float),
        "cost": np.asarray(episodes.trajectories.costs).sum(axis=1),
    }
    for name, values in episodes.metrics.items():
        each[name] = np.where(alive[:, :-1], np.asarray(values), 0.0).sum(axis=1) / np.maximum(steps, 1)
    means = {name: float(np.mean(values)) for name, values in each.items()}
    per_episode = {name: np.round(values, 9).tolist() for name, values in each.items()}
    return {"episodes": len(steps), **means, "per_episode": per_episode}


# ------------------------------------------------------------------------------------- internals


def _batch(env: Env, driver: Callable[..., tuple[Driver, PyTree]]) -> Callable[..., Episodes]:
    """(keys [n], *shared) → Episodes; `driver` is (bound env, key, x0, *shared) → (act, its first memory)."""

    def one(key: Array, *shared: PyTree) -> Episodes:
        world, start, drive = jax.random.split(key, 3)
        context = env.sample_context(world)
        bound = env.bind(context)
        x0 = bound.init(start)
        init_key, step_key = jax.random.split(drive)
        act, memory = driver(bound, init_key, x0, *shared)
        trajectory, alive = _episode(step_key, bound, act, memory, x0)
        found = {}
        if bound.metrics is not None:
            found = jax.vmap(bound.metrics)(trajectory.xs[:-1], trajectory.us)
        return Episodes(context, trajectory, alive, found)

    return cpu_jit(lambda keys, *shared: jax.vmap(lambda key: one(key, *shared))(keys))


def _episode(key: Array, env: Env, act: Driver, memory: PyTree, x0: Array) -> tuple[Trajectory, Array]:
    """One closed-loop episode, held from its first failure on; (trajectory, alive [T+1])."""
    step = guard_step(env.step)

    def advance(carry: tuple, t: Array) -> tuple[tuple, tuple]:
        x, u_prev, memory, status, alive = carry
        y = env.sense(x, u_prev)
        alive = alive & ~env.failed(x, y)
        u, memory = act(jax.random.fold_in(key, t), memory, x, y, u_prev, t)
        u = clip_control(jnp.where(jnp.isfinite(u), u, 0.0).astype(x.dtype), env.limits)
        x_next, code = step(x, u)
        status = jnp.where(alive & (status == Status.OK), code, status)
        moving = alive & (code == Status.OK)
        return (jnp.where(moving, x_next, x), u, memory, status, moving), (x, u, alive)

    first = (x0, jnp.zeros(env.nu, x0.dtype), memory, jnp.int32(Status.OK), jnp.bool_(True))
    (x_last, u_last, _, status, alive_last), (xs, us, alive) = jax.lax.scan(
        advance, first, jnp.arange(env.horizon)
    )
    xs = jnp.concatenate([xs, x_last[None]])
    ys = jax.vmap(env.sense)(xs, jnp.concatenate([us, jnp.zeros_like(us[:1])]))
    alive_last = alive_last & ~env.failed(x_last, env.sense(x_last, u_last))
    costs = trajectory_costs(env.cost, env.final_cost, xs, us, ys)
    return Trajectory(xs, us, ys, costs, status), jnp.concatenate([alive, alive_last[None]])

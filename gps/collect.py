"""Worlds that run on: experience for reinforcement learning, collected piece by piece in one jitted program.

Unlike those of `gps.episodes`, episodes go on from one piece to the next; a world that ends is begun anew.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.dataset import single
from gps.episodes import STUDENT, Drive, Steps, World, beginning, control_step, select
from gps.types import Action, Env, Gaussian, Student

__all__ = ["Collector", "Experience", "Running", "collector", "student_samples"]


class Experience(NamedTuple):
    """Transitions, [T, W, …] as they are collected or [N, …] as rows; numbers in single precision.

    An episode that ends because it fails has nothing behind it (`terminated`); one that is cut by
    `Env.horizon` would have gone on (`truncated`), and `next_obs` is what would have been seen.
    """

    obs: PyTree
    action: Float[Array, "T W nu"]
    """As it was drawn, before it was clipped to the limits."""
    log_prob: Float[Array, "T W"]
    """Of `action`, under the policy that drew it."""
    reward: Float[Array, "T W"]
    next_obs: PyTree
    first: Bool[Array, "T W"]
    terminated: Bool[Array, "T W"]
    truncated: Bool[Array, "T W"]


class Running(NamedTuple):
    """Episodes under way, of W worlds."""

    world: World
    reward: Float[Array, " W"]
    """Its sum since the episode began; NaN in the first episode of a world, which is shorter."""


class Collector(NamedTuple):
    """Made by `collector`."""

    begin: Callable[[Key[Array, " W"]], Running]
    """Keys → W worlds that have just begun, but of ages from 0 to `Env.horizon`: they do not all end at once,
    and every piece holds all parts of episodes."""
    run: Callable[..., tuple[Running, Experience, dict[str, Array]]]
    """(key, running, student's variables, drive's settings) → (running, experience [T, W], info): episodes
    that `ended`, of these how many `failed`, and the mean `return` of whole episodes, NaN if none ended."""


def student_samples(
    key: Array, settings: PyTree, action: Action | None, dist: Gaussian, env: Env
) -> tuple[Array, Array, Int[Array, ""]]:
    """A draw from the student's distribution."""
    u = dist.sample(key)
    return u, dist.log_prob(u), jnp.int32(STUDENT)


def collector(env: Env, student: Student, drive: Drive, num_steps: int) -> Collector:
    """`num_steps` control steps at a time, driven by `drive` (see `gps.episodes`). Run it under `jit`.

    Worlds are begun anew only in steps in which one has ended: beginnings may be dear.

    Raises:
        ValueError: less than one step.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    begin, act = beginning(env, None, student), control_step(env, None, student, drive)

    def observe(key: Array, world: World) -> PyTree:
        bound = env.bind(world.context)
        return bound.observer.observe(key, world.memory, world.x, world.y, world.u)[0]

    def start(keys: Array) -> Running:
        def one(key: Array) -> World:
            begin_key, age_key = jax.random.split(key)
            return begin(begin_key)._replace(t=jax.random.randint(age_key, (), 0, env.horizon, jnp.int32))

        return Running(jax.vmap(one)(keys), jnp.full(keys.shape[0], jnp.nan, jnp.float32))

    def run(
        key: Array, running: Running, variables: PyTree, settings: PyTree
    ) -> tuple[Running, Experience, dict[str, Array]]:
        count = running.reward.shape[0]

        def step(running: Running, i: Array) -> tuple[Running, tuple]:
            act_key, end_key = jax.random.split(jax.random.fold_in(key, i))
            keys = jax.random.split(act_key, count)
            moved, steps = jax.vmap(act, (0, 0, None, None))(keys, running.world, variables, settings)
            total = running.reward + steps.reward.astype(jnp.float32)
            over = steps.failed | (moved.t >= env.horizon)
            seen = jax.eval_shape(lambda: jax.vmap(observe)(keys, moved))

            def anew() -> tuple[World, PyTree]:
                fresh = jax.vmap(begin)(jax.random.split(end_key, count))
                return jax.vmap(select)(over, fresh, moved), jax.vmap(observe)(keys, moved)

            def on() -> tuple[World, PyTree]:
                return moved, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), seen)

            world, last = jax.lax.cond(jnp.any(over), anew, on)
            rows = _rows(steps, last, over)
            after = Running(world, jnp.where(over, 0, total))
            return after, (rows, over, jnp.where(over, total, 0))

        after, (rows, over, returns) = jax.lax.scan(step, running, jnp.arange(num_steps))
        key = jax.random.fold_in(key, num_steps)
        now = jax.vmap(observe)(jax.random.split(key, count), after.world)
        rows = rows._replace(next_obs=_following(rows, now, over))
        whole = over & ~jnp.isnan(returns)
        mean = jnp.sum(jnp.where(whole, returns, 0)) / jnp.sum(whole)
        return after, rows, {"ended": jnp.sum(over), "failed": jnp.sum(rows.terminated), "return": mean}

    return Collector(start, run)


def _rows(steps: Steps, last: PyTree, over: Array) -> Experience:
    """Of one control step; `next_obs` is known of those that are over."""
    return Experience(
        obs=single(steps.obs),
        action=single(steps.drawn),
        log_prob=single(steps.log_prob),
        reward=single(steps.reward),
        next_obs=single(last),
        first=steps.first,
        terminated=steps.failed,
        truncated=over & ~steps.failed,
    )


def _following(rows: Experience, now: PyTree, over: Bool[Array, "T W"]) -> PyTree:
    """What was seen next: in the next row, or when the episode was over, or when the piece was."""

    def one(obs: Array, end: Array, now: Array) -> Array:
        following = jnp.concatenate([obs[1:], now[None].astype(obs.dtype)])
        return jnp.where(over.reshape(*over.shape, *[1] * (obs.ndim - 2)), end, following)

    return jax.tree.map(one, rows.obs, rows.next_obs, now)

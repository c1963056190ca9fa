"""Episodes as one jitted program: worlds side by side, a teacher, a student, and whoever drives.

This is the only place where an env, a teacher and a student meet; algorithms and evaluations differ in who
drives (`Drive`), whether a crashed world is replaced, and what they read from the `Steps` that come back.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.rollout import clip_control, fresh_carry
from gps.types import Action, Env, Gaussian, Status, Student, Teacher

__all__ = [
    "MIXTURE",
    "STUDENT",
    "TEACHER",
    "Drive",
    "Steps",
    "World",
    "beginning",
    "control_step",
    "episodes",
    "select",
    "student_drives",
    "teacher_drives",
    "teacher_shakes",
]

TEACHER, STUDENT, MIXTURE = 0, 1, 2
"""Values of `Dataset.behaviour`."""

Drive = Callable[..., tuple[Float[Array, " nu"], Float[Array, ""], Int[Array, ""]]]
"""(key, settings, teacher's action, student's distribution, env) → (u, log-probability, behaviour).

The action or the distribution is None where `episodes` has no teacher or no student.
"""


class Steps(NamedTuple):
    """What happened, [T, worlds, …].

    Rows behind the end of an episode that was not replaced have `alive` False, and mean nothing.
    """

    obs: PyTree
    x: Float[Array, "T W nx"]
    t: Int[Array, "T W"]
    """Control step within the episode."""
    key: Key[Array, "T W"]
    """`env.sample_context(key)` is the context."""
    u: Float[Array, "T W nu"]
    """As executed, inside the limits."""
    drawn: Float[Array, "T W nu"]
    """As the driver wanted it."""
    log_prob: Float[Array, "T W"]
    """Of what was drawn."""
    behaviour: Int[Array, "T W"]
    action: Action | None
    """The teacher's, where there is one."""
    student_mean: Float[Array, "T W nu"] | None
    cost: Float[Array, "T W"]
    reward: Float[Array, "T W"]
    """`Env.reward`, or −cost of a task that has none; a failure then costs, for each control step that is
    left, what the dearest of its episode did: else it would pay to fail, early or at a cheap moment."""
    first: Bool[Array, "T W"]
    failed: Bool[Array, "T W"]
    """The step led to a failure (`Env.failed`, or a simulation that broke down)."""
    truncated: Bool[Array, "T W"]
    """The episode was cut here without failure: by `env.horizon`, or because the collection ends."""
    status: Int[Array, "T W"]
    """Of the simulation."""
    alive: Bool[Array, "T W"]
    metrics: dict[str, Float[Array, "T W"]]


class World(NamedTuple):
    """One running episode."""

    key: Array
    context: PyTree
    x: Array
    y: Array
    u: Array
    t: Array
    memory: PyTree
    teacher: PyTree
    carry: PyTree
    worst: Array
    """Cost of the dearest step so far."""
    alive: Array


def teacher_drives(key: Array, settings: PyTree, action: Action, dist: Gaussian | None, env: Env) -> tuple:
    """The mean of the teacher's label, without noise."""
    u = action.dist.mean
    return u, action.dist.log_prob(u), jnp.int32(TEACHER)


def teacher_shakes(key: Array, cov: PyTree, action: Action, dist: Gaussian | None, env: Env) -> tuple:
    """The mean of the teacher's label, and Gaussian noise of covariance `cov` [nu, nu]."""
    law = Gaussian(action.dist.mean, cov.astype(action.dist.mean.dtype))
    u = law.sample(key)
    return u, law.log_prob(u), jnp.int32(TEACHER)


def student_drives(key: Array, settings: PyTree, action: Action | None, dist: Gaussian, env: Env) -> tuple:
    """The mode of the student's distribution, without noise."""
    u = dist.mode()
    return u, dist.log_prob(u), jnp.int32(STUDENT)


def episodes(
    env: Env,
    drive: Drive,
    num_steps: int,
    *,
    make_teacher: Callable[[Env], Teacher] | None = None,
    student: Student | None = None,
    replace: bool = True,
    spares: int = 3,
) -> Callable[[Key[Array, " W"], PyTree, PyTree], Steps]:
    """(keys [W], student variables, drive's settings) → `Steps` of W worlds for `num_steps` control steps.

    A world depends on its key alone, not on its neighbours or on who drives: the same keys compare two
    drivers in the same worlds. With `replace`, a world that fails or reaches `env.horizon` is replaced by a
    fresh one, so that every row is a sample (each world has `spares` successors, used in turn). Without, it
    ends there. A teacher, where given, labels every state, whoever drives. Run it under `jit`.

    Raises:
        ValueError: there is neither teacher nor student, or less than one step or spare.
    """
    _check(num_steps, make_teacher, student, spares)
    begin, act = beginning(env, make_teacher, student), control_step(env, make_teacher, student, drive)
    lives = 1 + spares if replace else 1

    def run(keys: Array, variables: PyTree, settings: PyTree) -> Steps:
        birth, life = (jax.vmap(jax.random.fold_in, (0, None))(keys, purpose) for purpose in range(2))
        pool = jax.vmap(lambda key: jax.vmap(begin)(jax.random.split(key, lives)))(birth)

        def step(carry: tuple, i: Array) -> tuple[tuple, Steps]:
            worlds, used = carry
            now = jax.vmap(jax.random.fold_in, (0, None))(life, i)
            moved, steps = jax.vmap(act, (0, 0, None, None))(now, worlds, variables, settings)
            in_time = (moved.t < env.horizon) & (i < num_steps - 1)
            steps = steps._replace(truncated=~steps.failed & ~in_time)
            over = steps.failed | (moved.t >= env.horizon)
            if not replace:
                kept = jax.vmap(select)(worlds.alive, moved, worlds)
                return (kept._replace(alive=worlds.alive & ~over), used), steps
            used = jnp.where(over, 1 + used % spares, used)
            successors = jax.vmap(lambda lane, k: jax.tree.map(lambda leaf: leaf[k], lane))(pool, used)
            return (jax.vmap(select)(over, successors, moved), used), steps

        first = jax.tree.map(lambda leaf: leaf[:, 0], pool), jnp.zeros(keys.shape[0], jnp.int32)
        return jax.lax.scan(step if replace else _until_all_end(step), first, jnp.arange(num_steps))[1]

    return run


def beginning(
    env: Env, make_teacher: Callable[[Env], Teacher] | None, student: Student | None
) -> Callable[[Array], World]:
    """Key → a world at its first control step."""

    def begin(key: Array) -> World:
        context_key, init_key, memory_key, teacher_key = jax.random.split(key, 4)
        context = env.sample_context(context_key)
        bound = env.bind(context)
        x = bound.init(init_key)
        u = jnp.zeros(env.nu, x.dtype)
        state = () if make_teacher is None else make_teacher(bound).init(teacher_key, x)
        carry = () if student is None else fresh_carry(bound, student, x)
        memory = bound.observer.init(memory_key)
        alive, t, worst = jnp.asarray(True), jnp.int32(0), jnp.asarray(-jnp.inf, x.dtype)
        return World(context_key, context, x, bound.sense(x, u), u, t, memory, state, carry, worst, alive)

    return begin


def control_step(
    env: Env, make_teacher: Callable[[Env], Teacher] | None, student: Student | None, drive: Drive
) -> Callable[[Array, World, PyTree, PyTree], tuple[World, Steps]]:
    """(key, world, variables, settings) → the world one control step later, and what happened in between."""

    def act(key: Array, world: World, variables: PyTree, settings: PyTree) -> tuple[World, Steps]:
        observe_key, teacher_key, drive_key = jax.random.split(key, 3)
        bound = env.bind(world.context)
        obs, memory = bound.observer.observe(observe_key, world.memory, world.x, world.y, world.u)
        action, dist, state, carry = None, None, world.teacher, world.carry
        if make_teacher is not None:
            action, state = make_teacher(bound).act(teacher_key, world.teacher, world.x, world.t)
        if student is not None:
            dist, carry = student.apply(variables, obs, world.carry)
            dist = jax.tree.map(lambda leaf: leaf.astype(world.x.dtype), dist)
        wanted, log_prob, behaviour = drive(drive_key, settings, action, dist, bound)
        u, x, status = _move(bound, world.x, wanted)
        y = bound.sense(x, u)
        cost = bound.cost(world.x, u, bound.sense(world.x, u), world.t)
        failed = bound.failed(x, y) | (status != Status.OK)
        worst = jnp.maximum(world.worst, cost).astype(world.worst.dtype)
        steps = Steps(
            obs=obs,
            x=world.x,
            t=world.t,
            key=world.key,
            u=u,
            drawn=wanted,
            log_prob=log_prob,
            behaviour=behaviour,
            action=action,
            student_mean=None if dist is None else dist.mode(),
            cost=cost,
            reward=_reward(bound, world, u, x, jnp.where(failed, worst, cost), failed),
            first=world.t == 0,
            failed=failed,
            truncated=jnp.asarray(False),
            status=status,
            alive=world.alive,
            metrics={} if bound.metrics is None else bound.metrics(world.x, u),
        )
        moved = world._replace(
            x=x, y=y, u=u, t=world.t + 1, memory=memory, teacher=state, carry=carry, worst=worst
        )
        return moved, steps

    return act


def _reward(env: Env, world: World, u: Array, x: Array, cost: Array, failed: Array) -> Array:
    """Of a control step that leads to `x`."""
    if env.reward is not None:
        return env.reward(world.x, u, x)
    left = jnp.maximum(env.horizon - world.t, 1).astype(cost.dtype)
    return -cost * jnp.where(failed, left, 1)


def _move(env: Env, x: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """(u as executed, next state, status).

    A control that is not finite moves nothing and is a failure, as in `Env.rollout`.
    """
    finite = jnp.all(jnp.isfinite(wanted))
    u = clip_control(jnp.where(finite, wanted, jnp.zeros_like(wanted)), env.limits)
    x_next, status = env.step(x, u)
    return u, jnp.where(finite, x_next, x), jnp.where(finite, status, Status.DIVERGED).astype(jnp.int32)


def _until_all_end(step: Callable[[tuple, Array], tuple[tuple, Steps]]) -> Callable:
    """`step`, or blank rows at no cost once every episode has ended."""

    def guarded(carry: tuple, i: Array) -> tuple[tuple, Steps]:
        rows = jax.eval_shape(lambda: step(carry, i)[1])
        return jax.lax.cond(
            jnp.any(carry[0].alive),
            lambda: step(carry, i),
            lambda: (carry, jax.tree.map(_blank, rows)),
        )

    return guarded


def select(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    """`yes` or `no`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _blank(leaf: jax.ShapeDtypeStruct) -> Array:
    """Zeros (False, key 0) of a leaf's shape: rows that no episode reached."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _check(
    num_steps: int, make_teacher: Callable[[Env], Teacher] | None, student: Student | None, spares: int
) -> None:
    if make_teacher is None and student is None:
        raise ValueError("episodes needs a teacher or a student, got neither")
    if num_steps < 1 or spares < 1:
        raise ValueError(f"num_steps and spares must be at least 1, got {num_steps} and {spares}")

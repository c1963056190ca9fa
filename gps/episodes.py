"""Episodes as one jitted program: worlds side by side, a teacher, a student, and whoever drives.

This is the only place where an env, a teacher and a student meet; algorithms and evaluations differ in who
drives (`Drive`), whether a crashed world is replaced, and what they read from the `Steps` that come back.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.types import Action, Dataset, Env, Gaussian, Status, Student, Teacher

__all__ = [
    "MIXTURE",
    "STUDENT",
    "TEACHER",
    "Drive",
    "Steps",
    "as_dataset",
    "episodes",
    "student_drives",
    "teacher_drives",
]

TEACHER, STUDENT, MIXTURE = 0, 1, 2
"""Values of `Dataset.behaviour`."""

Drive = Callable[
    [Key[Array, ""], PyTree, Action | None, Gaussian | None, Env],
    tuple[Float[Array, " nu"], Float[Array, ""], Int[Array, ""]],
]
"""(key, settings, the teacher's action, the student's distribution, env) → (u, log-probability, behaviour)."""


class Steps(NamedTuple):
    """What happened, [T, worlds, …]; rows behind the end of an episode that was not replaced have `alive` False."""

    obs: PyTree
    x: Float[Array, "T W nx"]
    t: Int[Array, "T W"]
    """Control step within the episode."""
    key: Key[Array, "T W"]
    """`env.sample_context(key)` is the context."""
    u: Float[Array, "T W nu"]
    log_prob: Float[Array, "T W"]
    behaviour: Int[Array, "T W"]
    action: Action | None
    """The teacher's, where there is one."""
    student_mean: Float[Array, "T W nu"] | None
    cost: Float[Array, "T W"]
    first: Bool[Array, "T W"]
    failed: Bool[Array, "T W"]
    """The step led to a failure (`Env.failed`, or a simulation that broke down)."""
    status: Int[Array, "T W"]
    """Of the simulation."""
    alive: Bool[Array, "T W"]
    metrics: dict[str, Float[Array, "T W"]]


class _World(NamedTuple):
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
    alive: Array


def teacher_drives(key: Array, settings: PyTree, action: Action, dist: Gaussian | None, env: Env) -> tuple:
    """The mean of the teacher's label, without noise."""
    u = action.dist.mean
    return u, action.dist.log_prob(u), jnp.int32(TEACHER)


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
    spares: int = 8,
) -> Callable[[Key[Array, " W"], PyTree, PyTree], Steps]:
    """(keys [W], student variables, drive's settings) → `Steps` of W worlds for `num_steps` control steps.

    A world depends on its key alone, not on its neighbours or on who drives: the same keys compare two drivers in
    the same worlds.
    With `replace`, a world that fails or reaches `env.horizon` is replaced by a fresh one, so that every row is a
    sample (each world has `spares` successors, used in turn). Without, it ends there. A teacher, where given,
    labels every state, whoever drives. Run it under `jit`.
    """
    if make_teacher is None and student is None:
        raise ValueError("episodes needs a teacher or a student, got neither")

    def fresh(key: Array) -> _World:
        context_key, init_key, memory_key, teacher_key = jax.random.split(key, 4)
        context = env.sample_context(context_key)
        bound = env.bind(context)
        x = bound.init(init_key)
        u = jnp.zeros(env.nu, x.dtype)
        state = () if make_teacher is None else make_teacher(bound).init(teacher_key, x)
        carry = () if student is None else student.initial_carry()
        memory = env.observer.init(memory_key)
        alive, t = jnp.asarray(True), jnp.int32(0)
        return _World(context_key, context, x, bound.sense(x, u), u, t, memory, state, carry, alive)

    def advance(key: Array, world: _World, variables: PyTree, settings: PyTree) -> tuple[_World, Steps]:
        observe_key, teacher_key, drive_key = jax.random.split(key, 3)
        bound = env.bind(world.context)
        obs, memory = bound.observer.observe(observe_key, world.memory, world.x, world.y, world.u)
        action, dist, state, carry = None, None, world.teacher, world.carry
        if make_teacher is not None:
            action, state = make_teacher(bound).act(teacher_key, world.teacher, world.x, world.t)
        if student is not None:
            dist, carry = student.apply(variables, obs, world.carry)
            dist = jax.tree.map(lambda leaf: leaf.astype(world.x.dtype), dist)
        u, log_prob, behaviour = drive(drive_key, settings, action, dist, bound)
        u = jnp.clip(u, jnp.asarray(env.limits.low, u.dtype), jnp.asarray(env.limits.high, u.dtype))
        x, status = bound.step(world.x, u)
        y = bound.sense(x, u)
        steps = Steps(
            obs=obs,
            x=world.x,
            t=world.t,
            key=world.key,
            u=u,
            log_prob=log_prob,
            behaviour=behaviour,
            action=action,
            student_mean=None if dist is None else dist.mode(),
            cost=bound.cost(world.x, u, bound.sense(world.x, u), world.t),
            first=world.t == 0,
            failed=bound.failed(x, y) | (status != Status.OK),
            status=status,
            alive=world.alive,
            metrics={} if bound.metrics is None else bound.metrics(world.x, u),
        )
        return world._replace(x=x, y=y, u=u, t=world.t + 1, memory=memory, teacher=state, carry=carry), steps

    def run(keys: Array, variables: PyTree, settings: PyTree) -> Steps:
        lives = 1 + (spares if replace else 0)
        pool = jax.vmap(lambda key: jax.vmap(fresh)(jax.random.split(jax.random.fold_in(key, 0), lives)))(
            keys
        )
        worlds = jax.tree.map(lambda leaf: leaf[:, 0], pool)

        def act(key: Array, world: _World, i: Array) -> tuple[_World, Steps]:
            return advance(jax.random.fold_in(jax.random.fold_in(key, 1), i), world, variables, settings)

        def step(carry: tuple, i: Array) -> tuple[tuple, Steps]:
            worlds, used = carry
            moved, steps = jax.vmap(act, in_axes=(0, 0, None))(keys, worlds, i)
            over = steps.failed | (moved.t >= env.horizon)
            if not replace:
                kept = jax.vmap(_select)(worlds.alive, moved, worlds)
                return (kept._replace(alive=worlds.alive & ~over), used), steps
            used = jnp.where(over, 1 + used % spares, used)
            successors = jax.vmap(lambda lane, k: jax.tree.map(lambda leaf: leaf[k], lane))(pool, used)
            return (jax.vmap(_select)(over, successors, moved), used), steps

        start = (worlds, jnp.zeros(keys.shape[0], jnp.int32))
        blank = jax.eval_shape(lambda: step(start, jnp.int32(0))[1])

        def guarded(carry: tuple, i: Array) -> tuple[tuple, Steps]:
            """`step`, or nothing at all once every episode has ended."""
            nothing = jax.tree.map(lambda leaf: _blank(leaf), blank)
            return jax.lax.cond(jnp.any(carry[0].alive), lambda: step(carry, i), lambda: (carry, nothing))

        return jax.lax.scan(guarded, start, jnp.arange(num_steps))[1]

    return run


def as_dataset(steps: Steps, weight: Float[Array, "T W"] | None = None) -> Dataset:
    """Labelled steps as rows, [T·W, …]; a label that the teacher disowns has weight 0."""
    action = steps.action
    if action is None:
        raise ValueError("these episodes have no teacher, hence no labels: pass make_teacher to `episodes`")
    sound = (action.status == 0) & steps.alive
    given = jnp.ones_like(steps.cost) if weight is None else weight
    rows = Dataset(
        obs=steps.obs,
        x=steps.x,
        t=steps.t,
        key=steps.key,
        action=steps.u,
        log_prob=steps.log_prob,
        behaviour=steps.behaviour,
        mean=action.dist.mean,
        precision=action.Quu,
        cost=steps.cost,
        first=steps.first,
        terminated=steps.failed,
        truncated=jnp.zeros_like(steps.failed),
        weight=jnp.where(sound, given, jnp.zeros_like(given)),
        next_slot=jnp.zeros(steps.t.shape, jnp.int32),
    )
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
    return flat._replace(next_slot=jnp.int32(0))


def _select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _blank(leaf: jax.ShapeDtypeStruct) -> Array:
    """Zeros (False, key 0) of a leaf's shape: rows that no episode reached."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)

"""Closed-loop rollouts of a plain JAX step function: the generic scan behind `Env.rollout`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from gps.linalg import cholesky
from gps.types import Limits, LinearGaussian, Status, Trajectory

if TYPE_CHECKING:
    from gps.types import Cost, Env, FinalCost, Student

__all__ = [
    "clip_control",
    "closed_loop",
    "first_observation",
    "fresh_carry",
    "guard_step",
    "observations",
    "open_loop",
    "saturate",
    "student_rollout",
    "trajectory_costs",
]


def closed_loop(
    step: Callable[..., tuple[Array, Array]],
    sense: Callable[..., Array],
    cost: "Cost",
    final_cost: "FinalCost",
    minus: Callable[..., Array],
    limits: Limits,
) -> Callable[[Array, LinearGaussian, Array], Trajectory]:
    """`Env.rollout` by `lax.scan`: u_t = clip(ū_t + K_t (x_t ⊖ x̄_t) + noise_t).

    `step` is (x, u) → (x', status), the rest as the fields of `Env` have it. A control or a next
    state that is not finite counts as `Status.DIVERGED`. From the first non-OK status on the state
    is held at its last good value, so that every entry of the trajectory stays finite.
    """
    step = guard_step(step)

    def rollout(x0: Array, controller: LinearGaussian, noise: Array) -> Trajectory:
        def advance(carry: tuple[Array, Array], knot: tuple[Array, ...]) -> tuple[tuple, tuple]:
            x, status = carry
            x_bar, u_bar, K, noise_t = knot
            wanted = u_bar + K @ minus(x, x_bar) + noise_t
            finite = jnp.all(jnp.isfinite(wanted))
            u = clip_control(jnp.where(finite, wanted, jnp.zeros_like(wanted)), limits)
            x_next, code = step(x, u)
            code = jnp.where(finite, code, Status.DIVERGED)
            status = jnp.where(status == Status.OK, code, status)
            return (jnp.where(status == Status.OK, x_next, x), status), (x, u)

        knots = (controller.xs, controller.us, controller.K, noise)
        (x_last, status), (xs, us) = jax.lax.scan(advance, (x0, jnp.int32(Status.OK)), knots)
        xs = jnp.concatenate([xs, x_last[None]])
        ys = jax.vmap(sense)(xs, jnp.concatenate([us, jnp.zeros_like(us[:1])]))
        return Trajectory(xs, us, ys, trajectory_costs(cost, final_cost, xs, us, ys), status)

    return rollout


def guard_step(step: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
    """`step` that answers (x, `Status.DIVERGED`) where it would return a non-finite state."""

    def guarded(x: Float[Array, " nx"], u: Float[Array, " nu"]) -> tuple[Array, Array]:
        x_next, status = step(x, u)
        finite = jnp.all(jnp.isfinite(x_next))
        code = jnp.where(finite, status, Status.DIVERGED).astype(jnp.int32)
        return jnp.where(finite, x_next, x).astype(x.dtype), code

    return guarded


def clip_control(u: Float[Array, " nu"], limits: Limits) -> Float[Array, " nu"]:
    """`u` inside `limits`, in the dtype of `u`."""
    return jnp.clip(u, jnp.asarray(limits.low, u.dtype), jnp.asarray(limits.high, u.dtype))


def saturate(controller: LinearGaussian, limits: Limits) -> LinearGaussian:
    """What the controller does about its own states where the limits hold some of its controls.

    The mean of these is at the limit, and does not move with the state.
    """
    low, high = (jnp.asarray(side, controller.us.dtype)[None] for side in limits)
    moves = (controller.us > low) & (controller.us < high)
    return controller._replace(
        us=jnp.clip(controller.us, low, high), K=jnp.where(moves[..., None], controller.K, 0)
    )


def trajectory_costs(
    cost: "Cost", final_cost: "FinalCost", xs: Array, us: Array, ys: Array, t0: Int[Array, ""] | int = 0
) -> Float[Array, " T+1"]:
    """T stage costs, the first one at control step `t0`, and the final cost."""
    steps = jnp.asarray(t0) + jnp.arange(us.shape[0])
    stage = jax.vmap(lambda *knot: cost(*knot))(xs[:-1], us, ys[:-1], steps)
    return jnp.concatenate([stage, final_cost(xs[-1], ys[-1])[None]]).astype(us.dtype)


def open_loop(env: "Env", x0: Float[Array, " nx"], us: Float[Array, "T nu"]) -> LinearGaussian:
    """The controls `us` as a controller without feedback or noise, its nominal states all at `x0`."""
    T = us.shape[0]
    xs = jnp.broadcast_to(x0, (T, env.nx))
    return LinearGaussian(
        xs, us, jnp.zeros((T, env.nu, env.ndx), us.dtype), jnp.zeros((T, env.nu, env.nu), us.dtype)
    )


def student_rollout(env: "Env", student: "Student") -> Callable[..., tuple[Trajectory, PyTree, Array]]:
    """(key, variables, x0, scale) → (Trajectory, observations [T, …], drawn [T, nu]), a student drives.

    `drawn` are the controls as it wanted them, before they were clipped.

    `scale` is that of its noise: 1 for actions drawn from its distribution, 0 for their modes. A control
    that is not finite counts as `Status.DIVERGED`, and the state is held from there on, as in `Env.rollout`.
    """
    step = guard_step(env.step)

    def rollout(key: Array, variables: PyTree, x0: Array, scale: Array | float) -> tuple:
        memory_key, life = jax.random.split(key)

        def advance(carry: tuple, key: Array) -> tuple[tuple, tuple]:
            x, status, memory, student_carry, u_prev = carry
            observe_key, noise_key = jax.random.split(key)
            obs, memory = env.observer.observe(observe_key, memory, x, env.sense(x, u_prev), u_prev)
            dist, student_carry = student.apply(variables, obs, student_carry)
            noise = scale * jax.random.normal(noise_key, u_prev.shape, x.dtype)
            wanted = dist.mode().astype(x.dtype) + cholesky(dist.cov.astype(x.dtype)) @ noise
            finite = jnp.all(jnp.isfinite(wanted))
            u = clip_control(jnp.where(finite, wanted, jnp.zeros_like(wanted)), env.limits)
            x_next, code = step(x, u)
            code = jnp.where(finite, code, Status.DIVERGED)
            status = jnp.where(status == Status.OK, code, status)
            x_next = jnp.where(status == Status.OK, x_next, x)
            return (x_next, status, memory, student_carry, u), (x, u, obs, wanted)

        rest = jnp.zeros(env.nu, x0.dtype)
        first = (x0, jnp.int32(Status.OK), env.observer.init(memory_key), fresh_carry(env, student, x0), rest)
        (x_last, status, *_), (xs, us, obs, drawn) = jax.lax.scan(
            advance, first, jax.random.split(life, env.horizon)
        )
        xs = jnp.concatenate([xs, x_last[None]])
        ys = jax.vmap(env.sense)(xs, jnp.concatenate([us, rest[None]]))
        costs = trajectory_costs(env.cost, env.final_cost, xs, us, ys)
        return Trajectory(xs, us, ys, costs, status), obs, drawn

    return rollout


def fresh_carry(env: "Env", student: "Student", x: Float[Array, " nx"]) -> PyTree:
    """What `student` remembers before the first step of an episode of `env`; of x only the shape counts."""
    look = lambda key, x: first_observation(key, env, x)  # noqa: E731
    return student.initial_carry(jax.eval_shape(look, jax.random.key(0), x))


def first_observation(key: Array, env: "Env", x: Float[Array, " nx"]) -> PyTree:
    """What is seen in `x` if an episode begins there."""
    rest = jnp.zeros(env.nu, x.dtype)
    return env.observer.observe(key, env.observer.init(key), x, env.sense(x, rest), rest)[0]


def observations(env: "Env", key: Array, xs: Float[Array, "T+1 nx"], us: Float[Array, "T nu"]) -> PyTree:
    """What a student would have seen along a trajectory, [T, …]."""
    memory_key, life = jax.random.split(key)
    before = jnp.concatenate([jnp.zeros_like(us[:1]), us[:-1]])
    ys = jax.vmap(env.sense)(xs[:-1], before)

    def look(memory: PyTree, knot: tuple) -> tuple[PyTree, PyTree]:
        obs, memory = env.observer.observe(knot[0], memory, *knot[1:])
        return memory, obs

    knots = (jax.random.split(life, us.shape[0]), xs[:-1], ys, before)
    return jax.lax.scan(look, env.observer.init(memory_key), knots)[1]

"""Derivatives of the engine's calls, from the finite differences of `linearize` and the chain rule.

Tangents of states are ambient (nx entries, like the states themselves); the finite differences live in the
tangent space (ndx entries), so each rule goes x → ⊖ → A, B → ⊕ → x'. Where the engine failed, the derivative
is that of holding the state.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from envs.manifold import Manifold
from gps.types import LinearDynamics, Status

if TYPE_CHECKING:
    from envs.calls import Calls


def with_derivatives(
    calls: "Calls", one_step: "Calls", space: Manifold, low: np.ndarray, high: np.ndarray
) -> tuple[Callable, Callable, Callable]:
    """`step`, `sense` and `rollout` of `calls`, each with its `custom_jvp`.

    `one_step`: the same calls with a single engine step per control step, where sensors are differentiated:
    they are read before it.
    """

    def to_tangent(x: Array, x_dot: Array) -> Array:
        return jax.jvp(lambda z: space.minus(z, x), (x,), (x_dot,))[1]

    def to_ambient(x: Array, dx: Array) -> Array:
        return jax.jvp(lambda d: space.plus(x, d), (jnp.zeros_like(dx),), (dx,))[1]

    @jax.custom_jvp
    def step(x: Array, u: Array, inputs: Array) -> tuple[Array, Array]:
        return calls.step(x, u, inputs)

    def step_jvp(primals: tuple, tangents: tuple) -> tuple:
        x, u, inputs = primals
        x_dot, u_dot = _state_tangents("step", tangents)
        x_next, status = calls.step(x, u, inputs)
        local = _held(calls.linearize(x, u, inputs), status == Status.OK)
        dx_next = local.A @ to_tangent(x, x_dot) + local.B @ u_dot
        return (x_next, status), (to_ambient(x_next, dx_next), _zero(status))

    step.defjvp(step_jvp, symbolic_zeros=True)

    @jax.custom_jvp
    def sense(x: Array, u: Array, inputs: Array) -> Array:
        return calls.sense(x, u, inputs)

    def sense_jvp(primals: tuple, tangents: tuple) -> tuple:
        x, u, inputs = primals
        x_dot, u_dot = _state_tangents("sense", tangents)
        local = one_step.linearize(x, u, inputs)
        return calls.sense(x, u, inputs), local.C @ to_tangent(x, x_dot) + local.D @ u_dot

    sense.defjvp(sense_jvp, symbolic_zeros=True)

    @jax.custom_jvp
    def rollout(
        x0: Array, xs_ref: Array, us_ref: Array, K: Array, noise: Array, inputs: Array
    ) -> tuple[Array, Array, Array, Array]:
        xs, us, ys, _, status = calls.rollout(x0, xs_ref, us_ref, K, noise, inputs)
        return xs, us, ys, status

    def rollout_jvp(primals: tuple, tangents: tuple) -> tuple:
        _, xs_ref, _, K, _, inputs = primals
        x0_dot, xs_ref_dot, us_ref_dot, K_dot, noise_dot = _state_tangents("rollout", tangents)
        xs, us, ys, steps, status = calls.rollout(*primals)
        knots = xs, jnp.concatenate([us, jnp.zeros((1, us.shape[1]), us.dtype)])
        alive = (jnp.arange(xs.shape[0]) < steps) | (status == Status.OK)
        local = jax.vmap(calls.linearize, in_axes=(0, 0, None))(*knots, inputs)
        local = jax.vmap(_held)(local, alive)
        last, local = jax.tree.map(lambda a: a[-1], local), jax.tree.map(lambda a: a[:-1], local)
        low_, high_ = jnp.asarray(low, us.dtype), jnp.asarray(high, us.dtype)

        def knot(x_dot: Array, args: tuple) -> tuple[Array, tuple[Array, Array, Array]]:
            x, x_ref, u, K_t, x_ref_dot, u_ref_dot, K_t_dot, noise_t_dot, lin, moves, x_next = args
            gap, gap_dot = jax.jvp(space.minus, (x, x_ref), (x_dot, x_ref_dot))
            u_dot = u_ref_dot + noise_t_dot + K_t_dot @ gap + K_t @ gap_dot
            u_dot = jnp.where((u > low_) & (u < high_) & moves, u_dot, jnp.zeros_like(u_dot))
            dx = to_tangent(x, x_dot)
            x_next_dot = to_ambient(x_next, lin.A @ dx + lin.B @ u_dot)
            return x_next_dot, (x_next_dot, u_dot, lin.C @ dx + lin.D @ u_dot)

        knots = (xs[:-1], xs_ref, us, K, xs_ref_dot, us_ref_dot, K_dot, noise_dot, local, alive[:-1], xs[1:])
        x_end_dot, (xs_dot, us_dot, ys_dot) = jax.lax.scan(knot, x0_dot, knots)
        ys_dot = jnp.concatenate([ys_dot, (last.C @ to_tangent(xs[-1], x_end_dot))[None]])
        xs_dot = jnp.concatenate([x0_dot[None], xs_dot])
        return (xs, us, ys, status), (xs_dot, us_dot, ys_dot, _zero(status))

    rollout.defjvp(rollout_jvp, symbolic_zeros=True)
    # jit, so that the rules are traced once also where a user differentiates without it.
    return jax.jit(step), jax.jit(sense), jax.jit(rollout)


def _state_tangents(name: str, tangents: tuple) -> list[Array]:
    """The tangents of everything but `inputs`, dense; raises if `inputs` is being differentiated."""
    *rest, inputs = tangents
    if not isinstance(inputs, SymbolicZero):
        raise NotImplementedError(
            f"{name} is not differentiable with respect to its inputs (applied forces, mocap poses): "
            "wrap them in jax.lax.stop_gradient"
        )
    # A SymbolicZero forwards `dtype` to its aval, which its annotations do not say.
    return [
        jnp.zeros(t.shape, t.dtype) if isinstance(t, SymbolicZero) else t  # pyright: ignore[reportArgumentType]
        for t in rest
    ]


def _held(local: LinearDynamics, moves: Array) -> LinearDynamics:
    """`local`, or what it is where a failure holds the state: the identity, and nothing else."""
    nothing = LinearDynamics(jnp.eye(local.A.shape[-1], dtype=local.A.dtype), *map(jnp.zeros_like, local[1:]))
    return jax.tree.map(lambda a, b: jnp.where(moves, a, b), local, nothing)


def _zero(status: Array) -> np.ndarray:
    return np.zeros(status.shape, jax.dtypes.float0)

"""Local models along a trajectory: linear dynamics and quadratic costs in the tangent space."""

from collections.abc import Callable
from typing import Literal, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gps.gaussian import symmetrise
from gps.linalg import cholesky, eigh
from gps.types import Env, LinearDynamics, QuadraticCost, ResidualCost

__all__ = ["linearise", "linearise_sensors", "project_psd", "quadratise"]

Hessian = Literal["auto", "exact", "gauss_newton"]
Model = TypeVar("Model", LinearDynamics, QuadraticCost)


def linearise(
    env: Env, xs: Float[Array, "T+1 nx"], us: Float[Array, "T nu"], every: int = 1
) -> LinearDynamics:
    """`env.linearize` at every knot: A, B [T, …] and C, D [T+1, …], the last at zero control.

    The last knot costs one more linearisation where the task has sensors, and nothing elsewhere. With `every`
    above 1 only each such knot and the last are linearised, those between them interpolated (MuJoCo MPC).
    """
    if env.ny == 0:
        model = _at_knots(env, xs[:-1], us, every)
        pad = [jnp.zeros((xs.shape[0], 0, n), us.dtype) for n in (env.ndx, env.nu)]
        return _cast(model._replace(C=pad[0], D=pad[1]), us)
    model = _at_knots(env, xs, _with_zero_row(us), every)
    return _cast(model._replace(A=model.A[:-1], B=model.B[:-1]), us)


def linearise_sensors(
    env: Env, xs: Float[Array, "T+1 nx"], us: Float[Array, "T nu"]
) -> tuple[Float[Array, "T+1 ny ndx"], Float[Array, "T+1 ny nu"]]:
    """C and D alone, by the derivative of `env.sense`: no step of the dynamics is needed."""
    if env.ny == 0:
        return jnp.zeros((xs.shape[0], 0, env.ndx), us.dtype), jnp.zeros((xs.shape[0], 0, env.nu), us.dtype)

    def one(x: Array, u: Array) -> tuple[Array, Array]:
        def read(dx: Array, du: Array) -> Array:
            return env.sense(env.plus(x, dx), u + du)

        return jax.jacfwd(read, (0, 1))(jnp.zeros(env.ndx, x.dtype), jnp.zeros_like(u))

    return jax.vmap(one)(xs, _with_zero_row(us))


def quadratise(
    env: Env,
    xs: Float[Array, "T+1 nx"],
    us: Float[Array, "T nu"],
    ys: Float[Array, "T+1 ny"],
    dynamics: LinearDynamics,
    *,
    hessian: Hessian = "auto",
    t0: Int[Array, ""] | int = 0,
) -> QuadraticCost:
    """The costs' second-order expansion at T+1 knots, sensors moving as y + C δx + D δu.

    `dynamics` is what `linearise` returns; `t0` is the control step of the first knot. Hessians:
    "gauss_newton" takes Jᵀ(∇²norm)J and needs `ResidualCost`s; "exact" differentiates twice (the
    linearised sensors contribute no curvature) and projects the joint [[Q, M], [Mᵀ, R]] on the
    positive semi-definite cone; "auto" is Gauss-Newton for a `ResidualCost` and exact otherwise.

    Raises:
        ValueError: "gauss_newton" for a cost that is not a `ResidualCost`.
    """

    def stage(x: Array, u: Array, y: Array, C: Array, D: Array, t: Array) -> tuple[Array, Array, Array]:
        def move(z: Array) -> tuple[Array, ...]:
            dx, du = z[: env.ndx], z[env.ndx :]
            return env.plus(x, dx), u + du, y + C @ dx + D @ du, t

        return _expand(env.cost, move, jnp.zeros((env.ndx + env.nu,), u.dtype), hessian)

    def last(x: Array, y: Array, C: Array) -> tuple[Array, Array, Array]:
        def move(dx: Array) -> tuple[Array, ...]:
            return env.plus(x, dx), y + C @ dx

        return _expand(env.final_cost, move, jnp.zeros((env.ndx,), us.dtype), hessian)

    steps = jnp.asarray(t0) + jnp.arange(us.shape[0])
    c, g, H = jax.vmap(stage)(xs[:-1], us, ys[:-1], dynamics.C[:-1], dynamics.D[:-1], steps)
    c_T, g_T, H_T = last(xs[-1], ys[-1], dynamics.C[-1])
    n, m = env.ndx, env.nu
    H = jnp.concatenate([H, jnp.pad(H_T, (0, m))[None]])
    exact = [not _is_gauss_newton(cost, hessian) for cost in (env.cost, env.final_cost)]
    if any(exact):
        chosen = jnp.arange(H.shape[0]) < us.shape[0] if exact[0] else jnp.zeros(H.shape[0], bool)
        chosen = chosen.at[-1].set(exact[1])
        H = jnp.where(chosen[:, None, None], project_psd(H), H)
    model = QuadraticCost(
        c=jnp.append(c, c_T),
        q=jnp.concatenate([g[:, :n], g_T[None]]),
        r=_with_zero_row(g[:, n:]),
        Q=H[:, :n, :n],
        R=H[:, n:, n:],
        M=H[:, :n, n:],
        x=xs,
        u=_with_zero_row(us),
    )
    return _cast(model, us)


def project_psd(H: Float[Array, "T n n"]) -> Float[Array, "T n n"]:
    """Nearest positive semi-definite matrices (Frobenius): negative eigenvalues become zero.

    The eigendecompositions run only where a Cholesky factorisation finds a negative curvature
    anywhere in the batch (a bounded `while_loop`, so that this stays true under `vmap`).
    """
    H = jax.vmap(symmetrise)(H)
    scale = jnp.max(jnp.abs(H), axis=(1, 2))
    slack = H.shape[-1] * jnp.finfo(H.dtype).eps * jnp.where(scale > 0, scale, 1)
    shifted = H + slack[:, None, None] * jnp.eye(H.shape[-1], dtype=H.dtype)[None]
    definite = jnp.all(jnp.isfinite(jax.vmap(cholesky)(shifted)), axis=(1, 2))

    def clip_eigenvalues(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        values, vectors = jax.vmap(eigh)(H)
        clipped = (vectors * jnp.maximum(values, 0)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
        return jnp.where(definite[:, None, None], H, jax.vmap(symmetrise)(clipped)), jnp.asarray(True)

    return jax.lax.while_loop(lambda carry: ~carry[1], clip_eigenvalues, (H, jnp.all(definite)))[0]


def _at_knots(env: Env, xs: Float[Array, "n nx"], us: Float[Array, "n nu"], every: int) -> LinearDynamics:
    """`env.linearize` of n knots, of which only some are computed."""
    if every == 1:
        return jax.vmap(env.linearize)(xs, us)
    n = xs.shape[0]
    knots = np.unique(np.append(np.arange(0, n, every), n - 1))
    right = np.clip(np.searchsorted(knots, np.arange(n), side="right"), 1, len(knots) - 1)
    share = (np.arange(n) - knots[right - 1]) / (knots[right] - knots[right - 1])

    def between(rows: Array) -> Array:
        s = jnp.asarray(share, rows.dtype)[:, None, None]
        return (1 - s) * rows[right - 1] + s * rows[right]

    return jax.tree.map(between, jax.vmap(env.linearize)(xs[knots], us[knots]))


def _expand(
    cost: Callable[..., Array], move: Callable[[Array], tuple[Array, ...]], zero: Array, hessian: Hessian
) -> tuple[Array, Array, Array]:
    """Value, gradient and (Gauss-Newton or exact) Hessian of cost(*move(z)) at z = 0."""
    if not _is_gauss_newton(cost, hessian):
        value, grad = jax.value_and_grad(lambda z: cost(*move(z)))(zero)
        return value, grad, jax.hessian(lambda z: cost(*move(z)))(zero)

    def residual(z: Array) -> Array:
        return cost.residual(*move(z))

    r, push = jax.linearize(residual, zero)
    J = jax.vmap(push, out_axes=1)(jnp.eye(zero.shape[0], dtype=zero.dtype))
    value, grad = jax.value_and_grad(cost.norm)(r)
    curvature = jax.jacfwd(jax.grad(cost.norm))(r)
    return value, J.T @ grad, J.T @ curvature @ J


def _is_gauss_newton(cost: Callable, hessian: Hessian) -> TypeGuard[ResidualCost]:
    if hessian == "gauss_newton" and not isinstance(cost, ResidualCost):
        raise ValueError("hessian='gauss_newton' needs a ResidualCost: see gps.costs.residual_cost")
    return isinstance(cost, ResidualCost) and hessian != "exact"


def _cast(model: Model, like: Array) -> Model:
    """Everything in the dtype of `like`: a task's own constants may be wider."""
    return jax.tree.map(lambda a: a.astype(like.dtype), model)


def _with_zero_row(rows: Float[Array, "T ..."]) -> Float[Array, "T+1 ..."]:
    return jnp.concatenate([rows, jnp.zeros_like(rows[:1])])

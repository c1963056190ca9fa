"""The Riccati backward pass: regularised, limited by a box on the controls, one `scan`."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gps.linalg import full_precision
from gps.types import Limits, LinearDynamics, QuadraticCost
from teachers.linalg import box_qp, free_solve, solve_spd

__all__ = [
    "BackwardPass",
    "Regularise",
    "action_values",
    "augment_value",
    "augmented_cost",
    "augmented_dynamics",
    "backward",
    "blank_pass",
    "control_covariance",
]

Regularise = Literal["control", "state"]
"""What μ is added to: "control" Quu + μI, "state" the next value's Hessian V + μI inside Quu and Qux."""


class BackwardPass(NamedTuple):
    """δu_t = α k_t + K_t δx_t, the action values it minimises, and what it promises.

    Qu and Quu are unregularised. The step α should change the cost by α·linear + ½α²·quadratic.
    """

    k: Float[Array, "T nu"]
    K: Float[Array, "T nu ndx"]
    Qu: Float[Array, "T nu"]
    Quu: Float[Array, "T nu nu"]
    linear: Float[Array, ""]
    """Σ Quᵀk, ≤ 0."""
    quadratic: Float[Array, ""]
    """Σ kᵀQuu k."""
    ok: Bool[Array, ""]
    """Every regularised Quu was positive definite; the arrays are finite but void where not."""


@full_precision
def backward(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    mu: Float[Array, ""] | float = 0.0,
    *,
    limits: Limits | None = None,
    regularise: Regularise = "control",
    curvature: Callable[..., Float[Array, "n n"]] | None = None,
    gaps: Float[Array, "T ndx"] | None = None,
) -> BackwardPass:
    """Minimise the quadratic model backwards in time (Tassa, Erez & Todorov 2012; limits: Tassa 2014).

    `dynamics` has T knots of A and B, `cost` T+1 knots. With `limits`, k_t solves the box-QP
    low ≤ u + k ≤ high around the cost's nominal controls and clamped rows of K are zero. `mu`
    regularises the gains; values stay those of the unregularised model. `curvature` (v, x, u) →
    vᵀf'' [ndx+nu, ndx+nu] adds the dynamics' second derivatives (DDP) at the knot (x, u). `gaps` are what
    the dynamics add besides, δx' = A δx + B δu + gap (multiple shooting); `linear` and `quadratic` then say
    nothing of the cost.

    Value and gradient share one augmented matrix, [V v; vᵀ ·] in coordinates (δx, 1).
    """
    n, m = dynamics.B.shape[1:]
    T = dynamics.B.shape[0]
    dtype = dynamics.B.dtype
    mu = jnp.asarray(mu, dtype)
    F = augmented_dynamics(dynamics, gaps)
    H = augmented_cost(cost)
    extra = _regularisation(dynamics, regularise)
    low, high = _box(cost.u[:T], limits)

    def step(carry: tuple, knot: tuple) -> tuple[tuple, tuple]:
        S, ok = carry
        F_t, H_t, extra_t, low_t, high_t, x_t, u_t = knot
        W = H_t + F_t.T @ (S @ F_t)
        if curvature is not None:
            W = W + _augment_curvature(curvature(S[:n, n], x_t, u_t), n, m)
        rows = W[n + 1 :]
        gains, definite = _gains(rows + mu * extra_t, None if limits is None else (low_t, high_t))
        gains, ok = jnp.where(definite, gains, 0), ok & definite
        Quu, Qux = rows[:, n + 1 :], rows[:, : n + 1]
        half = Qux + 0.5 * (Quu @ gains)
        cross = gains.T @ half
        V = W[: n + 1, : n + 1] + cross + cross.T
        # What rounding leaves of asymmetry would grow with the powers of A, closed loop or not.
        S = jnp.where(ok, 0.5 * (V + V.T), S)
        k = gains[:, n]
        out = (k, gains[:, :n], Qux[:, n], Quu, k @ Qux[:, n], k @ (Quu @ k))
        return (S, ok), out

    S = augment_value(cost.Q[T], cost.q[T])
    knots = (F, H, extra, low, high, cost.x[:T], cost.u[:T])
    (_, ok), rows = jax.lax.scan(step, (S, jnp.asarray(True)), knots, reverse=True)
    k, K, Qu, Quu, linear, quadratic = rows
    return BackwardPass(k, K, Qu, Quu, jnp.sum(linear), jnp.sum(quadratic), ok)


@full_precision
def control_covariance(
    Quu: Float[Array, "T nu nu"], B: Float[Array, "T ndx nu"], mu: Float[Array, ""], regularise: Regularise
) -> tuple[Float[Array, "T nu nu"], Bool[Array, " T"]]:
    """Quu⁻¹ per knot, and whether it is a covariance; where not, that of the regularised Quu stands in.

    Maximum-entropy LQG: p(u|x) = N(ū + k + K δx, Quu⁻¹).
    """
    eye = jnp.eye(Quu.shape[-1], dtype=Quu.dtype)

    def invert(H: Array, B_t: Array) -> tuple[Array, Array]:
        cov, ok = solve_spd(H, eye)
        stand_in, stand_in_ok = solve_spd(H + mu * (eye if regularise == "control" else B_t.T @ B_t), eye)
        return jnp.where(ok, cov, jnp.where(stand_in_ok, stand_in, eye)), ok

    cov, ok = jax.vmap(invert)(Quu, B)
    return 0.5 * (cov + jnp.swapaxes(cov, 1, 2)), ok


def action_values(
    back: BackwardPass,
    nominal: Float[Array, "T nu"],
    B: Float[Array, "T ndx nu"],
    mu: Float[Array, ""],
    regularise: Regularise,
) -> tuple[Float[Array, "T nu nu"], Float[Array, "T nu"], Float[Array, "T nu nu"], Bool[Array, " T"]]:
    """(Quu, q, Σ, definite): Q(u) = ½ uᵀQuu u + qᵀu in absolute controls, zero where it overflowed.

    `nominal` are the controls that the pass was made around.
    """
    q = back.Qu - jnp.einsum("tij,tj->ti", back.Quu, nominal)
    finite = jnp.all(jnp.isfinite(back.Quu), axis=(1, 2)) & jnp.all(jnp.isfinite(q), axis=1)
    Quu, q = jnp.where(finite[:, None, None], back.Quu, 0), jnp.where(finite[:, None], q, 0)
    return Quu, q, *control_covariance(Quu, B, mu, regularise)


def blank_pass(T: int, ndx: int, nu: int, dtype: jnp.dtype) -> BackwardPass:
    """What stands for a pass before there was one."""

    def zeros(*shape: int) -> Array:
        return jnp.zeros(shape, dtype)

    return BackwardPass(
        k=zeros(T, nu),
        K=zeros(T, nu, ndx),
        Qu=zeros(T, nu),
        Quu=zeros(T, nu, nu),
        linear=zeros(),
        quadratic=zeros(),
        ok=jnp.asarray(False),
    )


def _gains(rows: Array, box: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """[K k] (nu × (ndx+1)) from the regularised [Qux Qu Quu]."""
    m = rows.shape[0]
    H, rhs = rows[:, -m:], -rows[:, :-m]
    if box is None:
        return solve_spd(H, rhs)
    low, high = box
    qp = box_qp(H, -rhs[:, -1], low, high)
    K, _ = free_solve(H, rhs[:, :-1], qp.free)
    return jnp.concatenate([K, qp.x[:, None]], axis=1), qp.ok


def augmented_dynamics(
    dynamics: LinearDynamics, gaps: Float[Array, "T n"] | None = None
) -> Float[Array, "T n+1 n+1+m"]:
    """[A gap B; 0 1 0] per knot: the next (δx, 1) from (δx, 1, δu)."""
    T, n, m = dynamics.B.shape
    zero, one = jnp.zeros((T, n, 1), dynamics.B.dtype), jnp.ones((T, 1, 1), dynamics.B.dtype)
    top = jnp.concatenate([dynamics.A, zero if gaps is None else gaps[:, :, None], dynamics.B], axis=2)
    left, right = jnp.zeros_like(one, shape=(T, 1, n)), jnp.zeros_like(one, shape=(T, 1, m))
    bottom = jnp.concatenate([left, one, right], axis=2)
    return jnp.concatenate([top, bottom], axis=1)


def augmented_cost(cost: QuadraticCost) -> Float[Array, "T n+1+m n+1+m"]:
    """[Q q M; qᵀ 0 rᵀ; Mᵀ r R] per knot but the last."""
    Q, q, R, r, M = cost.Q[:-1], cost.q[:-1, :, None], cost.R[:-1], cost.r[:-1, :, None], cost.M[:-1]
    corner = jnp.zeros_like(q[:, :1])
    flip = lambda a: jnp.swapaxes(a, 1, 2)  # noqa: E731
    rows = [[Q, q, M], [flip(q), corner, flip(r)], [flip(M), r, R]]
    return jnp.concatenate([jnp.concatenate(row, axis=2) for row in rows], axis=1)


def _regularisation(dynamics: LinearDynamics, regularise: Regularise) -> Float[Array, "T m n+1+m"]:
    """What μ multiplies in the rows [Qux Qu Quu]: [0 0 I], or Bᵀ[A 0 B]."""
    T, n, m = dynamics.B.shape
    zero = jnp.zeros((T, m, 1), dynamics.B.dtype)
    if regularise == "control":
        eye = jnp.broadcast_to(jnp.eye(m, dtype=zero.dtype)[None], (T, m, m))
        return jnp.concatenate([jnp.zeros_like(zero, shape=(T, m, n)), zero, eye], axis=2)
    B_T = jnp.swapaxes(dynamics.B, 1, 2)
    return jnp.concatenate([B_T @ dynamics.A, zero, B_T @ dynamics.B], axis=2)


def _box(us: Float[Array, "T nu"], limits: Limits | None) -> tuple[Array, Array]:
    """Bounds on the change of each control."""
    if limits is None:
        return us, us
    low, high = (jnp.asarray(side, us.dtype) for side in limits)
    return low[None] - us, high[None] - us


def augment_value(V: Float[Array, "n n"], v: Float[Array, " n"]) -> Float[Array, "n+1 n+1"]:
    """[V v; vᵀ 0]: ½ δxᵀV δx + vᵀδx as a form in (δx, 1)."""
    corner = jnp.zeros((1, 1), V.dtype)
    return jnp.block([[V, v[:, None]], [v[None, :], corner]])


def _augment_curvature(vf: Float[Array, "n+m n+m"], n: int, m: int) -> Float[Array, "n+1+m n+1+m"]:
    split = jnp.concatenate([jnp.arange(n), jnp.arange(n + 1, n + 1 + m)])
    return jnp.zeros((n + 1 + m, n + 1 + m), vf.dtype).at[split[:, None], split[None, :]].set(vf)

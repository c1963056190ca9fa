"""The Riccati backward pass in log T steps, by an associative scan: for long horizons on accelerators.

Särkkä & García-Fernández, "Temporal parallelization of dynamic programming and linear quadratic control"
(2023), section IV. A stretch i → j of the trajectory is the conditional value of going from δx_i to δx_j,

    V(δx_i, δx_j) = max_λ ½ δx_iᵀ J δx_i − ηᵀδx_i − ½ λᵀ C λ − λᵀ(δx_j − A δx_i − b),

and two stretches join to one whatever their lengths. It does n³ work log T times over, where the sequential
pass does it T times in turn: on a CPU it is slower at every T.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.linalg import full_precision, solve
from gps.types import LinearDynamics, QuadraticCost
from teachers.linalg import solve_spd
from teachers.lqr import BackwardPass

__all__ = ["parallel_backward"]


class _Stretch(NamedTuple):
    """From one knot to a later one, in the coordinates of the formula above."""

    A: Float[Array, "n n"]
    b: Float[Array, " n"]
    C: Float[Array, "n n"]
    eta: Float[Array, " n"]
    J: Float[Array, "n n"]


@full_precision
def parallel_backward(
    dynamics: LinearDynamics, cost: QuadraticCost, mu: Float[Array, ""] | float = 0.0
) -> BackwardPass:
    """`teachers.lqr.backward` without limits.

    Arguments and result are as there. R + μI, the cost's own curvature in the controls, has to be positive
    definite here, else `ok` is False. With μ > 0 the values are those of the problem whose changes of the
    controls cost ½ μ ‖δu‖² besides, where the sequential pass regularises the gains alone. It has no
    reverse-mode derivative.
    """
    T, n, m = dynamics.B.shape
    dtype = dynamics.B.dtype
    mu = jnp.asarray(mu, dtype)
    added = mu * jnp.eye(m, dtype=dtype)[None]
    R = cost.R[:T] + added
    steps, convex = jax.vmap(_one_step)(
        dynamics.A, dynamics.B, cost.Q[:T], cost.q[:T], R, cost.r[:T], cost.M[:T]
    )
    zeros = jnp.zeros((n, n), dtype)
    end = _Stretch(zeros, zeros[0], zeros, -cost.q[T], cost.Q[T])
    stretches = jax.tree.map(lambda rows, last: jnp.concatenate([rows, last[None]]), steps, end)
    # In reverse, the scan hands over the later stretch first.
    ahead = jax.lax.associative_scan(
        lambda late, early: jax.vmap(_join)(early, late), stretches, reverse=True
    )
    V, v = ahead.J[1:], -ahead.eta[1:]

    def knot(A: Array, B: Array, r: Array, M: Array, R: Array, V: Array, v: Array) -> tuple:
        VB = V @ B
        Quu, Qux, Qu = R + B.T @ VB, M.T + VB.T @ A, r + B.T @ v
        gains, definite = solve_spd(Quu, -jnp.concatenate([Qux, Qu[:, None]], axis=1))
        gains = jnp.where(definite, gains, 0)
        return gains[:, n], gains[:, :n], Qu, Quu, definite

    k, K, Qu, Quu, definite = jax.vmap(knot)(dynamics.A, dynamics.B, cost.r[:T], cost.M[:T], R, V, v)
    ok = jnp.all(convex) & jnp.all(definite)
    k, K = jnp.where(ok, k, 0), jnp.where(ok, K, 0)
    linear, quadratic = _promise(dynamics, cost, k, K)
    return BackwardPass(k, K, Qu, Quu - added, linear, quadratic, ok)


# ------------------------------------------------------------------------------------- internals


def _one_step(A: Array, B: Array, Q: Array, q: Array, R: Array, r: Array, M: Array) -> tuple[_Stretch, Array]:
    """A knot's stretch and whether R is positive definite; δu = v − R⁻¹(Mᵀδx + r) takes cross terms away."""
    n = A.shape[0]
    solved, convex = solve_spd(R, jnp.concatenate([B.T, M.T, r[:, None]], axis=1))
    RB, RM, Rr = solved[:, :n], solved[:, n : 2 * n], solved[:, 2 * n]
    return _Stretch(A - B @ RM, -B @ Rr, B @ RB, M @ Rr - q, Q - M @ RM), convex


def _join(early: _Stretch, late: _Stretch) -> _Stretch:
    """One stretch of two (equation 47 of the paper)."""
    n = early.A.shape[0]
    reach = (early.b + early.C @ late.eta)[:, None]
    X = solve(
        jnp.eye(n, dtype=early.A.dtype) + early.C @ late.J, jnp.concatenate([early.A, early.C, reach], axis=1)
    )
    XA, XC, Xb = X[:, :n], X[:, n : 2 * n], X[:, 2 * n]
    C = late.A @ XC @ late.A.T + late.C
    J = XA.T @ late.J @ early.A + early.J
    return _Stretch(
        A=late.A @ XA,
        b=late.A @ Xb + late.b,
        C=0.5 * (C + C.T),
        eta=XA.T @ (late.eta - late.J @ early.b) + early.eta,
        J=0.5 * (J + J.T),
    )


def _promise(dynamics: LinearDynamics, cost: QuadraticCost, k: Array, K: Array) -> tuple[Array, Array]:
    """(linear, quadratic) of a `BackwardPass`: the model's change of the cost under δu = α k + K δx.

    δx is α times that of the full step, which a scan over affine maps gives at every knot at once.
    """
    move = dynamics.A + dynamics.B @ K
    push = jnp.einsum("tij,tj->ti", dynamics.B, k)

    def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        (F, f), (G, g) = first, second
        return G @ F, jnp.einsum("...ij,...j->...i", G, f) + g

    _, dx = jax.lax.associative_scan(after, (move, push))
    dx = jnp.concatenate([jnp.zeros_like(dx[:1]), dx])
    du = k + jnp.einsum("tij,tj->ti", K, dx[:-1])
    T = du.shape[0]
    linear = jnp.sum(cost.q * dx) + jnp.sum(cost.r[:T] * du)
    bends = jnp.einsum("ti,tij,tj->", dx, cost.Q, dx) + jnp.einsum("ti,tij,tj->", du, cost.R[:T], du)
    return linear, bends + 2 * jnp.einsum("ti,tij,tj->", dx[:-1], cost.M[:T], du)

"""Small symmetric solves and the box-constrained quadratic program, made to sit inside a `scan`.

A LAPACK call per control step costs microseconds however small the matrix; elimination written out
in array operations costs a few fused loops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gps.gaussian import log_det_chol
from gps.linalg import UNROLL_UP_TO, cholesky, lower_inverse

__all__ = ["BoxQP", "box_qp", "free_solve", "shifted_solve", "solve_spd"]


class BoxQP(NamedTuple):
    """The minimiser of ½ xᵀHx + gᵀx over low ≤ x ≤ high."""

    x: Float[Array, " n"]
    free: Bool[Array, " n"]
    """Where x is not held by a bound."""
    ok: Bool[Array, ""]
    """H is positive definite and the iteration converged; x is finite and inside the box either way."""


def solve_spd(
    H: Float[Array, "n n"], rhs: Float[Array, "n m"]
) -> tuple[Float[Array, "n m"], Bool[Array, ""]]:
    """H⁻¹ rhs, and whether H is positive definite; where it is not, the solution is finite but void.

    Gauss-Jordan elimination without pivoting, which is stable for definite matrices, up to n = 8 (its
    pivots are those of LDLᵀ, so their signs tell definiteness); Cholesky beyond.
    """
    n = H.shape[0]
    if n > UNROLL_UP_TO:
        factor = cholesky(H)
        ok = jnp.all(jnp.isfinite(factor))
        half = lower_inverse(jnp.where(ok, factor, jnp.eye(n, dtype=H.dtype)))
        return half.T @ (half @ rhs), ok
    rows, _, ok = _eliminate(jnp.concatenate([H, rhs], axis=1), 0.0)
    return rows, ok


def shifted_solve(
    E: Float[Array, "n n"], rhs: Float[Array, "n m"]
) -> tuple[Float[Array, "n m"], Float[Array, ""], Bool[Array, ""]]:
    """(I + E)⁻¹ rhs, log det(I + E) and whether I + E is positive definite; void but finite where not.

    The identity is never added, so that an E far smaller than it keeps its digits (up to n = 8).
    """
    n = E.shape[0]
    if n > UNROLL_UP_TO:
        H = E + jnp.eye(n, dtype=E.dtype)
        log_det = log_det_chol(cholesky(H))
        answer, ok = solve_spd(H, rhs)
        return answer, jnp.where(ok, log_det, 0), ok
    rows, excess, ok = _eliminate(jnp.concatenate([E, rhs], axis=1), 1.0)
    return rows, jnp.sum(jnp.log1p(excess)), ok


def _eliminate(rows: Float[Array, "n n+m"], shift: float) -> tuple[Array, Array, Array]:
    """Gauss-Jordan on [shift·I + H, rhs]: (solution, pivots less `shift`, all pivots are positive)."""
    n = rows.shape[0]
    tiny = jnp.finfo(rows.dtype).eps * jnp.abs(shift + jnp.diagonal(rows))
    pivots, ok = [], jnp.asarray(True)
    for j in range(n):
        positive = shift + rows[j, j] > tiny[j]
        pivot = jnp.where(positive, rows[j, j], 1 - shift)
        ok = ok & positive
        row = rows[j] / (shift + pivot)
        here = (jnp.arange(n) == j)[:, None]
        rows = jnp.where(here, row[None, :], rows - rows[:, j : j + 1] * row[None, :])
        pivots.append(pivot)
    return rows[:, n:], jnp.stack(pivots), ok


def free_solve(
    H: Float[Array, "n n"], rhs: Float[Array, "n m"], free: Bool[Array, " n"]
) -> tuple[Float[Array, "n m"], Bool[Array, ""]]:
    """H_ff⁻¹ rhs_f on the free rows, zero on the others, and whether H_ff is positive definite."""
    both = free[:, None] & free[None, :]
    block = jnp.where(both, H, jnp.eye(H.shape[0], dtype=H.dtype))
    return solve_spd(block, jnp.where(free[:, None], rhs, 0))


def box_qp(
    H: Float[Array, "n n"],
    g: Float[Array, " n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    *,
    iterations: int = 40,
) -> BoxQP:
    """Minimise ½ xᵀHx + gᵀx over low ≤ x ≤ high by projected Newton (Tassa et al. 2014, section III-A).

    Starts at the clipped unconstrained minimum, which is the answer (and costs no iteration) unless a
    bound holds; the line search tries its steps together. n = 1 is closed form.
    """
    newton, ok = solve_spd(H, -g[:, None])
    inside = jnp.all((newton[:, 0] >= low) & (newton[:, 0] <= high))
    x = jnp.clip(newton[:, 0], low, high)
    if H.shape[0] == 1:
        return BoxQP(x, jnp.broadcast_to(inside, (1,)), ok)

    def search(carry: tuple) -> tuple:
        x, _, _, count = carry
        free, done = _active(H, g, low, high, x)
        delta, _ = free_solve(H, -_gradient(H, g, x)[:, None], free)
        x_new = _projected_step(H, g, low, high, x, jnp.where(done, 0, delta[:, 0]))
        return x_new, free, done, count + 1

    start = (x, jnp.ones(x.shape, bool), inside | ~ok, jnp.int32(0))
    x, free, done, _ = jax.lax.while_loop(lambda c: ~c[2] & (c[3] < iterations), search, start)
    return BoxQP(x, free, ok & done)


def _gradient(H: Array, g: Array, x: Array) -> Array:
    return g + H @ x


def _active(H: Array, g: Array, low: Array, high: Array, x: Array) -> tuple[Array, Array]:
    """The rows that no bound holds, and whether the gradient vanishes on them."""
    grad = _gradient(H, g, x)
    held = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
    scale = jnp.abs(g) + jnp.abs(H) @ jnp.abs(x)
    small = jnp.abs(grad) <= 16 * jnp.finfo(x.dtype).eps * scale
    return ~held, jnp.all(held | small)


def _projected_step(H: Array, g: Array, low: Array, high: Array, x: Array, delta: Array) -> Array:
    """The best of clip(x + α δ) over α = 1, 0.6, …, or x itself."""
    alphas = jnp.asarray(0.6, x.dtype) ** jnp.arange(16)
    points = jnp.clip(x[None] + alphas[:, None] * delta[None], low[None], high[None])
    moves = points - x[None]
    changes = jnp.sum(moves * (0.5 * moves @ H + _gradient(H, g, x)[None]), axis=1)
    best = jnp.argmin(changes)
    return jnp.where(changes[best] < 0, points[best], x)

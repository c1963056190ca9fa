"""Factorisations of small matrices that are safe inside loops, and products that keep their digits.

XLA's CPU runtime can wait for ever where two *batched* LAPACK calls run side by side inside a loop (jaxlib
0.10, seen with two threads), which is what `vmap` of a solver makes. Up to 8 x 8 the factor is written out
in array operations, which is also faster than a call; beyond, a batch is handed to LAPACK one matrix after
another. On other platforms a batch stays one.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, PyTree

__all__ = ["UNROLL_UP_TO", "cholesky", "eigh", "full_precision", "lower_inverse", "solve"]

UNROLL_UP_TO = 8

F = TypeVar("F", bound=Callable[..., Any])


def full_precision(fun: F) -> F:
    """`fun` with every matrix product in the precision of its operands.

    Accelerators multiply in bfloat16 or TF32 by default, which Riccati recursions do not survive.
    """

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fun(*args, **kwargs)

    return cast(F, call)


def _one_by_one(fun: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`fun`, whose batches are computed one member after the other on the CPU."""
    batched = custom_vmap(fun)

    @batched.def_vmap
    def rule(size: int, in_batched: list[bool], *args: Array) -> tuple[PyTree, PyTree]:
        rows = [
            a if is_batched else jnp.broadcast_to(a[None], (size, *a.shape))
            for a, is_batched in zip(args, in_batched, strict=True)
        ]
        out = jax.lax.platform_dependent(
            *rows, cpu=lambda *rows: jax.lax.map(lambda row: batched(*row), rows), default=jax.vmap(fun)
        )
        return out, jax.tree.map(lambda _: True, out)

    return batched


def cholesky(H: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L with L Lᵀ = H, from the lower triangle of H; not finite where H is not positive definite."""
    return _unrolled(H) if H.shape[-1] <= UNROLL_UP_TO else _factor(H)


def lower_inverse(L: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L⁻¹ of a lower triangular matrix."""
    return _unrolled_inverse(L) if L.shape[-1] <= UNROLL_UP_TO else _invert(L)


@_one_by_one
def eigh(H: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix. No reverse-mode derivative."""
    values, vectors = jnp.linalg.eigh(H)
    return values, vectors


@_one_by_one
def solve(A: Float[Array, "n n"], rhs: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """A⁻¹ rhs by LU; not finite where A is singular. No reverse-mode derivative."""
    return jnp.linalg.solve(A, rhs)


# ------------------------------------------------------------------------------------- internals


def _unrolled(H: Array) -> Array:
    """Row by row (Cholesky-Banachiewicz)."""
    n = H.shape[-1]
    rows: list[Array] = []
    for i in range(n):
        row = jnp.zeros(n, H.dtype)
        for j in range(i):
            row = row.at[j].set((H[i, j] - rows[j] @ row) / rows[j][j])
        rows.append(row.at[i].set(jnp.sqrt(H[i, i] - row @ row)))
    return jnp.stack(rows)


def _unrolled_inverse(L: Array) -> Array:
    """Forward substitution of the identity."""
    n = L.shape[-1]
    eye = jnp.eye(n, dtype=L.dtype)
    rows: list[Array] = []
    for i in range(n):
        above = sum((L[i, j] * rows[j] for j in range(i)), jnp.zeros(n, L.dtype))
        rows.append((eye[i] - above) / L[i, i])
    return jnp.stack(rows)


@_one_by_one
def _lapack_factor(H: Array) -> Array:
    return jnp.linalg.cholesky(H, symmetrize_input=False)


@_one_by_one
def _lapack_inverse(L: Array) -> Array:
    return jax.lax.linalg.triangular_solve(L, jnp.eye(L.shape[0], dtype=L.dtype), left_side=True, lower=True)


_factor, _invert = jax.custom_jvp(_lapack_factor), jax.custom_jvp(_lapack_inverse)


@_factor.defjvp
def _factor_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The rule dL = L Φ(L⁻¹ dH L⁻ᵀ), Φ the lower triangle with half the diagonal."""
    (H,), (dH,) = primals, tangents
    L = _factor(H)
    inverse = _invert(L)
    middle = inverse @ (0.5 * (dH + dH.T)) @ inverse.T
    return L, L @ (jnp.tril(middle) - 0.5 * jnp.diag(jnp.diagonal(middle)))


@_invert.defjvp
def _invert_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (L,), (dL,) = primals, tangents
    inverse = _invert(L)
    return inverse, -inverse @ jnp.tril(dL) @ inverse

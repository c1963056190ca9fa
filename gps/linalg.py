"""Factorisations of small symmetric matrices that are safe inside loops.

XLA's CPU runtime can wait for ever where two *batched* LAPACK calls run side by side inside a loop (jaxlib
0.10, seen with two threads), which is what `vmap` of a solver makes. Up to 8 x 8 the factor is written out
in array operations, which is also faster than a call; beyond, a batch is handed to LAPACK one matrix after
another.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

__all__ = ["UNROLL_UP_TO", "cholesky", "eigh", "lower_inverse"]

UNROLL_UP_TO = 8


def cholesky(H: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L with L Lᵀ = H, from the lower triangle of H; not finite where H is not positive definite."""
    return _unrolled(H) if H.shape[-1] <= UNROLL_UP_TO else _factor(H)


def lower_inverse(L: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L⁻¹ of a lower triangular matrix."""
    return _unrolled_inverse(L) if L.shape[-1] <= UNROLL_UP_TO else _invert(L)


@sequential_vmap
def eigh(H: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix. It has no derivative."""
    values, vectors = jnp.linalg.eigh(H)
    return values, vectors


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


@sequential_vmap
def _lapack_factor(H: Array) -> Array:
    return jnp.linalg.cholesky(H, symmetrize_input=False)


@sequential_vmap
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

"""Factorisations against NumPy, their derivatives, and that none of them waits for ever."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.linalg import UNROLL_UP_TO, cholesky, eigh, lower_inverse

SIZES = (1, 3, UNROLL_UP_TO, UNROLL_UP_TO + 1, 14)


def spd(n, seed=0, batch=()):
    root = np.random.default_rng([seed, n]).normal(size=(*batch, n, n + 2))
    return root @ np.swapaxes(root, -1, -2)


@pytest.mark.parametrize("n", SIZES)
def test_factors_inverses_and_eigenvectors_are_numpys(n):
    H = spd(n, batch=(3,))
    L = np.linalg.cholesky(H)
    np.testing.assert_allclose(jax.vmap(cholesky)(H), L, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(lower_inverse)(L), np.linalg.inv(L), rtol=1e-8, atol=1e-10)
    values, vectors = jax.vmap(eigh)(H)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(H), rtol=1e-9)
    turned = np.einsum("bij,bj,bkj->bik", vectors, values, vectors)
    np.testing.assert_allclose(turned, H, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_only_the_lower_triangle_is_read_and_what_is_not_definite_shows(n):
    H = spd(n)
    upper = np.triu(np.ones((n, n)), 1) * 7
    np.testing.assert_allclose(cholesky(H + upper), np.linalg.cholesky(H), rtol=1e-9, atol=1e-12)
    assert not np.all(np.isfinite(cholesky(H - 2 * np.linalg.eigvalsh(H)[0] * np.eye(n))))


@pytest.mark.parametrize("n", [3, UNROLL_UP_TO + 2])
def test_gradients_are_differences_of_the_function_itself(n):
    H, way = spd(n, 1), spd(n, 2) - 5 * np.eye(n)
    weights = np.random.default_rng(n).normal(size=(2, n, n))

    def value(H):
        L = cholesky(H)
        return jnp.sum(weights[0] * L) + jnp.sum(weights[1] * lower_inverse(L))

    slope = np.sum(np.asarray(jax.grad(value)(H)) * way)
    numeric = (value(H + 1e-6 * way) - value(H - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(slope, numeric, rtol=2e-6)
    batch = jnp.stack([H, 2 * H])
    np.testing.assert_allclose(
        jax.grad(lambda B: jnp.sum(jax.vmap(value)(B)))(batch)[1], jax.grad(value)(2 * H), rtol=1e-9
    )


LOOP = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from gps.linalg import cholesky, lower_inverse
H = jax.random.normal(jax.random.key(0), (4, 20, 35, 70))
H = H @ jnp.swapaxes(H, -1, -2)
both = lambda f: jax.vmap(jax.vmap(f))
def body(carry):
    H, i = carry
    one, two = both(cholesky)(H), both(cholesky)(2 * H)
    mixed = both(lower_inverse)(one) @ jnp.swapaxes(both(lower_inverse)(two), -1, -2)
    return 0.99 * H + 0.01 * mixed @ jnp.swapaxes(mixed, -1, -2), i + 1
jax.block_until_ready(jax.jit(lambda H: jax.lax.while_loop(lambda c: c[1] < 100, body, (H, 0)))(H))
"""


def test_two_batched_factorisations_side_by_side_in_a_loop_come_to_an_end():
    # With `jnp.linalg.cholesky` and `triangular_solve` in their place this hangs on two cores.
    subprocess.run([sys.executable, "-c", LOOP], check=True, timeout=120)

"""Multivariate normals: density, sampling, entropy and divergence; small linear algebra on SPD matrices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.linalg import cholesky, lower_inverse

LOG_2PI = 1.8378770664093453


class Gaussian(NamedTuple):
    """N(mean, cov) over R^n; the distribution of every Gaussian teacher and student.

    `cov` is symmetric positive definite. All methods are unbatched: use `jax.vmap`.
    """

    mean: Float[Array, " n"]
    cov: Float[Array, "n n"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        """One draw, mean + L z with L the Cholesky factor of `cov`."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + cholesky(self.cov) @ noise

    def mode(self) -> Float[Array, " n"]:
        """The mean."""
        return self.mean

    def log_prob(self, value: Float[Array, " n"]) -> Float[Array, ""]:
        """Log density of `value`; of the unclipped action where the value is an action."""
        chol = cholesky(self.cov)
        white = lower_inverse(chol) @ (value - self.mean)
        return -0.5 * (white @ white) - log_det_chol(chol) / 2 - 0.5 * value.shape[0] * LOG_2PI

    def entropy(self) -> Float[Array, ""]:
        """Differential entropy in nats."""
        n = self.mean.shape[0]
        return 0.5 * (n * (1 + LOG_2PI) + log_det_chol(cholesky(self.cov)))

    def kl(self, other: "Gaussian") -> Float[Array, ""]:
        """KL(self ‖ other) in nats."""
        n = self.mean.shape[0]
        chol, chol_other = cholesky(self.cov), cholesky(other.cov)
        inverse = lower_inverse(chol_other)
        white, shift = inverse @ chol, inverse @ (other.mean - self.mean)
        log_ratio = log_det_chol(chol_other) - log_det_chol(chol)
        return 0.5 * (jnp.sum(white**2) + shift @ shift - n + log_ratio)


def log_det_chol(chol: Float[Array, "n n"]) -> Float[Array, ""]:
    """Log det(L Lᵀ) of a Cholesky factor L."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))


def symmetrise(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The symmetric part of a square matrix."""
    return 0.5 * (matrix + matrix.T)


def inverse_spd(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a symmetric positive definite matrix through its Cholesky factor.

    For the places where the inverse itself is the answer (precision to covariance); solve otherwise.
    """
    half = lower_inverse(cholesky(matrix))
    return half.T @ half

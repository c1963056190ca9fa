"""Mixtures of Gaussians with diagonal covariances: policies that may do one thing or another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.gaussian import LOG_2PI

__all__ = ["Mixture"]


class Mixture(NamedTuple):
    """Σ_k w_k N(means_k, diag stds_k²) over R^n. All methods are unbatched: use `jax.vmap`."""

    log_weights: Float[Array, " K"]
    """They sum to one as weights."""
    means: Float[Array, "K n"]
    stds: Float[Array, "K n"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        """One draw: a component, then its Gaussian."""
        which_key, noise_key = jax.random.split(key)
        k = jax.random.categorical(which_key, self.log_weights)
        noise = jax.random.normal(noise_key, self.means.shape[1:], self.means.dtype)
        return self.means[k] + self.stds[k] * noise

    def mode(self) -> Float[Array, " n"]:
        """The component mean at which the density is highest; between two means it would be neither."""
        return self.means[jnp.argmax(jax.vmap(self.log_prob)(self.means))]

    def log_prob(self, value: Float[Array, " n"]) -> Float[Array, ""]:
        """Log density of `value`."""
        white = (value[None] - self.means) / self.stds
        n = self.means.shape[1]
        each = -0.5 * jnp.sum(white**2, 1) - jnp.sum(jnp.log(self.stds), 1) - 0.5 * n * LOG_2PI
        return jax.nn.logsumexp(self.log_weights + each)

    def kl(self, other: "Mixture") -> Float[Array, ""]:
        """KL(self ‖ other) in nats, by the variational approximation: there is no closed form.

        Σ_a w_a log(Σ_a' w_a' e^−KL(a‖a') / Σ_b v_b e^−KL(a‖b)); exact for one component, 0 for self ‖ self
        (Hershey & Olsen 2007, equation 20).
        """
        own = jax.nn.logsumexp(self.log_weights[None] - _pairs(self, self), axis=1)
        cross = jax.nn.logsumexp(other.log_weights[None] - _pairs(self, other), axis=1)
        return jnp.exp(self.log_weights) @ (own - cross)


def _pairs(a: Mixture, b: Mixture) -> Float[Array, "K L"]:
    """KL(component of a ‖ component of b)."""
    ratio = a.stds[:, None] / b.stds[None]
    shift = (a.means[:, None] - b.means[None]) / b.stds[None]
    return 0.5 * jnp.sum(ratio**2 + shift**2 - 1 - 2 * jnp.log(ratio), axis=-1)

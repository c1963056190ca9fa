"""A Gaussian inside a box: its samples pass through tanh (Haarnoja et al. 2018, appendix C)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.gaussian import LOG_2PI

__all__ = ["Squashed"]

EDGE = 1e-6
"""A value nearer to a limit than this, in half-ranges, counts as this far away: its density is finite."""


class Squashed(NamedTuple):
    """centre + half · tanh(z), z ~ N(mean, diag std²). All methods are unbatched: use `jax.vmap`."""

    mean: Float[Array, " n"]
    """Of z."""
    std: Float[Array, " n"]
    """Of z."""
    centre: Float[Array, " n"]
    half: Float[Array, " n"]
    """The box is centre ± half."""

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        """One draw."""
        return self.sample_log_prob(key)[0]

    def sample_log_prob(self, key: Key[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """One draw and its log density, without the rounding error of tanh⁻¹; differentiable."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        z = self.mean + self.std * noise
        return self.centre + self.half * jnp.tanh(z), self._log_prob(z, noise)

    def mode(self) -> Float[Array, " n"]:
        """What the mean becomes (the median; the density may be highest elsewhere)."""
        return self.centre + self.half * jnp.tanh(self.mean)

    def log_prob(self, value: Float[Array, " n"]) -> Float[Array, ""]:
        """Log density of `value`, which lies in the box."""
        z = jnp.arctanh(jnp.clip((value - self.centre) / self.half, -1 + EDGE, 1 - EDGE))
        return self._log_prob(z, (z - self.mean) / self.std)

    def kl(self, other: "Squashed") -> Float[Array, ""]:
        """KL(self ‖ other) in nats, of two in the same box: that of the Gaussians, before tanh."""
        ratio = self.std / other.std
        shift = (self.mean - other.mean) / other.std
        return 0.5 * jnp.sum(ratio**2 + shift**2 - 1 - 2 * jnp.log(ratio))

    def _log_prob(self, z: Array, white: Array) -> Array:
        """Log N(z) − log |d value / dz|, where log(1 − tanh² z) = 2 (log 2 − z − softplus(−2z))."""
        gaussian = -0.5 * white**2 - jnp.log(self.std) - 0.5 * LOG_2PI
        slope = jnp.log(self.half) + 2 * (jnp.log(2.0) - z - jax.nn.softplus(-2 * z))
        return jnp.sum(gaussian - slope)

"""Distributions over a few fixed controls: policies that classify what they see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

__all__ = ["Choice"]


class Choice(NamedTuple):
    """P(controls_k) = softmax(logits)_k. All methods are unbatched: use `jax.vmap`."""

    logits: Float[Array, " K"]
    controls: Float[Array, "K n"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        """One of the controls."""
        return self.controls[jax.random.categorical(key, self.logits)]

    def mode(self) -> Float[Array, " n"]:
        """Σ_k P_k controls_k, such as a yaw rate ~ P(left) − P(right) (Giusti et al. 2016)."""
        return jax.nn.softmax(self.logits) @ self.controls

    def log_prob(self, value: Float[Array, " n"]) -> Float[Array, ""]:
        """Log probability of the control next to `value`."""
        near = jnp.argmin(jnp.sum((self.controls - value[None]) ** 2, axis=1))
        return jax.nn.log_softmax(self.logits)[near]

    def kl(self, other: "Choice") -> Float[Array, ""]:
        """KL(self ‖ other) in nats, between choices of the same controls."""
        own, theirs = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.exp(own) @ (own - theirs)

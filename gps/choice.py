"""Distributions over a few fixed controls: policies that classify what they see, or rank what they can do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

__all__ = ["Choice", "Ranked", "nearest"]


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
        return jax.nn.log_softmax(self.logits)[nearest(self.controls, value)]

    def kl(self, other: "Choice") -> Float[Array, ""]:
        """KL(self ‖ other) in nats, between choices of the same controls."""
        own, theirs = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.exp(own) @ (own - theirs)


class Ranked(NamedTuple):
    """What each of the controls is worth; the best is done. All methods are unbatched: use `jax.vmap`."""

    values: Float[Array, " K"]
    """Q(o, controls_k)."""
    controls: Float[Array, "K n"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        """The best control."""
        return self.mode()

    def mode(self) -> Float[Array, " n"]:
        """The best control, the first of several."""
        return self.controls[jnp.argmax(self.values)]

    def log_prob(self, value: Float[Array, " n"]) -> Float[Array, ""]:
        """0 if the control next to `value` is the best one, else −∞."""
        best = nearest(self.controls, value) == jnp.argmax(self.values)
        return jnp.where(best, 0, -jnp.inf).astype(self.values.dtype)

    def kl(self, other: "Ranked") -> Float[Array, ""]:
        """0 nats where both prefer the same, else ∞."""
        return -other.log_prob(self.mode())


def nearest(controls: Float[Array, "K n"], value: Float[Array, " n"]) -> Int[Array, ""]:
    """Which of the controls is next to `value`."""
    return jnp.argmin(jnp.sum((controls - value[None]) ** 2, axis=1))

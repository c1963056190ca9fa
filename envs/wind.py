"""Wind along a way: a frozen sum of waves, so that the state alone determines it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["blow", "check_strength", "sample_waves"]


def check_strength(name: str, value: float) -> None:
    """Raise a ValueError on a wind that cannot blow."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def sample_waves(key: Array, count: int) -> Float[Array, "n 2"]:
    """Cosine and sine coefficients of `count` waves, of mean square 1 in sum."""
    return jax.random.normal(key, (count, 2)) / jnp.sqrt(count)


def blow(waves: Float[Array, "n 2"], numbers: tuple[float, ...], x: Float[Array, ""]) -> Float[Array, ""]:
    """The wind at `x`, of root mean square 1; `numbers` are the wave numbers, rad/m."""
    angle = jnp.asarray(numbers, x.dtype) * x
    return jnp.sum(waves.astype(x.dtype) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))

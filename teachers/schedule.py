"""The regularisation μ of iLQR: up while backward passes or steps fail, down while they succeed.

Tassa, Erez & Todorov 2012, section II-F: the factor itself grows while the direction lasts.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from teachers.lqr import BackwardPass

__all__ = ["SCHEDULE", "Schedule", "check_schedule", "definite_backward", "lower_mu", "raise_mu"]

Schedule = tuple[float, float, float, float]
"""(start, smallest, largest, factor); below the smallest μ is 0."""

SCHEDULE: Schedule = (1e-6, 1e-6, 1e10, 1.6)


def check_schedule(schedule: Schedule) -> None:
    """Raise ValueError where no μ can follow it."""
    sane = len(schedule) == 4 and 0 <= schedule[0] < math.inf and 0 < schedule[1] < schedule[2] < math.inf
    if not sane or not 1 < schedule[3] < math.inf:
        raise ValueError(
            "schedule is (start, smallest, largest, factor) with start >= 0, 0 < smallest < largest and "
            f"factor > 1, came {tuple(schedule)}"
        )


def definite_backward(
    sweep: Callable[[Array], BackwardPass], mu: Array, growth: Array, blank: BackwardPass, schedule: Schedule
) -> tuple[Array, Array, BackwardPass]:
    """(μ, its growth, the pass): μ raised until `sweep`(μ) goes through, or μ is at its largest."""

    def again(carry: tuple) -> tuple:
        mu, growth, _, first = carry
        up = raise_mu(mu, growth, schedule)
        mu, growth = jnp.where(first, mu, up[0]), jnp.where(first, growth, up[1])
        return mu, growth, sweep(mu), jnp.asarray(False)

    def failing(carry: tuple) -> Array:
        return carry[3] | (~carry[2].ok & (carry[0] < schedule[2]))

    mu, growth, back, _ = jax.lax.while_loop(failing, again, (mu, growth, blank, jnp.asarray(True)))
    return mu, growth, back


def raise_mu(mu: Array, growth: Array, schedule: Schedule) -> tuple[Array, Array]:
    """(μ, growth) after a failure."""
    _, low, high, factor = schedule
    growth = jnp.maximum(growth * factor, factor)
    return jnp.clip(mu * growth, low, high), growth


def lower_mu(mu: Array, growth: Array, schedule: Schedule) -> tuple[Array, Array]:
    """(μ, growth) after a success."""
    _, low, _, factor = schedule
    growth = jnp.minimum(growth / factor, 1 / factor)
    return jnp.where(mu * growth >= low, mu * growth, 0), growth

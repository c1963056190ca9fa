"""Model-predictive path integral control (Williams et al. 2017, "Information Theoretic MPC", ICRA)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gps.types import Env
from teachers.noise import Noise, spline
from teachers.planner import Planner
from teachers.sampling import Returns, Samples, Strategy, check_std, sampled, spread_out

__all__ = ["mppi"]


def mppi(
    env: Env,
    horizon: int | None = None,
    iterations: int = 1,
    *,
    samples: int = 64,
    std: float = 0.2,
    temperature: float = 0.1,
    noise: Noise | None = None,
    returns: Returns = "mean",
    **common: Any,
) -> Planner:
    """The planner whose mean plan is the samples' mean under w ∝ exp(−(S − min S) / temperature).

    S is a sample's cost in units of how much the costs of all of them spread (their standard deviation), so
    that one temperature serves tasks of any scale. The price on the mean control in the original is left out,
    as in most implementations: a task has its own cost of controls.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of sampling in each plan.
        samples: rollouts in each iteration.
        std: of the noise, in half ranges of the controls.
        temperature: how far below the best a sample may be and still count, in standard deviations.
        noise: its shape in time, a spline through 6 values unless given.
        returns: the mean plan, or the best sample.
        common: `scale`, `worlds`, `objective`, as for `teachers.sampling.sampled`.

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    check_std(std)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, came {temperature}")

    def strategy(T: int, nu: int) -> Strategy:
        def weigh(memory: PyTree, samples: Samples) -> tuple[Array, PyTree]:
            return soft_weights(samples.costs, temperature), memory

        return spread_out(np.full((T, nu), std), noise or spline(6), weigh)

    return sampled(env, strategy, horizon, iterations, samples, returns=returns, **common)


def soft_weights(costs: Float[Array, " S"], temperature: float) -> Float[Array, " S"]:
    """∝ exp(−(S − min S) / (temperature · std S)); none for an infinite cost, of which std does not know."""
    finite = jnp.isfinite(costs)
    share = finite.astype(costs.dtype) / jnp.maximum(jnp.sum(finite), 1)
    known = jnp.where(finite, costs, 0)
    away = jnp.where(finite, costs - share @ known, 0)
    spread = jnp.sqrt(share @ away**2)
    tiny = jnp.finfo(costs.dtype).tiny
    least = jnp.min(jnp.where(finite, costs, jnp.inf))
    return jax.nn.softmax(jnp.where(finite, -(known - least) / (temperature * spread + tiny), -jnp.inf))

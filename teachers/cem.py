"""The cross-entropy method with what iCEM adds to it (Pinneri et al. 2020, arXiv:2008.06389)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gps.types import Env
from teachers.noise import Noise, spline
from teachers.planner import Planner
from teachers.sampling import Samples, Strategy, check_std, sampled, spread_out, unit_of

__all__ = ["cem"]


def cem(
    env: Env,
    horizon: int | None = None,
    iterations: int = 3,
    *,
    samples: int = 64,
    elites: int = 8,
    keep: int = 3,
    std: float = 0.3,
    least: float = 0.05,
    smoothing: float = 0.1,
    noise: Noise | None = None,
    **common: Any,
) -> Planner:
    """The planner whose mean and standard deviation become those of the best samples.

    Of iCEM it has, with `noise=coloured(2)`, noise of a colour, the best samples kept for the next iteration
    and, shifted, for the next plan, and the best sample of all acted on; not its shrinking population.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of sampling in each plan.
        samples: rollouts in each iteration.
        elites: how many of the best the next mean and standard deviation are of.
        keep: how many of the best are tried again.
        std: of the noise at the start of each plan, in half ranges of the controls.
        least: the standard deviation does not fall below it.
        smoothing: share of the last mean square deviation in the next.
        noise: its shape in time, a spline through 6 values unless given.
        common: `scale`, `returns`, `worlds`, `objective`, as for `teachers.sampling.sampled`.

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    check_std(std)
    check_std(least, "least")
    if not 0 < elites <= samples:
        raise ValueError(f"elites must be between 1 and the number of samples, {samples}, came {elites}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, came {smoothing}")
    unit = unit_of(env, common.get("scale"))

    def strategy(T: int, nu: int) -> Strategy:
        def weigh(memory: PyTree, samples: Samples) -> tuple[Array, PyTree]:
            _, best = jax.lax.top_k(-samples.costs, elites)
            sound = jnp.isfinite(samples.costs[best]).astype(memory.dtype)
            share = sound / jnp.maximum(jnp.sum(sound), 1)
            us = samples.us[best] / unit.astype(memory.dtype)[None, None]
            mean = jnp.tensordot(share, us, axes=1)
            spread = jnp.tensordot(share, (us - mean[None]) ** 2, axes=1)
            var = smoothing * memory**2 + (1 - smoothing) * spread
            weights = jnp.zeros_like(samples.costs).at[best].set(share)
            return weights, jnp.maximum(jnp.sqrt(var), least)

        return spread_out(np.full((T, nu), std), noise or spline(6), weigh)

    return sampled(env, strategy, horizon, iterations, samples, keep=keep, **common)

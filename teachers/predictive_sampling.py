"""Predictive sampling: the best of some noisy plans is the next (Howell et al. 2022, arXiv:2212.00541)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gps.types import Env
from teachers.noise import Noise, spline
from teachers.planner import Planner
from teachers.sampling import Samples, Strategy, check_std, sampled, spread_out

__all__ = ["predictive_sampling"]


def predictive_sampling(
    env: Env,
    horizon: int | None = None,
    iterations: int = 1,
    *,
    samples: int = 64,
    std: float = 0.2,
    noise: Noise | None = None,
    **common: Any,
) -> Planner:
    """The planner whose next plan is the best sample.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of sampling in each plan.
        samples: rollouts in each iteration.
        std: of the noise, in half ranges of the controls.
        noise: its shape in time, a spline through 6 values unless given.
        common: `scale`, `returns`, `worlds`, `objective`, as for `teachers.sampling.sampled`.

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    check_std(std)

    def strategy(T: int, nu: int) -> Strategy:
        def weigh(memory: PyTree, samples: Samples) -> tuple[Array, PyTree]:
            costs = samples.costs
            return jax.nn.one_hot(jnp.argmin(costs), costs.shape[0], dtype=costs.dtype), memory

        return spread_out(np.full((T, nu), std), noise or spline(6), weigh)

    return sampled(env, strategy, horizon, iterations, samples, **common)

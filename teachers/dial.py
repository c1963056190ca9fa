"""DIAL-MPC: path integrals with noise that is annealed (Xue et al. 2024, arXiv:2409.15610)."""

import math
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from gps.types import Env
from teachers.mppi import soft_weights
from teachers.noise import Noise, spline
from teachers.planner import Planner
from teachers.sampling import Returns, Samples, Strategy, check_std, sampled, spread_out

__all__ = ["dial"]


def dial(
    env: Env,
    horizon: int | None = None,
    iterations: int = 4,
    *,
    samples: int = 64,
    std: float = 0.5,
    temperature: float = 0.1,
    over_iterations: float = 0.5,
    over_horizon: float = 1.0,
    noise: Noise | None = None,
    returns: Returns = "mean",
    **common: Any,
) -> Planner:
    """MPPI with the standard deviation std · exp(−i / (β₁ I) − (T − 1 − t) / (β₂ T)) (their equation 8).

    Noise becomes less from one iteration i of a plan to the next, and is less at the steps t that come
    sooner, which earlier plans have refined already.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: I, of sampling in each plan.
        samples: rollouts in each iteration.
        std: of the noise in the first iteration at the last step, in half ranges of the controls.
        temperature: as for `teachers.mppi`.
        over_iterations: β₁.
        over_horizon: β₂.
        noise: its shape in time, a spline through 6 values unless given.
        returns: the mean plan, or the best sample.
        common: `scale`, `worlds`, `objective`, as for `teachers.sampling.sampled`.

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    check_std(std)
    for name, value in (
        ("temperature", temperature),
        ("over_iterations", over_iterations),
        ("over_horizon", over_horizon),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, came {value}")

    def strategy(T: int, nu: int) -> Strategy:
        sooner = std * np.exp(-(T - 1 - np.arange(T)) / (over_horizon * T))
        cooler = math.exp(-1 / (over_iterations * iterations))

        def weigh(memory: Array, samples: Samples) -> tuple[Array, PyTree]:
            return soft_weights(samples.costs, temperature), cooler * memory

        return spread_out(np.broadcast_to(sooner[:, None], (T, nu)), noise or spline(6), weigh)

    return sampled(env, strategy, horizon, iterations, samples, returns=returns, **common)

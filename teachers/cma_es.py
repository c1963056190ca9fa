"""Evolution strategy with covariance matrix adaptation, without its eigenvalue decomposition.

Beyer & Sendhoff 2017, "Simplify Your Covariance Matrix Adaptation Evolution Strategy" (MA-ES): the matrix M
with which noise is drawn is adapted itself, so that a plan is matrix products and nothing else.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gps.types import Env
from teachers.noise import Noise, spline
from teachers.planner import Planner
from teachers.sampling import Samples, Strategy, check_std, sampled

__all__ = ["cma_es"]


class Adapted(NamedTuple):
    """Noise is σ M z with z ~ N(0, I), d numbers: m of the basis for each control."""

    sigma: Float[Array, ""]
    M: Float[Array, "d d"]
    path: Float[Array, " d"]
    """Where the mean has been going."""


def cma_es(
    env: Env,
    horizon: int | None = None,
    iterations: int = 10,
    *,
    samples: int = 32,
    std: float = 0.3,
    noise: Noise | None = None,
    **common: Any,
) -> Planner:
    """The planner whose noise takes the shape that has paid off, over time and between controls.

    Each plan begins with round noise of size `std`: handed on from one plan to the next, its shape did worse
    than none in closed loop.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of sampling in each plan.
        samples: rollouts in each iteration, the better half of which counts.
        std: of the noise at the start of each plan, in half ranges of the controls.
        noise: its shape in time at first, a spline through 6 values unless given.
        common: `scale`, `returns`, `worlds`, `objective`, as for `teachers.sampling.sampled`.

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    check_std(std)
    if samples < 4:
        raise ValueError(f"cma_es needs at least 4 samples, came {samples}")

    def strategy(T: int, nu: int) -> Strategy:
        basis = (noise or spline(6))(T)
        d = basis.shape[1] * nu
        rates = Rates(d, samples)

        def begin(dtype: jnp.dtype) -> Adapted:
            return Adapted(jnp.asarray(std, dtype), jnp.eye(d, dtype=dtype), jnp.zeros(d, dtype))

        def draw(key: Key[Array, ""], memory: Adapted, n: int) -> tuple[Array, Array]:
            z = jax.random.normal(key, (n, d), memory.M.dtype)
            knots = memory.sigma * (z @ memory.M.T).reshape(n, -1, nu)
            return jnp.einsum("tm,nmu->ntu", jnp.asarray(basis, z.dtype), knots), z

        def weigh(memory: Adapted, samples: Samples) -> tuple[Array, Adapted]:
            order = jnp.argsort(samples.costs)
            share = jnp.asarray(rates.weights, samples.costs.dtype)
            share = jnp.where(jnp.isfinite(samples.costs[order]), share, 0)
            share = share / jnp.sum(share)
            return jnp.zeros_like(samples.costs).at[order].set(share), rates.learn(
                memory, samples.code[order], share
            )

        def std_of(memory: Adapted) -> Float[Array, "T nu"]:
            rows = jnp.einsum("tm,mud->tud", jnp.asarray(basis, memory.M.dtype), memory.M.reshape(-1, nu, d))
            return memory.sigma * jnp.sqrt(jnp.sum(rows**2, axis=-1))

        return Strategy(begin, draw, weigh, std_of)

    return sampled(env, strategy, horizon, iterations, samples, **common)


class Rates:
    """Weights and rates for d numbers and S samples: the defaults of Hansen 2016 (arXiv:1604.00772)."""

    def __init__(self, d: int, samples: int) -> None:
        ranks = np.log((samples + 1) / 2) - np.log(np.arange(1, samples + 1))
        self.weights = np.maximum(ranks, 0) / np.sum(np.maximum(ranks, 0))
        """By rank."""
        self.mass = float(1 / np.sum(self.weights**2))
        self.of_path = (self.mass + 2) / (self.mass + d + 5)
        self.of_one = 2 / ((d + 1.3) ** 2 + self.mass)
        many = 2 * (self.mass - 2 + 1 / self.mass) / ((d + 2) ** 2 + self.mass)
        self.of_many = min(1 - self.of_one, many)
        self.damping = 1 + self.of_path + 2 * max(0, math.sqrt((self.mass - 1) / (d + 1)) - 1)
        self.length = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
        """E‖N(0, I)‖."""

    def learn(self, memory: Adapted, z: Float[Array, "S d"], share: Float[Array, " S"]) -> Adapted:
        """From the samples in the order of their costs (Beyer & Sendhoff 2017, figure 3)."""
        c = self.of_path
        path = (1 - c) * memory.path + math.sqrt(self.mass * c * (2 - c)) * (share @ z)
        eye = jnp.eye(z.shape[1], dtype=z.dtype)
        one, many = jnp.outer(path, path) - eye, jnp.einsum("s,si,sj->ij", share, z, z) - eye
        M = memory.M @ (eye + 0.5 * self.of_one * one + 0.5 * self.of_many * many)
        longer = jnp.linalg.norm(path) / self.length - 1
        return Adapted(memory.sigma * jnp.exp(c / self.damping * longer), M, path)

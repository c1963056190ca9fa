"""Sampling proposes, iLQR polishes: the iLQS planner of MuJoCo MPC (Howell et al. 2022, arXiv:2212.00541)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.linalg import full_precision
from gps.rollout import open_loop
from gps.types import Env, LinearGaussian
from teachers.ilqr import Guess as Plan
from teachers.ilqr import ilqr
from teachers.line_search import simulate, total
from teachers.planner import Planner, Solution
from teachers.predictive_sampling import predictive_sampling
from teachers.sampling import Guess as Mean

__all__ = ["ilqs"]


class Guess(NamedTuple):
    """Of both."""

    mean: Mean
    plan: Plan


def ilqs(
    env: Env,
    horizon: int | None = None,
    iterations: int = 1,
    *,
    sampler: Callable[..., Planner] = predictive_sampling,
    proposals: int = 1,
    polish: Callable[..., Planner] = ilqr,
) -> Planner:
    """Polish the better of the last plan, with its feedback, and what was sampled around it.

    For tasks where derivatives see no contact that has not been made: a sample may make it, which iLQR then
    improves on. Where one round of samples is not enough, `proposals` are more; the walker of
    `benchmarks.planners` needs a better sampler than the default one.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of iLQR in each plan.
        sampler: factory of a planner made by `teachers.sampling.sampled`.
        proposals: iterations of sampling in each plan.
        polish: factory of the iLQR planner.

    Raises:
        ValueError: settings that cannot work.
    """
    proposer = sampler(env, horizon=horizon, iterations=proposals)
    polisher = polish(env, horizon=horizon, iterations=iterations)

    def begin(x0: Float[Array, " nx"], warm: LinearGaussian | Float[Array, "T nu"]) -> Guess:
        return Guess(proposer.begin(x0, warm), polisher.begin(x0, warm))

    @full_precision
    def improve(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess]:
        proposed, mean = proposer.improve(key, x0, guess.mean, t0)
        own = total(simulate(env, x0, guess.plan.plan, jnp.asarray(t0, jnp.int32)))
        fresh = open_loop(env, x0, proposed.trajectory.us)
        better = total(proposed.trajectory) < own
        start = jax.tree.map(lambda new, old: jnp.where(better, new, old), fresh, guess.plan.plan)
        solution, plan = polisher.improve(key, x0, guess.plan._replace(plan=start), t0)
        return solution, Guess(mean._replace(us=solution.trajectory.us), plan)

    def shift(guess: Guess) -> Guess:
        return Guess(proposer.shift(guess.mean), polisher.shift(guess.plan))

    def solve(
        x0: Float[Array, " nx"],
        warm: LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Solution, PyTree]:
        """Without a trace."""
        key = jax.random.key(0) if key is None else key
        return improve(key, x0, begin(x0, warm), t0)[0], ()

    return Planner(polisher.horizon, begin, improve, shift, solve)

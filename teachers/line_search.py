"""The line search of iLQR: the full step in a rollout of its own, the grid of smaller ones on rejection.

Both are `while_loop`s of at most one turn, not `cond`s: under `vmap` a `cond` runs both of its
branches, whereas the loop does not run at all unless some member of the batch needs it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gps.rollout import trajectory_costs
from gps.types import Env, LinearGaussian, Status, Trajectory
from teachers.lqr import BackwardPass

__all__ = ["Search", "line_search", "simulate", "total", "try_steps"]


class Search(NamedTuple):
    """The step taken, or the plan as it was with α = 0."""

    trajectory: Trajectory
    cost: Array
    alpha: Array
    accepted: Array


def simulate(env: Env, x0: Array, controller: LinearGaussian, t0: Array) -> Trajectory:
    """A rollout without noise, its costs counted from control step `t0`."""
    plan = env.rollout(x0, controller, jnp.zeros_like(controller.us))
    return plan._replace(costs=trajectory_costs(env.cost, env.final_cost, plan.xs, plan.us, plan.ys, t0))


def total(trajectory: Trajectory) -> Array:
    """Cost of a trajectory; infinite where the simulation failed."""
    total = jnp.sum(trajectory.costs)
    return jnp.where((trajectory.status == Status.OK) & jnp.isfinite(total), total, jnp.inf)


def try_steps(env: Env, plan: Trajectory, back: BackwardPass, alphas: Array, t0: Array) -> Trajectory:
    """Rollouts of u = clip(ū + αk + K(x ⊖ x̄)), batched over α."""

    def roll(alpha: Array) -> Trajectory:
        policy = LinearGaussian(plan.xs[:-1], plan.us + alpha * back.k, back.K, jnp.zeros_like(back.Quu))
        return simulate(env, plan.xs[0], policy, t0)

    return jax.vmap(roll)(alphas)


def line_search(
    rollouts: Callable[[Array], Trajectory],
    plan: Trajectory,
    cost: Array,
    back: BackwardPass,
    wanted: Array,
    grid: Sequence[float],
    enough: float = 1e-4,
) -> Search:
    """The full step, and where it brings less than `enough` (and is `wanted`) the best of it and the grid.

    Accepted: at least 1e-4 of the decrease that the quadratic model expects of that step. `enough` is a
    share of the decrease expected of the full step.
    """
    dtype = cost.dtype

    def batch(alphas: Array) -> Search:
        trials = rollouts(alphas)
        costs = jax.vmap(total)(trials)
        expected = -(alphas * back.linear + 0.5 * alphas**2 * back.quadratic)
        good = (cost - costs >= 1e-4 * expected) & (expected > 0) & jnp.isfinite(costs)
        best = jnp.argmin(jnp.where(good, costs, jnp.inf))
        return Search(jax.tree.map(lambda a: a[best], trials), costs[best], alphas[best], good[best])

    def attempt(search: Search, alphas: Sequence[float], needed: Array) -> Search:
        """The better of `search` and the trials of `alphas`, which are rolled out only where `needed`."""

        def turn(carry: tuple[Search, Array]) -> tuple[Search, Array]:
            tried = batch(jnp.asarray(alphas, dtype))
            better = tried.accepted & (tried.cost < carry[0].cost)
            return jax.tree.map(lambda a, b: jnp.where(better, a, b), tried, carry[0]), jnp.asarray(False)

        return jax.lax.while_loop(lambda carry: carry[1], turn, (search, needed))[0]

    none = Search(plan, cost, jnp.zeros((), dtype), jnp.asarray(False))
    search = attempt(none, (1.0,), wanted)
    promised = -(back.linear + 0.5 * back.quadratic)
    satisfied = search.accepted & (cost - search.cost >= enough * promised)
    search = attempt(search, grid, wanted & ~satisfied)
    accepted = search.accepted & wanted
    keep = lambda new, old: jnp.where(accepted, new, old)  # noqa: E731
    trajectory = jax.tree.map(keep, search.trajectory, plan)
    return Search(trajectory, keep(search.cost, cost), jnp.where(accepted, search.alpha, 0), accepted)

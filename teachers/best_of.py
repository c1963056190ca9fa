"""Several planners side by side; the cheapest plan is acted on."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.types import Env, LinearGaussian
from teachers.planner import Planner, Solution, usable

__all__ = ["best_of"]


def best_of(
    env: Env,
    horizon: int | None = None,
    iterations: int = 1,
    *,
    planners: Sequence[Callable[..., Planner]],
) -> Planner:
    """The planner that asks each of `planners` and hands out the plan that costs least.

    Each goes on from its own guess, so that the best one may change from step to step; one whose plan
    diverged begins again from the plan handed out. Costs are compared as each planner counts them: give
    `worlds` to all of them or to none. Quu is in units of the winner (`gps.types.Action`), so that labels of
    planners with and without derivatives do not weigh alike.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of each of them.
        planners: factories (env, horizon=…, iterations=…); `functools.partial` sets the rest.

    Raises:
        ValueError: no planners.
    """
    if not planners:
        raise ValueError("best_of needs at least one planner, came none")
    made = [planner(env, horizon=horizon, iterations=iterations) for planner in planners]

    def begin(x0: Float[Array, " nx"], warm: LinearGaussian | Float[Array, "T nu"]) -> tuple[PyTree, ...]:
        return tuple(planner.begin(x0, warm) for planner in made)

    def improve(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: tuple[PyTree, ...], t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, tuple[PyTree, ...]]:
        keys = jax.random.split(key, len(made))
        plans = [planner.improve(k, x0, own, t0) for planner, k, own in zip(made, keys, guess, strict=True)]
        best = cheapest([solution for solution, _ in plans])[0]
        return best, tuple(
            usable(solution, own, planner.begin(x0, best.trajectory.us))
            for planner, (solution, own) in zip(made, plans, strict=True)
        )

    def shift(guess: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        return tuple(planner.shift(own) for planner, own in zip(made, guess, strict=True))

    def solve(
        x0: Float[Array, " nx"],
        warm: LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Solution, Float[Array, " planners"]]:
        """The trace is the cost of each planner's plan."""
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(made))
        plans = [
            planner.improve(k, x0, planner.begin(x0, warm), t0)[0]
            for planner, k in zip(made, keys, strict=True)
        ]
        return cheapest(plans)

    return Planner(made[0].horizon, begin, improve, shift, solve)


def cheapest(solutions: Sequence[Solution]) -> tuple[Solution, Float[Array, " n"]]:
    """(the one that costs least, the costs of all)."""
    costs = jnp.stack([jnp.where(jnp.isfinite(s.cost), s.cost, jnp.inf) for s in solutions])
    best = jnp.argmin(costs)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *solutions), costs

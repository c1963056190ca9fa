"""Constraints on states and controls: iLQR on an augmented Lagrangian (ALTRO: Howell et al. 2019, IROS)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gps.linalg import full_precision
from gps.rollout import trajectory_costs
from gps.types import Env, LinearGaussian, Status, Trajectory
from teachers.ilqr import Guess as Plan
from teachers.ilqr import ilqr
from teachers.line_search import total
from teachers.planner import Planner, Solution, SolveStatus, check_length, later

__all__ = ["Constraints", "constrained"]


class Constraints(NamedTuple):
    """Functions to vectors; those that are not given ask for nothing."""

    at_most: Callable[..., Float[Array, " n"]] | None = None
    """(x, u, y, t) → g with g ≤ 0 at every control step."""
    equal: Callable[..., Float[Array, " n"]] | None = None
    """(x, u, y, t) → h with h = 0 at every control step."""
    final_at_most: Callable[..., Float[Array, " n"]] | None = None
    """(x, y) → g with g ≤ 0 at the last state."""
    final_equal: Callable[..., Float[Array, " n"]] | None = None
    """(x, y) → h with h = 0 at the last state."""


class Multipliers(NamedTuple):
    """Lagrange multipliers, of the constraints in the order of `Constraints`."""

    stage: tuple[Float[Array, "T n"], Float[Array, "T n"]]
    final: tuple[Float[Array, " n"], Float[Array, " n"]]


class Guess(NamedTuple):
    """What the next solve starts from."""

    plan: Plan
    multipliers: Multipliers
    penalty: Float[Array, ""]


class Violations(NamedTuple):
    """One row per iteration."""

    violation: Float[Array, " iterations"]
    """The largest of all constraints'."""
    penalty: Float[Array, " iterations"]
    cost: Float[Array, " iterations"]
    """Of the plan, without the constraints' part."""


def constrained(
    env: Env,
    horizon: int | None = None,
    iterations: int = 15,
    *,
    constraints: Constraints,
    inner: int = 50,
    penalty: float = 1.0,
    growth: float = 10.0,
    largest: float = 1e8,
    tolerance: float = 1e-4,
    planner: Callable[..., Planner] = ilqr,
) -> Planner:
    """The planner that minimises the cost subject to `constraints`.

    Each iteration minimises, with iLQR,

        J + Σ (max(0, λ + ρ g)² − λ²) / 2ρ + λᵀh + ½ ρ ‖h‖²

    and then takes λ ← max(0, λ + ρ g) for g ≤ 0 and λ ← λ + ρ h for h = 0. Where the largest violation has
    not fallen to a quarter, ρ grows. It stops when that is at most `tolerance` and iLQR has ended by itself.
    Limits of controls stay hard. Quu and Σ of what is returned are those of the augmented cost. A plan that
    violates constraints says MAX_ITERATIONS, which is no fault of a label:
    under `mpc` look at the states met.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: of multipliers, at most.
        constraints: what must hold.
        inner: iterations of iLQR in each.
        penalty: ρ at first, cost per squared unit of the constraints.
        growth: its factor.
        largest: its limit.
        tolerance: violation that counts as none, in units of the constraints.
        planner: factory of an iLQR planner.

    Raises:
        ValueError: settings that cannot work, or no constraint.
    """
    T = check_length(env, horizon, iterations)
    if not any(constraints):
        raise ValueError("constrained needs at least one constraint: else use the planner itself")
    for name, value, least in (("penalty", penalty, 0), ("tolerance", tolerance, 0), ("growth", growth, 1)):
        if not least < value < math.inf:
            raise ValueError(f"{name} must be greater than {least} and finite, came {value}")
    if not penalty <= largest < math.inf:
        raise ValueError(f"largest must be at least the penalty, {penalty}, and finite, came {largest}")
    asked = Constraints(*(None if f is None else _vector(f) for f in constraints))
    plain = planner(env, horizon=T, iterations=inner)

    def read(path: Trajectory, t0: Array) -> Multipliers:
        """What the constraints are along a trajectory."""
        steps = t0 + jnp.arange(T)
        rows = (path.xs[:-1], path.us, path.ys[:-1], steps)
        stage = [
            jnp.zeros((T, 0), path.us.dtype) if f is None else jax.vmap(lambda *k, f=f: f(*k))(*rows)
            for f in asked[:2]
        ]
        final = [jnp.zeros(0, path.us.dtype) if f is None else f(path.xs[-1], path.ys[-1]) for f in asked[2:]]
        return Multipliers((stage[0], stage[1]), (final[0], final[1]))

    def augmented(multipliers: Multipliers, rho: Array, t0: Array) -> Env:
        def cost(x: Array, u: Array, y: Array, t: Array) -> Array:
            lam, nu = (row[t - t0] for row in multipliers.stage)
            return env.cost(x, u, y, t) + _price(asked[:2], (lam, nu), rho, (x, u, y, t))

        def final_cost(x: Array, y: Array) -> Array:
            return env.final_cost(x, y) + _price(asked[2:], multipliers.final, rho, (x, y))

        return env._replace(cost=cost, final_cost=final_cost)

    def begin(x0: Float[Array, " nx"], warm: LinearGaussian | Float[Array, "T nu"]) -> Guess:
        plan = plain.begin(x0, warm)
        y = jnp.zeros(env.ny, x0.dtype)
        blank = Trajectory(
            jnp.broadcast_to(x0, (T + 1, env.nx)),
            jnp.zeros((T, env.nu), x0.dtype),
            jnp.broadcast_to(y, (T + 1, env.ny)),
            jnp.zeros(T + 1, x0.dtype),
            jnp.int32(0),
        )
        shapes = jax.eval_shape(read, blank, jnp.int32(0))
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, x0.dtype), shapes)
        return Guess(plan, none, jnp.asarray(penalty, x0.dtype))

    @full_precision
    def improve_traced(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess, Violations]:
        t0 = jnp.asarray(t0, jnp.int32)

        def turn(carry: tuple) -> tuple:
            guess, _, worst, trace, i = carry
            made = planner(augmented(guess.multipliers, guess.penalty, t0), horizon=T, iterations=inner)
            solution, plan = made.improve(key, x0, guess.plan, t0)
            found = read(solution.trajectory, t0)
            violation = _worst(found)
            multipliers = _raised(guess.multipliers, found, guess.penalty)
            harder = jnp.minimum(guess.penalty * growth, largest)
            rho = jnp.where(violation <= 0.25 * worst, guess.penalty, harder)
            cost = jnp.sum(_costs(env, solution.trajectory, t0))
            row = Violations(violation, guess.penalty, cost)
            trace = jax.tree.map(lambda rows, value: rows.at[i].set(value), trace, row)
            return Guess(plan, multipliers, rho), solution, violation, trace, i + 1

        def going(carry: tuple) -> Array:
            unfinished = (carry[2] > tolerance) | (carry[1].status == SolveStatus.MAX_ITERATIONS)
            return unfinished & (carry[4] < iterations)

        blank = jax.eval_shape(plain.improve, key, x0, guess.plan, t0)[0]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)
        zeros = jnp.zeros(iterations, x0.dtype)
        start = (
            guess,
            nothing,
            jnp.asarray(jnp.inf, x0.dtype),
            Violations(zeros, zeros, zeros),
            jnp.int32(0),
        )
        guess, solution, violation, trace, count = jax.lax.while_loop(going, turn, start)
        path = solution.trajectory._replace(costs=_costs(env, solution.trajectory, t0))
        # Feasible and stationary; an inner solve that was cut short says why.
        status = jnp.where(violation <= tolerance, solution.status, SolveStatus.MAX_ITERATIONS)
        status = jnp.where(solution.status >= SolveStatus.NOT_PD, solution.status, status)
        status = jnp.where(path.status == Status.OK, status, SolveStatus.DIVERGED)
        solution = solution._replace(
            trajectory=path,
            cost=total(path),
            status=status.astype(jnp.int32),
            iterations=count,
        )
        return solution, guess, trace

    def improve(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess]:
        return improve_traced(key, x0, guess, t0)[:2]

    def shift(guess: Guess) -> Guess:
        stage = tuple(later(rows) for rows in guess.multipliers.stage)
        # ρ begins again: where x0 itself violates a constraint it grows, and would never fall.
        rho = jnp.full_like(guess.penalty, penalty)
        return Guess(plain.shift(guess.plan), guess.multipliers._replace(stage=stage), rho)

    def solve(
        x0: Float[Array, " nx"],
        warm: LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
    ) -> tuple[Solution, Violations]:
        solution, _, trace = improve_traced(jax.random.key(0), x0, begin(x0, warm), t0)
        return solution, trace

    return Planner(T, begin, improve, shift, solve)


# ------------------------------------------------------------------------------------- internals


def _vector(constraint: Callable[..., Array]) -> Callable[..., Float[Array, " n"]]:
    """A constraint as a vector in the dtype of the state: a task's own constants may be wider."""
    return lambda x, *rest: jnp.atleast_1d(constraint(x, *rest)).astype(x.dtype)


def _price(functions: tuple, multipliers: tuple, rho: Array, at: tuple) -> Array:
    """What the augmented Lagrangian adds at one knot."""
    (at_most, equal), (lam, nu) = functions, multipliers
    price = jnp.zeros((), rho.dtype)
    if at_most is not None:
        active = jnp.maximum(0, lam + rho * at_most(*at))
        price = price + jnp.sum(active**2 - lam**2) / (2 * rho)
    if equal is not None:
        h = equal(*at)
        price = price + nu @ h + 0.5 * rho * jnp.sum(h**2)
    return price


def _raised(multipliers: Multipliers, found: Multipliers, rho: Array) -> Multipliers:
    def pair(old: tuple[Array, Array], new: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.maximum(0, old[0] + rho * new[0]), old[1] + rho * new[1]

    return Multipliers(pair(multipliers.stage, found.stage), pair(multipliers.final, found.final))


def _worst(found: Multipliers) -> Float[Array, ""]:
    """The largest violation; infinite where a constraint is not a number."""
    sizes = [jnp.maximum(side[0], 0).ravel() for side in found] + [jnp.abs(side[1]).ravel() for side in found]
    all_of = jnp.concatenate([*sizes, jnp.zeros(1, sizes[0].dtype)])
    return jnp.where(jnp.all(jnp.isfinite(all_of)), jnp.max(all_of), jnp.inf)


def _costs(env: Env, path: Trajectory, t0: Array) -> Float[Array, " T+1"]:
    return trajectory_costs(env.cost, env.final_cost, path.xs, path.us, path.ys, t0)

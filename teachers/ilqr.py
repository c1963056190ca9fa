"""Iterative LQR and DDP with control limits: the whole solve is one program of bounded loops.

Tassa, Erez & Todorov 2012 (regularisation schedule, line search); Tassa, Mansard & Todorov 2014
(limits). Engine steps are the currency: a solve linearises once per accepted step, tries the full
step in a rollout of its own, and rolls out the grid of smaller steps only where that was rejected
(`teachers.line_search`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gps.expand import Hessian, linearise, quadratise
from gps.linalg import full_precision
from gps.rollout import open_loop
from gps.types import Env, Limits, LinearDynamics, LinearGaussian, QuadraticCost, Trajectory
from teachers.line_search import Search, line_search, simulate, total, try_steps
from teachers.lqr import BackwardPass, Regularise, action_values, backward, blank_pass
from teachers.parallel_lqr import parallel_backward
from teachers.planner import (
    Planner,
    Solution,
    SolveStatus,
    Trace,
    check_length,
    check_start,
    later,
)
from teachers.schedule import SCHEDULE, Schedule, check_schedule, definite_backward, lower_mu, raise_mu

__all__ = ["Guess", "ilqr", "shift"]

GRID = tuple(float(alpha) for alpha in 0.5 ** np.arange(1, 11))


class Guess(NamedTuple):
    """What the next solve starts from."""

    plan: LinearGaussian
    """Rolled out with its feedback."""
    x_last: Float[Array, " nx"]
    """Where it ends; not read by the solve."""
    mu: Float[Array, ""]
    """Regularisation."""


class _State(NamedTuple):
    trajectory: Trajectory
    cost: Array
    back: BackwardPass
    nominal: Array  # controls that `back` was made around
    B: Array
    mu: Array
    growth: Array
    accepted: Array
    status: Array
    trace: Trace
    iteration: Array


def ilqr(
    env: Env,
    horizon: int | None = None,
    iterations: int = 100,
    *,
    tolerance: float = 1e-7,
    regularise: Regularise = "control",
    schedule: Schedule = SCHEDULE,
    grid: Sequence[float] = GRID,
    enough: float = 1e-4,
    hessian: Hessian = "auto",
    every: int = 1,
    second_order: Callable[[Array, Array], Array] | None = None,
    parallel: bool = False,
) -> Planner:
    """The iLQR planner of `env`; horizon `env.horizon` unless given.

    It stops when the model promises, at small μ, less than `tolerance` · (1 + |cost|), or when an
    accepted step brought less. `schedule` is μ's (start, smallest, largest, factor): μ shrinks after
    a step of at least ½ and grows after a shorter one or none, by a factor that itself grows while
    the direction lasts; below the smallest it is 0.
    `grid` holds the step sizes tried when the full step brings less than the share `enough` of what the
    model promised: all in one batch, the best of them and the full step is taken. `hessian` as in
    `gps.expand.quadratise`, `every` as in `gps.expand.linearise`. `second_order`, a twice differentiable
    (x, u) → x' without clipping, adds the dynamics' curvature (full DDP) where the state is flat. `parallel`
    makes the backward pass by `parallel_backward`, for long horizons on accelerators.

    Its `solve` is (x0, warm, t0=0, mu=None) → (Solution, Trace): `warm` is controls [T, nu] or a
    `LinearGaussian` that is rolled out with its feedback, `mu` the regularisation to begin with.

    Raises:
        ValueError: horizon or iterations below 1, an empty or impossible grid, tolerance, schedule or name,
            or what the parallel pass does not know.
    """
    T = check_length(env, horizon, iterations)
    if every < 1 or 1 < every >= T:
        raise ValueError(f"every must be at least 1 and below the horizon, {T}, came {every}")
    if not grid or not all(0 < alpha < 1 for alpha in grid):
        raise ValueError(
            f"grid needs step sizes above 0 and below 1 (the full step is always tried), came {tuple(grid)}"
        )
    _check_settings(tolerance, regularise, schedule, hessian)
    limits = None if _unlimited(env.limits) else env.limits
    if parallel and (limits is not None or second_order is not None or regularise != "control"):
        raise ValueError(
            "the parallel backward pass knows no limits of controls, no second_order, and of regularise "
            "'control' alone: leave parallel=True out"
        )
    curvature = None if second_order is None else _vector_hessian(second_order, env.ndx)

    def expand(state: _State, t0: Array) -> tuple[LinearDynamics, QuadraticCost]:
        xs, us, ys, _, _ = state.trajectory
        dynamics = linearise(env, xs, us, every)
        return dynamics, quadratise(env, xs, us, ys, dynamics, hessian=hessian, t0=t0)

    def attempt(state: _State, model: tuple[LinearDynamics, QuadraticCost], t0: Array) -> _State:
        """One iteration: backward pass at the first workable μ, then the line search."""

        def sweep(mu: Array) -> BackwardPass:
            if parallel:
                return parallel_backward(*model, mu)
            return backward(*model, mu, limits=limits, regularise=regularise, curvature=curvature)

        mu, growth, back = definite_backward(sweep, state.mu, state.growth, state.back, schedule)
        state = state._replace(mu=mu, growth=growth)
        promised = -(back.linear + 0.5 * back.quadratic)
        floor = _floor(tolerance, state.cost)
        settled = (promised <= floor) & (state.mu <= 1e3 * schedule[1])
        roll = lambda alphas: try_steps(env, state.trajectory, back, alphas, t0)  # noqa: E731
        tried = line_search(roll, state.trajectory, state.cost, back, back.ok & ~settled, grid, enough)
        status = _ending(state, tried, back.ok, settled, floor, schedule)
        return _record(state, tried, back, model[1].u[:T], status, schedule)._replace(B=model[0].B)

    def improve(state: _State, t0: Array) -> _State:
        """Iterations around one expansion, until a step is accepted or the solve ends."""
        model = expand(state, t0)
        going = lambda s: ~s.accepted & _running(s, iterations)  # noqa: E731
        fresh = state._replace(accepted=jnp.asarray(False))
        return jax.lax.while_loop(going, lambda s: attempt(s, model, t0), fresh)

    def begin(x0: Float[Array, " nx"], warm: LinearGaussian | Float[Array, "T nu"]) -> Guess:
        us = warm.us if isinstance(warm, LinearGaussian) else jnp.asarray(warm, x0.dtype)
        check_start(env, x0, us, T)
        plan = warm if isinstance(warm, LinearGaussian) else open_loop(env, x0, us)
        return Guess(plan, plan.xs[-1], jnp.asarray(schedule[0], x0.dtype))

    @full_precision
    def from_guess(x0: Array, guess: Guess, t0: Array) -> tuple[Solution, Trace]:
        state = _first_state(env, simulate(env, x0, guess.plan, t0), guess.mu, iterations)
        state = jax.lax.while_loop(lambda s: _running(s, iterations), lambda s: improve(s, t0), state)
        return _solution(state, regularise), state.trace

    def solve(
        x0: Float[Array, " nx"],
        warm: LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
        mu: Float[Array, ""] | None = None,
    ) -> tuple[Solution, Trace]:
        guess = begin(x0, warm)
        guess = guess if mu is None else guess._replace(mu=jnp.asarray(mu, x0.dtype))
        return from_guess(x0, guess, jnp.asarray(t0, jnp.int32))

    def plan(
        key: Array, x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess]:
        solution, _ = from_guess(x0, guess, jnp.asarray(t0, jnp.int32))
        return solution, Guess(solution.controller, solution.trajectory.xs[-1], solution.mu)

    return Planner(T, begin, plan, _shift_guess, solve)


def shift(plan: LinearGaussian, x_last: Float[Array, " nx"]) -> LinearGaussian:
    """The plan one control step later: the last control is repeated, around `x_last`, without feedback."""
    moved = jax.tree.map(later, plan)
    return moved._replace(xs=moved.xs.at[-1].set(x_last), K=moved.K.at[-1].set(0))


def _shift_guess(guess: Guess) -> Guess:
    return guess._replace(plan=shift(guess.plan, guess.x_last))


def _check_settings(tolerance: float, regularise: str, schedule: Schedule, hessian: str) -> None:
    for name, value, kind in (("regularise", regularise, Regularise), ("hessian", hessian, Hessian)):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, came {value!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, came {tolerance}")
    check_schedule(schedule)


def _floor(tolerance: float, cost: Array) -> Array:
    """The decrease that counts as none: the tolerance, or what rounding leaves of the cost."""
    return max(tolerance, 8 * float(jnp.finfo(cost.dtype).eps)) * (1 + jnp.abs(cost))


def _running(state: _State, iterations: int) -> Array:
    return (state.status == SolveStatus.RUNNING) & (state.iteration < iterations)


def _ending(
    state: _State, tried: Search, definite: Array, settled: Array, floor: Array, schedule: Schedule
) -> Int[Array, ""]:
    """The status after an iteration."""
    small = tried.accepted & (state.cost - tried.cost <= floor) & (state.mu <= 1e3 * schedule[1])
    stuck = ~tried.accepted & (state.mu >= schedule[2])
    rules = (
        (~definite, SolveStatus.NOT_PD),
        (settled | small, SolveStatus.CONVERGED),
        (stuck, SolveStatus.LINE_SEARCH_FAILED),
    )
    status = jnp.int32(SolveStatus.RUNNING)
    for holds, code in reversed(rules):
        status = jnp.where(holds, jnp.int32(code), status)
    return status


def _record(
    state: _State, tried: Search, back: BackwardPass, nominal: Array, status: Array, schedule: Schedule
) -> _State:
    """The state after an iteration, and its row in the trace."""
    alpha = jnp.where(tried.accepted, tried.alpha, 1)
    row = Trace(
        cost=tried.cost,
        alpha=tried.alpha,
        mu=state.mu,
        expected=-(alpha * back.linear + 0.5 * alpha**2 * back.quadratic),
        actual=state.cost - tried.cost,
        gradient=jnp.mean(jnp.max(jnp.abs(back.k) / (jnp.abs(nominal) + 1), axis=1)),
        status=status,
    )
    trace = jax.tree.map(lambda rows, value: rows.at[state.iteration].set(value), state.trace, row)
    up, down = raise_mu(state.mu, state.growth, schedule), lower_mu(state.mu, state.growth, schedule)
    trusted = tried.accepted & (tried.alpha >= 0.5)
    mu, growth = (jnp.where(trusted, a, b) for a, b in zip(down, up, strict=True))
    return _State(
        trajectory=tried.trajectory,
        cost=tried.cost,
        back=back,
        nominal=nominal,
        B=state.B,
        mu=mu,
        growth=growth,
        accepted=tried.accepted,
        status=status,
        trace=trace,
        iteration=state.iteration + 1,
    )


def _first_state(env: Env, plan: Trajectory, mu: Array, iterations: int) -> _State:
    T, nu = plan.us.shape
    zeros = lambda *shape: jnp.zeros(shape, plan.us.dtype)  # noqa: E731
    back = blank_pass(T, env.ndx, nu, plan.us.dtype)
    rows = zeros(iterations)
    trace = Trace(rows, rows, rows, rows, rows, rows, jnp.zeros(iterations, jnp.int32))
    cost = total(plan)
    status = jnp.where(jnp.isfinite(cost), SolveStatus.RUNNING, SolveStatus.DIVERGED).astype(jnp.int32)
    one, no = jnp.ones((), plan.us.dtype), jnp.asarray(False)
    return _State(plan, cost, back, plan.us, zeros(T, env.ndx, nu), mu, one, no, status, trace, jnp.int32(0))


def _solution(state: _State, regularise: Regularise) -> Solution:
    plan, back = state.trajectory, state.back
    Quu, q, cov, definite = action_values(back, state.nominal, state.B, state.mu, regularise)
    status = jnp.where(state.status == SolveStatus.RUNNING, SolveStatus.MAX_ITERATIONS, state.status)
    return Solution(
        trajectory=plan,
        controller=LinearGaussian(plan.xs[:-1], plan.us, back.K, cov),
        Quu=Quu,
        q=q,
        definite=definite,
        cost=state.cost,
        mu=state.mu,
        iterations=state.iteration,
        status=status.astype(jnp.int32),
    )


def _vector_hessian(dynamics: Callable, n: int) -> Callable[..., Array]:
    """(v, x, u) → Σ_i v_i ∇² dynamics_i over (x, u)."""

    def curvature(v: Array, x: Array, u: Array) -> Array:
        return jax.hessian(lambda z: v @ dynamics(z[:n], z[n:]))(jnp.concatenate([x, u]))

    return curvature


def _unlimited(limits: Limits) -> bool:
    """Whether no control has a limit; a traced limit may be one."""
    if any(isinstance(side, Tracer) for side in limits):
        return False
    return bool(np.all(np.isinf(limits.low)) and np.all(np.isinf(limits.high)))

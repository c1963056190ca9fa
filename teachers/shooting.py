"""Multiple-shooting iLQR: the states of the plan are its own, and gaps between them close as it goes.

Giftthaler et al. 2018 (arXiv:1711.11006); the forward pass is that of feasibility-driven DDP, which leaves
1 − α of every gap (Mastalli et al. 2020, arXiv:1909.04947).
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from gps.expand import Hessian, linearise, quadratise
from gps.linalg import full_precision
from gps.rollout import clip_control, guard_step, open_loop, trajectory_costs
from gps.types import Env, LinearDynamics, LinearGaussian, QuadraticCost, Status, Trajectory
from teachers.line_search import simulate, total
from teachers.lqr import BackwardPass, action_values, backward, blank_pass
from teachers.planner import Planner, Solution, SolveStatus, check_length, check_start, later
from teachers.schedule import SCHEDULE, Schedule, check_schedule, definite_backward, lower_mu, raise_mu

__all__ = ["Nodes", "ShootingTrace", "multiple_shooting"]

GRID = tuple(float(alpha) for alpha in 0.5 ** np.arange(0, 10))
SUFFICIENT = 1e-4
"""Share of the promised decrease of the merit that a step has to bring."""


class Nodes(NamedTuple):
    """A plan whose states need not follow from each other."""

    xs: Float[Array, "T+1 nx"]
    us: Float[Array, "T nu"]
    mu: Float[Array, ""]


class ShootingTrace(NamedTuple):
    """One row per iteration; zero beyond `Solution.iterations`."""

    cost: Float[Array, " iterations"]
    """Of the nodes, after the iteration."""
    gap: Float[Array, " iterations"]
    """Σ of the gaps' absolute values, after the iteration."""
    alpha: Float[Array, " iterations"]
    """Accepted step; 0 where none was."""
    mu: Float[Array, " iterations"]


class _State(NamedTuple):
    xs: Array
    us: Array
    ys: Array
    gaps: Array
    cost: Array
    back: BackwardPass
    B: Array
    nominal: Array
    mu: Array
    growth: Array
    weight: Array  # of the gaps in the merit
    status: Array
    trace: ShootingTrace
    iteration: Array


def multiple_shooting(
    env: Env,
    horizon: int | None = None,
    iterations: int = 100,
    *,
    tolerance: float = 1e-7,
    schedule: Schedule = SCHEDULE,
    grid: Sequence[float] = GRID,
    hessian: Hessian = "auto",
) -> Planner:
    """The planner that may start from states which no controls lead through.

    `begin` takes controls [T, nu], whose rollout are the nodes, a `LinearGaussian`, whose nominal states are
    (the last one twice), or a `Trajectory`. Each iteration expands dynamics and cost at the nodes, solves for
    a step with the gaps in the model, and tries x̂' = f(x̂, û) ⊖ (1 − α) gap, û = clip(u + α k + K (x̂ ⊖ x)),
    so that a full step closes all gaps. Of the α that lower J + w Σ|gap| enough the best is taken, w being
    large enough for the step to go downhill. It stops as `teachers.ilqr` does, and only without gaps; what
    is returned is the rollout of the final controller.

    Args:
        env: the task.
        horizon: control steps, `env.horizon` unless given.
        iterations: at most.
        tolerance: decrease that counts as none, relative to 1 + |cost|, and gap that does, absolute.
        schedule: of μ, as for `teachers.ilqr`.
        grid: step sizes, tried at once.
        hessian: as in `gps.expand.quadratise`.

    Raises:
        ValueError: settings that cannot work.
    """
    T = check_length(env, horizon, iterations)
    if not grid or not all(0 < alpha <= 1 for alpha in grid):
        raise ValueError(f"grid needs step sizes above 0 and at most 1, came {tuple(grid)}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, came {tolerance}")
    if hessian not in get_args(Hessian):
        raise ValueError(f"hessian must be one of {', '.join(get_args(Hessian))}, came {hessian!r}")
    check_schedule(schedule)
    step = guard_step(env.step)

    def gaps_of(xs: Float[Array, "T+1 nx"], us: Float[Array, "T nu"]) -> Float[Array, "T ndx"]:
        def one(x: Array, u: Array, x_next: Array) -> Array:
            landed, status = step(x, u)
            return jnp.where(status == Status.OK, env.minus(landed, x_next), jnp.inf)

        return jax.vmap(one)(xs[:-1], us, xs[1:])

    def cost_of(xs: Array, us: Array, t0: Array) -> tuple[Array, Array]:
        """(cost, sensors) of the nodes."""
        ys = jax.vmap(env.sense)(xs, jnp.concatenate([us, jnp.zeros_like(us[:1])]))
        return jnp.sum(trajectory_costs(env.cost, env.final_cost, xs, us, ys, t0)), ys

    def forward(state: _State, alpha: Array, t0: Array) -> tuple[Array, Array, Array, Array, Array]:
        """(xs, us, ys, cost, sound) after a step of size α."""

        def advance(x: Array, knot: tuple) -> tuple[Array, tuple]:
            x_bar, u_bar, k, K, gap = knot
            u = clip_control(u_bar + alpha * k + K @ env.minus(x, x_bar), env.limits)
            landed, status = step(x, u)
            x_next = env.plus(landed, (alpha - 1) * gap)
            return x_next, (x_next, u, status == Status.OK)

        knots = (state.xs[:-1], state.us, state.back.k, state.back.K, state.gaps)
        _, (xs, us, sound) = jax.lax.scan(advance, state.xs[0], knots)
        xs = jnp.concatenate([state.xs[:1], xs])
        cost, ys = cost_of(xs, us, t0)
        return xs, us, ys, cost, jnp.all(sound) & jnp.isfinite(cost)

    def iterate(state: _State, t0: Array) -> _State:
        dynamics = linearise(env, state.xs, state.us)
        cost = quadratise(env, state.xs, state.us, state.ys, dynamics, hessian=hessian, t0=t0)

        def sweep(mu: Array) -> BackwardPass:
            return backward(dynamics, cost, mu, limits=env.limits, gaps=state.gaps)

        mu, growth, back = definite_backward(sweep, state.mu, state.growth, state.back, schedule)
        state = state._replace(back=back, B=dynamics.B, nominal=state.us, mu=mu, growth=growth)
        slope, bend = _model_change(dynamics, cost, back, state.gaps)
        gap = jnp.sum(jnp.abs(state.gaps))
        # The direction goes downhill for the merit: its slope is slope − weight · gap.
        needed = jnp.where(gap > 0, 2 * (slope + 0.5 * jnp.maximum(bend, 0)) / jnp.where(gap > 0, gap, 1), 0)
        weight = jnp.maximum(state.weight, needed)
        promised = -(slope - weight * gap + 0.5 * jnp.maximum(bend, 0))
        floor = max(tolerance, 8 * float(jnp.finfo(state.us.dtype).eps)) * (1 + jnp.abs(state.cost))
        calm = mu <= 1e3 * schedule[1]
        settled = (promised <= floor) & (gap <= tolerance) & calm
        alphas = jnp.asarray(tuple(grid), state.us.dtype)
        xs, us, ys, costs, sound = jax.vmap(lambda alpha: forward(state, alpha, t0))(alphas)
        left = (1 - alphas) * gap
        drop = state.cost + weight * gap - costs - weight * left
        wanted = -SUFFICIENT * alphas * (slope - weight * gap)
        good = sound & (drop >= wanted) & back.ok & ~settled & (wanted >= 0)
        best = jnp.argmin(jnp.where(good, costs + weight * left, jnp.inf))
        taken = good[best]

        def pick(new: Array, old: Array) -> Array:
            return jnp.where(taken, new[best], old)

        alpha = jnp.where(taken, alphas[best], 0)
        done = taken & (drop[best] <= floor) & (left[best] <= tolerance) & calm
        up, down = raise_mu(mu, growth, schedule), lower_mu(mu, growth, schedule)
        trusted = taken & (alpha >= 0.5)
        mu_next, growth_next = (jnp.where(trusted, a, b) for a, b in zip(down, up, strict=True))
        status = jnp.where(
            ~back.ok,
            SolveStatus.NOT_PD,
            jnp.where(
                settled | done,
                SolveStatus.CONVERGED,
                jnp.where(~taken & (mu >= schedule[2]), SolveStatus.LINE_SEARCH_FAILED, SolveStatus.RUNNING),
            ),
        ).astype(jnp.int32)
        gaps = (1 - alpha) * state.gaps
        new_cost = pick(costs, state.cost)
        row = ShootingTrace(new_cost, (1 - alpha) * gap, alpha, mu)
        trace = jax.tree.map(lambda rows, value: rows.at[state.iteration].set(value), state.trace, row)
        return state._replace(
            xs=pick(xs, state.xs),
            us=pick(us, state.us),
            ys=pick(ys, state.ys),
            gaps=gaps,
            cost=new_cost,
            mu=mu_next,
            growth=growth_next,
            weight=weight,
            status=status,
            trace=trace,
            iteration=state.iteration + 1,
        )

    def begin(x0: Float[Array, " nx"], warm: Trajectory | LinearGaussian | Float[Array, "T nu"]) -> Nodes:
        if isinstance(warm, Trajectory):
            xs, us = warm.xs, warm.us
        elif isinstance(warm, LinearGaussian):
            xs, us = jnp.concatenate([warm.xs, warm.xs[-1:]]), warm.us
        else:
            us = jnp.asarray(warm, x0.dtype)
            xs = None
        check_start(env, x0, us, T)
        if xs is None:
            xs = simulate(env, x0, open_loop(env, x0, us), jnp.int32(0)).xs
        if xs.shape != (T + 1, env.nx):
            raise ValueError(f"nodes must be [T+1, nx] = {(T + 1, env.nx)}, came {xs.shape}")
        return Nodes(xs, us, jnp.asarray(schedule[0], x0.dtype))

    @full_precision
    def from_nodes(x0: Array, guess: Nodes, t0: Array) -> tuple[Solution, Nodes, ShootingTrace]:
        us = jax.vmap(lambda u: clip_control(u, env.limits))(guess.us)
        xs = guess.xs.at[0].set(x0)
        cost, ys = cost_of(xs, us, t0)
        gaps = gaps_of(xs, us)
        fine = jnp.isfinite(cost) & jnp.all(jnp.isfinite(gaps))
        rows = jnp.zeros(iterations, x0.dtype)
        state = _State(
            xs=xs,
            us=us,
            ys=ys,
            gaps=gaps,
            cost=cost,
            back=blank_pass(T, env.ndx, env.nu, x0.dtype),
            B=jnp.zeros((T, env.ndx, env.nu), x0.dtype),
            nominal=us,
            mu=guess.mu,
            growth=jnp.ones((), x0.dtype),
            weight=jnp.zeros((), x0.dtype),
            status=jnp.where(fine, SolveStatus.RUNNING, SolveStatus.DIVERGED).astype(jnp.int32),
            trace=ShootingTrace(rows, rows, rows, rows),
            iteration=jnp.int32(0),
        )

        def going(state: _State) -> Array:
            return (state.status == SolveStatus.RUNNING) & (state.iteration < iterations)

        state = jax.lax.while_loop(going, lambda s: iterate(s, t0), state)
        solution = _solution(env, state, x0, t0)
        return solution, Nodes(state.xs, state.us, state.mu), state.trace

    def improve(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Nodes, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Nodes]:
        return from_nodes(x0, guess, jnp.asarray(t0, jnp.int32))[:2]

    def shift(guess: Nodes) -> Nodes:
        return Nodes(later(guess.xs), later(guess.us), guess.mu)

    def solve(
        x0: Float[Array, " nx"],
        warm: Trajectory | LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
    ) -> tuple[Solution, ShootingTrace]:
        solution, _, trace = from_nodes(x0, begin(x0, warm), jnp.asarray(t0, jnp.int32))
        return solution, trace

    return Planner(T, begin, improve, shift, solve)


# ------------------------------------------------------------------------------------- internals


def _model_change(
    dynamics: LinearDynamics, cost: QuadraticCost, back: BackwardPass, gaps: Float[Array, "T ndx"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(slope, bend): the quadratic model changes by α · slope + ½ α² · bend under a step of size α."""

    def advance(dx: Array, knot: tuple) -> tuple[Array, tuple[Array, Array]]:
        A, B, k, K, gap, q, r, Q, R, M = knot
        du = k + K @ dx
        slope = q @ dx + r @ du
        bend = dx @ Q @ dx + 2 * dx @ M @ du + du @ R @ du
        return A @ dx + B @ du + gap, (slope, bend)

    parts = (cost.q, cost.r, cost.Q, cost.R, cost.M)
    knots = (dynamics.A, dynamics.B, back.k, back.K, gaps, *(part[:-1] for part in parts))
    dx, (slopes, bends) = jax.lax.scan(advance, jnp.zeros_like(gaps[0]), knots)
    return jnp.sum(slopes) + cost.q[-1] @ dx, jnp.sum(bends) + dx @ cost.Q[-1] @ dx


def _solution(env: Env, state: _State, x0: Array, t0: Array) -> Solution:
    back = state.back
    controller = LinearGaussian(state.xs[:-1], state.us, back.K, jnp.zeros_like(back.Quu))
    path = simulate(env, x0, controller, t0)
    Quu, q, cov, definite = action_values(back, state.nominal, state.B, state.mu, "control")
    out_of = jnp.where(state.status == SolveStatus.RUNNING, SolveStatus.MAX_ITERATIONS, state.status)
    out_of = jnp.where(path.status == Status.OK, out_of, SolveStatus.DIVERGED)
    return Solution(
        trajectory=path,
        controller=LinearGaussian(path.xs[:-1], path.us, back.K, cov),
        Quu=Quu,
        q=q,
        definite=definite,
        cost=total(path),
        mu=state.mu,
        iterations=state.iteration,
        status=out_of.astype(jnp.int32),
    )

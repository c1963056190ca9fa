"""Planners that sample: propose controls around a mean plan, roll all of them out, weigh them by their cost.

    mean plan ──▶ samples ──▶ rollouts ──▶ weights ──▶ the samples' weighted mean ──▶ …

Every method is a `Strategy`: how samples are drawn and how they are weighed. The mean plan is always one of
the samples, so that the best of them is never worse than the last plan.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.linalg import full_precision
from gps.rollout import clip_control, guard_step, open_loop
from gps.types import Env, Limits, LinearGaussian, Status, Trajectory
from teachers.line_search import simulate, total
from teachers.noise import Noise
from teachers.planner import Planner, Solution, SolveStatus, check_length, check_start, later

__all__ = [
    "Guess",
    "Objective",
    "Returns",
    "SampleTrace",
    "Samples",
    "Strategy",
    "check_std",
    "sampled",
    "spread_out",
    "unit_of",
]

Returns = Literal["best", "mean"]
Objective = Literal["average", "worst"] | float


class Guess(NamedTuple):
    """What the next plan starts from."""

    us: Float[Array, "T nu"]
    """The mean of what is sampled first."""
    elites: Float[Array, "keep T nu"]
    """The best samples of the last iteration."""


class Samples(NamedTuple):
    """What was tried in one iteration: the mean plan, what is proposed, the elites kept, then fresh ones."""

    us: Float[Array, "S T nu"]
    """Inside the limits."""
    code: PyTree
    """[S, …] what the strategy drew each from; zero for those that it did not draw."""
    costs: Float[Array, " S"]
    """Infinite where the simulation failed or the cost is not a number."""


class Strategy(NamedTuple):
    """What tells one method from another. Its memory lasts for one plan.

    Deviations are in units of `scale`, by default half the controls' range.
    """

    begin: Callable[[jnp.dtype], PyTree]
    """dtype → memory."""
    draw: Callable[[Key[Array, ""], PyTree, int], tuple[Float[Array, "n T nu"], PyTree]]
    """(key, memory, n) → (deviations from the mean plan, what they were drawn from [n, …])."""
    weigh: Callable[[PyTree, Samples], tuple[Float[Array, " S"], PyTree]]
    """(memory, samples) → (weights with the sum 1, memory). Some cost is finite."""
    std: Callable[[PyTree], Float[Array, "T nu"]]
    """memory → standard deviation of what it draws."""


class SampleTrace(NamedTuple):
    """One row per iteration."""

    cost: Float[Array, " iterations"]
    """Of the best sample."""
    mean: Float[Array, " iterations"]
    """Of the mean plan that the iteration began with."""
    lost: Int[Array, " iterations"]
    """Samples whose simulation failed, or whose cost is not a number."""


def sampled(
    env: Env,
    make_strategy: Callable[[int, int], Strategy],
    horizon: int | None,
    iterations: int,
    samples: int,
    *,
    keep: int = 0,
    scale: Float[np.ndarray, " nu"] | None = None,
    returns: Returns = "best",
    worlds: PyTree = None,
    objective: Objective = "average",
) -> Planner:
    """The planner of a strategy.

    Args:
        env: the task. The course of its `proposal`, if it has one, is among the samples of each iteration.
        make_strategy: (T, nu) → strategy.
        horizon: control steps, `env.horizon` unless given.
        iterations: of sampling in each plan.
        samples: rollouts in each iteration.
        keep: how many of the best samples are tried again in the next iteration and, shifted, in the next
            plan.
        scale: the unit of deviations, by default half the range of each control.
        returns: the best sample of all, which the next plan then starts from, or the mean plan (one more
            rollout).
        worlds: contexts [W, …] of the task; every sample is tried in each of them, which are W rollouts, and
            counts for what `objective` makes of their costs. The plan returned is its course in `env` itself,
            one more rollout. Domain randomisation: contexts that choose among models (`envs.mujoco.engine`,
            `variants`).
        objective: the average over the worlds, the worst of them, or a share q: the average over the worst q
            (conditional value at risk).

    Raises:
        ValueError: settings that cannot work, or a control without limits and no `scale`.
    """
    T = check_length(env, horizon, iterations)
    given = 1 + (env.proposal is not None) + keep
    fresh = samples - given
    if keep < 0 or fresh < 1:
        also = "" if env.proposal is None else ", one is the env's proposal"
        raise ValueError(
            f"of {samples} samples one is the mean plan{also} and {keep} are kept: at least one must be new, "
            "raise `samples`"
        )
    if returns not in get_args(Returns):
        raise ValueError(f"returns must be one of {', '.join(get_args(Returns))}, came {returns!r}")
    if worlds is None and objective != "average":
        raise ValueError(f"objective={objective!r} is over worlds: pass worlds=… too")
    risk = None if worlds is None else _risk(worlds, objective)
    unit = unit_of(env, scale)
    strategy = make_strategy(T, env.nu)

    def begin(x0: Float[Array, " nx"], warm: LinearGaussian | Float[Array, "T nu"]) -> Guess:
        us = warm.us if isinstance(warm, LinearGaussian) else jnp.asarray(warm, x0.dtype)
        check_start(env, x0, us, T)
        us = _clip(env, us)
        return Guess(us, jnp.broadcast_to(us[None], (keep, *us.shape)))

    def run(x0: Array, us: Float[Array, "T nu"], t0: Array) -> Trajectory:
        return simulate(env, x0, open_loop(env, x0, us), t0)

    def judge(x0: Array, us: Float[Array, "S T nu"], t0: Array) -> tuple[Trajectory | None, Array]:
        """(courses, costs) of the samples; without courses where there are several worlds."""
        if risk is None:
            paths = jax.vmap(run, (None, 0, None))(x0, us, t0)
            return paths, jax.vmap(total)(paths)

        def in_world(context: PyTree, us: Array) -> Array:
            bound = env.bind(context)
            return total(simulate(bound, x0, open_loop(bound, x0, us), t0))

        costs = jax.vmap(jax.vmap(in_world, (0, None)), (None, 0))(worlds, us)
        return None, jax.vmap(risk)(costs)

    def turn(
        x0: Array, proposed: Float[Array, "n T nu"], t0: Array, carry: tuple[Guess, PyTree], key: Array
    ) -> tuple[tuple[Guess, PyTree], tuple[PyTree, Array, SampleTrace]]:
        guess, memory = carry
        deviations, code = strategy.draw(key, memory, fresh)
        new = _clip(env, guess.us[None] + deviations * unit.astype(x0.dtype)[None, None])
        tried = jnp.concatenate([guess.us[None], proposed, guess.elites, new])
        code = jax.tree.map(
            lambda leaf: jnp.concatenate([jnp.zeros((given, *leaf.shape[1:]), leaf.dtype), leaf]), code
        )
        paths, costs = judge(x0, tried, t0)
        weights, learned = strategy.weigh(memory, Samples(tried, code, costs))
        some = jnp.any(jnp.isfinite(costs))  # else the strategy is not asked
        memory = jax.tree.map(lambda new, old: jnp.where(some, new, old), learned, memory)
        us = jnp.where(some, jnp.tensordot(weights, tried, axes=1), guess.us)
        order = jnp.argsort(costs)
        elites = jnp.where(some, tried[order[:keep]], guess.elites)
        best = jax.tree.map(lambda leaf: leaf[order[0]], tried if paths is None else paths)
        row = SampleTrace(costs[order[0]], costs[0], jnp.sum(~jnp.isfinite(costs)))
        return (Guess(us, elites), memory), (best, costs[order[0]], row)

    @full_precision
    def improve_traced(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess, SampleTrace]:
        t0 = jnp.asarray(t0, jnp.int32)
        start = (guess, strategy.begin(x0.dtype))
        proposed = _proposed(env, x0, t0, T)
        (guess, memory), (paths, costs, trace) = jax.lax.scan(
            lambda carry, key: turn(x0, proposed, t0, carry, key), start, jax.random.split(key, iterations)
        )
        if returns == "mean":
            path = run(x0, guess.us, t0)
            cost = total(path) if risk is None else judge(x0, guess.us[None], t0)[1][0]
        else:
            best = jnp.argmin(costs)
            path, cost = jax.tree.map(lambda leaf: leaf[best], paths), costs[best]
            path = path if isinstance(path, Trajectory) else run(x0, path, t0)
            sound = jnp.isfinite(cost) & (path.status == Status.OK)
            guess = guess._replace(us=jnp.where(sound, path.us, guess.us))
        std = strategy.std(memory) * unit.astype(x0.dtype)[None]
        return _solution(env, path, cost, std, iterations), guess, trace

    def improve(
        key: Key[Array, ""], x0: Float[Array, " nx"], guess: Guess, t0: Int[Array, ""] | int = 0
    ) -> tuple[Solution, Guess]:
        return improve_traced(key, x0, guess, t0)[:2]

    def solve(
        x0: Float[Array, " nx"],
        warm: LinearGaussian | Float[Array, "T nu"],
        t0: Int[Array, ""] | int = 0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Solution, SampleTrace]:
        key = jax.random.key(0) if key is None else key
        solution, _, trace = improve_traced(key, x0, begin(x0, warm), t0)
        return solution, trace

    return Planner(T, begin, improve, _shift, solve)


def spread_out(
    std: Float[np.ndarray, "T nu"],
    noise: Noise,
    weigh: Callable[[PyTree, Samples], tuple[Float[Array, " S"], PyTree]],
) -> Strategy:
    """The strategy whose memory is the standard deviation of noise of this shape, `std` at first."""
    T, nu = std.shape
    basis = noise(T)

    def draw(key: Array, memory: Array, n: int) -> tuple[Array, PyTree]:
        draws = jax.random.normal(key, (n, basis.shape[1], nu), memory.dtype)
        return memory[None] * jnp.einsum("tm,nmu->ntu", jnp.asarray(basis, memory.dtype), draws), ()

    def std_of(memory: Array) -> Array:
        return memory * jnp.asarray(np.linalg.norm(basis, axis=1), memory.dtype)[:, None]

    return Strategy(lambda dtype: jnp.asarray(std, dtype), draw, weigh, std_of)


def check_std(std: float, name: str = "std") -> None:
    """Raise ValueError unless it is a standard deviation."""
    if not 0 < std < math.inf:
        raise ValueError(
            f"{name} must be positive and finite, in half ranges of controls or units of `scale`, came {std}"
        )


# ------------------------------------------------------------------------------------- internals


def _clip(env: Env, us: Float[Array, "... nu"]) -> Float[Array, "... nu"]:
    shape = (1,) * (us.ndim - 1) + (env.nu,)
    return clip_control(us, Limits(*(jnp.reshape(jnp.asarray(side), shape) for side in env.limits)))


def _proposed(env: Env, x0: Float[Array, " nx"], t0: Array, T: int) -> Float[Array, "n T nu"]:
    """The controls of the env's proposal from x0 on, if it has one: n is 0 or 1."""
    if env.proposal is None:
        return jnp.zeros((0, T, env.nu), x0.dtype)
    policy, step = env.proposal, guard_step(env.step)

    def advance(x: Array, t: Array) -> tuple[Array, Array]:
        u = policy(x, t).astype(x0.dtype)
        u = clip_control(jnp.where(jnp.isfinite(u), u, 0), env.limits)
        return step(x, u)[0], u

    return jax.lax.scan(advance, x0, t0 + jnp.arange(T))[1][None]


def unit_of(env: Env, scale: np.ndarray | None) -> Float[Array | np.ndarray, " nu"]:
    """What a deviation of 1 is. Limits that vary with the context, and are traced, are not checked."""
    if scale is not None:
        unit = np.broadcast_to(np.asarray(scale, float), (env.nu,))
        if not np.all((unit > 0) & np.isfinite(unit)):
            raise ValueError(f"scale must be positive and finite for each of {env.nu} controls, came {scale}")
        return unit
    if any(isinstance(side, Tracer) for side in env.limits):
        return jnp.broadcast_to(0.5 * (env.limits.high - env.limits.low), (env.nu,))
    low, high = (np.broadcast_to(np.asarray(side, float), (env.nu,)) for side in env.limits)
    unit = (high - low) / 2
    unknown = np.flatnonzero(~(np.isfinite(unit) & (unit > 0)))
    if unknown.size:
        raise ValueError(
            f"controls {unknown.tolist()} of {env.name} have no limits, or no range between them, from which "
            "sampling would take its unit: pass scale=[…], the size of a deviation of 1 of each, or give the "
            "task limits"
        )
    return unit


def _risk(worlds: PyTree, objective: Objective) -> Callable[[Float[Array, " W"]], Array]:
    """Costs in the worlds → the cost that counts."""
    sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(worlds)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"worlds must be contexts with one leading axis, came leading sizes {sorted(sizes)}")
    if objective == "average":
        return jnp.mean
    if objective == "worst":
        return jnp.max
    if isinstance(objective, str) or not 0 < objective <= 1:
        raise ValueError(
            f"objective must be 'average', 'worst' or a share above 0 and at most 1, came {objective!r}"
        )
    count = math.ceil(round(objective * sizes.pop(), 9))  # .07 · 100 is 7.000000000000001
    return lambda costs: jnp.mean(jax.lax.top_k(costs, count)[0])


def _shift(guess: Guess) -> Guess:
    """One control step later."""
    return Guess(later(guess.us), jax.vmap(later)(guess.elites))


def _solution(
    env: Env, path: Trajectory, cost: Array, std: Float[Array, "T nu"], iterations: int
) -> Solution:
    T, nu = path.us.shape
    cov = jax.vmap(jnp.diag)(std**2)
    Quu = jax.vmap(jnp.diag)(1 / std**2)
    K = jnp.zeros((T, nu, env.ndx), path.us.dtype)
    sound = jnp.isfinite(cost) & (path.status == Status.OK)
    status = jnp.where(sound, SolveStatus.MAX_ITERATIONS, SolveStatus.DIVERGED)
    return Solution(
        trajectory=path,
        controller=LinearGaussian(path.xs[:-1], path.us, K, cov),
        Quu=Quu,
        q=-jnp.einsum("tij,tj->ti", Quu, path.us),
        definite=jnp.ones(T, bool),
        cost=cost,
        mu=jnp.zeros((), path.us.dtype),
        iterations=jnp.int32(iterations),
        status=status.astype(jnp.int32),
    )

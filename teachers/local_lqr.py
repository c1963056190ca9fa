"""The local teacher of guided policy search: KL-constrained LQR on dynamics that are known or fitted.

Levine & Abbeel 2014; Montgomery & Levine 2016, section 3. Fitted dynamics come from the rollouts themselves,
with a mixture over all recent transitions as their prior; known ones are the engine's derivatives.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from gps.expand import linearise, linearise_sensors, quadratise
from gps.gaussian import Gaussian, inverse_spd, symmetrise
from gps.linalg import full_precision
from gps.rollout import saturate
from gps.types import (
    Env,
    KLTerm,
    LinearDynamics,
    LinearGaussian,
    LocalTeacher,
    QuadraticCost,
    Status,
    Trajectory,
)
from teachers.controllers import expected_cost, marginals, recenter
from teachers.hold import hold
from teachers.kl_lqr import KLStatus, kl_lqr
from teachers.memory import Memory, empty_memory, fit_remembered, remember_rollouts

__all__ = ["LocalState", "Model", "local_lqr", "priced"]


class Model(NamedTuple):
    """What the rollouts said, around a nominal trajectory (`cost.x`, `cost.u`)."""

    dynamics: LinearDynamics
    cost: QuadraticCost
    noise: Float[Array, "T ndx ndx"]
    start: Gaussian
    """Of δx at the first step."""


class LocalState(NamedTuple):
    """All that the next iteration needs."""

    controller: LinearGaussian
    x0: Float[Array, " nx"]
    model: Model
    memory: Memory | None
    eta: Float[Array, " T"]
    known: Bool[Array, ""]
    """Whether there is a model yet."""


def local_lqr(
    env: Env,
    dynamics: Literal["fitted", "known"] = "fitted",
    *,
    std: float = 1.0,
    stiffness: float = 0.0,
    damping: float = 0.0,
    clusters: int = 20,
    remember: int = 10,
    strength: float = 1.0,
    ridge: float = 1e-6,
    entropy: float = 0.0,
    reuse: float = 0.0,
) -> LocalTeacher:
    """Made for one condition: `env` bound to its context.

    Args:
        env: the task.
        dynamics: fitted to rollouts, or the engine's derivatives along the controller's own path (one more
            rollout, without noise, each time it learns; those given are not used then).
        std: of the exploration at first, see `teachers.hold`.
        stiffness: of the first controller.
        damping: of the first controller.
        clusters: of the mixture that is the prior of fitted dynamics; 0 for no prior.
        remember: rollouts that the mixture is fitted to, at least as many as come at once.
        strength: how many samples the prior stands for.
        ridge: of the fit: the variance of a position, in its unit squared, that is regarded as noise; of
            velocities and controls 100 times as much. It shrinks the dynamics towards x' = x + dt v, without
            which they explode where a contact leaves too few directions to be seen.
        entropy: what a nat of the controller's entropy is worth at each step, in units of the cost. Without
            it every step narrows the exploration, at last to where nothing can be learnt from it.
        reuse: what a rollout counts for in the fit when the teacher learns again, its square the time after,
            and so on; of those remembered. 0: dynamics are fitted to the last rollouts alone.

    Raises:
        ValueError: settings that cannot work, or more rollouts than `remember`.
    """
    _check(dynamics, clusters, remember, (strength, ridge), (entropy, reuse))
    T, n = env.horizon, env.ndx
    fits = dynamics == "fitted"

    def init(key: Key[Array, ""], x0: Float[Array, " nx"]) -> LocalState:
        controller = hold(env, x0, std, stiffness, damping)
        blank = _blank(env, x0)
        memory = empty_memory(env, remember, clusters, x0.dtype) if fits and (clusters or reuse) else None
        return LocalState(controller, x0, blank, memory, jnp.ones(T, x0.dtype), jnp.asarray(False))

    @full_precision
    def learn(key: Key[Array, ""], state: LocalState, trajectories: Trajectory) -> tuple[LocalState, dict]:
        if not fits:
            return _know(env, state, trajectories)
        sound = trajectories.status == Status.OK
        weight = sound.astype(trajectories.us.dtype)
        away = jax.vmap(jax.vmap(env.minus, (0, None)), (0, None))(trajectories.xs, state.x0)
        rollouts, memory = (away, trajectories.us, weight), state.memory
        if memory is not None:
            memory = remember_rollouts(key, memory, rollouts, reuse)
        fit = fit_remembered(env, memory, rollouts, strength, ridge, reuse > 0)
        xs = jax.vmap(env.plus, (None, 0))(state.x0, fit.xs)
        there = jax.vmap(lambda x: _frame(env, state.x0, x))(xs)
        back = jax.vmap(lambda x, dx: _unframe(env, x, state.x0, dx))(xs, fit.xs)
        local = fit.dynamics._replace(A=back[1:] @ fit.dynamics.A @ there[:-1], B=back[1:] @ fit.dynamics.B)
        noise = _congruent(back[1:], fit.noise)
        C, D = linearise_sensors(env, xs, fit.us)
        local = local._replace(C=C, D=D)
        rest = jnp.concatenate([fit.us, jnp.zeros_like(fit.us[:1])])
        cost = quadratise(env, xs, fit.us, jax.vmap(env.sense)(xs, rest), local)
        cov = fit.start.cov + 1e-6 * jnp.eye(n, dtype=noise.dtype)
        start = Gaussian(fit.start.mean, symmetrise(back[0] @ cov @ back[0].T))
        model = Model(local, cost, noise, start)
        new = state._replace(model=model, memory=memory, known=jnp.asarray(True))
        some = jnp.any(sound)
        kept = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)
        return kept, {"lost": jnp.sum(~sound)}

    def around(policy: LinearGaussian, xs: Float[Array, "T nx"]) -> LinearGaussian:
        return saturate(recenter(policy, xs, env.minus, env.plus), env.limits)

    @full_precision
    def improve(state: LocalState, terms: Sequence[KLTerm]) -> tuple[LocalState, dict]:
        model = state.model
        xs = model.cost.x[:T]
        given, _ = only_bound(terms)
        terms = [term._replace(policy=around(term.policy, xs)) for term in terms]
        cost, prices = model.cost, jnp.full(T, entropy, xs.dtype)
        for term in terms:
            if term.weight is not None:
                cost, prices = priced(cost, term), prices + term.weight
        bounded, bound = only_bound(terms)
        found = kl_lqr(
            model.dynamics,
            cost,
            bounded,
            bound,
            start=model.start,
            noise=model.noise,
            entropy=prices,
            limits=env.limits,
            eta=state.eta,
        )
        solved = (found.status <= KLStatus.BELOW) & state.known
        eta = jnp.where(jnp.isfinite(found.eta) & solved, found.eta, jnp.ones_like(found.eta))
        info = {"kl": found.kl, "eta": found.eta, "solved": solved, "status": found.status}
        controller = jax.tree.map(lambda a, b: jnp.where(state.known, a, b), found.controller, given)
        return state._replace(controller=controller, eta=eta), info

    @full_precision
    def expect(state: LocalState, controller: LinearGaussian) -> Float[Array, ""]:
        model = state.model
        there = around(controller, model.cost.x[:T])
        states = marginals(model.dynamics, there, model.cost.u[:T], model.start, model.noise)
        return jnp.sum(expected_cost(model.cost, states))

    return LocalTeacher(init, lambda state: state.controller, learn, improve, expect)


def only_bound(terms: Sequence[KLTerm]) -> tuple[LinearGaussian, Array]:
    """The policy that a step stays near to, and how near.

    Raises:
        ValueError: not exactly one of the terms has a bound.
    """
    bounds = [(term.policy, term.bound) for term in terms if term.bound is not None]
    if len(bounds) != 1:
        raise ValueError(f"exactly one KL term must have a bound, got {len(bounds)} of {len(terms)}")
    return bounds[0]


def priced(cost: QuadraticCost, term: KLTerm) -> QuadraticCost:
    """`cost` − ν log π(u|x) − uᵀλ, the policy π around the cost's nominal states; the entropy is left out."""
    T = term.policy.us.shape[0]
    weights = jnp.ones(T) if term.weight is None else term.weight

    def one(policy: LinearGaussian, weight: Array, c: QuadraticCost, multiplier: Array) -> QuadraticCost:
        K = policy.K
        k = policy.us - c.u
        P = inverse_spd(policy.cov)
        PK = P @ K
        return c._replace(
            q=c.q + weight * (PK.T @ k),
            r=c.r - weight * (P @ k) - multiplier,
            Q=c.Q + weight * symmetrise(K.T @ PK),
            R=c.R + weight * P,
            M=c.M - weight * PK.T,
        )

    stage, last = (jax.tree.map(lambda leaf, s=s: leaf[s], cost) for s in (slice(T), slice(T, None)))
    multiplier = jnp.zeros_like(term.policy.us) if term.multiplier is None else term.multiplier
    stage = jax.vmap(one)(term.policy, weights, stage, multiplier)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), stage, last)


# ------------------------------------------------------------------------------------- internals


def _know(env: Env, state: LocalState, trajectories: Trajectory) -> tuple[LocalState, dict[str, Any]]:
    """The engine's own derivatives along the controller's path without noise."""
    T, n = env.horizon, env.ndx
    path = env.rollout(state.x0, state.controller, jnp.zeros_like(state.controller.us))
    local = linearise(env, path.xs, path.us)
    cost = quadratise(env, path.xs, path.us, path.ys, local)
    noise = jnp.zeros((T, n, n), path.us.dtype)
    start = Gaussian(jnp.zeros(n, noise.dtype), 1e-6 * jnp.eye(n, dtype=noise.dtype))
    sound = path.status == Status.OK
    new = state._replace(model=Model(local, cost, noise, start), known=jnp.asarray(True))
    lost = jnp.sum(trajectories.status != Status.OK)
    return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, state), {"lost": lost}


def _check(
    dynamics: str, clusters: int, remember: int, fit: tuple[float, float], shares: tuple[float, float]
) -> None:
    """Raise on settings that cannot work."""
    if dynamics not in ("fitted", "known"):
        raise ValueError(f"dynamics must be 'fitted' or 'known', got {dynamics!r}")
    if clusters < 0 or remember < 1:
        raise ValueError(
            f"expected clusters >= 0 (0: no prior) and remember >= 1, got {clusters} and {remember}"
        )
    if not all(0 < value < math.inf for value in fit):
        raise ValueError(f"strength and ridge must be positive and finite, got {fit[0]} and {fit[1]}")
    if not (0 <= shares[0] < math.inf and 0 <= shares[1] <= 1):
        raise ValueError(f"expected entropy >= 0 and reuse in [0, 1], got {shares[0]} and {shares[1]}")


def _frame(env: Env, x_ref: Array, x: Array) -> Array:
    """∂((x ⊕ δ) ⊖ x_ref)/∂δ: from the tangent space at x to that at x_ref."""
    zero = env.minus(x, x)
    return jax.jacfwd(lambda delta: env.minus(env.plus(x, delta), x_ref))(zero)


def _unframe(env: Env, x: Array, x_ref: Array, dx: Array) -> Array:
    """The inverse: ∂((x_ref ⊕ (dx + δ)) ⊖ x)/∂δ with x = x_ref ⊕ dx."""
    return jax.jacfwd(lambda delta: env.minus(env.plus(x_ref, dx + delta), x))(jnp.zeros_like(dx))


def _congruent(turn: Array, cov: Array) -> Array:
    return jax.vmap(symmetrise)(turn @ cov @ jnp.swapaxes(turn, 1, 2))


def _blank(env: Env, x0: Array) -> Model:
    """A model of nothing, of the right shapes."""
    T = env.horizon

    def build() -> Model:
        xs, us = jnp.broadcast_to(x0[None], (T + 1, env.nx)), jnp.zeros((T, env.nu), x0.dtype)
        local = LinearDynamics(
            jnp.zeros((T, env.ndx, env.ndx)),
            jnp.zeros((T, env.ndx, env.nu)),
            jnp.zeros((T + 1, env.ny, env.ndx)),
            jnp.zeros((T + 1, env.ny, env.nu)),
        )
        cost = quadratise(env, xs, us, jnp.zeros((T + 1, env.ny), x0.dtype), local)
        noise = jnp.zeros((T, env.ndx, env.ndx))
        return Model(local, cost, noise, Gaussian(jnp.zeros(env.ndx), jnp.eye(env.ndx)))

    shapes = jax.eval_shape(build)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, x0.dtype), shapes)

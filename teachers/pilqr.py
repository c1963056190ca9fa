"""PILQR as a local teacher: an LQR step on a fitted model, then PI² on what the model leaves unexplained.

Chebotar, Hausman, Zhang, Sukhatme, Schaal & Levine 2017, "Combining model-based and model-free updates for
trajectory-centric reinforcement learning" (arXiv 1703.03078, section 4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.gaussian import Gaussian
from gps.linalg import cholesky, full_precision, lower_inverse
from gps.rollout import saturate
from gps.types import Env, KLTerm, LinearGaussian, LocalTeacher, QuadraticCost, Trajectory
from teachers.controllers import marginals, recenter
from teachers.local_lqr import LocalState, Model, local_lqr
from teachers.pi2 import Rollouts, bound_per_step, check_inertia, cost_to_go, keep, no_rollouts, noise_of
from teachers.reps import boltzmann, largest, reps, reweight, tilted

__all__ = ["PILQRState", "divergence", "local_pilqr", "predicted_costs", "unexplained"]

LEAST = 0.01
"""Share of the bound that the LQR step keeps, however little the model explains."""


class PILQRState(NamedTuple):
    """All that the next iteration needs."""

    lqr: LocalState
    """Its controller is the one to act with."""
    rollouts: Rollouts
    trust: Float[Array, " T"]
    """Share of the bound that the last LQR step had."""


def local_pilqr(
    env: Env,
    *,
    std: float = 1.0,
    stiffness: float = 0.0,
    damping: float = 0.0,
    clusters: int = 20,
    remember: int = 20,
    ridge: float = 1e-6,
    inertia: float = 1.0,
) -> LocalTeacher:
    """Made for one condition: `env` bound to its context.

    With the cost-to-go as S = Ŝ + S̃, what the model has of it and the rest, PI² would make of a policy p̄
    p̄ exp(−Ŝ/η) exp(−S̃/η). The first factor is an LQR step (`teachers.local_lqr`), the second PI² by S̃
    around its result, each rollout's noise being carried over in units of the covariance.

    PI² has what weights by S̃ use of the bound at the temperature where weights by S use all of it
    (`unexplained`). The LQR step has the rest, but at most twice the share that it had before: a model that
    was wrong about the costs is trusted again step by step (the authors halve and double, too). Steps in one
    direction add up to more than their shares: PI²'s is shortened until the divergence from p̄, by the model,
    is within the bound.

    Of what `improve` tells, `eta` and `status` are the LQR step's; `trust` is its share of the bound.

    Args:
        env: the task.
        std: of the exploration at first, see `teachers.hold`.
        stiffness: of the first controller.
        damping: of the first controller.
        clusters: as for `teachers.local_lqr`.
        remember: as for `teachers.local_lqr`; also the most rollouts that PI² can weigh.
        ridge: as for `teachers.local_lqr`.
        inertia: how many rollouts the LQR step's covariance counts for beside the new ones.

    Raises:
        ValueError: settings that cannot work, more rollouts than `remember`, or terms other than one bound.
    """
    check_inertia(inertia)
    lqr = local_lqr(
        env,
        std=std,
        stiffness=stiffness,
        damping=damping,
        clusters=clusters,
        remember=remember,
        ridge=ridge,
    )
    assert lqr.expected_cost is not None
    expect = lqr.expected_cost

    def init(key: Key[Array, ""], x0: Float[Array, " nx"]) -> PILQRState:
        return PILQRState(lqr.init(key, x0), no_rollouts(env, x0, remember), jnp.ones(env.horizon, x0.dtype))

    @full_precision
    def learn(key: Key[Array, ""], state: PILQRState, trajectories: Trajectory) -> tuple[PILQRState, dict]:
        learned, _ = lqr.learn(key, state.lqr, trajectories)
        rollouts, lost = keep(state.rollouts, trajectories)
        return state._replace(lqr=learned, rollouts=rollouts), {"lost": lost}

    @full_precision
    def improve(state: PILQRState, terms: Sequence[KLTerm]) -> tuple[PILQRState, dict]:
        (given, bound), past, model = bound_per_step(terms), state.rollouts, state.lqr.model
        policy = saturate(recenter(given, model.cost.x[: env.horizon], env.minus, env.plus), env.limits)
        z, _ = noise_of(env, policy, past)
        whole = cost_to_go(past.costs)
        rest = whole - cost_to_go(predicted_costs(env, model, policy, past, z))
        second = jax.vmap(unexplained, (1, 1, None, 0))(whole, rest, past.share, bound)
        trust = jnp.clip(jnp.minimum(2 * state.trust, 1 - second), LEAST, 1)
        each = any(jnp.ndim(term.bound) > 0 for term in terms if term.bound is not None)
        left = trust * bound
        solved, info = lqr.improve(state.lqr, (KLTerm(given, left if each else jnp.sum(left)),))
        first = solved.controller
        tilt = jax.vmap(reweight, (1, 1, None, 0, None))(z, rest, past.share, second * bound, inertia)
        new, _ = tilted(first, tilt, first.us, second * bound, env.limits)
        new, kl = shortened(model, first, new, policy, bound if each else jnp.sum(bound))
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in (*new, kl)]))
        good = sound & info["solved"]
        controller = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, first)
        info |= {"kl": jnp.where(good, kl, info["kl"]), "trust": jnp.mean(trust)}
        return state._replace(lqr=solved._replace(controller=controller), trust=trust), info

    return LocalTeacher(
        init,
        lambda state: state.lqr.controller,
        learn,
        improve,
        lambda state, controller: expect(state.lqr, controller),
    )


# ------------------------------------------------------------------------------------------ its parts


def predicted_costs(
    env: Env, model: Model, policy: LinearGaussian, past: Rollouts, z: Float[Array, "S T nu"]
) -> Float[Array, "S T+1"]:
    """What the model says that each rollout's own noise costs: quadratic costs along its linear dynamics.

    The states are the model's, not those that were seen, so that what is left of the costs has the errors of
    the dynamics as well as those of the expansion. `policy` is around the nominal states.
    """
    cost, T = model.cost, env.horizon
    noise = jnp.einsum("tij,ntj->nti", jax.vmap(cholesky)(policy.cov), z)

    def one(x0: Array, noise: Array) -> Array:
        def step(dx: Array, knot: tuple) -> tuple[Array, tuple[Array, Array]]:
            A, B, K, k, e = knot
            du = k + K @ dx + e
            return A @ dx + B @ du, (dx, du)

        knots = (model.dynamics.A, model.dynamics.B, policy.K, policy.us - cost.u[:T], noise)
        end, (dxs, dus) = jax.lax.scan(step, env.minus(x0, cost.x[0]), knots)
        dxs, dus = jnp.concatenate([dxs, end[None]]), jnp.concatenate([dus, jnp.zeros_like(dus[:1])])
        return jax.vmap(_value)(cost, dxs, dus)

    return jax.vmap(one)(past.xs[:, 0], noise)


def _value(cost: QuadraticCost, dx: Array, du: Array) -> Float[Array, ""]:
    quadratic = dx @ cost.Q @ dx + du @ cost.R @ du
    return cost.c + cost.q @ dx + cost.r @ du + 0.5 * quadratic + dx @ cost.M @ du


def unexplained(
    whole: Float[Array, " S"], rest: Float[Array, " S"], share: Float[Array, " S"], bound: Float[Array, ""]
) -> Float[Array, ""]:
    """Divergence of weights by `rest` where those by `whole` use all of `bound`; a share of it, at most 1."""
    _, eta = reps(whole, share, bound)
    least = jnp.min(jnp.where(share > 0, rest, jnp.inf))
    _, kl = boltzmann(jnp.where(share > 0, rest - least, 0), share, eta)
    return jnp.minimum(kl / bound, 1)


def shortened(
    model: Model,
    first: LinearGaussian,
    new: LinearGaussian,
    policy: LinearGaussian,
    bound: Float[Array, ""] | Float[Array, " T"],
) -> tuple[LinearGaussian, Float[Array, " T"]]:
    """As far from `first` towards `new` as the divergence from `policy` is within `bound`; and that, [T]."""

    def between(s: Array) -> LinearGaussian:
        return first._replace(
            us=first.us + s * (new.us - first.us), cov=first.cov + s * (new.cov - first.cov)
        )

    def fits(s: Array) -> Array:
        kl = divergence(model, between(s), policy)
        return jnp.all((kl if bound.ndim else jnp.sum(kl)) <= bound)

    found = between(largest(fits, bound.dtype))
    return found, divergence(model, found, policy)


def divergence(model: Model, new: LinearGaussian, policy: LinearGaussian) -> Float[Array, " T"]:
    """E[KL(new ‖ policy)] at each step, over the model's states under `new`; both around its nominal ones."""
    T, _, n = new.K.shape
    states = marginals(model.dynamics, new, model.cost.u[:T], model.start, model.noise)

    def one(p: LinearGaussian, q: LinearGaussian, joint: Gaussian) -> Array:
        turn = p.K - q.K
        middle = Gaussian(p.us + turn @ joint.mean[:n], p.cov).kl(Gaussian(q.us, q.cov))
        white = lower_inverse(cholesky(q.cov)) @ turn
        return middle + 0.5 * jnp.sum((white @ joint.cov[:n, :n]) * white)

    return jax.vmap(one)(new, policy, jax.tree.map(lambda leaf: leaf[:T], states))

"""PILQR as a local teacher: an LQR step on a fitted model, then PI² on what the model does not explain.

Chebotar, Hausman, Zhang, Sukhatme, Schaal & Levine 2017, "Combining model-based and model-free updates for
trajectory-centric reinforcement learning" (arXiv 1703.03078, section 4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.gaussian import Gaussian
from gps.linalg import cholesky, lower_inverse
from gps.types import Env, KLTerm, LinearGaussian, LocalTeacher, QuadraticCost, Trajectory
from teachers.controllers import marginals, recenter
from teachers.kl_lqr import KLStatus
from teachers.local_lqr import LocalState, Model, local_lqr
from teachers.pi2 import (
    Rollouts,
    blank,
    check_inertia,
    cost_to_go,
    noise_of,
    one_bound,
    per_step,
    share_of,
    store,
    tilt_noise,
    tilted,
)

__all__ = ["PILQRState", "local_pilqr", "predicted_costs"]


class PILQRState(NamedTuple):
    """All that the next iteration needs."""

    lqr: LocalState
    """Its controller is the one to act with."""
    rollouts: Rollouts


def local_pilqr(
    env: Env,
    *,
    std: float = 1.0,
    stiffness: float = 0.0,
    damping: float = 0.0,
    clusters: int = 20,
    remember: int = 20,
    strength: float = 1.0,
    inertia: float = 1.0,
    model_share: float = 0.01,
) -> LocalTeacher:
    """Made for one condition: `env` bound to its context.

    With the cost-to-go as S = Ŝ + S̃, what the model has of it and the rest, PI² is p̄ exp(−Ŝ/η) exp(−S̃/η):
    the first factor is an LQR step (`teachers.local_lqr`), the second PI² by S̃ around its result
    (`teachers.pi2`), where each rollout's noise is carried over in units of the covariance. Ŝ is the
    quadratic cost along the linear dynamics, under the rollout's own noise (`predicted_costs`).

    Both share one bound at each step. Of it the LQR step has what the model explains of the variance of S
    over the rollouts, 1 − Var S̃ / Var S, but at least `model_share`; PI² has the rest. To second order that
    is what S̃ takes at one temperature for both, as in the paper: weights by S diverge by Var S / 2η². (The
    authors' code has a constant bound for PI², and halves or doubles that of the LQR step where
    mean |S̃| / mean |S| is above .2 or below .05.)

    Of what `improve` tells, `kl` is of the result, along the states of the model: near the sum of both steps'
    bounds. `eta` and `status` are the LQR step's, without which there is no second one; `residual_share` is
    what PI² had of the bound, the mean over the steps.

    Args:
        env: the task.
        std: of the exploration at first, see `teachers.hold`.
        stiffness: of the first controller.
        damping: of the first controller.
        clusters: of the mixture that is the prior of the fitted dynamics; 0 for no prior.
        remember: rollouts that the mixture is fitted to, and the most that it can learn from at once.
        strength: how many samples that prior stands for.
        inertia: how many rollouts the covariance of the LQR step stands for beside the new ones, above 0.
        model_share: the least share of the bound that the LQR step keeps, in (0, 1].

    Raises:
        ValueError: settings that cannot work, more rollouts than `remember`, or KL terms other than one with
            a positive bound and no price.
    """
    check_inertia(inertia)
    if not 0 < model_share <= 1:
        raise ValueError(f"model_share must be in (0, 1], came {model_share}: the LQR step needs some bound")
    lqr = local_lqr(
        env,
        std=std,
        stiffness=stiffness,
        damping=damping,
        clusters=clusters,
        remember=remember,
        strength=strength,
    )

    def init(key: Key[Array, ""], x0: Float[Array, " nx"]) -> PILQRState:
        return PILQRState(lqr.init(key, x0), blank(env, x0, remember))

    def learn(key: Key[Array, ""], state: PILQRState, trajectories: Trajectory) -> tuple[PILQRState, dict]:
        rollouts, lost = store(state.rollouts, trajectories, state.lqr.x0)
        model, info = lqr.learn(key, state.lqr, trajectories)
        return PILQRState(model, rollouts), info | {"lost": lost}

    def improve(state: PILQRState, terms: Sequence[KLTerm]) -> tuple[PILQRState, dict]:
        given, total = one_bound(terms)
        bound = per_step(total, env.horizon)
        model, past = state.lqr.model, state.rollouts
        policy = recenter(given, model.cost.x[: env.horizon], env.minus, env.plus)
        z = noise_of(env, policy, past).z
        whole = cost_to_go(past.costs)
        rest = whole - cost_to_go(predicted_costs(env, model, policy, past, z))
        share = share_of(past)
        first = jnp.maximum(_explained(whole, rest, share), model_share) * bound
        second = bound - first
        solved, info = lqr.improve(state.lqr, (KLTerm(policy, first if total.ndim else jnp.sum(first)),))
        tilt = tilt_noise(z, rest, share, second, inertia)
        new = tilted(solved.controller, tilt, jnp.zeros_like(policy.us), second, env.limits)
        kl = _divergence(model, new, policy)
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in (*new, kl)]))
        good = sound & (info["status"] <= KLStatus.INACTIVE)
        controller = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, solved.controller)
        info |= {"kl": jnp.where(good, kl, info["kl"]), "residual_share": jnp.mean(second / bound)}
        return state._replace(lqr=solved._replace(controller=controller)), info

    def expect(state: PILQRState, controller: LinearGaussian) -> Float[Array, ""]:
        assert lqr.expected_cost is not None
        return lqr.expected_cost(state.lqr, controller)

    return LocalTeacher(init, lambda state: state.lqr.controller, learn, improve, expect)


def predicted_costs(
    env: Env, model: Model, policy: LinearGaussian, past: Rollouts, z: Float[Array, "S T nu"]
) -> Float[Array, "S T+1"]:
    """What the model says that each rollout's own noise costs: quadratic costs along its linear dynamics.

    The states are the model's, not those that were seen, so that the difference from the costs that came has
    the errors of the dynamics as well as those of the expansion. `policy` is around the nominal states.
    """
    cost, T = model.cost, env.horizon
    L = jax.vmap(cholesky)(policy.cov)
    last = jnp.zeros_like(policy.us[:1])

    def one(x0: Array, z: Array) -> Array:
        def step(dx: Array, knot: tuple) -> tuple[Array, tuple[Array, Array]]:
            A, B, p, u, noise = knot
            du = p.us - u + p.K @ dx + noise
            return A @ dx + B @ du, (dx, du)

        noise = jnp.einsum("tij,tj->ti", L, z)
        knots = (model.dynamics.A, model.dynamics.B, policy, cost.u[:T], noise)
        end, (dxs, dus) = jax.lax.scan(step, env.minus(x0, cost.x[0]), knots)
        dxs, dus = jnp.concatenate([dxs, end[None]]), jnp.concatenate([dus, last])
        return jax.vmap(_value)(cost, dxs, dus)

    return jax.vmap(one)(past.xs[:, 0], z)


# ------------------------------------------------------------------------------------- internals


def _value(cost: QuadraticCost, dx: Array, du: Array) -> Float[Array, ""]:
    quadratic = dx @ cost.Q @ dx + du @ cost.R @ du
    return cost.c + cost.q @ dx + cost.r @ du + 0.5 * quadratic + dx @ cost.M @ du


def _explained(whole: Array, rest: Array, share: Array) -> Float[Array, " T"]:
    """Of the variance over the rollouts at each step, at most 1; all of it where nothing varies."""

    def var(costs: Array) -> Array:
        return share @ (costs - (share @ costs)[None]) ** 2

    some = var(whole) > 0
    return jnp.where(some, 1 - var(rest) / jnp.where(some, var(whole), 1), 1.0)


def _divergence(model: Model, new: LinearGaussian, policy: LinearGaussian) -> Float[Array, " T"]:
    """E[KL(new ‖ policy)] at each step, over the model's states under `new`; both around its nominal ones."""
    T, _, n = new.K.shape
    states = marginals(model.dynamics, new, model.cost.u[:T], model.start, model.noise)

    def one(p: LinearGaussian, q: LinearGaussian, joint: Gaussian) -> Array:
        turn = p.K - q.K
        middle = Gaussian(p.us + turn @ joint.mean[:n], p.cov).kl(Gaussian(q.us, q.cov))
        white = lower_inverse(cholesky(q.cov)) @ turn
        return middle + 0.5 * jnp.sum((white @ joint.cov[:n, :n]) * white)

    return jax.vmap(one)(new, policy, jax.tree.map(lambda leaf: leaf[:T], states))

"""PI² as a local teacher: rollouts weighted by their cost-to-go, with no model of anything.

Theodorou, Buchli & Schaal 2010, per time step and without a parametrisation, in the form of Chebotar et al.
2017 ("Path integral guided policy search", arXiv 1610.00529; "Combining model-based and model-free updates",
arXiv 1703.03078). The temperature comes from the dual of REPS (Peters, Mülling & Altün 2010).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from gps.gaussian import Gaussian, symmetrise
from gps.linalg import cholesky, eigh, lower_inverse
from gps.types import Env, KLTerm, Limits, LinearGaussian, LocalTeacher, Status, Trajectory
from teachers.hold import hold
from teachers.kl_lqr import KLStatus
from teachers.local_lqr import only_bound

__all__ = [
    "Noise",
    "PI2State",
    "Rollouts",
    "Tilt",
    "blank",
    "boltzmann",
    "check_inertia",
    "cost_to_go",
    "local_pi2",
    "noise_of",
    "one_bound",
    "per_step",
    "share_of",
    "store",
    "temperature",
    "tilt_noise",
    "tilted",
]


class Rollouts(NamedTuple):
    """The last rollouts, in S slots; those that do not count have weight 0 and harmless entries."""

    xs: Float[Array, "S T nx"]
    us: Float[Array, "S T nu"]
    costs: Float[Array, "S T+1"]
    weight: Float[Array, " S"]


class PI2State(NamedTuple):
    """All that the next iteration needs."""

    controller: LinearGaussian
    x0: Float[Array, " nx"]
    rollouts: Rollouts


class Noise(NamedTuple):
    """What rollouts did beyond a controller's mean: u = ū + K (x ⊖ x̄) + L z, with L Lᵀ its covariance."""

    z: Float[Array, "S T nu"]
    feedback: Float[Array, "S T nu"]
    """K (x ⊖ x̄)."""


class Tilt(NamedTuple):
    """The noise z, N(0, I) under the policy, reweighted: N(shift, cov), one row per step."""

    shift: Float[Array, "T nu"]
    cov: Float[Array, "T nu nu"]
    eta: Float[Array, " T"]


def local_pi2(
    env: Env,
    *,
    std: float = 1.0,
    stiffness: float = 0.0,
    damping: float = 0.0,
    inertia: float = 1.0,
    remember: int = 20,
) -> LocalTeacher:
    """Made for one condition: `env` bound to its context. Rollouts are all that it needs of `env`.

    The gains stay those of the policy in the KL term, the feedforward and the covariance are new (see
    `tilt_noise`). A bound for the whole trajectory is shared equally by its steps.

    Args:
        env: the task.
        std: of the exploration at first, see `teachers.hold`.
        stiffness: of the first controller.
        damping: of the first controller.
        inertia: how many rollouts the policy's covariance stands for beside the new ones; more than 0, which
            keeps the covariance positive definite however few rollouts there are.
        remember: the most rollouts that it can learn from at once.

    Raises:
        ValueError: settings that cannot work, more rollouts than `remember`, or KL terms other than one with
            a positive bound and no price.
    """
    check_inertia(inertia)

    def init(key: Key[Array, ""], x0: Float[Array, " nx"]) -> PI2State:
        return PI2State(hold(env, x0, std, stiffness, damping), x0, blank(env, x0, remember))

    def learn(key: Key[Array, ""], state: PI2State, trajectories: Trajectory) -> tuple[PI2State, dict]:
        rollouts, lost = store(state.rollouts, trajectories, state.x0)
        return state._replace(rollouts=rollouts), {"lost": lost}

    def improve(state: PI2State, terms: Sequence[KLTerm]) -> tuple[PI2State, dict]:
        policy, total = one_bound(terms)
        bound = per_step(total, env.horizon)
        past = state.rollouts
        # about the policy's own nominal states: that is where its law is exact, on any manifold
        noise = noise_of(env, policy, past)
        share = share_of(past)
        tilt = tilt_noise(noise.z, cost_to_go(past.costs), share, bound, inertia)
        new = tilted(policy, tilt, jnp.einsum("s,stu->tu", share, noise.feedback), bound, env.limits)
        kl = jax.vmap(lambda p, q: Gaussian(p.us, p.cov).kl(Gaussian(q.us, q.cov)))(new, policy)
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in (*new, kl)]))
        controller = jax.tree.map(lambda a, b: jnp.where(sound, a, jnp.nan_to_num(b)), new, policy)
        status = jnp.where(sound, KLStatus.ACTIVE, KLStatus.NOT_FINITE).astype(jnp.int32)
        info = {"kl": jnp.where(sound, kl, 0), "eta": tilt.eta, "status": status}
        return state._replace(controller=controller), info

    return LocalTeacher(init, lambda state: state.controller, learn, improve)


# ------------------------------------------------------------------------------------------ weights


def boltzmann(
    costs: Float[Array, " N"], share: Float[Array, " N"], eta: Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """Weights ∝ share · exp(−costs/η), and their KL divergence from `share`, nats.

    `share` sums to one. The divergence is a sum of terms that are not negative: it keeps its digits near 0.
    """
    least = jnp.min(jnp.where(share > 0, costs, jnp.inf))
    logits = -jnp.where(share > 0, costs - least, 0) / eta
    ratio = logits - jnp.log1p(share @ jnp.expm1(logits))
    weights = share * jnp.exp(ratio)
    return weights, weights @ ratio - share @ jnp.expm1(ratio)


def temperature(
    costs: Float[Array, " N"], share: Float[Array, " N"], bound: Float[Array, ""]
) -> Float[Array, ""]:
    """argmin_η  η ε + η log Σ share · exp(−costs/η), ε = `bound`: the dual of REPS, in units of the costs.

    It is convex, and stationary where the divergence of the weights is ε; that falls as η grows and is at
    most (range of the costs / η)² / 8, hence the bracket for a bisection on log η. From ε = log N on the best
    of N rollouts may be taken alone: η is the lower end of the bracket, a rounding error of the costs' range.
    """
    spread = jnp.max(jnp.where(share > 0, costs, -jnp.inf)) - jnp.min(jnp.where(share > 0, costs, jnp.inf))
    scale = jnp.where(spread > 0, spread, jnp.ones_like(spread))
    limits = jnp.finfo(scale.dtype)
    low = jnp.log(jnp.asarray(limits.eps, scale.dtype))
    high = jnp.maximum(-0.5 * jnp.log(8 * jnp.maximum(bound, limits.tiny)), low)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        over = boltzmann(costs / scale, share, jnp.exp(middle))[1] > bound
        return jnp.where(over, middle, ends[0]), jnp.where(over, ends[1], middle)

    return scale * jnp.exp(jax.lax.fori_loop(0, 60, halve, (low, high))[1])


def tilt_noise(
    z: Float[Array, "S T nu"],
    costs: Float[Array, "S T"],
    share: Float[Array, " S"],
    bound: Float[Array, " T"],
    inertia: float,
) -> Tilt:
    """PI² in units of the noise: the policy is N(0, I) at every step.

    With weights w from `costs` (to go) at the temperature of REPS, and ω = `share`:

        shift = Σ (w − ω) z,        cov = (n Σ w (z − z̄)(z − z̄)ᵀ + n₀ I) / (n − 1 + n₀)

    The rollouts' own mean, zero but for chance, is taken off the weighted one: weights that say nothing move
    nothing. In the covariance z̄ = Σ w z, n = 1 / Σ w² is how many rollouts the weights leave, and the policy
    stands for n₀ = `inertia` more, which keeps it positive definite; weights that know nothing of z leave the
    covariance as it is on average, whatever their number.
    """

    def one(z: Array, costs: Array, bound: Array) -> Tilt:
        eta = temperature(costs, share, bound)
        w, _ = boltzmann(costs, share, eta)
        effective = 1 / jnp.where(jnp.any(share > 0), w @ w, 1)
        away = z - (w @ z)[None]
        scatter = effective * (away * w[:, None]).T @ away
        eye = jnp.eye(z.shape[1], dtype=z.dtype)
        cov = symmetrise(scatter + inertia * eye) / (effective - 1 + inertia)
        return Tilt((w - share) @ z, cov, eta)

    return jax.vmap(one, in_axes=(1, 1, 0))(z, costs, bound)


def _within(shift: Array, cov: Array, bound: Array) -> tuple[Array, Array]:
    """(shift, cov) drawn back to KL(N(shift, cov) ‖ N(0, I)) ≤ bound, the covariance first."""
    mean = jnp.minimum(0.5 * (shift @ shift), bound)
    shift = shift * jnp.sqrt(mean / jnp.maximum(0.5 * (shift @ shift), jnp.finfo(shift.dtype).tiny))
    grown = eigh(cov)[0] - 1

    def excess(s: Array) -> Array:
        return 0.5 * jnp.sum(s * grown - jnp.log1p(s * grown)) - (bound - mean)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        over = excess(middle) > 0
        return jnp.where(over, ends[0], middle), jnp.where(over, middle, ends[1])

    one = jnp.ones_like(bound)
    found, _ = jax.lax.fori_loop(0, 40, halve, (0 * one, one))
    s = jnp.where(excess(one) > 0, found, one)
    eye = jnp.eye(shift.shape[0], dtype=shift.dtype)
    return shift, eye + s * (cov - eye)


# ------------------------------------------------------------------------ rollouts and controllers


def blank(env: Env, x0: Float[Array, " nx"], slots: int) -> Rollouts:
    """No rollouts yet."""
    T, dtype = env.horizon, x0.dtype
    xs = jnp.broadcast_to(x0, (slots, T, env.nx))
    us, costs = jnp.zeros((slots, T, env.nu), dtype), jnp.zeros((slots, T + 1), dtype)
    return Rollouts(xs, us, costs, jnp.zeros(slots, dtype))


def store(
    old: Rollouts, trajectories: Trajectory, x0: Float[Array, " nx"]
) -> tuple[Rollouts, Int[Array, ""]]:
    """The rollouts [N] in place of the old ones, and how many of them are lost.

    Lost are those that diverged and those whose cost is not finite; where all are, the old ones stay.

    Raises:
        ValueError: there are more rollouts than slots.
    """
    slots, N = old.weight.shape[0], trajectories.us.shape[0]
    if slots < N:
        raise ValueError(
            f"came {N} rollouts and there is room for {slots}: make the teacher with remember={N}"
        )
    sound = (trajectories.status == Status.OK) & jnp.all(jnp.isfinite(trajectories.costs), axis=1)

    def keep(rows: Array, harmless: Array | float) -> Array:
        return jnp.where(sound.reshape(N, *[1] * (rows.ndim - 1)), rows, harmless)

    came = Rollouts(
        keep(trajectories.xs[:, :-1], x0[None, None]),
        keep(trajectories.us, 0.0),
        keep(trajectories.costs, 0.0),
        sound.astype(old.weight.dtype),
    )
    new = jax.tree.map(lambda slot, row: slot.at[:N].set(row), old._replace(weight=0 * old.weight), came)
    some = jnp.any(sound)
    return jax.tree.map(lambda a, b: jnp.where(some, a, b), new, old), jnp.sum(~sound)


def share_of(past: Rollouts) -> Float[Array, " S"]:
    """Equal shares for the rollouts that count, in all one; none where there are none."""
    return past.weight / jnp.maximum(jnp.sum(past.weight), 1)


def cost_to_go(costs: Float[Array, "S T+1"]) -> Float[Array, "S T"]:
    """Of each control: the costs from its step on, the final one included."""
    return jnp.cumsum(costs[:, ::-1], axis=1)[:, :0:-1]


def noise_of(env: Env, policy: LinearGaussian, past: Rollouts) -> Noise:
    """What the rollouts did beyond the policy's mean, in units of the policy's own noise."""
    inverse = jax.vmap(lower_inverse)(jax.vmap(cholesky)(policy.cov))

    def one(knot: LinearGaussian, inverse: Array, x: Array, u: Array) -> Noise:
        feedback = knot.K @ env.minus(x, knot.xs)
        return Noise(inverse @ (u - feedback - knot.us), feedback)

    along = jax.vmap(one)
    return jax.vmap(along, (None, None, 0, 0))(policy, inverse, past.xs, past.us)


def tilted(
    policy: LinearGaussian,
    tilt: Tilt,
    feedback: Float[Array, "T nu"],
    bound: Float[Array, " T"],
    limits: Limits,
) -> LinearGaussian:
    """The policy with its noise as `tilt` has it, about the same states and with the same gains.

    Where the feedback is `feedback`, the rollouts' mean say, its mean control does not leave the limits, nor
    go further out where it is outside already.

    The bound on the weights need not hold for the Gaussian made from them: the rollouts may be few, or those
    of another controller. Where it does not, the result is drawn back towards the policy, mean and covariance
    by the same share, until its divergence is the bound.
    """

    def one(p: LinearGaussian, tilt: Tilt, feedback: Array, bound: Array) -> LinearGaussian:
        L = cholesky(p.cov)
        before = p.us + feedback
        low, high = (jnp.asarray(side, before.dtype) for side in limits)
        after = jnp.clip(before + L @ tilt.shift, jnp.minimum(low, before), jnp.maximum(high, before))
        shift = lower_inverse(L) @ (after - before)
        shift, cov = _within(shift, tilt.cov, bound)
        return p._replace(us=p.us + L @ shift, cov=symmetrise(L @ cov @ L.T))

    return jax.vmap(one)(policy, tilt, feedback, bound)


# ----------------------------------------------------------------------------------------- checks


def check_inertia(inertia: float) -> None:
    """Raise ValueError unless it is positive."""
    if not inertia > 0:
        raise ValueError(f"inertia must be positive, came {inertia}: few rollouts alone give no covariance")


def one_bound(
    terms: Sequence[KLTerm],
) -> tuple[LinearGaussian, Float[Array, ""] | Float[Array, " T"]]:
    """The policy of the only KL term, and its bound as it was given.

    Raises:
        ValueError: no bound or several, one that is not positive as far as that can be seen while tracing,
            one of another shape, or a price.
    """
    policy, bound = only_bound(terms)
    if any(term.weight is not None or term.multiplier is not None for term in terms):
        raise ValueError("a KL term has a price: PI² takes a bound only, drop weight and multiplier")
    T, shape = policy.us.shape[0], jnp.shape(bound)
    if shape not in ((), (T,)):
        raise ValueError(f"the bound must be a number or have shape [{T}], came {list(shape)}")
    if not isinstance(bound, Tracer) and not np.all(np.asarray(bound) > 0):
        raise ValueError(
            f"the KL bound must be positive, came {bound}: it is the length of the step, in nats"
        )
    return policy, jnp.asarray(bound, policy.us.dtype)


def per_step(bound: Float[Array, ""] | Float[Array, " T"], T: int) -> Float[Array, " T"]:
    """A bound for the whole trajectory is shared equally by its T steps."""
    return bound if bound.ndim else jnp.broadcast_to(bound / T, (T,))

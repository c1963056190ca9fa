"""PI² as a local teacher: rollouts weighted by their cost-to-go, with no model of anything.

Chebotar, Kalakrishnan, Yahya, Li, Schaal & Levine 2017, "Path integral guided policy search" (arXiv
1610.00529), after Theodorou, Buchli & Schaal 2010. The weights are made in `teachers.reps`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from gps.linalg import cholesky, full_precision, lower_inverse
from gps.types import Env, KLTerm, LinearGaussian, LocalTeacher, Status, Trajectory
from teachers.hold import hold
from teachers.local_lqr import only_bound
from teachers.reps import reweight, tilted

__all__ = [
    "PI2State",
    "Rollouts",
    "bound_per_step",
    "check_inertia",
    "cost_to_go",
    "keep",
    "local_pi2",
    "no_rollouts",
    "noise_of",
]


class Rollouts(NamedTuple):
    """The last rollouts, in S slots."""

    xs: Float[Array, "S T nx"]
    us: Float[Array, "S T nu"]
    costs: Float[Array, "S T+1"]
    share: Float[Array, " S"]
    """Of each in a mean over them: 0 for a slot that is empty or whose rollout was lost."""


class PI2State(NamedTuple):
    """All that the next iteration needs."""

    controller: LinearGaussian
    rollouts: Rollouts


def local_pi2(
    env: Env,
    *,
    std: float = 1.0,
    stiffness: float = 0.0,
    damping: float = 0.0,
    inertia: float = 20.0,
    slots: int = 20,
) -> LocalTeacher:
    """Made for one condition: `env` bound to its context, of which it needs rollouts only.

    The gains stay those of the policy in the KL term; feedforward and covariance are new, see `reweight`. A
    bound for the whole trajectory is shared equally by its steps.

    Args:
        env: the task.
        std: of the exploration at first, see `teachers.hold`.
        stiffness: of the first controller.
        damping: of the first controller.
        inertia: how many rollouts the policy's covariance counts for beside the new ones. With few the noise
            shrinks, and learning ends, before the task is solved.
        slots: the most rollouts that it can learn from at once.

    Raises:
        ValueError: settings that cannot work, more rollouts than `slots`, or other KL terms than one bound.
    """
    check_inertia(inertia)

    def init(key: Key[Array, ""], x0: Float[Array, " nx"]) -> PI2State:
        return PI2State(hold(env, x0, std, stiffness, damping), no_rollouts(env, x0, slots))

    @full_precision
    def learn(key: Key[Array, ""], state: PI2State, trajectories: Trajectory) -> tuple[PI2State, dict]:
        rollouts, lost = keep(state.rollouts, trajectories)
        return state._replace(rollouts=rollouts), {"lost": lost}

    @full_precision
    def improve(state: PI2State, terms: Sequence[KLTerm]) -> tuple[PI2State, dict]:
        (policy, bound), past = bound_per_step(terms), state.rollouts
        z, there = noise_of(env, policy, past)
        tilt = jax.vmap(reweight, (1, 1, None, 0, None))(
            z, cost_to_go(past.costs), past.share, bound, inertia
        )
        new, kl = tilted(policy, tilt, there, bound, env.limits)
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in (*new, kl)]))
        controller = jax.tree.map(lambda a, b: jnp.where(sound, a, jnp.nan_to_num(b)), new, policy)
        info = {"kl": jnp.where(sound, kl, 0), "eta": tilt.eta, "solved": sound}
        return state._replace(controller=controller), info

    return LocalTeacher(init, lambda state: state.controller, learn, improve)


# ----------------------------------------------------------------------------------------- its parts


def no_rollouts(env: Env, x0: Float[Array, " nx"], slots: int) -> Rollouts:
    """Empty slots."""
    T, dtype = env.horizon, x0.dtype
    xs = jnp.broadcast_to(x0, (slots, T, env.nx))
    return Rollouts(
        xs, jnp.zeros((slots, T, env.nu), dtype), jnp.zeros((slots, T + 1), dtype), jnp.zeros(slots, dtype)
    )


def keep(old: Rollouts, came: Trajectory) -> tuple[Rollouts, Int[Array, ""]]:
    """The rollouts that `came` [N] in place of the old ones, and how many were lost.

    Lost are those whose status is not OK or whose cost is not finite; where all are, the old ones stay.

    Raises:
        ValueError: there are more of them than slots.
    """
    slots, N = old.share.shape[0], came.us.shape[0]
    if slots < N:
        raise ValueError(f"got {N} rollouts for {slots} slots: make the teacher with slots={N}")
    sound = (came.status == Status.OK) & jnp.all(jnp.isfinite(came.costs), axis=1)

    def fill(slot: Array, row: Array) -> Array:
        good = sound.reshape(N, *[1] * (row.ndim - 1))
        return slot.at[:N].set(jnp.where(good, row, slot[:N]))

    counts = sound.astype(old.share.dtype)
    share = jnp.zeros_like(old.share).at[:N].set(counts / jnp.maximum(jnp.sum(counts), 1))
    rows = fill(old.xs, came.xs[:, :-1]), fill(old.us, came.us), fill(old.costs, came.costs)
    share = jnp.where(jnp.any(sound), share, old.share)
    return Rollouts(*rows, share), jnp.sum(~sound)


def cost_to_go(costs: Float[Array, "S T+1"]) -> Float[Array, "S T"]:
    """Of each control: the costs from its step on, the final one included."""
    return jnp.cumsum(costs[:, ::-1], axis=1)[:, :0:-1]


def noise_of(
    env: Env, policy: LinearGaussian, past: Rollouts
) -> tuple[Float[Array, "S T nu"], Float[Array, "T nu"]]:
    """Noise z in u = ū + K (x ⊖ x̄) + L z, L Lᵀ = Σ, of each rollout; and ū + K (x ⊖ x̄), their mean."""
    inverse = jax.vmap(lambda cov: lower_inverse(cholesky(cov)))(policy.cov)

    def one(knot: LinearGaussian, inverse: Array, x: Array, u: Array) -> tuple[Array, Array]:
        mean = knot.us + knot.K @ env.minus(x, knot.xs)
        return inverse @ (u - mean), mean

    z, mean = jax.vmap(jax.vmap(one), (None, None, 0, 0))(policy, inverse, past.xs, past.us)
    return z, jnp.tensordot(past.share, mean, axes=1)


def check_inertia(inertia: float) -> None:
    """Raise ValueError unless it is positive."""
    if not 0 < inertia < math.inf:
        raise ValueError(
            f"inertia must be positive and finite, got {inertia}: few rollouts give no covariance"
        )


def bound_per_step(terms: Sequence[KLTerm]) -> tuple[LinearGaussian, Float[Array, " T"]]:
    """The policy of the only KL term, and its bound; that of the whole trajectory is shared equally.

    Raises:
        ValueError: no bound or several, one that is not positive as far as that can be seen while tracing,
            or a price, which weights of rollouts cannot express.
    """
    policy, bound = only_bound(terms)
    if len(terms) > 1 or any(term.weight is not None or term.multiplier is not None for term in terms):
        raise ValueError(
            "PI² takes one KL term with a bound and no price, got a weight, a multiplier or more terms; "
            "use it under mdgps, pigps or traj_opt"
        )
    if not isinstance(bound, Tracer) and not np.all(np.asarray(bound) > 0):
        raise ValueError(f"the KL bound must be positive, got {bound}: it is the length of the step, in nats")
    T = policy.us.shape[0]
    each = jnp.asarray(bound, policy.us.dtype)
    return policy, each if each.ndim else jnp.broadcast_to(each / T, (T,))

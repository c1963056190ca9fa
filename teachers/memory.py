"""What a local teacher remembers of its rollouts, and the dynamics that it fits to them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gps.gmm import GMM, fit_gmm, seed_gmm
from gps.types import Env
from teachers.fitted import Fitted, fit_dynamics, transitions

__all__ = ["Memory", "Rollouts", "empty_memory", "fit_remembered", "remember_rollouts"]

Rollouts = tuple[Float[Array, "N T+1 ndx"], Float[Array, "N T nu"], Float[Array, " N"]]
"""(x ⊖ x0, u, 1 for each that counts and 0 for others)."""


class Memory(NamedTuple):
    """The last rollouts as x ⊖ x0, a ring of S, and the mixture over their transitions."""

    xs: Float[Array, "S T+1 ndx"]
    us: Float[Array, "S T nu"]
    weight: Float[Array, " S"]
    recent: Float[Array, " S"]
    """What each counts for in the fit of its own steps."""
    slot: Int[Array, ""]
    mixture: GMM | None


def empty_memory(env: Env, size: int, clusters: int, dtype: jnp.dtype) -> Memory:
    """Of nothing yet; without a mixture where there are no clusters."""
    T, n, m = env.horizon, env.ndx, env.nu
    d, none, mixture = 2 * n + m, jnp.zeros(size, dtype), None
    if clusters:
        covs = jnp.broadcast_to(jnp.eye(d, dtype=dtype)[None], (clusters, d, d))
        mixture = GMM(jnp.full(clusters, 1 / clusters, dtype), jnp.zeros((clusters, d), dtype), covs)
    rows = jnp.zeros((size, T + 1, n), dtype), jnp.zeros((size, T, m), dtype)
    return Memory(*rows, none, none, jnp.int32(0), mixture)


def remember_rollouts(key: Key[Array, ""], memory: Memory, rollouts: Rollouts, reuse: float) -> Memory:
    """These in place of the oldest, and the mixture fitted anew, from where it was.

    Args:
        key: for its first start.
        memory: of S rollouts.
        rollouts: at most S.
        reuse: what those that were there count for from now on.

    Raises:
        ValueError: there are more rollouts than the memory has room for.
    """
    size, N = memory.weight.shape[0], rollouts[2].shape[0]
    if size < N:
        raise ValueError(
            f"came {N} rollouts and there is room for {size}: make the teacher with remember={N}"
        )
    xs, us, weight = rollouts
    slots = (memory.slot + jnp.arange(N)) % size
    kept = Memory(
        memory.xs.at[slots].set(xs),
        memory.us.at[slots].set(us),
        memory.weight.at[slots].set(weight),
        (reuse * memory.recent).at[slots].set(weight),
        (memory.slot + N) % size,
        memory.mixture,
    )
    if memory.mixture is None:
        return kept
    points = transitions(kept.xs, kept.us)
    counts = jnp.broadcast_to(kept.weight[:, None], points.shape[:2]).reshape(-1)
    points = points.reshape(-1, points.shape[2])
    clusters = memory.mixture.weights.shape[0]
    fresh = jnp.sum(memory.weight) == 0
    seeded = seed_gmm(key, points, counts, clusters)
    begin = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), seeded, memory.mixture)
    mixture, _ = fit_gmm(begin, points, counts, iterations=20, tolerance=1e-2)
    return kept._replace(mixture=mixture)


def fit_remembered(
    env: Env, memory: Memory | None, rollouts: Rollouts, strength: float, ridge: float, old: bool
) -> Fitted:
    """Dynamics fitted to the rollouts, and with `old` to the remembered ones as far as those count.

    Args:
        env: the task; the fit shrinks towards its integrator x' = x + dt v, all else staying as it is.
        memory: which has the rollouts already; its mixture is the prior.
        rollouts: their mean is the nominal trajectory.
        strength: how many samples the prior stands for.
        ridge: variance of a position that is regarded as noise; of all else 100 times as much, and of states
            of which nothing is known (`Env.nv`) as much.
        old: whether earlier rollouts count.
    """
    N, nv, free = rollouts[2].shape[0], env.nv or 0, env.ndx if env.nv is None else env.nv
    ridges = jnp.concatenate([jnp.full(free, ridge), jnp.full(env.ndx - free + env.nu, 100 * ridge)])
    A = jnp.eye(env.ndx).at[:nv, nv : 2 * nv].set(env.dt * jnp.eye(nv))
    fit = functools.partial(
        fit_dynamics,
        prior=None if memory is None else memory.mixture,
        strength=strength,
        ridge=ridges,
        base=(A, jnp.zeros((env.ndx, env.nu))),
    )
    if memory is None or not old:
        return fit(*rollouts)
    latest = (memory.slot - 1 - jnp.arange(N)) % memory.weight.shape[0]
    now = jnp.zeros_like(memory.weight).at[latest].set(memory.weight[latest])
    return fit(memory.xs, memory.us, memory.recent, nominal=now)

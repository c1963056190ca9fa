"""What a policy is worth by trajectories that others drew, in several conditions: a search's objective."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gps.algorithms.likelihoods import Windows, log_probs
from gps.dataset import single
from gps.importance import effective_samples, estimate, fusion, log_normaliser, weights
from gps.types import Limits, Student

__all__ = ["Data", "Paths", "as_paths", "evidence", "flat", "objective", "windows_of"]


class Paths(NamedTuple):
    """Trajectories of T steps in M conditions, numbers in single precision: of J drivers, S each."""

    obs: PyTree
    """[M, J, S, T, …]."""
    action: Float[Array, "M J S T nu"]
    """As it was drawn, before it was clipped."""
    reward: Float[Array, "M J S T"]
    alive: Bool[Array, "M J S T"]
    """Behind the end of an episode nothing was drawn, and nothing earned."""
    facts: PyTree
    """[M, J, S, T, …] what the guides' densities are computed from, besides the actions."""
    sound: Bool[Array, "M J S"]
    """Whether there is such a trajectory, and of numbers that are finite."""


def as_paths(obs: PyTree, action: Array, reward: Array, alive: Array, facts: PyTree) -> Paths:
    """One trajectory [T, …]; it is not sound if any of its numbers is not finite."""
    action = jnp.where(alive[:, None], action, 0)
    paths = single(Paths(obs, action, jnp.where(alive, reward, 0), alive, facts, jnp.asarray(True)))
    numbers = [leaf for leaf in jax.tree.leaves(paths) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers]))
    kept = jax.tree.map(lambda leaf: jnp.where(sound, leaf, jnp.zeros_like(leaf)), paths)
    return kept._replace(sound=sound)


def windows_of(student: Student, paths: Paths) -> Windows:
    """Whole trajectories [M, N, T, …]."""
    first = jnp.broadcast_to(jnp.arange(paths.alive.shape[-1]) == 0, paths.alive.shape)
    begin = lambda obs: student.initial_carry(jax.tree.map(lambda leaf: leaf[0], obs))  # noqa: E731
    return Windows(paths.obs, first, jax.vmap(jax.vmap(begin))(paths.obs), paths.action)


def flat(paths: Paths) -> Paths:
    """[M, J, S, …] → [M, N, …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), paths)


class Data(NamedTuple):
    """What a policy is judged by: N trajectories in each of M conditions."""

    windows: Windows
    """[M, N, T, …]."""
    drawn_by: Float[Array, "M N T"]
    """`gps.importance.fusion`; −∞ where there is no trajectory."""
    reward: Float[Array, "M N T"]
    alive: Bool[Array, "M N T"]
    total: Float[Array, " M"]
    """Trajectories that there are."""
    scale: Float[Array, ""]
    """Standard deviation of their returns."""


def evidence(student: Student, policies: PyTree, paths: Paths, by_guides: Array, limits: Limits) -> Data:
    """What `objective` judges by: trajectories of G guides and of P policies.

    Args:
        student: whose variables the policies [P] are.
        policies: those that drew the last P groups of paths.
        paths: of the guides, then of the policies.
        by_guides: [M, G, N, T] log-densities of all actions under the guides.
        limits: of the controls.
    """
    share_of = jnp.sum(paths.sound, axis=2)
    paths = flat(paths)
    windows = windows_of(student, paths)

    def told(variables: PyTree) -> Array:
        each = jax.vmap(lambda part: log_probs(student, variables, part, limits)[1])(windows)
        return jnp.where(paths.alive, each, 0)

    by_policies = jnp.moveaxis(jax.lax.map(told, policies), 0, 1)
    log_q = jnp.concatenate([jnp.where(paths.alive[:, None], by_guides, 0), by_policies], axis=1)
    count = jnp.sum(paths.sound, axis=1)
    share = share_of / jnp.maximum(count, 1)[:, None]
    drawn_by = jnp.where(paths.sound[:, :, None], jax.vmap(fusion)(log_q, share), -jnp.inf)
    returns = jnp.sum(paths.reward, axis=2)
    total = jnp.maximum(jnp.sum(count), 1)
    mean = jnp.sum(jnp.where(paths.sound, returns, 0)) / total
    scale = jnp.sqrt(jnp.sum(jnp.where(paths.sound, (returns - mean) ** 2, 0)) / total)
    scale = jnp.where(scale > 1e-6 * jnp.max(jnp.abs(returns)), scale, 1)  # else they agree
    return Data(
        windows,
        drawn_by,
        paths.reward,
        paths.alive,
        jnp.maximum(count, 1).astype(returns.dtype),
        scale,
    )


def objective(
    student: Student, variables: PyTree, data: Data, regulariser: Array | float, limits: Limits
) -> tuple[Array, dict[str, Array]]:
    """Φ(θ) = Σ_t [1/Z_t Σ_i w_t,i r_t,i + w_r log Z_t], mean over conditions (equation 3 of the paper).

    Rewards are in standard deviations of the return, so that w_r means the same in every task. `info` has the
    return that is expected of the policy in its own unit, the mean of log Z, and how many trajectories of a
    condition count at the last step (`effective_samples`).
    """

    def one(windows: Windows, drawn_by: Array, reward: Array, alive: Array, count: Array) -> tuple:
        log_pi = jnp.where(alive, log_probs(student, variables, windows, limits)[1], 0)
        log = weights(log_pi, drawn_by).log
        normaliser = log_normaliser(log) + jnp.log(log.shape[0] / count)
        return estimate(log, reward), normaliser, effective_samples(log)[-1]

    returns, normaliser, effective = jax.vmap(one)(
        data.windows, data.drawn_by, data.reward, data.alive, data.total
    )
    value = jnp.mean(returns) / data.scale + regulariser * jnp.mean(jnp.sum(normaliser, axis=1))
    return value, {
        "estimated_return": jnp.mean(returns),
        "log_normaliser": jnp.mean(normaliser),
        "effective_samples": jnp.mean(effective),
    }

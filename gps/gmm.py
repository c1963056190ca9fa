"""Gaussian mixtures by expectation-maximisation: the prior over transitions of fitted dynamics.

Each covariance has an inverse-Wishart prior, so that a component which loses its points keeps a sane one
(Fraley & Raftery 2007): the penalised log-likelihood rises with every iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.gaussian import LOG_2PI, Gaussian, log_det_chol, symmetrise
from gps.linalg import cholesky, full_precision, lower_inverse

__all__ = ["GMM", "fit_gmm", "moments_at", "seed_gmm"]


class GMM(NamedTuple):
    """Σ_k weights_k N(means_k, covs_k)."""

    weights: Float[Array, " K"]
    means: Float[Array, "K d"]
    covs: Float[Array, "K d d"]


PSEUDO_COUNTS = 2.0
"""Points that the prior of a covariance stands for."""


def seed_gmm(
    key: Key[Array, ""],
    points: Float[Array, "N d"],
    weight: Float[Array, " N"],
    clusters: int,
    spread: float = 1e-2,
) -> GMM:
    """A start for `fit_gmm`: k-means++ centres (Arthur & Vassilvitskii 2007), the covariance of all points.

    Distances are in standard deviations of the data; an entry that never varies does not count.

    Raises:
        ValueError: less than one cluster.
    """
    if clusters < 1:
        raise ValueError(f"a mixture needs at least 1 cluster, got {clusters}")
    _, base = _base(points, weight, spread)
    scale = jnp.sqrt(jnp.diagonal(base) / spread)
    white = points / scale[None]

    def choose(nearest: Array, key: Array) -> tuple[Array, Array]:
        chance = weight * nearest
        chance = jnp.where(jnp.sum(chance) > 0, chance, weight)
        index = jax.random.categorical(key, jnp.log(chance))
        away = jnp.sum((white - white[index][None]) ** 2, axis=1)
        return jnp.minimum(nearest, away), index

    # no centre yet: every point is as far as any other
    far = jnp.full(weight.shape, jnp.finfo(points.dtype).max / jnp.sum(weight), points.dtype)
    _, centres = jax.lax.scan(choose, far, jax.random.split(key, clusters))
    closest = jnp.argmin(jnp.sum((white[:, None] - white[centres][None]) ** 2, axis=2), axis=1)
    return _maximise(points, weight[:, None] * jax.nn.one_hot(closest, clusters, dtype=points.dtype), base)


@full_precision
def fit_gmm(
    start: GMM,
    points: Float[Array, "N d"],
    weight: Float[Array, " N"],
    iterations: int = 50,
    tolerance: float = 1e-4,
    spread: float = 1e-2,
) -> tuple[GMM, Float[Array, " iterations"]]:
    """EM from `start` (`seed_gmm`, or the mixture of an earlier fit) until the objective stands still.

    Returns the mixture and the penalised log-likelihood per point before each iteration, NaN where none was
    made any more.

    Args:
        start: as many clusters as the result has.
        points: rows; those with weight 0 may hold anything finite.
        weight: of each point, ≥ 0.
        iterations: at most.
        tolerance: rise of the objective per point, in nats, below which it ends.
        spread: variance of the covariances' prior as a share of the data's, entry by entry.
    """
    total, base = _base(points, weight, spread)

    def step(carry: tuple) -> tuple:
        mixture, last, _, i, trace = carry
        white = _whiten(mixture)
        log_joint = _log_joint(mixture, white, points)
        log_sum = jax.nn.logsumexp(log_joint, axis=1)
        objective = (weight @ log_sum + _log_prior(mixture, white, base)) / total
        shares = weight[:, None] * jnp.exp(log_joint - log_sum[:, None])
        done = objective - last < tolerance
        new = _maximise(points, shares, base)
        kept = jax.tree.map(lambda a, b: jnp.where(done, a, b), mixture, new)
        return kept, objective, done, i + 1, trace.at[i].set(objective)

    trace = jnp.full(iterations, jnp.nan, points.dtype)
    lowest = jnp.asarray(-jnp.inf, points.dtype)
    first = (start, lowest, jnp.asarray(False), jnp.int32(0), trace)
    end = jax.lax.while_loop(lambda c: ~c[2] & (c[3] < iterations), step, first)
    return end[0], end[4]


@full_precision
def moments_at(
    mixture: GMM, points: Float[Array, "N d"], weight: Float[Array, " N"] | None = None
) -> Gaussian:
    """Mean and covariance of the mixture, its components weighted by their responsibility for `points`.

    Where no point has a weight, by their own weights.
    """
    counts = jnp.ones(points.shape[0], points.dtype) if weight is None else weight
    total = jnp.sum(counts)
    each = jax.nn.softmax(_log_joint(mixture, _whiten(mixture), points), axis=1)
    shares = jnp.where(total > 0, counts @ each / jnp.maximum(total, 1), mixture.weights)
    mean = shares @ mixture.means
    away = mixture.means - mean[None]
    inner = jnp.einsum("k,kij->ij", shares, mixture.covs)
    return Gaussian(mean, symmetrise(inner + jnp.einsum("k,ki,kj->ij", shares, away, away)))


# ------------------------------------------------------------------------------------- internals


def _base(points: Array, weight: Array, spread: float) -> tuple[Array, Array]:
    """(total weight, the prior's covariance: a share of the data's variances)."""
    total = jnp.sum(weight)
    mean = weight @ points / total
    var = weight @ (points - mean[None]) ** 2 / total
    widest = jnp.max(var)
    floor = jnp.where(widest > 0, jnp.finfo(points.dtype).eps * widest, 1)
    return total, spread * jnp.diag(jnp.maximum(var, floor))


class _White(NamedTuple):
    """L⁻¹ and log det Σ of each covariance Σ = L Lᵀ."""

    inverse: Float[Array, "K d d"]
    log_det: Float[Array, " K"]


def _whiten(mixture: GMM) -> _White:
    factor = jax.vmap(cholesky)(mixture.covs)
    return _White(jax.vmap(lower_inverse)(factor), jax.vmap(log_det_chol)(factor))


def _log_joint(mixture: GMM, white: _White, points: Array) -> Float[Array, "N K"]:
    """log(weights_k N(point; k))."""

    def one(mean: Array, inverse: Array) -> Array:
        return jnp.sum(((points - mean[None]) @ inverse.T) ** 2, axis=1)

    square = jax.vmap(one, out_axes=1)(mixture.means, white.inverse)
    level = jnp.log(mixture.weights) - 0.5 * (white.log_det + points.shape[1] * LOG_2PI)
    return level[None] - 0.5 * square


def _log_prior(mixture: GMM, white: _White, base: Array) -> Array:
    """Of the covariances and of the weights, up to a constant; `base` is diagonal."""
    trace = jnp.sum(white.inverse**2 * jnp.diagonal(base)[None, None], axis=(1, 2))
    return jnp.sum(jnp.log(mixture.weights)) - 0.5 * PSEUDO_COUNTS * jnp.sum(white.log_det + trace)


def _maximise(points: Array, shares: Float[Array, "N K"], base: Array) -> GMM:
    counts = jnp.sum(shares, axis=0)
    held = jnp.maximum(counts, jnp.finfo(points.dtype).tiny)
    means = shares.T @ points / held[:, None]

    def spread(share: Array, mean: Array, count: Array) -> Array:
        away = points - mean[None]
        return symmetrise(((share[:, None] * away).T @ away + PSEUDO_COUNTS * base) / (count + PSEUDO_COUNTS))

    covs = jax.vmap(spread, (1, 0, 0))(shares, means, counts)
    weights = (counts + 1) / (jnp.sum(counts) + counts.shape[0])
    return GMM(weights, means, covs)

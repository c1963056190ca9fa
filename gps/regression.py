"""Linear-Gaussian regression with a normal-inverse-Wishart prior: y|x ~ N(mean + gain (x − x̄), cov).

The core of fitted dynamics (`teachers.fitted`), after Levine & Abbeel 2014, section 3.1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import Gaussian, symmetrise
from gps.gmm import GMM, moments_at
from gps.linalg import cholesky, full_precision, lower_inverse

__all__ = ["Regression", "check_samples", "regress"]


class Regression(NamedTuple):
    """y|x ~ N(y_mean + gain (x − x_mean), cov)."""

    gain: Float[Array, "l k"]
    cov: Float[Array, "l l"]
    x_mean: Float[Array, " k"]
    y_mean: Float[Array, " l"]


@full_precision
def regress(
    x: Float[Array, "N k"],
    y: Float[Array, "N l"],
    weight: Float[Array, " N"],
    prior: GMM | None = None,
    *,
    strength: float = 1.0,
    ridge: Float[Array, " k"] | float = 1e-6,
    base: Float[Array, "l k"] | None = None,
) -> Regression:
    """Condition the joint Gaussian of z = (x, y) that is most probable given N samples and a prior.

    With sample mean z̄ and biased covariance S, and from the prior μ₀ and Σ₀, the moments of the mixture where
    the samples are: Σ = (N S + n₀ Σ₀ + N n₀/(N + n₀) (z̄ − μ₀)(z̄ − μ₀)ᵀ) / (N + n₀), mean z̄.

    Args:
        x: regressors.
        y: what depends on them.
        weight: 1 for each sample that counts, 0 for others, whose entries must still be finite. If none
            counts, the answer is the prior's, or `base`.
        prior: mixture over z; None: plain ridge regression.
        strength: n₀, how many samples the prior stands for.
        ridge: added to the variances of x, in its units squared: what to regard as noise.
        base: gain that the ridge shrinks towards; zero if None.
    """
    k, l_ = x.shape[1], y.shape[1]
    points = jnp.concatenate([x, y], axis=1)
    counts = jnp.sum(weight)
    share = weight / jnp.maximum(counts, 1)
    mean = share @ points
    away = points - mean[None]
    spread = (share[:, None] * away).T @ away
    if prior is not None:
        spread = _informed(spread, mean, counts, moments_at(prior, points, weight), strength)
    gain0 = jnp.zeros((l_, k), x.dtype) if base is None else base
    # z → (x, y − gain₀ x)
    turn = jnp.eye(k + l_, dtype=x.dtype).at[k:, :k].set(-gain0)
    spread = turn @ spread @ turn.T
    own = spread[:k, :k] + jnp.diag(jnp.broadcast_to(jnp.asarray(ridge, x.dtype), (k,)))
    half = lower_inverse(cholesky(own))
    gain = (half.T @ (half @ spread[:k, k:])).T
    cov = symmetrise(spread[k:, k:] - gain @ spread[:k, k:])
    return Regression(gain + gain0, cov, mean[:k], mean[k:])


def check_samples(samples: int, regressors: int, prior: GMM | None) -> None:
    """Whether `samples` determine a gain for each of `regressors` and an offset.

    Raises:
        ValueError: they do not, and there is no prior.
    """
    if prior is None and samples < regressors + 1:
        raise ValueError(
            f"{samples} rollouts do not determine {regressors} gains and an offset per step: give a prior, "
            f"or at least {regressors + 1} rollouts"
        )


def _informed(S: Array, mean: Array, N: Array, prior: Gaussian, n0: float) -> Array:
    """The MAP covariance."""
    away = mean - prior.mean
    return (N * S + n0 * prior.cov + N * n0 / (N + n0) * away[:, None] * away[None, :]) / (N + n0)

"""Linear-Gaussian dynamics fitted to rollouts, with a prior from all transitions seen so far.

x'|(x, u) ~ N(A x + B u + c, F) at each step, by conditioning the joint Gaussian of (x, u, x') whose mean and
covariance are the MAP estimate under a normal-inverse-Wishart prior (Levine & Abbeel 2014, section 3.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import Gaussian, symmetrise
from gps.types import LinearDynamics
from teachers.gmm import GMM, moments_at
from teachers.linalg import solve_spd

__all__ = ["Fitted", "fit_dynamics", "transitions"]


class Fitted(NamedTuple):
    """δx' = A δx + B δu + N(0, noise) around the mean of the rollouts, which is a trajectory of it."""

    dynamics: LinearDynamics
    """Without sensors."""
    xs: Float[Array, "T+1 n"]
    us: Float[Array, "T m"]
    noise: Float[Array, "T n n"]
    start: Gaussian
    """Of δx at the first step: the spread of the rollouts' first states."""


def fit_dynamics(
    xs: Float[Array, "N T+1 n"],
    us: Float[Array, "N T m"],
    weight: Float[Array, " N"] | None = None,
    prior: GMM | None = None,
    *,
    strength: float = 1.0,
    ridge: Float[Array, " n+m"] | float = 1e-6,
    base: tuple[Float[Array, "n n"], Float[Array, "n m"]] | None = None,
) -> Fitted:
    """Dynamics at each of T steps from N rollouts.

    With z = (x, u, x'), sample mean z̄ and biased covariance S, and from the prior μ₀ and Σ₀, the moments of
    the mixture where the samples are: Σ = (N S + n₀ Σ₀ + N n₀/(N + n₀) (z̄ − μ₀)(z̄ − μ₀)ᵀ) / (N + n₀), mean z̄.

    Args:
        xs: states in flat coordinates (for a manifold, x ⊖ one reference for all).
        us: controls as executed.
        weight: 1 for each rollout that counts, 0 for one that diverged. Its entries must be finite.
        prior: mixture over `transitions`; None: plain ridge regression.
        strength: n₀, how many samples the prior stands for.
        ridge: added to the variances of x and u, in their units squared: what to regard as noise.
        base: (A₀, B₀) that the ridge shrinks towards, the integrator x + dt·v say; zero if None.

    Raises:
        ValueError: without a prior there are fewer rollouts than the regression has unknowns, or the shapes
            of states and controls do not fit.
    """
    N, T, m = us.shape
    n = xs.shape[-1]
    if xs.shape[:2] != (N, T + 1):
        raise ValueError(f"expected states [N, T+1, n] for controls [{N}, {T}, {m}], got {list(xs.shape)}")
    least = n + m + 1
    if prior is None and least > N:
        raise ValueError(
            f"{N} rollouts do not determine {n} + {m} gains and an offset per step: give a prior, or at "
            f"least {least} rollouts"
        )
    dtype = xs.dtype
    counts = jnp.ones(N, dtype) if weight is None else weight
    share = counts / jnp.sum(counts)
    A0, B0 = base if base is not None else (jnp.zeros((n, n), dtype), jnp.zeros((n, m), dtype))
    # z → (x, u, x' − A₀ x − B₀ u)
    turn = jnp.eye(2 * n + m, dtype=dtype).at[n + m :, : n + m].set(-jnp.concatenate([A0, B0], axis=1))

    def one(points: Float[Array, "N 2n+m"]) -> tuple[Array, Array, Array]:
        mean = share @ points
        away = points - mean[None]
        spread = (share[:, None] * away).T @ away
        if prior is not None:
            spread = _informed(spread, mean, jnp.sum(counts), moments_at(prior, points), strength)
        spread = turn @ spread @ turn.T
        own = spread[: n + m, : n + m] + jnp.diag(jnp.broadcast_to(jnp.asarray(ridge, dtype), (n + m,)))
        gains, _ = solve_spd(own, spread[: n + m, n + m :])
        noise = spread[n + m :, n + m :] - gains.T @ spread[: n + m, n + m :]
        AB = gains.T + jnp.concatenate([A0, B0], axis=1)
        return AB[:, :n], AB[:, n:], symmetrise(noise)

    points = transitions(xs, us)
    A, B, noise = jax.vmap(one, in_axes=1)(points)
    none = jnp.zeros((T, 0, n), dtype), jnp.zeros((T, 0, m), dtype)
    means = jnp.einsum("i,itj->tj", share, xs)
    first = xs[:, 0] - means[None, 0]
    start = Gaussian(jnp.zeros(n, dtype), (share[:, None] * first).T @ first)
    return Fitted(LinearDynamics(A, B, *none), means, jnp.einsum("i,itj->tj", share, us), noise, start)


def transitions(xs: Float[Array, "N T+1 n"], us: Float[Array, "N T m"]) -> Float[Array, "N T 2n+m"]:
    """(x, u, x') of every step: what the mixture of the prior is fitted to."""
    return jnp.concatenate([xs[:, :-1], us, xs[:, 1:]], axis=2)


def _informed(S: Array, mean: Array, N: Array, prior: Gaussian, n0: float) -> Array:
    """The MAP covariance."""
    away = mean - prior.mean
    return (N * S + n0 * prior.cov + N * n0 / (N + n0) * away[:, None] * away[None, :]) / (N + n0)

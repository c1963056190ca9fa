"""Linear-Gaussian dynamics fitted to rollouts, with a prior from all transitions seen so far.

x'|(x, u) ~ N(A x + B u + c, F) at each step, by conditioning the joint Gaussian of (x, u, x') whose mean and
covariance are the MAP estimate under a normal-inverse-Wishart prior (Levine & Abbeel 2014, section 3.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import Gaussian
from gps.gmm import GMM
from gps.linalg import full_precision
from gps.regression import Regression, check_samples, regress
from gps.types import LinearDynamics

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


@full_precision
def fit_dynamics(
    xs: Float[Array, "N T+1 n"],
    us: Float[Array, "N T m"],
    weight: Float[Array, " N"] | None = None,
    prior: GMM | None = None,
    *,
    strength: float = 1.0,
    ridge: Float[Array, " n+m"] | float = 1e-6,
    base: tuple[Float[Array, "n n"], Float[Array, "n m"]] | None = None,
    nominal: Float[Array, " N"] | None = None,
) -> Fitted:
    """Dynamics at each of T steps from N rollouts.

    Each is a `gps.regression.regress` of x' on (x, u).

    Args:
        xs: states in flat coordinates (for a manifold, x ⊖ one reference for all).
        us: controls as executed.
        weight: 1 for each rollout that counts, 0 for one that diverged. Its entries must be finite.
        prior: mixture over `transitions`; None: plain ridge regression.
        strength: n₀, how many samples the prior stands for.
        ridge: added to the variances of x and u, in their units squared: what to regard as noise.
        base: (A₀, B₀) that the ridge shrinks towards, the integrator x + dt·v say; zero if None.
        nominal: weights of the rollouts whose mean is the nominal trajectory, where those are not all that
            the dynamics are fitted to; `weight` if None.

    Raises:
        ValueError: without a prior there are fewer rollouts than the regression has unknowns, or the shapes
            of states and controls do not fit.
    """
    N, T, m = us.shape
    n = xs.shape[-1]
    if xs.shape[:2] != (N, T + 1):
        raise ValueError(f"expected states [N, T+1, n] for controls [{N}, {T}, {m}], got {list(xs.shape)}")
    check_samples(N, n + m, prior)
    dtype = xs.dtype
    counts = jnp.ones(N, dtype) if weight is None else weight
    gain0 = None if base is None else jnp.concatenate([jnp.asarray(side, dtype) for side in base], axis=1)

    def one(x: Array, u: Array, x_next: Array) -> Regression:
        both = jnp.concatenate([x, u], axis=1)
        return regress(both, x_next, counts, prior, strength=strength, ridge=ridge, base=gain0)

    found = jax.vmap(one, in_axes=1)(xs[:, :-1], us, xs[:, 1:])
    dynamics = LinearDynamics(
        found.gain[:, :, :n], found.gain[:, :, n:], jnp.zeros((T, 0, n), dtype), jnp.zeros((T, 0, m), dtype)
    )
    chosen = counts if nominal is None else nominal
    share = chosen / jnp.maximum(jnp.sum(chosen), 1)
    means, controls = (jnp.tensordot(share, rows, axes=1) for rows in (xs, us))
    first = xs[:, 0] - means[None, 0]
    start = Gaussian(jnp.zeros(n, dtype), (share[:, None] * first).T @ first)
    return Fitted(dynamics, means, controls, found.cov, start)


def transitions(xs: Float[Array, "N T+1 n"], us: Float[Array, "N T m"]) -> Float[Array, "N T 2n+m"]:
    """(x, u, x') of every step: what the mixture of the prior is fitted to."""
    return jnp.concatenate([xs[:, :-1], us, xs[:, 1:]], axis=2)

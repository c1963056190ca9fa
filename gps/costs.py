"""Weighted norms of residuals, the way MuJoCo MPC writes costs, as `ResidualCost`s.

Every norm maps a residual vector to a scalar and is convex, with its minimum 0 at r = 0 (`rectify`
excepted, which is one-sided), so the Gauss-Newton Hessian of the cost is positive semi-definite.
Formulas: MuJoCo MPC, `mjpc/norm.cc` (Howell et al. 2022, arXiv:2212.00541).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gps.types import ResidualCost

__all__ = ["cosh", "l2", "quadratic", "rectify", "residual_cost", "smooth_abs"]

Norm = Callable[[Float[Array, " n"]], Float[Array, ""]]


def quadratic(r: Float[Array, " n"]) -> Float[Array, ""]:
    """½ Σ r²."""
    return 0.5 * jnp.sum(r**2)


def smooth_abs(p: float) -> Norm:
    """Σ sqrt(r² + p²) − p: quadratic within `p` of zero, |r| beyond."""
    _positive(p)
    return lambda r: jnp.sum(jnp.sqrt(r**2 + p**2) - p)


def l2(p: float) -> Norm:
    """sqrt(rᵀr + p²) − p: the smoothed length of the whole vector."""
    _positive(p)
    return lambda r: jnp.sqrt(jnp.sum(r**2) + p**2) - p


def cosh(p: float) -> Norm:
    """p² Σ (cosh(r/p) − 1): quadratic within `p` of zero, exponential beyond."""
    _positive(p)
    return lambda r: p**2 * jnp.sum(jnp.cosh(r / p) - 1)


def rectify(p: float) -> Norm:
    """The smoothed positive part, p Σ log(1 + exp(r/p))."""
    _positive(p)
    return lambda r: p * jnp.sum(jax.nn.softplus(r / p))


def residual_cost(
    residual: Callable[..., Float[Array, " nr"]],
    weights: Sequence[float],
    norms: Sequence[Norm],
    sizes: Sequence[int] | None = None,
) -> ResidualCost:
    """Σ_i weights_i · norms_i(r_i), a stage cost or a final cost.

    `residual` has the arguments of the cost, (x, u, y, t) or (x, y), and returns the flat vector of
    all terms; term i takes the next `sizes`[i] entries (default: one entry each).

    Raises:
        ValueError: the numbers of weights, norms and sizes differ, a weight is negative, or (when
            called) the residual is not as long as the sizes add up to.
    """
    sizes = tuple(sizes) if sizes is not None else (1,) * len(weights)
    if not len(weights) == len(norms) == len(sizes):
        counts = f"{len(weights)} weights, {len(norms)} norms and {len(sizes)} sizes"
        raise ValueError(f"one weight, norm and size per term expected, came {counts}")
    if min(weights, default=0) < 0:
        raise ValueError(
            f"weights must be >= 0, came {tuple(weights)}: a negative one makes the cost concave"
        )
    ends = np.cumsum(sizes)

    def norm(r: Float[Array, " nr"]) -> Float[Array, ""]:
        if r.shape != (ends[-1],):
            raise ValueError(f"residual of shape ({ends[-1]},) expected from sizes {sizes}, came {r.shape}")
        terms = zip(weights, norms, ends - np.array(sizes), ends, strict=True)
        return sum((w * f(r[a:b]) for w, f, a, b in terms), start=jnp.zeros((), r.dtype))

    return ResidualCost(residual, norm)


def _positive(p: float) -> None:
    if not p > 0:
        raise ValueError(f"the norm's width p must be > 0, came {p}")

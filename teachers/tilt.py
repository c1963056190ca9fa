"""PLATO's adapted action: between the teacher and its student, in closed form."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import symmetrise
from gps.types import Action, Gaussian, Limits
from teachers.linalg import box_qp, solve_spd

__all__ = ["temper", "tilt"]


def tilt(
    action: Action,
    student: Gaussian,
    lam: Float[Array, ""] | float,
    limits: Limits | None = None,
    cov: Float[Array, "nu nu"] | None = None,
) -> Gaussian:
    """π_λ = argmin_π E_π[½ uᵀQuu u + qᵀu] + λ KL(π ‖ student) (Kahn et al. 2017, equation 3).

    With the student N(m, S): precision S⁻¹ + Quu/λ, and as mean the minimum of
    ½ (u − m)ᵀS⁻¹(u − m) + (½ uᵀQuu u + qᵀu)/λ inside `limits`. `cov` stands for S where the KL should
    not see the student's own covariance. `lam` ≥ 0 may be traced: 0 gives the teacher's box-QP mean with
    a vanishing covariance, ∞ the student, its mean brought inside the limits.

    Where S⁻¹ + Quu/λ is not positive definite (the action's status says so) the teacher's `dist` returns.
    """
    mean, S = student.mean, student.cov if cov is None else cov
    pull, keep = _shares(jnp.asarray(lam, mean.dtype))
    eye = jnp.eye(mean.shape[0], dtype=mean.dtype)
    P, _ = solve_spd(S, eye)
    H = symmetrise(pull * P + keep * action.Quu)
    low, high = _bounds(limits, mean)
    qp = box_qp(H, keep * action.q - pull * (P @ mean), low, high)
    tilted, _ = solve_spd(H, eye)
    own = jnp.clip(action.dist.mean, low, high)
    return Gaussian(jnp.where(qp.ok, qp.x, own), jnp.where(qp.ok, symmetrise(pull * tilted), action.dist.cov))


def temper(
    action: Action, wanted: Float[Array, " nu"], regret: Float[Array, ""] | float
) -> Float[Array, " nu"]:
    """`wanted`, drawn back towards the teacher's own action until it costs at most `regret` more than that.

    The instantaneous regret (the advantage of u*) along Δ = wanted − u* is, by the action's local quadratic,
    Q(u* + s Δ) − Q(u*) = s (Quu u* + q)ᵀΔ + ½ s² ΔᵀQuuΔ, in the units of Quu (those of the cost-to-go, or
    none from a planner that samples); the first term counts where u* lies on a limit. s is the largest share
    in [0, 1] that keeps it within `regret` > 0, which may be ∞. Where Quu⁻¹ is the covariance in PLATO's KL
    term and no limit is active, this is π_λ with λ = s / (1 − s). Curvature that is negative counts as none;
    a disowned label (status ≠ 0) bounds nothing.
    """
    own = action.dist.mean
    way = wanted - own
    linear = (action.Quu @ own + action.q) @ way
    square = jnp.maximum(0.5 * way @ action.Quu @ way, 0)
    allowed = jnp.asarray(regret, own.dtype)
    root = jnp.sqrt(linear**2 + 4 * square * allowed)
    share = jnp.where(linear > 0, 2 * allowed / (linear + root), (root - linear) / (2 * square))
    return jnp.where(linear + square <= allowed, wanted, own + jnp.clip(share, 0, 1) * way)


def _shares(lam: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(λ, 1)/(1 + λ): the objective over 1 + λ neither overflows nor vanishes for any λ in [0, ∞].

    λ below the root of the smallest number counts as that root, which keeps the covariance positive.
    """
    lam = jnp.maximum(lam, jnp.sqrt(jnp.finfo(lam.dtype).tiny))
    keep = 1 / (1 + lam)
    return jnp.where(lam < 1, jnp.minimum(lam, 1) * keep, 1 - keep), keep


def _bounds(limits: Limits | None, mean: Array) -> tuple[Array, Array]:
    if limits is None:
        return jnp.full_like(mean, -jnp.inf), jnp.full_like(mean, jnp.inf)
    return jnp.asarray(limits.low, mean.dtype), jnp.asarray(limits.high, mean.dtype)

"""KL-constrained linear-quadratic control, the C-step of guided policy search.

    min_p E_p[Σ c_t]  subject to  Σ_t E[KL(p(u|x_t) ‖ p̄(u|x_t))] ≤ bound

(Levine & Abbeel 2014; Montgomery & Levine 2016, section 3), or with a bound at each step. `teachers.kl_pass`
answers for a given η; here the η is found whose answer has the divergence asked for.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gps.gaussian import Gaussian
from gps.linalg import full_precision
from gps.types import Limits, LinearDynamics, LinearGaussian, QuadraticCost
from teachers.kl_pass import (
    Pass,
    Problem,
    controller_of,
    make_problem,
    second_moments,
    solve_at,
    solve_for,
)

__all__ = ["KLSolution", "KLStatus", "kl_lqr"]


class KLStatus(IntEnum):
    """How the search for η ended (an int32 inside jitted programs); up to BELOW the controller is new."""

    ACTIVE = 0
    """The divergence is the bound, within the tolerance."""
    INACTIVE = 1
    """It is below the bound even at the smallest η."""
    BELOW = 2
    """No η was found that has the divergence asked for, but one with less: it jumps across the bound, as it
    does where the limits come to hold a control at one η that they do not at the next."""
    MISSED = 3
    """No η in the range, within the passes allowed, has the divergence asked for, or less."""
    NOT_PD = 4
    """Quu was not positive definite at the largest η."""
    NOT_FINITE = 5
    """The problem has numbers that are not finite, or p̄ a covariance that is not positive definite."""


class KLSolution(NamedTuple):
    """Made by `kl_lqr`."""

    controller: LinearGaussian
    """Around the cost's nominal trajectory; p̄ itself where the status is beyond BELOW."""
    kl: Float[Array, " T"]
    """E_p[KL(p ‖ p̄)] at each step, nats."""
    eta: Float[Array, " T"]
    """To start the next search from."""
    passes: Int[Array, ""]
    status: Int[Array, ""]
    """A `KLStatus`."""


@full_precision
def kl_lqr(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    previous: LinearGaussian,
    bound: Float[Array, ""] | Float[Array, " T"] | float,
    *,
    start: Gaussian,
    noise: Float[Array, "T ndx ndx"] | None = None,
    entropy: Float[Array, " T"] | float = 0.0,
    limits: Limits | None = None,
    eta: Float[Array, " T"] | float = 1.0,
    eta_range: tuple[float, float] = (1e-8, 1e30),
    tolerance: float = 0.05,
    max_passes: int = 100,
) -> KLSolution:
    """Minimise E_p[Σ c] − Σ entropy_t H(p_t) over p within a bound on the divergence from p̄, `previous`.

    A scalar bound holds for Σ_t E[KL(p_t ‖ p̄_t)], with one η; a bound [T] holds at each step, with an η each.
    All is in the tangent space of the nominal trajectory (`cost.x`, `cost.u`), a trajectory of the dynamics.
    Under `vmap` the passes go on until every member has ended.

    Args:
        dynamics: T knots; δx' = A δx + B δu + N(0, noise).
        cost: T + 1 knots.
        previous: p̄, around the same nominal states; its mean controls may differ from the nominal ones.
        bound: ε, nats; of the whole trajectory, or [T] of each step.
        start: of δx at the first step.
        noise: covariance of the dynamics' noise; none if None.
        entropy: weight of the entropy in the objective, per step.
        limits: box that the mean control stays in at the nominal states.
        eta: where the search for one η begins, in units of the cost; an η per step needs no start.
        eta_range: where it ends.
        tolerance: of the divergence, relative to the bound.
        max_passes: of the LQR.

    Raises:
        ValueError: a bound that is not positive, as far as that can be seen while tracing.
    """
    if not isinstance(bound, Tracer) and not np.all(np.asarray(bound) > 0):
        raise ValueError(f"the KL bound must be positive, got {bound}; a fixed controller needs no solve")
    problem = make_problem(dynamics, cost, previous, start, noise, entropy, limits)
    dtype = problem.S.dtype
    low, high = (jnp.log(jnp.asarray(edge, dtype)) for edge in eta_range)
    target = jnp.asarray(bound, dtype)
    if target.ndim == 0:
        begin = jnp.clip(jnp.mean(jnp.log(jnp.asarray(eta, dtype))), low, high)
        end = _search_one(problem, target, begin, (low, high), tolerance, max_passes)
    else:
        end = _search_each(problem, target, (low, high), tolerance, max_passes)
    found, status = end.found, end.status
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((problem._replace(box=None), found))]
    status = jnp.where(jnp.all(jnp.stack(finite)), status, KLStatus.NOT_FINITE).astype(jnp.int32)
    good = status <= KLStatus.BELOW
    controller = jax.tree.map(
        lambda new, old: jnp.where(good, new, jnp.nan_to_num(old)),
        controller_of(problem, previous, found),
        previous,
    )
    return KLSolution(controller, jnp.where(good, found.kl, 0), found.eta, end.passes, status)


# ------------------------------------------------------------------------------------- internals

RUNNING = -1
JUMP = 1e-6
"""Between two log η that near to each other a divergence that is above and below the bound jumps."""


class _Bracket(NamedTuple):
    """What the search for one log η carries; f = log(KL / bound) falls from +∞ (not definite) to −∞."""

    x: Array
    found: Pass
    below: Pass
    """At `high`."""
    low: Array
    f_low: Array
    high: Array
    f_high: Array
    stride: Array
    passes: Array
    status: Array


def _search_one(
    problem: Problem, bound: Array, begin: Array, ends: tuple[Array, Array], tolerance: float, max_passes: int
) -> _Bracket:
    """One η for all steps; `begin` and `ends` are logarithms."""
    (low, high), steps = ends, problem.entropy.shape

    def look(s: _Bracket) -> _Bracket:
        found = solve_at(problem, jnp.broadcast_to(jnp.exp(s.x), steps))
        f, sound = _excess(found, jnp.sum(found.kl), bound)
        over = f > 0
        s = s._replace(
            found=found,
            below=jax.tree.map(lambda old, new: jnp.where(over, old, new), s.below, found),
            low=jnp.where(over, s.x, s.low),
            f_low=jnp.where(over, f, s.f_low),
            high=jnp.where(over, s.high, s.x),
            f_high=jnp.where(over, s.f_high, f),
            passes=s.passes + 1,
        )
        closed = s.high - s.low <= JUMP * (1 + jnp.abs(s.x))
        lost = closed | (s.passes >= max_passes) | (over & (s.x >= high))
        status = _status(_near(f, tolerance), ~over & (s.x <= low), lost, sound)
        x = jnp.where(status == RUNNING, jnp.clip(_next(s, f), low, high), s.x)
        return s._replace(x=x, stride=1.7 * s.stride, status=status)

    inf = jnp.asarray(jnp.inf, begin.dtype)
    unseen = (-inf, inf, inf, -inf, jnp.ones_like(begin))
    blank = _blank(problem)
    first = _Bracket(begin, blank, blank, *unseen, jnp.int32(0), jnp.int32(RUNNING))
    end = jax.lax.while_loop(lambda s: s.status == RUNNING, look, first)
    short = (end.status > KLStatus.BELOW) & jnp.isfinite(end.high)
    found = jax.tree.map(lambda one, other: jnp.where(short, other, one), end.found, end.below)
    return end._replace(found=found, status=jnp.where(short, KLStatus.BELOW, end.status))


def _next(s: _Bracket, f: Array) -> Array:
    """Where to look: outwards until there is a bracket, then where the secant of f crosses zero."""
    outwards = s.x + jnp.where(f > 0, 1, -1) * jnp.clip(jnp.abs(f), s.stride, 4 * s.stride)
    share = jnp.clip(s.f_low / (s.f_low - s.f_high), 0.02, 0.98)
    halve = (s.passes % 3 == 2) | ~jnp.isfinite(s.f_low)
    inside = s.low + jnp.where(halve, 0.5, share) * (s.high - s.low)
    return jnp.where(jnp.isfinite(s.low) & jnp.isfinite(s.high), inside, outwards)


class _Each(NamedTuple):
    """What the search for an η per step carries."""

    found: Pass
    moments: Array
    share: Array
    worst: Array
    passes: Array
    status: Array


def _search_each(
    problem: Problem, bound: Array, ends: tuple[Array, Array], tolerance: float, max_passes: int
) -> _Each:
    """An η for each step.

    Going backwards each η is solved for, given the states that the last pass led to; those move by a share of
    the way to the ones it leads to now, a smaller one when the divergences get no better.
    """
    low, high = (jnp.exp(end) for end in ends)

    def look(s: _Each) -> _Each:
        found, reached = solve_for(problem, bound, s.moments, (low, high))
        f, sound = _excess(found, found.kl, bound)
        idle = (f < 0) & (found.eta <= low * (1 + 1e-6))
        passes = s.passes + 1
        worst = jnp.max(jnp.where(idle, 0, jnp.abs(f)))
        lost = ~sound | (passes >= max_passes)
        status = _status(jnp.all(idle | _near(f, tolerance)), jnp.all(idle), lost, sound)
        share = jnp.maximum(jnp.where(worst < s.worst, s.share, 0.7 * s.share), 0.05)
        moments = s.moments + share * (reached - s.moments)
        return _Each(found, moments, share, worst, passes, status)

    blank = _blank(problem)
    identity = jnp.broadcast_to(jnp.eye(blank.cov.shape[1], dtype=low.dtype)[None], blank.cov.shape)
    moments = second_moments(problem, blank.gains, identity)  # of p̄, which is v ~ N(0, I)
    start = (jnp.ones_like(low), jnp.full_like(low, jnp.inf))
    first = _Each(blank, moments, *start, jnp.int32(0), jnp.int32(RUNNING))
    return jax.lax.while_loop(lambda s: s.status == RUNNING, look, first)


def _excess(found: Pass, kl: Array, bound: Array) -> tuple[Array, Array]:
    """log(KL / bound), +∞ where the pass failed; whether it did not."""
    sound = found.ok & jnp.all(jnp.isfinite(kl))
    ratio = jnp.maximum(kl, jnp.finfo(kl.dtype).tiny) / bound
    return jnp.where(sound, jnp.log(ratio), jnp.inf), sound


def _near(f: Array, tolerance: float) -> Array:
    return jnp.abs(jnp.expm1(f)) <= tolerance


def _status(hit: Array, idle: Array, lost: Array, sound: Array) -> Array:
    failure = jnp.where(sound, KLStatus.MISSED, KLStatus.NOT_PD)
    ended = jnp.where(idle, KLStatus.INACTIVE, jnp.where(lost, failure, RUNNING))
    return jnp.where(hit & ~idle, KLStatus.ACTIVE, ended).astype(jnp.int32)


def _blank(problem: Problem) -> Pass:
    shapes = jax.eval_shape(solve_at, problem, problem.entropy)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

"""How far the next C-step may go: the rules of Montgomery & Levine 2016, section 4.2."""

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gps.algorithms.phases import over_rollouts
from gps.types import LinearGaussian, LocalTeacher

if TYPE_CHECKING:
    from gps.algorithms.guided import Now

__all__ = ["OWN_RULES", "StepRule", "Steps", "adjust", "check_rule", "first_steps", "foresee"]

StepRule = Literal["none", "classic", "global", "mc"]
OWN_RULES = ("none", "classic", "mc")
"""Of a method whose controllers stay near to themselves: global looks at the student."""


class Steps(NamedTuple):
    """What a rule remembers in one condition."""

    multiplier: Float[Array, ""]
    """Of the KL bound."""
    before: Float[Array, ""]
    """Expected cost of the policy that the last C-step began at, by the model of then."""
    predicted: Float[Array, ""]
    """And of the controller that it led to."""


def first_steps(dtype: jnp.dtype) -> Steps:
    """Before the first C-step."""
    unknown = jnp.asarray(jnp.inf, dtype)
    return Steps(jnp.ones((), dtype), unknown, unknown)


def foresee(teacher: LocalTeacher, local: PyTree, policy: LinearGaussian, multiplier: Array) -> Steps:
    """What to remember of a C-step from `policy` to the controller in `local`, both by the model in it."""
    expect = teacher.expected_cost
    if expect is None:
        return Steps(multiplier, *(jnp.full_like(multiplier, jnp.inf),) * 2)
    return Steps(multiplier, expect(local, policy), expect(local, teacher.controller(local)))


def adjust(
    rule: StepRule,
    bounds: tuple[float, float],
    steps: Steps,
    teacher: LocalTeacher,
    now: "Now",
) -> Float[Array, ""]:
    """The multiplier for the next C-step, from the improvement that was foreseen and the one that came.

    With the improvement as a·KL + b·KL², the best step is the present one times
    Δ_foreseen / (2 (Δ_foreseen − Δ_came)); a factor in [.1, 5]. What came is, by the newly learned model, the
    expected cost of the controller itself (classic) or of the policy that was fitted to it (global), or the
    mean cost of the rollouts (mc). A teacher without models, or the rule none, leaves the multiplier alone.

    Args:
        rule: one of these.
        bounds: least and largest multiplier.
        steps: as `foresee` made them.
        teacher: of this condition.
        now: what it has learned since.
    """
    expect = teacher.expected_cost
    if rule == "none" or expect is None:
        return steps.multiplier
    if rule == "mc":
        actual = over_rollouts(now.paths, jnp.sum(now.paths.costs, axis=1))
    else:
        actual = expect(now.learned, teacher.controller(now.learned) if rule == "classic" else now.pi())
    foreseen, came = steps.before - steps.predicted, steps.before - actual
    least = 1e-4 * jnp.abs(foreseen) + jnp.finfo(foreseen.dtype).tiny
    factor = jnp.clip(foreseen / (2 * jnp.maximum(least, foreseen - came)), 0.1, 5.0)
    known = jnp.isfinite(foreseen) & ~jnp.isnan(came)  # a cost that exploded is a step too far
    return jnp.clip(steps.multiplier * jnp.where(known, factor, 1.0), *bounds)


def check_rule(rule: str, bounds: tuple[float, float], allowed: tuple[str, ...] = get_args(StepRule)) -> None:
    """Raise on settings that cannot work."""
    if rule not in allowed:
        raise ValueError(f"step_rule must be one of {', '.join(allowed)}, got {rule!r}")
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"multipliers must be 0 < least <= largest, got {bounds}")

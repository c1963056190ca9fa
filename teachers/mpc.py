"""Model-predictive control from the full state: replan at every step, with a closed-loop warm start."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from gps.plant import in_every_context
from gps.rollout import clip_control
from gps.types import Action, Env, Teacher
from teachers.ilqr import ilqr
from teachers.planner import Planner, label, planning_model, usable

__all__ = ["mpc"]

REPLANNER = functools.partial(ilqr, grid=(0.5, 0.2, 0.05))
"""Few step sizes: what is not found now is found at the next control step."""


def mpc(
    env: Env,
    horizon: int | None = None,
    iterations: int = 1,
    *,
    initial_iterations: int = 50,
    start: Float[Array, " nu"] | None = None,
    planner: Callable[..., Planner] = REPLANNER,
    value: Callable[[Float[Array, " nx"]], Float[Array, ""]] | None = None,
    max_curvature: float = math.inf,
) -> Teacher:
    """The teacher that plans on `env.planning` (or `env`) at every control step, from its shifted last plan.

    iLQR's last plan, shifted by a step, is rolled out *with its feedback* from the state that really
    occurred (Tassa, Erez & Todorov 2012, section IV); shifting the controls alone makes the labels of
    states off the plan worthless. Its replan of one iteration costs that rollout, one linearisation per
    knot, a backward pass and one rollout of the line search. Under `vmap` its grid runs for the whole
    batch whenever one member rejects its full step: that is why `REPLANNER`'s grid is short.

    The action's mean is the plan's first control, its covariance Quu⁻¹, of a planner that samples that of its
    samples; Quu and q belong to the state acted in. Its status is zero or a `SolveStatus`, NOT_PD or
    DIVERGED; its numbers are finite either way. A plan that diverged is dropped for `start`.

    Args:
        env: the task, bound to its context.
        horizon: control steps that a plan looks ahead, `env.horizon` unless given.
        iterations: of the planner at each control step.
        initial_iterations: of the planner at the start of an episode; 0 for none.
        start: constant control of the first plan, by default the one in the limits nearest to zero.
        planner: called as planner(model, horizon=…, iterations=…); `functools.partial` sets the rest.
        value: x → cost to go where a plan ends, in place of the task's final cost: what lies beyond a horizon
            that is shorter than the task.
        max_curvature: labels whose Quu has a larger norm have Quu, q and Σ⁻¹ scaled down to it, in the
            planner's units of Quu. Where a plan cannot avoid a fall, derivatives through it are chaos: on a
            double pendulum Quu is 26 about upright and 10⁹ on its way down, and a student would learn nothing
            else. PLATO then weighs the teacher less there, and its `regret` is counted in the smaller units.

    Raises:
        ValueError: the planning model's control step or sizes are not those of `env`, or a setting that no
            plan can have.
    """
    model = planning_model(env)
    if initial_iterations < 0:
        raise ValueError(f"initial_iterations must be at least 0, came {initial_iterations}")
    if not max_curvature > 0:
        raise ValueError(f"max_curvature must be positive, came {max_curvature}")
    if start is not None and jnp.shape(start) != (env.nu,):
        raise ValueError(f"start must be one control of shape ({env.nu},), came shape {jnp.shape(start)}")
    if value is not None:
        model = in_every_context(model, lambda task: task._replace(final_cost=_valued(value)))
    horizon = env.horizon if horizon is None else horizon
    replan = planner(model, horizon=horizon, iterations=iterations)
    first = planner(model, horizon=horizon, iterations=max(1, initial_iterations))
    T = replan.horizon

    def blank(x0: Array) -> PyTree:
        u = jnp.zeros(env.nu, x0.dtype) if start is None else jnp.asarray(start, x0.dtype)
        us = jnp.broadcast_to(clip_control(u, model.limits)[None], (T, env.nu))
        return replan.begin(jnp.nan_to_num(x0), us)

    def init(key: Array, x0: Float[Array, " nx"]) -> PyTree:
        x0 = jnp.asarray(x0)
        fresh = blank(x0)
        if initial_iterations == 0:
            return fresh
        solution, guess = first.improve(key, x0, fresh)
        return usable(solution, guess, fresh)

    def act(key: Array, state: PyTree, x: Float[Array, " nx"], t: Int[Array, ""]) -> tuple[Action, PyTree]:
        x = jnp.asarray(x)
        solution, guess = replan.improve(key, x, state, t)
        return label(solution, max_curvature), usable(solution, replan.shift(guess), blank(x))

    return Teacher(init, act)


def _valued(value: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    def final_cost(x: Array, y: Array) -> Array:
        worth = jnp.asarray(value(x), x.dtype)
        if worth.shape:
            raise ValueError(f"value must be a number for a state x, came an array of shape {worth.shape}")
        return worth

    return final_cost

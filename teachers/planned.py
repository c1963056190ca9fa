"""Plan a whole episode when it begins, then keep to the plan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gps.rollout import clip_control
from gps.types import Action, Env, Teacher
from teachers.ilqr import ilqr
from teachers.planner import Planner, Solution, SolveStatus, label, planning_model

__all__ = ["planned"]


def planned(
    env: Env,
    horizon: int | None = None,
    iterations: int = 50,
    *,
    start: Float[Array, " nu"] | Float[Array, "T nu"] | None = None,
    planner: Callable[..., Planner] = ilqr,
) -> Teacher:
    """The teacher that plans once, on `env.planning` (or `env`), and then follows the plan and its feedback.

    Plans that all begin with the same good `start` are alike from episode to episode, which helps a student
    of few demonstrations; a planner that samples anew at every control step shows something else each time.
    An episode costs one solve, and so does each world that a loop keeps in reserve (`gps.episodes`).

    The label in a state x off the plan is u + K (x ⊖ x̄), within the limits; its Q(u) is that of the plan's
    expansion there, but for controls that the plan has at a limit, whose share of x is not known. Planners
    that sample have no feedback: their labels are the plan's controls in any state, good for demonstrations
    and behaviour cloning, not for DAgger or PLATO. Status as of `teachers.mpc`, for the whole plan where the
    solve diverged.

    Args:
        env: the task, bound to its context.
        horizon: control steps of the plan, `env.horizon` unless given; later its last control is held.
        iterations: of the planner.
        start: controls that the solve begins with, constant or one for each step of the plan; by default the
            control in the limits nearest to zero.
        planner: called as planner(model, horizon=…, iterations=…); `functools.partial` sets the rest.

    Raises:
        ValueError: a planning model that is not of this task, or a start of another shape or not finite.
    """
    model = planning_model(env)
    plan = planner(model, horizon=env.horizon if horizon is None else horizon, iterations=iterations)
    T = plan.horizon
    if start is not None and jnp.shape(start) not in ((env.nu,), (T, env.nu)):
        raise ValueError(
            f"start must be a control of shape ({env.nu},) or a plan of shape {(T, env.nu)}, came shape "
            f"{jnp.shape(start)}"
        )
    if start is not None and not isinstance(start, Tracer) and not np.all(np.isfinite(start)):
        raise ValueError("start must be finite: it has NaN or infinite controls")

    def within(u: Float[Array, " nu"]) -> Float[Array, " nu"]:
        return clip_control(u, model.limits)

    def init(key: Array, x0: Float[Array, " nx"]) -> Solution:
        x0 = jnp.asarray(x0)
        known = jnp.all(jnp.isfinite(x0))
        x0 = jnp.nan_to_num(x0)
        us = jnp.zeros(env.nu, x0.dtype) if start is None else jnp.asarray(start, x0.dtype)
        us = jax.vmap(within)(jnp.broadcast_to(us, (T, env.nu)))
        solution = plan.improve(key, x0, plan.begin(x0, us))[0]
        return solution._replace(status=jnp.where(known, solution.status, SolveStatus.DIVERGED))

    def act(
        key: Array, state: Solution, x: Float[Array, " nx"], t: Int[Array, ""]
    ) -> tuple[Action, Solution]:
        i = jnp.minimum(t, T - 1)
        law = jax.tree.map(lambda leaf: leaf[i], state.controller)
        law = law._replace(K=jnp.where(t < T, law.K, 0))
        change = law.K @ model.minus(jnp.asarray(x), law.xs)
        here = state._replace(
            controller=jax.tree.map(lambda leaf: leaf[None], law._replace(us=within(law.us + change))),
            Quu=state.Quu[i][None],
            q=(state.q[i] - state.Quu[i] @ change)[None],
            definite=state.definite[i][None],
        )
        return label(here), state

    return Teacher(init, act)

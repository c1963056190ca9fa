"""Plan a whole episode when it begins, then keep to the plan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gps.rollout import clip_control
from gps.types import Action, Env, Teacher
from teachers.ilqr import ilqr
from teachers.mpc import label, planning_model
from teachers.planner import Planner, Solution

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

    It costs one solve per episode, where `teachers.mpc` costs one per control step, and it is steadier: a
    planner that samples chooses anew at every replan what does not matter, and so shows something else in
    each episode. Plans that all begin with the same good `start` are alike from episode to episode, which is
    what a student of few demonstrations needs. It does not react to what its plan has no feedback for.

    The label in a state x off the plan is u + K (x ⊖ x̄), its Q(u) that of the plan's expansion there. Where
    the solve failed all labels have its `SolveStatus`.

    Args:
        env: the task, bound to its context.
        horizon: control steps of the plan, `env.horizon` unless given; later its last control is held.
        iterations: of the planner.
        start: controls that the solve begins with, constant or one for each step of the plan; by default the
            control in the limits nearest to zero.
        planner: called as planner(model, horizon=…, iterations=…); `functools.partial` sets the rest.

    Raises:
        ValueError: a planning model that is not of this task, or a start of another shape.
    """
    model = planning_model(env)
    plan = planner(model, horizon=horizon, iterations=iterations)
    T = plan.horizon
    if start is not None and jnp.shape(start) not in ((env.nu,), (T, env.nu)):
        raise ValueError(
            f"start must be a control of shape ({env.nu},) or a plan of shape {(T, env.nu)}, came shape "
            f"{jnp.shape(start)}"
        )

    def init(key: Array, x0: Float[Array, " nx"]) -> Solution:
        x0 = jnp.nan_to_num(jnp.asarray(x0))
        us = jnp.zeros(env.nu, x0.dtype) if start is None else jnp.asarray(start, x0.dtype)
        us = jax.vmap(lambda u: clip_control(u, model.limits))(jnp.broadcast_to(us, (T, env.nu)))
        return plan.improve(key, x0, plan.begin(x0, us))[0]

    def act(
        key: Array, state: Solution, x: Float[Array, " nx"], t: Int[Array, ""]
    ) -> tuple[Action, Solution]:
        law = jax.tree.map(lambda leaf: leaf[jnp.minimum(t, T - 1)], state.controller)
        law = law._replace(K=jnp.where(t < T, law.K, 0))
        away = law.K @ model.minus(jnp.asarray(x), law.xs)
        i = jnp.minimum(t, T - 1)
        Quu = state.Quu[i]
        here = state._replace(
            controller=jax.tree.map(lambda leaf: leaf[None], law._replace(us=law.us + away)),
            Quu=Quu[None],
            q=(state.q[i] - Quu @ away)[None],
            definite=state.definite[i][None],
        )
        return label(here), state

    return Teacher(init, act)

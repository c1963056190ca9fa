"""What planners have in common: how they are called, and what comes back."""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gps.types import Action, Env, Gaussian, LinearGaussian, Status, Trajectory

__all__ = [
    "Planner",
    "Solution",
    "SolveStatus",
    "Trace",
    "check_length",
    "check_start",
    "label",
    "later",
    "planning_model",
    "usable",
]


class SolveStatus(IntEnum):
    """How a solve ended (an int32 inside jitted programs)."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    """Out of iterations; what was found is good as far as it goes."""
    LINE_SEARCH_FAILED = 2
    """No step was accepted at the largest μ: nothing is better within rounding, or derivatives are wrong."""
    NOT_PD = 3
    """Quu was not positive definite at the largest regularisation."""
    DIVERGED = 4
    """The warm start itself diverged in simulation, or all that was sampled."""
    RUNNING = 5
    """Never returned by a solve; in a trace: this iteration was not the last."""


class Solution(NamedTuple):
    """A plan, and the local model around it."""

    trajectory: Trajectory
    controller: LinearGaussian
    """Around `trajectory`. iLQR: with its feedback, Σ = Quu⁻¹. Planners that sample: no feedback, Σ that of
    what was last sampled."""
    Quu: Float[Array, "T nu nu"]
    """Unregularised, like q: of the last expansion, made before the last accepted step.
    Zero where it overflowed. Σ⁻¹ for planners that sample."""
    q: Float[Array, "T nu"]
    """Q(u) = ½ uᵀQuu u + qᵀu in absolute controls, at the nominal state."""
    definite: Bool[Array, " T"]
    """Quu is positive definite; elsewhere Σ comes from the regularised one."""
    cost: Float[Array, ""]
    mu: Float[Array, ""]
    """Regularisation at the end; 0 where there is none."""
    iterations: Int[Array, ""]
    status: Int[Array, ""]
    """A `SolveStatus`."""


class Trace(NamedTuple):
    """One row per iteration (backward pass and line search); zero beyond `Solution.iterations`."""

    cost: Float[Array, " iterations"]
    """After the iteration."""
    alpha: Float[Array, " iterations"]
    """Accepted step; 0 where none was."""
    mu: Float[Array, " iterations"]
    """Used in the iteration's backward pass."""
    expected: Float[Array, " iterations"]
    """Decrease that the quadratic model promised for `alpha`, or for the full step if none was accepted."""
    actual: Float[Array, " iterations"]
    gradient: Float[Array, " iterations"]
    """mean over t of max |k| / (|u| + 1), Tassa's measure of convergence."""
    status: Int[Array, " iterations"]


class Planner(NamedTuple):
    """Looks ahead from a state; `teachers.mpc` makes a teacher of any.

    Made by a factory (env, horizon, iterations, …): `ilqr`, `mppi`, `cem`, …. What a planner carries from one
    call to the next is its guess, a pytree of its own.
    """

    horizon: int
    begin: Callable[..., PyTree]
    """(x0, warm) → guess; `warm` is controls [T, nu], or a `LinearGaussian`."""
    improve: Callable[..., tuple[Solution, PyTree]]
    """(key, x0, guess, t0=0) → (Solution, guess); `t0` is the control step at which the plan starts. Planners
    without chance in them do not read the key."""
    shift: Callable[[PyTree], PyTree]
    """guess → guess, one control step later."""
    solve: Callable[..., tuple[Solution, PyTree]]
    """(x0, warm, t0=0, …) → (Solution, what happened in each iteration): a solve from nothing but `warm`."""


# ------------------------------------------------------------------------ what planners share


def check_length(env: Env, horizon: int | None, iterations: int) -> int:
    """Control steps of a plan, `env.horizon` unless given.

    Raises:
        ValueError: less than one, or less than one iteration.
    """
    T = env.horizon if horizon is None else horizon
    if T < 1 or iterations < 1:
        raise ValueError(f"a planner needs horizon >= 1 and iterations >= 1, came {T} and {iterations}")
    return T


def check_start(env: Env, x0: Array, us: Array, T: int) -> None:
    """Raise ValueError unless a plan can begin in the state, with these controls."""
    if jnp.shape(x0) != (env.nx,):
        raise ValueError(f"x0 must be a state of shape (nx,) = ({env.nx},), came {jnp.shape(x0)}")
    nu = env.nu
    if us.shape != (T, nu):
        raise ValueError(f"warm start must be [T, nu] = {(T, nu)}, came {us.shape}")


def later(rows: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    """Rows one control step later; the last is repeated."""
    return jnp.concatenate([rows[1:], rows[-1:]])


def usable(solution: Solution, guess: PyTree, fresh: PyTree) -> PyTree:
    """`guess`, or a fresh one where the solve diverged or met numbers that are not finite."""
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(guess)])
    sound = jnp.all(finite) & (solution.trajectory.status == Status.OK) & jnp.isfinite(solution.cost)
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), guess, fresh)


def planning_model(env: Env) -> Env:
    """The model that a teacher of `env` plans on.

    Raises:
        ValueError: its control step or sizes are not those of `env`.
    """
    model = env if env.planning is None else env.planning
    sizes, wanted = (model.nx, model.ndx, model.nu, model.dt), (env.nx, env.ndx, env.nu, env.dt)
    if sizes[:3] != wanted[:3] or not math.isclose(model.dt, env.dt):
        raise ValueError(
            f"planning model must share (nx, ndx, nu, dt) = {wanted} with its env, came {sizes}: "
            "plan with coarser engine steps inside the same control step"
        )
    return model


def label(solution: Solution, max_curvature: float = math.inf) -> Action:
    """That of a plan's first state, its Q(u) and covariance scaled alike; finite in any case."""
    u, cov, K = solution.controller.us[0], solution.controller.cov[0], solution.controller.K[0]
    scale = jnp.minimum(1.0, max_curvature / jnp.linalg.norm(solution.Quu[0]))
    parts = (u, cov / scale, scale * solution.Quu[0], scale * solution.q[0])
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts]))
    eye = jnp.eye(u.shape[0], dtype=u.dtype)
    mean, cov, Quu, q = (
        jnp.where(finite, part, stand_in)
        for part, stand_in in zip(parts, (jnp.nan_to_num(u), eye, eye, -jnp.nan_to_num(u)), strict=True)
    )
    indefinite = ~solution.definite[0] | (solution.status == SolveStatus.NOT_PD)
    lost = ~finite | (solution.status == SolveStatus.DIVERGED)
    status = jnp.where(lost, SolveStatus.DIVERGED, jnp.where(indefinite, SolveStatus.NOT_PD, 0))
    K = jnp.where(jnp.all(jnp.isfinite(K)), K, 0)
    return Action(Gaussian(mean, cov), Quu, q, status.astype(jnp.int32), K)

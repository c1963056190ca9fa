"""BADMM-GPS: guided policy search with Bregman ADMM (Levine, Finn, Darrell & Abbeel, JMLR 2016)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.algorithms.guided import CStep, Method, Now, Plan, guided
from gps.algorithms.mdgps import check_epsilon, report
from gps.algorithms.phases import Linearisation, improve_near, over_rollouts
from gps.algorithms.step_rules import OWN_RULES, StepRule, Steps, adjust, check_rule, first_steps, foresee
from gps.algorithms.supervise import Supervision, Targets
from gps.gaussian import Gaussian
from gps.types import Algorithm, Env, KLTerm, LinearGaussian, LocalTeacher, Student, Trajectory

__all__ = ["Duals", "badmm"]

FAR, NEAR = 2.0, 0.5
"""A step's divergence beyond these shares of the trajectory's mean doubles or halves its weight."""
WEIGHTS = (1e-4, 1e4)
"""Least and largest ν, in units of the first one."""


class Duals(NamedTuple):
    """What ties a controller to the student."""

    multiplier: Float[Array, "T nu"]
    """λ_t."""
    weight: Float[Array, " T"]
    """ν_t."""
    steps: Steps
    """Of the trust region."""


def badmm(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    weight: float = 0.01,
    dual_rate: float = 0.1,
    rounds: int = 4,
    step_rule: StepRule = "classic",
    epsilon: float = 1.0,
    multipliers: tuple[float, float] = (0.01, 1.0),
    linearisation: Linearisation = "exact",
    conditions: int | None = None,
    samples: int = 5,
    updates: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    copies: int = 3,
    jitter: float = 1.0,
    test_conditions: int = 8,
) -> Algorithm:
    """Solve min E_p[Σ c] subject to p(u|x) = π_θ(u|x), by the augmented Lagrangian with multipliers on E[u].

    Each iteration alternates `rounds` times on the same rollouts:

        λ_t ← λ_t + α ν_t (E[μ_θ(x_t)] − E[μ_p(x_t)])
        p ← argmin Σ_t E_p[c_t − uᵀλ_t] + ν_t KL(p ‖ π_θ)  within KL(p ‖ p_before) ≤ ε T · multiplier
        θ ← argmin Σ_t E[uᵀλ_t] + ν_t KL(π_θ ‖ p), a regression to the labels' mean less Σ_p λ_t / ν_t

    ν_t doubles where the two are further apart than `FAR` times the trajectory's mean, and halves where they
    are nearer than `NEAR` times.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy.
        weight: ν at first, cost per nat.
        dual_rate: α.
        rounds: per iteration.
        step_rule: how the trust region goes: none, classic or mc, see `step_rules.adjust`.
        epsilon: ε of the trust region, nats per control step.
        multipliers: least and largest multiplier of the trust region.
        linearisation: of the student: exact, or by regression over the rollouts for one that remembers.
        conditions: how many to draw at random; the task's own set by default.
        samples: rollouts per condition and iteration.
        updates: gradient updates per S-step.
        batch_size: labels per update.
        learning_rate: of Adam, falling to 0 within each S-step.
        copies: moved copies of each state that is labelled.
        jitter: how far they are moved, in standard deviations of the rollouts.
        test_conditions: others, in which the student is tried after each iteration; training never sees them.

    Raises:
        ValueError: settings that cannot work, or a task without conditions of its own and none asked for.
    """
    check_epsilon(epsilon)
    check_rule(step_rule, multipliers, OWN_RULES)
    if not weight > 0 or not dual_rate >= 0 or rounds < 1:
        raise ValueError(
            f"expected weight > 0, dual_rate >= 0 and rounds >= 1, got {weight}, {dual_rate} and {rounds}"
        )
    T = env.horizon

    def begin(x0: Array) -> Duals:
        lam, nu = jnp.zeros((T, env.nu), x0.dtype), jnp.full(T, weight, x0.dtype)
        return Duals(lam, nu, first_steps(x0.dtype))

    def c_step(bound: Env, teacher: LocalTeacher, now: Now, duals: Duals) -> CStep:
        pi = now.pi()
        gap, far = apart(bound, teacher.controller(now.local), pi, now.paths)
        nu = jnp.where(now.first, adapt(duals.weight, far, weight), duals.weight)
        lam = duals.multiplier + dual_rate * nu[:, None] * gap
        before = teacher.controller(now.learned)
        adjusted = adjust(step_rule, multipliers, duals.steps, teacher, now)
        multiplier = jnp.where(now.first, adjusted, duals.steps.multiplier)
        limit = epsilon * T * multiplier
        terms = [KLTerm(before, bound=limit), KLTerm(pi, weight=nu, multiplier=lam)]
        local, found = improve_near(teacher, now.learned, terms, limit)
        controller = teacher.controller(local)
        shift = jnp.einsum("tij,tj->ti", controller.cov, lam) / nu[:, None]
        targets = Targets(controller._replace(us=controller.us - shift), nu / jnp.mean(nu))
        steps = foresee(teacher, local, before, multiplier)
        info = report(found, limit, multiplier) | {"weight": jnp.mean(nu), "student_kl": jnp.sum(far)}
        return CStep(local, Duals(lam, nu, steps), targets, info)

    supervision = Supervision(updates, batch_size, learning_rate, copies, jitter)
    plan = Plan(samples, conditions, test_conditions, False, supervision, linearisation)
    return guided(env, make_teacher, student, Method(begin, c_step, rounds), plan)


def apart(
    env: Env, controller: LinearGaussian, pi: LinearGaussian, paths: Trajectory
) -> tuple[Float[Array, "T nu"], Float[Array, " T"]]:
    """E[μ_π(x_t)] − E[μ_p(x_t)] and E[KL(p ‖ π)] over the states of the rollouts."""

    def one(xs: Array) -> tuple[Array, Array]:
        def step(x: Array, p: LinearGaussian, q: LinearGaussian) -> tuple[Array, Array]:
            means = [c.us + c.K @ env.minus(x, c.xs) for c in (p, q)]
            return means[1] - means[0], Gaussian(means[0], p.cov).kl(Gaussian(means[1], q.cov))

        return jax.vmap(step)(xs, controller, pi)

    return over_rollouts(paths, jax.vmap(one)(paths.xs[:, :-1]))


def adapt(weight: Float[Array, " T"], far: Float[Array, " T"], unit: float) -> Float[Array, " T"]:
    """ν_t by how far apart the two are at each step."""
    mean = jnp.mean(far)
    factor = jnp.where(far > FAR * mean, 2.0, jnp.where(far < NEAR * mean, 0.5, 1.0))
    factor = jnp.where(jnp.isfinite(mean), factor, 1.0)
    return jnp.clip(weight * factor, WEIGHTS[0] * unit, WEIGHTS[1] * unit)

"""Coaching: the teacher shows what it would do if it cared to be followed (He, Daumé & Eisner, NIPS 2012)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.algorithms.dagger import mixture_drives
from gps.algorithms.imitation import Budget, ImitationState, imitation
from gps.plant import in_every_context
from gps.types import Algorithm, Cost, Env, ResidualCost, Student, Teacher
from students.losses import LossName


def coaching(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    price: float = 0.1,
    beta: float = 0.5,
    window: int | None = None,
    iterations: int = 8,
    num_worlds: int = 8,
    num_steps: int = 150,
    updates: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    loss: LossName = "kl",
    test_worlds: int = 16,
) -> Algorithm:
    """DAgger whose teacher plans with a price on every control that is not the student's.

    From iteration 1 on the cost of a planned step is c(x, u) + price · ‖u − π(o)‖², π the student so far, and
    planners that sample try the student's own course too: among plans that are about as good, the teacher
    takes the one that the student is nearest to. What one state is labelled with then depends less on chance
    and on the plan before, which is what defeats imitation where a planner samples or has many optima, and
    every label is a small step from where the student is. (He et al. take such "hope actions" one step at a
    time; the price along the whole plan is that of Pinneri et al. 2021, arXiv:2011.07051.)

    Since labels follow the student, those of early iterations grow stale: `window` lets go of them.

    The teacher plans alone in iteration 0, while the student knows nothing, and drives all of it; from then
    on it drives each step with probability beta, else the student does.

    Args:
        env: the task. What the student sees must be a function of the state.
        make_teacher: Env → Teacher, called on the env bound to an episode's context, with a `planning` model
            whose cost has the price in it: any `teachers.mpc`.
        student: the policy, without memory.
        price: units of cost per squared unit of the control, summed over the controls.
        beta: share of the steps that the teacher drives, in [0, 1].
        window: iterations whose labels the student learns from, the last ones; None: all.
        iterations: of collecting and fitting.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates: gradient updates per iteration.
        batch_size: labels per update.
        learning_rate: of Adam, decayed over the last iterations.
        loss: what the student minimises over the labels, see `students.losses`.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: the price is negative, beta not a share, the window empty, an observation or a student
            that remembers, or a noisy observation.
    """
    if not 0 <= price < math.inf:
        raise ValueError(f"price must be at least 0 and finite, got {price}")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    if student.unroll is not None or jax.tree.leaves(env.observer.init(jax.random.key(0))):
        raise ValueError(
            "coaching asks the student about planned states: neither it nor what it sees may have a memory, "
            "take a student without one and an env without history, delay or differences"
        )
    if _noisy(env):
        raise ValueError("coaching asks the student about planned states: what it sees must not be noisy")

    def coached(state: ImitationState, bound: Env) -> Env:
        now = jnp.where(state.iteration > 0, price, 0.0)

        def follow(x: Array, u: Array) -> Array:
            obs, _ = bound.observer.observe(jax.random.key(0), (), x, bound.sense(x, u), jnp.zeros_like(u))
            return student.apply(state.fit.variables, obs, student.initial_carry(obs))[0].mode()

        return _coached(bound, follow, now)

    def schedule(state: ImitationState) -> Array:
        return jnp.where(state.iteration == 0, 1.0, beta)

    budget = Budget(iterations, num_worlds, num_steps, updates, batch_size, learning_rate, test_worlds)
    return imitation(
        env,
        make_teacher,
        student,
        mixture_drives,
        schedule,
        budget,
        loss=loss,
        window=window,
        coached=coached,
    )


def _coached(env: Env, follow: Callable[[Array, Array], Array], price: Float[Array, ""]) -> Env:
    """`env`, bound, planned on a model that pays for u ≠ follow(x, u), and where following is a plan to try.

    Derivatives leave the student out: its slopes are not the task's.
    """

    def apart(x: Array, u: Array) -> Array:
        return u - jax.lax.stop_gradient(follow(x, u)).astype(u.dtype)

    def paid(difference: Array) -> Array:
        return price.astype(difference.dtype) * jnp.sum(difference**2)

    def priced(cost: Cost) -> Cost:
        if isinstance(cost, ResidualCost):
            return ResidualCost(
                lambda x, u, y, t: jnp.concatenate([cost.residual(x, u, y, t), apart(x, u)]),
                lambda r: cost.norm(r[: -env.nu]) + paid(r[-env.nu :]),
            )
        return lambda x, u, y, t: cost(x, u, y, t) + paid(apart(x, u))

    def change(model: Env) -> Env:
        return model._replace(cost=priced(model.cost), proposal=lambda x, t: follow(x, jnp.zeros(env.nu)))

    model = env if env.planning is None else env.planning
    return env._replace(planning=in_every_context(model, change))


def _noisy(env: Env) -> bool:
    """Whether an observation of one state depends on chance."""
    key = jax.random.key(0)
    bound = env.bind(env.sample_context(key))
    x, u = bound.init(key), jnp.zeros(env.nu)
    y = bound.sense(x, u)
    once, again = (bound.observer.observe(jax.random.key(i), (), x, y, u)[0] for i in (1, 2))
    return not jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b, equal_nan=True), once, again))

"""The S-step of guided policy search: teach the student what the local teachers would do where it matters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from gps.conditions import Conditions
from gps.dataset import single
from gps.gaussian import inverse_spd
from gps.placement import student_jit
from gps.rollout import clip_control, observations
from gps.types import Dataset, Env, LinearGaussian, Status, Student, Trajectory
from students.fit import Fit, FitState, adam, fit
from students.losses import kl, label_covariance
from students.policies import set_covariance, takes_covariance

__all__ = ["SStep", "Supervision", "Targets", "labels", "supervise"]


class Supervision(NamedTuple):
    """Settings of the S-step."""

    updates: int = 4000
    """Gradient updates in each."""
    batch_size: int = 256
    learning_rate: float = 1e-3
    """Of Adam, falling to 0 at the end of each S-step."""
    copies: int = 3
    """Moved copies of every state, see `labels`."""
    jitter: float = 1.0
    """How far they are moved, in standard deviations of the rollouts."""


class Targets(NamedTuple):
    """What the student is to imitate in one condition."""

    controller: LinearGaussian
    weight: Float[Array, " T"]


class SStep(NamedTuple):
    """Made by `supervise`."""

    init: Callable[[Key[Array, ""], Dataset], FitState]
    """(key, example row) → state."""
    run: Callable[[Key[Array, ""], FitState, Dataset], tuple[FitState, dict[str, Array]]]
    """(key, state, labels) → (state, info)."""


def supervise(student: Student, settings: Supervision) -> SStep:
    """min_θ Σ KL(π_θ(u|x) ‖ p_i(u|x)) over the labels (Montgomery & Levine 2016, section 3).

    The mean by precision-weighted regression. The covariance in closed form, the inverse of the labels' mean
    precision, for a student made with covariance="labels"; else it is learned by the same loss. The input
    normalisation is that of everything seen since the start: inputs that change their scale between S-steps
    would undo what the network has learned.
    """
    optimizer = adam(settings.learning_rate, updates=settings.updates, decay=0.5, periodic=True)

    def fitter(closed: bool) -> Fit:
        return fit(
            student,
            kl(covariance=not closed),
            optimizer,
            batch_size=settings.batch_size,
            updates=settings.updates,
        )

    runs = {closed: student_jit(fitter(closed).run) for closed in (False, True)}

    def init(key: Key[Array, ""], row: Dataset) -> FitState:
        student_key, fit_key = jax.random.split(key)
        return fitter(True).init(fit_key, student.init(student_key, row.obs))

    def run(key: Key[Array, ""], state: FitState, data: Dataset) -> tuple[FitState, dict[str, Array]]:
        closed = takes_covariance(state.variables)
        state, info = runs[closed](key, state, data)
        variables = state.variables
        if closed:
            some = jnp.any(data.weight > 0)  # else every rollout was lost
            variables = set_covariance(
                variables, jnp.where(some, label_covariance(data), variables[0]["cov"])
            )
        return state._replace(variables=variables, start=variables[1]), info

    return SStep(init, run)


def labels(
    env: Env, settings: Supervision
) -> Callable[[Key[Array, ""], Conditions, Targets, Trajectory], Dataset]:
    """(key, conditions, targets, rollouts [M, N]) → labelled states [(1 + copies) M N T].

    `targets` are what to imitate, and how much it matters at each step: (controllers [M], weights [M, T]).

    Every state of every rollout with the Gaussian that the controller of its condition has there, and copies
    of it, moved in all directions: the feedback says what to do there too, and a student that knows has
    derivatives worth linearising. Copies are moved by N(0, jitter² σ²), σ the rollouts' standard deviation at
    that time (at least .3 of its mean over time, because all begin at one point). A student that remembers
    gets no copies: a moved state has no past. A mean beyond the limits is clipped to them, as it acts.
    Rollouts that diverged have weight 0. Contexts are fixed, hence no `key` in the rows.
    """
    memory = jax.tree.leaves(jax.eval_shape(env.observer.init, jax.eval_shape(lambda: jax.random.key(0))))
    copies = 0 if memory else settings.copies

    def run(key: Array, conditions: Conditions, targets: Targets, paths: Trajectory) -> Dataset:
        std = settings.jitter * _spread(env, conditions, paths)

        def one(key: Array, context: PyTree, target: Targets, paths: Trajectory) -> Dataset:
            return _rows(env.bind(context), key, target, paths, std, copies)

        keys = jax.random.split(key, conditions.x0.shape[0])
        rows = jax.vmap(one)(keys, conditions.context, targets, paths)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows._replace(next_slot=()))
        return single(flat)._replace(next_slot=jnp.int32(0))

    return run


# ------------------------------------------------------------------------------------- internals

LEAST_SPREAD = 0.3


def _spread(env: Env, conditions: Conditions, paths: Trajectory) -> Float[Array, "T ndx"]:
    """Standard deviation of the states within a condition, over all of them."""

    def one(context: PyTree, paths: Trajectory) -> Array:
        bound = env.bind(context)
        sound = (paths.status == Status.OK)[:, None, None]
        away = jax.vmap(jax.vmap(bound.minus), (0, None))(paths.xs[:, :-1], paths.xs[0, :-1])
        share = sound / jnp.maximum(jnp.sum(sound), 1)
        centred = away - jnp.sum(share * away, axis=0, keepdims=True)
        return jnp.sum(share * centred**2, axis=0)

    var = jnp.mean(jax.vmap(one)(conditions.context, paths), axis=0)
    return jnp.sqrt(jnp.maximum(var, LEAST_SPREAD**2 * jnp.mean(var, axis=0, keepdims=True)))


def _rows(env: Env, key: Array, target: Targets, paths: Trajectory, std: Array, copies: int) -> Dataset:
    """[(1 + copies) N T] rows of one condition."""
    controller = target.controller
    N, T = paths.us.shape[:2]
    rounds = 1 + copies
    observe_key, move_key = jax.random.split(key)
    precision = jax.vmap(inverse_spd)(controller.cov)

    def mode(x: Array, p: LinearGaussian) -> Array:
        return clip_control(p.us + p.K @ env.minus(x, p.xs), env.limits)

    steps = jnp.arange(T, dtype=jnp.int32)

    def one(key: Array, moved: Array, path: Trajectory) -> Dataset:
        xs = jax.vmap(env.plus)(path.xs[:-1], moved)
        mean = jax.vmap(mode)(xs, controller)
        none, number = jnp.zeros(T, bool), jnp.zeros(T, jnp.float32)
        return Dataset(
            obs=observations(env, key, jnp.concatenate([xs, path.xs[-1:]]), path.us),
            x=xs,
            t=steps,
            key=(),  # pyright: ignore[reportArgumentType] (no seed makes this context)
            action=path.us,
            log_prob=number,
            behaviour=jnp.zeros_like(steps),
            mean=mean,
            precision=precision,
            cost=path.costs[:-1],
            first=steps == 0,
            terminated=none,
            truncated=steps == T - 1,
            weight=jnp.where(path.status == Status.OK, target.weight, jnp.zeros(T)),
            next_slot=jnp.zeros((), jnp.int32),
        )

    draws = jax.random.normal(move_key, (rounds, N, T, env.ndx), std.dtype) * std[None, None]
    moved = draws.at[0].set(0).reshape(rounds * N, T, env.ndx)
    again = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * rounds), paths)
    rows = jax.vmap(one)(jax.random.split(observe_key, rounds * N), moved, again)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows._replace(next_slot=()))

"""What the guided policy search methods have in common: rollouts per condition, labels, step sizes, trials.

M conditions, N rollouts each, T control steps. A method's own file says in which order these are used.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gps.conditions import Conditions
from gps.gaussian import inverse_spd
from gps.linalg import cholesky
from gps.rollout import observations, student_rollout
from gps.types import Dataset, Env, LinearGaussian, LocalTeacher, Status, Student, Trajectory

__all__ = [
    "StepRule",
    "adjust",
    "along",
    "batched",
    "labelled",
    "mean_path",
    "roll_controllers",
    "roll_student",
    "trial",
]

StepRule = Literal["none", "classic", "global", "mc"]


def batched(
    env: Env, make_teacher: Callable[[Env], LocalTeacher], function: Callable[..., PyTree]
) -> Callable[..., PyTree]:
    """`function`(bound env, its teacher, …) over conditions: (contexts [M], … [M]) → … [M]."""

    def one(context: PyTree, *rows: PyTree) -> PyTree:
        bound = env.bind(context)
        return function(bound, make_teacher(bound), *rows)

    return jax.vmap(one)


def roll_controllers(
    env: Env, key: Array, controller: LinearGaussian, x0: Float[Array, " nx"], number: int
) -> Trajectory:
    """[N] rollouts of a linear-Gaussian controller in one condition."""
    L = jax.vmap(cholesky)(controller.cov)
    draws = jax.random.normal(key, (number, *controller.us.shape), controller.us.dtype)
    noise = jnp.einsum("tij,ntj->nti", L, draws)
    return jax.vmap(env.rollout, (None, None, 0))(x0, controller, noise)


def roll_student(
    env: Env, student: Student, key: Array, variables: PyTree, x0: Float[Array, " nx"], number: int
) -> Trajectory:
    """[N] rollouts of the student with its noise in one condition."""
    run = student_rollout(env, student)
    return jax.vmap(lambda k: run(k, variables, x0, 1.0)[0])(jax.random.split(key, number))


def mean_path(env: Env, trajectories: Trajectory) -> Float[Array, "T nx"]:
    """Mean of the sound rollouts of one condition, on the state's manifold."""
    sound = (trajectories.status == Status.OK).astype(trajectories.us.dtype)
    share = sound / jnp.maximum(jnp.sum(sound), 1)

    def mean(xs: Float[Array, "N nx"]) -> Array:
        ref = xs[jnp.argmax(sound)]
        return env.plus(ref, share @ jax.vmap(env.minus, (0, None))(xs, ref))

    return jax.vmap(mean, in_axes=1)(trajectories.xs[:, :-1])


def along(env: Env, controller: LinearGaussian, xs: Float[Array, "T nx"]) -> Float[Array, "T nu"]:
    """The controller's mean at other states."""
    return jax.vmap(lambda x, c: c.us + c.K @ env.minus(x, c.xs))(xs, controller)


def labelled(
    env: Env,
    key: Array,
    controller: LinearGaussian,
    trajectories: Trajectory,
    jitter: Float[Array, "T ndx"],
    copies: int,
) -> Dataset:
    """Rows [(1 + copies) N T] of one condition: the states of N rollouts, labelled by `controller`.

    Each state comes again `copies` times, moved by N(0, diag(jitter²)): the controller's feedback says what to
    do there. Rollouts that diverged have weight 0. The context is fixed, hence `key` empty.
    """
    N, T = trajectories.us.shape[:2]
    observe_key, move_key = jax.random.split(key)
    precision = jax.vmap(inverse_spd)(controller.cov)

    def one(key: Array, moved: Array, trajectory: Trajectory) -> Dataset:
        xs = jax.vmap(env.plus)(trajectory.xs[:-1], moved)
        obs = observations(env, key, jnp.concatenate([xs, xs[-1:]]), trajectory.us)
        steps = jnp.arange(T, dtype=jnp.int32)
        sound = trajectory.status == Status.OK
        flag, number = jnp.zeros(T, bool), jnp.zeros(T, jnp.float32)
        return Dataset(
            obs=obs,
            x=xs,
            t=steps,
            key=(),
            action=trajectory.us,
            log_prob=number,
            behaviour=jnp.zeros_like(steps),
            mean=along(env, controller, xs),
            precision=precision,
            cost=trajectory.costs[:-1],
            first=steps == 0,
            terminated=flag,
            truncated=steps == T - 1,
            weight=jnp.broadcast_to(sound, (T,)).astype(jnp.float32),
            next_slot=(),
        )

    rounds = 1 + copies
    draws = jax.random.normal(move_key, (rounds, N, T, env.ndx), jitter.dtype) * jitter[None, None]
    moved = draws.at[0].set(0).reshape(rounds * N, T, env.ndx)
    again = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * rounds), trajectories)
    rows = jax.vmap(one)(jax.random.split(observe_key, rounds * N), moved, again)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)


def adjust(
    multiplier: Array, before: Array, predicted: Array, actual: Array, bounds: tuple[float, float]
) -> Array:
    """The multiplier of the KL bound, from the improvement foreseen and the one that came.

    With the improvement as a·KL + b·KL², the best step is the present one times
    Δ_pred / (2 (Δ_pred − Δ_actual)) (Montgomery & Levine 2016, section 4.2); a factor in [.1, 5].

    Args:
        multiplier: now.
        before: expected cost of the policy that the last step began at.
        predicted: what the last step was to lead to, by the model that it was made with.
        actual: what it led to.
        bounds: least and largest multiplier.
    """
    foreseen, came = before - predicted, before - actual
    least = 1e-4 * jnp.abs(foreseen) + jnp.finfo(foreseen.dtype).tiny
    factor = jnp.clip(foreseen / (2 * jnp.maximum(least, foreseen - came)), 0.1, 5.0)
    known = jnp.isfinite(factor) & jnp.isfinite(foreseen)
    return jnp.clip(multiplier * jnp.where(known, factor, 1.0), *bounds)


def trial(
    env: Env, student: Student
) -> Callable[[Conditions, PyTree], tuple[Float[Array, " M"], dict[str, Float[Array, " M"]]]]:
    """(conditions, variables) → cost of the student's mode in each, and the figures of merit of its last state."""

    def one(context: PyTree, x0: Array, variables: PyTree) -> tuple[Array, dict[str, Array]]:
        bound = env.bind(context)
        path, _ = student_rollout(bound, student)(jax.random.key(0), variables, x0, 0.0)
        return jnp.sum(path.costs), last_metrics(bound, path)

    return lambda conditions, variables: jax.vmap(one, (0, 0, None))(*conditions, variables)


def last_metrics(env: Env, trajectory: Trajectory) -> dict[str, Array]:
    """Figures of merit of the state that a trajectory ends in."""
    if env.metrics is None:
        return {}
    return env.metrics(trajectory.xs[-1], jnp.zeros_like(trajectory.us[-1]))

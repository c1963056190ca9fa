"""Parts that guided policy search methods are made of: M conditions, N rollouts of T control steps in each.

`gps.algorithms.guided` puts them in order; the S-step has a file of its own, `gps.algorithms.supervise`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from gps.conditions import Conditions, draw_conditions
from gps.linalg import cholesky
from gps.rollout import student_rollout
from gps.types import Env, KLTerm, LinearGaussian, LocalTeacher, Status, Student, Trajectory
from students.linearize import linearise, regressed
from teachers.controllers import recenter

__all__ = [
    "COUNTED",
    "Linearisation",
    "batched",
    "counted",
    "explore",
    "improve_near",
    "last_metrics",
    "mean_path",
    "over_rollouts",
    "student_controller",
    "trial",
    "trial_of_locals",
    "trials",
]

COUNTED = {
    "rollouts": "episodes in the simulator while training, trials left out",
    "simulator_steps": "control steps of these",
    "trial_rollouts": "noise-free episodes of student and local controllers in the training conditions: the "
    "student's choose the iterate to keep, the others only measure",
    "lost_rollouts": "rollouts that diverged and were left out",
    "samples": "labelled states that the student learns from, moved copies included",
    "gradient_updates": "steps of the optimiser",
}
"""What a run spends. An iteration's info has each of them, and the sum since the start as `total_…`."""


def batched(
    env: Env, make_teacher: Callable[[Env], LocalTeacher], function: Callable[..., PyTree]
) -> Callable[..., PyTree]:
    """`function`(bound env, its teacher, …) over conditions: (contexts [M], … [M]) → … [M]."""

    def one(context: PyTree, *rows: PyTree) -> PyTree:
        bound = env.bind(context)
        return function(bound, make_teacher(bound), *rows)

    return jax.vmap(one)


# --------------------------------------------------------------------------------------- rollouts


def explore(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    samples: int,
    student: Student | None = None,
) -> Callable[..., tuple[PyTree, Trajectory, dict[str, Any]]]:
    """(key, conditions, local teachers [M], variables, student drives) → (teachers, rollouts [M, N], info).

    Rolls out `samples` times per condition, with noise, and lets the teachers learn from it. Without a
    `student` the last two arguments are not read. `info` has the sum of the rollouts' costs, the figures of
    merit of their last states and how many were lost, per condition.
    """

    def one(
        bound: Env, teacher: LocalTeacher, rows: tuple[PyTree, ...], variables: PyTree, own: Array | bool
    ) -> tuple[PyTree, Trajectory, dict[str, Any]]:
        key, x0, local = rows
        roll_key, learn_key = jax.random.split(key)
        paths = _roll_controller(bound, roll_key, teacher.controller(local), x0, samples)
        if student is not None:
            drive = student_rollout(bound, student)
            keys = jax.random.split(roll_key, samples)
            driven = jax.vmap(lambda k: drive(k, variables, x0, 1.0)[0])(keys)
            paths = jax.tree.map(lambda a, b: jnp.where(own, a, b), driven, paths)
        local, info = teacher.learn(learn_key, local, paths)
        ends = jax.vmap(lambda path: last_metrics(bound, path))(paths)
        info = {"lost": info["lost"], "cost": jnp.sum(paths.costs, axis=1), "metrics": ends}
        return local, paths, info

    def run(
        key: Array, conditions: Conditions, local: PyTree, variables: PyTree = (), own: Array | bool = False
    ) -> tuple[PyTree, Trajectory, dict[str, Any]]:
        M = conditions.x0.shape[0]
        over = batched(
            env, make_teacher, lambda bound, teacher, *rows: one(bound, teacher, rows, variables, own)
        )
        return over(conditions.context, jax.random.split(key, M), conditions.x0, local)

    return run


def _roll_controller(
    env: Env, key: Array, controller: LinearGaussian, x0: Float[Array, " nx"], number: int
) -> Trajectory:
    """[N] rollouts of a linear-Gaussian controller."""
    L = jax.vmap(cholesky)(controller.cov)
    draws = jax.random.normal(key, (number, *controller.us.shape), controller.us.dtype)
    noise = jnp.einsum("tij,ntj->nti", L, draws)
    return jax.vmap(env.rollout, (None, None, 0))(x0, controller, noise)


def last_metrics(env: Env, trajectory: Trajectory) -> dict[str, Array]:
    """Figures of merit of the state that a trajectory ends in."""
    if env.metrics is None:
        return {}
    return env.metrics(trajectory.xs[-1], jnp.zeros_like(trajectory.us[-1]))


def over_rollouts(paths: Trajectory, values: PyTree) -> PyTree:
    """Mean of `values` [N, …] over the sound rollouts of one condition; over all, where none is sound."""
    sound = _sound(paths)
    return jax.tree.map(lambda leaf: jnp.tensordot(sound / jnp.sum(sound), leaf, axes=1), values)


def mean_path(env: Env, trajectories: Trajectory) -> Float[Array, "T nx"]:
    """Mean of the sound rollouts of one condition, on the state's manifold; of all, where none is sound."""
    sound = _sound(trajectories)
    share = sound / jnp.sum(sound)

    def mean(xs: Float[Array, "N nx"]) -> Array:
        ref = xs[jnp.argmax(sound)]
        return env.plus(ref, share @ jax.vmap(env.minus, (0, None))(xs, ref))

    return jax.vmap(mean, in_axes=1)(trajectories.xs[:, :-1])


def _sound(trajectories: Trajectory) -> Float[Array, " N"]:
    sound = (trajectories.status == Status.OK).astype(trajectories.us.dtype)
    return jnp.where(jnp.any(sound > 0), sound, jnp.ones_like(sound))


# ----------------------------------------------------------------------------------------- C-step


Linearisation = Literal["exact", "regression"]


def student_controller(
    env: Env, student: Student, linearisation: Linearisation = "exact"
) -> Callable[[PyTree, Trajectory], LinearGaussian]:
    """(variables, rollouts [N]) → π̄, the student as a linear-Gaussian controller around their mean.

    The mean over the rollouts of the student linearised along each: gains that act on the states which really
    occur. Along one path alone a network's derivative can be wild in directions that no data bound, and its
    closed loop then explodes in any model. Or by regression, for a student that remembers.
    """
    if linearisation == "regression":
        over = regressed(env, student)
        return lambda variables, paths: recenter(
            over(variables, paths, _sound(paths)), mean_path(env, paths), env.minus, env.plus
        )
    along = linearise(env, student)

    def run(variables: PyTree, paths: Trajectory) -> LinearGaussian:
        middle = mean_path(env, paths)

        def one(xs: Array) -> LinearGaussian:
            return recenter(along(variables, xs), middle, env.minus, env.plus)

        return over_rollouts(paths, jax.vmap(one)(paths.xs[:, :-1]))._replace(xs=middle)

    return run


def improve_near(
    teacher: LocalTeacher, local: PyTree, terms: Sequence[KLTerm], bound: Array
) -> tuple[PyTree, dict[str, Array]]:
    """`teacher.improve` with `terms`, or where that has no answer, within `bound` of what it did itself.

    A student whose closed loop explodes in the fitted dynamics leaves no η to be found; the local teacher
    then improves on its own controller. `info` is of the step that was made; its `solved` of the
    first try.
    """
    near, info = teacher.improve(local, tuple(terms))
    alone, other = teacher.improve(local, (KLTerm(teacher.controller(local), bound=bound),))
    solved = info["solved"]
    local, info = jax.tree.map(lambda a, b: jnp.where(solved, a, b), (near, info), (alone, other))
    return local, info | {"solved": solved}


# ----------------------------------------------------------------------------------------- trials


def trial(
    env: Env, student: Student
) -> Callable[[Conditions, PyTree], tuple[Float[Array, " M"], dict[str, Float[Array, " M"]]]]:
    """(conditions, variables) → cost of the student's mode in each, figures of merit of its last state."""

    def one(context: PyTree, x0: Array, variables: PyTree) -> tuple[Array, dict[str, Array]]:
        bound = env.bind(context)
        path, *_ = student_rollout(bound, student)(jax.random.key(0), variables, x0, 0.0)
        lost = path.status != Status.OK
        return jnp.where(lost, jnp.inf, jnp.sum(path.costs)), last_metrics(bound, path)

    return lambda conditions, variables: jax.vmap(one, (0, 0, None))(*conditions, variables)


def trial_of_locals(
    env: Env, make_teacher: Callable[[Env], LocalTeacher]
) -> Callable[[Conditions, PyTree], tuple[Float[Array, " M"], dict[str, Float[Array, " M"]]]]:
    """(conditions, local teachers [M]) → the same of the controllers' means."""

    def one(bound: Env, teacher: LocalTeacher, x0: Array, local: PyTree) -> tuple[Array, dict[str, Array]]:
        controller = teacher.controller(local)
        path = bound.rollout(x0, controller, jnp.zeros_like(controller.us))
        lost = path.status != Status.OK
        return jnp.where(lost, jnp.inf, jnp.sum(path.costs)), last_metrics(bound, path)

    return lambda conditions, local: batched(env, make_teacher, one)(conditions.context, conditions.x0, local)


def trials(
    env: Env, make_teacher: Callable[[Env], LocalTeacher], student: Student, count: int
) -> Callable[[Conditions, PyTree, PyTree], dict[str, Array]]:
    """(training conditions, local teachers [M], variables) → costs and figures of merit without noise.

    Means, of local teachers and student, and of the student in `count` other conditions that training never
    sees.
    """
    try_student, try_locals = trial(env, student), trial_of_locals(env, make_teacher)

    def run(conditions: Conditions, local: PyTree, variables: PyTree) -> dict[str, Array]:
        tried = {"local": try_locals(conditions, local), "student": try_student(conditions, variables)}
        if count:
            fresh = draw_conditions(env, jax.random.key(TEST_SEED), count)
            tried["test"] = try_student(fresh, variables)
        return {
            f"{who}_{name}": jnp.mean(value)
            for who, (costs, ends) in tried.items()
            for name, value in ({"cost": costs} | ends).items()
        }

    return run


TEST_SEED = 0x7E57
"""The held-out conditions are the same in every iteration and every run."""


def counted(totals: dict[str, Int[Array, ""]], **spent: Array | int) -> tuple[dict, dict]:
    """(totals with what was `spent` added, the entries of an iteration's info)."""
    now = {name: int(spent.get(name, 0)) for name in COUNTED}
    totals = {name: total + now[name] for name, total in totals.items()}
    return totals, now | {f"total_{name}": total for name, total in totals.items()}

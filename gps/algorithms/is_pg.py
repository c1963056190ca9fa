"""Importance-sampled policy gradient, with demonstrations and old experience (Levine & Koltun 2013, §4)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from gps.algorithms.importance_objective import Paths, as_paths, windows_of
from gps.algorithms.importance_search import Begun, Guides, SearchPlan, imitate, importance_search
from gps.algorithms.likelihoods import distribution, log_probs
from gps.algorithms.trials import on_test_worlds
from gps.collect import student_samples
from gps.demonstrations import shaking
from gps.episodes import Drive, Steps, episodes, teacher_shakes
from gps.squashed import Squashed
from gps.types import Algorithm, Env, Gaussian, Student, Teacher

__all__ = ["Density", "is_pg"]

Density = Literal["fitted", "teacher"]


class Shown(NamedTuple):
    """What is kept of the demonstrations."""

    worlds: Key[Array, " M"]
    """`gps.episodes` begins each of the worlds from its key."""
    demonstrator: PyTree
    """Variables of the student that stands for the teacher; empty if the teacher is asked."""


def is_pg(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    density: Density = "fitted",
    conditions: int = 8,
    samples: int = 4,
    noise: float = 0.1,
    past: int = 8,
    pretrain_updates: int = 2000,
    updates: int = 200,
    learning_rate: float = 1e-3,
    keep: float = 0.5,
    regulariser: float = 1e-2,
    test_worlds: int = 16,
) -> Algorithm:
    """Demonstrations are draws from a distribution that knows where the reward is: weighed, not cloned.

    max_θ Σ_t [Σ_i w_t,i r_t,i / Σ_i w_t,i + w_r log Z_t] over the teacher's and all remembered episodes:
    w_t,i is the density of the episode's first t actions under the student, over that of the fusion of all
    that drove (see `gps.importance`). Episodes are weighed against those of the same world: among worlds, the
    estimate would rise as the policy forgets about the difficult ones.

    Args:
        env: the task.
        make_teacher: Env → Teacher, who shows whole episodes.
        student: the policy, whose distribution has a density everywhere; its covariance is learned.
        density: the demonstrator's: 'teacher', what it wanted in every state (it is asked in the student's
            episodes too) and the noise of its hand; or 'fitted', another student under which its actions are
            most likely, for teachers that are slow or that nobody can ask.
        conditions: worlds that it is trained in, drawn once.
        samples: episodes that are shown in each of them, and that the student drives in an iteration.
        noise: of the hand that shows them, in half-ranges of the limits.
        past: policies whose episodes are remembered.
        pretrain_updates: gradient updates of the first policy, by the likelihood of what was shown.
        updates: gradient updates per iteration at most, each on all episodes.
        learning_rate: of Adam at first; a quarter each time that it went where `keep` forbids.
        keep: share of the episodes that tell about the best policy (`gps.importance.effective_samples`) which
            have to tell about its successor.
        regulariser: w_r at first, in standard deviations of the return per nat and step; a tenth after an
            iteration that was better, tenfold after one that was not.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: settings that cannot work.
    """
    if min(conditions, samples) < 1 or density not in get_args(Density):
        known = ", ".join(get_args(Density))
        raise ValueError(
            f"conditions and samples must be at least 1, density one of {known}, got {conditions}, "
            f"{samples} and {density!r}"
        )
    if density == "teacher" and not noise > 0:
        raise ValueError("a teacher whose hand does not shake has no density: set noise, or density='fitted'")
    if test_worlds < 0:
        raise ValueError(f"test_worlds must be at least 0, got {test_worlds}")
    if distribution(env, student) is Squashed:
        raise ValueError(
            "a student that never leaves its limits has no density of what a shaking hand draws beyond: take "
            "students.mlp"
        )
    plan = SearchPlan(past, pretrain_updates, updates, learning_rate, keep, regulariser)
    spread, asked = jnp.asarray(shaking(env, noise)), density == "teacher"
    trials = on_test_worlds(env, student, test_worlds)
    fitted = imitate(student, env.limits, plan)

    def record(drive: Drive, teacher: bool) -> Callable[[Array, PyTree, PyTree, PyTree], Paths]:
        """(key, worlds, student's variables, settings of the drive) → [M, S] episodes."""
        whole = episodes(
            env,
            in_many_ways(drive),
            env.horizon,
            make_teacher=make_teacher if teacher else None,
            student=student if drive is student_samples else None,
            replace=False,
        )

        def run(key: Array, worlds: Array, variables: PyTree, settings: PyTree) -> Paths:
            one = lambda key: whole(worlds, variables, (key, settings))  # noqa: E731
            steps = jax.vmap(one)(jax.random.split(key, samples))
            return jax.vmap(jax.vmap(path, 1))(steps)  # [S, M]

        return lambda *args: jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), run(*args))

    def path(steps: Steps) -> Paths:
        wanted = steps.action.dist.mean if asked and steps.action is not None else ()
        return as_paths(steps.obs, steps.drawn, steps.reward, steps.alive, wanted)

    show, drive = record(teacher_shakes, True), record(student_samples, asked)

    def begin(key: Key[Array, ""]) -> Begun:
        world_key, show_key, fit_key = jax.random.split(key, 3)
        worlds = jax.random.split(world_key, conditions)
        paths = jax.tree.map(lambda leaf: leaf[:, None], show(show_key, worlds, (), spread))
        known = () if asked else fitted(fit_key, paths)
        steps = jnp.sum(paths.alive, dtype=jnp.int32)
        updates = 0 if asked else pretrain_updates
        return Begun(Shown(worlds, known), paths, jnp.int32(conditions * samples), steps, updates)

    def told(memory: Shown, paths: Paths) -> Array:
        if asked:
            law = lambda mean, u: Gaussian(mean, spread.astype(mean.dtype)).log_prob(u)  # noqa: E731
            return jax.vmap(jax.vmap(jax.vmap(law)))(paths.facts, paths.action)[:, None]

        each = lambda part: log_probs(student, memory.demonstrator, part, env.limits)[1]  # noqa: E731
        return jax.vmap(each)(windows_of(student, paths))[:, None]

    guides = Guides(
        begin,
        lambda key, memory, variables: drive(key, memory.worlds, variables, ()),
        told,
        lambda memory, variables: trials(variables),
    )
    return importance_search(env, student, guides, plan)


def in_many_ways(drive: Drive) -> Drive:
    """`drive` with settings (key, its own settings): in the same world it draws otherwise by another key."""

    def run(key: Array, settings: tuple[Array, PyTree], *rest: Any) -> tuple:
        words = jax.random.key_data(settings[0])
        for word in words:
            key = jax.random.fold_in(key, word)
        return drive(key, settings[1], *rest)

    return run

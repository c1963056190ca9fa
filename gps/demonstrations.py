"""Episodes that a teacher drives: labels for imitation, transitions for reinforcement learning."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from gps import recordings
from gps.dataset import single
from gps.episodes import Steps, episodes, teacher_drives, teacher_shakes
from gps.labels import as_dataset
from gps.placement import cpu_jit
from gps.recordings import Recording, as_labels, first
from gps.replay import Transition
from gps.types import Dataset, Env, Teacher

__all__ = ["Demonstrations", "as_transitions", "demonstrations", "outcomes", "shaking"]


class Demonstrations(NamedTuple):
    """Rows."""

    labels: Dataset
    transitions: Transition
    """Of all steps but the last of an episode that was cut: what came next is not known."""
    returns: Array
    """[W] the sum of rewards of each episode."""
    steps: Array
    """Control steps that it took."""


def demonstrations(
    env: Env, make_teacher: Callable[[Env], Teacher] | Recording, count: int, noise: float = 0.0
) -> Callable[[Key[Array, ""]], Demonstrations]:
    """Key → `count` whole episodes of the teacher, whose hand shakes; or the first ones that were recorded.

    `noise` is the standard deviation of what is added to its controls, in half-ranges of the limits. The
    labels are what it wanted: they show how to get back (Laskey et al. 2017).

    Raises:
        ValueError: none, or episodes of a single step, or noise that is negative, not finite, or without
            limits to be measured by; a recording of another task, or noise on it.
    """
    if isinstance(make_teacher, Recording):
        return _recorded(env, first(make_teacher, count), noise)
    if count < 1 or env.horizon < 2:
        raise ValueError(f"demonstrations need an episode of two steps, got {count} of {env.horizon}")
    cov = shaking(env, noise)
    driver, spread = (teacher_shakes, jnp.asarray(cov)) if noise else (teacher_drives, ())
    drive = episodes(env, driver, env.horizon, make_teacher=make_teacher, replace=False)

    @cpu_jit
    def record(key: Key[Array, ""]) -> Demonstrations:
        steps = drive(jax.random.split(key, count), (), spread)
        rows = as_dataset(steps)
        labels = single(rows)._replace(x=rows.x)
        returns = jnp.sum(jnp.where(steps.alive, steps.reward, 0), axis=0)
        return Demonstrations(labels, as_transitions(steps), returns, jnp.sum(steps.alive, dtype=jnp.int32))

    return record


def _recorded(env: Env, recording: Recording, noise: float) -> Callable[[Key[Array, ""]], Demonstrations]:
    if noise:
        raise ValueError(f"what was recorded cannot be shown again with noise: leave noise 0, got {noise}")
    labels, transitions = as_labels(recording, env), recordings.as_transitions(recording, env)
    returns = jnp.asarray([np.sum(recording.reward[i, :n]) for i, n in enumerate(recording.length)])
    shown = Demonstrations(labels, transitions, returns, jnp.int32(np.sum(recording.length)))
    return lambda key: shown


def shaking(env: Env, noise: float) -> Float[np.ndarray, "nu nu"]:
    """Covariance of a hand that shakes by `noise` half-ranges of the limits.

    Raises:
        ValueError: noise that is negative, not finite, or without limits to be measured by.
    """
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    half = (np.asarray(env.limits.high) - np.asarray(env.limits.low)) / 2
    if noise and not np.all(np.isfinite(half)):
        raise ValueError(f"{env.name}: noise is measured by the limits of the controls, which are not finite")
    return np.diag((noise * half) ** 2) if noise else np.zeros((env.nu, env.nu))


def outcomes(steps: Steps) -> tuple[PyTree, Bool[Array, "T W"]]:
    """(what was seen next, whether what came of a step is known) of episodes that were not replaced."""
    goes_on = jnp.concatenate([steps.alive[1:], jnp.zeros_like(steps.alive[:1])])
    following = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], leaf[-1:]]), steps.obs)
    return following, steps.alive & (goes_on | steps.failed)


def as_transitions(steps: Steps) -> Transition:
    """Rows [T W] of episodes that were not replaced.

    There are fewer steps whose outcome is known: some of them are there twice.
    """
    following, known = outcomes(steps)
    known = known.reshape(-1)
    rows = jnp.nonzero(known, size=known.shape[0], fill_value=-1)[0]
    rows = jnp.where(rows < 0, rows[jnp.arange(known.shape[0]) % jnp.maximum(jnp.sum(known), 1)], rows)
    whole = Transition(steps.obs, steps.u, steps.reward, following, steps.failed)
    return single(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[rows], whole))

"""A teacher that only knows what somebody once did: a person, or a robot that is not at hand."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gps.gaussian import Gaussian
from gps.recordings import Recording, check, is_there
from gps.types import Action, Env, Teacher

__all__ = ["recorded"]

UNKNOWN = 1
"""Status of a label: nothing was recorded near here."""


def recorded(
    env: Env, recording: Recording, *, tolerance: float = 1.0, nearest: int = 1, std: float = 0.1
) -> Teacher:
    """Does what was done in the recorded state next to where it is.

    The distance is Euclidean in the tangent space, every coordinate in standard deviations of what was
    recorded. It knows nothing of contexts: for tasks whose states say everything.

    Args:
        env: the task.
        recording: of it, with its physics states.
        tolerance: farther from all that was recorded it disowns its label.
        nearest: recorded states whose controls it takes the mean of.
        std: of its label, in half-ranges of the limits, or in units of the control where there is none.

    Raises:
        ValueError: a recording without states or of another task, or settings that cannot work.
    """
    check(recording, env)
    if recording.states is None:
        raise ValueError("this recording has no physics states: nobody can say what was done where")
    there = is_there(recording)
    if not (tolerance > 0 and std > 0 and 1 <= nearest <= there.sum()):
        raise ValueError(
            f"expected tolerance and std > 0 and 1 <= nearest <= {there.sum()}, got {tolerance}, {std} and "
            f"{nearest}"
        )
    xs, us = jnp.asarray(recording.states[:, :-1][there]), jnp.asarray(recording.action[there])
    away = jax.vmap(env.minus, (0, None))(xs, xs[0])
    spread = jnp.std(away, axis=0)
    scale = jnp.where(spread > 10 * jnp.finfo(xs.dtype).eps * jnp.max(spread), spread, 1)  # else constant
    half = (np.asarray(env.limits.high) - np.asarray(env.limits.low)) / 2
    cov = jnp.diag(jnp.asarray((std * np.where(np.isfinite(half), half, 1)) ** 2))
    precision = jnp.diag(1 / jnp.diag(cov))

    def act(key: Array, state: tuple, x: Array, t: Int[Array, ""]) -> tuple[Action, tuple]:
        apart = jnp.linalg.norm(jax.vmap(env.minus, (None, 0))(x, xs) / scale[None], axis=1)
        close, rows = jax.lax.top_k(-apart, nearest)
        mean = jnp.mean(us[rows], axis=0).astype(x.dtype)
        status = jnp.where(-close[0] <= tolerance, 0, UNKNOWN).astype(jnp.int32)
        gain = jnp.zeros((env.nu, env.ndx), x.dtype)
        label = Gaussian(mean, cov.astype(x.dtype))
        sharp = precision.astype(x.dtype)
        return Action(label, sharp, -sharp @ mean, status, gain), state

    return Teacher(lambda key, x0: (), act)

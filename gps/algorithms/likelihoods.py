"""How likely a student would have done what was done, over windows of consecutive steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gps.rollout import first_observation
from gps.types import Env, Gaussian, Limits, Student

__all__ = ["Windows", "distribution", "log_probs"]


class Windows(NamedTuple):
    """n windows of L consecutive steps."""

    obs: PyTree
    """[n, L, …]."""
    first: Bool[Array, "n L"]
    """Whether an episode begins here."""
    carry: PyTree
    """[n, …] what the student remembered when the window began."""
    action: Float[Array, "n L nu"]
    """As it was drawn, before it was clipped."""


def log_probs(
    student: Student, variables: PyTree, windows: Windows, limits: Limits
) -> tuple[Any, Float[Array, "n L"]]:
    """(distributions [n, L], log-probabilities of the actions).

    The mean of a Gaussian student is clipped to the limits, and derivatives pass through the clip: where it
    is at a limit already, nothing pushes it on. (It would drift off without end, for nothing that it does
    there is felt, and not find back.)
    """

    def window(obs: PyTree, first: Array, carry: PyTree, action: Array) -> tuple[Any, Array]:
        dists = student.apply_sequence(variables, obs, first, carry)
        if isinstance(dists, Gaussian):
            low, high = (jnp.asarray(side, dists.mean.dtype) for side in limits)
            dists = dists._replace(mean=jax.vmap(_held_inside, (0, None, None))(dists.mean, low, high))
        return dists, jax.vmap(lambda dist, u: dist.log_prob(u))(dists, action)

    return jax.vmap(window)(*windows)


def distribution(env: Env, student: Student) -> type:
    """The kind that the student's distribution is of."""

    def look() -> Any:
        key = jax.random.key(0)
        bound = env.bind(env.sample_context(key))
        obs = first_observation(key, bound, bound.init(key))
        return student.apply(student.init(key, obs), obs, student.initial_carry(obs))[0]

    return type(jax.eval_shape(look))


# ------------------------------------------------------------------------------------- internals


@jax.custom_vjp
def _held_inside(mean: Float[Array, " nu"], low: Float[Array, " nu"], high: Float[Array, " nu"]) -> Array:
    """`mean`; in a descent it is not pushed on where it has reached a limit."""
    return mean


def _held_forward(mean: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, Array]]:
    return mean, (mean <= low, mean >= high)


def _held_backward(at: tuple[Array, Array], slope: Array) -> tuple[Array, None, None]:
    low, high = at
    return jnp.where((low & (slope > 0)) | (high & (slope < 0)), 0, slope), None, None


_held_inside.defvjp(_held_forward, _held_backward)

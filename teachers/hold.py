"""Where local teachers begin: hold the first state, and try things."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gps.types import Env, LinearGaussian

__all__ = ["hold"]


def hold(
    env: Env, x0: Float[Array, " nx"], std: float = 0.3, stiffness: float = 0.0, damping: float = 0.0
) -> LinearGaussian:
    """The law u ~ N(−stiffness (q − q0) − damping q̇, std²) at every step.

    Args:
        env: the task.
        x0: first state.
        std: of the exploration, in units of the control.
        stiffness: units of the control per unit of position; it needs one control per degree of freedom.
        damping: likewise of velocity.

    Raises:
        ValueError: no exploration, or feedback for a task whose controls are not one per degree of freedom.
    """
    if not 0 < std < np.inf:
        raise ValueError(f"std must be positive and finite, got {std}: nothing is learnt without exploration")
    pushes = env.nv == env.nu and env.ndx == 2 * env.nu
    if (stiffness or damping) and not pushes:
        raise ValueError(
            f"{env.name} has {env.nu} controls for {env.nv or 'an unknown number of'} degrees of freedom and "
            f"{env.ndx} entries of state: stiffness and damping must be 0"
        )
    T, m, eye = env.horizon, env.nu, jnp.eye(env.nu, dtype=x0.dtype)
    K = jnp.concatenate([-stiffness * eye, -damping * eye], axis=1) if pushes else jnp.zeros((m, env.ndx))

    def each(row: Array) -> Array:
        return jnp.broadcast_to(row[None], (T, *row.shape)).astype(x0.dtype)

    return LinearGaussian(each(x0), jnp.zeros((T, m), x0.dtype), each(K), each(std**2 * eye))

"""Swing a pole up from where it hangs; what counts is only how long it stands.

State, control and what the student sees are those of `envs.cartpole`. The reward is 1 in each control step
that ends with the pole upright, else 0. The teacher spares the force more than that calls for: it brings
every pole up, late.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from envs import cartpole
from envs.mjcf import from_engine, load_model
from envs.mujoco import engine
from envs.observations import differences
from gps.types import Env

TEACHER = {"horizon": 30, "initial_iterations": 10}
STUDENT = {"hidden": (64, 64)}
SPARING = 12.0
"""Weight of the force in the teacher's cost; 1 in that of `envs.cartpole`."""


def cartpole_sparse(history: int = 4, horizon: int = 150) -> Env:
    """Swing a pole up and balance it, without seeing velocities, for a reward that is rare.

    Args:
        history: observations that the student knows at a time, see `envs.cartpole`.
        horizon: control steps of .04 s in an episode.
    """
    task = cartpole.swing(*cartpole.swing_cost(SPARING))
    task = task._replace(init=hanging, reward=lambda x, u, x_next: cartpole.upright(x_next))
    sim = engine(load_model(cartpole.ASSET), substeps=cartpole.SUBSTEPS)
    env = from_engine(sim, lambda context: task, horizon=horizon, name="cartpole_sparse")
    return differences(env, history)


def hanging(key: Array) -> Float[Array, " 4"]:
    """The pole within .3 rad of hanging; cart within .5 m; slow."""
    start_key, angle_key = jax.random.split(key)
    angle = jnp.pi + jax.random.uniform(angle_key, (), minval=-0.3, maxval=0.3)
    return cartpole.start(start_key).at[1].set(angle)

"""Swing a pole up and balance it by pushing its cart; the student sees no velocities.

State (4): cart position, pole angle (0 upright), their velocities. Control (1): force in [−1, 1], units of
10 N. The student sees cart position, cosine and sine of the angle now, and how these changed in the last few
control steps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.mjcf import Backend, Task, from_engine, load_model, simulator
from envs.observations import differences
from gps.costs import quadratic, residual_cost
from gps.types import Env, Mirror, ResidualCost

TEACHER = {"horizon": 40, "initial_iterations": 30}
"""Settings of `teachers.mpc` that solve the task, and of the student that learns it."""
STUDENT = {"hidden": (128, 128)}
WEIGHTS = (2.0, 0.5, 0.02, 0.02, 1.0)
"""Of direction, cart position, the two velocities and force. With a tenth of its weight the force sits on a
limit at half of the states off the teacher's path, and students do not learn where it changes sides."""
FINAL = (20.0, 5.0, 1.0, 1.0)
LEFT_IS_RIGHT = Mirror(lambda obs: obs * jnp.array([-1.0, 1.0, -1.0], obs.dtype), -np.eye(1))
ASSET = Path(__file__).parent / "assets" / "cartpole.xml"
SUBSTEPS = 2
UPRIGHT = 0.2
"""The pole counts as upright within this angle, rad."""
RAIL = 2.5
"""Leaving the rail ends the episode, m."""


def cartpole(history: int = 4, horizon: int = 150, backend: Backend = "c") -> Env:
    """Swing a pole up and balance it, without seeing velocities.

    Args:
        history: observations that the student knows at a time: one now, the others as `differences`.
        horizon: control steps of .04 s in an episode.
        backend: who computes the physics.
    """
    task, sim = swing(*swing_cost()), simulator(backend)(load_model(ASSET), substeps=SUBSTEPS)
    return differences(from_engine(sim, lambda context: task, horizon=horizon, name="cartpole"), history)


def swing(stage: ResidualCost, final: ResidualCost) -> Task:
    """The task by these costs."""
    return Task(
        cost=stage,
        final_cost=final,
        init=start,
        observe=lambda x, y: jnp.stack([x[0], jnp.cos(x[1]), jnp.sin(x[1])]),
        failed=off_the_rail,
        metrics=lambda x, u: {"upright": upright(x)},
        mirror=LEFT_IS_RIGHT,
    )


def swing_cost(force: float = WEIGHTS[-1]) -> tuple[ResidualCost, ResidualCost]:
    """Squares of posture and force (of weight `force`), and of the last posture."""
    sizes, norms = (2, 1, 1, 1, 1), (quadratic,) * 5
    return (
        residual_cost(
            lambda x, u, y, t: jnp.concatenate([_posture(x), u]), (*WEIGHTS[:-1], force), norms, sizes
        ),
        residual_cost(lambda x, y: _posture(x), FINAL, norms[:4], sizes[:4]),
    )


def off_the_rail(x: Float[Array, " 4"], y: Array) -> Array:
    """The cart left the rail."""
    return jnp.abs(x[0]) > RAIL


def start(key: Array) -> Float[Array, " 4"]:
    """The pole at any angle, or (half of the starts) hanging within .3 rad; cart within .5 m; slow."""
    keys = jax.random.split(key, 4)
    anywhere = jax.random.uniform(keys[0], (), minval=-jnp.pi, maxval=jnp.pi)
    hanging = jnp.pi + jax.random.uniform(keys[1], (), minval=-0.3, maxval=0.3)
    angle = jnp.where(jax.random.bernoulli(keys[2]), anywhere, hanging)
    rest = jax.random.uniform(keys[3], (3,), minval=-1.0, maxval=1.0) * jnp.array([0.5, 0.2, 0.2])
    return jnp.concatenate([rest[:1], angle[None], rest[1:]])


def upright(x: Float[Array, " 4"]) -> Float[Array, ""]:
    """1 where the pole is upright, else 0."""
    return jnp.where(jnp.cos(x[1]) > jnp.cos(UPRIGHT), 1.0, 0.0).astype(x.dtype)


def _posture(x: Float[Array, " 4"]) -> Float[Array, " 5"]:
    """Direction of the pole from upright [2], cart position, velocities."""
    return jnp.stack([jnp.cos(x[1]) - 1, jnp.sin(x[1]), x[0], x[2], x[3]])

"""Put a peg into a hole with 5 mm of clearance, with the torques of a seven-joint arm (Levine & Abbeel 2014).

State (14): joint angles and velocities. Controls (7): torques, Nm. Sensors (12): positions and velocities of
the peg's two ends. The context is where the hole is, its offset [2] from the usual place; within reach for
±.1 m. Geometry, gains, weights and conditions are those of the MDGPS experiments (Montgomery & Levine 2016).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import Engine, engine
from gps.types import Env

TEACHER = {"horizon": 20, "initial_iterations": 20}
LOCAL = {"std": 1.0, "stiffness": 1.0, "damping": 0.5, "clusters": 10, "remember": 15, "ridge": 1e-4}
STUDENT = {"hidden": (100, 100), "covariance": "labels"}
"""Settings of `teachers.mpc`, of `teachers.local_lqr` and of the student."""
ASSET = Path(__file__).parent / "assets" / "peg.xml"
SUBSTEPS = 5
START = (0.1, 0.1, -1.54, -1.7, 1.54, -0.2, 0.0)
"""Joint angles at first, rad."""
TARGET = (0.0, 0.3, -0.5, 0.0, 0.3, -0.2)
"""Where both ends of the peg are in the end, for a hole in its usual place, m."""
RIM = -0.4
"""Height of the hole's edge, m."""
HALF = 0.033
"""Half the width of the hole, m."""
GAINS = (3.09, 1.08, 0.393, 0.674, 0.111, 0.152, 0.098)
"""How strong each joint is: a torque costs 1e-3 u² / gain."""
WEIGHTS = (2.0, 2.0, 1.0, 2.0, 2.0, 1.0)
LAST = 10.0
"""The last step's distance counts this many times."""
SUCCESS = 0.1
"""Distance of the tip from the hole's floor that counts as a success in print, m: the rim's."""
INSERTED = 0.03
"""Distance of the tip from the hole's floor at which the peg is in, m; the hole is .1 deep."""


def peg(spread: float = 0.1, horizon: int = 100) -> Env:
    """Insert a peg; the student sees the joints, and both ends of the peg as seen from their targets.

    Args:
        spread: the hole is up to this far from its usual place, along x and along y, m.
        horizon: control steps of .05 s in an episode.
    """
    return insertion("peg", spread, 3, horizon, blind=False)


def insertion(name: str, spread: float, across: int, horizon: int, blind: bool) -> Env:
    """The task, trained on `across` x `across` places of the hole; a blind student sees the joints only.

    Raises:
        ValueError: holes that the arm does not reach.
    """
    check_spread(spread)
    sim = engine(load_model(ASSET), substeps=SUBSTEPS)

    def define(offset: Float[Array, " 2"]) -> Task:
        moved = table_at(sim, offset)

        def observe(x: Array, y: Array) -> Array:
            return x if blind else jnp.concatenate([x, from_target(offset, y), y[6:]])

        def metrics(x: Array, u: Array) -> dict[str, Array]:
            return progress(offset, sim.sense(x, jnp.zeros_like(u), moved))

        return Task(
            cost=lambda x, u, y, t: cost(offset, u, y),
            final_cost=lambda x, y: LAST * distance_cost(from_target(offset, y)),
            init=start,
            observe=observe,
            inputs=moved,
            metrics=metrics,
        )

    env = from_engine(
        sim,
        define,
        lambda key: sample_hole(key, spread),
        default_context=np.zeros(2),
        horizon=horizon,
        name=name,
    )
    return env._replace(conditions=grid(spread, across))


def check_spread(spread: float) -> None:
    """Raise a ValueError on holes that the arm does not reach."""
    if not 0 <= spread <= 0.1:
        raise ValueError(f"the arm reaches holes up to .1 m from their usual place, got spread = {spread}")


def sample_hole(key: Array, spread: float) -> Float[Array, " 2"]:
    """How far the hole is from its usual place, m."""
    return jax.random.uniform(key, (2,), minval=-spread, maxval=spread)


def table_at(sim: Engine, offset: Float[Array, " 2"]) -> Float[Array, " n"]:
    """Inputs of the engine that put the table, and its hole, there."""
    place = sim.model.body("table").pos + jnp.pad(jnp.asarray(offset), (0, 1))
    return sim.make_inputs(mocap_pos=place[None])


def start(key: Array) -> Float[Array, " 14"]:
    """The arm bent, at rest, the peg above the table."""
    return jnp.concatenate([jnp.array(START), jnp.zeros(len(START))])


def grid(spread: float, across: int) -> Float[np.ndarray, "conditions 2"]:
    """`across` x `across` places of the hole."""
    places = np.linspace(-spread, spread, across)
    return np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)


def from_target(offset: Float[Array, " 2"], y: Float[Array, " 12"]) -> Float[Array, " 6"]:
    """Both ends of the peg from where they are to be, m."""
    shift = jnp.asarray(offset, y.dtype)[jnp.array([0, 1, 0, 0, 1, 0])]
    return y[:6] - jnp.asarray(TARGET, y.dtype) - shift * jnp.array([1, 1, 0, 1, 1, 0], y.dtype)


def progress(offset: Float[Array, " 2"], y: Float[Array, " 12"]) -> dict[str, Array]:
    """How far the tip is from the hole's floor, and how deep in the hole, m; whether that is a success."""
    away = from_target(offset, y)
    distance = jnp.sqrt(jnp.sum(away[:3] ** 2))
    over = jnp.max(jnp.abs(away[:2])) < HALF
    return {
        "distance": distance,
        "success": (distance < SUCCESS).astype(y.dtype),
        "depth": jnp.where(over, jnp.clip(RIM - y[2], 0, None), 0),
        "inserted": (distance <= INSERTED).astype(y.dtype),
    }


def cost(offset: Float[Array, " 2"], u: Float[Array, " 7"], y: Float[Array, " 12"]) -> Float[Array, ""]:
    """Of the torques and of the peg's distance from its target."""
    return 1e-3 * jnp.sum(u**2 / jnp.asarray(GAINS, u.dtype)) + distance_cost(from_target(offset, y))


def distance_cost(away: Float[Array, " 6"]) -> Float[Array, ""]:
    """5 Σ w d² + .05 log(1e-5 + Σ (w d)²): far away the first counts, within millimetres the second."""
    weights = jnp.asarray(WEIGHTS, away.dtype)
    return 5 * jnp.sum(weights * away**2) + 0.05 * jnp.log(1e-5 + jnp.sum((weights * away) ** 2))

"""Tasks of one's own as users may get them wrong: `gps train --env bad_tasks:nan_cost`."""

import jax.numpy as jnp
import toys

from envs.mjcf import from_mjcf
from envs.observations import subset

PENDULUM = """
<mujoco model="own">
  <worldbody>
    <body><joint name="hinge" type="hinge" axis="0 1 0"/><geom size=".1" pos="0 0 -.5"/></body>
  </worldbody>
  <actuator><motor joint="hinge"/></actuator>
  <sensor><jointpos name="angle" joint="hinge"/><jointvel name="velocity" joint="hinge"/></sensor>
</mujoco>
"""
TEACHER = {"horizon": 4, "initial_iterations": 1}
STUDENT = {"hidden": (4,)}


def effort(x, u, y, t):
    return (x[0] - 0.5) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2


def unlimited():
    """A motor without ctrlrange: right, not wrong."""
    return from_mjcf(PENDULUM, effort, observe=["angle", "velocity"], horizon=6)


def missing_file():
    """No such file."""
    return from_mjcf("nowhere/model.xml", effort)


def broken_file():
    """MJCF that does not compile."""
    return from_mjcf(PENDULUM.replace('joint="hinge"/></actuator>', 'joint="hing"/></actuator>'), effort)


def wrong_shape():
    """A cost that forgets to index."""
    return from_mjcf(PENDULUM, lambda x, u, y, t: x**2)


def unknown_sensor():
    """A misspelt observation."""
    return from_mjcf(PENDULUM, effort, observe=["angel"])


def nan_cost():
    """An Env made by hand, whose cost is a root of a negative number."""
    return toys.line()._replace(bind=lambda target: toys.line()._replace(cost=lambda *_: jnp.sqrt(-1.0)))


def nan_observation():
    """A logarithm of what may be negative."""
    return subset(unlimited(), jnp.log)


def late_nan_cost():
    """A cost that is no number from the fourth step on."""

    def cost(x, u, y, t):
        return effort(x, u, y, t) + jnp.where(t > 3, jnp.nan, 0.0)

    return from_mjcf(PENDULUM, cost, final_cost=lambda x, y: x[0] ** 2, horizon=6)


def no_default(length):
    """A task with an argument that no flag can give."""
    return unlimited()


INSTANCE = None


def infinite_start():
    """An Env made by hand, whose episodes begin nowhere."""
    start = toys.line()._replace(init=lambda key: jnp.array([jnp.inf, 0.0]))
    return start._replace(bind=lambda target: start)

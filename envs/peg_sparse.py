"""Put a peg into a hole; what counts is only how long it is in.

State, controls and what the student sees are those of `envs.peg`; the hole is nearer to its usual place. The
reward is 1 in each control step that ends with the tip within 3 cm of the hole's floor, else 0. The teacher
is that of `envs.peg_images`, which plans with an arm that touches nothing, but it sees only a fifth of a
second ahead: every peg is in after two seconds, where one is enough.
"""

import jax.numpy as jnp

from envs.peg import peg
from envs.peg_images import peg_images
from gps.types import Env

TEACHER = {"horizon": 4, "initial_iterations": 10}
STUDENT = {"hidden": (64, 64)}
"""Settings of `teachers.mpc` and of the student."""


def peg_sparse(spread: float = 0.02, horizon: int = 100) -> Env:
    """Insert a peg, for a reward that is rare.

    Args:
        spread: the hole is up to this far from its usual place, along x and along y, m.
        horizon: control steps of .05 s in an episode.

    Raises:
        ValueError: holes that the arm does not reach.
    """
    return _joined(peg_images(spread=spread, horizon=horizon), peg(spread, horizon))


def _joined(planned: Env, seen: Env) -> Env:
    """The task with the planner of one and the observations of the other, in every context."""
    assert planned.metrics is not None, "the peg's task has them"
    metrics = planned.metrics
    return planned._replace(
        name="peg_sparse",
        observer=seen.observer,
        reward=lambda x, u, x_next: metrics(x_next, jnp.zeros_like(u))["inserted"],
        bind=lambda context: _joined(planned.bind(context), seen.bind(context)),
    )

"""How the student does on its own, for whoever watches a run: no algorithm learns from it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Env, Student

__all__ = ["on_test_worlds"]

SEED = 0x7E57
"""The worlds are the same in every iteration and every run; training never sees them."""


def on_test_worlds(env: Env, student: Student, count: int) -> Callable[[PyTree], dict[str, Array]]:
    """Student's variables → return, cost and time of its mode, means over `count` whole episodes.

    The empty dict with a `count` of 0.
    """
    if not count:
        return lambda variables: {}

    @cpu_jit
    def run(keys: Array, variables: PyTree) -> dict[str, Array]:
        scores, _ = evaluate(env, student=student)(keys, variables)
        return {
            "student_return": jnp.mean(scores.reward),
            "student_cost": jnp.mean(scores.cost),
            "student_time": jnp.mean(scores.time),
        }

    return lambda variables: run(jax.random.split(jax.random.key(SEED), count), variables)

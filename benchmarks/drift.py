"""How far students drift from what they were taught on: BC, DAgger and PLATO in the forest."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, Row, main
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.defaults import Pairing, pairing
from gps.algorithms.plato import plato
from gps.evaluate import Drift, drift, growth
from gps.placement import cpu_jit

SEED, UNSEEN = 0, 1000
"""Of the run, and of the worlds that drift is measured in."""
MOMENTS = (1.0, 5.0, 15.0)
"""At which the distance between student and teacher is told, s."""


@cache
def scene(fast: bool) -> tuple[Pairing, Callable[..., Drift]]:
    """The forest (the cart-pole, which compiles sooner), and the program that measures drift in it."""
    made = pairing("cartpole", horizon=40) if fast else pairing("quadrotor_forest")
    return made, cpu_jit(drift(*made))


def measure(fast: bool, factory: Callable) -> list[Row]:
    """Train, then fly beside the teacher in worlds that training never saw."""
    made, apart = scene(fast)
    iterations, budget = (2, {"num_steps": 20, "updates": 20, "num_worlds": 2}) if fast else (8, {})
    algorithm = factory(*made, iterations=iterations, test_worlds=0, **budget)
    init_key, run_key = jax.random.split(jax.random.key(SEED))
    state, info = algorithm.init(init_key), {}
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
    worlds = jax.random.split(jax.random.key(UNSEEN), 4 if fast else 60)
    found = jax.tree.map(np.asarray, apart(worlds, algorithm.policy(state)))
    return rows(found, made.env.dt, len(worlds), int(info["total_crashes"]))


def rows(found: Drift, dt: float, worlds: int, crashes: int) -> list[Row]:
    """Losses as means over the control steps at which both of a world's pilots still fly."""
    flying = found.alive > 0
    taught, own = (float(np.mean(loss[flying])) for loss in (found.loss_on_teacher, found.loss_on_student))
    moments = [(moment, round(moment / dt)) for moment in MOMENTS]
    apart = [(s, i) for s, i in moments if i < len(flying) and flying[i]]
    second = round(1 / dt)  # an episode starts without any cost
    slopes = [float(growth(jnp.asarray(c), second)) for c in (found.cost_student, found.cost_teacher)]
    return [
        Row("loss on the teacher's states", taught, "cost"),
        Row("loss on the student's states", own, "cost"),
        Row("loss on own / teacher's states", own / taught, "1"),
        *(
            Row(f"distance from the teacher after {s:g} s", float(found.divergence[i]), "state")
            for s, i in apart
        ),
        *(Row(f"flying after {s:g} s", float(found.alive[i]) / worlds, "share") for s, i in apart),
        Row("p of the student's cost ~ T^p, T > 1 s", slopes[0], "1"),
        Row("p of the teacher's cost ~ T^p, T > 1 s", slopes[1], "1"),
        Row("training crashes", crashes, "episodes"),
    ]


CASES: dict[str, Case] = {method.__name__: partial(measure, factory=method) for method in (bc, dagger, plato)}

if __name__ == "__main__":
    main("drift", CASES, seeds=(SEED, UNSEEN))

"""How far students drift from what they were taught on: BC, DART, DAgger and PLATO.

In three tasks: the forest, where a crash ends an episode, the cart-pole, which falls by itself, and an arm
that reaches, whose errors die out. The last two were named before they were measured.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, Row, kept, main
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.dart import dart
from gps.algorithms.defaults import Pairing, pairing
from gps.algorithms.plato import plato
from gps.evaluate import Drift, drift, growth
from gps.placement import cpu_jit
from gps.types import Algorithm

SEEDS, UNSEEN, WORLDS = (0, 1, 2), 1000, 60
"""Of the runs, and of the worlds that drift is measured in."""
MOMENTS = (1.0, 5.0, 15.0)
"""At which the distance between student and teacher is told, s."""
TASKS = ("quadrotor_forest", "cartpole", "reacher")
METHODS: dict[str, Callable[..., Algorithm]] = {"bc": bc, "dart": dart, "dagger": dagger, "plato": plato}


@cache
def scene(task: str, fast: bool) -> tuple[Pairing, Callable[..., Drift]]:
    """The task, and the program that measures drift in it."""
    made = pairing(task, horizon=40) if fast else pairing(task)
    return made, cpu_jit(drift(*made))


def outcome(task: str, method: str, seed: int, fast: bool) -> dict[str, Any]:
    """Train, then drive beside the teacher in worlds that training never saw."""

    def compute() -> dict[str, Any]:
        made, apart = scene(task, fast)
        iterations, budget = (2, {"num_steps": 20, "updates": 20, "num_worlds": 2}) if fast else (8, {})
        algorithm = METHODS[method](*made, iterations=iterations, test_worlds=0, **budget)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state, info = algorithm.init(init_key), {}
        for i in range(iterations):
            state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
        worlds = jax.random.split(jax.random.key(UNSEEN), 4 if fast else WORLDS)
        found = jax.tree.map(np.asarray, apart(worlds, algorithm.policy(state)))
        return figures(found, made.env.dt, len(worlds)) | {
            "crashes while training": int(info["total_crashes"]),
            "teacher queries": int(info["total_teacher_queries"]),
        }

    return kept([Path(__file__)], [task, method, seed, fast], compute)


def figures(found: Drift, dt: float, worlds: int) -> dict[str, float]:
    """Losses are means over the control steps at which in some world both still drive."""
    flying = found.alive > 0
    taught, own = (float(np.mean(loss[flying])) for loss in (found.loss_on_teacher, found.loss_on_student))
    second = round(1 / dt)  # an episode starts without any cost
    told = {"loss on teacher's states": taught, "on own states": own, "own / teacher's": own / taught}
    for moment in MOMENTS:
        i = round(moment / dt)
        if i < len(flying):
            told[f"both on their way after {moment:g} s"] = float(found.alive[i]) / worlds
            if flying[i]:
                told[f"apart after {moment:g} s"] = float(found.divergence[i])
    for name, cost in (("student", found.cost_student), ("teacher", found.cost_teacher)):
        told[f"p of {name}'s cost ~ T^p"] = float(growth(jnp.asarray(cost), second))
    return told


def rows(task: str, fast: bool) -> list[Row]:
    """Means over the seeds; how far apart two are that still drive, over those in which there are any."""
    if fast and task != "cartpole":
        return []
    found = []
    for method in METHODS:
        runs = [outcome(task, method, seed, fast) for seed in SEEDS[: 1 if fast else None]]
        names = dict.fromkeys(name for run in runs for name in run if name != "of")
        for name in names:
            mean = float(np.mean([run[name] for run in runs if name in run]))
            found.append(Row(f"{method}: {name}", mean, UNITS.get(name.split(" ", 1)[0], "1")))
    return found


UNITS = {"loss": "cost", "on": "cost", "apart": "state", "both": "share"}
"""By a figure's first word."""
CASES: dict[str, Case] = {task: partial(rows, task) for task in TASKS}

if __name__ == "__main__":
    main("drift", CASES, seeds=(*SEEDS, UNSEEN))

"""Cart-pole swing-up by students that see no velocities: BC, DAgger and PLATO on 100 random starts."""

from collections.abc import Callable
from functools import cache, partial

import jax
import numpy as np

from benchmarks.harness import Case, Row, main
from envs import cartpole
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.defaults import Pairing, pairing
from gps.algorithms.plato import plato
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm

SEEDS, UNSEEN, STARTS = (0, 1, 2), 1000, 100
BUDGET = {"num_worlds": 32, "updates": 3000}
BALANCE = 1.0
"""A start counts as swung up if the pole is upright throughout the last BALANCE s, on the rail."""


@cache
def scene(fast: bool) -> tuple[Pairing, Callable, Callable]:
    """The task, and the programs that judge its teacher and a student."""
    made = pairing("cartpole", horizon=30) if fast else pairing("cartpole")
    teacher = cpu_jit(evaluate(made.env, make_teacher=made.make_teacher))
    return made, teacher, cpu_jit(evaluate(made.env, student=made.student))


def share_up(judge: Callable, variables: object, dt: float, fast: bool) -> float:
    """Share of the unseen starts that are swung up and held."""
    worlds = jax.random.split(jax.random.key(UNSEEN), 4 if fast else STARTS)
    steps = judge(worlds, variables)[1]
    last = round(BALANCE / dt)
    up = np.asarray(jax.vmap(jax.vmap(cartpole.upright))(steps.x[-last:]) > 0)
    return float(np.mean(np.all(up & np.asarray(steps.alive[-last:]), axis=0)))


def trained(algorithm: Algorithm, seed: int, iterations: int) -> tuple[object, int]:
    """(the student's variables, control steps that it was taught in)."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state, info = algorithm.init(init_key), {}
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
    return algorithm.policy(state), int(info["total_samples"])


def teacher(fast: bool) -> list[Row]:
    """What there is to learn."""
    made, judge, _ = scene(fast)
    return [Row("swung up", share_up(judge, (), made.env.dt, fast), "share")]


def student(fast: bool, factory: Callable[..., Algorithm], target: str | None) -> list[Row]:
    """Mean and worst over the seeds."""
    made, _, judge = scene(fast)
    iterations, budget = (2, {"num_steps": 20, "updates": 20, "num_worlds": 2}) if fast else (8, BUDGET)
    algorithm = factory(*made, iterations=iterations, test_worlds=0, **budget)
    runs = [trained(algorithm, seed, iterations) for seed in SEEDS[: 1 if fast else None]]
    shares = [share_up(judge, variables, made.env.dt, fast) for variables, _ in runs]
    return [
        Row("swung up, mean", float(np.mean(shares)), "share", target),
        Row("swung up, worst seed", min(shares), "share"),
        Row("labelled samples per seed", runs[0][1], "1"),
    ]


CASES: dict[str, Case] = {
    "teacher": teacher,
    "plato": partial(student, factory=plato, target=">= 0.95"),
    "dagger": partial(student, factory=dagger, target=">= 0.95"),
    "bc": partial(student, factory=bc, target=None),
}

if __name__ == "__main__":
    main("swingup", CASES, seeds=(*SEEDS, UNSEEN))

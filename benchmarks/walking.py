"""Behaviour cloning and DAgger on Gymnasium's Hopper and Walker2d, with equal labels and equal updates.

The teacher is a policy that PPO found: it does not plan, so that asking it costs nothing. Students are judged
without noise, in worlds that training never sees; over the seeds the interquartile mean is taken, and its
interval by bootstrap (`benchmarks.aggregates`).
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import students
from benchmarks import aggregates
from benchmarks.aggregates import interval, middle
from benchmarks.harness import Case, Row, kept, main
from envs.gymnasium import from_gymnasium
from gps.algorithms.bc import bc
from gps.algorithms.dagger import dagger
from gps.algorithms.ppo import ppo
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.rollout import first_observation
from gps.types import Action, Env, Gaussian, Student, Teacher

SEEDS, EXPERT, UNSEEN, WORLDS = (5, 6, 7, 8, 9), 10, 1000, 20
SCRIPTS = [Path(__file__), Path(aggregates.__file__)]
METHODS = {"BC": bc, "DAgger": dagger}
BUDGET: dict[str, Any] = {
    "iterations": 10,
    "num_worlds": 1,
    "num_steps": 1000,
    "updates": 1000,
    "loss": "mse",
}
"""Of a student: 10000 labels, ten whole episodes. From 100 steps of each nobody learns what comes later, and
all fall soon after (seeds 0 to 4)."""
PPO: dict[str, Any] = {"iterations": 400, "num_worlds": 32, "num_steps": 64, "epochs": 10, "parts": 32}


class Scene(NamedTuple):
    """What is kept of a task."""

    env: Env
    student: Student
    judge: Callable[..., Any]
    expert: PyTree
    """Variables of the teacher."""


@cache
def scene(task: str, fast: bool) -> Scene:
    """The task, and the policy that teaches it."""
    env = from_gymnasium(f"{task}-v5")
    if fast:
        env = env._replace(horizon=20)
    student = students.mlp(env.nu, (64, 64), limits=env.limits)
    budget: dict[str, Any] = PPO | (
        {"iterations": 1, "num_worlds": 2, "num_steps": 8, "parts": 2} if fast else {}
    )
    algorithm = ppo(env, None, student, test_worlds=0, **budget)
    init_key, run_key = jax.random.split(jax.random.key(EXPERT))
    state = algorithm.init(init_key)
    for i in range(budget["iterations"]):
        state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
    return Scene(env, student, cpu_jit(evaluate(env, student=student)), algorithm.policy(state))


def policy_teaches(student: Student, variables: PyTree) -> Callable[[Env], Teacher]:
    """A student's mode as a teacher, for envs whose observations say no more than the state."""

    def make(env: Env) -> Teacher:
        def act(key: Array, state: tuple, x: Array, t: Array) -> tuple[Action, tuple]:
            mean = student.apply(variables, first_observation(key, env, x), ())[0].mode().astype(x.dtype)
            one = jnp.eye(env.nu, dtype=x.dtype)
            gain = jnp.zeros((env.nu, env.ndx), x.dtype)
            return Action(Gaussian(mean, one), one, -mean, jnp.int32(0), gain), state

        return Teacher(lambda key, x0: (), act)

    return make


def returns(found: Scene, variables: PyTree, fast: bool) -> float:
    """Mean over unseen worlds."""
    worlds = jax.random.split(jax.random.key(UNSEEN), 2 if fast else WORLDS)
    return float(np.mean(found.judge(worlds, variables)[0].reward))


def outcome(task: str, method: str, seed: int | None, fast: bool) -> dict[str, Any]:
    """Of a student; without a seed, of its teacher."""

    def make() -> dict[str, Any]:
        found = scene(task, fast)
        if seed is None:
            return {"return": returns(found, found.expert, fast)}
        budget = BUDGET | ({"iterations": 2, "num_steps": 10, "updates": 5} if fast else {})
        taught = policy_teaches(found.student, found.expert)
        algorithm = METHODS[method](found.env, taught, found.student, test_worlds=0, **budget)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state, info = algorithm.init(init_key), {}
        for i in range(budget["iterations"]):
            state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
        spent = ("total_samples", "total_gradient_updates", "total_teacher_queries", "total_crashes")
        value = returns(found, algorithm.policy(state), fast)
        return {"return": value} | {name: int(info[name]) for name in spent}

    return make() if fast else kept(SCRIPTS, [task, method, seed], make)


def case(fast: bool, task: str) -> list[Row]:
    """Both methods beside their teacher."""
    best = outcome(task, "teacher", None, fast)["return"]
    rows, shown = [Row("teacher: return", best, "reward")], {}
    for method in METHODS:
        runs = [outcome(task, method, seed, fast) for seed in SEEDS[: 1 if fast else None]]
        found = np.array([run["return"] for run in runs])
        shown[method] = float(middle(found[:, None])[0])
        low, high = interval(found)
        rows += [
            Row(f"{method}: return", shown[method], "reward"),
            Row(f"{method}: 95 % interval from", float(low), "reward"),
            Row(f"{method}: 95 % interval to", float(high), "reward"),
            Row(f"{method}: worst seed", float(found.min()), "reward"),
            Row(f"{method}: labels", runs[0]["total_samples"], "1"),
            Row(f"{method}: gradient updates", runs[0]["total_gradient_updates"], "1"),
            Row(
                f"{method}: falls while training", float(np.mean([run["total_crashes"] for run in runs])), "1"
            ),
        ]
    target = None if fast else ">= 0.9"
    return [*rows, Row("DAgger over teacher, return", shown["DAgger"] / best, "1", target)]


CASES: dict[str, Case] = {task: partial(case, task=task) for task in ("Hopper", "Walker2d")}

if __name__ == "__main__":
    main("walking", CASES, seeds=(*SEEDS, EXPERT, UNSEEN), x64=False)

"""What reinforcement learning from demonstrations reaches that is not in `benchmarks.families`.

Importance sampling with demonstrations (`is_pg`) and with guiding samples (`gps2013`), and deep Q-learning
from demonstrations (`dqfd`). A policy is judged without noise, in worlds that training never sees: as
it was imitated, and as it is in the end.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import students
from benchmarks.harness import Case, Row, kept, main
from gps.algorithms.defaults import pairing
from gps.algorithms.dqfd import dqfd
from gps.algorithms.gps2013 import gps2013
from gps.algorithms.is_pg import is_pg
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Action, Algorithm, Env, Teacher

SEEDS, UNSEEN, WORLDS = (0, 1, 2), 1000, 20


class Scene(NamedTuple):
    """Compiled once for all seeds."""

    algorithm: Algorithm
    judge: Callable[..., Any]
    """The student."""
    judge_teacher: Callable[..., Any] | None = None


def by_importance(task: str, fast: bool) -> Scene:
    """`is_pg`; the teacher is asked to show whole episodes."""
    small: dict[str, Any] = {"pretrain_updates": 20, "updates": 5, "conditions": 2, "samples": 2}
    made = pairing(task, horizon=20) if fast else pairing(task)
    algorithm = is_pg(*made, test_worlds=0, **(small if fast else {}))
    judge = cpu_jit(evaluate(made.env, student=made.student))
    return Scene(algorithm, judge, cpu_jit(evaluate(made.env, make_teacher=made.make_teacher)))


def by_guides(task: str, fast: bool) -> Scene:
    """`gps2013`; its guides know only the conditions that they were made for."""
    made = pairing(task, local=True)
    judge = cpu_jit(evaluate(made.env, student=made.student))
    return Scene(gps2013(*made, test_conditions=0), judge)


def by_values(task: str, fast: bool) -> Scene:
    """`dqfd`, beside a teacher that is held to the student's choices, as when it shows them."""
    env, make_teacher, _ = pairing(task)
    student = students.ranked(env.nu, env.limits)

    def held(bound: Env) -> Teacher:
        teacher = make_teacher(bound)

        def act(*args: Any) -> tuple[Action, PyTree]:
            action, state = teacher.act(*args)
            return action._replace(dist=action.dist._replace(mean=jnp.round(action.dist.mean))), state

        return Teacher(teacher.init, act)

    algorithm = dqfd(env, make_teacher, student, test_worlds=0)
    judge = cpu_jit(evaluate(env, student=student))
    return Scene(algorithm, judge, cpu_jit(evaluate(env, make_teacher=held)))


COURSES: dict[tuple[str, str], tuple[Callable[[str, bool], Scene], int]] = {
    ("pendulum", "is_pg"): (by_importance, 10),
    ("swimmer", "gps2013"): (by_guides, 6),
    ("acrobot_discrete", "dqfd"): (by_values, 290),
}
"""(task, method) → (how it is set up, iterations); those of `dqfd` are 512 control steps each: 150k."""

scene = cache(lambda task, method, fast: COURSES[task, method][0](task, fast))


def outcome(task: str, method: str, seed: int, fast: bool) -> dict[str, Any]:
    """Of one run."""

    def compute() -> dict[str, Any]:
        algorithm, judge, judge_teacher = scene(task, method, fast)
        worlds = jax.random.split(jax.random.key(UNSEEN), 2 if fast else WORLDS)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state, info = algorithm.init(init_key), {}
        found = {"before": _return(judge(worlds, algorithm.policy(state)))}
        for i in range(1 if fast else COURSES[task, method][1]):
            state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
        found |= {"after": _return(judge(worlds, algorithm.policy(state)))}
        if judge_teacher is not None:
            found["teacher"] = _return(judge_teacher(worlds))
        return found | {"steps": int(info["total_simulator_steps"])}

    return kept([Path(__file__)], [task, method, seed, fast], compute)


def _return(judged: tuple) -> float:
    return float(np.mean(judged[0].reward))


def rows(task: str, method: str, fast: bool) -> list[Row]:
    """Means over the seeds, and the worst."""
    if fast and task != "pendulum":
        return []
    runs = [outcome(task, method, seed, fast) for seed in SEEDS[: 1 if fast else None]]
    found = [Row("teacher: return", runs[0]["teacher"], "reward")] if "teacher" in runs[0] else []
    return [
        *found,
        Row(f"{method}, as imitated: return", float(np.mean([run["before"] for run in runs])), "reward"),
        Row(f"{method}: return", float(np.mean([run["after"] for run in runs])), "reward"),
        Row(f"{method}: worst seed", min(run["after"] for run in runs), "reward"),
        Row(f"{method}: simulator steps", runs[0]["steps"], "1"),
    ]


CASES: dict[str, Case] = {task: partial(rows, task, method) for task, method in COURSES}

if __name__ == "__main__":
    main("importance", CASES, seeds=(*SEEDS, UNSEEN), x64=False)

"""Reinforcement learning from scratch: PPO and SAC on a pendulum, a cart-pole and a cheetah.

The pendulum and the cheetah are Gymnasium's (Pendulum-v1, HalfCheetah-v5), the cart-pole sees no velocities.
A policy is judged without noise, in worlds that training never sees.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import students
from benchmarks.beside_imitation import pendulum_v1
from benchmarks.harness import Row, kept, main
from benchmarks.swingup import share_up
from envs.gymnasium import from_gymnasium
from gps.algorithms.defaults import pairing
from gps.algorithms.ppo import ppo
from gps.algorithms.sac import sac
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, Student

SEEDS, UNSEEN, WORLDS = (0, 1, 2), 1000, 20
TASKS: dict[str, Callable[[], Env]] = {
    "pendulum": pendulum_v1,
    "cartpole": lambda: pairing("cartpole").env,
    "HalfCheetah": lambda: from_gymnasium("HalfCheetah-v5"),
}
METHODS = ("ppo", "sac")
PPO: dict[str, Any] = {"num_worlds": 32, "num_steps": 64, "epochs": 10, "parts": 32}
SAC: dict[str, Any] = {"layer_norm": True, "critic_hidden": (128, 128)}


class Course(NamedTuple):
    """How long a task is trained for, and what is asked of it."""

    iterations: int
    budget: dict[str, Any]
    target: str
    hidden: tuple[int, ...] = (128, 128)


COURSES = {
    ("pendulum", "ppo"): Course(100, PPO, ">= -200", (64, 64)),
    ("pendulum", "sac"): Course(10, SAC, ">= -200"),
    ("cartpole", "ppo"): Course(240, PPO, ">= 0.95", (64, 64)),
    ("cartpole", "sac"): Course(150, SAC, ">= 0.95"),
    ("HalfCheetah", "ppo"): Course(488, PPO, ">= 1500", (64, 64)),
    ("HalfCheetah", "sac"): Course(195, {}, ">= 4000", (256, 256)),
}
"""Iterations of 2048 control steps of PPO, of 1024 of SAC; `target` is for the return, of the cart-pole for
the share of starts from which it is swung up and held."""


@cache
def scene(task: str, method: str, fast: bool) -> tuple[Env, Student, Algorithm, Callable]:
    """(task, student, algorithm, the program that judges it)."""
    env, course = TASKS[task](), COURSES[task, method]
    if fast:
        env = env._replace(horizon=20)
    if method == "ppo":
        student = students.mlp(env.nu, course.hidden, limits=env.limits)
        budget: dict[str, Any] = course.budget | {"iterations": course.iterations}
        budget |= {"num_worlds": 4, "num_steps": 16, "parts": 2, "critic_updates": 2} if fast else {}
        algorithm = ppo(env, None, student, test_worlds=0, **budget)
    else:
        student = students.squashed(env.nu, env.limits, (8, 8) if fast else course.hidden)
        budget: dict[str, Any] = course.budget | (
            {"num_steps": 8, "warm_up": 64, "batch_size": 16} if fast else {}
        )
        algorithm = sac(env, None, student, test_worlds=0, **budget)
    return env, student, algorithm, cpu_jit(evaluate(env, student=student))


def outcome(task: str, method: str, seed: int, fast: bool) -> dict[str, Any]:
    """Of one run."""

    def compute() -> dict[str, Any]:
        env, _, algorithm, judge = scene(task, method, fast)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state, info = algorithm.init(init_key), {}
        for i in range(2 if fast else COURSES[task, method].iterations):
            state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
        variables = algorithm.policy(state)
        worlds = jax.random.split(jax.random.key(UNSEEN), 2 if fast else WORLDS)
        found = {
            "return": float(np.mean(judge(worlds, variables)[0].reward)),
            "steps": int(info["total_simulator_steps"]),
            "updates": int(info["total_gradient_updates"]),
        }
        if task == "cartpole":
            found["up"] = share_up(judge, variables, env.dt, fast)
        return found

    return kept([Path(__file__)], [task, method, seed, fast], compute)


def case(task: str) -> Callable[[bool], list[Row]]:
    """Mean and worst over the seeds, both methods."""

    def rows(fast: bool) -> list[Row]:
        found = []
        for method in METHODS:
            runs = [outcome(task, method, seed, fast) for seed in SEEDS[: 1 if fast else None]]
            target = None if fast else COURSES[task, method].target
            returns = [run["return"] for run in runs]
            swung = task == "cartpole"
            found += [
                Row(f"{method}: return, mean", float(np.mean(returns)), "reward", None if swung else target),
                Row(f"{method}: return, worst seed", min(returns), "reward"),
            ]
            if swung:
                up = [run["up"] for run in runs]
                found += [
                    Row(f"{method}: swung up, mean", float(np.mean(up)), "share", target),
                    Row(f"{method}: swung up, worst seed", min(up), "share"),
                ]
            found += [
                Row(f"{method}: simulator steps", runs[0]["steps"], "1"),
                Row(f"{method}: gradient updates", runs[0]["updates"], "1"),
            ]
        return found

    return rows


if __name__ == "__main__":
    main("reinforcement", {name: case(name) for name in TASKS}, seeds=(*SEEDS, UNSEEN), x64=False)

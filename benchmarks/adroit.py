"""The Adroit door from 25 demonstrations of a planner (DAPG: Rajeswaran et al. 2018, section VI).

A hand of 28 controls, no velocities shown, a reward only where the door stands open; 200 episodes of 200
steps in each iteration. An episode is solved, as in the paper, if the door is open in more than 25 of its
steps. Policies act without noise, in gymnasium-robotics' own world, and on the way in ours. The paper, whose
demonstrations are people's, is at 90 % after 42 iterations, and never on this reward without them.

The demonstrator plans under a cost of its own, which says how far the hand is from the handle. One long plan,
through the door in the middle of the box, is what all its plans begin with (`teachers.planned`). The task's
own teacher replans at every step from its last plan, and shows something else in each episode. Settings were
chosen on seed 100.
"""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

import students
import teachers
from benchmarks.harness import Row, kept, main
from envs import adroit_door as door
from gps.algorithms.defaults import pairing
from gps.algorithms.hybrid_pg import hybrid_pg
from gps.algorithms.ppo import ppo
from gps.episodes import Steps
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Algorithm, Env, Student, Teacher

SEEDS, UNSEEN, WORLDS, FEW = (0, 1, 2), 1000, 50, 20
"""Worlds that judge a student; the demonstrator."""
ITERATIONS, EVERY = 42, 3
"""Of the paper; on the way, every third is judged."""
LONG = 25
"""Control steps: an episode is solved if the door is open in more of them."""
HASTE, COURSE = 0.02, 150
"""Price in the plans (see `adroit_door`) and their control steps."""
ROUNDS, SAMPLINGS, TOUCHES = 3, 120, 20
"""The first plan is solved so many times, from the best of the last time, in so many iterations; then each
demonstration's in so many."""
LOOP: dict[str, Any] = {
    "num_worlds": 200,
    "num_steps": 200,
    "discount": 0.995,
    "trace": 0.97,
    "critic_hidden": (128, 128),
    "test_worlds": 0,
}
SHOWN: dict[str, Any] = {
    "demonstrations": 25,
    "noise": 0.02,
    "wait": 1,
    "step": 0.1,
    "weight": 0.01,
}


class Scene(NamedTuple):
    """Compiled once for all seeds."""

    env: Env
    make_teacher: Callable[[Env], Teacher]
    algorithms: dict[str, tuple[Algorithm, Student]]
    """"replanned" only to be cloned."""


def planner(std: float) -> Callable[..., teachers.Planner]:
    """Smooth courses of arm and wrist, with the hand's posture left as it is; the best of 32."""
    settings = dict(door.PLANNER[1])
    return functools.partial(teachers.mppi, **settings, std=std, noise=teachers.spline(10), returns="best")


def course(fast: bool) -> Float[np.ndarray, "T nu"]:
    """Controls that open the door in the middle of the box, from nothing."""

    def compute() -> dict[str, Any]:
        model = door.adroit_door(haste=HASTE).planning
        assert model is not None
        middle = model.bind(jnp.asarray(door.FRAMES.mean(axis=0)))
        plan = planner(0.2)(middle, horizon=5 if fast else COURSE, iterations=1 if fast else SAMPLINGS)
        x0 = middle.init(jax.random.key(UNSEEN))
        improve = cpu_jit(lambda key, us: plan.improve(key, x0, plan.begin(x0, us))[0].controller.us)
        us = jnp.zeros((plan.horizon, middle.nu), x0.dtype)
        for i in range(1 if fast else ROUNDS):
            us = improve(jax.random.key(UNSEEN + i), us)
        return {"us": np.asarray(us, float).tolist()}

    return np.asarray(kept([Path(__file__)], ["course", fast], compute)["us"])


@functools.cache
def scene(fast: bool) -> Scene:
    """The task, its demonstrator, the student and what it learns by."""
    env = door.adroit_door(horizon=10 if fast else 200, haste=HASTE)
    start = jnp.asarray(course(fast))
    make_teacher = functools.partial(
        teachers.planned,
        horizon=start.shape[0],
        iterations=1 if fast else TOUCHES,
        start=start,
        planner=planner(0.05),
    )
    student = students.mlp(env.nu, (128, 128), limits=env.limits, log_std=-3.5)
    loop: dict[str, Any] = LOOP | ({"num_worlds": 2, "num_steps": 4, "critic_updates": 2} if fast else {})
    taught: dict[str, Any] = SHOWN | ({"pretrain_updates": 5, "demonstrations": 2} if fast else {})
    alone: dict[str, Any] = {"iterations": ITERATIONS} | ({"parts": 2} if fast else {})
    own = pairing("adroit_door", horizon=env.horizon)
    beginner = students.mlp(env.nu, (128, 128), limits=env.limits)
    algorithms = {
        "dapg": (hybrid_pg(env, make_teacher, student, **loop, **taught), student),
        "replanned": (hybrid_pg(own.env, own.make_teacher, student, **loop, **taught), student),
        "ppo": (ppo(env, None, beginner, **loop, **alone), beginner),
    }
    return Scene(env, make_teacher, algorithms)


def reached(steps: Steps) -> Float[np.ndarray, "T W"]:
    """Angles of the hinge, rad; shut where an episode is over because its simulation failed."""
    return np.where(steps.alive, np.asarray(steps.x)[:, :, door.HINGE], 0)


def solved(angles: Float[np.ndarray, "T W"]) -> float:
    """Share of episodes, whose hinges stand so."""
    return float(np.mean(np.sum(angles >= door.OPEN, axis=0) > LONG))


def ours(env: Env, student: Student) -> Callable[[PyTree, int], float]:
    """(student's variables, episodes) → share of them that it solves in our world."""
    judge = cpu_jit(evaluate(env, student=student))

    def share(variables: PyTree, episodes: int) -> float:
        worlds = jax.random.split(jax.random.key(UNSEEN), episodes)
        return solved(reached(judge(worlds, variables)[1]))

    return share


def theirs(student: Student) -> Callable[[PyTree, int], float]:
    """The same in gymnasium-robotics' world."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # versions of its tasks, elements of its MJCF
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        world = gymnasium.make("AdroitHandDoorSparse-v1")
    made: Any = world.unwrapped
    act = cpu_jit(lambda variables, obs: student.apply(variables, obs, ())[0].mode())

    def episode(variables: PyTree, seed: int) -> list[float]:
        (obs, _), over, angles = world.reset(seed=seed), False, []
        while not over:
            obs, _, _, over, _ = world.step(np.asarray(act(variables, obs)))
            angles.append(float(made.data.qpos[door.HINGE]))
        return angles

    return lambda variables, episodes: solved(np.array([episode(variables, i) for i in range(episodes)]).T)


def outcome(method: str, seed: int, fast: bool) -> dict[str, Any]:
    """Of one run."""

    def compute() -> dict[str, Any]:
        env, _, algorithms = scene(fast)
        algorithm, student = algorithms[method]
        share, judge, worlds = ours(env, student), theirs(student), 2 if fast else WORLDS
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state, info = algorithm.init(init_key), {}
        begun = judge(algorithm.policy(state), worlds)
        on_the_way = {0: share(algorithm.policy(state), worlds)}
        for i in range(1, 1 + (2 if fast else ITERATIONS)):
            state, info = algorithm.step(jax.random.fold_in(run_key, i), state)
            if i % EVERY == 0 or fast:
                on_the_way[i] = share(algorithm.policy(state), worlds)
        return {
            "on the way": list(on_the_way.items()),
            "begun": begun,
            "theirs": judge(algorithm.policy(state), worlds),
            "steps": int(info["total_simulator_steps"]),
        }

    return kept([Path(__file__)], [method, seed, fast], compute)


def demonstrated(fast: bool) -> dict[str, Any]:
    """What the demonstrator does in unseen worlds, with a steady hand."""

    def compute() -> dict[str, Any]:
        env, make_teacher, _ = scene(fast)
        judge = cpu_jit(evaluate(env, make_teacher=make_teacher))
        worlds = jax.random.split(jax.random.key(UNSEEN), 2 if fast else FEW)
        return {"solved": solved(reached(judge(worlds, ())[1]))}

    return kept([Path(__file__)], ["demonstrator", fast], compute)


def learned(fast: bool) -> list[Row]:
    """Demonstrator, clone, what it becomes, and as many simulator steps without demonstrations."""
    seeds = SEEDS[: 1 if fast else None]
    dapg, scratch = ([outcome(method, seed, fast) for seed in seeds] for method in ("dapg", "ppo"))
    paths = [dict(run["on the way"]) for run in dapg]
    times = [next((i for i, share in path.items() if share >= 0.9), np.inf) for path in paths]
    samples = door.PLANNER[1]["samples"] * COURSE
    return [
        Row("demonstrator: in our world", demonstrated(fast)["solved"], "share"),
        Row("demonstrator: planned steps before", samples * ROUNDS * SAMPLINGS, "1"),
        Row("demonstrator: planned steps per episode", samples * TOUCHES, "1"),
        *_rows("clone", [run["begun"] for run in dapg]),
        *_rows("dapg", [run["theirs"] for run in dapg], None if fast else ">= 0.9"),
        Row("dapg: in our world", float(np.mean([list(path.values())[-1] for path in paths])), "share"),
        Row("dapg: 90 % first seen", float(np.mean(times)), "iterations"),
        Row("dapg: simulator steps", dapg[0]["steps"], "1"),
        *_rows("ppo from scratch", [run["theirs"] for run in scratch]),
        Row("ppo from scratch: simulator steps", scratch[0]["steps"], "1"),
    ]


def replanned(fast: bool) -> list[Row]:
    """A clone of the teacher that replans at every step; of one seed, for it is asked for ten minutes."""

    def compute() -> dict[str, Any]:
        algorithm, student = scene(fast).algorithms["replanned"]
        state = algorithm.init(jax.random.split(jax.random.key(SEEDS[0]))[0])
        return {"theirs": theirs(student)(algorithm.policy(state), 2 if fast else WORLDS)}

    clone = kept([Path(__file__)], ["clone", SEEDS[0], fast], compute)
    return [Row("clone, seed 0: solved", clone["theirs"], "share")]


def _rows(who: str, shares: list[float], target: str | None = None) -> list[Row]:
    """In gymnasium-robotics' world."""
    return [
        Row(f"{who}: solved, mean", float(np.mean(shares)), "share", target),
        Row(f"{who}: worst seed", min(shares), "share"),
    ]


CASES = {"one course": learned, "a plan at every step": replanned}

if __name__ == "__main__":
    main("adroit", CASES, seeds=(*SEEDS, UNSEEN), x64=False)

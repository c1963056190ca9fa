"""All families in one plot: imitation, reinforcement from scratch, and four ways to do both.

Two tasks whose rewards are rare and whose teachers can be beaten. A student's return is normalised: 0 is that
of controls drawn uniformly, 1 that of the teacher, in the same 20 worlds that training never sees. What a run
is charged for are control steps in the simulator, those of demonstrations included. Over the seeds the
interquartile mean is taken, and its interval by bootstrap (Agarwal et al. 2021). Needs matplotlib and scipy.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import students
from benchmarks.aggregates import interval, middle
from benchmarks.harness import Row, kept, main
from gps import plots
from gps.algorithms.dagger import dagger
from gps.algorithms.defaults import pairing
from gps.algorithms.hybrid_pg import hybrid_pg
from gps.algorithms.hybrid_q import hybrid_q
from gps.algorithms.ppo import ppo
from gps.algorithms.pretrain_finetune import pretrain_finetune
from gps.algorithms.q_demo import q_demo
from gps.algorithms.sac import sac
from gps.episodes import STUDENT, Steps, episodes
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.types import Action, Algorithm, Env, Student

SEEDS, UNSEEN, WORLDS = (0, 1, 2, 3, 4), 1000, 20
TASKS = ("point_maze", "cartpole_sparse")
SOLVED = 1.0
"""Seconds at the end of an episode that have to be rewarded throughout."""
PICTURE = Path(__file__).parent.parent / "docs" / "families.png"

LAYERS = (64, 64)
ON = {"num_worlds": 32, "num_steps": 64}
OFF = {"num_worlds": 8, "num_steps": 128, "critic_hidden": (128, 128)}
SHOWN = {"demonstrations": 20, "noise": 0.2}
NARROW = partial(students.mlp, log_std=-2.0)
"""Explores little: what was imitated works only near where it was shown."""


class Family(NamedTuple):
    """One way to learn."""

    algorithm: Callable[..., Algorithm]
    student: Callable[..., Student]
    iterations: int
    budget: dict[str, Any]
    final: str | None = None
    """Target of the normalised return at the end."""
    dip: str | None = None
    """Target of how far it falls below where reinforcement began; None where it does not begin somewhere."""
    planned: bool = False
    """Whether the algorithm is told of the iterations."""


FAMILIES = {
    "DAgger": Family(
        dagger,
        students.mlp,
        10,
        {"num_worlds": 8, "num_steps": 200, "updates": 1000, "loss": "mse"},
        final="<= 1.1",
        planned=True,
    ),
    "PPO": Family(ppo, students.mlp, 120, ON, final="<= 0.1", planned=True),
    "SAC": Family(sac, students.squashed, 32, OFF, final="<= 0.1"),
    "finetuned, held": Family(
        pretrain_finetune,
        NARROW,
        120,
        ON | SHOWN,
        final="> 1",
        dip="<= 0.1",
        planned=True,
    ),
    "finetuned, free": Family(
        partial(pretrain_finetune, anchor=0.0, wait=0),
        NARROW,
        120,
        ON | SHOWN,
        dip="> 0.1",
        planned=True,
    ),
    "demonstrations replayed": Family(q_demo, students.squashed, 32, OFF | SHOWN, final="> 1"),
    "hybrid PG": Family(hybrid_pg, NARROW, 120, ON | SHOWN, final="> 1"),
    "hybrid Q": Family(hybrid_q, students.squashed, 32, OFF | SHOWN, final="> 1"),
}
SCRATCH, HYBRID = ("PPO", "SAC"), ("hybrid PG", "hybrid Q")
BRIEF = ("DAgger", "PPO", "demonstrations replayed")
"""What a smoke run tries."""
FAST = {"num_worlds": 2, "num_steps": 16, "updates": 5, "demonstrations": 2, "warm_up": 16, "batch_size": 16}


class Scale(NamedTuple):
    """Returns in the test worlds that are called 0 and 1, and how many of them the teacher solves."""

    zero: float
    one: float
    solved: float


def test_worlds(fast: bool) -> jax.Array:
    """Keys."""
    return jax.random.split(jax.random.key(UNSEEN), 2 if fast else WORLDS)


def solved(steps: Steps, dt: float) -> np.ndarray:
    """[W] whether the episode ended well and stayed so."""
    last = round(SOLVED / dt)
    good = np.asarray((steps.reward > 0) & steps.alive)[-last:]
    return np.all(good, axis=0)


@cache
def scale(name: str, fast: bool) -> Scale:
    """Of a task."""
    env, make_teacher, _ = pairing(name)
    keys = test_worlds(fast)
    chance = cpu_jit(episodes(env, _anything, env.horizon, make_teacher=make_teacher, replace=False))(
        keys, (), ()
    )
    zero = jnp.mean(jnp.sum(jnp.where(chance.alive, chance.reward, 0), axis=0))
    taught, steps = cpu_jit(evaluate(env, make_teacher=make_teacher))(keys, ())
    return Scale(float(zero), float(jnp.mean(taught.reward)), float(np.mean(solved(steps, env.dt))))


def _anything(key: Any, settings: Any, action: Action, dist: Any, env: Env) -> tuple:
    """A control drawn uniformly within the limits."""
    low, high = (jnp.asarray(side) for side in env.limits)
    u = jax.random.uniform(key, low.shape, action.dist.mean.dtype, low, high)
    return u, -jnp.sum(jnp.log(high - low)), jnp.int32(STUDENT)


@cache
def ready(name: str, family: str, fast: bool) -> tuple[Algorithm, int, Callable[[Any], tuple[list, list]]]:
    """(algorithm, iterations, student's variables → returns and solved worlds), compiled once."""
    env, make_teacher, _ = pairing(name)
    chosen = FAMILIES[family]
    student = chosen.student(env.nu, hidden=LAYERS, limits=env.limits)
    budget, iterations = dict(chosen.budget), 2 if fast else chosen.iterations
    if fast:
        budget |= {key: value for key, value in FAST.items() if key in budget}
    if chosen.planned:
        budget["iterations"] = iterations
    algorithm = chosen.algorithm(env, make_teacher, student, test_worlds=0, **budget)
    judge = cpu_jit(evaluate(env, student=student))

    def verdict(variables: Any) -> tuple[list, list]:
        scores, steps = judge(test_worlds(fast), variables)
        return np.asarray(scores.reward).tolist(), solved(steps, env.dt).tolist()

    return algorithm, iterations, verdict


def outcome(name: str, family: str, seed: int, fast: bool) -> dict[str, Any]:
    """The curve of a run, kept: simulator steps after each iteration, and the returns in the test worlds."""

    def make() -> dict[str, Any]:
        algorithm, iterations, verdict = ready(name, family, fast)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state = algorithm.init(init_key)
        curve = [(int(state.totals["simulator_steps"]), *verdict(algorithm.policy(state)))]
        for i in range(iterations):
            state, _ = algorithm.step(jax.random.fold_in(run_key, i), state)
            curve.append((int(state.totals["simulator_steps"]), *verdict(algorithm.policy(state))))
        steps, returns, ended_well = zip(*curve, strict=True)
        updates = int(state.totals["gradient_updates"])
        return {"steps": steps, "returns": returns, "solved": ended_well, "updates": updates}

    return kept([Path(__file__)], [name, family, seed, fast], make)


class Curves(NamedTuple):
    """Of a family on a task, S seeds and I iterations."""

    steps: np.ndarray
    """[I] mean over the seeds."""
    returns: np.ndarray
    """[S, I] normalised, means over the test worlds."""
    solved: np.ndarray
    """[S, I] shares."""
    updates: float


def curves(name: str, family: str, fast: bool) -> Curves:
    """From its runs."""
    zero, one, _ = scale(name, fast)
    runs = [outcome(name, family, seed, fast) for seed in SEEDS[: 1 if fast else None]]
    returns = np.array([np.mean(run["returns"], axis=1) for run in runs])
    return Curves(
        np.mean([run["steps"] for run in runs], axis=0),
        (returns - zero) / (one - zero),
        np.array([np.mean(run["solved"], axis=1) for run in runs]),
        float(np.mean([run["updates"] for run in runs])),
    )


def first(curve: Curves, share: float = 0.9) -> float:
    """Simulator steps until that share of the test worlds is solved, by the middle seeds; inf if never."""
    reached = np.flatnonzero(middle(curve.solved) >= share)
    return float(curve.steps[reached[0]]) if reached.size else float("inf")


def case(name: str) -> Callable[[bool], list[Row]]:
    """Rows of one task."""

    def rows(fast: bool) -> list[Row]:
        known = scale(name, fast)
        found = [
            Row("return of random controls", known.zero, "1"),
            Row("return of the teacher", known.one, "1"),
            Row("solved by the teacher", known.solved, "share"),
        ]
        learned = {family: curves(name, family, fast) for family in (BRIEF if fast else FAMILIES)}
        for family, curve in learned.items():
            found += _rows(family, curve, fast)
        if fast:
            return found
        scratch = min(first(learned[family]) for family in SCRATCH)
        spent = scratch if np.isfinite(scratch) else min(learned[family].steps[-1] for family in SCRATCH)
        hybrid = min(first(learned[family]) for family in HYBRID)
        label = "steps to 90 % solved, hybrid over scratch" + ("" if np.isfinite(scratch) else " (at most)")
        found.append(Row(label, hybrid / spent, "1", "<= 0.1"))
        return found

    return rows


def _rows(family: str, curve: Curves, fast: bool) -> list[Row]:
    """Of one family."""
    chosen = FAMILIES[family]
    returns = middle(curve.returns)
    low, high = interval(curve.returns[:, -1])
    rows = [
        Row(f"{family}: normalised return", float(returns[-1]), "1", None if fast else chosen.final),
        Row(f"{family}: 95 % interval from", float(low), "1"),
        Row(f"{family}: 95 % interval to", float(high), "1"),
        Row(f"{family}: worst seed", float(curve.returns[:, -1].min()), "1"),
        Row(f"{family}: solved", float(middle(curve.solved)[-1]), "share"),
        Row(f"{family}: steps to 90 % solved", first(curve), "1"),
        Row(f"{family}: simulator steps", float(curve.steps[-1]), "1"),
        Row(f"{family}: gradient updates", curve.updates, "1"),
    ]
    if chosen.dip is not None:
        dip = float(returns[0] - returns.min())
        rows.append(Row(f"{family}: deepest fall", dip, "1", None if fast else chosen.dip))
    return rows


def draw(names: Sequence[str], path: Path) -> None:
    """Normalised return against simulator steps, a panel per task."""
    figure, axes = plots.grid(1, len(names), width=5.0, height=3.6)
    for axis, name in zip(axes[0], names, strict=True):
        for i, family in enumerate(FAMILIES):
            curve = curves(name, family, fast=False)
            shown, (low, high) = middle(curve.returns), interval(curve.returns)
            x = np.maximum(curve.steps, 1)
            begin = 0 if curve.steps[0] > 0 else 1
            axis.plot(x[begin:], shown[begin:], label=family, color=f"C{i}")
            axis.fill_between(x[begin:], low[begin:], high[begin:], color=f"C{i}", alpha=0.15, linewidth=0)
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=name, xlabel="simulator steps", xscale="log")
    axes[0][0].set_ylabel("return (0 random, 1 teacher)")
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plots.save(figure, path)


def picture(fast: bool) -> list[Row]:
    """The plot, of runs that were made before or are made now."""
    if not fast:
        draw(TASKS, PICTURE)
    return []


if __name__ == "__main__":
    cases = {name: case(name) for name in TASKS} | {"picture": picture}
    main("families", cases, seeds=(*SEEDS, UNSEEN), x64=False)

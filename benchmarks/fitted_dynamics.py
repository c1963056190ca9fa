"""Local controllers on fitted dynamics beside iLQR on the engine's own derivatives (Levine & Abbeel 2014).

No student: each condition's controller improves within a bound on the KL divergence from itself, as in
`gps.algorithms.traj_opt`. J is the cost of one rollout of it without noise, J_first that of the first
controller, J_ilqr the least that iLQR came to from several starts. There are two thresholds: a tenth of the
improvement short of iLQR, J <= J_ilqr + .1 (J_first - J_ilqr), and a tenth of its cost, J <= J_ilqr +
.1 |J_ilqr|. Rollouts are counted per controller, i.e. per condition and seed; the trials without noise, which
only measure, are left out. Settings were chosen on seeds from 100 on. What has been measured is kept in
runs/fitted_dynamics and not measured again.
"""

import functools
import hashlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from benchmarks import harness
from benchmarks.harness import Row, main
from envs.peg import INSERTED
from gps.algorithms.defaults import local_teacher_factory
from gps.algorithms.guided import Now
from gps.algorithms.phases import batched, explore, last_metrics, trial_of_locals
from gps.algorithms.step_rules import StepRule, Steps, first_steps
from gps.algorithms.traj_opt import alone
from gps.conditions import training_conditions
from gps.types import Env, LocalTeacher, Trajectory
from teachers.ilqr import ilqr

SEEDS = tuple(range(5))
SWEEP_SEEDS = SEEDS[:3]
SAMPLES = 5
"""Rollouts per iteration, but where they are varied."""
NEAR = 0.1
NUMBERS = (2, 3, 5, 8, 12, 16, 20, 25, 30, 40)
kept = functools.partial(harness.kept, [Path(__file__)])


class Setting(NamedTuple):
    """Of one task."""

    iterations: int
    """Of at most 80, which are 400 rollouts."""
    sweep: int
    """Iterations in which the numbers of rollouts per iteration are compared; 0: they are not."""
    epsilon: float
    """KL bound per control step, nats."""
    rule: StepRule
    """How its multiplier goes."""
    multipliers: tuple[float, float]
    starts: int
    """Of iLQR, at random, per condition; others are where the fitted controllers of every seed
    ended, so that what is compared with is no worse for a start than what it is compared with."""
    solve: int = 300
    """Iterations of iLQR."""


SETTINGS = {
    "swimmer": Setting(80, 30, 1.0, "none", (1.0, 1.0), 5),
    "blind_peg": Setting(30, 12, 1.0, "classic", (0.01, 3.0), 3),
}
VARIED = {
    "swimmer": {
        "no prior": {"clusters": 0, "reuse": 1e-9},
        "mixture": {"clusters": 10, "strength": 0.1, "reuse": 0.0},
        "earlier rollouts": {"clusters": 0},
    },
    "blind_peg": {"no prior": {"clusters": 0, "reuse": 1e-9}, "mixture": {}},
}
"""What fitted dynamics know beside the last rollouts; 1e-9 lifts the check that there are enough of these."""


# --------------------------------------------------------------------------------------- what is run


def course(
    env: Env, make_teacher: Callable[[Env], LocalTeacher], samples: int, iterations: int, setting: Setting
) -> Callable[[Key[Array, ""]], tuple[Float[Array, "I+1 M"], Trajectory]]:
    """Key → (J of the controllers of all conditions before and after each iteration, their last trials)."""
    roll_out, trials = explore(env, make_teacher, samples), trial_of_locals(env, make_teacher)
    c_step = alone(setting.rule, setting.epsilon, setting.multipliers)

    def improve(
        bound: Env, teacher: LocalTeacher, local: PyTree, paths: Trajectory, steps: Steps
    ) -> tuple[PyTree, Steps]:
        now = Now(local, local, paths, lambda: teacher.controller(local), jnp.asarray(True))
        done = c_step(bound, teacher, now, steps)
        return done.local, done.memory

    def last_trial(bound: Env, teacher: LocalTeacher, local: PyTree, x0: Array) -> Trajectory:
        controller = teacher.controller(local)
        return bound.rollout(x0, controller, jnp.zeros_like(controller.us))

    def run(key: Array) -> tuple[Array, Trajectory]:
        start_key, init_key, life = jax.random.split(key, 3)
        starts = training_conditions(env, start_key)
        over = functools.partial(batched, env, make_teacher)
        begin = over(lambda bound, teacher, key, x0: teacher.init(key, x0))
        local = begin(starts.context, jax.random.split(init_key, starts.x0.shape[0]), starts.x0)
        steps = jax.vmap(lambda x0: first_steps(x0.dtype))(starts.x0)

        def iterate(carry: tuple, key: Array) -> tuple[tuple, Array]:
            local, paths, _ = roll_out(key, starts, carry[0])
            local, steps = over(improve)(starts.context, local, paths, carry[1])
            return (local, steps), trials(starts, local)[0]

        first, _ = trials(starts, local)
        (local, _), costs = jax.lax.scan(iterate, (local, steps), jax.random.split(life, iterations))
        return jnp.concatenate([first[None], costs]), over(last_trial)(starts.context, local, starts.x0)

    return run


def reference(env: Env, starts: int, warm: Sequence[np.ndarray], iterations: int) -> Float[np.ndarray, " M"]:
    """The least cost of iLQR per condition, from random controls and from `warm` ones [M, T, nu]."""
    conditions = training_conditions(env, jax.random.key(0))
    solve = jax.jit(
        lambda context, x0, us: ilqr(env.bind(context), iterations=iterations).solve(x0, us)[0].cost
    )
    rng = np.random.default_rng(0)
    M, low, high = conditions.x0.shape[0], *env.limits
    shape = (M, env.horizon, env.nu)
    guesses = [np.clip(size * rng.normal(size=shape), low, high) for size in np.linspace(0.2, 0.6, starts)]

    def least(us: np.ndarray) -> list[float]:
        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], conditions) for i in range(M)]
        return [float(solve(*row, controls)) for row, controls in zip(rows, us, strict=True)]

    costs = [least(us) for us in [*guesses, *warm]]
    return np.min(costs, axis=0)


# ------------------------------------------------------------------------------------ what comes of it


def rollouts_to(costs: Float[np.ndarray, " I+1"], threshold: float, samples: int) -> float:
    """Rollouts spent when the cost, which is known after each iteration, is first at most `threshold`.

    NaN where it never is.
    """
    reached = np.flatnonzero(np.asarray(costs) <= threshold)
    return float(reached[0] * samples) if reached.size else float("nan")


def thresholds(first: float, best: float) -> dict[str, float]:
    """By what is a tenth."""
    return {
        "10 % of the improvement": best + NEAR * (first - best),
        "10 % of the cost": best + NEAR * abs(best),
    }


class Measured(NamedTuple):
    """Of several seeds."""

    costs: Float[np.ndarray, "S I+1 M"]
    us: Float[np.ndarray, "S M T nu"]
    """Controls of the last controllers without noise."""
    distance: Float[np.ndarray, "S M"]
    """What is left of the way to the goal in the end, where the task has one, m."""


def measure(
    name: str, dynamics: str, samples: int, iterations: int, seeds: Sequence[int], **options: Any
) -> Measured:
    """Courses of the task's local controllers, kept by all that they depend on."""
    module = importlib.import_module(f"envs.{name}")
    env, setting = getattr(module, name)(), SETTINGS[name]
    make = functools.partial(local_teacher_factory(module), dynamics=dynamics, **options)
    run = jax.jit(course(env, make, samples, iterations, setting))

    def one(seed: int) -> dict[str, Any]:
        costs, end = run(jax.random.key(seed))
        contexts = training_conditions(env, jax.random.key(seed)).context
        last = jax.vmap(lambda c, path: last_metrics(env.bind(c), path))(contexts, end)
        found = {"costs": costs, "us": end.us, "distance": last.get("distance", costs[-1] * jnp.nan)}
        return {name: np.asarray(value).tolist() for name, value in found.items()}

    steps = [setting.epsilon, setting.rule, *setting.multipliers]
    said = [name, dynamics, samples, iterations, steps, {**module.LOCAL, **options}]
    rows = [kept([*said, seed], lambda seed=seed: one(seed)) for seed in seeds]
    return Measured(*(np.array([row[field] for row in rows]) for field in Measured._fields))


def best_known(name: str, setting: Setting, found: Measured) -> Float[np.ndarray, " M"]:
    """J_ilqr per condition."""
    env = getattr(importlib.import_module(f"envs.{name}"), name)()
    at_random = kept(
        ["ilqr", name, setting.starts, setting.solve],
        lambda: {"costs": reference(env, setting.starts, [], setting.solve).tolist()},
    )
    said = ["ilqr", name, setting.solve, hashlib.sha256(found.us.tobytes()).hexdigest()]
    warm = kept(said, lambda: {"costs": reference(env, 0, list(found.us), setting.solve).tolist()})
    return np.minimum(at_random["costs"], warm["costs"])


def case(name: str) -> Callable[[bool], list[Row]]:
    """Rows of one task: fitted and known dynamics, then how many rollouts an iteration needs."""

    def rows(fast: bool) -> list[Row]:
        setting, seeds = SETTINGS[name], SEEDS[:1] if fast else SEEDS
        if fast:
            setting = setting._replace(iterations=2, sweep=0, starts=1, solve=5)
        fitted = measure(name, "fitted", SAMPLES, setting.iterations, seeds)
        known = measure(name, "known", 1, min(setting.iterations, 40), seeds[:1])  # no noise: all alike
        best = best_known(name, setting, fitted)
        first = fitted.costs[0, 0]
        found = [Row("J_first", first.mean(), "cost"), Row("J_ilqr", best.mean(), "cost")]
        for title, runs, samples in (("fitted", fitted, SAMPLES), ("known", known, 1)):
            found += _course_rows(title, runs.costs, samples, first, best)
        return found + (
            _sweep(name, setting, float(np.mean(best + NEAR * (first - best)))) if setting.sweep else []
        )

    return rows


def _course_rows(
    title: str, costs: np.ndarray, samples: int, first: np.ndarray, best: np.ndarray
) -> list[Row]:
    """Of the S x M controllers with one kind of dynamics."""
    S, length, M = costs.shape
    unit, target = "rollouts", "<= 400" if title == "fitted" else None
    looked_at = [i for i in (5, 10, 20, 40, 80) if i < length]
    found = [Row(f"{title}: J after {i * samples} rollouts", costs[:, i].mean(), "cost") for i in looked_at]
    found.append(Row(f"{title}: J in the end ÷ J_ilqr", costs[:, -1].mean() / best.mean(), "ratio"))
    limits = [thresholds(first[i], best[i]) for i in range(M)]
    for within in limits[0]:
        counts = np.array(
            [[rollouts_to(costs[s, :, i], limits[i][within], samples) for i in range(M)] for s in range(S)]
        )
        goal = float(np.mean([limit[within] for limit in limits]))
        of_mean = rollouts_to(costs.mean(axis=(0, 2)), goal, samples)
        found += [
            Row(f"{title}: mean J within {within}", of_mean, unit, target),
            Row(f"{title}: worst controller within {within}", counts.max(), unit),
            Row(
                f"{title}: controllers that came within {within}",
                float(np.mean(np.isfinite(counts))),
                "share",
            ),
        ]
    return found


def _sweep(name: str, setting: Setting, goal: float) -> list[Row]:
    """The least rollouts per iteration that are enough.

    Enough for the mean J to be at most `goal`, or where a peg is inserted for .95 of the controllers to
    insert it.
    """

    def enough(runs: Measured) -> bool:
        if name == "blind_peg":
            return float(np.mean(runs.distance <= INSERTED)) >= 0.95
        return bool(np.isfinite(rollouts_to(runs.costs.mean(axis=(0, 2)), goal, 1)))

    least: dict[str, float] = {}
    for title, options in VARIED[name].items():
        least[title] = float("nan")
        for samples in NUMBERS:
            size = max(18, 6 * samples) if title == "earlier rollouts" else max(40, samples)
            runs = measure(name, "fitted", samples, setting.sweep, SWEEP_SEEDS, **options, remember=size)
            if enough(runs):
                least[title] = float(samples)
                break
    what = f"rollouts per iteration that are enough, {setting.sweep} iterations"
    found = [Row(f"{title}: {what}", number, "rollouts") for title, number in least.items()]
    for title in list(least)[1:]:
        share = least[title] / least["no prior"]
        found.append(Row(f"{title} ÷ no prior: {what}", share, "ratio", "<= 0.5"))
    return found


if __name__ == "__main__":
    main("fitted_dynamics", {name: case(name) for name in SETTINGS}, seeds=SEEDS)

"""Every planner on five tasks: what a plan costs against the time that it took (docs/planners.png).

A plan from a fixed first state and zero controls, with 1 to 64 iterations; seconds are those of one solve on
all cores, without compiling; those with derivatives may stop before their iterations are used up. Planners
that sample draw 64 samples per iteration, splines of 8 knots, and show the median of their seeds.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import teachers
from benchmarks.harness import Row, main, median_time
from envs.cartpole import cartpole
from envs.gymnasium import from_gymnasium
from envs.obstacle import obstacle
from envs.pendulum import pendulum
from envs.reacher import reacher
from gps import plots
from gps.placement import cpu_jit
from gps.types import Env
from teachers.planner import Planner

SEEDS = (0, 1, 2, 3, 4)
BUDGETS = (1, 4, 16, 64)
NEAR = 0.05
"""A plan is near the best of any planner (of those that sample, the best median) when it costs at most this
share of |cost| more."""
PLOT = Path(__file__).resolve().parents[1] / "docs" / "planners.png"

_sampling = functools.partial(functools.partial, samples=64, noise=teachers.spline(8))
SAMPLING = {
    "predictive sampling": _sampling(teachers.predictive_sampling),
    "mppi": _sampling(teachers.mppi),
    "cem": _sampling(teachers.cem),
    "cma_es": _sampling(teachers.cma_es),
    "dial": _sampling(teachers.dial),
}
HYBRID = {
    "ilqs": functools.partial(teachers.ilqs, sampler=SAMPLING["cem"]),
    "best_of (ilqr, cem)": functools.partial(teachers.best_of, planners=(teachers.ilqr, SAMPLING["cem"])),
}
PLANNERS: dict[str, Callable[..., Planner]] = {
    "ilqr": teachers.ilqr,
    "multiple_shooting": teachers.multiple_shooting,
    **SAMPLING,
    **HYBRID,
}


class Curve(NamedTuple):
    """A planner on a task, at each of the budgets."""

    seconds: np.ndarray
    costs: np.ndarray


def walker() -> Env:
    """Gymnasium's Walker2d, its planning model and cost."""
    env = from_gymnasium("Walker2d-v5")
    assert env.planning is not None
    return env.planning


TASKS: dict[str, tuple[Callable[[], Env], int]] = {
    "pendulum": (pendulum, 60),
    "cart-pole": (cartpole, 60),
    "reacher": (reacher, 40),
    "obstacle": (obstacle, 60),
    "walker (gymnasium)": (walker, 60),
}
"""Task and horizon."""


def measure(env: Env, horizon: int, make: Callable[..., Planner], chance: bool, fast: bool) -> Curve:
    """Seconds and costs of a plan at each budget."""
    x0 = env.init(jax.random.key(0))
    seconds, costs = [], []
    for iterations in BUDGETS[:1] if fast else BUDGETS:
        planner = make(env, horizon=horizon, iterations=iterations)

        def plan(key: jax.Array, planner: Planner = planner) -> jax.Array:
            guess = planner.begin(x0, jnp.zeros((horizon, env.nu), x0.dtype))
            return planner.improve(key, x0, guess)[0].cost

        run = cpu_jit(plan)
        seeds = SEEDS if chance and not fast else SEEDS[:1]
        costs.append(np.median([float(run(jax.random.key(seed))) for seed in seeds]))
        seconds.append(median_time(functools.partial(run, jax.random.key(0)), 3).median)
    return Curve(np.array(seconds), np.array(costs))


def case(task: str, drawn: dict[str, dict[str, Curve]]) -> Callable[[bool], list[Row]]:
    """Rows of one task; its curves are left in `drawn`."""

    def rows(fast: bool) -> list[Row]:
        make_env, horizon = TASKS[task]
        env = make_env()
        curves = {
            name: measure(env, horizon, PLANNERS[name], name in SAMPLING | HYBRID, fast)
            for name in (("ilqr", "cem") if fast else PLANNERS)
        }
        drawn[task] = curves
        best = min(float(np.nanmin(curve.costs)) for curve in curves.values())
        enough = best + NEAR * abs(best)
        found = []
        for name, curve in curves.items():
            most, longest = BUDGETS[len(curve.costs) - 1], 1e3 * curve.seconds[-1]
            there = np.flatnonzero(curve.costs <= enough)
            when = curve.seconds[there[0]] if there.size else np.inf
            found += [
                Row(f"{name}: cost, 1 iteration", curve.costs[0], "1"),
                Row(f"{name}: cost, {most} iterations", curve.costs[-1], "1"),
                Row(f"{name}: time, {most} iterations", longest, "ms"),
                Row(f"{name}: time to 5 % of the best", float(1e3 * when), "ms"),
            ]
        if len(drawn) == len(TASKS) and not fast:
            draw(drawn)
        return found

    return rows


def draw(curves: dict[str, dict[str, Curve]], path: Path = PLOT) -> None:
    """One panel for each task: how far above the best plan, against the time."""
    figure, rows = plots.grid(1, len(curves), 3.4, 3.6)
    colours = plots.part("colors").TABLEAU_COLORS.values()
    for axis, (task, lines) in zip(rows[0], curves.items(), strict=True):
        best = min(float(np.nanmin(curve.costs)) for curve in lines.values())
        for colour, (name, curve) in zip(colours, lines.items(), strict=False):
            above = np.maximum((curve.costs - best) / abs(best), 1e-4)
            style = "--" if name in SAMPLING else "-"
            axis.plot(curve.seconds, above, style, marker="o", markersize=3, color=colour, label=name)
        axis.set(title=task, xscale="log", yscale="log", xlabel="seconds")
        axis.axhline(NEAR, color="0.7", linewidth=0.8)
    rows[0][0].set_ylabel("(cost − best) / |best|")
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    plots.save(figure, path)


if __name__ == "__main__":
    drawn: dict[str, dict[str, Curve]] = {}
    main("planners", {task: case(task, drawn) for task in TASKS}, seeds=SEEDS)

"""Guided policy search on the published tasks and protocol (Montgomery & Levine 2016).

Every run is kept in runs/gps_tables and resumed where it was stopped. Training conditions, samples and
iterations are the paper's, dynamics are unknown; what a student is tested on is its noise-free rollout in
each training condition. Settings were chosen on seeds from 100 on, which are not among those here.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.harness import Row, main
from gps import plots
from gps.cli import compare
from gps.cli.variants import slug
from gps.run import versions

PICTURES = Path(__file__).resolve().parents[1] / "docs"
SEEDS = tuple(range(10))
METHODS = {
    "BADMM": "badmm",
    "off-policy classic": "mdgps(step_rule='classic'",
    "off-policy global": "mdgps(step_rule='global'",
    "on-policy classic": "mdgps(on_policy=True, step_rule='classic'",
    "on-policy global": "mdgps(on_policy=True, step_rule='global'",
}


class Protocol(NamedTuple):
    """One task."""

    options: str
    """Of every method."""
    iterations: int
    looked_at: tuple[int, ...]
    """Iterations that are shown."""
    best: str
    """Target of the best method's mean distance at the last iteration, m."""


PUBLISHED = {
    "blind_peg": (
        (0.105, 0.05, 0.06),
        (0.105, 0.04, 0.03),
        (0.105, 0.04, 0.03),
        (0.175, 0.085, 0.05),
        (0.20, 0.09, 0.07),
    ),
    "peg": (
        (0.11, 0.05, 0.04),
        (0.105, 0.04, 0.09),
        (0.11, 0.065, 0.04),
        (0.14, 0.07, 0.035),
        (0.14, 0.095, 0.07),
    ),
    "obstacle": (
        (1.15, 0.40, 0.26),
        (0.50, 0.47, 0.47),
        (1.68, 0.77, 0.68),
        (1.25, 1.42, 0.62),
        (1.45, 0.92, 0.75),
    ),
}
"""After iterations 5, 10 and 15, m, a row for each method: read off a figure, ±.02 (obstacle ±.05)."""
PROTOCOLS = {
    "blind_peg": Protocol("epsilon=1.0, multipliers=(0.01, 3.0)", 12, (3, 6, 9, 12), "<= 0.04"),
    "peg": Protocol("epsilon=2.0, multipliers=(0.01, 1.0)", 12, (3, 6, 9, 12), "<= 0.05"),
    "obstacle": Protocol("epsilon=1.0, multipliers=(0.1, 1.0)", 15, (5, 10, 15), "<= 0.26"),
}


def case(env: str) -> Callable[[bool], list[Row]]:
    """Rows of one task: each method's distances, then what the best of them came to."""

    def rows(fast: bool) -> list[Row]:
        protocol = PROTOCOLS[env]
        methods = dict(list(METHODS.items())[1:2]) if fast else METHODS
        iterations = 2 if fast else protocol.iterations
        flags = compare.Flags(
            algorithms=tuple(_spelled(method, protocol) for method in methods.values()),
            envs=(env,),
            seeds=SEEDS[:1] if fast else SEEDS,
            iterations=iterations,
            episodes=2 if fast else 50,
            out=f"runs/gps_tables{'-fast' if fast else ''}/{env}",
        )
        _of_this_code(Path(flags.out))
        compare.compare(flags, Console(stderr=True))
        found: list[Row] = []
        runs_of: dict[str, list[list[dict[str, Any]]]] = {}
        for title, method in methods.items():
            runs = [_records(flags, env, _spelled(method, protocol), seed) for seed in flags.seeds]
            looked_at = (iterations,) if fast else protocol.looked_at
            found += _of_method(title, runs, looked_at)
            runs_of[title] = runs
        if not fast:
            picture(env, runs_of)
        best = min(runs_of, key=lambda title: _of(runs_of[title], "student_distance", iterations).mean())
        return [*found, *_of_best(best, runs_of[best], iterations, protocol.best)]

    return rows


def _of_method(title: str, runs: Sequence[list[dict[str, Any]]], looked_at: Sequence[int]) -> list[Row]:
    """The student by iteration, the iterate handed out and the local controllers, all without noise."""
    found = [Row(f"{title}: iteration {i}", _of(runs, "student_distance", i).mean(), "m") for i in looked_at]
    end = looked_at[-1]
    chosen = _handed_out(runs)
    found += [
        Row(f"{title}: ± at {end}", _of(runs, "student_distance", end).std(ddof=0), "m"),
        Row(f"{title}: handed out", _mean(chosen, "student_distance"), "m"),
    ]
    if "student_inserted" in chosen[0]:
        found += [
            Row(f"{title}: < .1 m at {i}", _of(runs, "student_success", i).mean(), "share") for i in looked_at
        ]
        found += [
            Row(f"{title}: inserted at {end}", _of(runs, "student_inserted", end).mean(), "share"),
            Row(f"{title}: handed out, inserted", _mean(chosen, "student_inserted"), "share"),
            Row(f"{title}: local controllers inserted", _of(runs, "local_inserted", end).mean(), "share"),
        ]
    return found


def _of_best(title: str, runs: Sequence[list[dict[str, Any]]], end: int, target: str) -> list[Row]:
    """What the method whose students end nearest came to, and what was promised of it.

    J_init is the mean cost of the first controllers' rollouts, J_teacher that of the last local controllers
    without noise, J_student that of the iterate handed out, without noise, all in the training conditions.
    """
    chosen = _handed_out(runs)
    begun = np.mean([records[0]["teacher_cost"] for records in runs])
    local, kept = _of(runs, "local_cost", end).mean(), _mean(chosen, "student_cost")
    found = [Row(f"best ({title}): distance", _of(runs, "student_distance", end).mean(), "m", target)]
    if "student_inserted" in chosen[0]:
        found += [
            Row(f"best ({title}): inserted", _mean(chosen, "student_inserted"), "share", ">= 0.95"),
            Row(f"best ({title}): depth", _mean(chosen, "student_depth"), "m"),
            Row(f"best ({title}): inserted in unseen conditions", _mean(chosen, "test_inserted"), "share"),
            Row(
                f"best ({title}): local controllers inserted",
                _of(runs, "local_inserted", end).mean(),
                "share",
                ">= 0.95",
            ),
        ]
    share = (begun - kept) / (begun - local)
    return [
        *found,
        Row(f"best ({title}): (J_init - J_student) / (J_init - J_teacher)", share, "ratio", ">= 0.95"),
        Row(
            f"best ({title}): rollouts",
            _mean([records[-1] for records in runs], "total_rollouts"),
            "rollouts",
        ),
    ]


def picture(env: str, runs_of: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Distance of the student against the iteration as a png: mean over the seeds, and their deciles."""
    figure, [[axis]] = plots.grid(1, 1, 6.0, 3.6)
    for i, (title, runs) in enumerate(runs_of.items()):
        values = np.array([[record["student_distance"] for record in records] for records in runs])
        steps, ends = np.arange(1, values.shape[1] + 1), np.quantile(values, (0.1, 0.9), axis=0)
        axis.plot(steps, values.mean(axis=0), color=f"C{i}", label=title)
        axis.fill_between(steps, *ends, color=f"C{i}", alpha=0.12, linewidth=0)
        axis.plot((5, 10, 15), PUBLISHED[env][i], "x", color=f"C{i}")
    axis.plot([], [], "x", color="black", label="published")
    axis.set(yscale="log", xlabel="iteration", ylabel="final distance, m", title=env.replace("_", " "))
    axis.legend(fontsize=7)
    plots.save(figure, PICTURES / f"gps_{env}.png")


def _handed_out(runs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The record of the iterate that each run hands out."""

    def cost(record: dict[str, Any]) -> float:
        """None stands for an infinite one: a trial that diverged."""
        return np.inf if record["student_cost"] is None else record["student_cost"]

    return [min(records, key=cost) for records in runs]


def _of_this_code(folder: Path) -> None:
    """Finished runs are kept only as long as the code that made them.

    Raises:
        ValueError: another version of it made some.
    """
    made = {json.loads(path.read_text())["versions"]["code"] for path in folder.glob("*/*/*/config.json")}
    if others := made - {versions()["code"]}:
        raise ValueError(
            f"{folder} has runs of other versions of the code ({', '.join(sorted(others))}): remove it, a "
            "table is of one version"
        )


def _spelled(method: str, protocol: Protocol) -> str:
    """The method as `gps compare` reads it."""
    return f"{method}, {protocol.options})" if "(" in method else f"{method}({protocol.options})"


def _records(flags: compare.Flags, env: str, algorithm: str, seed: int) -> list[dict[str, Any]]:
    path = Path(flags.out) / slug(env) / slug(algorithm) / f"seed-{seed}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def _of(runs: Sequence[list[dict[str, Any]]], name: str, iteration: int) -> np.ndarray:
    """A figure of every run at one iteration."""
    return np.array([records[iteration - 1][name] for records in runs], float)


def _mean(records: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


if __name__ == "__main__":
    main("gps_tables", {env: case(env) for env in PROTOCOLS}, seeds=SEEDS)

"""The table and the plot of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gps import plots, report, run
from gps.cli.progress import number

__all__ = ["entries", "totals", "write"]

COUNTED = ("crashes", "samples", "simulator_steps", "teacher_queries", "gradient_updates")
"""What training costs: the last `total_NAME` of a run, or the sum of NAME over its iterations."""


def totals(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What training cost, as far as the algorithm counts it."""
    found = {}
    for name in COUNTED:
        if records and records[-1].get(f"total_{name}") is not None:
            found[name] = records[-1][f"total_{name}"]
        elif any(name in record for record in records):
            found[name] = sum(record.get(name) or 0 for record in records)
    return found


def entries(
    rows: Sequence[dict[str, Any]], shown: Sequence[str] = COUNTED
) -> tuple[list[str], list[list[str]]]:
    """(header, lines): a line per env and algorithm, mean ± standard error over seeds, then the teacher."""
    judged = [name for name, value in rows[0]["student"].items() if isinstance(value, float)]
    counted = [name for name in shown if any(name in row["training"] for row in rows)]
    header = ["env", "driver", *judged, *(f"training {name}" for name in counted), "wall (s)"]
    lines = []
    for env in dict.fromkeys(row["env"] for row in rows):
        here = [row for row in rows if row["env"] == env]
        for algorithm in dict.fromkeys(row["algorithm"] for row in here):
            runs = [row for row in here if row["algorithm"] == algorithm]
            figures = [_spread([row["student"].get(name) for row in runs]) for name in judged]
            costs = [_spread([row["training"].get(name) for row in runs]) for name in counted]
            lines.append([env, algorithm, *figures, *costs, _spread([row["seconds"] for row in runs])])
        taught = [row["teacher"] for row in here if row["teacher"]]
        if taught:
            teacher = [_spread([taught[0].get(name)]) for name in judged]
            lines.append([env, "teacher", *teacher, *["–"] * len(counted), "–"])
    return [name.replace("_", " ") for name in header], lines


def write(rows: Sequence[dict[str, Any]], path: Path, episodes: int, console: Console) -> None:
    """results.json, report.md and compare.png in `path`; the table on the console."""
    run.write_json(path / "results.json", rows)
    header, lines = entries(rows)
    seeds = len({row["seed"] for row in rows})
    title = f"{episodes} unseen worlds, {seeds} seed{'s' * (seeds > 1)} (mean ± standard error)"
    picture = ""
    try:
        plots.bars(_bars(rows), "time to failure (s)", path / "compare.png")
        picture = "\n\n![comparison](compare.png)"
        if (path / "flight.png").exists():
            picture += "\n\n![every driver in the same world](flight.png)"
    except plots.PlotError as error:
        console.print(f"note: {error}", highlight=False, markup=False)
    run.write_atomic(
        path / "report.md", f"# Comparison\n\n{title}\n\n{report.markdown_table(header, lines)}{picture}\n"
    )
    table = Table(title=title)
    header, lines = entries(rows, COUNTED[:1])
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*(cell.replace("[", r"\[") for cell in line))
    console.print(table)
    console.print(f"kept in {path}: see {path / 'report.md'}", highlight=False, markup=False, soft_wrap=True)


def _spread(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return "–"
    mean = float(np.mean(found))
    if len(found) == 1:
        return number(found[0])
    return f"{number(mean)} ± {number(float(np.std(found, ddof=1)) / len(found) ** 0.5)}"


def _bars(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Env → driver → time to failure of each seed."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        drivers = groups.setdefault(row["env"], {})
        drivers.setdefault(row["algorithm"], []).append(row["student"]["time_to_failure"])
    for row in rows:
        if row["teacher"]:
            groups[row["env"]].setdefault("teacher", [row["teacher"]["time_to_failure"]])
    return groups

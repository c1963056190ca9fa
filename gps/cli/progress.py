"""What a run shows while it runs: one line per iteration, and on a terminal a bar with the time left."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Show", "iteration_line", "iterations", "number"]

SHOWN = {
    "teacher_cost": "teacher cost",
    "student_cost": "student cost",
    "student_return": "student return",
    "student_distance": "student distance",
    "crashes": "crashes",
    "kl": "KL",
}


class Show(Protocol):
    """Called after every iteration."""

    def __call__(self, iteration: int, record: dict[str, Any], seconds: float) -> None:
        """Shows `record`, the scalars of an iteration that took `seconds`."""


class Pace(NamedTuple):
    """What the time left is computed from: the first iteration of a process also compiles."""

    first: float
    later: float
    steps: int


@contextmanager
def iterations(
    console: Console, label: str, total: int, records: Sequence[dict[str, Any]] = (), shown: bool = True
) -> Iterator[Show]:
    """A display for the iterations after `records`, up to `total`; yields the function to call after each.

    The teacher's cost is the last one that was measured: it does not drive in every iteration. Not `shown`,
    the bar is left out.
    """
    columns = ("[bold]{task.description}", BarColumn(bar_width=20), MofNCompleteColumn())
    widgets = [TextColumn(column) if isinstance(column, str) else column for column in columns]
    bar = Progress(
        *widgets,
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    pace = Pace(0.0, 0.0, 0)
    taught = [record["teacher_cost"] for record in records if record.get("teacher_cost") is not None][-1:]
    with bar:
        task = bar.add_task(label, total=total, completed=min(len(records), total), figures="")

        def show(iteration: int, record: dict[str, Any], seconds: float) -> None:
            nonlocal pace
            pace = _add(pace, seconds)
            if record.get("teacher_cost") is not None:
                taught[:] = [record["teacher_cost"]]
            text = iteration_line(record | {"teacher_cost": taught[0] if taught else None}, seconds)
            left = _left(pace, total - iteration)
            console.print(f"{label}  {iteration}/{total}  {text}  {left}", highlight=False, soft_wrap=True)
            bar.update(task, completed=iteration, figures=text)

        yield show


def iteration_line(record: dict[str, Any], seconds: float) -> str:
    """The figures a human watches, '–' for what the algorithm does not report."""
    optional = {"student_distance", "student_return", "crashes"}
    shown = {name: title for name, title in SHOWN.items() if name in record or name not in optional}
    parts = [f"{title} {number(record.get(name))}" for name, title in shown.items()]
    samples = record.get("samples")
    rate = samples / seconds if samples is not None and seconds > 0 else None
    refused = record.get("refused_labels")
    if refused:
        parts.append(f"refused labels {number(refused)}")
    return "  ".join([*parts, f"{number(rate)} samples/s"])


def number(value: Any) -> str:
    """Four significant digits; '–' for nothing, NaN and infinity included."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _add(pace: Pace, seconds: float) -> Pace:
    if pace.steps == 0:
        return Pace(seconds, 0.0, 1)
    return pace._replace(later=pace.later + seconds, steps=pace.steps + 1)


def _left(pace: Pace, remaining: int) -> str:
    each = pace.later / (pace.steps - 1) if pace.steps > 1 else pace.first
    seconds = round(each * remaining)
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02d} left"

"""The common shape of every `python -m benchmarks.NAME`.

A benchmark is a table of cases, functions `fast → rows`, handed to `main`:

    def fit(fast: bool) -> list[Row]:
        return [Row("speed", 1.3e6, "samples/s", ">= 700000")]

    if __name__ == "__main__":
        main("students", {"mlp 32x32": fit})

`main` prints the table and writes `benchmarks/results/NAME.json`. `--fast` is a smoke run, whose table is not
written; `--only CASE` measures one case and keeps the other rows of the file.
"""

import argparse
import difflib
import hashlib
import importlib
import importlib.util
import json
import logging
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gps.run import versions

__all__ = [
    "RESULTS",
    "Ratio",
    "Row",
    "Timing",
    "installed",
    "kept",
    "load",
    "main",
    "median_time",
    "meets",
    "place",
    "time_ratio",
]

RESULTS = Path(__file__).parent / "results"
KEPT = Path("runs")
NOT_YET = "not measured yet"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
    ">": lambda value, bound: value > bound,
}


class Row(NamedTuple):
    """One figure of a case."""

    figure: str
    value: float | None
    """None: it needs what is not here (a device, a package), and is shown as `NOT_YET`."""
    unit: str
    target: str | None = None
    """'<= 1.10', '>= 0.95', '< 2', '> 0' or '0.1 +- 0.01'; None: nothing is promised."""


Case = Callable[[bool], Sequence[Row]]
"""fast → rows."""


# ------------------------------------------------------------------------------------------- targets


def meets(value: float, target: str | None) -> bool | None:
    """Whether the value meets the target; None without a target. A value that is not a number meets none.

    Raises:
        ValueError: if the target cannot be read.
    """
    if target is None:
        return None
    if match := re.fullmatch(rf"\s*(<=|>=|<|>)\s*({NUMBER})\s*", target):
        return COMPARISONS[match[1]](value, float(match[2]))
    if match := re.fullmatch(rf"\s*({NUMBER})\s*\+-\s*({NUMBER})\s*", target):
        return abs(value - float(match[1])) <= float(match[2])
    raise ValueError(f"a target reads '<= 1.1', '>= 0.95', '< 2', '> 0' or '0.1 +- 0.01', got {target!r}")


# ------------------------------------------------------------------------------------------- long work


def place(scripts: Sequence[Path], said: Sequence[Any]) -> tuple[Path, list[Any]]:
    """(where work is kept, all that it depends on): our code, the text of `scripts`, and `said`.

    It is in runs/ under the name of the first script.
    """
    texts = [hashlib.sha256(script.read_bytes()).hexdigest() for script in scripts]
    depends = [versions(), *texts, *said]
    name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    return KEPT / scripts[0].stem / name, depends


def kept(scripts: Sequence[Path], said: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, from its file if it was made before; see `place` for what it depends on."""
    folder, said = place(scripts, said)
    path = folder.with_suffix(".json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps({"of": said, **make()}))
        scratch.replace(path)
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------------------- peers


def installed(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def load(package: str) -> Any:
    """The package, of whose types nothing is known."""
    return importlib.import_module(package)


# ------------------------------------------------------------------------------------------- timing


class Timing(NamedTuple):
    """Seconds of one call: the median of several, and the middle half of them."""

    median: float
    low: float
    high: float


class Ratio(NamedTuple):
    """Time of A over time of B: the median over interleaved pairs, and the middle half of them."""

    median: float
    low: float
    high: float
    a: Timing
    b: Timing


def median_time(call: Callable[[], Any], repeats: int = 7) -> Timing:
    """Median time of a call that returns JAX arrays (they are waited for), after one call to compile."""
    jax.block_until_ready(call())
    return _spread([_seconds(call) for _ in range(repeats)])


def time_ratio(a: Callable[[], Any], b: Callable[[], Any], repeats: int = 9) -> Ratio:
    """How long A takes compared with B.

    The two are timed in turn, A B B A A B …, and compared pair by pair, so that a machine that slows down in
    between slows both.
    """
    jax.block_until_ready((a(), b()))
    pairs = []
    for i in range(repeats):
        if i % 2:
            second, first = _seconds(b), _seconds(a)
        else:
            first, second = _seconds(a), _seconds(b)
        pairs.append((first, second))
    times_a, times_b = zip(*pairs, strict=True)
    ratio = _spread([first / second for first, second in pairs])
    return Ratio(*ratio, _spread(times_a), _spread(times_b))


def _seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _spread(values: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(values) == 1:
        return Timing(values[0], values[0], values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(statistics.median(values), low, high)


# ------------------------------------------------------------------------------------------- running


def main(
    name: str,
    cases: Mapping[str, Case],
    seeds: Sequence[int] = (),
    x64: bool = True,
    argv: Sequence[str] | None = None,
    results: Path = RESULTS,
) -> None:
    """Run the cases named on the command line and report.

    Args:
        name: of the module in `benchmarks`, and of the file of results.
        cases: name → function of `fast` that returns its rows.
        seeds: all the seeds that the cases use.
        x64: whether JAX computes in double precision.
        argv: the command line, `sys.argv` if None.
        results: folder of the JSON files.

    Raises:
        SystemExit: with status 2 for an unknown option or case.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", allow_abbrev=False)
    parser.add_argument(
        "--fast", action="store_true", help="smoke run of under a minute, not written to disk"
    )
    parser.add_argument("--only", metavar="CASE", help=f"one of: {'; '.join(cases)}")
    options = parser.parse_args(argv)
    if options.only is not None and options.only not in cases:
        close = difflib.get_close_matches(options.only, cases, 1, cutoff=0.3)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        parser.error(f"unknown case {options.only!r}, known are: {'; '.join(cases)}{hint}")
    jax.config.update("jax_enable_x64", x64)
    logging.getLogger("absl").setLevel(logging.ERROR)
    chosen = cases if options.only is None else {options.only: cases[options.only]}
    console = Console()
    rows = _measure(chosen, options.fast, console)
    console.print(_table(name, rows))
    if not options.fast:
        path = results / f"{name}.json"
        report = _report(name, rows, seeds)
        _write(path, _keep_others(report, path) if options.only else report)
        console.print(f"written: benchmarks/results/{path.name}")


def _measure(cases: Mapping[str, Case], fast: bool, console: Console) -> list[dict[str, Any]]:
    """The rows of all cases, with progress."""
    rows = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for i, (case, measure) in enumerate(cases.items()):
            task = progress.add_task(f"[{i + 1}/{len(cases)}] {case}")
            rows += [_row(case, row) for row in measure(fast)]
            progress.remove_task(task)
            progress.console.print(f"[{i + 1}/{len(cases)}] {case}: done", markup=False, highlight=False)
    return rows


def _row(case: str, row: Row) -> dict[str, Any]:
    """A row as it is written; `met` is never written by hand."""
    if row.value is None:
        return {"case": case, **row._asdict(), "value": NOT_YET, "met": None}
    value = float(row.value)
    met = meets(value, row.target)
    return {"case": case, **row._asdict(), "value": value if math.isfinite(value) else None, "met": met}


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    """What is shown."""
    table = Table("case", "figure", "value", "unit", "target", "met", title=f"benchmarks.{name}")
    marks = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}
    for row in rows:
        value = "-" if row["value"] is None else row["value"]
        value = value if isinstance(value, str) else f"{value:.4g}"
        table.add_row(row["case"], row["figure"], value, row["unit"], row["target"] or "", marks[row["met"]])
    return table


# ------------------------------------------------------------------------------------------- the file


def _report(name: str, rows: list[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The content of a file of results."""
    device = jax.devices()[0]
    return {
        "command": f"python -m benchmarks.{name}",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "device": f"{device.platform}: {device.device_kind}",
        },
        "versions": versions(),
        "seeds": list(seeds),
        "rows": rows,
    }


def _cpu() -> str:
    """The processor's model, without anything that names the machine."""
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        return match[1].strip()
    return platform.processor() or platform.machine()


def _keep_others(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """The report with the rows of other cases taken over from the file.

    Each of them is marked with the date on which it was measured, with the machine if that was another, and
    with the fingerprint of the code if that or another version was.
    Cases keep the order they have in the file.
    """
    if not path.exists():
        return report
    old = json.loads(path.read_text())
    mark = {"date": old["date"]}
    if old["machine"] != report["machine"]:
        mark["machine"] = old["machine"]
    if old["versions"] != report["versions"]:
        mark["code"] = old["versions"].get("code", "unknown")
    new = {row["case"] for row in report["rows"]}
    is_new = [row["case"] in new for row in old["rows"]]
    place = is_new.index(True) if any(is_new) else len(is_new)
    kept = [{**row, **mark, **row} for row in old["rows"]]  # a mark that is there already stays
    after = [row for row, replaced in zip(kept[place:], is_new[place:], strict=True) if not replaced]
    return {**report, "rows": [*kept[:place], *report["rows"], *after]}


def _write(path: Path, report: dict[str, Any]) -> None:
    """Write at once: a run that is killed leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    scratch.replace(path)

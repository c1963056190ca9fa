"""report.md: what was run, how to run it again, what came out."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gps import plots, run

__all__ = ["command", "markdown_table", "write"]


def write(path: Path) -> list[str]:
    """Writes curves.png and report.md from what the run directory holds; returns what could not be made."""
    config = run.read_config(path)
    records = run.read_lines(path / "metrics.jsonl")
    missing = []
    try:
        plots.curves(records, path / "curves.png")
    except plots.PlotError as error:
        missing.append(str(error))
    sections = [
        _head(config, records, run.read_lines(path / "timing.jsonl")),
        _evaluation(path),
        _last(records),
    ]
    sections.append(_pictures(path))
    run.write_atomic(path / "report.md", "\n\n".join(section for section in sections if section) + "\n")
    return missing


def command(config: dict[str, Any]) -> str:
    """The command line that makes this run again (up to where it was lengthened)."""
    asks = config["algorithm"] == "asked"
    words = ["gps", "label", "--answers", "FILE"] if asks else ["gps", "train"]
    for name in ("env", "seed") if asks else ("algorithm", "env", "seed"):
        words += [f"--{name}", str(config[name])]
    words += ["--iterations", str(config["planned"])]
    words += ["--teacher", config["teacher"]] if config.get("teacher") else []
    for group, options in config["options"].items():
        for name, value in options.items():
            words += _flag(f"{group}.{name}".replace("_", "-"), value)
    return shlex.join(words)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, first column left, the others right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))


# ------------------------------------------------------------------------------------- internals


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        group, _, option = name.rpartition(".")
        return [f"--{name}" if value else f"--{group}.no-{option}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def _head(config: dict[str, Any], records: list[dict[str, Any]], timing: list[dict[str, Any]]) -> str:
    seconds = sum(record["seconds"] for record in timing)
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return (
        f"# {config['algorithm']} on {config['env']}, seed {config['seed']}\n\n"
        f"{len(records)} of {config['iterations']} iterations in {seconds:.1f} s. {versions}.\n\n"
        f"```\n{command(config)}\n```"
    )


def _evaluation(path: Path) -> str:
    if not (path / "eval.json").exists():
        return ""
    found = run.read_json(path / "eval.json")
    names = [name for name, value in found["student"].items() if isinstance(value, float)]
    drivers = [who for who in ("student", "teacher") if found[who]]
    rows = [[name.replace("_", " "), *(f"{found[who][name]:.4g}" for who in drivers)] for name in names]
    title = f"{found['student']['episodes']} unseen worlds (seed {found['seed']})"
    table = markdown_table(("", *drivers), rows)
    return f"## {title}, after iteration {found['iteration']}\n\n{table}"


def _last(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    rows = [
        [name.replace("_", " "), "–" if value is None else f"{value:.6g}"]
        for name, value in records[-1].items()
        if name != "iteration"
    ]
    return f"## Iteration {records[-1]['iteration']}\n\n{markdown_table(('', 'value'), rows)}"


def _pictures(path: Path) -> str:
    lines = [f"![{file.stem}]({file.name})" for file in sorted(path.glob("*.png"))]
    if (path / "flight.mp4").exists():
        lines.append("[Film: teacher and student in the same worlds](flight.mp4)")
    return "\n\n".join(lines)

"""Write the README's tables from the files of results, so that they cannot drift (`make readme`).

Between `<!-- results:NAME -->` and `<!-- /results -->` stands the table of `benchmarks/results/NAME.json`;
with `<!-- results:NAME PATTERN -->` only the cases that match the shell pattern. `<!-- wide results:… -->`
puts figures named "WHO: WHAT" that have no target into one line for each WHO. `--check` writes nothing and
exits with status 1 if the README is not what the results say.
"""

import argparse
import fnmatch
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

__all__ = ["main", "regenerate"]

README = Path(__file__).resolve().parents[1] / "README.md"
OPEN = re.compile(r"<!-- (?P<wide>wide )?results:(?P<name>[\w-]+)(?: +(?P<pattern>[^<>]+?))? -->")
CLOSE = "<!-- /results -->"


def regenerate(text: str, results: Path = RESULTS) -> str:
    """The text with every table between markers written anew.

    Raises:
        ValueError: for a marker without its end, a file of results that does not exist or a pattern that no
            case matches.
    """
    out, rest = [], text
    while match := OPEN.search(rest):
        end = rest.find(CLOSE, match.end())
        following = OPEN.search(rest, match.end())
        if end < 0 or (following and following.start() < end):
            raise ValueError(f"{match[0]} has no {CLOSE} before the next table")
        table = _table(_load(match["name"], results), match["pattern"], bool(match["wide"]), match[0])
        out.append(f"{rest[: match.end()]}\n{table}\n{CLOSE}")
        rest = rest[end + len(CLOSE) :]
    return "".join([*out, rest])


def _load(name: str, results: Path) -> dict[str, Any]:
    """A file of results."""
    path = results / f"{name}.json"
    if not path.exists():
        raise ValueError(f"no results for {name!r}: run python -m benchmarks.{name}")
    return json.loads(path.read_text())


def _table(report: dict[str, Any], pattern: str | None, wide: bool, marker: str) -> str:
    """A table in Markdown, and under it the command, the date and the machine."""
    rows = [row for row in report["rows"] if pattern is None or fnmatch.fnmatchcase(row["case"], pattern)]
    if not rows:
        raise ValueError(f"{marker}: no case matches, there are {', '.join(_unique(report['rows'], 'case'))}")
    across = [row for row in rows if wide and row["target"] is None and ": " in row["figure"]]
    parts = [_across(across)] if across else []
    if down := [row for row in rows if row not in across]:
        parts.append(_down(down))
    return "\n\n".join([*parts, f"`{report['command']}`, {_origin(report, rows)}"])


def _origin(report: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Dates and machine; of several machines each with its cases."""
    measured: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        machine = row.get("machine", report["machine"])
        name = f"{machine['cpu']}, {machine['cores']} cores, {machine['device']}"
        measured.setdefault(name, []).append({"date": report["date"], **row})
    found = []
    for name, here in measured.items():
        dates = ", ".join(sorted({row["date"][:10] for row in here}))
        cases = f"{', '.join(_unique(here, 'case'))}: " if len(measured) > 1 else ""
        found.append(f"{cases}{dates}, {name}")
    return "; ".join(found)


def _down(rows: Sequence[dict[str, Any]]) -> str:
    """One figure a line."""
    marks = {True: "yes", False: "**no**", None: ""}
    names = ["case", "figure", "value", "unit", "target", "met"]
    return _lines(
        names,
        [
            [
                row["case"],
                row["figure"],
                _number(row["value"]),
                row["unit"],
                row["target"] or "",
                marks[row["met"]],
            ]
            for row in rows
        ],
    )


def _across(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each case and WHO, a column for each WHAT of any case."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        who, what = row["figure"].split(": ", 1)
        cells.setdefault((row["case"], who), {})[f"{what} ({row['unit']})"] = _number(row["value"])
    columns = list(dict.fromkeys(column for line in cells.values() for column in line))
    lines = [[*title, *(line.get(column, "") for column in columns)] for title, line in cells.items()]
    return _lines(["case", "", *columns], lines)


def _lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    head = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*head, *("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)])


def _number(value: float | str | None) -> str:
    """Four significant digits, without an exponent where it reads well."""
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _unique(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    """The values of one key, each once, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def main(argv: Sequence[str] | None = None, readme: Path = README, results: Path = RESULTS) -> None:
    """Write the README anew, or check it.

    Raises:
        SystemExit: with status 1 on drift (`--check`) or if a table cannot be made.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", allow_abbrev=False)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if the README has drifted"
    )
    check = parser.parse_args(argv).check
    if not readme.exists():
        sys.exit(f"there is no {readme.name} to write tables into")
    text = readme.read_text()
    try:
        new = regenerate(text, results)
    except ValueError as error:
        sys.exit(f"{readme.name}: {error}")
    if check and new != text:
        sys.exit(f"{readme.name} is not what benchmarks/results say: run `make readme`")
    if not check:
        readme.write_text(new)


if __name__ == "__main__":
    main()

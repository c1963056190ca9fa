"""`gps envs` and `gps algorithms`: the names, with the first line of what is behind each."""

import inspect
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gps.cli import registry
from gps.cli.registry import UsageError

__all__ = ["main"]


def main(command: str, arguments: Sequence[str], console: Console) -> None:
    """Prints the table of `command`, 'envs' or 'algorithms'."""
    names = registry.ENVS if command == "envs" else registry.ALGORITHMS
    if arguments and arguments[0] in ("-h", "--help"):
        console.print(f"usage: gps {command}      lists the {command}", highlight=False)
        return
    if arguments:
        raise UsageError(f"gps {command} takes no options, got {arguments[0]}")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, path in names.items():
        table.add_row(name, _summary(path))
    console.print(table)
    flag = command.removesuffix("s")
    console.print(f"\noptions of one: gps train --{flag} NAME --help", highlight=False)


def _summary(path: str) -> str:
    try:
        text = inspect.getdoc(registry.load(path)) or ""
    except (UsageError, ImportError) as error:
        return f"not available: {error}"
    return text.partition("\n")[0]

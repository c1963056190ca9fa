"""`gps demo`: PLATO, DAgger and BC on the quadrotor forest, ending in a table, pictures and a film."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console

from gps.cli import compare, options
from gps.cli.registry import UsageError

__all__ = ["DESCRIPTION", "main"]

DESCRIPTION = "Trains PLATO, DAgger and BC with one budget and judges them on 60 unseen forests."


@dataclasses.dataclass
class Flags:
    """Options of `gps demo`."""

    out: str = "runs/demo"
    """Where everything is kept; what is finished there is not computed again."""
    iterations: int = 8
    """Of every algorithm."""
    episodes: int = 60
    """Unseen forests."""
    seed: int = 0
    """The only one."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags = options.parse(Flags, arguments, "gps demo", DESCRIPTION)
    for name, least in (("iterations", 1), ("episodes", 1), ("seed", 0)):
        if getattr(flags, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(flags, name)}")
    compare.compare(
        compare.Flags(
            algorithms=("plato(lam=inf, regret=2.)", "dagger", "bc"),
            envs=("quadrotor_forest",),
            seeds=(flags.seed,),
            iterations=flags.iterations,
            episodes=flags.episodes,
            out=flags.out,
            film=True,
        ),
        console,
    )

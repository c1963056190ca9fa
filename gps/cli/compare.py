"""`gps compare`: algorithms × envs × seeds, each a run directory, into one table and one plot."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gps import checkpoint, run
from gps.cli import evaluate, experiment, loop, options, summary, train, variants
from gps.cli.experiment import Config
from gps.cli.registry import UsageError

__all__ = ["DESCRIPTION", "Cell", "compare", "main"]

DESCRIPTION = (
    "Trains every algorithm on every env with every seed and judges them in the same unseen worlds. Options "
    "of one go in brackets: --algorithms plato 'plato(lam=3)' "
    "--envs 'quadrotor_forest(density=.2, teacher.horizon=18)'. "
    "Finished cells are kept: the same command goes on where it was stopped."
)


@dataclasses.dataclass
class Flags:
    """Options of `gps compare`."""

    algorithms: tuple[str, ...] = ("plato", "dagger", "bc")
    """Names, with options in brackets."""
    envs: tuple[str, ...] = ("quadrotor_forest",)
    """Names, with the env's options in brackets; teacher.X and student.X are its teacher's and student's."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    iterations: int = 8
    """Of every run."""
    episodes: int = 60
    """Unseen worlds in which each is judged."""
    eval_seed: int = evaluate.EVAL_SEED
    """Which worlds."""
    out: str = "runs/compare"
    """Where runs, table and plot are kept."""
    film: bool = False
    """Whether to film teacher and student of every run."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags = options.parse(Flags, arguments, "gps compare", DESCRIPTION)
    for name, least in (("iterations", 1), ("episodes", 1)):
        if getattr(flags, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(flags, name)}")
    compare(flags, console)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    config: Config
    env: str
    algorithm: str
    path: Path


def compare(flags: Flags, console: Console) -> list[dict[str, Any]]:
    """Fills in what is missing and writes results.json, report.md and compare.png; returns the rows.

    Raises:
        UsageError: a variant that cannot be read.
        RunError: a cell in `flags.out` was made with other settings.
    """
    cells = [
        _cell(flags, env, algorithm, seed)
        for env in flags.envs
        for algorithm in flags.algorithms
        for seed in flags.seeds
    ]
    if not cells:
        raise UsageError("nothing to compare: name at least one of --algorithms, --envs and --seeds")
    for cell in cells:  # complain before the first hour of work, not after it
        _check(cell)
    for i, cell in enumerate(cells):
        label = f"[{i + 1}/{len(cells)}] {cell.algorithm} on {cell.env} seed {cell.config.seed}"
        _fill(cell, flags, console, label.replace("[", r"\["))
    rows = [_row(cell) for cell in cells]
    summary.write(rows, Path(flags.out), flags.episodes, console)
    return rows


# ------------------------------------------------------------------------------------- internals


def _cell(flags: Flags, env: str, algorithm: str, seed: int) -> Cell:
    """Names and options in full, defaults included."""
    env_variant, algorithm_variant = variants.parse(env), variants.parse(algorithm)
    config = variants.config(algorithm_variant, env_variant, seed, flags.iterations)
    path = Path(flags.out) / variants.slug(env) / variants.slug(algorithm) / f"seed-{seed}"
    return Cell(config, env, algorithm, path)


def _check(cell: Cell) -> None:
    if not (cell.path / "config.json").exists():
        return
    saved = experiment.from_json(run.read_config(cell.path))
    if saved != cell.config:
        odd = next(name for name in Config._fields if getattr(saved, name) != getattr(cell.config, name))
        raise run.RunError(
            f"{cell.path} was made with {odd} = {getattr(saved, odd)}, not {getattr(cell.config, odd)}; "
            "choose another --out, or remove it"
        )


def _fill(cell: Cell, flags: Flags, console: Console, label: str) -> None:
    """Trains and judges the cell unless that is done."""
    done = cell.path / "eval.json"
    if done.exists():
        found = run.read_json(done)
        same = (found["seed"], found["student"]["episodes"]) == (flags.eval_seed, flags.episodes)
        if same and found["iteration"] == cell.config.iterations:
            console.print(f"{label}: kept", highlight=False)
            return
    if not _trained(cell):
        resume = (cell.path / "config.json").exists()
        train.run_training(cell.config, cell.path, console, loop.Saving(), resume, label)
    worlds = evaluate.Worlds(flags.episodes, flags.eval_seed)
    evaluate.finish(cell.config, cell.path, console, worlds, flags.film)


def _trained(cell: Cell) -> bool:
    return checkpoint.steps(cell.path / "checkpoints")[-1:] == [cell.config.iterations]


def _row(cell: Cell) -> dict[str, Any]:
    """Everything the table needs of one run."""
    found = run.read_json(cell.path / "eval.json")
    seconds = sum(record["seconds"] for record in run.read_lines(cell.path / "timing.jsonl"))
    totals = summary.totals(run.read_lines(cell.path / "metrics.jsonl"))
    return {
        "env": cell.env,
        "algorithm": cell.algorithm,
        "seed": cell.config.seed,
        "student": found["student"],
        "teacher": found["teacher"],
        "training": totals,
        "seconds": round(seconds, 3),
    }

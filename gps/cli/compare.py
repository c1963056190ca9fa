"""`gps compare`: algorithms × envs × seeds, each a run directory, into one table and one plot."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gps import checkpoint, plots, run, video
from gps.cli import evaluate, experiment, loop, options, summary, train, variants, workers
from gps.cli.experiment import Config
from gps.cli.loop import stop_signals
from gps.cli.registry import UsageError
from gps.video import Clip

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
    jobs: int | None = None
    """Trainings at a time, each in a process (default: one per core); a variant's seeds share a process."""
    judge: bool = True
    """Whether to judge what is trained."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags = options.parse(Flags, arguments, "gps compare", DESCRIPTION)
    for name, least in (("iterations", 1), ("episodes", 1), ("jobs", 1)):
        if getattr(flags, name) is not None and getattr(flags, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(flags, name)}")
    if any(seed < 0 for seed in flags.seeds):
        raise UsageError(f"--seeds must be at least 0, got {min(flags.seeds)}")
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
    for i, cell in enumerate(cells):
        twin = next((other for other in cells[:i] if other.path == cell.path), None)
        if twin is not None:
            ours, theirs = (f"{c.algorithm} on {c.env} seed {c.config.seed}" for c in (cell, twin))
            raise UsageError(f"{ours} and {theirs} would share {cell.path}: name each once")
    for cell in cells:  # complain before the first hour of work, not after it
        _check(cell)
    with stop_signals():
        _train(cells, flags, console)
        if not flags.judge:
            return []
        clips = [_judge(cell, flags, console) for cell in cells]
        if flags.film:
            _picture(cells, clips, Path(flags.out), console)
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
    train.refuse_asking(cell.config)
    if not (cell.path / "config.json").exists():
        return
    saved = experiment.from_json(run.read_config(cell.path))
    if saved != cell.config:
        before, now = experiment.flat(saved), experiment.flat(cell.config)
        names = [*before, *(name for name in now if name not in before)]
        odd = [f"{n} = {before.get(n)} instead of {now.get(n)}" for n in names if before.get(n) != now.get(n)]
        if not odd:
            odd = [f"iterations = {saved.iterations} instead of {cell.config.iterations}"]
        raise run.RunError(f"{cell.path} was made with {', '.join(odd)}; choose another --out, or remove it")


def _train(cells: Sequence[Cell], flags: Flags, console: Console) -> None:
    """Trains what is not trained yet: in this process if that is one variant, in several if they are more."""
    missing = [cell for cell in cells if not _trained(cell)]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in missing:
        groups.setdefault((cell.env, cell.algorithm), []).append(cell)
    jobs = min(len(groups), flags.jobs or os.cpu_count() or 1)
    if jobs > 1:
        with workers.working([_command(group, flags) for group in groups.values()], jobs, console):
            for cell in {cell.env: cell for cell in missing}.values() if flags.judge else ():
                evaluate.judge_teacher(cell.config, _worlds(flags))
                loop.stop_if_asked()
        return
    for cell in missing:
        resume = (cell.path / "config.json").exists()
        label = f"{cell.algorithm} on {cell.env} seed {cell.config.seed}".replace("[", r"\[")
        train.run_training(cell.config, cell.path, console, loop.Saving(), resume, label)


def _command(group: Sequence[Cell], flags: Flags) -> list[str]:
    """The words that train one variant with all its seeds."""
    seeds = [str(cell.config.seed) for cell in group]
    words = ["compare", "--algorithms", group[0].algorithm, "--envs", group[0].env, "--seeds", *seeds]
    return [*words, "--iterations", str(flags.iterations), "--out", flags.out, "--no-judge"]


def _worlds(flags: Flags) -> evaluate.Worlds:
    return evaluate.Worlds(flags.episodes, flags.eval_seed)


def _judge(cell: Cell, flags: Flags, console: Console) -> tuple[Clip, ...]:
    """Judges the cell unless that is done; returns the teacher's and the student's episodes if it was not."""
    done = cell.path / "eval.json"
    if done.exists():
        wanted = (flags.eval_seed, flags.episodes, cell.config.iterations)
        written = (cell.path / "report.md").exists() and (
            not flags.film or (cell.path / "flight.mp4").exists()
        )
        if written and _judged_for(run.read_json(done)) == wanted:
            console.print(f"{cell.path}: kept", highlight=False, markup=False, soft_wrap=True)
            train.note_versions(cell.path, console, "made with")
            return ()
    return evaluate.finish(cell.config, cell.path, console, _worlds(flags), flags.film)[1]


def _judged_for(found: Any) -> tuple[Any, ...] | None:
    """(seed, episodes, iteration) of an eval.json; None where it is not one."""
    try:
        return found["seed"], found["student"]["episodes"], found["iteration"]
    except (KeyError, TypeError):
        return None


def _picture(cells: Sequence[Cell], clips: Sequence[tuple[Clip, ...]], out: Path, console: Console) -> None:
    """flight.png: every driver of the first env and seed in the first world, where the env can be drawn."""
    first = cells[0]
    scene = experiment.scene(first.config)
    same = [
        (cell.algorithm, found)
        for cell, found in zip(cells, clips, strict=True)
        if found and (cell.env, cell.config.seed) == (first.env, first.config.seed)
    ]
    if not same or scene.drawing is None or scene.drawing.still is None:
        return
    titles, drivers = [algorithm for algorithm, _ in same], [found[-1] for _, found in same]
    taught = [found[0] for _, found in same if len(found) > 1]
    if taught:
        titles, drivers = ["teacher", *titles], [taught[0], *drivers]
    try:
        shown = scene.drawing.still(scene.env, video.side_by_side(drivers, 0), titles)
        plots.save(shown, out / "flight.png")
    except plots.PlotError as error:
        console.print(f"note: {error}", highlight=False, markup=False)


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

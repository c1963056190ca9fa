"""`gps train`: a run directory from nothing, or from where it was left."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gps import checkpoint, run
from gps.cli import evaluate, experiment, loop, options, progress
from gps.cli.experiment import Config
from gps.cli.registry import UsageError
from gps.types import Algorithm

__all__ = [
    "DESCRIPTION",
    "Flags",
    "finish",
    "main",
    "note_versions",
    "parsed",
    "refuse_asking",
    "run_training",
]

DESCRIPTION = (
    "Trains a student. Name an --algorithm and an --env to see their own options; `gps algorithms` and "
    "`gps envs` list the names. The run is kept in --run-dir and can be stopped and resumed at any moment."
)


@dataclasses.dataclass
class Flags:
    """Options of every run."""

    algorithm: str = "plato"
    """A name in `gps algorithms`, or your own as module:factory."""
    env: str = "quadrotor_forest"
    """A name in `gps envs`, or your own as module:factory."""
    teacher: str = ""
    """A local teacher for the algorithms that have them: local_lqr, local_pi2, local_pilqr, or your own as
    module:factory (default: the algorithm's or the env's)."""
    seed: int = 0
    """Everything random in the run follows from it."""
    iterations: int = 8
    """How many in all; with --resume a larger number continues a finished run."""
    run_dir: str | None = None
    """Where the run is kept (default: runs/ENV-ALGORITHM-SEED)."""
    resume: bool = False
    """Continue the run in --run-dir as if it had never stopped."""
    checkpoint_every: int = 1
    """Iterations between checkpoints."""
    keep: int = 3
    """How many checkpoints stay."""
    episodes: int = 20
    """Unseen worlds in which teacher and student are judged at the end; 0 leaves it out."""
    film: bool = True
    """Whether to film teacher and student at the end."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags, config, path = parsed(arguments, Flags, "gps train", DESCRIPTION)
    refuse_asking(config)
    saving = loop.Saving(flags.checkpoint_every, flags.keep)
    run_training(config, path, console, saving, resume=flags.resume)
    finish(flags, config, path, console)


def parsed(
    arguments: Sequence[str], kind: type[Flags], prog: str, description: str
) -> tuple[Any, Config, Path]:
    """(flags, config, run directory) of a command line whose options are those of `kind` and the four groups.

    Raises:
        UsageError: an option that there is not, or, of a run to be resumed, another value than its own.
    """
    saved = _saved(arguments) if "--resume" in arguments else None
    names = {
        name: options.peek(arguments, f"--{name}") or getattr(saved or kind, name)
        for name in ("algorithm", "env", "teacher")
    }
    groups = experiment.groups(**names, saved=saved.options if saved and _same(saved, names) else None)
    made = options.grouped("Flags", _with_defaults(kind, saved), groups)
    flags = options.parse(made, arguments, prog, description)
    config = experiment.from_flags(flags, saved)
    _check(flags)
    if saved is not None:
        _check_same(config, saved)
    return flags, config, Path(flags.run_dir or f"runs/{_slug(config)}")


def refuse_asking(config: Config) -> None:
    """Raises the UsageError of an algorithm that has nobody to ask here."""
    if config.algorithm == "asked":
        raise UsageError("asked asks a person: run it by gps label")


def finish(flags: Any, config: Config, path: Path, console: Console) -> None:
    """Judges what was trained, and says where it is."""
    evaluate.finish(config, path, console, evaluate.Worlds(flags.episodes), flags.film)
    kept = f"run kept in {path}: see {path / 'report.md'}"
    console.print(kept, highlight=False, markup=False, soft_wrap=True)


def run_training(
    config: Config,
    path: Path,
    console: Console,
    saving: loop.Saving,
    resume: bool = False,
    label: str = "train",
    command: str = "train",
    algorithm: Algorithm | None = None,
) -> None:
    """Trains in run directory `path`, new or resumed.

    `label` is how its lines begin, `command` what continues it. An `algorithm` in the place of the config's
    talks to somebody: it has no bar.

    Raises:
        RunError: the directory is in use, or taken and `resume` is False.
    """
    checkpoint.check_path(path)
    if not resume:
        run.reserve(path)
    experiment.check(config)
    bar, algorithm = algorithm is None, algorithm or experiment.algorithm(config)
    with run.locked(path), loop.stop_signals():
        if not resume:
            run.reserve(path)
        elif (path / "config.json").exists():
            note_versions(path, console)
        run.write_json(path / "config.json", experiment.to_json(config))
        records = run.read_lines(path / "metrics.jsonl")
        try:
            with progress.iterations(console, label, config.iterations, records, bar) as show:
                loop.train(algorithm, config, path, saving, show)
        except BaseException as error:
            how = "stopped and saved" if isinstance(error, KeyboardInterrupt) else "stopped by an error, kept"
            again = f"{how}; continue with: gps {command} --run-dir {shlex.quote(str(path))} --resume"
            console.print(again, highlight=False, markup=False, soft_wrap=True)
            raise


def note_versions(path: Path, console: Console, how: str = "continued with") -> None:
    """Says when the run in `path` was begun with other versions than these: the bits may then differ."""
    before, now = run.read_config(path).get("versions", {}), run.versions()
    changed = [f"{name} {before.get(name)} → {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        note = f"note: {path}: {how} other versions ({', '.join(changed)}): bits may differ"
        console.print(note, highlight=False, markup=False, soft_wrap=True)


# ------------------------------------------------------------------------------------- internals


def _saved(arguments: Sequence[str]) -> Config | None:
    """The config of the run to resume; None where a run was killed before it wrote one."""
    path = options.peek(arguments, "--run-dir")
    if path is None:
        raise UsageError("--resume needs --run-dir: the run to continue")
    if Path(path).is_dir() and not (Path(path) / "config.json").exists() and (Path(path) / ".lock").exists():
        return None
    return experiment.from_json(run.read_config(Path(path)))


def _same(saved: Config, names: dict[str, str]) -> bool:
    return all(getattr(saved, name) == value for name, value in names.items())


def _with_defaults(kind: type[Flags], saved: Config | None) -> type:
    """`kind` whose defaults are those of the saved run."""
    if saved is None:
        return kind
    fields = [
        (name, Flags.__annotations__[name], getattr(saved, name))
        for name in ("algorithm", "env", "teacher", "seed")
    ]
    fields.append(("iterations", int, saved.iterations))
    return dataclasses.make_dataclass("Flags", fields, bases=(kind,))


LARGEST_SEED = 2**63 - 1


def _check(flags: Any) -> None:
    if flags.seed > LARGEST_SEED:
        raise UsageError(f"--seed must be at most {LARGEST_SEED}, got {flags.seed}")
    for name, least in (
        ("iterations", 1),
        ("checkpoint_every", 1),
        ("keep", 1),
        ("episodes", 0),
        ("seed", 0),
    ):
        if getattr(flags, name) < least:
            raise UsageError(
                f"--{name.replace('_', '-')} must be at least {least}, got {getattr(flags, name)}"
            )


def _check_same(config: Config, saved: Config) -> None:
    """A resumed run is the same run: only its length may change."""
    if config.iterations < saved.iterations:
        raise UsageError(f"--iterations {config.iterations} is less than the run's own {saved.iterations}")
    before, now = experiment.flat(saved), experiment.flat(config)
    for name in now:
        if before.get(name) != now[name]:
            raise UsageError(
                f"the run was started with --{name} {before.get(name)}, not {now[name]}; "
                f"--resume continues it as it was: leave --{name} out, or choose another --run-dir"
            )


def _slug(config: Config) -> str:
    env, algorithm = (name.rpartition(":")[2] for name in (config.env, config.algorithm))
    return f"{env}-{algorithm}-{config.seed}"

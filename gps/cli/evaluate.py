"""`gps eval`: teacher and student of a run in unseen worlds, pictures, film and report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from gps import plots, report, run, video
from gps.cli import experiment, loop, options
from gps.cli.episodes import Episodes, figures
from gps.cli.experiment import Config
from gps.cli.progress import number
from gps.cli.registry import UsageError

__all__ = ["DESCRIPTION", "EVAL_SEED", "Worlds", "finish", "judge_teacher", "main", "table"]

DESCRIPTION = "Judges the student of a run, and its teacher, in worlds that training never saw."

EVAL_SEED = 1_000_000
"""Far from the seeds that runs use; worlds for choosing settings should have another one."""


@dataclasses.dataclass
class Flags:
    """Options of `gps eval`."""

    run: Annotated[str, tyro.conf.Positional]
    """The run directory."""
    episodes: int = 60
    """How many unseen worlds."""
    seed: int = EVAL_SEED
    """Which worlds."""
    film: bool = True
    """Whether to film teacher and student."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags = options.parse(Flags, arguments, "gps eval", DESCRIPTION)
    if flags.episodes < 1:
        raise UsageError(f"--episodes must be at least 1, got {flags.episodes}")
    path = Path(flags.run)
    config = experiment.from_json(run.read_config(path))
    found = finish(config, path, console, Worlds(flags.episodes, flags.seed), flags.film)
    console.print(table(found))
    console.print(f"see {path / 'report.md'}", highlight=False)


class Worlds(NamedTuple):
    """In which worlds drivers are judged."""

    episodes: int
    seed: int = EVAL_SEED

    def keys(self) -> jax.Array:
        """One key per world."""
        return jax.random.split(jax.random.key(self.seed), self.episodes)


def finish(
    config: Config,
    path: Path,
    console: Console,
    worlds: Worlds,
    film: bool,
    teacher: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes eval.json, flight.mp4, curves.png and report.md; what cannot be made is said, not raised.

    Args:
        config: of the run.
        path: its directory.
        console: for notes.
        worlds: where to judge; none if it has no episodes.
        film: whether to film.
        teacher: its figures in these worlds, if they are known already.
    """
    found: dict[str, Any] = {}
    if worlds.episodes:
        with console.status("judging"):
            done, variables = _student(config, path)
            seen = experiment.scene(config).drive_student(worlds.keys(), variables)
            student = figures(experiment.scene(config).env, seen)
            teacher = teacher or judge_teacher(config, worlds)
        found = {"iteration": done, "seed": worlds.seed, "student": student, "teacher": teacher}
        run.write_json(path / "eval.json", found)
        if film:
            with console.status("filming"):
                _film(config, path, seen, worlds, console)
    for missing in report.write(path):
        console.print(f"note: {missing}", highlight=False)
    return found


def judge_teacher(config: Config, worlds: Worlds) -> dict[str, Any]:
    """The teacher's figures."""
    scene = experiment.scene(config)
    return figures(scene.env, scene.drive_teacher(worlds.keys()))


def _student(config: Config, path: Path) -> tuple[int, Any]:
    """(iterations, variables) at the newest checkpoint.

    Raises:
        RunError: there is none yet.
    """
    algorithm = experiment.algorithm(config)
    done, state = loop.last_state(algorithm, config, path)
    if done == 0:
        raise run.RunError(f"no checkpoint in {path} yet; train it: gps train --run-dir {path} --resume")
    return done, algorithm.policy(state)


def table(found: dict[str, Any]) -> Table:
    """Student and teacher side by side."""
    made = Table(title=f"{found['student']['episodes']} unseen worlds, after iteration {found['iteration']}")
    for column in ("", "student", "teacher"):
        made.add_column(column, justify="left" if not column else "right")
    for name, value in found["student"].items():
        if isinstance(value, float):
            made.add_row(name.replace("_", " "), number(value), number(found["teacher"].get(name)))
    return made


def _film(config: Config, path: Path, student: Episodes, worlds: Worlds, console: Console) -> None:
    """flight.mp4 and flight.png: the same worlds, teacher on the left, student on the right."""
    scene, pick = experiment.scene(config), np.asarray(_telling(student))
    teacher = scene.drive_teacher(worlds.keys()[pick])
    student = jax.tree.map(lambda leaf: leaf[pick], student)

    def clip(i: int) -> tuple[Any, Any]:
        pair = [(one.contexts, one.trajectories) for one in (teacher, student)]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf[i]) for leaf in leaves]), *pair)

    try:
        clips = [clip(i) for i in range(len(pick))]
        video.film(path / "flight.mp4", scene.env, clips, ("teacher", "student"), scene.draw)
    except (video.FilmError, plots.PlotError) as error:
        console.print(f"note: no film: {error}", highlight=False)


def _telling(student: Episodes) -> list[int]:
    """Episodes worth seeing: the first one, and the first one that failed."""
    alive = np.asarray(student.alive)[:, -1]
    failed = np.flatnonzero(~alive)
    return sorted({0, *failed[:1].tolist()})

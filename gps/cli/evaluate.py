"""`gps eval`: teacher and student of a run in unseen worlds, pictures, film and report."""

import dataclasses
import functools
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
from gps.cli.experiment import Config
from gps.cli.progress import number
from gps.cli.registry import UsageError
from gps.episodes import Steps
from gps.evaluate import Scores
from gps.types import Env
from gps.video import Clip

__all__ = [
    "DESCRIPTION",
    "EVAL_SEED",
    "Judged",
    "Worlds",
    "figures",
    "finish",
    "judge_teacher",
    "main",
    "table",
    "trained",
]

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
    found, _ = finish(config, path, console, Worlds(flags.episodes, flags.seed), flags.film)
    console.print(table(found))
    console.print(f"see {path / 'report.md'}", highlight=False, markup=False, soft_wrap=True)


class Worlds(NamedTuple):
    """In which worlds drivers are judged."""

    episodes: int
    seed: int = EVAL_SEED

    def keys(self) -> jax.Array:
        """One key per world."""
        return jax.random.split(jax.random.key(self.seed), self.episodes)


class Judged(NamedTuple):
    """What episodes came to, and the episodes."""

    figures: dict[str, Any]
    clip: Clip


def finish(
    config: Config,
    path: Path,
    console: Console,
    worlds: Worlds,
    film: bool,
) -> tuple[dict[str, Any], tuple[Clip, ...]]:
    """Writes eval.json, flight.mp4, curves.png and report.md; what cannot be made is said, not raised.

    Returns what eval.json holds, and the teacher's (if it can be judged) and the student's episodes.

    Args:
        config: of the run.
        path: its directory.
        console: for notes.
        worlds: where to judge; none if it has no episodes.
        film: whether to film.
    """
    found: dict[str, Any] = {}
    clips: tuple[Clip, ...] = ()
    if worlds.episodes:
        with console.status("judging the student"):
            done, variables = trained(config, path)
            scene = experiment.scene(config)
            student = _judged(scene.env, *scene.judge_student(worlds.keys(), variables))
        with console.status("judging the teacher"):
            teacher = judge_teacher(config, worlds)
        found = {
            "iteration": done,
            "seed": worlds.seed,
            "student": student.figures,
            "teacher": None if teacher is None else teacher.figures,
        }
        run.write_json(path / "eval.json", found)
        clips = (student.clip,) if teacher is None else (teacher.clip, student.clip)
        if film:
            with console.status("filming"):
                _film(config, path, clips, console)
    for missing in report.write(path):
        console.print(f"note: {missing}", highlight=False, markup=False)
    return found, clips


def judge_teacher(config: Config, worlds: Worlds) -> Judged | None:
    """How the teacher of `config` does in `worlds`; remembered, because it is the same for every student.

    None for local teachers, which have no answer in worlds that they were not trained in.
    """
    return _judge_teacher(experiment.scene_key(config), worlds)


def figures(scores: Scores) -> dict[str, Any]:
    """Means over episodes, and the values per episode that a paired comparison needs.

    Raises:
        RunError: a figure is not finite.
    """
    each = {
        "time_to_failure": scores.time,
        "survived": scores.survived,
        "cost": scores.cost,
        **scores.metrics,
    }
    values = {name: np.asarray(value, float) for name, value in each.items()}
    for name, value in values.items():
        lost = np.flatnonzero(~np.isfinite(value))
        if lost.size:
            raise run.RunError(
                f"{name} is not finite in {lost.size} of {value.size} episodes; look at the task's cost and "
                "metrics"
            )
    means = {name: float(np.mean(value)) for name, value in values.items()}
    per_episode = {name: np.round(value, 9).tolist() for name, value in values.items()}
    return {"episodes": len(scores.time), **means, "per_episode": per_episode}


def trained(config: Config, path: Path, iteration: int | None = None) -> tuple[int, Any]:
    """(iteration, the student's variables after it) at the newest checkpoint of the run in `path`.

    Args:
        config: of the run.
        path: its directory.
        iteration: another checkpoint.

    Raises:
        RunError: there is none yet.
        CheckpointError: it cannot be read, or there is none of that iteration.
    """
    algorithm = experiment.algorithm(config)
    done, state = loop.last_state(algorithm, config, path, iteration)
    if done == 0:
        command = "label" if config.algorithm == "asked" else "train"
        raise run.RunError(f"no checkpoint in {path} yet; train it: gps {command} --run-dir {path} --resume")
    return done, algorithm.policy(state)


# ------------------------------------------------------------------------------------- internals


@functools.lru_cache(maxsize=2)
def _judge_teacher(key: experiment.SceneKey, worlds: Worlds) -> Judged | None:
    scene = experiment.scene_of(*key)
    if scene.judge_teacher is None:
        return None
    return _judged(scene.env, *scene.judge_teacher(worlds.keys()))


def _judged(env: Env, scores: Scores, steps: Steps) -> Judged:
    return Judged(figures(scores), video.clip(env, steps))


def table(found: dict[str, Any]) -> Table:
    """Student and teacher side by side."""
    made = Table(title=f"{found['student']['episodes']} unseen worlds, after iteration {found['iteration']}")
    drivers = [who for who in ("student", "teacher") if found[who]]
    for column in ("", *drivers):
        made.add_column(column, justify="left" if not column else "right")
    for name, value in found["student"].items():
        if isinstance(value, float):
            made.add_row(name.replace("_", " "), *(number(found[who].get(name)) for who in drivers))
    return made


def _film(config: Config, path: Path, clips: tuple[Clip, ...], console: Console) -> None:
    """flight.mp4 and flight.png: the same worlds, teacher on the left, student on the right."""
    scene = experiment.scene(config)
    shown = [video.side_by_side(clips, world) for world in _telling(clips[-1])]
    titles = ("teacher", "student")[-len(clips) :]
    try:
        video.film(path / "flight.mp4", scene.env, shown, titles, scene.drawing)
    except (video.FilmError, plots.PlotError) as error:
        console.print(f"note: no film: {error}", highlight=False, markup=False)


def _telling(student: Clip) -> list[int]:
    """Worlds worth seeing: the first one, and the first in which the student failed."""
    return sorted({0, *np.flatnonzero(student.failed)[:1].tolist()})

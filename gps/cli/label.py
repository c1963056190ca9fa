"""`gps label`: DAgger whose teacher is the person at the terminal, or whoever wrote a file of answers."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from gps import plots, run, video
from gps.algorithms.asked import Questions, asked
from gps.cli import experiment, loop, train
from gps.cli.experiment import Config, Scene
from gps.cli.registry import UsageError

__all__ = ["DESCRIPTION", "Session", "main"]

DESCRIPTION = (
    "The student drives, then you say what it should have done: every so many steps (--algorithm.every) a "
    "control is asked for, and the student learns from all answers so far. They are kept in the run "
    "(answers.jsonl); stop at any question, and go on with --resume. With --answers a file is asked: a line "
    "for each question of the run, numbers, 'same' (as the student does) or 'skip'; # begins a remark."
)

LOG = "answers.jsonl"
MANY = 64
"""Numbers that nobody reads."""


@dataclasses.dataclass
class Flags(train.Flags):
    """Options of `gps label`."""

    algorithm: str = "asked"
    """Only this one asks."""
    answers: str | None = None
    """A file of answers instead of the terminal."""
    picture: bool = True
    """Whether the terminal's questions come with RUN/question.png."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags, config, path = train.parsed(arguments, Flags, "gps label", DESCRIPTION)
    if config.algorithm != "asked":
        raise UsageError(
            f"gps label is the algorithm asked, not {config.algorithm}: leave --algorithm out, and resume "
            "what gps label has begun"
        )
    lines = None if flags.answers is None else _lines(Path(flags.answers))
    session = Session(experiment.scene(config), path, console, lines, flags.picture)
    saving = loop.Saving(flags.checkpoint_every, flags.keep)
    made = _algorithm(config, session)
    train.run_training(config, path, console, saving, flags.resume, "label", "label", made)
    train.finish(flags, config, path, console)


def _algorithm(config: Config, session: "Session") -> Any:
    """That of the config, with somebody to ask."""
    scene, chosen = experiment.scene(config), config.options["algorithm"]
    return asked(scene.env, None, scene.student, ask=session, iterations=config.planned, **chosen)


class Session:
    """Asks one question after the other; every answer is written down before the next question is put."""

    def __init__(
        self, scene: Scene, path: Path, console: Console, lines: Sequence[str] | None, picture: bool
    ) -> None:
        """Args as `main` has them; `lines` are the answers of a file, None: the terminal is asked."""
        self.scene, self.path, self.console, self.lines = scene, path, console, lines
        self.picture = picture and lines is None

    def __call__(self, questions: Questions) -> np.ndarray:
        """The answers of an iteration; those that were given before it was stopped are not asked for again.

        Raises:
            RunError: a file of answers that ends too early or cannot be read, or answers in the run that were
                given to other questions.
            KeyboardInterrupt: the person stops.
        """
        run.truncate_lines(self.path / LOG, sys.maxsize)  # nothing but a line that a kill cut short goes
        given = run.read_lines(self.path / LOG)
        before = [row for row in given if row["iteration"] == questions.iteration + 1]
        answers = []
        for i, (t, world) in enumerate(questions.rows):
            x = np.asarray(questions.steps.x[t, world], float)
            if i < len(before):
                if not np.array_equal(before[i].get("state", ()), x) or "answer" not in before[i]:
                    raise run.RunError(
                        f"{self.path / LOG}: answer {i + 1} of iteration {questions.iteration + 1} was given "
                        "to another question (other versions, or an edited file): start a new run"
                    )
                text = before[i]["answer"]
            else:
                text = self._answer(questions, i, len(given))
                record = {"iteration": questions.iteration + 1, "world": world, "step": t}
                run.append_line(self.path / LOG, record | {"state": x.tolist(), "answer": text})
                given.append(record)
            answers.append(self._control(text, questions.proposed[i]))
        return np.asarray(answers).reshape(len(answers), self.scene.env.nu)

    def _answer(self, questions: Questions, i: int, number: int) -> str:
        """In words that `_control` understands; `number` questions of the run were answered before."""
        asks = f"question {i + 1} of {len(questions.rows)} of iteration {questions.iteration + 1}"
        proposed = questions.proposed[i]
        if self.lines is not None:
            if number >= len(self.lines):
                self._show(asks, questions, i)
                raise run.RunError(
                    f"the file has {len(self.lines)} answers, {asks} is number {number + 1} of the run: add "
                    "lines, or answer in the terminal"
                )
            try:
                self._control(self.lines[number], proposed)
            except ValueError as error:
                raise run.RunError(f"answer {number + 1} of the file: {error}") from None
            return self.lines[number]
        self._show(asks, questions, i)
        while True:
            try:
                text = self.console.input("  your control (Enter: the same, s: skip, q: stop)> ").strip()
            except EOFError:
                raise KeyboardInterrupt from None
            if text == "q":
                raise KeyboardInterrupt
            text = {"": "same", "s": "skip"}.get(text, text)
            try:
                self._control(text, proposed)
            except ValueError as error:
                self.console.print(f"  {error}", highlight=False, markup=False)
            else:
                return text

    def _show(self, asks: str, questions: Questions, i: int) -> None:
        """What a person has to know."""
        env, steps, (t, world) = self.scene.env, questions.steps, questions.rows[i]
        since = f"{float(steps.t[t, world]) * env.dt:.2f} s into its episode"
        where = f"   see {self.path / 'question.png'}" if self._draw(questions, t, world) else ""
        lines = [f"{asks}: world {world + 1}, {since}{where}", f"  state   {_numbers(steps.x[t, world])}"]
        for name, leaf in jax.tree_util.tree_leaves_with_path(steps.obs):
            lines.append(f"  sees{jax.tree_util.keystr(name)}    {_numbers(leaf[t, world])}")
        low, high = (_numbers(np.asarray(side)) for side in env.limits)
        lines.append(f"  does    {_numbers(questions.proposed[i])}, within {low} and {high}")
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _draw(self, questions: Questions, t: int, world: int) -> bool:
        """Whether question.png shows the state."""
        drawing = self.scene.drawing
        if not self.picture or drawing is None:
            return False
        here = jax.tree.map(lambda leaf: leaf[t : t + 1, world : world + 1], questions.steps)
        try:
            shown = video.clip(self.scene.env, here)
            frames = drawing.frames(self.scene.env, shown, ("what should it do?",), [0])
            plots.save_pixels(next(iter(frames)), self.path / "question.png")
        except (video.FilmError, plots.PlotError) as error:
            self.picture = False
            self.console.print(f"note: no pictures: {error}", highlight=False, markup=False)
        return self.picture

    def _control(self, text: str, proposed: np.ndarray) -> np.ndarray:
        """The control that an answer names, NaN for none.

        Raises:
            ValueError: it names no control, or one outside the limits.
        """
        env = self.scene.env
        low, high = (np.asarray(side, float) for side in env.limits)
        if text == "same":
            return np.clip(np.asarray(proposed, float), low, high)
        if text == "skip":
            return np.full(env.nu, np.nan)
        expected = f"expected {env.nu} numbers within {_numbers(low)} and {_numbers(high)}, same or skip"
        try:
            control = np.asarray([float(word) for word in text.replace(",", " ").split()])
        except ValueError:
            raise ValueError(f"{expected}, came {text!r}") from None
        finite = control.shape == (env.nu,) and np.all(np.isfinite(control))
        if not finite or not np.all((low <= control) & (control <= high)):
            raise ValueError(f"{expected}, came {text!r}")
        return control


def _lines(path: Path) -> list[str]:
    """The answers of a file, without remarks and empty lines.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"--answers: there is no file '{path}'")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise UsageError(f"--answers: '{path}' is no text: {error}") from None
    stripped = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def _numbers(values: Any) -> str:
    """Few digits, in one line; of more than a history of sensors the shape."""
    array = np.asarray(values)
    if array.size > MANY:
        return f"{array.dtype} {array.shape}"
    with np.printoptions(precision=3, suppress=True, linewidth=10**6):
        return " ".join(str(array).split("\n"))

"""The training loop: step, measure, checkpoint; stops and resumes anywhere with the same bits."""

import importlib
import importlib.util
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from gps import checkpoint, run
from gps.cli.experiment import Config, keys
from gps.cli.progress import Show
from gps.types import Algorithm

__all__ = ["Saving", "last_state", "stop_if_asked", "stop_signals", "train"]


class Saving(NamedTuple):
    """When checkpoints are written."""

    every: int = 1
    keep: int = 3


def train(algorithm: Algorithm, config: Config, path: Path, saving: Saving, show: Show) -> PyTree:
    """Runs the iterations of `config` that the checkpoints in `path` do not hold yet; returns the last state.

    On Ctrl-C or SIGTERM the last finished iteration is saved before KeyboardInterrupt goes on.
    """
    done, state = last_state(algorithm, config, path)
    run.truncate_lines(path / "metrics.jsonl", done)
    run.truncate_lines(path / "timing.jsonl", done)
    run_key = keys(config.seed)[1]
    saved = done
    with _events(path, done) as log:
        try:
            for i in range(done, config.iterations):
                started = time.perf_counter()
                stepped, info = algorithm.step(jax.random.fold_in(run_key, i), state)
                stepped, info = jax.block_until_ready((checkpoint.settle(stepped), info))
                seconds = time.perf_counter() - started
                record = {"iteration": i + 1} | run.scalars(info)
                _check_learning(record)
                with held_signals():
                    done, state = i + 1, stepped
                    run.append_line(path / "metrics.jsonl", record)
                    run.append_line(path / "timing.jsonl", {"iteration": done, "seconds": seconds})
                    log(record)
                    if done % saving.every == 0 or done == config.iterations:
                        checkpoint.save(path / "checkpoints", done, state, saving.keep)
                        saved = done
                show(done, record, seconds)
                stop_if_asked()
        except KeyboardInterrupt:
            with held_signals():
                if saved < done and not _donated(state):
                    checkpoint.save(path / "checkpoints", done, state, saving.keep)
            raise
    return state


def last_state(
    algorithm: Algorithm, config: Config, path: Path, step: int | None = None
) -> tuple[int, PyTree]:
    """(iterations done, state) from a checkpoint in `path`, the newest by default, or the initial state."""
    state = checkpoint.settle(algorithm.init(keys(config.seed)[0]))
    if not checkpoint.steps(path / "checkpoints"):
        return 0, state
    return checkpoint.restore(path / "checkpoints", state, step)


def _check_learning(record: dict[str, Any]) -> None:
    """Whether there is something to go on with.

    Raises:
        RunError: the student is no longer made of numbers, or the teacher has refused every label so far.
    """
    if record.get("finite") is False:
        raise run.RunError(
            f"iteration {record['iteration']} left the student's parameters or its loss not finite: look at "
            "the observations and the learning rate. The checkpoints are as they were"
        )
    if record.get("total_samples") == 0 and record.get("refused_labels"):
        raise run.RunError(
            f"the teacher refused all {record['refused_labels']} labels: its planner diverged or found no "
            "positive definite Quu at any state. Look at the cost where an episode begins"
        )


def _donated(state: PyTree) -> bool:
    """Whether the interrupted step has consumed its input state."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array))


# -------------------------------------------------------------------------------------- signals

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Makes SIGTERM (a batch system's polite request) the same as Ctrl-C.

    A library that was interrupted may say so by an exception of its own: that is Ctrl-C too.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # the outermost of several
        _asked.clear()

    def stop(*_: Any) -> None:
        _asked.set()
        raise KeyboardInterrupt

    with _handlers(stop):
        try:
            yield
        except Exception as error:
            if _asked.is_set():
                raise KeyboardInterrupt from error
            raise


def stop_if_asked() -> None:
    """Raises the KeyboardInterrupt that a callback of the garbage collector or a finaliser has swallowed."""
    if _asked.is_set():
        raise KeyboardInterrupt


_asked = threading.Event()


@contextmanager
def held_signals() -> Iterator[None]:
    """Ctrl-C inside the block takes effect after it."""
    arrived: list[int] = []
    with _handlers(lambda number, _: arrived.append(number)):
        yield
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def _handlers(handler: Callable[..., Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# ---------------------------------------------------------------------------------- tensorboard


@contextmanager
def _events(path: Path, done: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that logs a record to TensorBoard; it does nothing without tensorboardX."""
    if importlib.util.find_spec("tensorboardX") is None:
        yield lambda record: None
        return
    writer = importlib.import_module("tensorboardX").SummaryWriter(
        str(path / "tensorboard"), purge_step=done + 1 if done else None
    )

    def log(record: dict[str, Any]) -> None:
        for name, value in record.items():
            if value is not None and name != "iteration":
                writer.add_scalar(name, value, record["iteration"])
        writer.flush()

    try:
        yield log
    finally:
        writer.close()

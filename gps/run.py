"""The run directory: who may write to it, what it was started with, what was measured.

config.json       everything needed to build the run again
metrics.jsonl     one line per iteration; the same bits for the same config, resumed or not
timing.jsonl      seconds per iteration (kept apart, because clocks do not repeat themselves)
checkpoints/N     full state after N iterations (`gps.checkpoint`)
tensorboard/      events, if tensorboardX is installed
answers.jsonl     what a person answered, question.png what was asked last (`gps label`)
eval.json, *.png, flight.mp4, report.md      written at the end and by `gps eval`
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "RunError",
    "append_line",
    "check_new",
    "locked",
    "new_file",
    "read_config",
    "read_json",
    "read_lines",
    "reserve",
    "scalars",
    "truncate_lines",
    "versions",
    "write_atomic",
    "write_json",
]


class RunError(ValueError):
    """A run directory is in use, taken, missing or unreadable."""


# ------------------------------------------------------------------------------------ ownership


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the run directory `path` (made if missing) against other processes.

    The lock is the kernel's (`flock`): it goes with the process, however that ends.

    Raises:
        RunError: another process holds it.
    """
    Path(path).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(Path(path) / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 100).decode(errors="replace").strip() or "another process"
            raise RunError(
                f"run directory {path} is in use by {holder}; wait, stop it, or choose another --run-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def reserve(path: Path) -> None:
    """Checks that `path` is free for a new run: missing, or empty but for a lock.

    Raises:
        RunError: something is there already.
    """
    if Path(path).exists() and not Path(path).is_dir():
        raise RunError(f"{path} is a file; choose another --run-dir")
    if (Path(path) / "config.json").exists():
        raise RunError(f"{path} holds a run already; continue it with --resume, or choose another --run-dir")
    if Path(path).is_dir() and {entry.name for entry in Path(path).iterdir()} - {".lock", ".config.json.tmp"}:
        raise RunError(f"{path} is not empty and holds no run; choose another --run-dir")


# ---------------------------------------------------------------------------------------- files


def write_atomic(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader, or a power cut, finds the old file or the new one."""
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def check_new(path: Path) -> None:
    """Whether a new file can be written to `path`.

    Raises:
        RunError: something is there already, or there is no such directory.
    """
    if path.exists():
        raise RunError(f"{path} exists and is not overwritten: remove it, or choose another --out")
    if not path.parent.is_dir():
        raise RunError(f"no directory {path.parent}: make it, or choose another --out")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` if the block succeeds, and is gone if not.

    Raises:
        RunError: `path` exists.
    """
    check_new(path)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        yield scratch
        check_new(path)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically; NaN and infinities, which JSON does not know, are an error."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """The config of the run in `path`.

    Raises:
        RunError: there is no run, or its config cannot be read.
    """
    file = Path(path) / "config.json"
    if not file.exists():
        raise RunError(f"no run in {path} (no config.json); see `ls {Path(path).parent}`")
    return read_json(file)


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not readable JSON ({error}); restore it, or remove it to make it anew"
        ) from error


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Adds `record` as one line of JSON; it has reached the disk when this returns."""
    with Path(path).open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file; a last line cut short by a kill is left out.

    Raises:
        RunError: a line is not a record of an iteration.
    """
    if not Path(path).exists():
        return []
    try:
        complete = Path(path).read_text().split("\n")[:-1]
        records = [json.loads(line) for line in complete]
        if all(isinstance(record["iteration"], int) for record in records):
            return records
        raise TypeError("an iteration that is no number")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or remove the odd line"
        ) from error


def truncate_lines(path: Path, iteration: int) -> None:
    """Drops the records after `iteration`: they belong to steps that a resumed run takes again."""
    if Path(path).exists():
        kept = [record for record in read_lines(path) if record["iteration"] <= iteration]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))


# --------------------------------------------------------------------------------------- values


def scalars(info: dict[str, Any]) -> dict[str, float | int | bool | None]:
    """The scalar entries of an iteration's info as plain numbers; None stands for NaN and ±inf."""
    found: dict[str, float | int | bool | None] = {}
    for name, value in info.items():
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            number = array.reshape(()).item()
            found[name] = None if isinstance(number, float) and not math.isfinite(number) else number
    return found


def versions() -> dict[str, str]:
    """Versions of what decides a run's bits; `code` is a fingerprint of our own sources and native part."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("guided-policy-search", "jax", "jaxlib", "mujoco", "flax", "optax", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | {"code": _fingerprint()}


@functools.cache
def _fingerprint() -> str:
    """Of the files alone: nothing is imported."""
    digest = hashlib.sha256()
    for package in ("gps", "teachers", "students", "envs"):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob("*")):
                if path.suffix in (".py", ".so", ".xml"):
                    digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]

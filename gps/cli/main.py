"""The entry point: picks the command, and turns every error into one line with what to do."""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from gps.cli.registry import UsageError, suggest

__all__ = ["main"]

COMMANDS = {
    "train": ("train", "train a student: gps train --algorithm plato --env quadrotor_forest"),
    "label": ("label", "be the teacher yourself: gps label --env pendulum, in the terminal or from a file"),
    "eval": ("evaluate", "judge a run's student and teacher in unseen worlds: gps eval RUN"),
    "export": ("export", "a run's student as one file that NumPy alone can run: gps export RUN"),
    "compare": ("compare", "several algorithms × envs × seeds → one table and one plot"),
    "demo": ("demo", "PLATO, DAgger and BC on the quadrotor forest in three minutes"),
    "envs": ("listing", "the environments"),
    "algorithms": ("listing", "the algorithms"),
}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `gps` with `arguments` (the process's own by default); returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("GPS_DEBUG"))
    words = [word for word in words if word != "--debug"]
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        _dispatch(words, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug or not isinstance(error, ValueError | OSError):
            traceback.print_exc()
        print(f"gps: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def entry() -> NoReturn:
    """The process `gps`: exits with the code of `main`.

    After Ctrl-C it leaves without tearing the interpreter down, which crashes now and then when JAX was
    interrupted in the middle of a compilation. Everything is saved by then.
    """
    code = main()
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _dispatch(words: list[str], console: Console) -> None:
    if not words or words[0] in ("-h", "--help"):
        _help(console)
        return
    if words[0] == "--version":
        console.print(importlib.import_module("gps").__version__, highlight=False)
        return
    name = words[0]
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS) or f"; known are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}{hint}")
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    module = importlib.import_module(f"gps.cli.{COMMANDS[name][0]}")
    if COMMANDS[name][0] == "listing":
        module.main(name, words[1:], console)
    else:
        module.main(words[1:], console)


def _help(console: Console) -> None:
    console.print("usage: gps COMMAND [OPTIONS]      (gps COMMAND --help explains)\n", highlight=False)
    for name, (_, text) in COMMANDS.items():
        console.print(f"  {name:12}{text}", highlight=False, soft_wrap=True)
    console.print("\n  --debug     show the whole traceback of an error", highlight=False)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (a defect of the program or of your own factory: traceback above)"


if __name__ == "__main__":
    entry()

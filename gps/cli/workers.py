"""`gps` commands in processes of their own, a few at a time; what they print is passed on line by line."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from rich.console import Console

from gps.run import RunError

__all__ = ["working"]


@contextmanager
def working(commands: Sequence[Sequence[str]], jobs: int, console: Console) -> Iterator[None]:
    """Runs `gps` with each of `commands` beside the block, and waits for them at its end.

    Each is in a session of its own, so that Ctrl-C reaches this process alone, which then asks every one of
    them to save and stop. If this process is killed, they end when they next print.

    Raises:
        RunError: one of them failed; the others have been stopped.
    """
    running: set[subprocess.Popen[str]] = set()
    stopped: list[bool] = []

    def work(words: Sequence[str]) -> None:
        if stopped:
            return
        command = [sys.executable, "-m", "gps.cli.main", *words]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            running.add(process)
            if stopped:
                process.send_signal(signal.SIGTERM)
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    console.print(line.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
            running.discard(process)
            if process.returncode and not stopped:
                errors.seek(0)
                traceback, _, last = errors.read().strip().rpartition("\n")
                if traceback:
                    print(traceback, file=sys.stderr)
                raise RunError(last.removeprefix("gps: error: ") or f"gps {' '.join(words)} failed")

    def stop() -> None:
        stopped.append(True)
        for process in list(running):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            futures = [pool.submit(work, words) for words in commands]
            yield
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
        finally:
            stop()

"""Run `gps` in this process or in one of its own, and read what a run has left."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from gps import checkpoint
from gps.cli import main as cli

TOY = ["train", "--algorithm", "toys:imitate", "--env", "toys:line", "--episodes", "0"]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}


def gps(capsys, *words):
    """(exit code, stdout, stderr) of a command run in this process."""
    code = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def start(*words):
    command = [sys.executable, "-m", "gps.cli.main", *map(str, words)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def bits(path):
    """What a run is made of: its metrics' bytes, and every leaf of its last checkpoint."""
    last = checkpoint.steps(path / "checkpoints")[-1]
    with checkpoint._manager(path / "checkpoints") as manager:
        args = checkpoint.ocp.args.Composite(state=checkpoint.ocp.args.StandardRestore())
        leaves = manager.restore(last, args=args)["state"]
    state = {name: np.asarray(leaf).tobytes() for name, leaf in leaves.items()}
    return last, state, hashlib.sha256((path / "metrics.jsonl").read_bytes()).hexdigest()


def lines(path):
    return len((path / "metrics.jsonl").read_text().splitlines()) if (path / "metrics.jsonl").exists() else 0

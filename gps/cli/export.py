"""`gps export`: the student of a run as one file to deploy."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

from gps import run
from gps.cli import evaluate, experiment, options
from gps.cli.experiment import Config
from gps.cli.progress import number
from gps.cli.registry import UsageError
from gps.export import Format, export

__all__ = ["DESCRIPTION", "main"]

DESCRIPTION = (
    "Writes the student of a run (network, normalisation, memory) as one file: for NumPy alone, read by "
    "gps.deploy.load, or for jax.export.deserialize. The file is compared with the student before it is kept."
)

LONGEST = 200
"""Steps of the episode on which file and student are compared."""

SUFFIXES: dict[Format, str] = {"numpy": "npz", "jax": "jax"}


@dataclasses.dataclass
class Flags:
    """Options of `gps export`."""

    run: Annotated[str, tyro.conf.Positional]
    """The run directory."""
    out: str | None = None
    """The file (default: RUN/policy.npz, RUN/policy.jax); none is overwritten."""
    format: Format = "numpy"
    """numpy: arrays and operations for NumPy alone; jax: StableHLO for programs that have JAX."""
    iteration: int | None = None
    """After which iteration (default: the newest checkpoint)."""


def main(arguments: Sequence[str], console: Console) -> None:
    """Runs the command."""
    flags = options.parse(Flags, arguments, "gps export", DESCRIPTION)
    if flags.iteration is not None and flags.iteration < 1:
        raise UsageError(f"--iteration must be at least 1, got {flags.iteration}")
    path = Path(flags.run)
    config = experiment.from_json(run.read_config(path))
    out = Path(flags.out) if flags.out else path / f"policy.{SUFFIXES[flags.format]}"
    run.check_new(out)
    with console.status("flying the student"):
        done, variables = evaluate.trained(config, path, flags.iteration)
        observations = _episode(config, variables)
    scene = experiment.scene(config)
    about = {"env": config.env, "algorithm": config.algorithm, "seed": config.seed, "iteration": done}
    about |= {"dt": scene.env.dt, "versions": run.versions()}
    with console.status("writing, and comparing with the student"):
        found = export(out, scene.student, variables, observations, scene.env.limits, flags.format, about)
    said = f"{out}: the student after iteration {done}, {found.bytes / 1000:.0f} kB"
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    same = f"{number(found.difference)} of the controls' range from the student over {found.steps} steps"
    console.print(f"at most {same}", highlight=False, markup=False, soft_wrap=True)


def _episode(config: Config, variables: Any) -> Any:
    """What the student sees along an episode of its own, [T, …]."""
    scene = experiment.scene(config)
    _, steps = scene.judge_student(evaluate.Worlds(1).keys(), variables)
    lasted = max(int(np.sum(steps.alive)), 1)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: min(lasted, LONGEST), 0], steps.obs)

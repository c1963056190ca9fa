"""The README's examples run as they stand, also beside a foreign folder `envs` where that is promised."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from benchmarks import readme
from gps.export import export
from gps.types import Limits
from students import mlp

ROOT = Path(__file__).resolve().parents[1]


def example(name: str) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```\n<!-- /example -->", text, re.S)
    assert found, f"README.md has no example {name}"
    return found[1]


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(code)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_its_tables_are_what_the_results_say():
    assert readme.regenerate((ROOT / "README.md").read_text()) == (ROOT / "README.md").read_text()


def test_own_task_fits_in_thirty_lines_and_learns(tmp_path):
    code = example("own_task")
    task = code[code.index("XML =") : code.index("algorithm =")]
    assert len(task.splitlines()) <= 30
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    costs = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(costs) == 3
    # The pose wanted costs nothing, hanging down costs 1.
    assert costs[-1] < 0.6


def test_a_camera_is_ten_lines(tmp_path):
    done = run(example("camera"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'eye': ((8, 64, 64, 3), dtype('uint8'))" in done.stdout


def test_a_student_steers_without_jax(tmp_path):
    """Of a student that turns against the pendulum's rate: the loop moves it."""
    assert len([line for line in example("deploy").splitlines() if line]) <= 20
    student = mlp(1, (4,), limits=Limits(np.array([-1.0]), np.array([1.0])))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    limits = Limits(np.array([-1.0]), np.array([1.0]))
    export(tmp_path / "policy.npz", student, student.init(jax.random.key(0), obs[0]), obs, limits)
    (tmp_path / "envs").symlink_to(ROOT / "envs")
    done = run("import sys\nsys.modules['jax'] = None\n" + example("deploy"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert -1 <= float(done.stdout.split()[4]) <= 1


def test_teachers_serve_a_project_with_its_own_envs(tmp_path):
    code = example("foreign")
    assert len(code.splitlines()) <= 10
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise ImportError('not an env of ours')\n")
    done = run(code + "import sys\nprint('envs' in sys.modules)\n", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert float(done.stdout.split()[0]) > 0


def test_a_teacher_drives_gymnasiums_world(tmp_path):
    code = example("gymnasium")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 900  # of at most 1000


def test_episodes_are_exported(tmp_path):
    done = run(example("export"), tmp_path)  # doing nothing costs 272
    assert done.returncode == 0, done.stderr
    assert -100 < float(done.stdout.split()[-1]) < 0
    with h5py.File(tmp_path / "pendulum.hdf5") as file:
        assert file.attrs["num_episodes"] == 2


def test_a_student_learns_from_a_store(tmp_path):
    done = run(example("store"), tmp_path)
    assert done.returncode == 0, done.stderr
    steps, loss = done.stdout.split()
    assert int(steps) == 320
    assert 0 < float(loss) < 1


@pytest.mark.parametrize("command", ["gps envs", "gps algorithms"])
def test_commands_named_in_the_readme_exist(command):
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "gps.cli.main", *command.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

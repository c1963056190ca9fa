"""Who may import whom, read from the sources; and what an import must not do, seen in a fresh process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gps", "envs", "teachers", "students", "benchmarks")
LAYERS = {
    "gps": {"gps"},
    "envs": {"gps", "envs"},
    "teachers": {"gps", "teachers"},
    "students": {"gps", "students"},
    "gps.algorithms": {"gps", "envs", "teachers", "students", "gps.algorithms"},
    "gps.cli": {"gps", "envs", "teachers", "students", "gps.algorithms", "gps.cli"},
    "benchmarks": {"gps", "envs", "teachers", "students", "gps.algorithms", "gps.cli", "benchmarks"},
}
FLAX_USERS = {"students/networks.py", "students/critics.py"}
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path):
    """The dotted module of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module):
    """The longest layer name that the module lies in, or None outside the project."""
    inside = [layer for layer in LAYERS if module == layer or module.startswith(layer + ".")]
    return max(inside, key=len, default=None)


def imports(source, module, is_package=False):
    """Every module a source imports, at top level or inside functions; `from a import b` gives a.b too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def trespasses(source, module, is_package=False):
    """Layers of the project that this module imports and may not."""
    allowed = LAYERS[layer_of(module)]
    return {layer for name in imports(source, module, is_package) if (layer := layer_of(name))} - allowed


def test_the_sources_are_found():
    names = {name_of(path) for path in SOURCES}
    assert {"gps.types", "students.networks", "teachers", "envs"} <= names


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_dependencies_point_one_way(path):
    found = trespasses(path.read_text(), name_of(path), path.name == "__init__.py")
    assert not found, f"{name_of(path)} may not import {', '.join(sorted(found))}"


def test_only_the_networks_import_flax():
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.split(".")[0] == "flax" for name in imports(path.read_text(), name_of(path)))
    }
    assert users <= FLAX_USERS
    assert "students/networks.py" in users


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("import students", "teachers.mpc", {"students"}),
        ("def f():\n    from envs.mujoco import load", "gps.rollout", {"envs"}),
        ("from gps import algorithms", "students.fit", {"gps.algorithms"}),
        ("from gps.cli import main", "gps.algorithms.bc", {"gps.cli"}),
        ("from ..teachers import mpc", "students.sub.fit", set()),
        ("from . import cli", "gps.types", {"gps.cli"}),
        ("import benchmarks.harness", "gps.cli.main", {"benchmarks"}),
        ("from gps.types import Env\nimport jax, numpy", "teachers.lqr", set()),
    ],
)
def test_the_check_itself_sees_a_trespass(source, module, found):
    assert trespasses(source, module) == found


def run_fresh(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_teachers_need_only_the_core_dependencies():
    code = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REFUSED}:
            raise ImportError(f"{name} is not a dependency of teachers")

sys.meta_path.insert(0, Refuse())
import teachers
assert "students" not in sys.modules and "envs" not in sys.modules
"""
    refused = {"flax", "orbax", "tyro", "rich", "matplotlib", "imageio", "dm_control", "tensorboardX"}
    result = run_fresh(code.replace("{REFUSED}", repr(refused)))
    assert result.returncode == 0, result.stderr


def test_importing_leaves_the_configuration_of_jax_alone():
    code = """
import jax
before = dict(jax.config.values)
import gps.types, gps.algorithms, envs, teachers, students
changed = {name for name, value in jax.config.values.items() if name in before and before[name] != value}
assert not changed, changed
assert not jax._src.xla_bridge._backends, "an import started a backend"
"""
    result = run_fresh(code)
    assert result.returncode == 0, result.stderr

"""Double precision and no silent broadcasting in every test; `--budget` runs the cheapest test files.

Most of the time goes into compiling: the tests use the code generator of `gps.placement.cpu_jit` throughout,
and share what they compile, the processes that they start included.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import jax
import pytest

if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
COMPILED = "JAX_COMPILATION_CACHE_DIR"
_own = None if COMPILED in os.environ else tempfile.mkdtemp(prefix="gps-compiled-")
if _own is not None:  # for the processes that tests start, and for this one, whose JAX has read them already
    os.environ |= {COMPILED: _own, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    jax.config.update("jax_compilation_cache_dir", _own)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

SECONDS = Path(__file__).parent / "seconds.json"
"""Processor time of each test file when it was last recorded, by `make seconds`."""
_spent = Counter()


def pytest_addoption(parser):
    parser.addoption("--budget", type=float, help="run the cheapest test files that take so many seconds")
    parser.addoption("--record", action="store_true", help=f"write {SECONDS.name}")


def pytest_collection_modifyitems(config, items):
    """A file that was never recorded is taken for cheap."""
    budget = config.getoption("--budget")
    if budget is None:
        return
    known, chosen, total = json.loads(SECONDS.read_text()), set(), 0.0
    for name in sorted({item.path.name for item in items}, key=lambda name: (known.get(name, 0), name)):
        total += known.get(name, 0)
        if total <= budget:
            chosen.add(name)
    config.hook.pytest_deselected(items=[item for item in items if item.path.name not in chosen])
    items[:] = [item for item in items if item.path.name in chosen]


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiling ended with a segmentation fault once, in a process that kept the programs of 1000 tests."""
    yield
    jax.clear_caches()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    before = sum(os.times()[:4])
    done = yield
    _spent[item.path.name] += sum(os.times()[:4]) - before
    return done


def pytest_sessionfinish(session):
    if _own is not None:
        shutil.rmtree(_own, ignore_errors=True)
    if session.config.getoption("--record"):
        known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
        known |= {name: round(seconds, 1) for name, seconds in _spent.items()}
        present = sorted(name for name in known if (SECONDS.parent / name).exists())
        SECONDS.write_text(json.dumps({name: known[name] for name in present}, indent=2) + "\n")

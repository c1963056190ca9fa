"""Exported students on one core with NumPy alone: calls per second, and how far they are from the students.

Each is timed in a process of its own in which JAX cannot be imported.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import students
from benchmarks.harness import Row, main
from gps.export import export
from gps.types import Limits, Student

SEED = 0
CALLS = 2000
LIMITS = Limits(np.full(2, -1.0), np.full(2, 1.0))
PIXELS = (64, 64, 3)
TIMER = """
import sys, time
for name in ("jax", "jaxlib", "flax"):
    sys.modules[name] = None
import numpy as np
from gps.deploy import load
policy, seen, calls = load(sys.argv[1]), dict(np.load(sys.argv[2])), int(sys.argv[3])
for _ in range(5):
    policy(seen)
begin = time.perf_counter()
for _ in range(calls):
    policy(seen)
print(calls / (time.perf_counter() - begin))
"""
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def case(make: Callable[..., Student], sees: bool, target: str | None) -> Callable[[bool], list[Row]]:
    """Rows of one kind of student, its parameters moved at random, on 20 readings and perhaps an image."""

    def rows(fast: bool) -> list[Row]:
        rng = np.random.default_rng(SEED)
        obs = {"readings": rng.normal(size=(50, 20)).astype(np.float32)}
        if sees:
            obs["eye"] = rng.integers(0, 256, (50, *PIXELS), np.uint8)
        one = {name: leaf[0] for name, leaf in obs.items()}
        student = make(2, limits=LIMITS)
        params, moments = student.init(jax.random.key(SEED), one)

        def move(p: jax.Array) -> jax.Array:
            return p + rng.normal(size=p.shape).astype(p.dtype) / max(p.size, 10) ** 0.5

        with tempfile.TemporaryDirectory() as folder:
            path, seen = Path(folder) / "policy.npz", Path(folder) / "seen.npz"
            written = export(path, student, (jax.tree.map(move, params), moments), obs, LIMITS)
            np.savez(seen, allow_pickle=False, **one)
            command = [sys.executable, "-c", TIMER, str(path), str(seen), str(10 if fast else CALLS)]
            ran = subprocess.run(
                command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True
            )
        return [
            Row("calls per second", float(ran.stdout), "1/s", None if fast else target),
            Row("distance from the student", written.difference, "controls' range", "<= 1e-6"),
        ]

    return rows


CASES = {
    "mlp 128 x 128": case(students.mlp, False, ">= 1000"),
    "gru": case(students.gru, False, None),
    "cnn, 64 x 64": case(students.cnn, True, None),
    "4 frames, cnn, 64 x 64": case(
        lambda nu, limits: students.frame_stack(students.cnn(nu, limits=limits), 4), True, None
    ),
}

if __name__ == "__main__":
    main("deploy", CASES, seeds=(SEED,), x64=False)

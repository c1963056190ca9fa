"""Every benchmark, one after another: `python -m benchmarks [--fast]`."""

import pkgutil
import subprocess
import sys

import benchmarks

HELPERS = {
    "__main__",
    "beside_crocoddyl",
    "beside_imitation",
    "harness",
    "known_answers",
    "lessons",
    "readme",
    "suite",
}

if __name__ == "__main__":
    failed = []
    for module in sorted({m.name for m in pkgutil.iter_modules(benchmarks.__path__)} - HELPERS):
        print(f"python -m benchmarks.{module} {' '.join(sys.argv[1:])}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *sys.argv[1:]], check=False
        ).returncode:
            failed.append(module)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)

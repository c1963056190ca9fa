"""PLATO, DAgger and BC on the quadrotor worlds: 5 seeds, 200 unseen worlds, as one `gps compare` each.

The runs are kept in runs/flight and are resumed where they were stopped. λ and all other settings were
chosen on the worlds of training and of the progress display, never on the ones judged here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.harness import Row, main
from gps.cli import compare

SEEDS = (0, 1, 2, 3, 4)
WORLDS = 200


class World(NamedTuple):
    """An env as `gps compare` spells it, the budget of every algorithm, and what is promised."""

    env: str
    speed: float
    budget: str
    plato: str
    """Target of PLATO's time to failure as a share of the teacher's."""
    bc: str | None = None
    algorithms: tuple[str, ...] = ("plato", "dagger", "bc")


OPTIONS = {"plato": "lam=1e9, regret=2., ", "dagger": "", "bc": ""}
"""Options of each, besides the budget."""
HARD = "quadrotor_forest(density=.2, speed=4., gap=1.6, sideways=.3, student.hidden=(256, 256))"
BUDGET, LARGE_BUDGET = "num_worlds=16, updates=3000", "num_worlds=64, updates=4000, batch_size=512"
WORLDS_BY_NAME = {
    "forest": World("quadrotor_forest", 3.0, BUDGET, ">= 0.95", "<= 0.6"),
    "hard forest": World(HARD, 4.0, LARGE_BUDGET, ">= 0.85", algorithms=("plato", "dagger")),
    "canyon": World("quadrotor_canyon", 3.0, BUDGET, ">= 0.95"),
}


FAST = WORLDS_BY_NAME["forest"]._replace(algorithms=("plato",))
"""What every case is in a short run, nearly all of which is compilation."""


def compared(name: str, world: World, fast: bool) -> list[dict[str, Any]]:
    """The rows of `gps compare` for one world."""
    flags = compare.Flags(
        algorithms=tuple(f"{a}({OPTIONS[a]}{world.budget})" for a in world.algorithms),
        envs=(world.env,),
        seeds=SEEDS[:1] if fast else SEEDS,
        iterations=1 if fast else 8,
        episodes=2 if fast else WORLDS,
        out=f"runs/flight{'-fast' if fast else ''}/{name.replace(' ', '-')}",
        film=False,
    )
    return compare.compare(flags, Console(stderr=True))


def case(name: str) -> Callable[[bool], list[Row]]:
    """Figures of one world: teacher, then each algorithm's student over the seeds."""

    def rows(fast: bool) -> list[Row]:
        world = FAST if fast else WORLDS_BY_NAME[name]
        found = compared("forest" if fast else name, world, fast)
        teacher = found[0]["teacher"]
        result = [
            Row("teacher survival", teacher["survived"], "share", ">= 0.95"),
            Row("teacher speed ÷ commanded", teacher["speed"] / world.speed, "ratio", ">= 0.9"),
        ]
        runs_of = {a: [row for row in found if row["algorithm"].startswith(a)] for a in world.algorithms}
        crashes = {a: [row["training"]["crashes"] for row in runs] for a, runs in runs_of.items()}
        targets = {"plato": world.plato, "bc": world.bc}
        for algorithm, runs in runs_of.items():
            times = np.array([row["student"]["time_to_failure"] for row in runs]) / teacher["time_to_failure"]
            mean = {k: float(np.mean([row["student"][k] for row in runs])) for k in ("survived", "speed")}
            most = "<= 2" if algorithm == "plato" else None
            result += [
                Row(
                    f"{algorithm} time to failure ÷ teacher's, mean",
                    times.mean(),
                    "ratio",
                    targets.get(algorithm),
                ),
                Row(f"{algorithm} time to failure ÷ teacher's, worst seed", times.min(), "ratio"),
                Row(f"{algorithm} survival", mean["survived"], "share"),
                Row(f"{algorithm} speed", mean["speed"], "m/s"),
                Row(
                    f"{algorithm} training crashes per seed, mean",
                    float(np.mean(crashes[algorithm])),
                    "crashes",
                ),
                Row(f"{algorithm} training crashes, worst seed", max(crashes[algorithm]), "crashes", most),
            ]
        if "dagger" not in crashes:
            return result
        share = np.sum(crashes["plato"]) / max(1, np.sum(crashes["dagger"]))
        return [*result, Row("plato training crashes ÷ dagger's", share, "ratio", "<= 0.2")]

    return rows


if __name__ == "__main__":
    main("flight", {name: case(name) for name in WORLDS_BY_NAME}, seeds=SEEDS)

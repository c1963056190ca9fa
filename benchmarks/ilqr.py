"""iLQR beside MuJoCo MPC's iLQG on its own three tasks, in units of one engine step.

The peer (C++, one thread) was measured in steps of `mj_step` on the same kind of machine; dividing by the
time of one step, measured in the same run, makes the two comparable. Each number of threads runs in a
process of its own, pinned to that many cores.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from benchmarks.harness import Row, main, median_time
from benchmarks.suite import suite_folder
from envs.mjcf import from_mjcf, sensor_slices
from envs.mujoco import engine
from gps.costs import quadratic, residual_cost, smooth_abs
from gps.types import Env, ResidualCost
from teachers.ilqr import ilqr

ITERATIONS = 20
"""After which the peer's return was read."""
MOST = 60
"""Iterations in which ours may reach it; what is timed is a solve that stops there."""
ENOUGH = 0.3
"""Share of the promised decrease with which the full step is taken without looking at smaller ones."""


class Peer(NamedTuple):
    """Of MuJoCo MPC, one thread: mj_steps per iteration, and the mean stage cost after 20 iterations.

    The cost is the largest number that rounds to the digits that were printed: 7.158, 307.40, .01266.
    """

    steps: float
    cost: float


PEERS = {"cartpole": Peer(4014, 7.1585), "acrobot": Peer(8232, 307.405), "walker": Peer(3450, 0.012665)}


def suite(name: str, sensors: str = "") -> mujoco.MjModel:
    """A model of dm_control's suite, Euler's integrator, dt = .01 s, with `sensors` (type, object, name)."""
    spec = mujoco.MjSpec.from_file(str(suite_folder() / f"{name}.xml"))
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for kind, objtype, objname in (line.split() for line in sensors.splitlines() if line.strip()):
        spec.add_sensor(
            name=f"{objname}_{kind}",
            type=getattr(mujoco.mjtSensor, f"mjSENS_{kind.upper()}"),
            objtype=getattr(mujoco.mjtObj, f"mjOBJ_{objtype.upper()}"),
            objname=objname,
        )
    spec.option.timestep = 0.01
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    return spec.compile()


class Problem(NamedTuple):
    """A task and its model."""

    env: Env
    model: mujoco.MjModel


def task(model: mujoco.MjModel, start: np.ndarray, knots: int, residual: Callable, **terms: tuple) -> Problem:
    """The problem; the peer's return is the mean cost of its `knots` knots, the last at zero control."""
    stage = residual_cost(residual, **terms)

    def last(x: jax.Array, y: jax.Array) -> jax.Array:
        return residual(x, jnp.zeros(model.nu, x.dtype), y, jnp.int32(0))

    final = ResidualCost(last, stage.norm)
    env = from_mjcf(model, stage, final, horizon=knots - 1, init=lambda key: jnp.asarray(start))
    return Problem(env, model)


def cartpole() -> Problem:
    """Slide from x = 1 back to 0 with the pole upright."""
    model = suite("cartpole")
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    model.dof_damping[:] = 1e-4

    def residual(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(x[1]) - 1, x[0], x[3], u[0]])

    norms = (smooth_abs(0.01), smooth_abs(0.1), quadratic, quadratic)
    return task(model, np.array([1.0, 0, 0, 0]), 101, residual, weights=(10, 10, 0.1, 0.1), norms=norms)


def acrobot() -> Problem:
    """Swing up from hanging."""
    model = suite("acrobot", "framepos site tip")
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    target = np.array([0.0, 4.0])

    def residual(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.concatenate([target - y[np.array([0, 2])], x[2:], u])

    start = np.array([3.142, 0, 0, 0])
    return task(model, start, 201, residual, weights=(50, 1, 0.05), norms=(quadratic,) * 3, sizes=(2, 2, 1))


def walker() -> Problem:
    """Stand still from the default pose."""
    model = suite("walker", "framepos xbody torso\nframezaxis xbody torso\nsubtreelinvel body torso")
    at = sensor_slices(model)
    height, upright, speed = (
        at[f"torso_{kind}"].start + i
        for kind, i in (("framepos", 2), ("framezaxis", 2), ("subtreelinvel", 0))
    )

    def residual(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.concatenate([u, jnp.stack([y[height] - 1.2, y[upright] - 1, y[speed]])])

    start = np.concatenate([model.qpos0, np.zeros(model.nv)])
    weights = (0.1, 10, 3, 1)
    return task(model, start, 81, residual, weights=weights, norms=(quadratic,) * 4, sizes=(6, 1, 1, 1))


TASKS = {"cartpole": cartpole, "acrobot": acrobot, "walker": walker}


def measure(name: str, repeats: int) -> dict[str, Any]:
    """On this process's cores: seconds per engine step and per solve, and what the solve reached."""
    env, model = TASKS[name]()
    x0 = env.init(jax.random.key(0))
    zero = jnp.zeros((env.horizon, env.nu))

    def solver(iterations: int) -> Callable:
        return jax.jit(ilqr(env, iterations=iterations, tolerance=0.0, enough=ENOUGH).solve)

    solution, trace = solver(MOST)(x0, zero)
    costs = np.asarray(trace.cost)[: int(solution.iterations)] / (env.horizon + 1)
    reached = np.flatnonzero(costs <= PEERS[name].cost)
    first = int(reached[0]) + 1 if reached.size else None
    solve, to_return = solver(ITERATIONS), solver(first or 1)
    solution, _ = jax.block_until_ready((solve(x0, zero), to_return(x0, zero)))[0]
    return {
        "step": step_time(model, np.asarray(solution.trajectory.xs), repeats),
        "solve": median_time(lambda: jax.block_until_ready(solve(x0, zero)), repeats).median,
        "to_return": median_time(lambda: jax.block_until_ready(to_return(x0, zero)), repeats).median,
        "iterations": int(solution.iterations),
        "first": first,
        "cost": float(costs[: int(solution.iterations)][-1]),
    }


def step_time(model: mujoco.MjModel, xs: np.ndarray, repeats: int) -> float:
    """Seconds of a bare mj_step, in a loop of C++ from the states of the plan."""
    sim = engine(model, substeps=200, threads=1)
    call = jax.jit(sim.step)
    u = jnp.zeros(model.nu)
    starts = [jnp.asarray(xs[i]) for i in (0, len(xs) // 2)]
    jax.block_until_ready(call(starts[0], u))
    return float(
        np.mean([median_time(lambda x=x: jax.block_until_ready(call(x, u)), repeats).median for x in starts])
        / 200
    )


def child(name: str, threads: int, fast: bool) -> dict[str, Any]:
    """`measure` in a fresh process pinned to `threads` cores."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.ilqr",
        "--measure",
        name,
        str(threads),
        "3" if fast else "15",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measuring {name} on {threads} threads failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def case(name: str) -> Callable[[bool], list[Row]]:
    """Rows of one task, with one thread (the peer's condition) and two."""
    peer = PEERS[name]

    def rows(fast: bool) -> list[Row]:
        found = []
        for threads in (1,) if fast else (1, 2):
            got = child(name, threads, fast)
            per_iteration = got["solve"] / got["iterations"] / got["step"]
            to_return = got["to_return"] / got["step"] if got["first"] else math.nan
            suffix = f", {threads} thread{'s' * (threads > 1)}"
            goal = "<= 0.6" if name == "walker" and threads == 1 else None
            found += [
                Row(f"steps per iteration{suffix}", per_iteration, "mj_step"),
                Row(f"time per iteration ÷ peer's{suffix}", per_iteration / peer.steps, "ratio", goal),
                Row(f"time to the peer's return{suffix}", to_return, "mj_step"),
                Row(
                    f"time to that return ÷ peer's{suffix}",
                    to_return / (ITERATIONS * peer.steps),
                    "ratio",
                    "<= 0.5" if threads == 1 else None,
                ),
            ]
            if threads == 1:
                found += [
                    Row("return after 20 iterations", got["cost"], "cost", f"<= {peer.cost:.6g}"),
                    Row("iterations to the peer's return", got["first"] or math.nan, "iterations"),
                    Row("one mj_step", got["step"] * 1e6, "µs"),
                ]
        return found

    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        name, threads, repeats = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        jax.config.update("jax_enable_x64", True)
        print(json.dumps(measure(name, repeats)))
    else:
        main("ilqr", {name: case(name) for name in TASKS}, seeds=())

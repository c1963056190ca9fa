"""Batches of solves on the device that JAX finds, beside the CPU path: whole programs, single precision.

The CPU path is MuJoCo's C engine in threads. On an accelerator the same task is computed by MJX too, and the
batch is shared out over all devices of that kind; without one those figures are not measured. The floor of a
solve is the engine steps that it cannot do without (a rollout and one-sided differences per iteration) over
the steps per second that the bare engine makes on that device; 1 means that nothing else costs time.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import teachers
from benchmarks.harness import Row, main, median_time
from envs.cartpole import SUBSTEPS, cartpole
from envs.mjcf import Backend
from gps.placement import cpu_jit, spread
from gps.types import Env, LinearDynamics, QuadraticCost
from teachers.lqr import backward
from teachers.parallel_lqr import parallel_backward

HORIZON, ITERATIONS, SAMPLES = 50, 10, 64
BATCHES, LENGTHS = (1, 16, 256, 4096), (16, 64, 256, 1024, 4096)
SEED = 0
SIZES = 8, 2
"""States and controls of the backward passes."""


class Path(NamedTuple):
    """Where and how a task is computed."""

    name: str
    backend: Backend | None
    """None: there is no such device."""
    batched: Callable[..., Callable[..., Any]]
    """fun → its program over a batch."""


def paths() -> list[Path]:
    """The CPU path, and MJX where there is an accelerator."""
    device = jax.devices()[0]
    on_cpu = Path("C engine on the CPU", "c", lambda fun: cpu_jit(jax.vmap(fun)))
    if device.platform == "cpu":
        return [on_cpu, Path("MJX on an accelerator", None, spread)]
    return [on_cpu, Path(f"MJX on {len(jax.devices())} x {device.device_kind}", "mjx", _spread_evenly)]


def _spread_evenly(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`spread` over all devices, or over one where they cannot share the batch evenly."""
    everywhere, alone = spread(fun), spread(fun, jax.devices()[:1])
    return lambda xs: (alone if xs.shape[0] % len(jax.devices()) else everywhere)(xs)


def solves(fast: bool) -> list[Row]:
    """Cart-pole by iLQR, T = 50, 10 iterations from zero controls, of which each member makes all."""

    def make(env: Env) -> Callable[..., Any]:
        planner = teachers.ilqr(env, HORIZON, ITERATIONS, tolerance=0.0)
        return lambda x0: planner.solve(x0, jnp.zeros((HORIZON, env.nu), x0.dtype))[0]

    needed = ITERATIONS * HORIZON * SUBSTEPS * (2 + 4 + 1)  # a rollout; the knot itself, and 4 + 1 columns
    return _over_batches(make, needed, "solves", fast)


def samples(fast: bool) -> list[Row]:
    """Cart-pole by CEM, T = 50, 64 samples, 4 iterations."""

    def make(env: Env) -> Callable[..., Any]:
        planner = teachers.cem(env, HORIZON, 4, samples=SAMPLES)
        return lambda x0: planner.solve(x0, jnp.zeros((HORIZON, env.nu), x0.dtype))[0]

    return _over_batches(make, 4 * SAMPLES * HORIZON * SUBSTEPS, "plans", fast)


def passes(fast: bool) -> list[Row]:
    """Backward passes of 8 states and 2 controls on JAX's default device, against the horizon."""
    n, m = SIZES
    rows = []
    for T in LENGTHS[:2] if fast else LENGTHS:
        keys = jax.random.split(jax.random.key(SEED), 3)
        A = jnp.eye(n) + 0.05 * jax.random.normal(keys[0], (T, n, n))
        A = 0.95 * A / jnp.linalg.norm(A, 2, axis=(1, 2))[:, None, None]
        B = jax.random.normal(keys[1], (T, n, m))
        cost = QuadraticCost(
            c=jnp.zeros(T + 1),
            q=jax.random.normal(keys[2], (T + 1, n)),
            r=jnp.zeros((T + 1, m)),
            Q=jnp.tile(jnp.eye(n), (T + 1, 1, 1)),
            R=jnp.tile(0.1 * jnp.eye(m), (T + 1, 1, 1)),
            M=jnp.zeros((T + 1, n, m)),
            x=jnp.zeros((T + 1, n)),
            u=jnp.zeros((T + 1, m)),
        )
        dynamics = LinearDynamics(A, B, jnp.zeros((T, 0, n)), jnp.zeros((T, 0, m)))
        for name, sweep in (("sequential", backward), ("parallel", parallel_backward)):
            seconds, compiling = _timed(jax.jit(sweep), dynamics, cost)
            rows.append(Row(f"{name}, T = {T}: time", 1e3 * seconds, "ms"))
            rows.append(Row(f"{name}, T = {T}: compiling", compiling, "s"))
    return rows


def _over_batches(make: Callable[[Env], Callable[..., Any]], needed: int, what: str, fast: bool) -> list[Row]:
    """Rows of each path at each size of batch; `needed` engine steps per member."""
    rows = []
    for path in paths():
        for size in BATCHES[:2] if fast else BATCHES:
            label = f"{path.name}, batch {size}"
            names = (f"{what} (1/s)", "engine steps/s (1e6/s)", "floor ÷ time (1)", "compiling (s)")
            if path.backend is None:
                values: list[float | None] = [None] * len(names)
            else:
                values = [*_measured(path, path.backend, make, needed, size)]
            for name, value in zip(names, values, strict=True):
                figure, unit = name[:-1].rsplit(" (", 1)
                rows.append(Row(f"{label}: {figure}", value, unit))
    return rows


def _measured(
    path: Path, backend: Backend, make: Callable[[Env], Callable[..., Any]], needed: int, size: int
) -> tuple[float, float, float, float]:
    """(members per second, bare engine steps per second in millions, floor ÷ time, seconds of compiling)."""
    env = cartpole(horizon=HORIZON, backend=backend)
    starts = jax.vmap(env.init)(jax.random.split(jax.random.key(SEED), size))
    seconds, compiling = _timed(path.batched(make(env)), starts)

    def bare(x0: jax.Array) -> jax.Array:
        u = jnp.zeros(env.nu, x0.dtype)
        return jax.lax.scan(lambda x, _: (env.step(x, u)[0], None), x0, length=HORIZON)[0]

    stepping, _ = _timed(path.batched(bare), starts)
    rate = size * HORIZON * SUBSTEPS / stepping
    return size / seconds, rate / 1e6, size * needed / rate / seconds, compiling


def _timed(program: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """(seconds of a call, of compiling)."""
    begun = time.perf_counter()
    jax.block_until_ready(program(*args))
    first = time.perf_counter() - begun
    seconds = median_time(lambda: program(*args), 5).median
    return seconds, max(first - seconds, 0.0)


CASES = {"iLQR": solves, "CEM": samples, "backward pass": passes}

if __name__ == "__main__":
    main("accelerator", CASES, seeds=(SEED,), x64=False)

"""Batches of solves, and students fitted, on the device that JAX finds and on the CPU: single precision.

The CPU path is MuJoCo's C engine in threads. On an accelerator the same task is computed by MJX too, and the
batch is shared out over all devices of that kind; without one those figures are not measured. The floor of a
solve is the time that the bare engine takes for its rollouts and derivatives, a rollout and one expansion per
iteration, in batches that keep the device busy; 1 means that nothing else costs time.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import students
import teachers
from benchmarks.harness import Row, main, median_time
from benchmarks.students import fitting, labelled
from envs.cartpole import cartpole
from envs.mjcf import Backend
from gps.linalg import full_precision
from gps.placement import cpu_jit, spread
from gps.rollout import open_loop
from gps.types import Env, LinearDynamics, QuadraticCost, Student
from teachers.lqr import backward
from teachers.parallel_lqr import parallel_backward

HORIZON, ITERATIONS, SAMPLES = 50, 10, 64
SOLVES, PLANS, LENGTHS = (1, 16, 256, 4096), (1, 16, 256), (16, 64, 256, 1024, 4096)
"""Sizes of the batches, and horizons of the backward passes."""
TURNS = 4
"""Iterations of CEM."""
FILL = (256, 4096)
"""Batches that keep the bare engine busy."""
SEED = 0
SIZES = 8, 2
"""States and controls of the backward passes."""
NU = 4
"""Controls of the students."""


class Needed(NamedTuple):
    """What a member of a batch cannot do without."""

    rollouts: int
    expansions: int
    """Of all knots of a trajectory."""


class Path(NamedTuple):
    """Where and how a task is computed."""

    name: str
    backend: Backend | None
    """None: there is no such device."""
    batched: Callable[..., Callable[..., Any]]
    """fun → its program over a batch."""

    def env(self) -> Env:
        """The task on it."""
        assert self.backend is not None
        return cartpole(horizon=HORIZON, backend=self.backend)


@functools.cache
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
    """Cart-pole by iLQR, T = 50, 10 iterations from zero controls (a few members are done after 8)."""

    def make(env: Env) -> Callable[..., Any]:
        planner = teachers.ilqr(env, HORIZON, ITERATIONS, tolerance=0.0)
        return lambda x0: planner.solve(x0, jnp.zeros((HORIZON, env.nu), x0.dtype))[0]

    return _over_batches(make, SOLVES, Needed(ITERATIONS, ITERATIONS), 1, "solves", fast)


def samples(fast: bool) -> list[Row]:
    """Cart-pole by CEM, T = 50, 64 samples, 4 iterations."""

    def make(env: Env) -> Callable[..., Any]:
        planner = teachers.cem(env, HORIZON, TURNS, samples=SAMPLES)
        return lambda x0: planner.solve(x0, jnp.zeros((HORIZON, env.nu), x0.dtype))[0]

    rollouts = TURNS * SAMPLES
    return _over_batches(make, PLANS, Needed(rollouts, 0), rollouts, "rollouts", fast)


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
        gains = [jax.jit(sweep)(dynamics, cost).K for sweep in (backward, parallel_backward)]
        if not np.allclose(*gains, atol=1e-3):
            raise SystemExit(f"T = {T}: the passes differ by {np.max(np.abs(gains[0] - gains[1]))}")
    return rows


LESSONS: dict[str, tuple[Callable[[], Student], tuple[int, ...], int, int]] = {
    "mlp 128x128, batch 256": (lambda: students.mlp(NU, (128, 128)), (40,), 256, 500),
    "mlp 128x128, batch 4096": (lambda: students.mlp(NU, (128, 128)), (40,), 4096, 100),
    "gru 64, batch 256": (lambda: students.gru(NU), (40,), 256, 100),
    "cnn, 64 x 64 pictures, batch 64": (lambda: students.cnn(NU), (64, 64, 3), 64, 20),
}
"""Name → (student, shape of what it sees, batch, updates)."""


def fits(fast: bool) -> list[Row]:
    """Students fitted on the CPU and on the accelerator, by the same program on the same 8192 labels."""
    default, (cpu, *_) = jax.devices()[0], jax.local_devices(backend="cpu")
    places = {"on the CPU": cpu, "on an accelerator": None}
    if default.platform != "cpu":
        places = {"on the CPU": cpu, f"on {default.device_kind}": default}
    rows = []
    for name, (student, shape, batch_size, updates) in LESSONS.items():
        updates = 2 if fast else updates
        for where, device in places.items():
            speed = compiling = None
            if device is not None:
                with jax.default_device(device):
                    steps = labelled(512 if fast else 8192, shape[0], NU)
                    if len(shape) == 3:
                        pixels = jax.random.randint(
                            jax.random.key(SEED), (*steps.weight.shape, *shape), 0, 256
                        )
                        steps = steps._replace(obs=pixels.astype(jnp.uint8))
                    call = fitting(steps, student(), students.mse(), batch_size=batch_size, updates=updates)
                    seconds, compiling = _timed(call)
                    speed = updates * batch_size / seconds
            rows.append(Row(f"{name}, {where}: fitting", speed, "samples/s"))
            rows.append(Row(f"{name}, {where}: compiling", compiling, "s"))
    return rows


def _over_batches(
    make: Callable[[Env], Callable[..., Any]],
    sizes: Sequence[int],
    needed: Needed,
    counted: int,
    what: str,
    fast: bool,
) -> list[Row]:
    """Rows of each path and batch; a member is `counted` of `what`."""
    rows = []
    for path in paths():
        bare = None if path.backend is None else _bare(path)
        rows.append(Row(f"{path.name}: bare rollouts", bare and 1 / bare[0], "1/s"))
        rows.append(Row(f"{path.name}: bare expansions", bare and 1 / bare[1], "1/s"))
        for size in sizes[:2] if fast else sizes:
            names, units = (what, "floor ÷ time", "compiling"), ("1/s", "1", "s")
            values: list[float | None] = [None] * 3
            if bare is not None:
                env = path.env()
                seconds, compiling = _timed(path.batched(make(env)), _starts(env, size))
                floor = size * (needed.rollouts * bare[0] + needed.expansions * bare[1])
                values = [counted * size / seconds, floor / seconds, compiling]
            for name, unit, value in zip(names, units, values, strict=True):
                rows.append(Row(f"{path.name}, batch {size}: {name}", value, unit))
    return rows


@functools.cache
def _bare(path: Path) -> tuple[float, float]:
    """Seconds of an open-loop rollout and of the derivatives at its knots: the best of several batches."""
    env = path.env()

    @full_precision
    def roll(x0: jax.Array) -> jax.Array:
        us = jnp.zeros((HORIZON, env.nu), x0.dtype)
        return env.rollout(x0, open_loop(env, x0, us), us).xs

    @full_precision
    def expand(x0: jax.Array) -> jax.Array:
        us = jnp.zeros((HORIZON, env.nu), x0.dtype)
        return jax.vmap(env.linearize)(jnp.broadcast_to(x0, (HORIZON, env.nx)), us).A

    def best(fun: Callable[..., Any]) -> float:
        return min(_timed(path.batched(fun), _starts(env, size))[0] / size for size in FILL)

    return best(roll), best(expand)


def _starts(env: Env, size: int) -> jax.Array:
    return jax.vmap(env.init)(jax.random.split(jax.random.key(SEED), size))


def _timed(program: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """(seconds of a call, of compiling)."""
    begun = time.perf_counter()
    jax.block_until_ready(program(*args))
    first = time.perf_counter() - begun
    seconds = median_time(lambda: program(*args), 3).median
    return seconds, max(first - seconds, 0.0)


CASES = {"iLQR": solves, "CEM": samples, "backward pass": passes, "student": fits}

if __name__ == "__main__":
    main("accelerator", CASES, seeds=(SEED,), x64=False)

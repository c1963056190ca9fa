"""The engine primitive beside a bare loop over the C engine, `mujoco.rollout` and `mjd_transitionFD`.

Times are per `mj_step`, targets are on ratios of interleaved runs. The bare loop is one native call that
makes all the steps (`substeps`), so it holds no Python; `mjd_transitionFD` is called from Python, whose loop
costs under 1 µs per knot. The models are those of dm_control's suite (`pip install .[bench]`).
"""

import os
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import mujoco.rollout
import numpy as np

from benchmarks.harness import Row, main, time_ratio
from benchmarks.suite import suite_folder
from envs.mujoco import Engine, engine
from gps.types import LinearGaussian

SEED = 0
THREADS = len(os.sched_getaffinity(0))
STEPS = 1000
SCAN_TARGETS = {"cartpole": "<= 1.30", "walker": "<= 1.10", "humanoid": "<= 1.10"}
BATCHES = (1, 16, 256)
KNOTS = 64


def suite(name: str) -> mujoco.MjModel:
    """A model of dm_control's suite, with Euler steps where it has RK4 (which mjd_transitionFD refuses)."""
    folder = suite_folder()
    assets = {f"./common/{path.name}": path.read_bytes() for path in (folder / "common").glob("*.xml")}
    model = mujoco.MjModel.from_xml_string((folder / f"{name}.xml").read_text(), assets)
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    return model


def visited(model: mujoco.MjModel, n: int, settle: int = 100, stride: int = 8) -> tuple[np.ndarray, ...]:
    """(x, u, warm start) at n points of a run under random controls; on the ground after `settle` steps."""
    rng = np.random.default_rng(SEED)
    data = mujoco.MjData(model)
    rows = []
    for t in range(settle + n * stride):
        if t >= settle and (t - settle) % stride == 0:
            x = np.concatenate([data.qpos, data.qvel, data.act])
            rows.append((x, data.ctrl.copy(), data.qacc_warmstart.copy()))
        data.ctrl[:] = np.clip(0.3 * rng.standard_normal(model.nu), -1, 1)
        mujoco.mj_step(model, data)
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def steps(name: str, fast: bool) -> list[Row]:
    """µs per step of the bare loop, a scan of `step` and `rollout` beside `mujoco.rollout`."""
    model, repeats = suite(name), 3 if fast else 31
    xs, us, _ = visited(model, 1)
    x, u = jnp.asarray(xs[0]), jnp.asarray(us[0])
    env = engine(model, sensors=False, threads=THREADS)
    loop = jax.jit(engine(model, substeps=STEPS, sensors=False, threads=1).step)
    scan = jax.jit(
        lambda x, u: jax.lax.scan(lambda x, _: (env.step(x, u)[0], None), x, None, length=STEPS)[0]
    )
    ratio = time_ratio(lambda: scan(x, u), lambda: loop(x, u), repeats)
    per_step = 1e6 / STEPS
    rows = [
        Row("bare loop", ratio.b.median * per_step, "µs/step"),
        Row("step in scan", ratio.a.median * per_step, "µs/step"),
        Row("step in scan / bare loop", ratio.median, "1", SCAN_TARGETS[name]),
    ]
    for batch in BATCHES[: 2 if fast else None]:
        rows += rollouts(env, batch, 100, repeats)
    return rows


def rollouts(env: Engine, batch: int, T: int, repeats: int) -> list[Row]:
    """Our closed-loop `rollout` beside the open-loop `mujoco.rollout` with as many threads."""
    xs, us, _ = visited(env.model, 1)
    x0s = np.tile(xs[0], (batch, 1))
    noise = 0.1 * np.random.default_rng(SEED).standard_normal((batch, T, env.nu))
    controller = LinearGaussian(
        jnp.tile(xs[0], (T, 1)), jnp.tile(us[0], (T, 1)), jnp.zeros((T, env.nu, env.ndx)), jnp.zeros(())
    )
    ours = jax.jit(jax.vmap(env.rollout, in_axes=(0, None, 0)))
    threads = THREADS if batch > 1 else 0  # none beside the caller's
    datas = [mujoco.MjData(env.model) for _ in range(max(threads, 1))]
    start = np.concatenate([np.zeros((batch, 1)), x0s], axis=1)  # time comes first
    controls = np.clip(us[0] + noise, env.low, env.high)
    arrays = jnp.asarray(x0s), jnp.asarray(noise)
    with mujoco.rollout.Rollout(nthread=threads) as pool:
        theirs = lambda: pool.rollout(env.model, datas, start, controls)  # noqa: E731
        ratio = time_ratio(theirs, lambda: ours(arrays[0], controller, arrays[1]), repeats)
    per_step = 1e6 / (batch * T)
    return [
        Row(f"mujoco.rollout, batch {batch}", ratio.a.median * per_step, "µs/step"),
        Row(f"rollout, batch {batch}", ratio.b.median * per_step, "µs/step"),
        Row(
            f"rollout / mujoco.rollout throughput, batch {batch}",
            ratio.median,
            "1",
            ">= 1.0" if batch == 256 else None,
        ),
    ]


def knots(name: str, target: str, fast: bool) -> list[Row]:
    """Knots per second of `linearize` on one thread, beside mjd_transitionFD from each knot's warm start."""
    model = suite(name)
    xs, us, warm = visited(model, KNOTS)
    ours = jax.jit(jax.vmap(engine(model, sensors=False, threads=1).linearize))
    theirs = transition_loop(model, xs, us, warm)
    arrays = jnp.asarray(xs), jnp.asarray(us)
    ratio = time_ratio(theirs, lambda: ours(*arrays), 3 if fast else 31)
    return [
        Row("mjd_transitionFD", KNOTS / ratio.a.median, "knots/s"),
        Row("linearize", KNOTS / ratio.b.median, "knots/s"),
        Row("linearize / mjd_transitionFD", ratio.median, "1", target),
    ]


def transition_loop(
    model: mujoco.MjModel, xs: np.ndarray, us: np.ndarray, warm: np.ndarray
) -> Callable[[], None]:
    """A plain loop of mjd_transitionFD over the knots."""
    ndx = 2 * model.nv + model.na
    data = mujoco.MjData(model)
    A, B = np.zeros((ndx, ndx)), np.zeros((ndx, model.nu))
    spec = mujoco.mjtState
    which = int(
        spec.mjSTATE_QPOS | spec.mjSTATE_QVEL | spec.mjSTATE_ACT | spec.mjSTATE_WARMSTART | spec.mjSTATE_CTRL
    )
    rows = np.concatenate([xs, warm, us], axis=1)

    def loop() -> None:
        for row in rows:
            mujoco.mj_setState(model, data, row, which)
            mujoco.mjd_transitionFD(model, data, 1e-6, 0, A, B, None, None)

    return loop


CASES = {name: partial(steps, name) for name in SCAN_TARGETS} | {
    f"linearize {name}": partial(knots, name, target)
    for name, target in {
        "cartpole": ">= 1.0",
        "walker": ">= 1.0",
        "humanoid": "> 1.0",
        "quadruped": "> 1.0",
    }.items()
}

if __name__ == "__main__":
    main("engine", CASES, seeds=(SEED,))

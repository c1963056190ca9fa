"""Other people's solvers and planners beside ours: the same problem, the same machine, the same run.

A peer that is not installed is shown as not measured (`pip install .[bench]` brings those that are on PyPI).
Ratios are the median over interleaved pairs. Not here: MuJoCo MPC, measured once on a like machine, is in
`benchmarks.ilqr`; hydrax is not on the package index (the package of that name is another), so that planners
computed by plain MJX on the CPU, with our own code around them, stand for it.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout

import teachers
from benchmarks import known_answers
from benchmarks.beside_crocoddyl import PAIRS, SEED, pendulum_on_a_cart, quadrotor, unicycle
from benchmarks.harness import Row, installed, main, time_ratio
from benchmarks.suite import suite_folder
from envs.cartpole import cartpole
from envs.mjcf import Backend, from_mjcf
from envs.reacher import reacher
from gps.placement import cpu_jit
from gps.types import Env

# ------------------------------------------------------------------------------------ sampling

HORIZON, SAMPLES, TURNS, ELITES, STD = 40, 128, 4, 12, 0.5


def walker_cost(x: Any, u: Any, xp: Any) -> Any:
    """Stand upright and walk at 1 m/s; the walker's first three joints lift, move and turn it."""
    height, lean, speed = x[..., 0], x[..., 2], x[..., 10]
    return 10 * height**2 + 3 * (1 - xp.cos(lean)) + (speed - 1) ** 2 + 0.05 * xp.sum(u**2, axis=-1)


def walker_model() -> mujoco.MjModel:
    """dm_control's; what its sensors cost is no part of the race."""
    spec = mujoco.MjSpec.from_file(str(suite_folder() / "walker.xml"))
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    return spec.compile()


def walker(horizon: int = HORIZON, backend: Backend = "c") -> Env:
    """dm_control's walker with `walker_cost`."""

    def final(x: jax.Array, y: jax.Array) -> jax.Array:
        return walker_cost(x, jnp.zeros(6, x.dtype), jnp)

    return from_mjcf(
        walker_model(), lambda x, u, y, t: walker_cost(x, u, jnp), final, horizon=horizon, backend=backend
    )


def numpy_cem(
    model: mujoco.MjModel, threads: rollout.Rollout, data: list[mujoco.MjData], x0: np.ndarray, key: int
) -> tuple[np.ndarray, float]:
    """The same method as `teachers.cem` with white noise, as one writes it over `mujoco.rollout`."""
    rng = np.random.default_rng(key)
    mean, std = np.zeros((HORIZON, model.nu)), np.full((HORIZON, model.nu), STD)
    start = np.tile(np.concatenate([[0.0], x0]), (SAMPLES, 1))
    best = np.inf
    for _ in range(TURNS):
        noise = rng.normal(size=(SAMPLES - 1, HORIZON, model.nu))
        us = np.clip(np.concatenate([mean[None], mean + std * noise]), -1, 1)
        after, _ = threads.rollout(model, data, start, us)
        xs = np.concatenate([np.tile(x0, (SAMPLES, 1))[:, None], after[..., 1:]], axis=1)
        costs = np.sum(walker_cost(xs[:, :-1], us, np), axis=1) + walker_cost(xs[:, -1], 0 * us[:, 0], np)
        chosen = us[np.argsort(costs)[:ELITES]]
        mean, std = chosen.mean(axis=0), np.maximum(chosen.std(axis=0), 0.05)
        best = min(best, costs.min())
    return mean, best


def numpy_planner(fast: bool) -> list[Row]:
    """A plan of CEM for dm_control's walker: 128 samples x 40 steps x 4 iterations, all cores."""
    env, model = walker(), walker_model()
    planner = teachers.cem(
        env,
        iterations=TURNS,
        samples=SAMPLES,
        elites=ELITES,
        std=STD,
        noise=teachers.white(),
        least=0.05,
        keep=0,
        smoothing=0.0,
    )
    x0 = env.init(jax.random.key(SEED))

    @cpu_jit
    def plan(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        guess = planner.begin(x0, jnp.zeros((HORIZON, env.nu)))
        solution, _ = planner.improve(key, x0, guess)
        return solution.trajectory.us, solution.cost

    number, costs = os.cpu_count() or 1, []
    with rollout.Rollout(nthread=number) as threads:
        data = [mujoco.MjData(model) for _ in range(number)]
        for seed in range(3 if fast else 20):
            other = numpy_cem(model, threads, data, np.asarray(x0), seed)[1]
            costs.append((plan(jax.random.key(seed))[1], other))
        ratio = time_ratio(
            lambda: plan(jax.random.key(0)),
            lambda: numpy_cem(model, threads, data, np.asarray(x0), 0),
            3 if fast else PAIRS,
        )
    ours, theirs = np.median(np.array(costs), axis=0)
    return [
        Row("NumPy over mujoco.rollout ÷ ours, time of a plan", 1 / ratio.median, "1", ">= 1.0"),
        Row("ours: time of a plan", 1e3 * ratio.a.median, "ms"),
        Row("ours ÷ NumPy over mujoco.rollout, median cost of the best", ours / theirs, "1", "<= 1.05"),
    ]


def mjx_planners(fast: bool) -> list[Row]:
    """Planners whose physics MJX computes on the CPU, beside the C engine: the same code around both.

    The walker's derivatives, and a humanoid, are not here: six minutes were not enough for one plan.
    """
    rows = []
    planners = {
        "predictive sampling": functools.partial(teachers.predictive_sampling, iterations=2, samples=64),
        "cem": functools.partial(teachers.cem, iterations=2, samples=64),
        "ilqr": functools.partial(teachers.ilqr, iterations=5, tolerance=0.0),
    }
    sampling, every = ["predictive sampling", "cem"], list(planners)
    races = {"cart-pole": (cartpole, every), "reacher": (reacher, every), "walker": (walker, sampling)}
    if fast:
        races = {"cart-pole": (cartpole, ["cem"])}
    for task, (make_env, names) in races.items():
        for name in names:
            figure = f"{task}, {name}: MJX on the CPU ÷ ours, time of a plan"
            if not installed("mujoco.mjx"):
                rows.append(Row(figure, None, "1", ">= 5"))
                continue
            plan = functools.partial(_plan_of, make_env, planners[name])
            ratio = time_ratio(plan("c"), plan("mjx"), 3 if fast else 9)
            rows.append(Row(figure, 1 / ratio.median, "1", ">= 5"))
    return rows


def _plan_of(make_env: Callable[..., Env], make: Callable[..., Any], backend: str) -> Callable[[], Any]:
    """A plan from the task's first state, as a program."""
    env = make_env(horizon=HORIZON, backend=backend)
    solve, x0 = cpu_jit(make(env).solve), env.init(jax.random.key(SEED))
    return lambda: solve(x0, jnp.zeros((HORIZON, env.nu)))[0].cost


# ------------------------------------------------------------------------------------ published answers


class Known(NamedTuple):
    """A problem whose answer is published or agreed upon by independent solvers."""

    problem: tuple[Env, np.ndarray, np.ndarray]
    cost: float
    within: float
    """How near ours has to come."""
    iterations: str | None = None
    """That a published solver took, as a target."""
    options: Mapping[str, Any] = {}


def published(fast: bool) -> list[Row]:
    """One iLQR solve from the published first controls, to the end."""
    car, exact = known_answers.car_parking(), {"tolerance": 1e-9}
    second = {"second_order": known_answers.car_dynamics}
    problems = {
        "trajax's acrobot": Known(known_answers.acrobot(), 44.513285, 1e-6, "<= 62", exact),
        "car parking": Known(car, 1.905169, 1e-5, "<= 157"),
        "car parking, full DDP": Known(car, 1.905168, 1e-5, "<= 90", second),
        "ALTRO's cart-pole": Known(known_answers.altro_cartpole(), 1.418409, 1e-5, None, exact),
        "ALTRO's cart-pole, |u| <= 3": Known(known_answers.altro_cartpole(3.0), 1.494334, 1e-5, None, exact),
        "crocoddyl's cart-pole": Known(known_answers.crocoddyl_cartpole(), 18.165607, 1e-6, None, exact),
    }
    rows = []
    for name, known in list(problems.items())[: 1 if fast else None]:
        env, x0, us = known.problem
        solve = cpu_jit(teachers.ilqr(env, iterations=1000, **known.options).solve)
        solution, _ = solve(jnp.asarray(x0), jnp.asarray(us))
        away = abs(float(solution.cost) - known.cost)
        rows.append(Row(f"{name}: |cost - {known.cost}|", away, "1", f"<= {known.within}"))
        rows.append(Row(f"{name}: iterations", int(solution.iterations), "1", known.iterations))
    return rows


STARTS = 64


def many_starts(fast: bool) -> list[Row]:
    """The best of 64 solves in one batch, on problems with many local optima."""
    keys = jax.random.split(jax.random.key(SEED), 2 if fast else STARTS)
    env, x0, us = known_answers.car_parking()
    ddp = teachers.ilqr(env, iterations=300, second_order=known_answers.car_dynamics)

    @cpu_jit
    def park(keys: jax.Array) -> jax.Array:
        controls = jax.vmap(lambda key: 0.1 * jax.random.normal(key, us.shape))(keys)
        return jax.vmap(ddp.solve, (None, 0))(jnp.asarray(x0), controls)[0].cost

    parked = np.sort(park(keys))
    wrapped, start, zeros = known_answers.trajax_cartpole()
    sampler = functools.partial(teachers.cem, samples=64, noise=teachers.coloured(1.0), std=1.0, scale=[1.0])
    hybrid = teachers.ilqs(wrapped, iterations=100, sampler=sampler, proposals=30)

    @cpu_jit
    def swing(keys: jax.Array) -> jax.Array:
        guess = hybrid.begin(jnp.asarray(start), jnp.asarray(zeros))
        return jax.vmap(lambda key: hybrid.improve(key, jnp.asarray(start), guess)[0].cost)(keys)

    swung = np.sort(swing(keys))
    return [
        Row("car parking, full DDP from noise of .1: best cost", parked[0], "1", "<= 1.4362"),
        Row("car parking, full DDP from noise of .1: median cost", float(np.median(parked)), "1"),
        Row("trajax's cart-pole, ilqs: best cost", swung[0], "1", "<= 100"),
        Row("trajax's cart-pole, ilqs: median cost", float(np.median(swung)), "1"),
    ]


CASES = {
    "published answers": published,
    "64 starts in one batch": many_starts,
    "crocoddyl, unicycle (its C++ model)": unicycle,
    "crocoddyl, cart-pole (its Python model)": pendulum_on_a_cart,
    "crocoddyl, quadrotor (Pinocchio)": quadrotor,
    "NumPy, walker": numpy_planner,
    "MJX on the CPU": mjx_planners,
}

if __name__ == "__main__":
    main("peers", CASES, seeds=(SEED,))

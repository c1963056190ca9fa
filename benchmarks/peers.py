"""Other people's solvers and planners beside ours: the same problem, the same machine, the same run.

A peer that is not installed is shown as not measured (`pip install .[bench]` brings those that are on PyPI).
Ratios are the median over interleaved pairs. Not here: MuJoCo MPC, measured once on a like machine, is in
`benchmarks.ilqr`; hydrax is not on the package index (the package of that name is another), so that planners
computed by plain MJX on the CPU, with our own code around them, stand for it.
"""

import functools
import importlib
import importlib.util
import math
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
from benchmarks.harness import Row, main, time_ratio
from benchmarks.suite import suite_folder
from envs.cartpole import cartpole
from envs.manifold import quat_difference
from envs.mjcf import Backend, from_mjcf
from envs.reacher import reacher
from gps.costs import quadratic
from gps.placement import cpu_jit
from gps.plant import plant
from gps.rollout import open_loop
from gps.types import Env, ResidualCost

SEED = 0
PAIRS = 15


def installed(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def _load(package: str) -> Any:
    """The package, of whose types nothing is known."""
    return importlib.import_module(package)


# ------------------------------------------------------------------------------------ crocoddyl

KNOTS = 100
START = np.array([-1.0, -1.0, 1.0])


def unicycle(fast: bool) -> list[Row]:
    """Its own model in C++, ½ ‖10 x‖² + ½ ‖u‖² with its weights, 100 steps of .1 s."""

    def theirs() -> Any:
        crocoddyl = _load("crocoddyl")

        model = crocoddyl.ActionModelUnicycle()
        return crocoddyl.ShootingProblem(START, [model] * KNOTS, model)

    def residual(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.concatenate([10 * x, u])

    def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
        return x + 0.1 * jnp.stack([jnp.cos(x[2]) * u[0], jnp.sin(x[2]) * u[0], u[1]])

    last = ResidualCost(lambda x, y: 10 * x, quadratic)
    env = plant(dynamics, ResidualCost(residual, quadratic), last, 3, 2, horizon=KNOTS, dt=0.1)
    return _beside_crocoddyl(env, START, np.zeros((KNOTS, 2)), theirs, fast)


def pendulum_on_a_cart(fast: bool) -> list[Row]:
    """Its introduction's cart-pole, whose model is Python there, derivatives by JAX: a check, no race."""
    env, x0, us = known_answers.crocoddyl_cartpole()
    dynamics, residual = known_answers.crocoddyl_dynamics, known_answers.crocoddyl_residual
    weights = known_answers.CROCODDYL_WEIGHTS

    def theirs() -> Any:
        crocoddyl = _load("crocoddyl")

        jacobians = jax.jit(jax.jacfwd(dynamics, (0, 1)))

        class Model(crocoddyl.ActionModelAbstract):
            def __init__(self) -> None:
                super().__init__(crocoddyl.StateVector(4), 1, 6)

            def calc(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
                data.r = residual(x, np.zeros(1) if u is None else u, np)
                data.cost = 0.5 * data.r @ data.r
                data.xnext = x if u is None else dynamics(x, u, np)

            def calcDiff(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:  # noqa: N802
                Rx = np.zeros((6, 4))
                Rx[0, 1], Rx[1, 1] = np.cos(x[1]), np.sin(x[1])
                Rx[2, 0] = Rx[3, 2] = Rx[4, 3] = 1
                Rx *= weights[:, None]
                data.Lx, data.Lxx = Rx.T @ data.r, Rx.T @ Rx
                data.Lu = weights[5:] ** 2 * (0.0 if u is None else u)
                data.Luu = np.array([[weights[5] ** 2]])
                if u is not None:
                    data.Fx, data.Fu = (np.asarray(J) for J in jacobians(x, u))

        model = Model()
        return crocoddyl.ShootingProblem(x0, [model] * len(us), model)

    return _beside_crocoddyl(env, x0, us, theirs, fast, target=None)


QUADROTOR = """
<mujoco model="quadrotor">
  <option timestep=".02" integrator="Euler"/>
  <worldbody>
    <body name="base">
      <freejoint/>
      <inertial pos="0 0 0" mass="1" diaginertia=".01 .012 .02"/>
      <site name="front" pos=".2 0 0"/><site name="left" pos="0 .2 0"/>
      <site name="back" pos="-.2 0 0"/><site name="right" pos="0 -.2 0"/>
    </body>
  </worldbody>
  <actuator>
    <motor site="front" gear="0 0 1 0 0 .02"/><motor site="left" gear="0 0 1 0 0 -.02"/>
    <motor site="back" gear="0 0 1 0 0 .02"/><motor site="right" gear="0 0 1 0 0 -.02"/>
  </actuator>
</mujoco>
"""
GOAL, HOVER = np.array([1.0, 0.5, 0.8]), 9.81 / 4
STATE = np.repeat([1.0, 0.5, 0.1], [3, 3, 6])
"""Weights of position, rotation and velocities."""


def quadrotor(fast: bool) -> list[Row]:
    """A body with four thrusters flies to a point; Pinocchio's derivatives there, differences here.

    The two integrate a turning body's velocity in different frames: the same to the first order of the step.
    """

    def theirs() -> Any:
        crocoddyl, pinocchio = _load("crocoddyl"), _load("pinocchio")

        body = pinocchio.Model()
        joint = body.addJoint(0, pinocchio.JointModelFreeFlyer(), pinocchio.SE3.Identity(), "root_joint")
        inertia = pinocchio.Inertia(1.0, np.zeros(3), np.diag([0.01, 0.012, 0.02]))
        body.appendBodyToJoint(joint, inertia, pinocchio.SE3.Identity())
        state = crocoddyl.StateMultibody(body)
        turn = crocoddyl.ThrusterType.CW, crocoddyl.ThrusterType.CCW
        places = [(0.2, 0, 0), (0, 0.2, 0), (-0.2, 0, 0), (0, -0.2, 0)]
        rotors = [
            crocoddyl.Thruster(pinocchio.SE3(np.eye(3), np.array(place)), 0.02, turn[(i + 1) % 2])
            for i, place in enumerate(places)
        ]
        actuation = crocoddyl.ActuationModelFloatingBaseThrusters(state, rotors)
        goal = np.concatenate([GOAL, [0, 0, 0, 1], np.zeros(6)])

        def knot(weight: float, h: float) -> Any:
            costs = crocoddyl.CostModelSum(state, actuation.nu)
            away = crocoddyl.ResidualModelState(state, goal, actuation.nu)
            price = crocoddyl.ActivationModelWeightedQuad(weight * STATE)
            costs.addCost("state", crocoddyl.CostModelResidual(state, price, away), 1.0)
            if h:
                thrust = crocoddyl.ResidualModelControl(state, np.full(4, HOVER))
                costs.addCost("control", crocoddyl.CostModelResidual(state, thrust), 0.05)
            free = crocoddyl.DifferentialActionModelFreeFwdDynamics(state, actuation, costs)
            return crocoddyl.IntegratedActionModelEuler(free, h)

        x0 = np.concatenate([np.zeros(6), [1], np.zeros(6)])
        return crocoddyl.ShootingProblem(x0, [knot(1.0, 0.02)] * KNOTS, knot(10.0, 0.0))

    def away(x: jax.Array) -> jax.Array:
        """log₆ of the pose as seen from the goal, and the velocities."""
        w = quat_difference(x[3:7], jnp.asarray([1.0, 0, 0, 0], x.dtype))
        angle2 = w @ w + 1e-12
        angle = jnp.sqrt(angle2)
        bend = (1 - 0.5 * angle * jnp.sin(angle) / (1 - jnp.cos(angle))) / angle2
        p = x[:3] - jnp.asarray(GOAL, x.dtype)
        shift = p - 0.5 * jnp.cross(w, p) + bend * jnp.cross(w, jnp.cross(w, p))
        return jnp.asarray(np.sqrt(STATE), x.dtype) * jnp.concatenate([shift, w, x[7:]])

    def residual(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return np.sqrt(0.02) * jnp.concatenate([away(x), np.sqrt(0.05) * (u - HOVER)])

    env = from_mjcf(
        QUADROTOR,
        ResidualCost(residual, quadratic),
        ResidualCost(lambda x, y: np.sqrt(10.0) * away(x), quadratic),
        horizon=KNOTS,
    )
    x0 = np.concatenate([np.zeros(3), [1.0], np.zeros(9)])
    return _beside_crocoddyl(env, x0, np.full((KNOTS, 4), HOVER), theirs, fast, wobble=0.01, closeness=0.01)


def _beside_crocoddyl(
    env: Env,
    x0: np.ndarray,
    us: np.ndarray,
    make: Callable[[], Any],
    fast: bool,
    target: str | None = ">= 1.0",
    wobble: float = 0.1,
    closeness: float = 1e-6,
) -> list[Row]:
    """Both from the same controls until they stop; one thread there, MuJoCo's derivatives on all cores here.

    Before, the first controls, and those with noise of size `wobble`, have to cost the same in both, up to
    `closeness`.
    """
    planner = teachers.ilqr(env, iterations=100)
    solve = cpu_jit(planner.solve)
    solution, trace = solve(jnp.asarray(x0, float), jnp.asarray(us))
    rows = [
        Row("ours: cost at the start", float(trace.cost[0] + trace.actual[0]), "1"),
        Row("ours: cost", float(solution.cost), "1"),
        Row("ours: iterations", int(solution.iterations), "1"),
    ]
    if not installed("crocoddyl"):
        return [
            *rows,
            Row("crocoddyl: cost", None, "1"),
            Row("crocoddyl ÷ ours, time per iteration", None, "1", target),
        ]
    crocoddyl = _load("crocoddyl")

    problem = make()
    problem.nthreads = 1
    noise, start = np.random.default_rng(SEED).normal(size=us.shape), jnp.asarray(x0, float)
    for tried in (us, us + wobble * noise):
        here = float(jnp.sum(env.rollout(start, open_loop(env, start, jnp.asarray(tried)), 0 * us).costs))
        there = problem.calc(list(problem.rollout(list(tried))), list(tried))
        if not math.isclose(there, here, rel_tol=closeness):
            raise SystemExit(f"not the same problem: these controls cost {here} here, {there} in crocoddyl")
    controls, states = list(us), list(problem.rollout(list(us)))

    def run() -> Any:
        solver = crocoddyl.SolverFDDP(problem)
        solver.th_stop = 1e-9
        solver.solve(states, controls, 100)
        return solver

    solver = run()
    ratio = time_ratio(lambda: solve(jnp.asarray(x0, float), jnp.asarray(us)), run, 3 if fast else PAIRS)
    ours, theirs = ratio.a.median / int(solution.iterations), ratio.b.median / (solver.iter + 1)
    return [
        *rows,
        Row("crocoddyl: cost", solver.cost, "1"),
        Row("crocoddyl: iterations", solver.iter + 1, "1"),
        Row("ours: time per iteration", 1e3 * ours, "ms"),
        Row("crocoddyl: time per iteration", 1e3 * theirs, "ms"),
        Row("crocoddyl ÷ ours, time per iteration", theirs / ours, "1", target),
        Row("crocoddyl ÷ ours, time to the end", 1 / ratio.median, "1"),
        Row("ours ÷ crocoddyl, cost", float(solution.cost) / solver.cost, "1", "<= 1.001"),
    ]


# ------------------------------------------------------------------------------------ sampling

HORIZON, SAMPLES, TURNS, ELITES, STD = 40, 128, 4, 12, 0.5


def walker_cost(x: Any, u: Any, xp: Any) -> Any:
    """Stand upright and walk at 1 m/s; the walker's first three joints lift, move and turn it."""
    height, lean, speed = x[..., 0], x[..., 2], x[..., 10]
    return 10 * height**2 + 3 * (1 - xp.cos(lean)) + (speed - 1) ** 2 + 0.05 * xp.sum(u**2, axis=-1)


def without_sensors(name: str) -> mujoco.MjModel:
    """A model of dm_control's suite; what its sensors cost is no part of the race."""
    spec = mujoco.MjSpec.from_file(str(suite_folder() / f"{name}.xml"))
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    return spec.compile()


def walker(horizon: int = HORIZON, backend: Backend = "c") -> Env:
    """dm_control's walker with `walker_cost`."""

    def final(x: jax.Array, y: jax.Array) -> jax.Array:
        return walker_cost(x, jnp.zeros(6, x.dtype), jnp)

    model = without_sensors("walker")
    return from_mjcf(
        model, lambda x, u, y, t: walker_cost(x, u, jnp), final, horizon=horizon, backend=backend
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
    env, model = walker(), without_sensors("walker")
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

    A humanoid is not here: six minutes were not enough to compile one plan and run it.
    """
    rows = []
    makers = {
        "predictive sampling": functools.partial(teachers.predictive_sampling, iterations=2, samples=64),
        "cem": functools.partial(teachers.cem, iterations=2, samples=64),
        "ilqr": functools.partial(teachers.ilqr, iterations=5, tolerance=0.0),
    }
    tasks = {"cart-pole": cartpole, "reacher": reacher, "walker": walker}
    if fast:
        makers, tasks = {"cem": makers["cem"]}, {"cart-pole": cartpole}
    for task, make_env in tasks.items():
        for name, make in makers.items():
            if (task, name) == ("walker", "ilqr"):
                continue  # its derivatives take minutes a plan
            figure = f"{task}, {name}: MJX on the CPU ÷ ours, time of a plan"
            if not installed("mujoco.mjx"):
                rows.append(Row(figure, None, "1", ">= 5"))
                continue
            plan = functools.partial(_plan_of, make_env, make)
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
    digit: float
    """The last of the cost."""
    iterations: str | None = None
    """That a published solver took, as a target."""
    options: Mapping[str, Any] = {}


def published(fast: bool) -> list[Row]:
    """One iLQR solve from the published first controls, to the end."""
    car, exact = known_answers.car_parking(), {"tolerance": 1e-9}
    second = {"second_order": known_answers.car_dynamics}
    problems = {
        "trajax's acrobot": Known(known_answers.acrobot(), 44.513285, 5e-5, "<= 62"),
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
        rows.append(Row(f"{name}: |cost - {known.cost}|", away, "1", f"<= {known.digit}"))
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

"""Problems that crocoddyl and we both solve, from the same controls."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import teachers
from benchmarks import known_answers
from benchmarks.harness import Row, installed, load, time_ratio
from envs.manifold import quat_difference
from envs.mjcf import from_mjcf
from gps.costs import quadratic
from gps.placement import cpu_jit
from gps.plant import plant
from gps.rollout import open_loop
from gps.types import Env, ResidualCost

SEED = 0
PAIRS = 15
KNOTS = 100
START = np.array([-1.0, -1.0, 1.0])


def unicycle(fast: bool) -> list[Row]:
    """Its own model in C++, ½ ‖10 x‖² + ½ ‖u‖² with its weights, 100 steps of .1 s."""

    def theirs() -> Any:
        crocoddyl = load("crocoddyl")

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
        crocoddyl = load("crocoddyl")

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
        crocoddyl, pinocchio = load("crocoddyl"), load("pinocchio")

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
    crocoddyl = load("crocoddyl")

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

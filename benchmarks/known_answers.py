"""Trajectory optimisation problems whose answers independent solvers agreed on.

Car parking: Tassa, Mansard & Todorov, ICRA 2014. Acrobot: trajax's test problem. Cart-poles: ALTRO's test
problem, trajax's benchmark and Crocoddyl's introduction.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gps.costs import quadratic
from gps.plant import plant
from gps.types import Env, ResidualCost

Problem = tuple[Env, np.ndarray, np.ndarray]
"""The plant, its first state, the first controls."""


def car_dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
    """A step of .03 s: (x, y, heading, speed), (steering angle, acceleration)."""
    length, h = 2.0, 0.03
    f = h * x[3]
    roll = length + f * jnp.cos(u[0]) - jnp.sqrt(length**2 - (f * jnp.sin(u[0])) ** 2)
    turn = jnp.arcsin(jnp.sin(u[0]) * f / length)
    return x + jnp.stack([roll * jnp.cos(x[2]), roll * jnp.sin(x[2]), turn, h * u[1]])


def car_parking() -> Problem:
    """Reverse into the origin in 15 s, from zero controls."""

    def sabs(r: jax.Array, p: float) -> jax.Array:
        return jnp.sqrt(r**2 + p**2) - p

    def position(x: jax.Array) -> jax.Array:
        return 0.001 * (sabs(x[0], 0.1) + sabs(x[1], 0.1))

    def cost(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return 0.01 * u[0] ** 2 + 0.0001 * u[1] ** 2 + position(x)

    def final_cost(x: jax.Array, y: jax.Array) -> jax.Array:
        near = 0.1 * (sabs(x[0], 0.01) + sabs(x[1], 0.01)) + sabs(x[2], 0.01) + 0.3 * sabs(x[3], 1.0)
        return near + position(x)

    limits = (np.array([-0.5, -2.0]), np.array([0.5, 2.0]))
    x0 = np.array([1, 1, 3 * np.pi / 2, 0])
    env = plant(car_dynamics, cost, final_cost, 4, 2, horizon=500, dt=0.03, limits=limits)
    return env, x0, np.zeros((500, 2))


def acrobot() -> Problem:
    """Spong's acrobot with unit links, torque at the elbow, explicit Euler."""

    def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
        (a1, a2, w1, w2), g = x, 9.8
        d1 = 0.25 + (1 + 0.25 + jnp.cos(a2)) + 2
        d2 = 0.25 + 0.5 * jnp.cos(a2) + 1
        phi2 = 0.5 * g * jnp.cos(a1 + a2 - np.pi / 2)
        phi1 = (
            -0.5 * w2**2 * jnp.sin(a2)
            - w2 * w1 * jnp.sin(a2)
            + (0.5 + 1) * g * jnp.cos(a1 - np.pi / 2)
            + phi2
        )
        b2 = (u[0] + d2 / d1 * phi1 - 0.5 * w1**2 * jnp.sin(a2) - phi2) / (0.25 + 1 - d2**2 / d1)
        b1 = -(d2 * b2 + phi1) / d1
        return x + 0.1 * jnp.stack([w1, w2, b1, b2])

    goal = np.array([np.pi, 0, 0, 0])

    def cost(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return 0.05 * jnp.sum((x - goal) ** 2) + 0.005 * jnp.sum(u**2)

    env = plant(dynamics, cost, lambda x, y: 500 * jnp.sum((x - goal) ** 2), 4, 1, horizon=50, dt=0.1)
    return env, np.zeros(4), np.zeros((50, 1))


def altro_cartpole(limit: float = np.inf) -> Problem:
    """|u| ≤ limit. Third-order Runge-Kutta, 101 knots, 5 s."""
    dt, goal = 0.05, np.array([0, np.pi, 0, 0])

    def velocity(x: jax.Array, u: jax.Array) -> jax.Array:
        mc, mp, length, g = 1.0, 0.2, 0.5, 9.81
        s, c = jnp.sin(x[1]), jnp.cos(x[1])
        force = u[0] + mp * length * x[3] ** 2 * s
        det = (mc + mp) * mp * length**2 - (mp * length * c) ** 2
        cart = (mp * length**2 * force + mp * length * c * mp * g * length * s) / det
        pole = (-mp * length * c * force - (mc + mp) * mp * g * length * s) / det
        return jnp.stack([x[2], x[3], cart, pole])

    def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
        k1 = velocity(x, u) * dt
        k2 = velocity(x + k1 / 2, u) * dt
        k3 = velocity(x - k1 + 2 * k2, u) * dt
        return x + (k1 + 4 * k2 + k3) / 6

    def cost(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return 0.5 * dt * (1e-2 * jnp.sum((x - goal) ** 2) + 1e-1 * jnp.sum(u**2))

    def final_cost(x: jax.Array, y: jax.Array) -> jax.Array:
        return 50 * jnp.sum((x - goal) ** 2)

    env = plant(dynamics, cost, final_cost, 4, 1, horizon=100, dt=dt, limits=(-limit, limit))
    return env, np.zeros(4), np.full((100, 1), 0.01)


def trajax_cartpole() -> Problem:
    """A robustness problem: the angle from the goal is wrapped to [0, 2π): the cost jumps at the goal.

    The force is 5 tanh(u).
    """
    dt, goal = 0.1, np.array([0, np.pi, 0, 0])

    def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
        mc, mp, length, g = 10.0, 1.0, 0.5, 9.81
        s, c = jnp.sin(x[1]), jnp.cos(x[1])
        inertia = jnp.array([[mc + mp, mp * length], [mp * length, mp * length**2]])
        inertia = inertia * jnp.array([[1, c], [c, 1]])
        force = jnp.stack([5 * jnp.tanh(u[0]) + mp * length * s * x[3] ** 2, -mp * g * length * s])
        return x + dt * jnp.concatenate([x[2:], jnp.linalg.solve(inertia, force)])

    def away(x: jax.Array) -> jax.Array:
        error = x - goal
        return error.at[1].set(jnp.mod(error[1], 2 * np.pi))

    def cost(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        return 0.1 * jnp.sum(away(x) ** 2) + 0.01 * jnp.sum(u**2)

    env = plant(dynamics, cost, lambda x, y: 1000 * jnp.sum(away(x) ** 2), 4, 1, horizon=50, dt=dt)
    return env, np.array([0, 0.2, 0, -0.1]), np.zeros((50, 1))


CROCODDYL_WEIGHTS = np.array([1, 1, 0.1, 0.001, 0.001, 1])


def crocoddyl_dynamics(x: Any, u: Any, xp: Any = jnp) -> Any:
    """Semi-implicit Euler; `xp` is jax.numpy or numpy."""
    m1, m2, length, g, dt = 1.0, 0.1, 0.5, 9.81, 0.05
    s, c = xp.sin(x[1]), xp.cos(x[1])
    m = m1 + m2
    mu = m1 + m2 * s**2
    cart = (u[0] + m2 * c * s * g - m2 * length * x[3] ** 2 * s) / mu
    pole = (u[0] * c / length + m * g * s / length - m2 * c * s * x[3] ** 2) / mu
    velocity = x[2:] + dt * xp.stack([cart, pole])
    return xp.concatenate([x[:2] + dt * velocity, velocity])


def crocoddyl_residual(x: Any, u: Any, xp: Any = jnp) -> Any:
    """Of every knot, with zero control at the last; the cost is half its square."""
    return CROCODDYL_WEIGHTS * xp.stack([xp.sin(x[1]), 1 - xp.cos(x[1]), x[0], x[2], x[3], u[0]])


def crocoddyl_cartpole() -> Problem:
    """Crocoddyl's introduction."""
    costs = (
        ResidualCost(lambda x, u, y, t: crocoddyl_residual(x, u), quadratic),
        ResidualCost(lambda x, y: crocoddyl_residual(x, np.zeros(1)), quadratic),
    )
    env = plant(crocoddyl_dynamics, *costs, 4, 1, horizon=50, dt=0.05)
    return env, np.array([0, 0, 1, 0.5]), np.zeros((50, 1))

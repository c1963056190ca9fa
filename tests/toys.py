"""A toy env, teacher, student and algorithm with the shapes of the real ones; `gps train --env toys:line`."""

import time

import jax
import jax.numpy as jnp

from gps.gaussian import Gaussian
from gps.rollout import closed_loop
from gps.types import Action, Algorithm, Env, Limits, LinearDynamics, Observer, Student, Teacher

A = jnp.array  # arrays are made inside factories only: importing this file starts no backend


def line(horizon: int = 12, wall: float = 2.5) -> Env:
    """A point on a line that must get to a target.

    Args:
        horizon: control steps per episode.
        wall: a crash beyond this distance.
    """

    def bind(target):
        def step(x, u):
            u = jnp.clip(u, -1.0, 1.0)
            return x + 0.1 * A([x[1], u[0]]), jnp.int32(0)

        def sense(x, u):
            return jnp.zeros(0, x.dtype)

        def cost(x, u, y, t):
            return (x[0] - target) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2

        def final(x, y):
            return cost(x, jnp.zeros(1), y, 0)

        limits = Limits(A([-1.0]), A([1.0]))
        rollout = closed_loop(step, sense, cost, final, jnp.subtract, limits)
        return Env(
            name="line", nx=2, ndx=2, nu=1, ny=0, horizon=horizon, dt=0.1, limits=limits,
            init=lambda key: jax.random.normal(key, (2,)), step=step, sense=sense,
            linearize=lambda x, u: LinearDynamics(
                A([[1.0, 0.1], [0.0, 1.0]]), A([[0.0], [0.1]]), jnp.zeros((0, 2)), jnp.zeros((0, 1))
            ),
            rollout=rollout, cost=cost, final_cost=final, failed=lambda x, y: jnp.abs(x[0]) > wall,
            minus=jnp.subtract, plus=jnp.add,
            observer=Observer(lambda key: (), lambda key, memory, x, y, u: (A([x[0], target]), memory)),
            sample_context=lambda key: jax.random.uniform(key, ()), bind=bind,
            metrics=lambda x, u: {"speed": jnp.abs(x[1])},
        )  # fmt: skip

    return bind(0.5)


def teacher(gain: float = 2.0):
    """Proportional-derivative control."""

    def make(env):
        def act(key, state, x, t):
            mean = -gain * jax.grad(lambda x: env.cost(x, jnp.zeros(1), jnp.zeros(0), t))(x)[:1] - x[1:]
            return Action(Gaussian(mean, jnp.eye(1)), jnp.eye(1), -mean, jnp.int32(0)), state

        return Teacher(lambda key, x0: (), act)

    return make


def student(nu, limits, hidden: tuple[int, ...] = (4,)):
    """A linear policy; `hidden` is only there to be a tuple."""

    def apply(variables, obs, carry):
        return Gaussian(variables[0] @ obs, jnp.eye(nu)), carry

    return Student(
        lambda key, obs: (jax.random.normal(key, (nu, obs.shape[0])), ()), lambda obs: (), apply,
        lambda variables, obs, first, carry: jax.vmap(lambda o: apply(variables, o, carry)[0])(obs),
        lambda variables, obs, weight: variables,
    )  # fmt: skip


def imitate(
    env,
    make_teacher,
    student,
    rate: float = 0.1,
    pause: float = 0.0,
    mode: str | None = None,
    iterations: int = 8,
):
    """Gradient descent on the difference from the teacher.

    Args:
        rate: of the descent.
        pause: seconds of sleep per iteration.
        iterations: for which its buffer is sized; the command line supplies it.
        mode: 'broken' raises ValueError, 'defect' a KeyError, at the second iteration.
    """

    @jax.jit
    def improve(key, variables):
        world, start, noise = jax.random.split(key, 3)
        bound = env.bind(env.sample_context(world))
        x = bound.init(start)
        label = make_teacher(bound).act(key, (), x, 0)[0].dist.mean
        _, obs = (), bound.observer.observe(noise, (), x, jnp.zeros(0), jnp.zeros(1))[0]

        def loss(variables):
            return jnp.sum((student.apply(variables, obs, ())[0].mean - label) ** 2)

        value, slope = jax.value_and_grad(loss)(variables)
        return jax.tree.map(lambda p, g: p - rate * g / (1 + jnp.abs(g)), variables, slope), value

    def step(key, state):
        time.sleep(pause)
        variables, count, kept, empty = state
        if mode == "broken" and count == 1:
            raise ValueError("the cost returned NaN\nat step 3; check the cost function")
        if mode == "defect" and count == 1:
            raise KeyError("nothing")
        variables, loss = improve(key, variables)
        info = {
            "loss": loss,
            "teacher_cost": 1.0 / (1 + count),
            "crashes": count,
            "kl": jnp.nan,
            "samples": 10,
        }
        return (variables, count + 1, jax.random.fold_in(kept, count), empty), info

    def init(key):
        return student.init(key, jnp.zeros(2)), 0, key, jnp.zeros((iterations, 3))

    return Algorithm(init, step, lambda state: state[0])


TEACHER = {"gain": 2.5}
"""Defaults that this env gives its teacher's factory."""

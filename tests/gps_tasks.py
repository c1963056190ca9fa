"""A task small enough to run guided policy search on in seconds."""

import jax
import jax.numpy as jnp

from gps.linalg import cholesky
from gps.plant import plant
from gps.types import KLTerm


def cart(horizon=20):
    """A cart on a line that has to get to a place, the context, and to stop there; the student sees both."""

    def bind(goal):
        def cost(x, u, y, t):
            return 2 * (x[0] - goal) ** 2 + 0.2 * x[1] ** 2 + 0.05 * u[0] ** 2

        def last(x, y):
            return 10 * (x[0] - goal) ** 2 + x[1] ** 2

        def step(x, u):
            return x + 0.1 * jnp.stack([x[1], u[0] - 0.3 * x[1]])

        env = plant(step, cost, last, 2, 1, horizon=horizon, dt=0.1, limits=(-8.0, 8.0), nv=1, name="cart")

        def look(key, memory, x, y, u):
            return jnp.concatenate([x, jnp.asarray(goal, x.dtype)[None]]), memory

        return env._replace(
            bind=bind,
            observer=env.observer._replace(observe=look),
            sample_context=lambda key: jax.random.uniform(key, (), minval=-1.0, maxval=1.0),
            metrics=lambda x, u: {"distance": jnp.abs(x[0] - goal)},
            conditions=jnp.asarray([-1.0, 0.2, 1.0]),
        )

    return bind(jnp.asarray(0.0))


def roll(env, controller, x0, key, number):
    """Rollouts with the controller's noise."""
    L = jax.vmap(cholesky)(controller.cov)
    noise = jnp.einsum("tij,ntj->nti", L, jax.random.normal(key, (number, *controller.us.shape)))
    return jax.jit(jax.vmap(env.rollout, (None, None, 0)))(x0, controller, noise)


def costs_while_learning(make, env, updates, bound, rollouts=20, runs=8):
    """Cost of the mean controller [runs, updates + 1] of a local teacher, from the first controller on."""
    teacher, x0 = make(env), jnp.zeros(env.nx)

    def update(state, key):
        controller = teacher.controller(state)
        quiet = env.rollout(x0, controller, jnp.zeros_like(controller.us))
        state, _ = teacher.learn(key, state, roll(env, controller, x0, key, rollouts))
        state, _ = teacher.improve(state, (KLTerm(controller, bound=jnp.asarray(bound)),))
        return state, jnp.sum(quiet.costs)

    def run(key):
        return jax.lax.scan(update, teacher.init(key, x0), jax.random.split(key, updates + 1))[1]

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(2), runs))

"""A task small enough to run guided policy search on in seconds."""

import jax
import jax.numpy as jnp

from gps.linalg import cholesky
from gps.plant import plant


def cart(horizon=20):
    """A cart on a line that has to get to a place, the context, and to stop there; the student sees both."""

    def bind(goal):
        def cost(x, u, y, t):
            return 2 * (x[0] - goal) ** 2 + 0.2 * x[1] ** 2 + 0.05 * u[0] ** 2

        def last(x, y):
            return 10 * (x[0] - goal) ** 2 + x[1] ** 2

        def step(x, u):
            return x + 0.1 * jnp.stack([x[1], u[0] - 0.3 * x[1]])

        env = plant(step, cost, last, 2, 1, horizon=horizon, dt=0.1, limits=(-8.0, 8.0), name="cart")

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

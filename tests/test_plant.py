import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.plant import plant
from gps.types import Limits, Status


def cost(x, u, y, t):
    return jnp.sum(x**2) + jnp.sum(u**2)


def final_cost(x, y):
    return jnp.sum(x**2)


def make(**changes):
    parts = {"dynamics": lambda x, u: x + jnp.sin(u[0]) * x[::-1], "cost": cost, "final_cost": final_cost}
    return plant(**{**parts, "nx": 3, "nu": 2, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamics": lambda x, u: x[:2]}, r"dynamics\(x, u\) must return shape \(3,\).*came \(2,\)"),
        ({"cost": lambda x, u, y, t: u}, r"cost\(x, u, y, t\) must return shape \(\).*came \(2,\)"),
        ({"final_cost": lambda x, y: x}, r"final_cost\(x, y\)"),
        ({"sense": lambda x, u: x[0]}, r"sense\(x, u\) must return a vector"),
        ({"init": lambda key: jnp.zeros(2)}, r"init\(key\)"),
        ({"limits": (np.zeros(3), 1.0)}, r"limits must broadcast to \[nu\] = \[2\]"),
        ({"limits": (1.0, -1.0)}, "low <= high"),
    ],
)
def test_advice_on_wrong_shapes(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_step_clips_and_reports():
    env = make(limits=(-1.0, 0.5))
    step = jax.jit(env.step)
    x = jnp.array([1.0, 2.0, -1.0])
    x_next, status = step(x, jnp.array([3.0, 0.0]))
    np.testing.assert_allclose(x_next, np.array(x) + np.sin(0.5) * np.array(x)[::-1], rtol=1e-12)
    assert status == Status.OK
    x_next, status = step(x * jnp.inf, jnp.zeros(2))
    assert status == Status.DIVERGED


def test_derivatives_ignore_the_clipping():
    env = make(limits=Limits(np.full(2, -1.0), np.full(2, 0.5)), sense=lambda x, u: x[:1] * u[1])
    x, u, eps = np.array([1.0, 2.0, -1.0]), np.array([0.5, 0.3]), 1e-6
    model = jax.jit(env.linearize)(x, u)

    def f(x, u):
        return x + np.sin(u[0]) * x[::-1]

    B0 = (f(x, u + np.array([eps, 0])) - f(x, u - np.array([eps, 0]))) / (2 * eps)
    np.testing.assert_allclose(model.B, np.stack([B0, 0 * B0], axis=1), atol=1e-8)
    np.testing.assert_allclose(model.A, np.eye(3) + np.sin(0.5) * np.eye(3)[::-1], atol=1e-12)
    np.testing.assert_allclose(model.C, [[0.3, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(model.D, [[0, 1.0]], atol=1e-12)


def test_defaults():
    env = make()
    assert (env.nx, env.ndx, env.nu, env.ny) == (3, 3, 2, 0)
    assert env.bind(env.sample_context(jax.random.key(0))) is env
    x = env.init(jax.random.key(0))
    y = env.sense(x, jnp.zeros(2))
    obs, _ = env.observer.observe(jax.random.key(0), env.observer.init(jax.random.key(1)), x, y, jnp.zeros(2))
    np.testing.assert_array_equal(obs, np.zeros(3))
    assert not env.failed(x, y)

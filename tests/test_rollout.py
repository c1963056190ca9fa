import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.plant import plant
from gps.rollout import open_loop, trajectory_costs
from gps.types import LinearGaussian, Status

T = 12


def np_dynamics(x, u):
    return np.array([x[0] + 0.1 * x[1], x[1] + 0.1 * np.sin(x[0]) + 0.2 * u[0], 0.9 * x[2] + u[1] * u[0]])


def dynamics(x, u):
    return jnp.stack([x[0] + 0.1 * x[1], x[1] + 0.1 * jnp.sin(x[0]) + 0.2 * u[0], 0.9 * x[2] + u[1] * u[0]])


ENV = plant(
    dynamics,
    lambda x, u, y, t: jnp.sum(y**2) + (t + 1) * jnp.sum(u**2),
    lambda x, y: 10 * jnp.sum(y**2),
    3,
    2,
    horizon=T,
    limits=(-0.8, np.array([0.5, 1.2])),
    sense=lambda x, u: jnp.stack([x[0] * x[2], x[1] + 3 * u[0]]),
)
ROLLOUT = jax.jit(ENV.rollout)


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    xs, us, K = rng.normal(size=(T, 3)), rng.normal(size=(T, 2)), 0.3 * rng.normal(size=(T, 2, 3))
    noise = 0.1 * rng.normal(size=(T, 2))
    arrays = [jnp.asarray(a, dtype) for a in (rng.normal(size=3), xs, us, K, np.zeros((T, 2, 2)), noise)]
    return arrays[0], LinearGaussian(*arrays[1:5]), arrays[5]


def test_matches_a_plain_loop():
    x0, policy, noise = problem()
    plan = ROLLOUT(x0, policy, noise)
    x, costs = np.array(x0), []
    for t in range(T):
        u = np.array(policy.us[t] + policy.K[t] @ (x - policy.xs[t]) + noise[t])
        u = np.clip(u, [-0.8, -0.8], [0.5, 1.2])
        np.testing.assert_allclose(plan.us[t], u, rtol=1e-10)
        y = np.array([x[0] * x[2], x[1] + 3 * u[0]])
        np.testing.assert_allclose(plan.ys[t], y, rtol=1e-10)
        costs.append(y @ y + (t + 1) * u @ u)
        x = np_dynamics(x, u)
        np.testing.assert_allclose(plan.xs[t + 1], x, rtol=1e-10)
    y = np.array([x[0] * x[2], x[1]])
    np.testing.assert_allclose(plan.costs, [*costs, 10 * y @ y], rtol=1e-10)
    assert plan.status == Status.OK
    assert np.any(np.isclose(plan.us[:, 0], 0.5)), "the test should reach a limit"


def test_costs_from_a_later_step():
    x0, policy, noise = problem()
    plan = ROLLOUT(x0, policy, noise)
    later = trajectory_costs(ENV.cost, ENV.final_cost, plan.xs, plan.us, plan.ys, 7)
    np.testing.assert_allclose(later[:-1] - plan.costs[:-1], 7 * np.sum(np.array(plan.us) ** 2, axis=1))


@pytest.mark.parametrize("what", ["state", "control"])
def test_divergence_is_held_and_reported(what):
    env = plant(
        lambda x, u: jnp.where(u[0] > 0.5, jnp.log(-x - 1), x + 1),
        lambda x, u, y, t: x[0] + u[0],
        lambda x, y: x[0],
        1,
        1,
        horizon=6,
    )
    us = np.zeros((6, 1))
    us[3] = 1.0 if what == "state" else np.nan
    us[5] = 0.25
    plan = jax.jit(lambda x0, us: env.rollout(x0, open_loop(env, x0, us), jnp.zeros_like(us)))(
        jnp.zeros(1), us
    )
    assert plan.status == Status.DIVERGED
    np.testing.assert_array_equal(plan.xs[:, 0], [0, 1, 2, 3, 3, 3, 3])
    assert np.all(np.isfinite(plan.costs)) and np.all(np.isfinite(plan.us))


def test_vmaps_and_keeps_dtype():
    x0, policy, noise = problem()
    starts = jnp.stack([x0, 2 * x0, -x0])
    batch = jax.jit(jax.vmap(ENV.rollout, (0, None, None)))(starts, policy, noise)
    one = ROLLOUT(starts[2], policy, noise)
    np.testing.assert_allclose(batch.xs[2], one.xs, rtol=1e-12)
    np.testing.assert_allclose(batch.costs[2], one.costs, rtol=1e-12)
    short = ROLLOUT(*problem(np.float32))
    assert {a.dtype for a in short[:4]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(short.xs, ROLLOUT(x0, policy, noise).xs, atol=1e-4)

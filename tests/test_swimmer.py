"""The swimmer: what the fluid does, what the cost asks for, and what the student sees."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import swimmer as module
from envs.mjcf import load_model
from envs.swimmer import centre, centre_velocity, swimmer
from gps.rollout import open_loop
from gps.types import Status

ENV = swimmer()
ROLL = jax.jit(lambda x0, us: ENV.rollout(x0, open_loop(ENV, x0, us), jnp.zeros_like(us)))
STILL = jnp.zeros((100, 2))


def wave(lag):
    """Bends that run along the body, at 1.5 Hz."""
    phase = 2 * np.pi * 1.5 * ENV.dt * np.arange(100)
    return jnp.asarray(0.8 * np.stack([np.sin(phase), np.sin(phase + lag)], axis=1))


def test_nothing_touches_and_nothing_falls():
    model = load_model(module.ASSET)
    assert (model.nq, model.nv, model.nu) == (5, 5, 2)
    assert model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT
    assert not np.any(model.opt.gravity) and model.opt.density > 0 and model.opt.viscosity > 0


def test_the_fluid_takes_the_momentum_away_and_sideways_sooner():
    ends = []
    for way in (5, 6):
        x0 = jnp.zeros(10).at[way].set(0.3)
        path = ROLL(x0, STILL)
        speeds = np.asarray(path.xs[:, way])
        assert np.all(np.diff(speeds) < 0) and 0 < speeds[-1] < 0.25
        ends.append(speeds[-1])
    assert ends[1] < 0.5 * ends[0]


def test_a_wave_from_head_to_tail_swims_forward_and_the_other_way_back():
    forward, back = (ROLL(jnp.zeros(10), wave(lag)) for lag in (2 * np.pi / 3, -2 * np.pi / 3))
    assert int(forward.status) == Status.OK
    assert float(centre(forward.xs[-1])[0]) > 0.3 and float(centre(back.xs[-1])[0]) < -0.2
    assert float(jnp.sum(forward.costs)) < 0.5 * float(jnp.sum(ROLL(jnp.zeros(10), STILL).costs))


def test_the_centre_is_that_of_mass_and_its_velocity_the_engines():
    model = load_model(module.ASSET)
    data = mujoco.MjData(model)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=10)
        data.qpos[:], data.qvel[:] = x[:5], x[5:]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        np.testing.assert_allclose(centre(x), data.subtree_com[0, :2], atol=1e-12)
        np.testing.assert_allclose(centre_velocity(x), data.subtree_linvel[0, :2], atol=1e-12)


def test_where_it_is_matters_to_nothing():
    x = jnp.asarray(np.random.default_rng(0).normal(size=10))
    there = x.at[:2].add(jnp.asarray([7.0, -3.0]))
    u, y = jnp.asarray([0.3, -0.2]), jnp.zeros(0)
    for look in (
        lambda x: ENV.cost(x, u, y, 0),
        lambda x: ENV.final_cost(x, y),
        lambda x: ENV.observer.observe(jax.random.key(0), (), x, y, u)[0],
    ):
        np.testing.assert_allclose(look(x), look(there), atol=1e-12)
    moved = ENV.minus(ENV.step(there, u)[0], there) - ENV.minus(ENV.step(x, u)[0], x)
    np.testing.assert_allclose(moved, 0, atol=1e-9)
    seen = ENV.observer.observe(jax.random.key(0), (), x, y, u)[0]
    faster = ENV.observer.observe(jax.random.key(0), (), x.at[5:7].add(1.0), y, u)[0]
    np.testing.assert_array_equal(seen, faster)
    np.testing.assert_allclose(seen, [np.sin(x[2]), np.cos(x[2]), *x[3:5], *x[7:]])


def test_the_cost_asks_for_the_speed_and_little_else():
    still, right = jnp.zeros(10), jnp.zeros(10).at[5].set(0.15)
    rest, push = jnp.zeros(2), jnp.asarray([1.0, -1.0])
    np.testing.assert_allclose(ENV.cost(still, rest, jnp.zeros(0), 0), 0.5)
    np.testing.assert_allclose(ENV.cost(right, push, jnp.zeros(0), 0), 0.05)
    np.testing.assert_allclose(ENV.final_cost(right, jnp.zeros(0)), 0, atol=1e-12)
    with pytest.raises(ValueError, match="speed asked for must be positive"):
        swimmer(speed=0.0)


def test_the_conditions_are_bends_and_episodes_begin_so():
    assert ENV.conditions.shape == (4, 2) and np.all(np.abs(ENV.conditions) == 0.5)
    x0 = ENV.bind(jnp.asarray([0.5, -0.5])).init(jax.random.key(0))
    np.testing.assert_allclose(x0, [0, 0, 0, 0.5, -0.5, *[0.0] * 5])
    metrics = ENV.metrics(jnp.zeros(10).at[0].set(0.4).at[5].set(0.2), jnp.zeros(2))
    np.testing.assert_allclose([metrics["travelled"], metrics["speed"]], [0.4, 0.2], atol=1e-12)


def test_derivatives_are_finite_also_at_rest():
    """Where the drag's |v| v is not smooth."""
    for x in (jnp.zeros(10), ROLL(jnp.zeros(10), wave(1.0)).xs[37]):
        linear = ENV.linearize(x, jnp.zeros(2))
        assert all(np.all(np.isfinite(leaf)) for leaf in linear)
        np.testing.assert_allclose(linear.A[:, :2], np.eye(10)[:, :2], atol=1e-6)
        assert np.abs(linear.B[8:]).min(axis=1).max() > 0.1

"""MJX beside the C engine: the same calls, the same numbers. Each model takes seconds to compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_models import SMOOTH

import teachers
from envs import mjx, mujoco
from envs.cartpole import cartpole
from envs.mjcf import from_mjcf, load_model, simulator
from envs.obstacle import obstacle
from envs.pendulum import pendulum
from envs.reacher import reacher
from gps.types import LinearGaussian, Status

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)

FALLING = """
<mujoco model="falling">
  <option timestep="0.004"/>
  <worldbody>
    <geom type="plane" size="5 5 .1"/>
    <body name="target" mocap="true" pos="0 0 2"><site name="target"/></body>
    <body name="base" pos="0 0 .3" euler="10 20 0">
      <freejoint/>
      <geom type="capsule" size=".1" fromto="-.2 0 0 .2 0 0"/>
      <site name="tip" pos=".2 0 0"/>
      <body pos=".2 0 0">
        <joint name="ball" type="ball" damping=".05"/>
        <geom type="capsule" size=".05" fromto="0 0 0 .2 .05 0" contype="0" conaffinity="0"/>
        <body pos=".2 .05 0">
          <joint name="hinge" axis="0 1 .2" damping=".1" armature=".01"/>
          <geom type="capsule" size=".05" fromto="0 0 0 .1 .1 .1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general joint="hinge" dyntype="filter" dynprm=".05" gainprm="1" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
  <sensor>
    <framepos objtype="site" objname="tip" reftype="site" refname="target"/>
    <velocimeter site="tip"/>
    <clock/>
  </sensor>
</mujoco>
"""


@pytest.fixture(autouse=True)
def _mjx_promotes():
    """MJX itself relies on what the other tests forbid."""
    pytest.importorskip("mujoco.mjx")
    with jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def both():
    model = load_model(FALLING)
    return mujoco.engine(model, substeps=2, centered=True), mjx.engine(model, substeps=2)


def start(sim, height=0.3):
    rest = jnp.asarray(sim.model.qpos0).at[2].set(height)
    return jnp.concatenate([rest, 0.3 * jax.random.normal(KEY, (sim.nx - rest.shape[0],))])


def inputs_of(sim):
    force = 0.5 * jax.random.normal(KEY, (sim.model.nv,))
    return sim.make_inputs(qfrc_applied=force, mocap_pos=jnp.asarray([[0.1, 0.2, 1.5]]))


def test_calls_give_the_c_engines_numbers():
    """Quaternions, activations, contact, applied forces and mocap bodies."""
    ours, theirs = both()
    x, u, extra = start(ours), jnp.asarray([0.4]), inputs_of(ours)
    np.testing.assert_array_equal(inputs_of(theirs), extra)
    for call in ("step", "sense"):
        made, wanted = (jax.jit(getattr(sim, call))(x, u, extra) for sim in (theirs, ours))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), made, wanted)
        assert ours.ny == 7


def test_rollouts_through_contact_are_the_same():
    ours, theirs = both()
    T, x, keys = 60, start(ours), jax.random.split(KEY)
    gains = 0.05 * jax.random.normal(keys[0], (T, 1, ours.ndx))
    controller = LinearGaussian(
        jnp.broadcast_to(x, (T, x.shape[0])), jnp.zeros((T, 1)), gains, jnp.zeros((T, 1, 1))
    )
    noise = jax.random.normal(keys[1], (T, 1))
    made, wanted = (jax.jit(sim.rollout)(x, controller, noise, inputs_of(sim)) for sim in (theirs, ours))
    assert np.min(wanted.xs[:, 2]) < 0.15 and np.any(np.abs(wanted.us) == 1), "it touches, and saturates"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), made, wanted)


def test_derivatives_are_those_that_differences_find():
    ours, theirs = both()
    x, u = start(ours, height=1.0), jnp.asarray([0.4])
    for made, wanted in zip(jax.jit(theirs.linearize)(x, u), jax.jit(ours.linearize)(x, u), strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-6)
    for edge in (1.0, -1.0, 1.5):  # on a limit, and beyond, where it moves nothing
        made, wanted = (jax.jit(sim.linearize)(x, jnp.asarray([edge])) for sim in (theirs, ours))
        np.testing.assert_allclose(made.B, wanted.B, atol=1e-6)
        assert np.any(made.B != 0) == (abs(edge) == 1)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(theirs.step(x, u)[0] ** 2)))
    wanted = jax.jit(jax.grad(lambda x: jnp.sum(ours.step(x, u)[0] ** 2)))
    np.testing.assert_allclose(grad(x), wanted(x), atol=1e-5)


def test_float32_comes_back_and_failures_hold():
    ours, theirs = both()
    x, u = start(ours), jnp.asarray([0.4])
    single, _ = jax.jit(theirs.step)(x.astype(jnp.float32), u)
    assert single.dtype == jnp.float32
    for call in ("sense", "linearize"):
        made = jax.jit(getattr(theirs, call))(x.astype(jnp.float32), u)
        assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    lost = x.at[-3].set(1e11)
    held, status = jax.jit(theirs.step)(lost, u)
    assert status == Status.DIVERGED
    np.testing.assert_array_equal(held, lost)
    assert np.all(np.isnan(jax.jit(theirs.linearize)(lost, u).A)) and np.all(
        np.isnan(jax.jit(theirs.sense)(lost, u))
    )
    T = 4
    plan = LinearGaussian(
        jnp.zeros((T, ours.nx)), jnp.zeros((T, 1)), jnp.zeros((T, 1, ours.ndx)), jnp.zeros((T, 1, 1))
    )
    noise = jnp.zeros((T, 1)).at[2].set(jnp.nan)
    made, wanted = (jax.jit(sim.rollout)(x, plan, noise) for sim in (theirs, ours))
    assert made.status == wanted.status == Status.DIVERGED
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), made, wanted)


@pytest.mark.parametrize("make", [cartpole, pendulum, reacher, obstacle])
def test_tasks_have_the_same_trajectories(make):
    env, on_mjx = make(horizon=30), make(horizon=30, backend="mjx")
    x0 = env.init(KEY)
    us = 0.5 * jax.random.normal(KEY, (30, env.nu))
    blank = jnp.zeros((30, env.nu, env.ndx))
    plan = LinearGaussian(jnp.zeros((30, env.nx)), us, blank, jnp.zeros((30, env.nu, env.nu)))
    made, wanted = (jax.jit(one.rollout)(x0, plan, jnp.zeros_like(us)) for one in (on_mjx, env))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), made, wanted)


def test_planners_find_the_same_plans():
    """iLQR, and a batch of CEM's plans: whole solves are one program, with MJX's steps inside."""
    env, on_mjx = pendulum(20), pendulum(20, backend="mjx")
    starts, us = jnp.asarray([[2.5, 0.0], [-1.0, 1.0]]), jnp.zeros((20, 1))
    for make in (
        functools.partial(teachers.ilqr, iterations=100, tolerance=1e-12),
        functools.partial(teachers.cem, iterations=5, samples=16, noise=teachers.spline(4)),
    ):
        made, wanted = (
            jax.jit(jax.vmap(lambda x0, solve=make(one).solve: solve(x0, us)[0]))(starts)  # noqa: B008
            for one in (on_mjx, env)
        )
        np.testing.assert_allclose(made.cost, wanted.cost, rtol=1e-6)
        np.testing.assert_allclose(made.Quu, wanted.Quu, rtol=0.01)
        np.testing.assert_allclose(made.trajectory.us, wanted.trajectory.us, atol=0.01)  # the cost is flat


def test_what_mjx_does_not_know_is_said():
    with pytest.raises(ValueError, match=r"MJX cannot simulate model 'smooth': .*use backend='c'"):
        mjx.engine(load_model(SMOOTH.format(integrator="implicit")))
    for old, new, said in (
        ('type="capsule"', 'type="capsule" fluidshape="ellipsoid"', "ellipsoid fluid forces"),
        ('dyntype="filter"', 'dyntype="filter" actearly="true"', "early activations"),
        ('timestep="0.004"', 'timestep="0.004" noslip_iterations="5"', "the noslip solver"),
    ):
        with pytest.raises(ValueError, match=f"MJX does not compute what model 'falling' has: {said}"):
            mjx.engine(load_model(FALLING.replace(old, new)))
    with pytest.raises(ValueError, match="backend must be 'c' or 'mjx', came 'warp'"):
        simulator("warp")
    env = from_mjcf(FALLING, lambda x, u, y, t: jnp.sum(y**2), backend="mjx", horizon=3)
    assert env.ny == 7

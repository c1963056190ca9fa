"""A linearised student against differences of the student itself, through sensors and quaternions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_models import plus
from gps_tasks import cart

from envs import from_mjcf
from envs.mjcf import load_model
from envs.observations import history
from gps.types import Limits, Trajectory
from students.linearize import linearise, regressed
from students.policies import mlp

XML = """
<mujoco model="kite">
  <worldbody>
    <body pos="0 0 1"><freejoint/><geom size=".1 .2 .05" type="box"/><site name="tip" pos=".3 0 .1"/></body>
  </worldbody>
  <actuator><motor site="tip" gear="0 0 1 0 0 0"/><motor site="tip" gear="0 1 0 .1 0 0"/></actuator>
  <sensor>
    <framepos name="tip" objtype="site" objname="tip"/>
    <framelinvel name="speed" objtype="site" objname="tip"/>
  </sensor>
</mujoco>"""


def scene():
    env = from_mjcf(XML, lambda x, u, y, t: jnp.sum(u**2), observe=["tip", "speed"])
    student = mlp(
        2, hidden=(16,), dtype=jnp.float64, limits=Limits(np.array([-9.0, -9.0]), np.array([9.0, 9.0]))
    )
    variables = student.init(jax.random.key(3), jnp.ones(6))
    louder = jax.tree.map(lambda leaf: 30 * leaf, variables[0]["network"]["Dense_1"])
    network = variables[0]["network"] | {"Dense_1": louder}
    return env, student, ({**variables[0], "network": network}, variables[1])


def test_gains_are_the_students_own_slopes():
    env, student, variables = scene()
    rng, model = np.random.default_rng(0), load_model(XML)
    xs = np.stack([plus(model, np.r_[model.qpos0, np.zeros(6)], rng.normal(size=12)) for _ in range(3)])
    found = jax.jit(linearise(env, student))(variables, xs)

    @jax.jit
    def act(x):
        obs, _ = env.observer.observe(jax.random.key(0), (), x, env.sense(x, jnp.zeros(2)), jnp.zeros(2))
        return student.apply(variables, obs, ())[0]

    for t, x in enumerate(xs):
        np.testing.assert_allclose(found.us[t], act(x).mean, atol=1e-12)
        np.testing.assert_allclose(found.cov[t], act(x).cov, atol=1e-12)
        for k, way in enumerate(np.eye(12)):
            ahead, behind = (act(plus(model, x, size * way)).mean for size in (1e-5, -1e-5))
            np.testing.assert_allclose(found.K[t, :, k], (ahead - behind) / 2e-5, atol=1e-4)
    assert np.abs(found.K).max() > 0.1


def test_a_student_that_remembers_is_refused():
    env, student, _ = scene()
    with pytest.raises(ValueError, match=r"a student that remembers .* linearise it by regression"):
        linearise(history(env, 2), student)


def mass_and_paths(N, remembers=False):
    """A task, a student that is a line in (position, velocity), and rollouts of nothing in particular."""
    env = history(cart(), 2) if remembers else cart()
    student = mlp(1, hidden=(), dtype=jnp.float64)
    obs = jnp.ones((2, 3)) if remembers else jnp.ones(3)
    variables = student.init(jax.random.key(0), obs)
    rng = np.random.default_rng(2)
    xs, us = 0.5 + rng.normal(size=(N, 21, 2)), rng.normal(size=(N, 20, 1))
    zeros = np.zeros((N, 21))
    return env, student, variables, Trajectory(xs, us, np.zeros((N, 21, 0)), zeros, np.zeros(N, np.int32))


def test_a_line_is_found_again_by_regression():
    env, student, variables, paths = mass_and_paths(40)
    weight = jnp.ones(40).at[7].set(0)
    paths = paths._replace(xs=paths.xs.copy())
    paths.xs[7] = 1e6  # of weight 0
    ours = jax.jit(regressed(env, student, clusters=2))(variables, paths, weight)
    exact = jax.jit(linearise(env, student))(variables, ours.xs)
    np.testing.assert_allclose(ours.K, exact.K, rtol=0.01)
    np.testing.assert_allclose(ours.us, exact.us, atol=0.02)
    np.testing.assert_allclose(ours.cov, exact.cov, rtol=0.02)
    few = jax.tree.map(lambda leaf: leaf[:2], paths)  # a line in the plane needs three
    rough = jax.jit(regressed(env, student, clusters=2))(variables, few, jnp.ones(2))
    np.testing.assert_allclose(rough.K, exact.K, rtol=0.1)


def test_what_a_line_does_not_explain_is_noise():
    """A student that looks at the state before is no function of this one."""
    env, student, variables, paths = mass_and_paths(200, remembers=True)
    ours = jax.jit(regressed(env, student, clusters=2))(variables, paths, jnp.ones(200))

    def act(before, now):
        rows = jnp.stack([jnp.append(before, 0.0), jnp.append(now, 0.0)])
        return student.apply(variables, rows, ())[0].mean

    t = 9
    slope = np.asarray(jax.jacfwd(act, 1)(jnp.zeros(2), jnp.zeros(2)))
    past = np.asarray(jax.jacfwd(act, 0)(jnp.zeros(2), jnp.zeros(2)))
    own = student.apply(variables, jnp.zeros((2, 3)), ())[0].cov
    np.testing.assert_allclose(ours.K[t], slope, atol=0.15 * np.abs(past).max())
    rest = paths.xs[:, t - 1] @ past.T
    np.testing.assert_allclose(ours.cov[t] - own, np.var(rest, axis=0)[:, None], rtol=0.1)

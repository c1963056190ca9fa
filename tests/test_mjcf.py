"""A user's own task: what `from_mjcf` makes of a file, and what it says about mistakes."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs.mjcf import from_mjcf, load_model, sensor_slices
from gps.types import Status
from teachers.ilqr import ilqr
from teachers.planner import SolveStatus

CRANE = """<mujoco model="crane">
  <option timestep=".02" integrator="implicitfast"/>
  <worldbody>
    <body pos="0 0 2"><joint name="rail" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/>
      <body name="load"><joint name="rope" axis="0 1 0" damping=".01"/>
        <geom type="capsule" fromto="0 0 0 0 0 -1" size=".02" mass=".3"/>
        <site name="hook" pos="0 0 -1"/></body>
    </body>
  </worldbody>
  <actuator><motor name="drive" joint="rail" gear="5"/></actuator>
  <sensor>
    <framepos name="hook" objtype="site" objname="hook"/>
    <jointpos name="rail" joint="rail"/><jointvel name="rope_rate" joint="rope"/>
  </sensor>
</mujoco>"""

OWN_TASK = """
import jax
import jax.numpy as jnp
from envs.mjcf import from_mjcf
from teachers.ilqr import ilqr

def cost(x, u, y, t):
    hook = y[:3]
    return 10 * (hook[0] - 1.0) ** 2 + 0.1 * jnp.sum(x[2:] ** 2) + 0.1 * jnp.sum(u**2)

def final_cost(x, y):
    return 100 * (y[0] - 1.0) ** 2 + 10 * jnp.sum(x[2:] ** 2)

env = from_mjcf("crane.xml", cost, final_cost, observe=["rail", "hook"], horizon=100, substeps=2)
solve = jax.jit(lambda x0: ilqr(env, iterations=30).solve(x0, jnp.zeros((100, env.nu))))
plan, trace = solve(env.init(jax.random.key(0)))
"""


def zero(x, u, y, t):
    return jnp.sum(x**2)


@pytest.fixture
def crane(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "crane.xml"
    path.write_text(CRANE)
    return path


def test_a_users_own_task_in_thirty_lines_without_control_limits(crane):
    assert len(OWN_TASK.splitlines()) <= 30
    made = {}
    exec(OWN_TASK, made)
    env, plan = made["env"], made["plan"]
    assert (env.name, env.nx, env.nu, env.ny, env.dt) == ("crane", 4, 1, 5, 0.04)
    assert np.all(np.isinf(env.limits.low))
    assert plan.status in (SolveStatus.CONVERGED, SolveStatus.MAX_ITERATIONS)
    assert plan.trajectory.status == Status.OK
    assert abs(plan.trajectory.ys[-1, 0] - 1.0) < 0.02 and np.abs(plan.trajectory.xs[-1, 2:]).max() < 0.05
    total = float(np.sum(plan.trajectory.costs))
    nudge = lambda scale: np.sum(replay(env, plan.trajectory.us * scale))  # noqa: E731
    np.testing.assert_allclose(nudge(1.0), total, rtol=1e-6)
    assert total < min(nudge(0.98), nudge(1.02))


def replay(env, us):
    """Costs of the controls, by MuJoCo's own loop."""
    model = mujoco.MjModel.from_xml_string(CRANE)
    data, costs = mujoco.MjData(model), []
    for u in np.asarray(us):
        data.ctrl[:] = u
        mujoco.mj_forward(model, data)
        x, y = np.r_[data.qpos, data.qvel], data.sensordata
        costs.append(10 * (y[0] - 1) ** 2 + 0.1 * np.sum(x[2:] ** 2) + 0.1 * np.sum(u**2))
        for _ in range(2):
            mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    return [*costs, 100 * (data.sensordata[0] - 1) ** 2 + 10 * np.sum(data.qvel**2)]


def test_observations_are_the_named_sensors_in_the_given_order():
    env = from_mjcf(CRANE, zero, observe=["rope_rate", "hook"])
    x = jnp.array([0.3, 0.5, -0.2, 0.7])
    y = env.sense(x, jnp.zeros(1))
    obs, _ = env.observer.observe(jax.random.key(0), (), x, y, jnp.zeros(1))
    np.testing.assert_allclose(obs, [0.7, 0.3 - np.sin(0.5), 0, 2 - np.cos(0.5)], atol=1e-12)
    assert sensor_slices(load_model(CRANE)) == {
        "hook": slice(0, 3),
        "rail": slice(3, 4),
        "rope_rate": slice(4, 5),
    }
    see = lambda env: env.observer.observe(jax.random.key(0), (), x, y, jnp.zeros(1))[0]  # noqa: E731
    np.testing.assert_array_equal(see(from_mjcf(CRANE, zero)), x)
    np.testing.assert_array_equal(see(from_mjcf(CRANE, zero, observe="rail")), [0.3])
    np.testing.assert_array_equal(see(from_mjcf(CRANE, zero, observe=lambda x, y: y[:2] * x[0])), y[:2] * 0.3)


def test_final_cost_and_start_have_their_defaults():
    env = from_mjcf(CRANE, lambda x, u, y, t: x[0] + 10 * u[0] + 100 * y[2] + 1000.0 * t, horizon=7)
    np.testing.assert_array_equal(env.init(jax.random.key(0)), np.zeros(4))
    x, y = jnp.array([2.0, 0, 0, 0]), jnp.array([0, 0, 1.0, 0, 0])
    assert env.final_cost(x, y) == 2 + 100 + 7000
    begun = from_mjcf(
        CRANE, zero, init=lambda key: jnp.full(4, 0.5), failed=lambda x, y: x[0] > 1, name="mine"
    )
    assert begun.name == "mine" and np.all(np.asarray(begun.init(jax.random.key(0))) == 0.5)
    assert begun.failed(x, y) and not begun.failed(x / 4, y)


def test_path_text_and_model_are_the_same_task(crane):
    us = jnp.sin(jnp.arange(3.0))
    ends = []
    for model in (str(crane), crane, CRANE, mujoco.MjModel.from_xml_string(CRANE)):
        env = from_mjcf(model, zero)
        x = jnp.zeros(4)
        for u in us:
            x, _ = env.step(x, u[None])
        ends.append(np.asarray(x))
    assert np.abs(ends[0]).max() > 1e-3 and all(np.array_equal(end, ends[0]) for end in ends)


BROKEN = CRANE.replace("</worldbody>", "", 1)
WRONG = CRANE.replace('joint="rail" gear', 'joint="rial" gear')


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"model": "no/such.xml"}, FileNotFoundError, "no MJCF file at 'no/such.xml': check the path"),
        ({"model": BROKEN}, ValueError, "cannot compile MJCF text: XML parse error"),
        ({"model": WRONG}, ValueError, "unknown transmission target 'rial'"),
        (
            {"cost": lambda x, u, y, t: x},
            ValueError,
            r"crane: cost\(x, u, y, t\) must return a scalar.*got \(4,\)",
        ),
        (
            {"cost": lambda x, u, y, t: jnp.sum(x) / 0.0 - jnp.inf},
            ValueError,
            "at the first state are .*finite",
        ),
        ({"cost": lambda x, u, y, t: jnp.log(x[0] - 1)}, ValueError, "cost and final_cost .* nan .* finite"),
        ({"final_cost": lambda x, y: y}, ValueError, r"final_cost\(x, y\) must return a scalar.*got \(5,\)"),
        ({"init": lambda key: jnp.zeros(3)}, ValueError, r"init\(key\) must return shape \(4,\), got \(3,\)"),
        ({"failed": lambda x, y: x > 0}, ValueError, r"failed\(x, y\) must return a scalar"),
        ({"observe": ["hok"]}, ValueError, "no sensor named 'hok': did you mean 'hook'"),
        ({"observe": ["zzz"]}, ValueError, r"no sensor named 'zzz': it has \['hook', 'rail', 'rope_rate'\]"),
        ({"observe": []}, ValueError, "observe names no sensor"),
        ({"horizon": 0}, ValueError, "whole number of control steps, at least 1"),
        ({"substeps": 0}, ValueError, "substeps must be a whole number of at least 1"),
    ],
)
def test_bad_input_says_what_to_do(settings, error, says):
    arguments = {"model": CRANE, "cost": zero, **settings}
    with pytest.raises(error, match=says) as raised:
        from_mjcf(**arguments)
    assert "\n" not in str(raised.value)


def test_a_broken_file_is_named(crane):
    crane.write_text(BROKEN)
    with pytest.raises(ValueError, match=r"cannot compile 'crane\.xml'"):
        from_mjcf("crane.xml", zero)


def test_a_planner_runs_without_limits_on_the_controls():
    env = from_mjcf(CRANE, lambda x, u, y, t: jnp.sum((x - 1) ** 2) + 1e-4 * u[0] ** 2, horizon=5)
    plan, _ = jax.jit(lambda us: ilqr(env, iterations=3).solve(env.init(jax.random.key(0)), us))(
        jnp.zeros((5, 1))
    )
    assert np.abs(plan.trajectory.us).max() > 1

"""float64 results are those of a plain C loop, to the last bit."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from engine_models import CONTACT, INTEGRATORS, SMOOTH, load, loop, minus, plus, read, states, write

from envs.mujoco import engine
from gps.types import LinearGaussian, Status

# Around the sizes at which the engine changes the batch object it uses: 1, the threads, 1024.
SIZES = (1, 2, 3, 4, 5, 1023, 1024, 1025, 1100)


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(("xml", "substeps"), [(SMOOTH, 1), (SMOOTH, 3), (CONTACT, 2)])
def test_step_and_sense_equal_the_c_loop(xml, substeps, integrator):
    model = load(xml, integrator)
    xs, us = states(model, 7, settle=25 if xml is CONTACT else 0, spread=0.2)
    env = engine(model, substeps=substeps, threads=2)
    made, status = jax.jit(jax.vmap(env.step))(xs, us)
    sensed = jax.jit(jax.vmap(env.sense))(xs, us)
    expected = [loop(model, x, u, substeps) for x, u in zip(xs, us, strict=True)]
    np.testing.assert_array_equal(made, [x for x, _ in expected])
    np.testing.assert_array_equal(sensed, [y for _, y in expected])
    np.testing.assert_array_equal(status, Status.OK)
    assert np.abs(np.asarray(made) - xs).max() > 1e-3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_thread_count_and_batch_size(threads):
    model = load(CONTACT)
    xs, us = states(model, max(SIZES), spread=0.2)
    step = jax.jit(jax.vmap(engine(model, threads=threads).step))
    expected = np.array([loop(model, x, u)[0] for x, u in zip(xs, us, strict=True)])
    for n in SIZES:
        np.testing.assert_array_equal(step(xs[:n], us[:n])[0], expected[:n])


def test_nested_vmap_scan_and_eager_calls_are_the_same_call():
    model = load(SMOOTH)
    env = engine(model, threads=3)
    xs, us = states(model, 6)
    plain = np.array([loop(model, x, u)[0] for x, u in zip(xs, us, strict=True)])
    nested = jax.vmap(jax.vmap(env.step))(xs.reshape(2, 3, -1), us.reshape(2, 3, -1))[0]
    np.testing.assert_array_equal(nested.reshape(6, -1), plain)
    np.testing.assert_array_equal(env.step(xs[2], us[2])[0], plain[2])
    one_state = jax.vmap(env.step, in_axes=(None, 0))(xs[0], us)[0]
    np.testing.assert_array_equal(one_state, [loop(model, xs[0], u)[0] for u in us])
    # Operands that different simulations share, along one axis or the other of a batch.
    table = jax.vmap(jax.vmap(env.step, in_axes=(None, 0)), in_axes=(0, None))(xs[:2], us[:3])[0]
    np.testing.assert_array_equal(table, [[loop(model, x, u)[0] for u in us[:3]] for x in xs[:2]])
    scanned = jax.jit(lambda x: jax.lax.scan(lambda x, u: (env.step(x, u)[0], None), x, us)[0])(xs[0])
    x = xs[0]
    for u in us:
        x = loop(model, x, u)[0]
    np.testing.assert_array_equal(scanned, x)


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
@pytest.mark.parametrize(("xml", "substeps"), [(SMOOTH, 2), (CONTACT, 1)])
def test_closed_loop_rollout_equals_the_c_loop(xml, substeps, integrator):
    model = load(xml, integrator)
    T, n = 12, 5
    rng = np.random.default_rng(3)
    xs_ref, us_ref = states(model, T, seed=1, settle=10, spread=0.2)
    x0s, _ = states(model, n, seed=2, settle=10, spread=0.2)
    K = 0.3 * rng.standard_normal((T, model.nu, 2 * model.nv + model.na))
    K[1::3] = 0.0  # open loop there, which takes a shorter way
    K[4, -1, -1] = -2.0
    noise = 0.2 * rng.standard_normal((n, T, model.nu))
    env = engine(model, substeps=substeps, threads=2)
    controller = LinearGaussian(xs_ref, us_ref, K, np.zeros((T, model.nu, model.nu)))
    rollout = jax.jit(jax.vmap(env.rollout, in_axes=(0, None, 0)))
    made = rollout(x0s, jax.tree.map(jnp.asarray, controller), noise)
    each = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], n, axis=0), controller)
    own = jax.jit(jax.vmap(env.rollout))(x0s, each, noise)
    for i in range(n):
        xs, us, ys = _c_rollout(env.model, x0s[i], xs_ref, us_ref, K, noise[i], substeps)
        np.testing.assert_array_equal(own.xs[i], xs)
        np.testing.assert_array_equal(made.us[i], us)
        np.testing.assert_array_equal(made.xs[i], xs)
        np.testing.assert_array_equal(made.ys[i], ys)
    assert np.any(np.asarray(made.us)[..., 0] == env.high[0])  # the limits are at work


def _c_rollout(model, x0, xs_ref, us_ref, K, noise, substeps):
    d = mujoco.MjData(model)
    write(d, x0)
    low = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange[:, 0], -np.inf)
    high = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange[:, 1], np.inf)
    xs, us, ys = [x0], [], []
    for t in range(len(us_ref)):
        dx = minus(model, read(d), xs_ref[t])
        u = us_ref[t] + noise[t]
        for k in range(dx.size):  # in the engine's order of summation
            u = u + K[t][:, k] * dx[k]
        d.ctrl[:] = np.clip(u, low, high)
        us.append(d.ctrl.copy())
        mujoco.mj_step(model, d)
        ys.append(d.sensordata.copy())
        for _ in range(substeps - 1):
            mujoco.mj_step(model, d)
        xs.append(read(d))
    d.ctrl[:] = 0
    mujoco.mj_forward(model, d)
    return xs, us, [*ys, d.sensordata.copy()]


def test_mocap_poses_and_applied_forces_are_inputs():
    model = load(SMOOTH)
    env = engine(model)
    xs, us = states(model, 4)
    rng = np.random.default_rng(0)
    force, pos, quat = (
        rng.standard_normal((4, model.nv)),
        rng.standard_normal((4, 1, 3)),
        [[[1.0, 0.2, 0.0, 0.4]]] * 4,
    )
    rows = jax.vmap(env.make_inputs)(force, pos, jnp.asarray(quat))
    made = jax.jit(jax.vmap(env.step))(xs, us, rows)[0]
    for i in range(4):
        d = mujoco.MjData(model)
        write(d, xs[i])
        d.ctrl[:], d.qfrc_applied[:], d.mocap_pos[:], d.mocap_quat[:] = us[i], force[i], pos[i], quat[i]
        mujoco.mj_step(model, d)
        np.testing.assert_array_equal(made[i], read(d))
    default = env.step(xs[0], us[0])[0]
    np.testing.assert_array_equal(env.step(xs[0], us[0], env.make_inputs())[0], default)
    assert not np.array_equal(default, made[0])


def test_float32_is_the_double_result_rounded():
    model = load(SMOOTH)
    model.body_quat[:] = model.body_quat.astype(np.float32)  # the default mocap pose is an input as well
    env = engine(model, substeps=2)
    xs, us = (a.astype(np.float32) for a in states(model, 3))
    made, _ = jax.vmap(env.step)(xs, us)
    expected = [loop(model, *map(np.float64, row), 2)[0] for row in zip(xs, us, strict=True)]
    assert made.dtype == jnp.float32
    np.testing.assert_array_equal(made, np.float32(expected))
    controller = LinearGaussian(xs, us, np.zeros((3, env.nu, env.ndx), np.float32), np.zeros((3, 6, 6)))
    kept = env.rollout(jnp.asarray(xs[0]), controller, jnp.zeros((3, env.nu), jnp.float32))
    assert {kept.xs.dtype, kept.us.dtype, kept.ys.dtype} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(kept.us, us)


@pytest.mark.parametrize("xml", [SMOOTH, CONTACT])
def test_sensors_off_changes_nothing_else(xml):
    model = load(xml)
    xs, us = states(model, 1, settle=20)
    silent = engine(model, sensors=False)
    assert silent.ny == 0
    assert silent.sense(xs[0], us[0]).shape == (0,)
    np.testing.assert_array_equal(silent.step(xs[0], us[0])[0], loop(model, xs[0], us[0])[0])
    assert silent.linearize(xs[0], us[0]).C.shape == (0, silent.ndx)


@pytest.mark.parametrize(
    ("xml", "nx", "nu"),
    [
        ('<mujoco><worldbody><body><joint/><geom size=".1"/></body></worldbody></mujoco>', 2, 0),
        ("<mujoco><worldbody/></mujoco>", 0, 0),
        (
            '<mujoco><worldbody><body><joint name="j" range="-60 60"/><geom size=".1" pos=".2 0 0"/></body>'
            "</worldbody>"
            '<actuator><muscle joint="j" ctrlrange="0 1"/></actuator>'
            '<keyframe><key qpos=".5" act=".2"/></keyframe></mujoco>',
            3,
            1,
        ),
    ],
    ids=["no controls", "no joints", "muscle"],
)
def test_odd_sizes(xml, nx, nu):
    model = mujoco.MjModel.from_xml_string(xml)
    env = engine(model, threads=2)
    assert (env.nx, env.nu, env.ny) == (nx, nu, 0)
    xs, us = np.full((5, nx), 0.3), np.full((5, nu), 0.4)
    made = jax.vmap(env.step)(xs, us)[0]
    np.testing.assert_array_equal(made, [loop(model, x, u)[0] for x, u in zip(xs, us, strict=True)])
    assert env.linearize(xs[0], us[0]).A.shape == (env.ndx, env.ndx)
    for T in (0, 1):
        controller = LinearGaussian(xs[:T], us[:T], np.zeros((T, nu, env.ndx)), np.zeros((T, nu, nu)))
        assert env.rollout(xs[0], controller, np.zeros((T, nu))).xs.shape == (T + 1, nx)


def test_empty_batch():
    env = engine(load(CONTACT))
    made, status = jax.vmap(env.step)(np.zeros((0, env.nx)), np.zeros((0, env.nu)))
    assert made.shape == (0, env.nx)
    assert status.shape == (0,)


def test_limits_come_from_the_model():
    model = load(SMOOTH)
    env = engine(model)
    np.testing.assert_array_equal(env.low, [-1] + [-np.inf] * 5)
    xs, us = states(model, 1)
    beyond = us[0] + 5 * np.eye(6)[0]
    np.testing.assert_array_equal(
        env.step(xs[0], beyond)[0], loop(model, xs[0], np.clip(beyond, env.low, env.high))[0]
    )
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
    assert np.all(np.isinf(engine(model).high))


def test_the_engine_keeps_its_own_model():
    model = load(SMOOTH)
    env = engine(model)
    xs, us = states(model, 1)
    before = env.step(xs[0], us[0])[0]
    model.opt.gravity[:] = 100
    env.model.opt.gravity[:] = 100
    np.testing.assert_array_equal(env.step(xs[0], us[0])[0], before)
    x_plus = plus(model, xs[0], 0.1 * np.ones(env.ndx))
    assert not np.array_equal(env.step(x_plus, us[0])[0], before)

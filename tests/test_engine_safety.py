"""What goes wrong in one simulation is its status; what goes wrong in the use of the engine raises."""

import gc
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from engine_models import CONTACT, SMOOTH, load, loop, states

from envs.mujoco import engine
from gps.types import LinearGaussian, Status

# An acceleration beyond MuJoCo's bound, while the velocity after one step is not.
CANNON = """
<mujoco model="cannon">
  <option timestep="0.01" integrator="{integrator}"/>
  <worldbody><body><joint name="j" type="slide"/><geom size=".1" mass="1e-3"/></body></worldbody>
  <actuator><motor joint="j" gear="1e12"/></actuator>
  <sensor><jointpos joint="j"/></sensor>
</mujoco>
"""
FIRE = 5e-5

# Enough memory in the air, too little for the contact solver.
TIGHT = """
<mujoco model="tight">
  <size memory="18000"/>
  <worldbody>
    <geom type="plane" size="5 5 .1"/>
    <body pos="0 0 .5"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
    <body pos=".3 0 .5"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
  </worldbody>
  <sensor><clock/></sensor>
</mujoco>
"""


@pytest.fixture
def quiet(tmp_path, monkeypatch, capfd):
    """Nothing is printed and no MUJOCO_LOG.TXT is written."""
    monkeypatch.chdir(tmp_path)
    yield
    out, err = capfd.readouterr()
    assert out + err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("integrator", ["Euler", "RK4", "implicitfast", "discrete"])
def test_divergence_is_a_status_in_its_row(integrator):
    model = load(CANNON, integrator)
    env = engine(model, threads=2)
    us = np.zeros((9, 1))
    us[[0, 4, 8]] = FIRE
    xs = np.random.default_rng(0).standard_normal((9, 2))
    step = jax.jit(jax.vmap(env.step))
    for _ in range(2):  # the second time the warnings would have been counted
        made, status = step(xs, us)
        np.testing.assert_array_equal(status, np.where(us[:, 0] > 0, Status.DIVERGED, Status.OK))
        calm = us[:, 0] == 0
        np.testing.assert_array_equal(made[calm], [loop(model, x, np.zeros(1))[0] for x in xs[calm]])
        np.testing.assert_array_equal(made[~calm], xs[~calm])  # held: no reset
    assert env.step(xs[0], us[0])[1] == Status.DIVERGED
    assert env.last_error() == ""


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e11])
def test_numbers_that_mujoco_refuses(bad):
    env = engine(load(SMOOTH), inputs=True)
    x, u = (a[0] for a in states(env.model, 1))
    row = np.array(env.make_inputs())
    for position in range(3):
        args = [np.array(x), np.array(u), row.copy()]
        args[position][2] = bad
        x_next, status = env.step(*args)
        assert status == Status.DIVERGED
        np.testing.assert_array_equal(x_next, args[0])
        assert np.all(np.isnan(env.sense(*args)))
        assert all(np.all(np.isnan(part)) for part in env.linearize(*args))


@pytest.mark.usefixtures("quiet")
def test_rollout_holds_from_the_failure_on():
    env = engine(load(CANNON))
    x0 = np.array([0.3, -0.2])
    T = 6
    controller = LinearGaussian(np.zeros((T, 2)), np.zeros((T, 1)), np.zeros((T, 1, 2)), np.zeros((T, 1, 1)))
    for fails_at in range(T):
        for bad in (FIRE, np.nan, np.inf):
            noise = np.zeros((T, 1))
            noise[fails_at] = bad
            made = env.rollout(x0, controller, noise)
            assert made.status == Status.DIVERGED
            assert all(np.all(np.isfinite(part)) for part in made[:3])
            xs = [x0]
            for _ in range(fails_at):
                xs.append(loop(env.model, xs[-1], np.zeros(1))[0])
            xs += [xs[-1]] * (T - fails_at)
            np.testing.assert_array_equal(made.xs, xs)
            readings = [x[0] for x in xs[:fails_at]] or [0.0]
            np.testing.assert_array_equal(made.ys[:, 0], readings + readings[-1:] * (T + 1 - len(readings)))
    assert env.rollout(x0, controller, np.zeros((T, 1))).status == Status.OK


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("threads", [1, 2])
def test_engine_error_is_a_status_in_its_row(threads):
    model = load(TIGHT)
    env = engine(model, threads=threads)
    xs = np.tile(np.r_[model.qpos0, np.zeros(model.nv)], (7, 1))
    fall = [1, 2, 5]
    xs[fall, 2] = xs[fall, 9] = 0.09
    assert env.last_error() == ""
    for _ in range(2):
        made, status = jax.jit(jax.vmap(env.step))(xs, np.zeros((7, 0)))
        assert [int(s) for s in status] == [0, 2, 2, 0, 0, 2, 0]
        np.testing.assert_array_equal(made[1], xs[1])
        np.testing.assert_array_equal(made[6], loop(model, xs[6], [])[0])
    text = env.last_error()
    assert "'tight'" in text
    assert "stack overflow" in text  # MuJoCo's own words
    with pytest.raises(mujoco.FatalError):
        loop(model, xs[1], [])
    nothing = np.zeros(0)
    assert np.all(np.isnan(env.sense(xs[1], nothing)))
    assert np.all(np.isnan(env.linearize(xs[1], nothing).A))
    assert np.all(np.isfinite(env.linearize(xs[0], nothing).A))
    controller = LinearGaussian(xs[:3], np.zeros((3, 0)), np.zeros((3, 0, 24)), np.zeros((3, 0, 0)))
    made = env.rollout(xs[1], controller, np.zeros((3, 0)))
    assert made.status == Status.ENGINE_ERROR
    np.testing.assert_array_equal(made.xs, np.tile(xs[1], (4, 1)))


def test_other_warnings_come_once_per_engine(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = engine(load(TIGHT.replace("18000", "8000")))  # contacts are dropped
    x = np.r_[env.model.qpos0, np.zeros(env.model.nv)]
    x[2] = x[9] = 0.09
    for _ in range(5):
        env.step(x, np.zeros(0))
    assert capfd.readouterr().err.count("WARNING: Insufficient arena memory") == 1


@pytest.mark.parametrize(
    ("body", "option", "says"),
    [
        ('<actuator><motor joint="j" delay=".1" nsample="20"/></actuator>', "", "delayed"),
        ("", '<option><flag sleep="enable"/></option>', "sleeping"),
    ],
)
def test_state_outside_x_is_refused(body, option, says):
    xml = (
        f'<mujoco model="odd">{option}<worldbody><body><joint name="j"/><geom size=".1"/></body></worldbody>'
        f"{body}</mujoco>"
    )
    with pytest.raises(ValueError, match=f"'odd'.*{says}"):
        engine(mujoco.MjModel.from_xml_string(xml))


def test_plastic_state_is_refused():
    joint = '<joint stiffness="1" springyield=".1"/>'
    xml = f'<mujoco><worldbody><body>{joint}<geom size=".1"/></body></worldbody></mujoco>'
    with pytest.raises(ValueError, match="plastic"):
        engine(mujoco.MjModel.from_xml_string(xml))


def test_wrong_use_raises():
    env = engine(load(CONTACT))
    x, u = (a[0] for a in states(env.model, 1))
    controller = LinearGaussian(x[None], u[None], np.zeros((1, env.nu, env.ndx)), np.zeros(()))
    with pytest.raises(ValueError, match=r"step: x must have shape \(17,\), got \(5,\); use jax.vmap"):
        env.step(x[:5], u)
    with pytest.raises(ValueError, match="sense: u must have shape"):
        env.sense(x, u[:1])
    with pytest.raises(ValueError, match="linearize: inputs must have shape"):
        env.linearize(x, u, np.zeros(3))
    with pytest.raises(ValueError, match="rollout: K must have shape"):
        env.rollout(x, controller._replace(K=np.zeros((1, 2, 2))), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="float32 or float64, got int64"):
        env.step(np.ones(env.nx, int), u)
    with pytest.raises(ValueError, match="make it with engine"):
        engine(load(CONTACT), inputs=False).make_inputs()
    with pytest.raises(ValueError, match="substeps must be a whole number of at least 1"):
        engine(load(CONTACT), substeps=0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        engine(load(CONTACT), threads=0)


def test_two_models_in_one_program():
    one, two = load(CONTACT), load(SMOOTH)
    a, b = engine(one), engine(two)
    (x, u), (z, w) = (tuple(rows[0] for rows in states(m, 1)) for m in (one, two))
    made = jax.jit(lambda: (a.step(x, u)[0], b.step(z, w)[0], a.step(x, -u)[0]))()
    for ours, theirs in zip(made, (loop(one, x, u), loop(two, z, w), loop(one, x, -u)), strict=True):
        np.testing.assert_array_equal(ours, theirs[0])


def test_compiled_program_that_outlives_its_model_fails_in_words():
    env = engine(load(CONTACT))
    x, u = (a[0] for a in states(env.model, 1))
    compiled = jax.jit(env.step).lower(x, u).compile()
    assert compiled(x, u)[1] == Status.OK
    del env
    jax.clear_caches()
    gc.collect()
    with pytest.raises(jax.errors.JaxRuntimeError, match="has been freed: keep its Engine alive"):
        jax.block_until_ready(compiled(x, u))


def test_jitted_function_keeps_its_model_alive():
    model = load(CONTACT)
    x, u = (a[0] for a in states(model, 1))
    step = jax.jit(engine(model).step)
    gc.collect()
    np.testing.assert_array_equal(step(x, u)[0], loop(model, x, u)[0])


def test_concurrent_calls_from_threads():
    model = load(CONTACT)
    env = engine(model, threads=2)
    xs, us = states(model, 64, spread=0.2)
    expected = np.array([loop(model, x, u)[0] for x, u in zip(xs, us, strict=True)])
    step = jax.jit(jax.vmap(env.step))
    sizes = (1, 3, 64)
    for n in sizes:
        step(xs[:n], us[:n])
    wrong = []

    def work(k):
        for i in range(40):
            n = sizes[(i + k) % 3]
            if not np.array_equal(step(xs[:n], us[:n])[0], expected[:n]):
                wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_through_the_host_for_programs_on_accelerators(monkeypatch):
    """The branch that other platforms lower, run here: it is the same engine."""
    choose = lambda *operands, cpu, default: default(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    model = load(SMOOTH)
    env = engine(model)
    xs, us = states(model, 4)
    plain = np.array([loop(model, x, u)[0] for x, u in zip(xs, us, strict=True)])
    program = jax.jit(jax.vmap(env.step))
    assert "callback" in program.lower(xs, us).as_text()
    np.testing.assert_array_equal(program(xs, us)[0], plain)
    scanned = jax.jit(lambda x: jax.lax.scan(lambda x, u: (env.step(x, u)[0], x), x, us)[1])(xs[0])
    np.testing.assert_array_equal(scanned[1], plain[0])
    slope = jax.jit(jax.grad(lambda x: env.sense(x, us[0]).sum()))(xs[0])
    K = np.zeros((4, env.nu, env.ndx))
    made = jax.jit(lambda x: env.rollout(x, LinearGaussian(xs, us, K, K), us))(xs[0])
    monkeypatch.undo()
    native = engine(model)
    np.testing.assert_array_equal(slope, jax.grad(lambda x: native.sense(x, us[0]).sum())(xs[0]))
    for ours, theirs in zip(made, native.rollout(xs[0], LinearGaussian(xs, us, K, K), us), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_cpu_programs_hold_no_trace_of_other_platforms():
    env = engine(load(CONTACT))
    x, u = (jnp.asarray(a[0]) for a in states(env.model, 1))
    loop_ = jax.jit(lambda x: jax.lax.scan(lambda x, _: (env.step(x, u)[0], None), x, None, length=9)[0])
    text = loop_.lower(x).compile().as_text()
    assert text.count("custom-call(") == 1
    assert "conditional" not in text
    assert "callback" not in text


def run_python(code, timeout=120):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_importing_leaves_jax_alone():
    code = """
import jax
before = dict(jax.config.values)
import envs.mujoco, envs.mjcf
changed = {k for k, v in jax.config.values.items() if before.get(k, v) != v}
from jax._src import xla_bridge
print(changed, xla_bridge.backends_are_initialized())
import mujoco
env = envs.mujoco.engine(mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><body><joint/><geom size=".1"/></body></worldbody></mujoco>'))
print(env.step([1.0, 2.0], [])[0].dtype)
"""
    done = run_python(code)
    assert done.stdout.split("\n")[:2] == ["set() False", "float32"], done.stderr


PROCESS = """
import sys, warnings
warnings.simplefilter("ignore")
import multiprocessing, os, jax, mujoco, numpy as np
from envs.mujoco import engine
XML = '<mujoco model="split"><worldbody><body><joint/><geom size=".1"/></body></worldbody></mujoco>'

def make():
    env = engine(mujoco.MjModel.from_xml_string(XML), threads=2)
    return env, jax.jit(jax.vmap(env.step))

def work(n):
    return np.asarray(make()[1](np.ones((n, 2)), np.zeros((n, 0)))[0]).tolist()
"""


def test_spawned_processes_have_engines_of_their_own(tmp_path):
    script = tmp_path / "script.py"
    body = """
if __name__ == "__main__":
    here = work(3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(all(there == here for there in pool.map(work, [3, 3])))
"""
    script.write_text(f"import sys; sys.path[:0] = {sys.path!r}\n" + PROCESS + body)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_use_after_fork_fails_in_words():
    """Both a new trace and a program compiled before the fork; the child ends, and so does the parent."""
    code = (
        PROCESS
        + """
env, step = make()
batch = np.ones((3, 2)), np.zeros((3, 0))
step(*batch)
compiled = jax.jit(env.step).lower(np.ones(2, np.float32), np.zeros(0, np.float32)).compile()
arguments = jax.device_put((np.ones(2, np.float32), np.zeros(0, np.float32)))
child = os.fork()
if child == 0:
    for call in (lambda: env.step(np.ones(2), np.zeros(0)), lambda: compiled(*arguments)):
        try:
            jax.block_until_ready(call())
            print("no error", flush=True)
        except Exception as error:
            print(type(error).__name__, "fork" in str(error), "spawn" in str(error), flush=True)
    del env, step
    os._exit(0)
print(os.waitpid(child, 0)[1], step(*batch)[1].tolist(), flush=True)
"""
    )
    done = run_python(code)
    assert done.stdout == "RuntimeError True True\nJaxRuntimeError True True\n0 [0, 0, 0]\n", done.stderr

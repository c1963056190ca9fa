"""Placement, with a second CPU device in the accelerator's part."""

import os
import subprocess
import sys
import textwrap

PROGRAM = """
import jax
import jax.numpy as jnp
jax.config.update("jax_default_device", jax.devices("cpu")[1])
from gps.placement import cpu_device, cpu_jit, put, student_device, student_jit
host, accelerator = jax.devices("cpu")
assert cpu_device() == host and student_device() == accelerator
x = jnp.arange(3.0)
assert x.devices() == {accelerator}

@cpu_jit
def native(x, y=1.0, *, key):
    return x * y, jax.random.normal(key, (2,)), jnp.zeros(2)

key = jax.random.key(0)
out = native(x, y=jnp.ones(3), key=key)
assert all(leaf.devices() == {host} for leaf in out), out
out = cpu_jit(lambda: jnp.ones(2))()
assert out.devices() == {host}
out = cpu_jit(lambda n, x: x * n, static_argnums=0)(3, x)
assert out.devices() == {host}

committed = jax.device_put(x, accelerator)
assert cpu_jit(lambda a, b: a + b)(committed, jax.device_put(x, host)).devices() == {host}

fitted = student_jit(lambda a, b: a + b)(out, committed)
assert fitted.devices() == {accelerator}
assert jax.jit(lambda a: native(a, key=key)[0] + 1)(x).shape == (3,)
assert jax.vmap(lambda a: native(a, key=key)[0])(x[:, None]).shape == (3, 1)
tree = put({"a": x, "b": 3, "c": None}, host)
assert tree["a"].devices() == {host} and tree["b"] == 3
jax.config.update("jax_default_device", "cpu")
assert student_device() == host
print("fine")
"""

IMPORTS = """
import importlib, pkgutil, sys
import jax
before = dict(jax.config.values)
import gps, teachers, students, envs
for package in (gps, teachers, students, envs):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
assert dict(jax.config.values) == before
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
print("fine")
"""

SPREAD = """
import jax
import jax.numpy as jnp
import numpy as np
import teachers
from envs.pendulum import pendulum
from gps.placement import spread
env = pendulum(10)
solve = lambda x0: teachers.ilqr(env, iterations=5).solve(x0, jnp.zeros((10, 1)))[0]
starts = jax.random.normal(jax.random.key(0), (8, 2))
together, shared = jax.jit(jax.vmap(solve))(starts), spread(solve)(starts)
assert len(shared.cost.sharding.device_set) == 4
assert {piece.data.shape for piece in shared.cost.addressable_shards} == {(2,)}
np.testing.assert_allclose(shared.cost, together.cost, rtol=1e-5)
assert len(spread(solve, jax.devices()[1:3])(starts).cost.sharding.device_set) == 2
chained = spread(lambda cost: 2 * cost, jax.devices()[:2])(shared.cost)
np.testing.assert_allclose(chained, 2 * shared.cost)
np.testing.assert_allclose(spread(lambda x: x[0])(jax.device_put(starts, jax.devices()[0])), starts[:, 0])
try:
    spread(solve)(starts[:6])
    raise SystemExit("no error")
except ValueError as error:
    assert "over 4 devices needs one leading axis that is a multiple of that, came 6" in str(error)
print("fine")
"""


def run_program(text, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=os.environ | {"PYTHONPATH": os.getcwd()} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("fine")


def test_native_programs_land_on_the_cpu_and_students_on_the_accelerator():
    run_program(PROGRAM, XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")


def test_importing_everything_changes_no_setting_and_starts_no_backend():
    run_program(IMPORTS)


def test_a_batch_is_shared_out_over_devices():
    run_program(SPREAD, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")

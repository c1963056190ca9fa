"""Exported students: the same controls through an episode, without JAX, and refusals of what is no policy."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps import deploy
from gps.export import ExportError, export
from gps.rollout import clip_control
from gps.run import RunError
from gps.types import Limits
from students import classifier, cnn, crowd, dave2, frame_stack, gru, lstm, mlp, spatial_softmax
from students.crowd import share

KEY = jax.random.key(0)
LIMITS = Limits(np.array([-1.0, -2.0]), np.array([1.0, 0.5]))
TINY = ((4, 3, 2), (4, 2, 1))
KINDS = {
    "mlp": (partial(mlp, hidden=(8, 8)), None),
    "gelu": (partial(mlp, hidden=(8,), activation="gelu", covariance="network"), None),
    "cnn": (partial(cnn, layers=TINY), (9, 8)),
    "dave2": (dave2, (66, 200)),
    "spatial_softmax": (partial(spatial_softmax, layers=TINY), (9, 8)),
    "gru": (partial(gru, size=5, hidden=(4,)), None),
    "lstm": (partial(lstm, size=5, hidden=(4,)), None),
    "cnn + gru": (partial(cnn, layers=TINY, memory="gru", size=5), (9, 8)),
    "stack": (lambda nu, limits: frame_stack(cnn(nu, layers=TINY, limits=limits), 3), (9, 8)),
    "crowd": (lambda nu, limits: several(mlp(nu, (8,), limits=limits), (0.3, 0.7)), None),
    "mixture": (partial(cnn, layers=TINY, components=3), (9, 8)),
    "classifier": (partial(classifier, layers=TINY, choices=((0.5, 0.1), (-0.5, -1.0))), (9, 8)),
}


def several(student, shares):
    """A crowd with these shares."""
    made = crowd(student, len(shares))
    return made._replace(init=lambda key, obs: share(made.init(key, obs), jnp.array(shares)))


def made(name, steps=6, seed=0):
    """(student, variables as if trained, observations of an episode)."""
    kind, size = KINDS[name]
    rng = np.random.default_rng(seed)
    obs = {"joints": rng.normal(size=(steps, 3)).astype(np.float32)}
    if size:
        obs["eye"] = rng.integers(0, 256, (steps, *size, 3), np.uint8)
    student = kind(2, limits=LIMITS)
    params, moments = jax.jit(student.init)(KEY, jax.tree.map(lambda leaf: leaf[0], obs))
    moved = jax.tree.map(
        lambda p: p + rng.normal(size=p.shape).astype(np.float32) / np.sqrt(max(p.size, 10)), params
    )
    return student, (moved, moments), obs


def expected(student, variables, obs):
    """Controls of the student itself."""
    apply, us = jax.jit(student.apply), []
    carry = student.initial_carry(jax.tree.map(lambda leaf: leaf[0], obs))
    for t in range(len(obs["joints"])):
        dist, carry = apply(variables, jax.tree.map(lambda leaf, t=t: leaf[t], obs), carry)
        us.append(np.asarray(clip_control(dist.mode(), LIMITS)))
    return np.stack(us)


SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "dave2" else name for name in KINDS]


@pytest.mark.parametrize("name", SLOW)
def test_numpy_acts_as_the_student_through_an_episode_and_the_next(tmp_path, name):
    student, variables, obs = made(name)
    export(tmp_path / "policy.npz", student, variables, obs, LIMITS)
    policy = deploy.load(tmp_path / "policy.npz")
    wanted = expected(student, variables, obs)
    for _ in range(2):
        policy.reset()
        found = [policy(jax.tree.map(lambda leaf, t=t: leaf[t], obs)) for t in range(len(wanted))]
        np.testing.assert_allclose(np.stack(found), wanted, atol=2e-6)
    if student.unroll is not None:
        again = policy(jax.tree.map(lambda leaf: leaf[0], obs))
        assert not np.allclose(again, wanted[0], atol=1e-4), "without a reset it remembers"


def test_stablehlo_acts_as_the_student(tmp_path):
    student, variables, obs = made("gru")
    written = export(tmp_path / "policy.jax", student, variables, obs, LIMITS, "jax")
    assert written.difference <= 1e-6
    call = jax.export.deserialize(bytearray((tmp_path / "policy.jax").read_bytes())).call
    carry, us = (jnp.ones(5, jnp.float32),), []
    for t in range(6):
        u, carry = call(jax.tree.map(lambda leaf, t=t: leaf[t], obs), carry, np.asarray(t == 0))
        us.append(u)
    np.testing.assert_allclose(np.stack(us), expected(student, variables, obs), atol=2e-6)


def test_it_runs_where_there_is_no_jax(tmp_path):
    student, variables, obs = made("mlp")
    export(tmp_path / "policy.npz", student, variables, obs, LIMITS)
    np.save(tmp_path / "joints.npy", obs["joints"][0])
    script = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'optax', 'mujoco'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from gps.deploy import load\n"
        f"u = load(r'{tmp_path}/policy.npz')({{'joints': np.load(r'{tmp_path}/joints.npy')}})\n"
        "print(*u)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    u = np.array(ran.stdout.split(), float)
    np.testing.assert_allclose(u, expected(student, variables, obs)[0], atol=2e-6)


def test_a_file_is_never_overwritten(tmp_path):
    student, variables, obs = made("mlp")
    path = tmp_path / "policy.npz"
    path.write_text("precious")
    with pytest.raises(RunError, match="exists and is not overwritten"):
        export(path, student, variables, obs, LIMITS)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


def test_a_student_that_breaks_is_not_exported(tmp_path):
    student, (params, moments), obs = made("mlp")
    broken = jax.tree.map(lambda p: p * np.nan, params)
    with pytest.raises(ExportError, match="not finite"):
        export(tmp_path / "policy.npz", student, (broken, moments), obs, LIMITS)
    assert not list(tmp_path.iterdir())


def test_a_primitive_that_numpy_is_not_taught_is_named(tmp_path):
    student, variables, obs = made("mlp")

    def apply(variables, obs, carry):
        dist, carry = student.apply(variables, obs, carry)
        return dist._replace(mean=jax.lax.lgamma(dist.mean + 5)), carry

    with pytest.raises(ExportError, match="lgamma"):
        export(tmp_path / "policy.npz", student._replace(apply=apply), variables, obs, LIMITS)
    assert not list(tmp_path.iterdir())


def test_what_is_no_policy_is_said(tmp_path):
    student, variables, obs = made("mlp")
    path = tmp_path / "policy.npz"
    export(path, student, variables, obs, LIMITS)
    cut, foreign = tmp_path / "cut.npz", tmp_path / "foreign.npz"
    cut.write_bytes(path.read_bytes()[:-200])
    np.savez(foreign, weights=np.ones(3))
    for bad, says in ((cut, "is no policy"), (foreign, "found weights"), (tmp_path / "none.npz", "no file")):
        with pytest.raises(deploy.PolicyError, match=says):
            deploy.load(bad)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda obs: {"eye": obs["eye"]}, "joints.*missing"),
        (lambda obs: obs | {"joints": obs["joints"][:2]}, r"shape \(3,\), came \(2,\)"),
        (lambda obs: obs | {"eye": obs["eye"].astype(float)}, "dtype uint8, came float64"),
        (lambda obs: obs | {"nose": obs["joints"]}, "nose"),
    ],
)
def test_an_observation_unlike_the_students_is_refused(tmp_path, change, says):
    student, variables, obs = made("cnn")
    export(tmp_path / "policy.npz", student, variables, obs, LIMITS)
    policy = deploy.load(tmp_path / "policy.npz")
    with pytest.raises(deploy.PolicyError, match=says):
        policy(change({name: leaf[0] for name, leaf in obs.items()}))

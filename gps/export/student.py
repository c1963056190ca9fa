"""A trained student as one file: for NumPy alone (`gps.deploy`), or as StableHLO (`jax.export`).

A file is written under another name, read again, driven through episodes beside the student itself, and
only then renamed: what is there has been seen to act as the student does.

An exported policy reads floating point observations in the precision in which it acts, that of its controls.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, SequenceKey
from jaxtyping import Array, PyTree

from gps import deploy, run
from gps.export.agreement import Driver, at_random, difference, drive
from gps.export.program import UnknownPrimitiveError, trace
from gps.placement import cpu_jit
from gps.rollout import clip_control
from gps.types import Limits, Student

__all__ = ["TOLERANCE", "ExportError", "Format", "Written", "export"]

TOLERANCE = 1e-6
"""How far an exported policy may be from its student, in units of the controls' range
(`gps.export.agreement.difference`)."""

Format = Literal["numpy", "jax"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class ExportError(ValueError):
    """The student cannot be exported."""


class Written(NamedTuple):
    """What has been found out about a file."""

    difference: float
    """The largest from the student, in units of the controls' range."""
    steps: int
    """Observations on which they were compared."""
    bytes: int


class _Deployed(NamedTuple):
    """A student with its variables, as a function of arrays."""

    step: Callable[..., tuple[Array, list[Array]]]
    """(leaves of obs, leaves of carry) → (u inside the limits, leaves of carry)."""
    carry: list[np.ndarray]
    """At the start of an episode."""
    leaves: list[jax.ShapeDtypeStruct]
    """Of an observation."""
    paths: list[tuple[str | int, ...]]
    treedef: Any


def export(
    path: Path,
    student: Student,
    variables: PyTree,
    observations: PyTree,
    limits: Limits,
    form: Format = "numpy",
    about: dict[str, Any] | None = None,
) -> Written:
    """Writes the student to `path` and compares what is there with it.

    'numpy' is read by `gps.deploy.load`. 'jax' is read by `jax.export.deserialize(bytearray(…))`, whose
    `.call(obs, carry, first)` returns (u, carry): `carry` is a tuple of arrays, of kinds in its `in_avals`,
    which is not looked at where `first`, a bool, says that an episode begins.

    Args:
        path: a new file.
        student: a policy whose distribution has a mode.
        variables: as trained.
        observations: [T, …] along an episode. They say what is seen; along them, and along T more at random
            with the same mean and spread, the file is compared with the student.
        limits: of the controls.
        form: 'numpy' or 'jax'.
        about: kept in the file (numpy), such as where the student comes from; JSON.

    Raises:
        RunError: `path` exists, or its directory does not.
        ExportError: the student computes what NumPy is not taught to compute, the file acts
            otherwise than the student, or the student's controls are not finite.
    """
    path = Path(path)
    _check(path, observations, limits, form)
    deployed = _deployed(student, variables, observations, limits)
    data = _as_numpy(deployed, limits, about or {}) if form == "numpy" else _as_jax(deployed)
    reference = _reference(student, variables, limits, observations)
    with run.new_file(path) as scratch:
        scratch.write_bytes(data)
        policy = _read_numpy(scratch) if form == "numpy" else _read_jax(scratch, deployed)
        apart = [_agree(policy, reference, seen, limits) for seen in (observations, at_random(observations))]
    steps = 2 * len(jax.tree.leaves(observations)[0])
    return Written(max(apart), steps, len(data))


# ------------------------------------------------------------------------------------- the student


def _deployed(student: Student, variables: PyTree, observations: PyTree, limits: Limits) -> _Deployed:
    example = jax.tree.map(lambda leaf: np.asarray(leaf)[0], observations)
    act = _act(student, limits)
    dtype = jax.eval_shape(act, variables, example, student.initial_carry(example))[0].dtype
    seen = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        ),
        example,
    )
    found, treedef = jax.tree_util.tree_flatten_with_path(seen)
    carry, carrydef = jax.tree.flatten(student.initial_carry(seen))

    def step(leaves: list[Array], carry: list[Array]) -> tuple[Array, list[Array]]:
        obs, memory = jax.tree.unflatten(treedef, leaves), jax.tree.unflatten(carrydef, carry)
        u, memory = act(variables, obs, memory)
        return u, jax.tree.leaves(memory)

    carry = [np.asarray(leaf) for leaf in carry]
    leaves = [leaf for _, leaf in found]
    after = jax.eval_shape(step, leaves, carry)[1]
    if [(leaf.shape, leaf.dtype) for leaf in after] != [(leaf.shape, leaf.dtype) for leaf in carry]:
        raise ExportError(
            f"what the student remembers changes from {_kinds(carry)} to {_kinds(after)} in one step: its "
            "carry must keep shapes and dtypes"
        )
    return _Deployed(step, carry, leaves, [_keys(path) for path, _ in found], treedef)


def _act(student: Student, limits: Limits) -> Callable[..., tuple[Array, PyTree]]:
    """(variables, obs, carry) → (u, carry)."""

    def act(variables: PyTree, obs: PyTree, carry: PyTree) -> tuple[Array, PyTree]:
        dist, carry = student.apply(variables, obs, carry)
        return clip_control(dist.mode(), limits), carry

    return act


def _keys(path: tuple[Any, ...]) -> tuple[str | int, ...]:
    """The way to a leaf as strings and numbers."""
    names = {DictKey: "key", SequenceKey: "idx", GetAttrKey: "name"}
    keys = [getattr(entry, names.get(type(entry), ""), None) for entry in path]
    found = tuple(key for key in keys if isinstance(key, str | int))
    if len(found) < len(keys):
        raise ExportError(
            "an observation must be made of arrays in dicts (keyed by text), sequences and NamedTuples, "
            f"came {jax.tree_util.keystr(path)}"
        )
    return found


def _kinds(leaves: list[Any]) -> str:
    return "[" + ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) + "]"


# ------------------------------------------------------------------------------------- the formats


def _as_numpy(deployed: _Deployed, limits: Limits, about: dict[str, Any]) -> bytes:
    """What `gps.deploy.load` reads."""
    count = len(deployed.leaves)

    def flat(*inputs: Array) -> list[Array]:
        u, carry = deployed.step(list(inputs[:count]), list(inputs[count:]))
        return [u, *carry]

    try:
        program = trace(flat, [*deployed.leaves, *deployed.carry])
    except UnknownPrimitiveError as error:
        raise ExportError(f"the student cannot be exported to NumPy: {error}") from error
    description = {
        "format": deploy.FORMAT,
        "about": about,
        "observation": [
            (path, leaf.shape, np.dtype(leaf.dtype).name)
            for path, leaf in zip(deployed.paths, deployed.leaves, strict=True)
        ],
        "carry": len(deployed.carry),
        "constants": len(program.constants),
        "operations": program.operations,
        "outputs": program.outputs,
    }
    arrays = {f"carry{i}": leaf for i, leaf in enumerate(deployed.carry)}
    arrays |= {f"constant{i}": value for i, value in enumerate(program.constants)}
    arrays |= {"low": np.asarray(limits.low, float), "high": np.asarray(limits.high, float)}
    arrays["program"] = np.frombuffer(json.dumps(description, allow_nan=False).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _as_jax(deployed: _Deployed) -> bytes:
    """What `jax.export.deserialize` reads."""

    def call(obs: PyTree, carry: tuple[Array, ...], first: Array) -> tuple[Array, tuple[Array, ...]]:
        begun = [jnp.where(first, start, leaf) for start, leaf in zip(deployed.carry, carry, strict=True)]
        u, after = deployed.step(jax.tree.leaves(obs), begun)
        return u, tuple(after)

    obs = jax.tree.unflatten(deployed.treedef, deployed.leaves)
    carry = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in deployed.carry)
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)
    try:
        return bytes(exported(obs, carry, jax.ShapeDtypeStruct((), bool)).serialize())
    except ImportError as error:
        raise ExportError(
            "--format jax needs the package flatbuffers: pip install 'guided-policy-search[deploy]'"
        ) from error


# ------------------------------------------------------------------------------------- the drivers


def _reference(student: Student, variables: PyTree, limits: Limits, observations: PyTree) -> Driver:
    act = cpu_jit(_act(student, limits))
    example = jax.tree.map(lambda leaf: leaf[0], observations)
    return Driver(lambda obs, carry: act(variables, obs, carry), student.initial_carry(example))


def _read_numpy(path: Path) -> Driver:
    policy = deploy.load(path)
    return Driver(policy.step, policy.initial_carry)


def _read_jax(path: Path, deployed: _Deployed) -> Driver:
    call = cpu_jit(jax.export.deserialize(bytearray(path.read_bytes())).call)

    def step(obs: PyTree, carry: tuple[bool, tuple]) -> tuple[Array, tuple[bool, tuple]]:
        leaves = zip(jax.tree.leaves(obs), deployed.leaves, strict=True)
        cast = [np.asarray(leaf, wanted.dtype) for leaf, wanted in leaves]
        u, after = call(jax.tree.unflatten(deployed.treedef, cast), carry[1], np.asarray(carry[0]))
        return u, (False, after)

    return Driver(step, (True, tuple(np.ones_like(leaf) for leaf in deployed.carry)))


def _agree(policy: Driver, reference: Driver, observations: PyTree, limits: Limits) -> float:
    """The largest difference along an episode.

    Raises:
        ExportError: it is too large, or the student's own controls are not finite.
    """
    expected = drive(reference, observations)
    if not np.all(np.isfinite(expected)):
        raise ExportError(
            "the student's own controls are not finite: look at its observations and its training"
        )
    worst, t = difference(drive(policy, observations), expected, limits)
    if worst > TOLERANCE:
        raise ExportError(
            f"what was written acts otherwise than the student: {worst:.3g} of the controls' range apart at "
            f"step {t}, at most {TOLERANCE:g} is allowed; nothing was kept. If float32 is too coarse for "
            "this student, make it with dtype=jnp.float64, or export it with --format jax"
        )
    return worst


def _check(path: Path, observations: PyTree, limits: Limits, form: str) -> None:
    if form not in ("numpy", "jax"):
        raise ExportError(f"form must be 'numpy' or 'jax', got {form!r}")
    run.check_new(path)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(observations)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ExportError(
            f"observations must be [T, …] with one T >= 1 in every array, got {sorted(lengths)}"
        )
    if np.ndim(limits.low) != 1 or np.shape(limits.low) != np.shape(limits.high):
        raise ExportError(
            f"limits must be two vectors [nu], got {np.shape(limits.low)} and {np.shape(limits.high)}"
        )

"""Checkpoints of a whole algorithm state: orbax files, typed keys, a checksum for every leaf.

A checkpoint is the state after `step` iterations. Only arrays and a JSON description of the leaves are
stored; the tree comes from a template state when it is read back, so that no code is ever unpickled.
Writing is atomic (orbax renames a finished directory); what a killed process left half-written is swept away.
"""

import operator
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

__all__ = ["CheckpointError", "check_path", "restore", "save", "settle", "steps"]


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another state."""


def check_path(directory: Path) -> None:
    """Whether checkpoints below `directory` can be read again: orbax takes brackets for a pattern.

    Raises:
        CheckpointError: they could not.
    """
    odd = sorted(set("[]\\") & set(str(Path(directory).resolve())))
    if odd:
        raise CheckpointError(
            f"checkpoints cannot be kept below {directory}: choose a path without {' '.join(odd)}"
        )


def settle(state: PyTree) -> PyTree:
    """`state` without weak types, which a file cannot hold and which promote differently.

    Applied after every step, so that a resumed run and an uninterrupted one hold the same state.
    """

    def strong(leaf: Any) -> Any:
        weak = isinstance(leaf, jax.Array) and getattr(leaf, "weak_type", False)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if weak else leaf

    return jax.tree.map(strong, state)


def save(directory: Path, step: int, state: PyTree, keep: int = 3) -> None:
    """Writes `state` as checkpoint `step` and deletes all but the last `keep`.

    Raises:
        CheckpointError: a path that could not be read again, or a state with other things than arrays.
    """
    check_path(directory)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    described = [_describe(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    # orbax stores no empty array, and the shape alone says everything about it
    arrays = {str(i): array for i, (_, array) in enumerate(described) if array.size}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays),
        leaves=ocp.args.JsonSave({"step": step, "leaves": [about for about, _ in described]}),
    )
    with _manager(directory, keep=keep) as manager:
        manager.save(step, args=args, force=True)


def steps(directory: Path) -> list[int]:
    """The finished checkpoints in `directory`, oldest first."""
    if not Path(directory).is_dir():
        return []
    with _manager(directory) as manager:
        return sorted(manager.all_steps())


def restore(directory: Path, template: PyTree, step: int | None = None) -> tuple[int, PyTree]:
    """(step, state) of checkpoint `step`, the newest one by default.

    Args:
        directory: where `save` wrote.
        template: a state of the same structure (e.g. `algorithm.init(key)`); its arrays' devices are
            taken over, its values are not read.
        step: which checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds another structure than `template`.
    """
    present = steps(directory)
    if not present:
        raise CheckpointError(f"no checkpoint in {directory}")
    step = present[-1] if step is None else step
    if step not in present:
        raise CheckpointError(f"no checkpoint {step} in {directory}; there are {present}")
    about, arrays = _read(Path(directory), step, [s for s in present if s < step])
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    _check_structure(directory, step, about, [jax.tree_util.keystr(path) for path, _ in leaves], leaves)
    values = [_rebuild(info, array, old) for info, array, (_, old) in zip(about, arrays, leaves, strict=True)]
    return step, jax.tree_util.tree_unflatten(treedef, values)


# ------------------------------------------------------------------------------------- internals


_KINDS = {(True, False): "jax", (False, False): "numpy", (False, True): "numpy scalar"}
_FROM_NUMPY = {"python": np.ndarray.item, "numpy": np.asarray, "numpy scalar": operator.itemgetter(())}


def _manager(directory: Path, keep: int | None = None) -> ocp.CheckpointManager:
    """`keep` None opens for reading: nothing is created, swept or deleted."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,
        read_only=keep is None,
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(Path(directory).resolve(), options=options)


def _describe(path: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray]:
    """({path, kind, impl, dtype, shape, crc}, array) of one leaf."""
    impl = None
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        kind, impl = "key", str(jax.random.key_impl(leaf))
        array = np.asarray(jax.random.key_data(leaf))
    elif isinstance(leaf, jax.Array | np.ndarray | np.generic):
        kind, array = _KINDS[isinstance(leaf, jax.Array), isinstance(leaf, np.generic)], np.asarray(leaf)
    elif isinstance(leaf, bool | int | float):
        kind, array = "python", np.asarray(leaf)
    else:
        raise CheckpointError(
            f"state leaf {path} is a {type(leaf).__name__}; a state holds arrays and numbers"
        )
    about = {"path": path, "kind": kind, "impl": impl, "dtype": str(array.dtype), "shape": list(array.shape)}
    return about | {"crc": _crc(array)}, array


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _read(directory: Path, step: int, older: list[int]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """The leaves' descriptions and their arrays, each compared with its checksum."""
    place = directory / str(step)
    advice = (
        f"remove {place} to go on from iteration {older[-1]}"
        if older
        else "no older one is left: start again"
    )
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), leaves=ocp.args.JsonRestore())
        with _manager(directory) as manager:
            stored = manager.restore(step, args=args)
        about = stored["leaves"]["leaves"]
        if stored["leaves"]["step"] != step:
            raise ValueError(f"it is a copy of checkpoint {stored['leaves']['step']}")
        arrays = [
            np.asarray(stored["state"][str(i)]) if np.prod(info["shape"], dtype=int) else _empty(info)
            for i, info in enumerate(about)
        ]
        bad = [info["path"] for info, a in zip(about, arrays, strict=True) if _crc(a) != info["crc"]]
    except Exception as error:  # whatever a damaged file makes orbax and tensorstore raise
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"checkpoint {place} cannot be read ({reason}); {advice}") from error
    if bad:
        raise CheckpointError(f"checkpoint {place} is damaged (checksum of {bad[0]}); {advice}")
    return about, arrays


def _empty(about: dict[str, Any]) -> np.ndarray:
    return np.zeros(about["shape"], jnp.dtype(about["dtype"]))


def _check_structure(
    directory: Path, step: int, about: list[dict[str, Any]], paths: list[str], leaves: list
) -> None:
    """Raises unless paths, shapes and dtypes are those of the template."""
    stored = [info["path"] for info in about]
    if stored != paths:
        odd = sorted(set(stored) ^ set(paths)) or ["another order"]
        raise CheckpointError(
            f"checkpoint {directory}/{step} holds another state than this version of the code makes "
            f"({len(stored)} leaves, expected {len(paths)}; first difference: {odd[0]}); "
            "use the code that wrote it"
        )
    for info, (_, leaf) in zip(about, leaves, strict=True):
        wanted = _describe(info["path"], leaf)[0]
        if (info["shape"], info["dtype"]) != (wanted["shape"], wanted["dtype"]):
            raise CheckpointError(
                f"checkpoint {directory}/{step}: {info['path']} is {info['dtype']}{info['shape']}, expected "
                f"{wanted['dtype']}{wanted['shape']}; use the settings and the precision that wrote it"
            )


def _rebuild(about: dict[str, Any], array: np.ndarray, old: Any) -> Any:
    """One leaf as it was saved, on the device of the template's leaf."""
    if about["kind"] in _FROM_NUMPY:
        return _FROM_NUMPY[about["kind"]](array)
    value = (
        jax.random.wrap_key_data(jnp.asarray(array), impl=about["impl"])
        if about["impl"]
        else jnp.asarray(array)
    )
    if isinstance(old, jax.Array) and old.committed:
        return jax.device_put(value, old.sharding)
    return value

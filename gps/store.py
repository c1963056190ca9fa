"""Labelled steps on disk: one directory for all episodes, its files mapped into memory when they are read.

Images are what makes a dataset large, and they are kept as they come, as bytes. A store grows by `append`;
what `load` returns is a `Dataset` like any other, and `students.fit` makes the same bits of it as of the same
steps in memory.

    path/index.json          how many steps, and of each field its type and the shape of a step
    path/obs.front.bin, …    a field of all steps, one behind the other

An append writes behind the steps that the index counts, and then replaces the index: a process killed in
between leaves the store as it was. What lies behind the counted steps is overwritten next time.
"""

import contextlib
import fcntl
import json
import operator
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gps.types import Dataset

__all__ = ["append", "count", "create", "load"]

FORMAT = 1
INDEX, LOCK = "index.json", "lock"
NAME = re.compile(r"[\w-]+")


class Field(NamedTuple):
    """What the index says of a field."""

    dtype: str
    shape: list[int]
    """Of one step."""
    key: str | None = None
    """The kind of random number generator whose keys these words are."""

    @property
    def width(self) -> int:
        """Bytes of one step."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class Index(NamedTuple):
    """What `index.json` holds."""

    length: int
    """Steps stored."""
    fields: dict[str, Field]


def create(path: str | Path, example: Dataset) -> None:
    """An empty store.

    Args:
        path: a directory, which must not exist.
        example: one step, such as `gps.labels.example_row`; shapes and types are read. Its observation is an
            array, or a dict of arrays or of such dicts.

    Raises:
        FileExistsError: there is something at `path`.
        ValueError: an observation of another kind, several steps instead of one, numbers that files of NumPy
            cannot hold.
    """
    path = Path(path).absolute()
    if np.ndim(example.weight):
        raise ValueError(f"one step is wanted as the example, came {len(example.weight)}: take one of them")
    fields = {name: _field(leaf) for name, leaf in _leaves(example).items()}
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        advice = "append to it" if (path / INDEX).exists() else "it is no store: remove it"
        raise FileExistsError(f"{path} is there already: {advice}, or choose another path") from None
    for name in fields:
        (path / f"{name}.bin").touch()
    _commit(path, Index(0, fields))
    _sync(path.parent)


def append(path: str | Path, rows: Dataset) -> int:
    """Writes steps [n, …] behind those stored, those of weight 0 left out; returns how many are stored now.

    Floating point numbers are cast to the type stored, as by `gps.dataset.add`; everything else must have it.
    Nothing changes where it raises.

    Raises:
        FileNotFoundError: there is no store.
        BlockingIOError: another process is appending.
        ValueError: steps of other fields, shapes or types than those stored, or a damaged store.
    """
    path = Path(path)
    _read(path)  # a foreign directory gets no lock
    with _locked(path):
        index = _read(path)
        _check_whole(path, index, index.length)
        leaves = _leaves(rows)
        _check_alike(index, leaves)
        weight = np.asarray(rows.weight).astype(index.fields["weight"].dtype)
        if not np.all(np.isfinite(weight) & (weight >= 0)):
            raise ValueError("weights must be finite and at least 0")
        kept = np.flatnonzero(weight > 0)
        for name, leaf in leaves.items():
            field = index.fields[name]
            words = jax.random.key_data(leaf) if field.key else leaf
            new = np.ascontiguousarray(np.asarray(words)[kept].astype(field.dtype))
            with (path / f"{name}.bin").open("r+b") as file:
                file.seek(index.length * field.width)
                file.truncate()
                file.write(new.data if new.size else b"")
                file.flush()
                os.fsync(file.fileno())
        total = index.length + len(kept)
        _commit(path, index._replace(length=total))
    return total


def count(path: str | Path) -> int:
    """How many steps are stored.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it is of another kind.
    """
    return _read(Path(path)).length


def load(path: str | Path, rows: int | None = None) -> Dataset:
    """The steps stored, or the first `rows` of them, as a full ring; nothing is read before it is used.

    Where JAX computes on the CPU the arrays are the mapped files themselves: the system brings pages in as
    steps are drawn, and drops them under pressure. Types that JAX does not hold (float64 without x64) and
    other devices cost a copy. The mapping is read-only: a program that is given an array to keep (donated)
    copies it. An array outlives later appends; a file that is cut short under it ends the process (SIGBUS).

    Raises:
        FileNotFoundError: there is no store, or a file of it is missing.
        ValueError: a file is shorter than the index says, or fewer than `rows` are stored.
    """
    path = Path(path)
    index = _read(path)
    total = index.length if rows is None else rows
    if not 0 <= total <= index.length:
        raise ValueError(f"{path} has {index.length} steps, asked for the first {rows}")
    _check_whole(path, index, total)
    leaves = {name: _mapped(path / f"{name}.bin", field, total) for name, field in index.fields.items()}
    return _tree(leaves)._replace(next_slot=jnp.int32(0))


# ------------------------------------------------------------------------------------- internals


def _mapped(file: Path, field: Field, rows: int) -> jax.Array:
    shape = (rows, *field.shape)
    empty = 0 in shape
    held = np.zeros(shape, field.dtype) if empty else np.memmap(file, field.dtype, "r", shape=shape)
    array = jax.device_put(held)  # jnp.asarray would copy
    return jax.random.wrap_key_data(array, impl=field.key) if field.key else array


def _tree(leaves: dict[str, Any]) -> Dataset:
    """Fields by their paths as a dataset again, `next_slot` left out."""
    tree: dict[str, Any] = dict.fromkeys(Dataset._fields, ())
    for name, leaf in leaves.items():
        *outer, last = name.split(".")
        branch = tree
        for part in outer:
            branch[part] = branch.get(part) or {}
            branch = branch[part]
        branch[last] = leaf
    return Dataset(**tree)


def _leaves(rows: Dataset) -> dict[str, Any]:
    """Every field by its path, `next_slot` left out."""
    rows, found = rows._replace(next_slot=()), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        names = [str(getattr(part, "name", getattr(part, "key", ""))) for part in path]
        if all(NAME.fullmatch(name) for name in names):
            found[".".join(names)] = leaf
    if jax.tree.structure(_tree(found)) != jax.tree.structure(rows):
        raise ValueError(
            "a store holds observations that are arrays or dicts of arrays, names of letters, digits, "
            f"_ and -; got {jax.tree.map(jnp.shape, rows.obs)}"
        )
    return found


def _field(leaf: Any) -> Field:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = jax.eval_shape(jax.random.key_data, leaf)
        return Field(str(words.dtype), list(words.shape), str(jax.random.key_impl(leaf)))
    if np.dtype(leaf.dtype).kind not in "biuf":
        raise ValueError(f"{leaf.dtype} is no type that a file of NumPy holds: convert it")
    return Field(str(leaf.dtype), list(leaf.shape))


def _check_alike(index: Index, leaves: PyTree) -> None:
    """`leaves` are steps of the fields stored."""
    missing, more = sorted(index.fields.keys() - leaves), sorted(leaves.keys() - index.fields)
    if missing or more:
        raise ValueError(
            f"these steps have other fields than those stored: {missing or 'none'} are missing, "
            f"{more or 'none'} are not stored"
        )
    length = leaves["weight"].shape[0] if leaves["weight"].ndim else "n"
    for name, leaf in leaves.items():
        stored, new = index.fields[name], _field(leaf)
        if new.shape != [length, *stored.shape]:
            raise ValueError(f"{name}: shape {(length, *stored.shape)} expected, got {tuple(new.shape)}")
        floating = all(jnp.issubdtype(np.dtype(field.dtype), jnp.floating) for field in (stored, new))
        if new.key != stored.key or (new.dtype != stored.dtype and not floating):
            raise ValueError(
                f"{name}: {stored.key or stored.dtype} is stored, got {new.key or new.dtype}; convert it"
            )


def _check_whole(path: Path, index: Index, rows: int) -> None:
    """Every file is there and has `rows` steps."""
    sizes = {}
    for name in index.fields:
        file = path / f"{name}.bin"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: the store is damaged, bring the file back")
        sizes[name] = file.stat().st_size
    whole = min(
        [index.length, *(sizes[name] // field.width for name, field in index.fields.items() if field.width)]
    )
    for name, field in index.fields.items():
        if sizes[name] < rows * field.width:
            raise ValueError(
                f"{path / name}.bin is cut short: {rows * field.width} bytes expected, got {sizes[name]}; "
                f"the first {whole} of {index.length} steps are whole, load(path, rows={whole}) has them"
            )


def _read(path: Path) -> Index:
    file = path / INDEX
    if not file.exists():
        raise FileNotFoundError(
            f"{path} is no store of steps: there is no {INDEX}; gps.store.create makes one"
        )
    try:
        held = json.loads(file.read_text())
        version = held["format"]
        if version == FORMAT:
            index = Index(held["length"], {name: Field(**field) for name, field in held["fields"].items()})
            _tree(index.fields)
            fields = index.fields.values()
            counts = [index.length, *(n for field in fields for n in field.shape), *(f.width for f in fields)]
            named = all(NAME.fullmatch(part) for name in index.fields for part in name.split("."))
            if not (named and "weight" in index.fields and all(operator.index(n) >= 0 for n in counts)):
                raise ValueError(f"got {index}")
            return index
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} is not the index of a store of steps: bring it back, or choose another path"
        ) from error
    raise ValueError(f"{file} has format {version}, this version reads {FORMAT}: update the package")


def _commit(path: Path, index: Index) -> None:
    fields = {name: field._asdict() for name, field in index.fields.items()}
    fresh = path / f"{INDEX}.new"
    with fresh.open("w") as file:
        json.dump({"format": FORMAT, "length": index.length, "fields": fields}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path / INDEX)
    _sync(path)


def _sync(path: Path) -> None:
    """The names in a folder, on disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process appends at a time; the lock ends with the process."""
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is appending to {path}: wait until it is done") from None
        yield

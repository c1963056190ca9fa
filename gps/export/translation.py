"""JAX's primitives in the words of `gps.deploy.OPERATIONS`."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from gps.deploy import OPERATIONS

__all__ = ["UnknownPrimitiveError", "translate"]


class UnknownPrimitiveError(ValueError):
    """A function computes what NumPy alone is not taught to compute."""


class Call(NamedTuple):
    """One primitive applied to arguments."""

    eqn: JaxprEqn
    sources: Sequence[int]
    """Slots of the arguments."""
    values: Sequence[np.ndarray | None]
    """The arguments that are constant."""
    emit: Callable[..., int]
    """(name, sources, **settings) → slot of the result."""
    constant: Callable[[np.ndarray], int]
    """value → slot."""

    def shape(self, i: int) -> tuple[int, ...]:
        """Of argument i."""
        return tuple(_kind(self.eqn.invars[i]).shape)

    def dtype(self, i: int) -> np.dtype:
        """Of argument i."""
        return np.dtype(_kind(self.eqn.invars[i]).dtype)

    def result(self) -> Any:
        """Shape and dtype of the (first) result."""
        return _kind(self.eqn.outvars[0])

    def refuse(self, why: str = "") -> UnknownPrimitiveError:
        """The error that names it."""
        name = self.eqn.primitive.name
        return UnknownPrimitiveError(
            f"it computes the primitive {name!r}{why}, which gps.deploy cannot do with NumPy alone: write "
            "the policy without it, or export it with --format jax"
        )


def translate(
    eqn: JaxprEqn,
    sources: Sequence[int],
    values: Sequence[np.ndarray | None],
    emit: Callable[..., int],
    constant: Callable[[np.ndarray], int],
) -> list[int]:
    """The slots of the results of one primitive.

    Args:
        eqn: the primitive, its settings, the shapes.
        sources: slots of the arguments.
        values: the arguments where they are constant, else None.
        emit: (name, sources, **settings) → slot, adds an operation.
        constant: value → slot.

    Raises:
        UnknownPrimitiveError: there is no operation for it.
    """
    call, name = Call(eqn, sources, values, emit, constant), eqn.primitive.name
    for atom in (*eqn.invars, *eqn.outvars):
        dtype = _kind(atom).dtype
        if jnp.issubdtype(dtype, jax.dtypes.extended) or np.dtype(dtype).kind not in "biuf":
            raise call.refuse(f" of dtype {dtype}")
    if name in TRANSLATIONS:
        made = TRANSLATIONS[name](call)
        return list(made) if isinstance(made, list) else [made]
    if name in SAME:
        return [emit(name, sources)]
    raise call.refuse()


# ------------------------------------------------------------------------------------ primitives


def _kind(atom: Any) -> Any:
    """Shape and dtype of an argument or a result."""
    return atom.aval


def _reshape(call: Call) -> int:
    shape = call.result().shape
    return call.sources[0] if call.shape(0) == shape else call.emit("reshape", call.sources[:1], shape=shape)


def _broadcast(call: Call) -> int:
    shape, slot = call.result().shape, call.sources[0]
    thin = [1] * len(shape)
    for size, axis in zip(call.shape(0), call.eqn.params["broadcast_dimensions"], strict=True):
        thin[axis] = size
    if call.shape(0) != tuple(thin):
        slot = call.emit("reshape", [slot], shape=tuple(thin))
    return slot if tuple(thin) == shape else call.emit("broadcast", [slot], shape=shape)


def _cast(call: Call) -> int:
    dtype = np.dtype(call.result().dtype)
    same = call.dtype(0) == dtype
    return call.sources[0] if same else call.emit("cast", call.sources, dtype=dtype.name)


def _divide(call: Call) -> int:
    if np.dtype(call.result().dtype).kind != "f":
        raise call.refuse(" of whole numbers")
    return call.emit("div", call.sources)


def _select(call: Call) -> int:
    if len(call.sources) != 3 or call.dtype(0).kind != "b":
        raise call.refuse(" between more than two cases")
    return call.emit("select", call.sources)


def _concatenate(call: Call) -> int:
    return call.emit("concatenate", call.sources, axis=int(call.eqn.params["dimension"]))


def _stack(call: Call) -> int:
    axis, shape = int(call.eqn.params["axis"]), list(call.shape(0))
    shape.insert(axis, 1)
    parts = [call.emit("reshape", [source], shape=tuple(shape)) for source in call.sources]
    return call.emit("concatenate", parts, axis=axis)


def _slice(call: Call) -> int:
    params, ones = call.eqn.params, (1,) * len(call.shape(0))
    bounds = (params["start_indices"], params["limit_indices"], params["strides"] or ones)
    start, stop, step = (tuple(map(int, side)) for side in bounds)
    return call.emit("slice", call.sources, start=start, stop=stop, step=step)


def _split(call: Call) -> list[int]:
    axis, shape, found, begin = call.eqn.params["axis"], call.shape(0), [], 0
    for size in map(int, call.eqn.params["sizes"]):
        start, stop = [0] * len(shape), list(shape)
        start[axis], stop[axis] = begin, begin + size
        step = (1,) * len(shape)
        found.append(call.emit("slice", call.sources, start=tuple(start), stop=tuple(stop), step=step))
        begin += size
    return found


def _unstack(call: Call) -> list[int]:
    """Arrays taken apart: jax 0.11 has a primitive for it."""
    shape, axis = call.shape(0), int(call.eqn.params["axis"])
    rest = tuple(size for i, size in enumerate(shape) if i != axis)
    found = []
    for begin in range(shape[axis]):
        start, stop = [0] * len(shape), list(shape)
        start[axis], stop[axis] = begin, begin + 1
        step = (1,) * len(shape)
        one = call.emit("slice", call.sources, start=tuple(start), stop=tuple(stop), step=step)
        found.append(call.emit("reshape", [one], shape=rest))
    return found


def _axes(name: str, setting: str) -> Callable[[Call], int]:
    """The primitive with this parameter is the operation `name` along these axes."""
    return lambda call: call.emit(name, call.sources, axes=tuple(map(int, call.eqn.params[setting])))


def _extreme(call: Call) -> int:
    (axis,), dtype = call.eqn.params["axes"], np.dtype(call.eqn.params["index_dtype"]).name
    return call.emit(call.eqn.primitive.name, call.sources, axis=int(axis), dtype=dtype)


def _bits(call: Call) -> int:
    if call.dtype(0).itemsize != call.result().dtype.itemsize:
        raise call.refuse(" into numbers of another size")
    return call.emit("view", call.sources, dtype=np.dtype(call.result().dtype).name)


def _shift(call: Call) -> int:
    if call.dtype(0).kind != "u":
        raise call.refuse(" of signed numbers")
    return call.emit("shift_right", call.sources)


def _cumsum(call: Call) -> int:
    axis, backwards, slot = int(call.eqn.params["axis"]), call.eqn.params["reverse"], call.sources[0]
    slot = call.emit("flip", [slot], axes=(axis,)) if backwards else slot
    slot = call.emit("cumsum", [slot], axis=axis)
    return call.emit("flip", [slot], axes=(axis,)) if backwards else slot


def _round(call: Call) -> int:
    if int(call.eqn.params["rounding_method"]) != 1:
        raise call.refuse(" away from zero")
    return call.emit("round", call.sources)


def _dynamic_slice(call: Call) -> int:
    return call.emit("dynamic_slice", call.sources, sizes=tuple(map(int, call.eqn.params["slice_sizes"])))


def _integer_pow(call: Call) -> int:
    return call.emit("integer_pow", call.sources, y=int(call.eqn.params["y"]))


def _dot(call: Call) -> int:
    """Any contraction as a product of (stacked) matrices; a vector and a matrix as they are."""
    (left_sum, right_sum), (left_batch, right_batch) = call.eqn.params["dimension_numbers"]
    a, b = call.shape(0), call.shape(1)
    if call.dtype(0) != call.result().dtype:
        raise call.refuse(" into another dtype")
    if len(a) < 3 and len(b) == 2 and not left_batch and (*left_sum, *right_sum) == (len(a) - 1, 0):
        return call.emit("matmul", call.sources)
    left_free = [i for i in range(len(a)) if i not in (*left_sum, *left_batch)]
    right_free = [i for i in range(len(b)) if i not in (*right_sum, *right_batch)]
    batch = tuple(a[int(i)] for i in left_batch)
    inner = _count(a, left_sum)
    rows, columns = _count(a, left_free), _count(b, right_free)
    left = _arranged(call, 0, (*left_batch, *left_free, *left_sum), (*batch, rows, inner))
    right = _arranged(call, 1, (*right_batch, *right_sum, *right_free), (*batch, inner, columns))
    slot = call.emit("matmul", [left, right])
    return call.emit("reshape", [slot], shape=call.result().shape)


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[i] for i in axes)


def _arranged(call: Call, i: int, axes: Sequence[int], shape: tuple[int, ...]) -> int:
    """Argument i with its axes in this order, then in this shape."""
    slot = call.sources[i]
    if tuple(axes) != tuple(range(len(axes))):
        slot = call.emit("transpose", [slot], axes=tuple(map(int, axes)))
    return call.emit("reshape", [slot], shape=shape)


def _moves(call: Call) -> int:
    """A primitive that only moves entries about: which one comes where is found by moving their numbers."""
    if any(value is None for value in call.values[1:]):
        raise call.refuse(" with places that are not constant")
    numbers = np.arange(math.prod(call.shape(0)), dtype=np.int32).reshape(call.shape(0))
    params = dict(call.eqn.params)
    rest = [jnp.asarray(value) for value in call.values[1:]]
    source = call.sources[0]
    if call.eqn.primitive.name == "pad":
        flat = call.emit("reshape", [source], shape=(numbers.size,))
        filling = call.emit("reshape", call.sources[1:], shape=(1,))
        source, rest = call.emit("concatenate", [flat, filling], axis=0), [jnp.int32(numbers.size)]
    elif "fill_value" in params:
        params["fill_value"] = -1
    places = np.asarray(call.eqn.primitive.bind(jnp.asarray(numbers), *rest, **params))
    if np.any(places < 0):
        raise call.refuse(" with places outside the array")
    return call.emit("take", [source, call.constant(places)])


SAME = (
    "abs", "acos", "add", "and", "asin", "atan", "atan2", "ceil", "clamp", "cos", "cosh",
    "dynamic_update_slice", "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "is_finite",
    "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rem",
    "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
)  # fmt: skip
"""Primitives that are operations of the same name, without settings."""

TRANSLATIONS: dict[str, Callable[[Call], int | list[int]]] = {
    **{name: _axes(name, "axes") for name in OPERATIONS if name.startswith("reduce_")},
    **dict.fromkeys(("argmax", "argmin"), _extreme),
    **dict.fromkeys(("expand_dims", "reshape", "squeeze"), _reshape),
    **dict.fromkeys(("gather", "pad"), _moves),
    "bitcast_convert_type": _bits,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _cast,
    "cumsum": _cumsum,
    "div": _divide,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "integer_pow": _integer_pow,
    "rev": _axes("flip", "dimensions"),
    "round": _round,
    "select_n": _select,
    "shift_right_logical": _shift,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "transpose": _axes("transpose", "permutation"),
    "unstack": _unstack,
}

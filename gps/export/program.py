"""A function of arrays as a list of operations that NumPy can run (`gps.deploy.OPERATIONS`).

JAX traces the function; calls are inlined, what nothing depends on is dropped, and what depends on constants
alone is computed once and for all. What remains is translated, primitive by primitive.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from gps.deploy import OPERATIONS
from gps.export.translation import UnknownPrimitiveError, translate
from gps.placement import cpu_jit

__all__ = ["Program", "UnknownPrimitiveError", "trace"]

INLINED = {
    "checkpoint": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "jit": "jaxpr", "pjit": "jaxpr",
    "remat": "jaxpr", "remat2": "jaxpr",
}  # fmt: skip
"""Primitives that call a program, and which of their parameters holds it."""

IDENTITIES = ("copy", "copy_p", "optimization_barrier", "stop_gradient")


class Program(NamedTuple):
    """Values stand in slots: first the inputs, then the constants, then one result for every operation."""

    constants: tuple[np.ndarray, ...]
    operations: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...]
    """(name in `OPERATIONS`, slots of the arguments, settings)."""
    outputs: tuple[int, ...]


class _Equation(NamedTuple):
    eqn: JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def trace(function: Callable[..., Sequence[jax.Array]], inputs: Sequence[Any]) -> Program:
    """The program of `function(*inputs)`, for inputs of these shapes and dtypes.

    Args:
        function: of arrays, returns a sequence of arrays; what it closes over becomes constant.
        inputs: examples, or `jax.ShapeDtypeStruct`s.

    Raises:
        UnknownPrimitiveError: it computes what `gps.deploy` cannot.
    """
    closed = jax.make_jaxpr(function)(*inputs)
    equations, constants, outputs = _flatten(closed)
    remaining, values = _fold(_live(equations, outputs), constants, outputs)
    return _lower(remaining, values, tuple(range(len(inputs))), outputs)


# ------------------------------------------------------------------------------------- internals


def _flatten(closed: ClosedJaxpr) -> tuple[list[_Equation], dict[int, Any], list[int]]:
    """(equations without calls, slot → constant, slots of the outputs); the inputs have slots 0, 1, …."""
    fresh = itertools.count()
    constants: dict[int, Any] = {}
    equations: list[_Equation] = []

    def constant(value: Any) -> int:
        slot = next(fresh)
        constants[slot] = value
        return slot

    def inline(jaxpr: Any, sources: Sequence[int]) -> list[int]:
        slots = dict(zip([*jaxpr.constvars, *jaxpr.invars], sources, strict=True))

        def slot(atom: Any) -> int:
            literal: Any = atom if isinstance(atom, Literal) else None
            return slots[atom] if literal is None else constant(np.asarray(literal.val, literal.aval.dtype))

        for eqn in jaxpr.eqns:
            given = [slot(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in INLINED:
                inner = eqn.params[INLINED[name]]
                consts = [constant(value) for value in getattr(inner, "consts", ())]
                found = inline(getattr(inner, "jaxpr", inner), [*consts, *given])
            elif name in IDENTITIES:
                found = given
            else:
                found = [next(fresh) for _ in eqn.outvars]
                equations.append(_Equation(eqn, tuple(given), tuple(found)))
            slots.update(zip(eqn.outvars, found, strict=True))
        return [slot(atom) for atom in jaxpr.outvars]

    inputs = [next(fresh) for _ in closed.jaxpr.invars]
    outputs = inline(closed.jaxpr, [*map(constant, closed.consts), *inputs])
    return equations, constants, outputs


def _live(equations: Sequence[_Equation], outputs: Sequence[int]) -> list[_Equation]:
    """Those that an output depends on."""
    needed, kept = set(outputs), []
    for equation in reversed(equations):
        if needed & set(equation.outputs):
            needed |= set(equation.inputs)
            kept.append(equation)
    return kept[::-1]


def _fold(
    equations: Sequence[_Equation], constants: dict[int, Any], outputs: Sequence[int]
) -> tuple[list[_Equation], dict[int, np.ndarray]]:
    """(equations that depend on an input, slot → value of all constants that these or the outputs need)."""
    known, folded, remaining = set(constants), [], []
    for equation in equations:
        if known.issuperset(equation.inputs):
            known |= set(equation.outputs)
            folded.append(equation)
        else:
            remaining.append(equation)
    wanted = known & {*outputs, *(slot for equation in remaining for slot in equation.inputs)}

    def compute(constants: dict[int, Any]) -> dict[int, jax.Array]:
        values = dict(constants)
        for eqn, inputs, found in folded:
            result = eqn.primitive.bind(*(values[slot] for slot in inputs), **eqn.params)
            values.update(zip(found, result if eqn.primitive.multiple_results else [result], strict=True))
        return {slot: values[slot] for slot in wanted}

    return remaining, {slot: np.asarray(value) for slot, value in cpu_jit(compute)(constants).items()}


def _lower(
    equations: Sequence[_Equation],
    constants: dict[int, np.ndarray],
    inputs: tuple[int, ...],
    outputs: Sequence[int],
) -> Program:
    """Translates; a step whose arguments are constant is taken at once."""
    names = itertools.count(max([-1, *inputs, *constants, *(s for e in equations for s in e.outputs)]) + 1)
    values, operations, renamed = dict(constants), [], {}

    def emit(name: str, sources: Sequence[int], **settings: Any) -> int:
        slot = next(names)
        if all(source in values for source in sources):
            values[slot] = np.asarray(OPERATIONS[name](**settings)(*(values[source] for source in sources)))
        else:
            operations.append((slot, name, tuple(sources), settings))
        return slot

    def constant(value: np.ndarray) -> int:
        slot = next(names)
        values[slot] = value
        return slot

    for eqn, sources, found in equations:
        given = [renamed.get(source, source) for source in sources]
        made = translate(eqn, given, [values.get(source) for source in given], emit, constant)
        renamed.update(zip(found, made, strict=True))
    last = [renamed.get(slot, slot) for slot in outputs]
    used = {*last, *(source for _, _, sources, _ in operations for source in sources)}
    kept = [slot for slot in values if slot in used]
    order = {slot: i for i, slot in enumerate([*inputs, *kept, *(slot for slot, *_ in operations)])}
    return Program(
        tuple(values[slot] for slot in kept),
        tuple(
            (name, tuple(order[s] for s in sources), settings) for _, name, sources, settings in operations
        ),
        tuple(order[slot] for slot in last),
    )

"""Runs an exported student with NumPy alone: `gps export RUN` writes the file, a robot's computer reads it.

    policy = load("policy.npz")
    policy.reset()                  # at the start of every episode
    u = policy(obs)                 # at every control step

Neither this module nor its package imports anything but NumPy and the standard library: where JAX is not
installed, copy this one file. A policy file is a list of array operations (`OPERATIONS`) and the trained
numbers; nothing in it is unpickled or executed. Observations that are not finite are passed through, as the
student in JAX does: looking for them would cost time at every step. The control may then be NaN, and of a
policy that remembers all that follow, until `reset()`.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FORMAT", "OPERATIONS", "Leaf", "Policy", "PolicyError", "load"]

FORMAT = "guided-policy-search policy, version 1"

Carry = tuple[np.ndarray, ...]


class PolicyError(ValueError):
    """A file that holds no policy, or an observation that is not what the policy was trained on."""


class Leaf(NamedTuple):
    """One array of an observation."""

    path: tuple[str | int, ...]
    """Keys that lead to it through nested dicts, sequences and NamedTuples; empty where it stands alone."""
    shape: tuple[int, ...]
    dtype: np.dtype

    def name(self) -> str:
        """How an error calls it."""
        return "observation" + "".join(f"[{key!r}]" for key in self.path)


class Policy:
    """A student at the controls of one episode at a time; several at once are several `load`s, or `step`s."""

    def __init__(
        self,
        step: Callable[[Any, Carry], tuple[np.ndarray, Carry]],
        initial_carry: Carry,
        observation: tuple[Leaf, ...],
        limits: tuple[np.ndarray, np.ndarray],
        about: dict[str, Any],
    ) -> None:
        self.step = step
        """(obs, carry) → (u [nu], carry), a pure function."""
        self.initial_carry = initial_carry
        """What it remembers at the start of an episode; the empty tuple without memory."""
        self.observation = observation
        """The arrays that it sees."""
        self.limits = limits
        """(low, high) [nu] of the controls; ±inf where there is none."""
        self.about = about
        """Where it comes from: env, algorithm, iteration, versions."""
        self._carry = initial_carry

    def reset(self) -> None:
        """Begins an episode: forgets the last one."""
        self._carry = self.initial_carry

    def __call__(self, obs: Any) -> np.ndarray:
        """The control [nu]: the mode of the student's distribution, inside the limits.

        Args:
            obs: as the student sees it: an array, or nested dicts of them. Floating point numbers may have
                any precision; other arrays, images above all, need the dtype that was seen in training.

        Raises:
            PolicyError: an array that is missing, too many, or of another shape or dtype.
        """
        u, self._carry = self.step(obs, self._carry)
        return u


def load(path: str | Path) -> Policy:
    """The policy in the file `path`, at the start of an episode.

    Raises:
        PolicyError: there is no such file, or it is no whole policy.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise PolicyError(f"no file {path}: `gps export RUN` writes one") from None
    except Exception as error:  # whatever a foreign or shortened file makes NumPy and zipfile raise
        raise PolicyError(
            f"{path} is no policy: expected an .npz archive by `gps export`, found what cannot be read "
            f"({type(error).__name__}: {error}); export it, or copy it, again"
        ) from error
    if "program" not in arrays:
        raise PolicyError(
            f"{path} is no policy: expected an archive with 'program', found "
            f"{', '.join(sorted(arrays)[:5]) or 'nothing'}"
        )
    try:
        program = json.loads(arrays["program"].tobytes())
        if program["format"] != FORMAT:
            raise PolicyError(f"{path}: expected {FORMAT!r}, found {program['format']!r}; export it again")
        return _policy(program, arrays)
    except (KeyError, TypeError, IndexError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolicyError(
            f"{path} is no policy: its program is damaged ({error!r}); export it again"
        ) from error


# ------------------------------------------------------------------------------------- internals


def _policy(program: dict[str, Any], arrays: dict[str, np.ndarray]) -> Policy:
    leaves = tuple(Leaf(tuple(p), tuple(s), np.dtype(d)) for p, s, d in program["observation"])
    initial = tuple(arrays[f"carry{i}"] for i in range(program["carry"]))
    run = _compiled(program, arrays, len(leaves) + len(initial))
    read = _reader(leaves, copy=bool(initial))

    def step(obs: Any, carry: Carry) -> tuple[np.ndarray, Carry]:
        u, *after = run([*read(obs), *carry])
        return np.array(u), tuple(after)

    return Policy(step, initial, leaves, (arrays["low"], arrays["high"]), program["about"])


def _compiled(
    program: dict[str, Any], arrays: dict[str, np.ndarray], inputs: int
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """(inputs) → outputs. Values stand in slots: first the inputs, then constants, then results in order."""
    constants = [arrays[f"constant{i}"] for i in range(program["constants"])]
    steps = []
    for name, sources, settings in program["operations"]:
        if name not in OPERATIONS:
            raise PolicyError(
                f"operation {name!r} is unknown: use the gps.deploy of the version that exported it"
            )
        steps.append((OPERATIONS[name](**settings), tuple(sources)))
    outputs = tuple(program["outputs"])
    if any(i >= inputs + len(constants) + len(steps) for i in outputs):
        raise IndexError("an output that nothing computes")

    def run(values: list[np.ndarray]) -> list[np.ndarray]:
        values += constants
        add = values.append
        with np.errstate(all="ignore"):
            for function, sources in steps:
                add(function(*[values[i] for i in sources]))
        return [values[i] for i in outputs]

    return run


def _reader(leaves: tuple[Leaf, ...], copy: bool) -> Callable[[Any], list[np.ndarray]]:
    """(obs) → its arrays. A policy that remembers copies them: the caller may use the same buffer again."""
    plan = tuple((leaf, np.issubdtype(leaf.dtype, np.floating)) for leaf in leaves)
    sizes: dict[tuple[str | int, ...], set[str | int]] = {}
    for leaf in leaves:
        for i, key in enumerate(leaf.path):
            sizes.setdefault(leaf.path[:i], set()).add(key)
    nodes = tuple(sizes.items())

    def read(obs: Any) -> list[np.ndarray]:
        found = []
        for leaf, floating in plan:
            array = np.asarray(_follow(obs, leaf.path))
            if array.dtype != leaf.dtype and not (floating and array.dtype.kind == "f"):
                raise PolicyError(
                    f"{leaf.name()} must be of dtype {leaf.dtype}, came {array.dtype}: "
                    "show the policy what the student was shown"
                )
            if array.shape != leaf.shape:
                raise PolicyError(
                    f"{leaf.name()} must have shape {leaf.shape}, came {array.shape}: "
                    "one observation, no batch"
                )
            found.append(np.array(array, leaf.dtype) if copy else array.astype(leaf.dtype, copy=False))
        for path, keys in nodes:
            node = _follow(obs, path)
            if isinstance(node, dict | list | tuple) and len(node) != len(keys):
                odd = (
                    sorted(map(repr, set(node) - keys))
                    if isinstance(node, dict)
                    else [f"{len(node)} entries"]
                )
                raise PolicyError(
                    f"{Leaf(path, (), np.dtype(float)).name()} has {', '.join(odd)} beside what is expected: "
                    f"{', '.join(sorted(map(repr, keys)))}; leave out what the student did not see"
                )
        return found

    return read


def _follow(obs: Any, path: Sequence[str | int]) -> Any:
    """The entry of an observation that `path` leads to."""
    for i, key in enumerate(path):
        try:
            obs = obs[key] if isinstance(key, int) or isinstance(obs, dict) else getattr(obs, key)
        except (KeyError, IndexError, TypeError, AttributeError):
            has = (
                f"a dict of {sorted(map(repr, obs))}" if isinstance(obs, dict) else f"a {type(obs).__name__}"
            )
            raise PolicyError(
                f"{Leaf(tuple(path[: i + 1]), (), np.dtype(float)).name()} is missing, came {has}"
            ) from None
    return obs


# ------------------------------------------------------------------------------------ operations


def _simple(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """An operation without settings."""
    return lambda: function


def _reduce(function: Callable[..., Any]) -> Callable[[Sequence[int]], Callable[[Any], Any]]:
    return lambda axes: lambda a: function(a, axis=tuple(axes))


def _arg(function: Callable[..., Any]) -> Callable[[int, str], Callable[[Any], Any]]:
    return lambda axis, dtype: lambda a: function(a, axis=axis).astype(dtype)


def _slice(start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> Callable[[Any], Any]:
    where = tuple(slice(*bounds) for bounds in zip(start, stop, step, strict=True))
    return lambda a: a[where]


def _window(a: Any, starts: Sequence[Any], sizes: Sequence[int]) -> tuple[slice, ...]:
    """A block of `sizes` from `starts`, moved inside where it would reach beyond the edge."""
    firsts = [min(max(int(i), 0), n - m) for i, n, m in zip(starts, a.shape, sizes, strict=True)]
    return tuple(slice(i, i + m) for i, m in zip(firsts, sizes, strict=True))


def _dynamic_slice(sizes: Sequence[int]) -> Callable[..., Any]:
    return lambda a, *starts: a[_window(a, starts, sizes)]


def _update(a: Any, part: Any, *starts: Any) -> Any:
    changed = np.array(a)
    changed[_window(a, starts, part.shape)] = part
    return changed


def _erf(a: Any) -> Any:
    return np.array([math.erf(v) for v in np.ravel(a).tolist()], a.dtype).reshape(np.shape(a))


OPERATIONS: dict[str, Callable[..., Callable[..., Any]]] = {
    **{
        name: _simple(getattr(np, name))
        for name in (
            "abs", "ceil", "cos", "cosh", "exp", "exp2", "expm1", "floor", "log", "log1p", "matmul", "pow",
            "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
        )
    },
    **{
        name: _simple(function)
        for name, function in {
            "acos": np.arccos, "add": np.add, "and": np.bitwise_and, "asin": np.arcsin, "atan": np.arctan,
            "atan2": np.arctan2, "clamp": lambda low, a, high: np.minimum(np.maximum(a, low), high),
            "div": np.divide, "dynamic_update_slice": _update, "eq": np.equal, "erf": _erf,
            "ge": np.greater_equal, "gt": np.greater, "is_finite": np.isfinite, "le": np.less_equal,
            "logistic": lambda a: 1 / (1 + np.exp(-a)), "lt": np.less, "max": np.maximum, "min": np.minimum,
            "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "not": np.invert,
            "or": np.bitwise_or, "rem": np.fmod, "round": np.rint, "rsqrt": lambda a: 1 / np.sqrt(a),
            "select": lambda which, no, yes: np.where(which, yes, no), "shift_right": np.right_shift,
            "sub": np.subtract, "xor": np.bitwise_xor,
        }.items()
    },
    "argmax": _arg(np.argmax),
    "argmin": _arg(np.argmin),
    "broadcast": lambda shape: lambda a: np.broadcast_to(a, shape),
    "cast": lambda dtype: lambda a: a.astype(dtype),
    "view": lambda dtype: lambda a: np.ascontiguousarray(a).view(dtype),
    "concatenate": lambda axis: lambda *parts: np.concatenate(parts, axis),
    "cumsum": lambda axis: lambda a: np.cumsum(a, axis, dtype=a.dtype),
    "dynamic_slice": _dynamic_slice,
    "flip": lambda axes: lambda a: np.flip(a, tuple(axes)),
    "integer_pow": lambda y: lambda a: a**y,
    "reduce_and": _reduce(np.all),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_or": _reduce(np.any),
    "reduce_prod": _reduce(lambda a, axis: np.prod(a, axis, dtype=a.dtype)),
    "reduce_sum": _reduce(lambda a, axis: np.sum(a, axis, dtype=a.dtype)),
    "reshape": lambda shape: lambda a: a.reshape(shape),
    "slice": _slice,
    "take": lambda: lambda a, places: a.reshape(-1)[places],
    "transpose": lambda axes: lambda a: a.transpose(axes),
}  # fmt: skip
"""Name → (settings) → function of arrays. What JAX calls otherwise, `gps.export.translation` translates."""

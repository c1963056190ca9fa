"""Flags generated from factories' signatures, parsed by tyro; every mistake is one line with a suggestion."""

import contextlib
import dataclasses
import functools
import inspect
import io
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import tyro

from gps.cli.registry import UsageError, suggest

__all__ = ["grouped", "options_type", "parse", "peek", "values"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
PLAIN = (bool, int, float, str, type(None))


def options_type(
    factory: Callable[..., Any], skip: Collection[str] = (), defaults: dict[str, Any] | None = None
) -> type:
    """A dataclass with a field for every keyword argument of `factory` that a command line can express.

    Args:
        factory: its defaults become the flags' defaults, its docstring's `Args` their help.
        skip: arguments that the program supplies.
        defaults: take the place of the factory's own.

    Raises:
        UsageError: `defaults` names an argument that there is not.
    """
    defaults = defaults or {}
    base = factory.func if isinstance(factory, functools.partial) else factory
    hints = typing.get_type_hints(base)
    fields = []
    for name, parameter in inspect.signature(factory).parameters.items():
        default = defaults.get(name, parameter.default)
        hint = hints.get(name, Any)
        if default is inspect.Parameter.empty and name not in skip and parameter.kind in _NAMED:
            raise UsageError(
                f"{base.__name__} needs a value for {name!r}, which no option can give: default it"
            )
        if name in skip or default is inspect.Parameter.empty or not expressible(hint):
            continue
        default = tuple(default) if isinstance(default, list) else default
        fields.append((name, hint, dataclasses.field(default=default)))
    known = [name for name, _, _ in fields]
    for name in defaults:
        if name not in known:
            raise UsageError(f"{base.__name__} has no option {name!r}{suggest(name, known)}")
    made = dataclasses.make_dataclass(f"{base.__name__}_options", fields)
    made.__doc__ = _short(inspect.getdoc(base) or "")
    return made


def _short(doc: str) -> str:
    """The first line of a docstring and its `Args`: what a help text has room for."""
    head, found, rest = doc.partition("\nArgs:\n")
    return head.partition("\n")[0] + ("\n" + found + rest if found else "")


def expressible(hint: Any) -> bool:
    """Whether a command line and JSON can both hold values of this type."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, tuple, list):
        return all(expressible(part) for part in typing.get_args(hint) if part is not Ellipsis)
    return hint in PLAIN


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an expressible type, an integer being a number too."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (tuple, list):
        return isinstance(value, tuple | list) and all(fits(entry, parts[0]) for entry in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """The value of `flag` (dashes or underscores), read before the full set of flags is known."""
    names = {flag, flag[:2] + flag[2:].replace("-", "_")}
    found = None
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        head, equals, tail = word.partition("=")
        if head in names:
            found = tail if equals else following
    return found


def parse(made: type, arguments: Sequence[str], prog: str, description: str) -> Any:
    """`made` filled in from `arguments`; `--help` prints and exits.

    Raises:
        UsageError: an unknown flag, a bad or missing value.
    """
    wants_help = any(word in ("-h", "--help") for word in arguments)
    told = io.StringIO()
    try:
        with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(told):
            found, unknown = tyro.cli(
                made, prog=prog, description=description, args=list(arguments), return_unknown_args=True
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise UsageError(f"{_first_message(told.getvalue())} (see {prog} --help)") from None
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        hint = suggest(flag.replace("_", "-"), flags(made)) or f"; {prog} --help lists them"
        raise UsageError(f"unknown option {flag}{hint}")
    return found


def flags(made: type, prefix: str = "--") -> list[str]:
    """Every flag of the (nested) dataclass."""
    found: list[str] = []
    for field in dataclasses.fields(made):
        parts: tuple[Any, ...] = typing.get_args(field.type)
        if parts and dataclasses.is_dataclass(parts[0]):
            found += flags(parts[0], f"{prefix}{parts[1].name}.")  # type: ignore[arg-type]
        else:
            found.append(f"{prefix}{field.name.replace('_', '-')}")
    return found


def grouped(name: str, common: type, made: dict[str, type]) -> type:
    """`common` with one nested dataclass per entry of `made`; their flags are `--entry.option`."""
    fields = [
        (
            f"{group}_options",
            Annotated[kind, tyro.conf.arg(name=group)],
            dataclasses.field(default_factory=kind),
        )
        for group, kind in made.items()
    ]
    return dataclasses.make_dataclass(name, fields, bases=(common,))


def values(options: Any) -> dict[str, Any]:
    """The fields of an options dataclass as JSON values."""
    return {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value


def _first_message(box: str) -> str:
    """The first paragraph of tyro's framed error, on one line."""
    lines = []
    for line in box.splitlines()[1:]:
        text = line.strip("│ ").strip()
        if text and set(text) <= set("─╰╯"):
            break
        lines.append(text)
    return " ".join(" ".join(lines).split()).rstrip(".") or "the command line cannot be read"

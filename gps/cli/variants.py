"""A method with options in one word: `plato(lam=3)`, `quadrotor_forest(density=.2, teacher.horizon=18)`."""

import ast
import dataclasses
import re
from typing import Any, NamedTuple

from gps.cli import experiment, options, registry
from gps.cli.experiment import Config
from gps.cli.registry import UsageError, suggest

__all__ = ["Variant", "config", "parse", "slug"]


class Variant(NamedTuple):
    """A name and the options given with it, dotted names included."""

    name: str
    options: dict[str, Any]


def parse(text: str) -> Variant:
    """The variant in `text`.

    Raises:
        UsageError: it is not NAME or NAME(option=value, …).
    """
    name, bracket, inside = text.partition("(")
    if not bracket:
        return Variant(text, {})
    inside = re.sub(r"=\s*(-?)inf(?=\s*[,)])", r"=\g<1>1e999", inside)
    dotted = re.sub(r"(\w)\.(?=[A-Za-z_]\w*\s*=[^=])", r"\1__DOT__", inside.rstrip().removesuffix(")"))
    try:
        call = ast.parse(f"f({dotted})", mode="eval").body
        assert isinstance(call, ast.Call)
        assert not call.args
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value = node.value.replace("__DOT__", ".")
        assert len({k.arg for k in call.keywords}) == len(call.keywords)
        found = {str(k.arg).replace("__DOT__", "."): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise UsageError(
            f"cannot read {text!r}; write NAME(option=value, …), each option once, strings in quotes"
        ) from None
    return Variant(name.strip(), found)


def config(algorithm: Variant, env: Variant, seed: int, iterations: int) -> Config:
    """The config of one run; options that are not given have their defaults.

    An algorithm's option `teacher` is the local teacher under it.
    """
    given = dict(algorithm.options)
    asked = given.pop("teacher", "")
    if not isinstance(asked, str):
        raise UsageError(f"{algorithm.name}: teacher must be a name in quotes, got {asked!r}")
    teacher = registry.teacher_name(algorithm.name, asked)
    groups = experiment.groups(algorithm.name, env.name, teacher)
    chosen = {name: options.values(kind()) for name, kind in groups.items()}
    settings = [("algorithm", name, value, algorithm) for name, value in given.items()]
    for name, value in env.options.items():
        group, dot, rest = name.partition(".")
        settings.append((group, rest, value, env) if dot else ("env", name, value, env))
    hints = {group: {f.name: f.type for f in dataclasses.fields(kind)} for group, kind in groups.items()}
    for group, name, value, variant in settings:
        if group not in chosen or name not in chosen[group]:
            known = [*chosen["env"], "teacher.", "student."] if group not in chosen else chosen[group]
            raise UsageError(f"{variant.name} has no option {name or group!r}{suggest(name, known)}")
        if not options.fits(value, hints[group][name]):
            hint = getattr(hints[group][name], "__name__", hints[group][name])
            raise UsageError(f"{variant.name}: {name} must be {hint}, got {value!r}")
        chosen[group][name] = list(value) if isinstance(value, tuple) else value
    return Config(algorithm.name, env.name, seed, iterations, iterations, chosen, teacher)


def slug(text: str) -> str:
    """`text` as a directory name."""
    return re.sub(r"[^A-Za-z0-9_.=+]+", "-", text).strip("-")

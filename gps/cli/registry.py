"""The one table of names. Rows are import paths, so that naming a method imports nothing else.

Wherever a name is expected, `module:factory` does as well: your own env or algorithm needs no row here.
"""

import difflib
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gps.algorithms.defaults import ENVS as ENV_NAMES
from gps.algorithms.defaults import local_teacher_factory, student_factory, teacher_factory
from gps.types import Env, LocalTeacher, Student
from gps.video import Drawing

__all__ = [
    "ALGORITHMS",
    "ENVS",
    "TEACHERS",
    "Task",
    "UsageError",
    "algorithm_factory",
    "load",
    "suggest",
    "task",
    "teacher_name",
    "wants_local",
]


class UsageError(ValueError):
    """What was typed cannot be run."""


class Task(NamedTuple):
    """The factories behind one environment name."""

    env: Callable[..., Any]
    """(**options) → Env."""
    teacher: Callable[..., Any]
    """(env, **options) → Teacher; or (**options) → make_teacher: Env → Teacher."""
    local_teacher: Callable[..., Any]
    """(env, **options) → LocalTeacher."""
    student: Callable[..., Any]
    """(nu, limits, **options) → Student, whichever of `env`, `nu`, `limits` it names."""
    drawing: Drawing | None
    """None: the bodies of a MuJoCo model are drawn, of other tasks curves of states and controls."""


ALGORITHM_NAMES = (
    "bc",
    "dagger",
    "plato",
    "asked",
    "coaching",
    "dart",
    "safe_dagger",
    "smile",
    "side_cameras",
    "mdgps",
    "pigps",
    "badmm",
    "traj_opt",
    "gps2013",
    "is_pg",
    "ppo",
    "sac",
    "pretrain_finetune",
    "q_demo",
    "hybrid_pg",
    "hybrid_q",
    "dqfd",
)
ALGORITHMS = {name: f"gps.algorithms.{name}:{name}" for name in ALGORITHM_NAMES}

TEACHERS = {
    "local_lqr": "teachers.local_lqr:local_lqr",
    "local_pi2": "teachers.pi2:local_pi2",
    "local_pilqr": "teachers.pilqr:local_pilqr",
}
"""Local teachers, under any algorithm that asks for one; but `badmm` needs one that takes a price."""

PARTNERS = {"pigps": "local_pi2"}
"""The one that an algorithm is published with, where that is not the env's own."""

CROWD = "crowd"
"""Several of the env's own (`students.crowd`)."""

STUDENTS: dict[str, str] = {
    **dict.fromkeys(("sac", "q_demo", "hybrid_q"), "students:squashed"),
    "dqfd": "students:ranked",
    "smile": CROWD,
}
"""The kind that an algorithm asks for, where the env's own will not do."""

ENVS = {name: f"envs.{name}:{name}" for name in ENV_NAMES}

DRAWINGS = {
    "pendulum": "envs.sticks:pendulum",
    "cartpole": "envs.sticks:cartpole",
    "cartpole_sparse": "envs.sticks:cartpole",
    "reacher": "envs.sticks:reacher",
    "obstacle": "envs.sticks:obstacle",
    "fork": "envs.sticks:fork",
    "lane_drive": "envs.sights:sights",
    "forest_trail": "envs.sights:sights",
    "cartpole_pixels": "envs.sights:sights",
    "peg_images": "envs.sights:sights",
    "peg": "envs.sticks:peg",
    "peg_sparse": "envs.sticks:peg",
    "blind_peg": "envs.sticks:peg",
    "swimmer": "envs.sticks:swimmer",
    "quadrotor_forest": "envs.draw:forest_flight",
    "quadrotor_depth": "envs.sights:sights",
    "quadrotor_canyon": "envs.draw:canyon_flight",
}

BODIES = "envs.bodies:drawing"
"""Of every other task that is made from a MuJoCo model."""


def suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or nothing where no name is close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def algorithm_factory(name: str) -> Callable[..., Any]:
    """The factory (env, make_teacher, student, **options) → Algorithm called `name`."""
    return load(_path("algorithm", name, ALGORITHMS))


def task(name: str, local_teacher: str = "", student: str = "") -> Task:
    """The factories of env `name`, with its own local teacher or the one called `local_teacher`.

    Likewise its own student, or several of them (`CROWD`), or the kind that the import path `student` names.

    Its module may bring its own `teacher` and `student` factories, `TEACHER` and `STUDENT`, defaults of their
    keyword arguments, and a `drawing`; where it does not, the general ones serve.
    """
    path = _path("env", name, ENVS)
    factory = load(path)
    module = sys.modules[path.partition(":")[0]]
    if isinstance(factory, Env) or not callable(factory):
        raise UsageError(f"{path} is {type(factory).__name__}, expected a function (options…) -> Env")
    chosen = load(_path("teacher", local_teacher, TEACHERS)) if local_teacher else None
    drawing = load(DRAWINGS[name]) if name in DRAWINGS else getattr(module, "drawing", None)
    local = local_teacher_factory(module, chosen)
    pupil = load(student) if student not in ("", CROWD) else student_factory(module)
    pupil = _crowd_of(pupil) if student == CROWD else pupil
    return Task(factory, teacher_factory(module), local, pupil, drawing)


def teacher_name(algorithm: str, asked: str = "") -> str:
    """The local teacher of an algorithm: what was `asked` for, or its partner; empty for the env's own.

    Raises:
        UsageError: the algorithm's teachers are not local.
    """
    if asked and not wants_local(algorithm):
        raise UsageError(
            f"--teacher {asked}: {algorithm} asks for a planner, which the env brings; leave it out"
        )
    return asked or PARTNERS.get(algorithm, "")


def wants_local(algorithm: str) -> bool:
    """Whether an algorithm asks for local teachers, as its factory's annotation of `make_teacher` says."""
    factory = algorithm_factory(algorithm)
    hint = typing.get_type_hints(factory).get("make_teacher")
    return typing.get_args(hint)[-1:] == (LocalTeacher,)


def load(path: str) -> Any:
    """What `module:name` names.

    Raises:
        UsageError: there is no such module or name.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise UsageError(f"{module_name} needs the package {missing}: pip install it") from error
        raise UsageError(
            f"no module {module_name}; run where it can be imported, or set PYTHONPATH"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise UsageError(f"{module_name} has no {name!r}{suggest(name, vars(module))}") from None


def _crowd_of(factory: Callable[..., Student]) -> Callable[..., Student]:
    """A factory of crowds, with one option more than that of its members."""

    def make(*args: Any, members: int = 8, **options: Any) -> Student:
        return load("students:crowd")(factory(*args, **options), members)

    base = factory.func if isinstance(factory, functools.partial) else factory
    several = inspect.Parameter("members", inspect.Parameter.KEYWORD_ONLY, default=8, annotation=int)
    own = inspect.signature(factory)
    kept = [one for one in own.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
    make.__name__ = base.__name__
    vars(make)["__signature__"] = own.replace(parameters=[*kept, several])
    make.__annotations__ = typing.get_type_hints(base) | {"members": int}
    doc = inspect.getdoc(base) or ""
    make.__doc__ = doc.replace("Args:\n", "Args:\n    members: of the crowd, each as follows.\n", 1)
    return make


def _path(kind: str, name: str, table: dict[str, str]) -> str:
    """The import path of `name`, which may be one already."""
    if ":" in name:
        if "" not in sys.path:
            sys.path.insert(0, "")
        return name
    if name not in table:
        hint = suggest(name, table) or f"; known are {', '.join(table)}"
        raise UsageError(f"unknown {kind} {name!r}{hint}")
    return table[name]

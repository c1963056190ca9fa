"""Every task of `envs` with the teacher that solves it and the student that learns it.

The settings themselves stand beside each task (`TEACHER`, `PLANNER`, `LOCAL`, `STUDENT` in its module),
because `envs` does not know `teachers` and `students`; here they are put together.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import students
import teachers
from gps.types import Env, LocalTeacher, Student
from teachers.local_lqr import local_lqr
from teachers.mpc import mpc

__all__ = ["ENVS", "Pairing", "pairing", "student_factory", "teacher_factory"]

ENVS = (
    "pendulum",
    "cartpole",
    "cartpole_sparse",
    "point_maze",
    "acrobot_discrete",
    "peg_sparse",
    "reacher",
    "quadrotor_forest",
    "quadrotor_depth",
    "quadrotor_canyon",
    "obstacle",
    "peg",
    "blind_peg",
    "swimmer",
    "fork",
    "lane_drive",
    "forest_trail",
    "cartpole_pixels",
    "peg_images",
    "adroit_door",
)


class Pairing(NamedTuple):
    """What an algorithm's factory asks for: `dagger(*pairing("cartpole"))`."""

    env: Env
    make_teacher: Callable[[Env], Any]
    """Env → Teacher, or LocalTeacher."""
    student: Student


def pairing(name: str, local: bool | Callable[..., LocalTeacher] = False, **options: Any) -> Pairing:
    """The task `name`, made with `options`, with teacher and student as its module sets them.

    The teacher is a `teachers.mpc`, with `local` a `teachers.local_lqr` or what `local` is, such as
    `teachers.local_pi2`; the student of the kind that the module's `POLICY` names.

    Raises:
        ValueError: there is no such task.
    """
    if name not in ENVS:
        raise ValueError(f"unknown env {name!r}, known are {', '.join(ENVS)}")
    module = importlib.import_module(f"envs.{name}")
    env = getattr(module, name)(**options)
    chosen = local if callable(local) else None
    make_teacher = local_teacher_factory(module, chosen) if local else teacher_factory(module)
    return Pairing(env, make_teacher, student_factory(module)(env.nu, limits=env.limits))


def teacher_factory(module: ModuleType) -> Callable[..., Any]:
    """`teachers.mpc`, or the module's own `teacher`, with the defaults that its `TEACHER` sets.

    It plans by iLQR unless the module's `PLANNER`, (name in `teachers`, settings), says otherwise.
    """
    settings = dict(getattr(module, "TEACHER", {}))
    if hasattr(module, "PLANNER"):
        name, options = module.PLANNER
        settings["planner"] = functools.partial(getattr(teachers, name), **options)
    return functools.partial(getattr(module, "teacher", mpc), **settings)


def local_teacher_factory(
    module: ModuleType, chosen: Callable[..., LocalTeacher] | None = None
) -> Callable[..., Any]:
    """`teachers.local_lqr`, or the module's own `local_teacher`, with the defaults that its `LOCAL` sets.

    Where another is `chosen`, those of them that it has: how a task is explored is the same for all.
    """
    settings = getattr(module, "LOCAL", {})
    if chosen is None:
        return functools.partial(getattr(module, "local_teacher", local_lqr), **settings)
    known = inspect.signature(chosen).parameters
    return functools.partial(chosen, **{name: value for name, value in settings.items() if name in known})


def student_factory(module: ModuleType) -> Callable[..., Student]:
    """The kind of student that the module's `POLICY` names, with the defaults that its `STUDENT` sets.

    That is `students.mlp` unless it names another, or has its own `student`.
    """
    kind = getattr(students, getattr(module, "POLICY", "mlp"))
    return functools.partial(getattr(module, "student", kind), **getattr(module, "STUDENT", {}))

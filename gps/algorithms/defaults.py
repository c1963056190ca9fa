"""Every task of `envs` with the teacher that solves it and the student that learns it.

The settings themselves stand beside each task (`TEACHER`, `STUDENT` in its module), because `envs` does not
know `teachers` and `students`; here they are put together.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from gps.types import Env, Student, Teacher
from students.networks import mlp
from teachers.mpc import mpc

__all__ = ["ENVS", "Pairing", "pairing", "student_factory", "teacher_factory"]

ENVS = ("pendulum", "cartpole", "reacher", "quadrotor_forest", "quadrotor_canyon")


class Pairing(NamedTuple):
    """What an algorithm's factory asks for: `dagger(*pairing("cartpole"))`."""

    env: Env
    make_teacher: Callable[[Env], Teacher]
    student: Student


def pairing(name: str, **options: Any) -> Pairing:
    """The task `name`, made with `options`, with `teachers.mpc` and `students.mlp` as its module sets them.

    Raises:
        ValueError: there is no such task.
    """
    if name not in ENVS:
        raise ValueError(f"unknown env {name!r}, known are {', '.join(ENVS)}")
    module = importlib.import_module(f"envs.{name}")
    env = getattr(module, name)(**options)
    return Pairing(env, teacher_factory(module), student_factory(module)(env.nu, limits=env.limits))


def teacher_factory(module: ModuleType) -> Callable[..., Any]:
    """`teachers.mpc`, or the module's own `teacher`, with the defaults that its `TEACHER` sets."""
    return functools.partial(getattr(module, "teacher", mpc), **getattr(module, "TEACHER", {}))


def student_factory(module: ModuleType) -> Callable[..., Student]:
    """`students.mlp`, or the module's own `student`, with the defaults that its `STUDENT` sets."""
    return functools.partial(getattr(module, "student", mlp), **getattr(module, "STUDENT", {}))

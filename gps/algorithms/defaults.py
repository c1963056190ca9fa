"""Every task of `envs` with the teacher that solves it and the student that learns it.

The settings themselves stand beside each task (`TEACHER`, `STUDENT` in its module), because `envs` does not
know `teachers` and `students`; here they are put together.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from gps.types import Env, Student, Teacher
from students.networks import mlp
from teachers.mpc import mpc

__all__ = ["ENVS", "Pairing", "pairing"]

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
    make_teacher = functools.partial(mpc, **module.TEACHER)
    return Pairing(env, make_teacher, mlp(env.nu, limits=env.limits, **module.STUDENT))

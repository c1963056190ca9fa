"""From names and options to an env, a teacher, a student and an algorithm, and back from config.json."""

import functools
import inspect
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gps import run
from gps.cli import options, registry
from gps.episodes import Steps
from gps.evaluate import Scores, evaluate
from gps.placement import cpu_jit
from gps.rollout import clip_control
from gps.types import Algorithm, Env, Student
from gps.video import Drawing

__all__ = [
    "Config",
    "Scene",
    "algorithm",
    "flat",
    "from_flags",
    "from_json",
    "groups",
    "keys",
    "scene",
    "scene_key",
    "scene_of",
    "to_json",
]

WIRED = ("env", "make_teacher", "student", "nu", "limits")
"""Arguments that factories get from each other; never flags."""

GROUPS = ("env", "teacher", "student", "algorithm")


class Config(NamedTuple):
    """Everything that decides the bits of a run."""

    algorithm: str
    env: str
    seed: int
    iterations: int
    planned: int
    """Iterations it was started for: a lengthened run keeps its algorithm's schedules and buffers."""
    options: dict[str, dict[str, Any]]
    """Keyword arguments of the `algorithm`, `env`, `teacher` and `student` factories, defaults included."""
    teacher: str = ""
    """The local teacher; empty for the env's own, and for algorithms that have a planner."""


class Scene(NamedTuple):
    """An env with its teacher and student, and the two programs that judge them."""

    env: Env
    make_teacher: Callable[[Env], Any]
    """Env → Teacher, or LocalTeacher."""
    student: Student
    drawing: Drawing | None
    judge_student: Callable[..., tuple[Scores, Steps]]
    """(keys [W], variables) → scores of W episodes, and the episodes."""
    judge_teacher: Callable[..., tuple[Scores, Steps]] | None
    """(keys [W],) → the same of the teacher, in the same worlds; None for local teachers, which know only
    those that they were trained in."""


def groups(
    algorithm: str, env: str, teacher: str = "", saved: dict[str, dict[str, Any]] | None = None
) -> dict[str, type]:
    """The options dataclasses of algorithm, env, teacher and student; `saved` takes the defaults' place."""
    algorithm_factory = registry.algorithm_factory(algorithm)
    task = registry.task(env, registry.teacher_name(algorithm, teacher), registry.STUDENTS.get(algorithm, ""))
    factories = {
        "algorithm": algorithm_factory,
        "env": task.env,
        "teacher": task.local_teacher if registry.wants_local(algorithm) else task.teacher,
        "student": task.student,
    }
    saved = saved or {}
    skipped = {"algorithm": (*WIRED, "iterations")}
    return {
        name: options.options_type(factory, skipped.get(name, WIRED), saved.get(name))
        for name, factory in factories.items()
    }


def scene(config: Config) -> Scene:
    """The scene of a config; the same object for the same options, so that nothing compiles twice."""
    return scene_of(*scene_key(config))


def algorithm(config: Config) -> Algorithm:
    """The algorithm of a config; the same object whatever the seed."""
    chosen = json.dumps(config.options["algorithm"])
    return _algorithm(config.algorithm, chosen, config.planned, scene_key(config))


SceneKey = tuple[str, str, bool, str, str]
"""What tells scenes apart: env, options but the algorithm's as text, whether local teachers, which, and the
kind of student if it is not the env's own."""


def scene_key(config: Config) -> SceneKey:
    """That of a config."""
    chosen = {name: config.options[name] for name in ("env", "teacher", "student")}
    local, kind = registry.wants_local(config.algorithm), registry.STUDENTS.get(config.algorithm, "")
    return config.env, json.dumps(chosen), local, config.teacher, kind


@functools.lru_cache(maxsize=4)
def scene_of(name: str, options_text: str, local: bool, local_teacher: str, kind: str) -> Scene:
    """The scene of a `scene_key`."""
    task, chosen = registry.task(name, local_teacher, kind), json.loads(options_text, object_hook=_tuples)
    env = task.env(**chosen["env"])
    make_teacher = _make_teacher(task.local_teacher if local else task.teacher, chosen["teacher"])
    wires = {"env": env, "nu": env.nu, "limits": env.limits}
    asked = inspect.signature(task.student).parameters
    student = task.student(**{k: v for k, v in wires.items() if k in asked}, **chosen["student"])
    judge_teacher = None if local else cpu_jit(evaluate(env, make_teacher=make_teacher))
    judge_student = cpu_jit(evaluate(env, student=student))
    drawing = task.drawing
    if drawing is None and env.bodies is not None:
        drawing = registry.load(registry.BODIES)
    return Scene(env, make_teacher, student, drawing, judge_student, judge_teacher)


@functools.lru_cache(maxsize=4)
def _algorithm(name: str, options_text: str, planned: int, key: SceneKey) -> Algorithm:
    made = scene_of(*key)
    chosen = json.loads(options_text, object_hook=_tuples)
    factory = registry.algorithm_factory(name)
    if "iterations" in inspect.signature(factory).parameters:
        chosen["iterations"] = planned
    return factory(made.env, made.make_teacher, made.student, **chosen)


def _make_teacher(factory: Callable[..., Any], chosen: dict[str, Any]) -> Callable[[Env], Any]:
    """`factory` is (env, **options) → Teacher, or (**options) → make_teacher."""
    if "env" in inspect.signature(factory).parameters:
        return functools.partial(factory, **chosen)
    return factory(**chosen)


def check(config: Config) -> None:
    """Whether an episode can begin: traces teacher, student and algorithm, and looks at a first state.

    Raises:
        ValueError: an option that none of them can work with, or a first state or cost that is not finite.
    """
    made = scene(config)
    env = made.env

    def begin(key: jax.Array) -> Any:
        bound = env.bind(env.sample_context(key))
        x = bound.init(key)
        teacher = made.make_teacher(bound)
        return teacher.act(key, teacher.init(key, x), x, jnp.int32(0))

    if made.judge_teacher is not None:
        jax.eval_shape(begin, keys(config.seed)[0])
    jax.eval_shape(algorithm(config).init, keys(config.seed)[0])

    @cpu_jit
    def first(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        bound = env.bind(env.sample_context(key))
        x = bound.init(key)
        u = clip_control(jnp.zeros(env.nu, x.dtype), env.limits)
        return x, bound.cost(x, u, bound.sense(x, u), jnp.int32(0))

    x, cost = first(keys(config.seed)[0])
    if not jnp.all(jnp.isfinite(x)):
        raise ValueError(
            f"{env.name}: the first state of an episode has entries that are not finite: {x}; look at init"
        )
    if not jnp.isfinite(cost):
        raise ValueError(
            f"{env.name}: the cost of the first state is {cost}; look for a division by zero, "
            "a root or a logarithm"
        )


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """(key of `init`, run key): apart, because `fold_in(k, i)` and `split(k)[i]` are the same number."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    return init_key, run_key


def flat(config: Config) -> dict[str, Any]:
    """Every setting by the name of its flag; the iterations are left out."""
    found = {name: getattr(config, name) for name in ("algorithm", "env", "teacher", "seed")}
    for group, chosen in config.options.items():
        found |= {f"{group}.{name}": value for name, value in chosen.items()}
    return found


def to_json(config: Config) -> dict[str, Any]:
    """What config.json holds; JSON has no infinity, so that is the word "inf"."""
    chosen = {
        group: {
            name: _INFINITE.get(value, value) if isinstance(value, float) else value
            for name, value in given.items()
        }
        for group, given in config.options.items()
    }
    saved = config._replace(options=chosen)._asdict()
    return saved | {"x64": jnp.zeros(()).dtype == jnp.float64, "versions": run.versions()}


def from_json(saved: dict[str, Any]) -> Config:
    """The config in a parsed config.json.

    Raises:
        RunError: it is not one of ours.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("options", {}), dict):
        raise run.RunError("config.json does not hold a run's settings; restore it, or start a new run")
    saved = Config._field_defaults | saved
    missing = [name for name in Config._fields if name not in saved]
    missing += [f"options of the {name}" for name in GROUPS if name not in saved.get("options", GROUPS)]
    if missing:
        raise run.RunError(f"config.json lacks {', '.join(missing)}: it was not written by gps train")
    words = {word: value for value, word in _INFINITE.items()}
    chosen = {
        group: {
            name: words.get(value, value) if isinstance(value, str) else value
            for name, value in given.items()
        }
        for group, given in saved["options"].items()
    }
    return Config(**{name: saved[name] for name in Config._fields})._replace(options=chosen)


_INFINITE = {math.inf: "inf", -math.inf: "-inf"}


def from_flags(parsed: Any, saved: Config | None = None) -> Config:
    """The config in a parsed command line with the four option groups; `saved` is the run it continues."""
    chosen = {name: options.values(getattr(parsed, f"{name}_options")) for name in GROUPS}
    planned = saved.planned if saved else parsed.iterations
    teacher = registry.teacher_name(parsed.algorithm, parsed.teacher)
    return Config(parsed.algorithm, parsed.env, parsed.seed, parsed.iterations, planned, chosen, teacher)


def _tuples(chosen: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}

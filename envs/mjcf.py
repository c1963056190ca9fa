"""An `Env` from an MJCF model: bring the XML, a cost and a list of observations."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from envs.camera import Camera
from envs.mujoco import Engine, engine
from gps.rollout import clip_control, closed_loop, trajectory_costs
from gps.types import Bodies, Cost, Env, FinalCost, Limits, LinearGaussian, Mirror, Observer, Trajectory, View

__all__ = ["Backend", "Task", "from_engine", "from_mjcf", "load_model", "sensor_slices", "simulator"]

Backend = Literal["c", "mjx"]
"""Who computes the physics: MuJoCo's own engine, on the CPU, or its port to JAX (`envs.mjx`)."""


class Task(NamedTuple):
    """What one context makes of a model. x is (qpos, qvel, act), y the sensor readings."""

    cost: Cost
    final_cost: FinalCost
    init: Callable[..., Float[Array, " nx"]]
    """key → first state."""
    observe: Callable[..., PyTree]
    """(x, y) → what the student sees, before any noise or history."""
    failed: Callable[..., Array] = lambda x, y: jnp.asarray(False)
    """(x, y) → whether the episode has failed."""
    inputs: Callable[..., Array] | Float[Array, " ninput"] | None = None
    """Inputs of the engine (mocap poses, applied forces) that last for the episode, or x → inputs, held by
    `Env.linearize`; None: the model's."""
    reward: Callable[..., Array] | None = None
    """(x, u, x') → reward."""
    metrics: Callable[..., dict[str, Array]] | None = None
    """(x, u) → figures of merit."""
    planning: Env | None = None
    """The model that planners use instead."""
    mirror: Mirror | None = None
    """A symmetry of the task, in terms of what `observe` returns."""
    views: tuple[View, ...] = ()
    """Looks at a state that students may learn from, see `gps.types.Env`."""


def from_mjcf(
    model: str | Path | mujoco.MjModel,
    cost: Cost,
    final_cost: FinalCost | None = None,
    observe: Sequence[str | Camera] | Callable[..., PyTree] | None = None,
    *,
    horizon: int = 200,
    substeps: int = 1,
    init: Callable[..., Array] | None = None,
    failed: Callable[..., Array] | None = None,
    name: str | None = None,
    backend: Backend = "c",
) -> Env:
    """A task without context.

    Args:
        model: path of an MJCF file, its text, or a compiled model.
        cost: (x, u, y, t) → scalar, y the readings of all sensors (`sensor_slices` finds each).
        final_cost: (x, y) → scalar; by default the stage cost at zero control.
        observe: names of the sensors that the student sees, or a function (x, y) → observation; by default
            all of x. With a `Camera` among the names the observation is a dict of the images and, if any
            sensors are named, their readings as "sensors".
        horizon: control steps per episode.
        substeps: engine steps per control step.
        init: key → first state; the model's default pose at rest by default.
        failed: (x, y) → bool, ends an episode.
        name: of the task, the model's own by default.
        backend: who computes the physics.

    Raises:
        ValueError: MJCF that does not compile, an unknown sensor, a function of the wrong shape, or a cost
            that is not finite at the first state.
        FileNotFoundError: there is no such file.
    """
    loaded = load_model(model)
    sim = simulator(backend)(loaded, substeps=substeps)
    rest = jnp.concatenate([jnp.asarray(loaded.qpos0), jnp.zeros(loaded.nv + loaded.na)])
    last = horizon

    def cost_at_rest(x: Array, y: Array) -> Array:
        return cost(x, jnp.zeros(sim.nu, x.dtype), y, jnp.int32(last))

    task = Task(
        cost=cost,
        final_cost=cost_at_rest if final_cost is None else final_cost,
        init=(lambda key: rest) if init is None else init,
        observe=_observation(loaded, sim, observe),
        failed=Task._field_defaults["failed"] if failed is None else failed,
    )
    title = name or bytes(loaded.names).split(b"\0", 1)[0].decode()
    env = from_engine(sim, lambda context: task, horizon=horizon, name=title)
    _check_first_cost(env)
    return env


def from_engine(
    sim: Engine,
    define: Callable[[PyTree], Task],
    sample_context: Callable[..., PyTree] = lambda key: (),
    *,
    default_context: PyTree = (),
    horizon: int,
    name: str,
    dynamics: Engine | None = None,
) -> Env:
    """A task whose context (obstacles, a target, …) varies per episode.

    Args:
        sim: the engine, with the sensors that `Env.sense` reads.
        define: context → Task; it is called under `jit` and `vmap`.
        sample_context: key → context.
        default_context: what the unbound env is bound to.
        horizon: control steps per episode.
        name: of the task.
        dynamics: an engine of the same model without sensors that steps in place of `sim`, where costs need
            no readings and the sensors (rays) are dear.
    """
    if horizon < 1 or horizon != int(horizon):
        raise ValueError(
            f"{name}: an episode needs a whole number of control steps, at least 1, got {horizon}"
        )
    limits = Limits(sim.low, sim.high)
    mover = sim if dynamics is None else dynamics
    dt = float(mover.model.opt.timestep) * mover.substeps

    def bind(context: PyTree) -> Env:
        task = define(context)

        def inputs(x: Array) -> Any:
            return task.inputs(x) if callable(task.inputs) else task.inputs

        def step(x: Array, u: Array) -> tuple[Array, Array]:
            return mover.step(x, clip_control(u, limits), inputs(x))

        def sense(x: Array, u: Array) -> Array:
            return sim.sense(x, u, inputs(x))

        def linearize(x: Array, u: Array):  # noqa: ANN202 (LinearDynamics)
            return sim.linearize(x, u, inputs(x))

        def rollout(x0: Array, controller: LinearGaussian, noise: Array) -> Trajectory:
            xs, us, ys, status = sim.rollout(x0, controller, noise, inputs(x0))
            costs = trajectory_costs(task.cost, task.final_cost, xs, us, ys)
            return Trajectory(xs, us, ys, costs, status)

        # Inputs that follow the state change at every step, which a native rollout does not know.
        native = not callable(task.inputs) and dynamics is None
        space = sim.manifold
        scanned = closed_loop(step, sense, task.cost, task.final_cost, space.minus, limits)
        return Env(
            name=name,
            nx=sim.nx,
            ndx=sim.ndx,
            nu=sim.nu,
            ny=sim.ny,
            horizon=horizon,
            dt=dt,
            limits=limits,
            init=task.init,
            step=step,
            sense=sense,
            linearize=linearize,
            rollout=rollout if native else scanned,
            cost=task.cost,
            final_cost=task.final_cost,
            failed=task.failed,
            minus=space.minus,
            plus=space.plus,
            observer=Observer(lambda key: (), lambda key, memory, x, y, u_prev: (task.observe(x, y), memory)),
            sample_context=sample_context,
            bind=bind,
            nv=sim.model.nv,
            reward=task.reward,
            planning=task.planning,
            metrics=task.metrics,
            mirror=task.mirror,
            views=task.views,
            bodies=Bodies(sim.model, inputs),
        )

    env = bind(default_context)
    _check_functions(env)
    return env


def simulator(backend: Backend) -> Callable[..., Engine]:
    """`engine` of `envs.mujoco` or of `envs.mjx`.

    Raises:
        ValueError: another name.
    """
    if backend == "c":
        return engine
    if backend == "mjx":
        from envs import mjx

        return mjx.engine
    raise ValueError(f"backend must be 'c' or 'mjx', came {backend!r}")


def load_model(model: str | Path | mujoco.MjModel) -> mujoco.MjModel:
    """A compiled model from a path, the text of an MJCF, or itself; errors name the file and the reason."""
    if isinstance(model, mujoco.MjModel):
        return model
    if isinstance(model, str) and model.lstrip().startswith("<"):
        label, load = "MJCF text", lambda: mujoco.MjModel.from_xml_string(model)
    else:
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(
                f"no MJCF file at '{path}': check the path (relative to the working directory)"
            )
        label, load = f"'{path}'", lambda: mujoco.MjModel.from_xml_path(str(path))
    try:
        return load()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"MuJoCo cannot compile {label}: {reason}") from None


def sensor_slices(model: mujoco.MjModel) -> dict[str, slice]:
    """Where each named sensor stands in y."""
    found = {}
    for i in range(model.nsensor):
        sensor = model.sensor(i)
        start = int(sensor.adr[0])
        found[sensor.name] = slice(start, start + int(sensor.dim[0]))
    return found


def _observation(
    model: mujoco.MjModel, sim: Engine, observe: Sequence[str | Camera] | Callable | None
) -> Callable[..., PyTree]:
    if observe is None:
        return lambda x, y: x
    if callable(observe):
        return observe
    parts = [observe] if isinstance(observe, str | Camera) else list(observe)
    looks = [sim.camera(part) for part in parts if isinstance(part, Camera)]
    names = [part for part in parts if not isinstance(part, Camera)]
    if not parts:
        raise ValueError(f"observe names no sensor; the model has {sorted(sensor_slices(model))}")
    if not looks:
        return _readings(model, names)
    read = _readings(model, names) if names else None

    def see(x: Array, y: Array) -> dict[str, Array]:
        images = {name: image for look in looks for name, image in look(x).items()}
        return images if read is None else images | {"sensors": read(x, y)}

    return see


def _readings(model: mujoco.MjModel, names: Sequence[str]) -> Callable[..., Array]:
    """(x, y) → the readings of these sensors."""
    slices = sensor_slices(model)
    for name in names:
        if name not in slices:
            close = difflib.get_close_matches(name, slices, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {sorted(slices)}"
            raise ValueError(f"the model has no sensor named {name!r}: {hint}")
    index = np.concatenate([np.r_[slices[name]] for name in names])
    return lambda x, y: y[index]


def _check_functions(env: Env) -> None:
    """Raise where a function of the task returns the wrong shape."""
    x, u, y = (jax.ShapeDtypeStruct((n,), float) for n in (env.nx, env.nu, env.ny))
    t = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    checks = {
        "cost(x, u, y, t)": ((), lambda: jax.eval_shape(lambda *a: env.cost(*a), x, u, y, t)),
        "final_cost(x, y)": ((), lambda: jax.eval_shape(lambda *a: env.final_cost(*a), x, y)),
        "failed(x, y)": ((), lambda: jax.eval_shape(env.failed, x, y)),
        "init(key)": ((env.nx,), lambda: jax.eval_shape(env.init, key)),
    }
    for call, (shape, evaluate) in checks.items():
        came = getattr(evaluate(), "shape", None)
        if came != shape:
            wanted = f"shape {shape}" if shape else "a scalar, shape ()"
            raise ValueError(f"{env.name}: {call} must return {wanted}, got {came}: sum or index it")


def _check_first_cost(env: Env) -> None:
    """Raise where an episode would begin with a cost that is not a finite number."""

    def first(key: Array) -> Array:
        x, u = env.init(key), clip_control(jnp.zeros(env.nu), env.limits)
        y = env.sense(x, u)
        return jnp.stack([env.cost(x, u, y, jnp.int32(0)), env.final_cost(x, y)])

    costs = jax.jit(first)(jax.random.key(0))
    if not isinstance(costs, Tracer) and not np.all(np.isfinite(costs)):
        raise ValueError(
            f"{env.name}: cost and final_cost at the first state are {costs[0]} and {costs[1]}: "
            "both must be finite; look for a division by zero, a root or a logarithm"
        )

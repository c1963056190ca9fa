"""The MuJoCo C engine as a JAX primitive: step, sense, linearize and closed-loop rollout.

Every function works inside `jit`, `vmap` (which the engine turns into threads) and `scan`; `step`, `sense`
and `rollout` are differentiable, with finite differences in the tangent space as their derivative. In a
program for an accelerator the engine is called through the host: see `gps.placement` for a better way.

**The state rule.** x = (qpos, qvel, act) alone, with the inputs, determines what a call returns: time, the
solver's warm start and everything else are as in a fresh `mjData` when a call begins. Within a call, over
substeps or a whole rollout, the warm start is carried along.
"""

import copy
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Int

from envs.calls import Calls, Handle, Sizes, bind, look, model_name
from envs.camera import Camera, Look
from envs.differentiate import with_derivatives
from envs.manifold import Manifold, manifold
from gps.types import LinearDynamics, LinearGaussian


class Rollout(NamedTuple):
    """What the engine returns of a rollout; `gps.types.Trajectory` adds the costs."""

    xs: Float[Array, "T+1 nx"]
    us: Float[Array, "T nu"]
    ys: Float[Array, "T+1 ny"]
    status: Int[Array, ""]


class Engine(NamedTuple):
    """Pure functions over one MuJoCo model; `inputs` is a row made by `make_inputs`, None the defaults.

    Gradients with respect to `inputs` are not defined and raise.
    """

    model: mujoco.MjModel
    """The engine's own copy of the model: changing it changes nothing."""
    nx: int
    ndx: int
    nu: int
    ny: int
    substeps: int
    manifold: Manifold
    low: np.ndarray
    high: np.ndarray
    step: Callable[..., tuple[Float[Array, " nx"], Int[Array, ""]]]
    """(x, u, inputs=None) → (x', status): `substeps` calls of mj_step. x' = x unless the status is OK."""
    sense: Callable[..., Float[Array, " ny"]]
    """(x, u, inputs=None) → sensordata at (x, u); NaN where x or u is not finite."""
    linearize: Callable[..., LinearDynamics]
    """(x, u, inputs=None) → derivatives of `step` and `sense`; NaN where the engine failed."""
    rollout: Callable[..., Rollout]
    """(x0, controller, noise, inputs=None) → Rollout under u = clip(ū + K (x ⊖ x̄) + noise)."""
    make_inputs: Callable[..., Float[Array, " ninput"]]
    """(qfrc_applied=None, mocap_pos=None, mocap_quat=None, variant=None) → inputs; [nv], [nmocap, 3],
    [nmocap, 4], and the number of the model: 0 is `model`, then come the `variants`."""
    camera: Callable[[Camera], Look]
    """What to draw → (x, inputs=None) → images, see `envs.camera`; black, NaN, −1 where x is not finite."""
    last_error: Callable[[], str]
    """MuJoCo's text of the last `Status.ENGINE_ERROR`, with the model's name; empty if there was none."""


def engine(
    model: mujoco.MjModel,
    substeps: int = 1,
    sensors: bool = True,
    inputs: bool | None = None,
    eps: float = 1e-6,
    centered: bool = False,
    threads: int | None = None,
    variants: Sequence[mujoco.MjModel] = (),
) -> Engine:
    """Prepare `model` for calls from JAX programs.

    Args:
        model: any MJCF model; it is copied, with MuJoCo's automatic reset of diverged states switched off.
        substeps: calls of mj_step per `step`, under one control.
        sensors: compute sensor readings; without them ny = 0 and every step is cheaper.
        inputs: accept applied forces and mocap poses as an operand; by default if there are mocap bodies.
        eps: size of the finite differences, in units of the state and the control.
        centered: central differences, twice the cost and one order more accurate.
        threads: threads of a batched call, by default all cores of this process.
        variants: models that differ from `model` in numbers only (masses, friction, gains, lengths), which
            simulations may be run with; `inputs` then has to name one (`make_inputs(variant=…)`). Mocap poses
            that are not given are those of `model`.

    Raises:
        ValueError: the model has state outside (qpos, qvel, act): delays, plasticity, plugins, sleeping; or a
            variant is built differently.
    """
    for i, one in enumerate([model, *variants]):
        check_supported(one, substeps)
        _check_alike(model, one, i)
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}; leave it out to use all cores")
    sensors = sensors and model.nsensordata > 0
    models = [prepared(one, sensors) for one in (model, *variants)]
    model = models[0]
    if variants and inputs is False:
        raise ValueError("variants are chosen by the inputs: leave inputs=False out")
    takes = bool(variants) or (model.nmocap > 0 if inputs is None else inputs)
    ninput = num_inputs(model) + bool(variants) if takes else 0
    limits = control_limits(model)
    handle = Handle(models, sensors, ninput, limits, threads or len(os.sched_getaffinity(0)))
    calls, one_step = (bind(handle, n, eps, centered) for n in (substeps, 1))
    return assembled(
        model,
        substeps,
        handle.sizes,
        calls,
        one_step,
        inputs=inputs_of(model, ninput, len(variants)),
        look=lambda camera: look(handle, camera),
        check=handle.check_process,
        last_error=handle.last_error,
    )


def coarser(sim: Engine, steps: int) -> Engine:
    """The same model for planners: `steps` implicitfast steps per control step, by Newton's method.

    Made with `engine`'s defaults: without variants, whatever `sim` has.

    Raises:
        ValueError: no steps, or more of them than `sim` takes.
    """
    if not 1 <= steps <= sim.substeps:
        raise ValueError(f"a coarser engine takes 1 to {sim.substeps} steps per control step, came {steps}")
    model = copy.copy(sim.model)
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.timestep = sim.model.opt.timestep * sim.substeps / steps
    return engine(model, substeps=steps)


def assembled(
    model: mujoco.MjModel,
    substeps: int,
    sizes: Sizes,
    calls: Calls,
    one_step: Calls,
    *,
    inputs: tuple[Callable[..., Array], np.ndarray],
    look: Callable[[Camera], Look],
    check: Callable[[], None],
    last_error: Callable[[], str],
) -> Engine:
    """An `Engine` from its bare calls: operands are checked, results differentiable.

    `one_step` are the calls with a single engine step per control step, `inputs` what `inputs_of` returns.
    """
    low, high = control_limits(model)
    space = manifold(model)
    step, sense, rollout = with_derivatives(calls, one_step, space, low, high)
    make_inputs, defaults = inputs
    ninput = defaults.shape[0]

    def arrays(where: str, x: Array, u: Array, inputs: Array | None) -> tuple[Array, Array, Array]:
        check()
        x, row = jnp.asarray(x), jnp.asarray(u)
        if x.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(f"{where}: x must be float32 or float64, got {x.dtype}")
        _check_shapes(where, x=(x, (sizes.nx,)), u=(row, (sizes.nu,)))
        return x, row.astype(x.dtype), full(where, inputs, x.dtype)

    def full(where: str, inputs: Array | None, dtype: jnp.dtype) -> Array:
        if inputs is None:
            return jnp.asarray(defaults, dtype)
        _check_shapes(where, inputs=(inputs, (ninput,)))
        return jnp.asarray(inputs, dtype)

    def public_step(x: Array, u: Array, inputs: Array | None = None) -> tuple[Array, Array]:
        return step(*arrays("step", x, u, inputs))

    def public_sense(x: Array, u: Array, inputs: Array | None = None) -> Array:
        x, u, inputs = arrays("sense", x, u, inputs)
        return sense(x, u, inputs) if sizes.ny else jnp.zeros(0, x.dtype)

    def public_linearize(x: Array, u: Array, inputs: Array | None = None) -> LinearDynamics:
        return calls.linearize(*arrays("linearize", x, u, inputs))

    def public_rollout(
        x0: Array, controller: LinearGaussian, noise: Array, inputs: Array | None = None
    ) -> Rollout:
        T = jnp.shape(noise)[0]
        x0, _, inputs = arrays("rollout", x0, jnp.zeros(sizes.nu), inputs)
        shapes = {"xs": (T, sizes.nx), "us": (T, sizes.nu), "K": (T, sizes.nu, sizes.ndx)}
        fields = {name: (getattr(controller, name), shape) for name, shape in shapes.items()}
        _check_shapes("rollout", **fields, noise=(noise, (T, sizes.nu)))
        operands = [jnp.asarray(a, x0.dtype) for a in (controller.xs, controller.us, controller.K, noise)]
        return Rollout(*rollout(x0, *operands, inputs))

    def public_camera(camera: Camera) -> Look:
        draw = look(camera)

        def images(x: Array, inputs: Array | None = None) -> dict[str, Array]:
            x, _, inputs = arrays(f"camera {camera.name!r}", x, jnp.zeros(sizes.nu), inputs)
            return draw(x, inputs)

        return images

    return Engine(
        model=model,
        **sizes._asdict(),
        substeps=substeps,
        manifold=space,
        low=low,
        high=high,
        step=public_step,
        sense=public_sense,
        linearize=public_linearize,
        rollout=public_rollout,
        make_inputs=make_inputs,
        camera=public_camera,
        last_error=last_error,
    )


def control_limits(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the controls [nu]; ±inf where a control has no limits or the model does not clamp."""
    clamped = not model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
    limited = model.actuator_ctrllimited.astype(bool) & clamped
    low = np.where(limited, model.actuator_ctrlrange[:, 0], -np.inf)
    return low, np.where(limited, model.actuator_ctrlrange[:, 1], np.inf)


def num_inputs(model: mujoco.MjModel) -> int:
    """Applied forces, mocap poses."""
    return model.nv + 7 * model.nmocap


def prepared(model: mujoco.MjModel, sensors: bool) -> mujoco.MjModel:
    """A copy that does not reset itself, and reads sensors only where they are asked for."""
    model = copy.copy(model)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    if not sensors:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
    return model


TEXTS = ("nnames", "nnames_map", "npaths", "ntext", "ntextdata")
OPTIONS = ("timestep", "integrator", "cone", "disableflags", "enableflags")
STRUCTURE = ("actuator_ctrlrange", "actuator_ctrllimited", "actuator_dyntype", "eq_active0")


def _check_alike(model: mujoco.MjModel, other: mujoco.MjModel, number: int) -> None:
    """Simulations share their memory, whose layout is that of the first model: every size has to be the same.

    So has what is joined to what (ids and types), and what calls read of the first model only.
    """
    sizes = [n for n in dir(model) if n.startswith("n") and isinstance(getattr(model, n), int)]
    links = [n for n in dir(model) if n.endswith(("id", "_type", "_trntype", "_objtype", "_adr"))]
    links = [n for n in links if isinstance(getattr(model, n), np.ndarray)]
    names = [*(n for n in sizes if n not in TEXTS), *links, *STRUCTURE]
    different = [n for n in names if not np.array_equal(getattr(model, n), getattr(other, n))]
    different += [f"opt.{n}" for n in OPTIONS if getattr(model.opt, n) != getattr(other.opt, n)]
    if different:
        raise ValueError(
            f"variant {number} of model '{model_name(model)}' has another {different[0]}: variants may "
            "differ in numbers such as masses, friction, gains and lengths, not in structure, options or "
            "control limits"
        )


def inputs_of(
    model: mujoco.MjModel, ninput: int, nvariant: int = 0
) -> tuple[Callable[..., Array], np.ndarray]:
    """`make_inputs` and the default row: what mj_getState has, in its order, then the variant."""
    bodies = np.argsort(model.body_mocapid)[model.nbody - model.nmocap :]
    pos, quat = model.body_pos[bodies].copy(), model.body_quat[bodies].copy()
    nv, nmocap = model.nv, model.nmocap

    def make(
        qfrc_applied: Array | None = None,
        mocap_pos: Array | None = None,
        mocap_quat: Array | None = None,
        variant: Int[Array, ""] | int | None = None,
    ) -> Array:
        if ninput == 0:
            raise ValueError("this engine takes no inputs: make it with engine(model, inputs=True)")
        given = [a for a in (qfrc_applied, mocap_pos, mocap_quat) if a is not None]
        dtype = jnp.result_type(*given, jnp.float32) if given else jnp.result_type(float)
        rows = [
            np.zeros(nv) if qfrc_applied is None else qfrc_applied,
            pos if mocap_pos is None else mocap_pos,
            quat if mocap_quat is None else mocap_quat,
        ]
        names, shapes = ("qfrc_applied", "mocap_pos", "mocap_quat"), ((nv,), (nmocap, 3), (nmocap, 4))
        expected = {n: (r, s) for n, r, s in zip(names, rows, shapes, strict=True)}
        _check_shapes("make_inputs", **expected)
        if variant is not None:
            if not nvariant:
                raise ValueError("this engine has one model: make it with engine(model, variants=[…])")
            _check_shapes("make_inputs", variant=(jnp.asarray(variant), ()))
            if not isinstance(variant, jax.Array) and variant not in range(nvariant + 1):
                raise ValueError(f"make_inputs: variant must be one of 0 to {nvariant}, got {variant}")
        if nvariant:
            rows.append(np.zeros(1) if variant is None else variant)
        return jnp.concatenate([jnp.asarray(row, dtype).reshape(-1) for row in rows])

    return make, np.concatenate([np.zeros(nv), pos.ravel(), quat.ravel(), [0.0]])[:ninput]


def _check_shapes(where: str, **arrays: tuple[Array, tuple[int, ...]]) -> None:
    for name, (array, shape) in arrays.items():
        if jnp.shape(array) != shape:
            raise ValueError(
                f"{where}: {name} must have shape {shape}, got {jnp.shape(array)}; use jax.vmap for a batch"
            )


def check_supported(model: mujoco.MjModel, substeps: int) -> None:
    """State outside (qpos, qvel, act) would be lost between calls: refuse it, naming what to change."""
    enabled = model.opt.enableflags
    unsupported = {
        "delayed controls or sensors (nhistory > 0): remove `nsample`/`delay`": model.nhistory > 0,
        "plastic state (nplastic > 0): remove `springyield`/`yield`": model.nplastic > 0,
        "plugins with state: remove the plugin": model.npluginstate > 0,
        "sleeping: set <flag sleep='disable'/>": enabled & int(mujoco.mjtEnableBit.mjENBL_SLEEP),
        "the IPC contact mode: set <flag ipc='disable'/>": enabled & int(mujoco.mjtEnableBit.mjENBL_IPC),
    }
    found = [reason for reason, present in unsupported.items() if present]
    if found:
        raise ValueError(
            f"model '{model_name(model)}' keeps state outside (qpos, qvel, act), which the engine "
            f"primitive does not carry: {'; '.join(found)}"
        )
    if substeps < 1 or substeps != int(substeps):
        raise ValueError(f"substeps must be a whole number of at least 1, got {substeps}")

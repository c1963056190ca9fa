"""The extension module behind `envs.mujoco`: XLA custom calls on one native engine."""

import copy
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array

from envs.camera import Camera, Output, native_camera
from gps.placement import cpu_jit
from gps.types import LinearDynamics

DIFFERENCE_TOLERANCE = 1e-12
"""Of the constraint solver in finite differences; what it leaves in them is this over `eps`."""


class Sizes(NamedTuple):
    """Lengths of x, δx, u, y."""

    nx: int
    ndx: int
    nu: int
    ny: int


class Calls(NamedTuple):
    """The bare custom calls, on operands of one floating type; nothing is checked or differentiated."""

    step: Callable[..., tuple[Array, Array]]
    sense: Callable[..., Array]
    linearize: Callable[..., LinearDynamics]
    rollout: Callable[..., tuple[Array, Array, Array, Array, Array]]
    """(x0, xs, us, K, noise, inputs) → (xs, us, ys, steps made, status)."""


CODE = jax.ShapeDtypeStruct((), jnp.int32)


class Handle:
    """Owns the native engine; it is freed with the last closure that refers to this object."""

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        sensors: bool,
        ninput: int,
        limits: tuple[np.ndarray, np.ndarray],
        threads: int,
    ) -> None:
        native, model = _native(), models[0]
        self.ny = model.nsensordata if sensors else 0
        sizes = (model.nq, model.nv, model.na, model.nu, self.ny, ninput)
        differences = [_difference_model(one) for one in models]
        settings = (threads, _stepping(model), all(converges for _, converges in differences))
        bounds = [side.tolist() for side in limits]
        pairs = [(one._address, made._address) for one, (made, _) in zip(models, differences, strict=True)]
        self.id = native.make(pairs, sizes, settings, *bounds)
        self._models = models
        self.sizes = Sizes(model.nq + model.nv + model.na, 2 * model.nv + model.na, model.nu, self.ny)
        self._name = model_name(model)
        self._pid = os.getpid()
        weakref.finalize(self, native.free, self.id)

    def last_error(self) -> str:
        """MuJoCo's text of the last `Status.ENGINE_ERROR`, with the model's name; empty if there was none."""
        text = _native().last_error(self.id)
        return f"model '{self._name}': {text}" if text else ""

    def add_camera(self, camera: Camera) -> int:
        """The number by which calls ask for it.

        Raises:
            ValueError: see `native_camera`.
        """
        return _native().add_camera(self.id, *native_camera(self._models, camera))

    def check_process(self) -> None:
        """Raise in a child made by fork().

        Raises:
            RuntimeError: the engine was made by the parent process; its threads do not exist here.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the engine of model '{self._name}' was made before a fork(), which JAX and its threads do "
                "not survive: start processes with multiprocessing's 'spawn' method"
            )


def bind(handle: Handle, substeps: int, eps: float, centered: bool) -> Calls:
    """The calls on `handle`, with the settings that are fixed for each."""
    nx, ndx, nu, ny = handle.sizes
    nstep = {"nstep": np.int64(substeps)}
    differences = nstep | {"eps": np.float64(eps), "centered": np.bool_(centered)}

    def rollout_shapes(T: int) -> list[tuple[int, ...]]:
        return [(T + 1, nx), (T, nu), (T + 1, ny)]

    step = _call(handle, "gps_step", lambda x, *_: [(nx,)], [CODE], nstep)
    sense = _call(handle, "gps_sense", lambda x, *_: [(ny,)], [CODE], {})
    shapes = [(ndx, ndx), (ndx, nu), (ny, ndx), (ny, nu)]
    linearize = _call(handle, "gps_linearize", lambda x, *_: shapes, [CODE], differences)
    rollout = _call(
        handle, "gps_rollout", lambda x, xs, us, *_: rollout_shapes(us.shape[-2]), [CODE] * 2, nstep
    )
    return Calls(
        step=lambda *operands: tuple(step(*operands)),
        sense=lambda *operands: sense(*operands)[0],
        linearize=lambda *operands: LinearDynamics(*linearize(*operands)[:4]),
        rollout=lambda *operands: tuple(rollout(*operands)),
    )


def look(handle: Handle, camera: Camera) -> Callable[[Array, Array], dict[str, Array]]:
    """(x, inputs) → images of `camera`."""
    size = (camera.height, camera.width)
    kinds: dict[Output, tuple[tuple[int, ...], Any]] = {
        "rgb": ((*size, 3), jnp.uint8),
        "depth": ((*size, 1), jnp.float32),
        "segmentation": ((*size, 1), jnp.int32),
    }
    images = [jax.ShapeDtypeStruct(s if o in camera.outputs else (0,), t) for o, (s, t) in kinds.items()]
    number = {"camera": np.int64(handle.add_camera(camera))}
    render = _call(handle, "gps_render", lambda *_: [], [*images, CODE], number)

    def call(x: Array, inputs: Array) -> dict[str, Array]:
        drawn = zip(kinds, render(x, inputs)[:-1], strict=True)
        return {camera.key(output): image for output, image in drawn if output in camera.outputs}

    return call


def _call(
    handle: Handle,
    target: str,
    shapes: Callable,
    others: Sequence[jax.ShapeDtypeStruct],
    settings: Mapping[str, np.generic],
) -> Callable[..., Sequence[Any]]:
    """The custom call `target`: floats of `shapes(*operands)`, then `others`, on any platform."""

    def results(operands: tuple[Array, ...]) -> list[jax.ShapeDtypeStruct]:
        batch, dtype = operands[0].shape[:-1], operands[0].dtype
        floats = [jax.ShapeDtypeStruct((*batch, *shape), dtype) for shape in shapes(*operands)]
        return floats + [jax.ShapeDtypeStruct((*batch, *one.shape), one.dtype) for one in others]

    def native(*operands: Array) -> Sequence[Array]:
        call = jax.ffi.ffi_call(target, results(operands), vmap_method="expand_dims")
        # Reading the id through the handle keeps the native engine alive as long as this closure.
        return call(*operands, engine=np.int64(handle.id), **settings)

    on_cpu = cpu_jit(native)

    def on_host(*operands: Array) -> list[np.ndarray]:
        return [np.asarray(result) for result in on_cpu(*operands)]

    def through_host(*operands: Array) -> list[Array]:
        return jax.pure_callback(on_host, results(operands), *operands, vmap_method="broadcast_all")

    def call(*operands: Array) -> Sequence[Array]:
        # The custom calls exist on the CPU. In a program for another platform they are made from the host.
        return jax.lax.platform_dependent(*operands, cpu=native, default=through_host)

    return jax.jit(call, inline=True)


def model_name(model: mujoco.MjModel) -> str:
    """The name in the MJCF's <mujoco model="…">."""
    return bytes(model.names).split(b"\0", 1)[0].decode() or "unnamed"


def _difference_model(model: mujoco.MjModel) -> tuple[mujoco.MjModel, bool]:
    """(the model that finite differences use, whether its solver finds the solution from any warm start).

    What a solver leaves is divided by `eps`, and a column that starts from the nominal solution is within the
    usual tolerance already: it would not move at all. The tighter one costs Newton's method an iteration.
    """
    model = copy.copy(model)
    model.opt.tolerance = min(model.opt.tolerance, DIFFERENCE_TOLERANCE)
    return model, model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON and model.opt.iterations >= 50


def _stepping(model: mujoco.MjModel) -> int:
    """`Stepping` of engine.h."""
    if model.opt.enableflags & int(mujoco.mjtEnableBit.mjENBL_SPECULATIVE):
        return 0  # contacts depend on velocities there: a nudged velocity cannot skip the position stage
    kinds = {
        mujoco.mjtIntegrator.mjINT_RK4: 0,
        mujoco.mjtIntegrator.mjINT_EULER: 1,
        mujoco.mjtIntegrator.mjINT_IMPLICIT: 2,
        mujoco.mjtIntegrator.mjINT_IMPLICITFAST: 2,
    }
    return kinds.get(mujoco.mjtIntegrator(model.opt.integrator), 3)


def _native():  # noqa: ANN202 (a module)
    """The extension module, loaded and registered with XLA at first use."""
    try:
        from envs import _engine
    except ImportError as error:
        raise ImportError(
            "the native engine is not built: install the package with `pip install .` (it needs a C++17 "
            "compiler, on Debian `apt-get install g++`)"
        ) from error
    if "gps_step" not in _registered:
        _engine.load(str(_libmujoco()))
        built, found = _engine.versions()
        if built // 1_000_000 != found // 1_000_000:
            raise ImportError(
                f"the native engine was compiled for MuJoCo {built // 1_000_000} but MuJoCo "
                f"{mujoco.__version__} is installed: reinstall this package"
            )
        for name, capsule in _engine.targets().items():
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
            _registered.add(name)
    return _engine


_registered: set[str] = set()


def _libmujoco() -> Path:
    folder = Path(mujoco.__file__).parent
    found = sorted([*folder.glob("libmujoco.so*"), *folder.glob("libmujoco*.dylib")])
    if not found:
        raise ImportError(f"no libmujoco in the installed mujoco package ({folder.name}): reinstall mujoco")
    return found[0]

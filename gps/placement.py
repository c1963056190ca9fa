"""Where programs run: native env programs on the CPU, students on JAX's default device.

The engine's FFI targets exist on the CPU platform alone. A program that contains one is therefore
jitted with `cpu_jit`, which moves its arguments to the CPU and leaves its results there; the fitting
program is jitted with `student_jit`, which moves them to the default device. On a machine without
an accelerator both move nothing. `spread` shares a batch out over several devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

Device = Any  # jax.Device, which is no type to a checker

_OF_SCANS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
"""XLA's older code generator compiles loops of many small operations, as planners are, in about half the
time, and they run as fast (.96 to 1.00 of the time for six planners, jax 0.10); a network is fitted 1.7 times
slower. jax 0.11 has it no more."""

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["cpu_device", "cpu_fit_jit", "cpu_jit", "put", "spread", "student_device", "student_jit"]


def cpu_device() -> Device:
    """This process's first CPU device, where native env programs run.

    Raises:
        RuntimeError: JAX was started without its CPU platform.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise RuntimeError(
            "MuJoCo programs need JAX's CPU platform beside the accelerator: "
            "unset JAX_PLATFORMS, or add cpu to it (JAX_PLATFORMS=cuda,cpu)"
        ) from error


def student_device() -> Device:
    """JAX's default device: an accelerator where there is one, or what `jax_default_device` names."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def put(tree: PyTree, device: Device) -> PyTree:
    """`tree` with its arrays on `device`; everything else, tracers included, as it came."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array):
            return leaf
        return leaf if leaf.committed and leaf.devices() == {device} else jax.device_put(leaf, device)

    return jax.tree.map(move, tree)


def cpu_jit(fun: F, **jit_options: Any) -> F:
    """`jax.jit(fun, **jit_options)` on the CPU device, whatever the default device is.

    Under another transformation (`vmap`, an outer `jit`) it is the plain jitted function: the
    outermost program decides where it runs.
    """
    return _jit_on(cpu_device, fun, jit_options, {"compiler_options": _OF_SCANS})


def cpu_fit_jit(fun: F, **jit_options: Any) -> F:
    """`cpu_jit` for programs that fit networks beside stepping worlds: slower to compile, faster to run."""
    return _jit_on(cpu_device, fun, jit_options, {})


def student_jit(fun: F, **jit_options: Any) -> F:
    """`jax.jit(fun, **jit_options)` on JAX's default device, for arguments that come from the CPU."""
    return _jit_on(student_device, fun, jit_options, {})


def spread(fun: Callable[..., PyTree], devices: Sequence[Device] | None = None) -> Callable[..., PyTree]:
    """`jit(vmap(fun))` whose batch is shared out evenly over `devices` (by default all of JAX's).

    Each device runs its members as a program of its own (`shard_map`), so that a `while_loop` ends where its
    members have ended. Arguments are positional; results stay where they were made.

    Raises:
        ValueError: when called, a batch that the devices cannot share evenly.
    """
    chosen = list(jax.devices() if devices is None else devices)
    mesh = Mesh(np.array(chosen), ("batch",), axis_types=(AxisType.Auto,))
    along = PartitionSpec("batch")
    program = jax.jit(
        jax.shard_map(jax.vmap(fun), mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    )

    def call(*args: PyTree) -> PyTree:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(args)}
        if len(sizes) != 1 or () in sizes or min(sizes)[0] % len(chosen):
            came = ", ".join(str(size[0]) if size else "no axis" for size in sorted(sizes)) or "nothing"
            raise ValueError(
                f"a batch over {len(chosen)} devices needs one leading axis that is a multiple of that, came "
                f"{came}"
            )
        return program(*jax.device_put(args, NamedSharding(mesh, along)))

    return call


def _jit_on(
    device: Callable[[], Device],
    fun: Callable[..., Any],
    jit_options: dict[str, Any],
    outermost: dict[str, Any],
) -> Any:
    """`outermost`: options that JAX takes for a program that is no part of another one."""
    inner = jax.jit(fun, **jit_options)
    compiled = jax.jit(fun, **{**outermost, **jit_options})

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return inner(*args, **kwargs)
        target = device()
        args, kwargs = put((args, kwargs), target)
        with jax.default_device(target):
            return put(compiled(*args, **kwargs), target)

    return call

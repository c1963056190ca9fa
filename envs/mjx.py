"""The engine's calls computed by MJX, MuJoCo's port to JAX: for accelerators, with the interface of `Engine`.

    env = from_mjcf("robot.xml", cost, backend="mjx")

What a call means is the same as in `envs.mujoco`, the state rule included, but for `variants`, `threads` and
the sizes of differences, which it does not know: derivatives are forward-mode ones of MJX itself. MJX knows
fewer models (`mujoco/doc/mjx.rst` lists what is missing), computes in JAX's default float type and compiles
for seconds to minutes. On a CPU the smallest models take about as long as with the C engine
(`benchmarks.peers`).
"""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from envs.calls import Calls, Sizes, model_name
from envs.camera import Camera, Look
from envs.manifold import manifold
from envs.mujoco import Engine, assembled, check_supported, control_limits, inputs_of, num_inputs, prepared
from gps.types import LinearDynamics, Status

__all__ = ["engine"]


def engine(
    model: mujoco.MjModel, substeps: int = 1, sensors: bool = True, inputs: bool | None = None
) -> Engine:
    """Prepare `model` for MJX.

    Args:
        model: an MJCF model that MJX can simulate.
        substeps: engine steps per `step`, under one control.
        sensors: compute sensor readings; without them ny = 0.
        inputs: accept applied forces and mocap poses as an operand; by default if there are mocap bodies.

    Raises:
        ImportError: mujoco-mjx is not installed.
        ValueError: the model has something that MJX, or the state rule, does not know.
    """
    mjx = _mjx()
    check_supported(model, substeps)
    _check_computed(model)
    sensors = sensors and model.nsensordata > 0
    model = prepared(model, sensors)
    try:
        device_model, blank = mjx.put_model(model), mjx.make_data(model)
        unclamped = mjx.put_model(_unclamped(model))
    except NotImplementedError as error:
        raise ValueError(
            f"MJX cannot simulate model '{model_name(model)}': {error}; change the model, or use "
            "backend='c', MuJoCo's own engine (envs.mujoco.engine)"
        ) from None
    takes = model.nmocap > 0 if inputs is None else inputs
    ninput = num_inputs(model) if takes else 0
    ny = model.nsensordata if sensors else 0
    sizes = Sizes(model.nq + model.nv + model.na, 2 * model.nv + model.na, model.nu, ny)
    return assembled(
        model,
        substeps,
        sizes,
        *(_calls(mjx, model, (device_model, unclamped), blank, sizes, n) for n in (substeps, 1)),
        inputs=inputs_of(model, ninput),
        look=_no_camera,
        check=lambda: None,
        last_error=lambda: "",
    )


# ------------------------------------------------------------------------------------- internals


def _no_camera(camera: Camera) -> Look:
    raise ValueError(f"MJX draws no images: camera {camera.name!r} needs backend='c', MuJoCo's own engine")


def _mjx() -> Any:
    try:
        from mujoco import mjx
    except ImportError as error:
        raise ImportError("MJX is not installed: pip install 'guided-policy-search[mjx]'") from error
    return mjx


def _check_computed(model: mujoco.MjModel) -> None:
    """What MJX accepts and leaves out would be other physics, without a word: refuse it."""
    left_out = {
        "ellipsoid fluid forces: remove `fluidshape`": bool(np.any(model.geom_fluid[:, 0] > 0)),
        "early activations: set actearly='false'": bool(np.any(model.actuator_actearly)),
        "the noslip solver: set noslip_iterations='0'": model.opt.noslip_iterations > 0,
    }
    found = [reason for reason, present in left_out.items() if present]
    if found:
        raise ValueError(
            f"MJX does not compute what model '{model_name(model)}' has: {'; '.join(found)}; or use "
            "backend='c', MuJoCo's own engine (envs.mujoco.engine)"
        )


class _Since(NamedTuple):
    """What a step goes on from beside the state; zero where a call begins."""

    time: Array
    warm: Array
    """Where the constraint solver begins."""


def _unclamped(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy that does not clamp controls: the derivative of clamping is ½ on the limit itself."""
    model = copy.copy(model)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
    return model


def _calls(
    mjx: Any, model: mujoco.MjModel, device_models: tuple[Any, Any], blank: Any, sizes: Sizes, substeps: int
) -> Calls:
    device_model, unclamped = device_models
    nq, nv, nmocap = model.nq, model.nv, model.nmocap
    low, high = control_limits(model)
    space = manifold(model)
    begin = _Since(jnp.zeros_like(blank.time), jnp.zeros_like(blank.qacc_warmstart))

    def place(x: Array, u: Array, inputs: Array, since: _Since) -> Any:
        """mjx.Data at (x, u)."""
        # Every input in the type that the model is in, whatever the type of x.
        x, u, inputs = (a.astype(blank.qpos.dtype) for a in (x, u, inputs))
        data = blank.replace(
            qpos=x[:nq],
            qvel=x[nq : nq + nv],
            act=x[nq + nv :],
            ctrl=u,
            time=since.time,
            qacc_warmstart=since.warm,
        )
        if inputs.shape[0]:
            force, pos, quat = jnp.split(inputs, [nv, nv + 3 * nmocap])
            data = data.replace(
                qfrc_applied=force, mocap_pos=pos.reshape(-1, 3), mocap_quat=quat.reshape(-1, 4)
            )
        return data

    def advance(
        x: Array, u: Array, inputs: Array, since: _Since, on: Any = device_model
    ) -> tuple[Array, Array, _Since, Array]:
        """(x', sensors at x, what the next step goes on from, whether all went well)."""

        def one(carry: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], Array]:
            data, fine = carry
            data = mjx.step(on, data)
            return (data, fine & _good(data.qacc)), data.sensordata[: sizes.ny]

        first = (place(x, u, inputs, since), _good(x) & _good(u) & _good(inputs))
        (data, fine), readings = jax.lax.scan(one, first, length=substeps)
        x_next = jnp.concatenate([data.qpos, data.qvel, data.act])
        fine = fine & _good(x_next)
        return (
            x_next.astype(x.dtype),
            readings[0].astype(x.dtype),
            _Since(data.time, data.qacc_warmstart),
            fine,
        )

    def step(x: Array, u: Array, inputs: Array) -> tuple[Array, Array]:
        x_next, _, _, fine = advance(x, u, inputs, begin)
        return jnp.where(fine, x_next, x), _status(fine)

    def read(x: Array, u: Array, inputs: Array, since: _Since) -> Array:
        data = mjx.forward(device_model, place(x, u, inputs, since))
        return data.sensordata[: sizes.ny].astype(x.dtype)

    def sense(x: Array, u: Array, inputs: Array) -> Array:
        fine = _good(x) & _good(u) & _good(inputs)
        return jnp.where(fine, read(x, u, inputs, begin), jnp.nan)

    def linearize(x: Array, u: Array, inputs: Array) -> LinearDynamics:
        """A control on its limit is free to move inwards; beyond it moves nothing."""
        x_next, status = step(x, u, inputs)
        low_, high_ = jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
        moves = ((u >= low_) & (u <= high_)).astype(x.dtype)
        held = jnp.clip(u, low_, high_)

        def near(dx: Array, du: Array) -> tuple[Array, Array]:
            moved, y, _, _ = advance(space.plus(x, dx), held + moves * du, inputs, begin, unclamped)
            return space.minus(moved, x_next), y

        zeros = jnp.zeros(sizes.ndx, x.dtype), jnp.zeros(sizes.nu, x.dtype)
        (A, B), (C, D) = jax.jacfwd(near, argnums=(0, 1))(*zeros)
        return jax.tree.map(lambda a: jnp.where(status == Status.OK, a, jnp.nan), LinearDynamics(A, B, C, D))

    def rollout(
        x0: Array, xs_ref: Array, us_ref: Array, K: Array, noise: Array, inputs: Array
    ) -> tuple[Array, Array, Array, Array, Array]:
        """What comes after a failure repeats what was last good, as in the C engine."""
        low_, high_ = jnp.asarray(low, x0.dtype), jnp.asarray(high, x0.dtype)

        def knot(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            x, u_last, y_last, since, fine = carry
            x_ref, u_ref, K_t, e = row
            # x̄ is not read where K is zero.
            gap = jnp.where(jnp.any(K_t != 0), space.minus(x, x_ref), 0)
            u = jnp.clip(u_ref + e + K_t @ gap, low_, high_)
            x_next, y, since_next, went = advance(x, u, inputs, since)
            fine = fine & went
            now, before = (x_next, u, y, since_next), (x, u_last, y_last, since)
            x, u, y, since = jax.tree.map(lambda a, b: jnp.where(fine, a, b), now, before)
            return (x, u, y, since, fine), (x, u, y, fine)

        start = (
            x0,
            jnp.zeros(sizes.nu, x0.dtype),
            jnp.zeros(sizes.ny, x0.dtype),
            begin,
            _good(x0) & _good(inputs),
        )
        (x, _, y_last, since, fine), (xs, us, ys, went) = jax.lax.scan(
            knot, start, (xs_ref, us_ref, K, noise)
        )
        if sizes.ny:
            y_end = read(x, jnp.zeros(sizes.nu, x.dtype), inputs, since)
            ys = jnp.concatenate([ys, jnp.where(fine, y_end, y_last)[None]])
        else:
            ys = jnp.zeros((us.shape[0] + 1, 0), x0.dtype)
        xs = jnp.concatenate([x0[None], xs])
        return xs, us, ys, jnp.sum(went, dtype=jnp.int32), _status(fine)

    return Calls(step, sense, linearize, rollout)


def _good(values: Float[Array, "..."]) -> Bool[Array, ""]:
    """Numbers that MuJoCo accepts."""
    return jnp.all(jnp.abs(values) <= mujoco.mjMAXVAL)


def _status(fine: Bool[Array, ""]) -> Array:
    return jnp.where(fine, np.int32(Status.OK), np.int32(Status.DIVERGED))

"""The state manifold of a MuJoCo model: x ⊖ x̄ and x̄ ⊕ δx in JAX, for any mix of joints."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float


class Manifold(NamedTuple):
    """δx = (δqpos in R^nv, δqvel, δact), MuJoCo's tangent space; rotations are in the body's frame."""

    minus: Callable[[Float[Array, " nx"], Float[Array, " nx"]], Float[Array, " ndx"]]
    """(x, x̄) → x ⊖ x̄, as `mj_differentiatePos`."""
    plus: Callable[[Float[Array, " nx"], Float[Array, " ndx"]], Float[Array, " nx"]]
    """(x̄, δx) → x̄ ⊕ δx, as `mj_integratePos`."""


def manifold(model: mujoco.MjModel) -> Manifold:
    """The manifold of (qpos, qvel, act); plain subtraction and addition in a model without quaternions."""
    quat_q, quat_v, flat_q, flat_v = _layout(model)
    if quat_q.size == 0:
        return Manifold(minus=jnp.subtract, plus=jnp.add)
    nq, nv = model.nq, model.nv

    def minus(x: Float[Array, " nx"], x_ref: Float[Array, " nx"]) -> Float[Array, " ndx"]:
        x, x_ref = jnp.asarray(x), jnp.asarray(x_ref)
        rest = x[nq:] - x_ref[nq:]
        dq = jnp.zeros(nv, x.dtype).at[flat_v].set(x[flat_q] - x_ref[flat_q])
        rotation = jax.vmap(quat_difference)(x[quat_q], x_ref[quat_q])
        return jnp.concatenate([dq.at[quat_v].set(rotation), rest])

    def plus(x: Float[Array, " nx"], dx: Float[Array, " ndx"]) -> Float[Array, " nx"]:
        x, dx = jnp.asarray(x), jnp.asarray(dx)
        qpos = x[:nq].at[flat_q].add(dx[flat_v])
        qpos = qpos.at[quat_q].set(jax.vmap(quat_integrate)(x[quat_q], dx[quat_v]))
        return jnp.concatenate([qpos, x[nq:] + dx[nv:]])

    return Manifold(minus, plus)


def _layout(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Indices into qpos and qvel: quaternions [k, 4] and their rotations [k, 3], then the flat rest [m]."""
    quat_q, quat_v, flat_q, flat_v = [], [], [], []
    for code, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
        kind = mujoco.mjtJoint(code)
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            flat_q.extend(range(q, q + 3))
            flat_v.extend(range(v, v + 3))
            q, v = q + 3, v + 3
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            quat_q.append(range(q, q + 4))
            quat_v.append(range(v, v + 3))
        else:
            flat_q.append(q)
            flat_v.append(v)
    as_index = lambda rows, width: np.array(rows, dtype=np.int32).reshape(-1, *width)  # noqa: E731
    return as_index(quat_q, (4,)), as_index(quat_v, (3,)), as_index(flat_q, ()), as_index(flat_v, ())


def quat_multiply(a: Float[Array, " 4"], b: Float[Array, " 4"]) -> Float[Array, " 4"]:
    """Hamilton product, scalar first."""
    scalar = a[0] * b[0] - a[1:] @ b[1:]
    vector = a[0] * b[1:] + b[0] * a[1:] + jnp.cross(a[1:], b[1:])
    return jnp.concatenate([scalar[None], vector])


def quat_rotate(quat: Float[Array, " 4"], vector: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """`vector` of the body's frame in the world's frame."""
    twice = 2 * jnp.cross(quat[1:], vector)
    return vector + quat[0] * twice + jnp.cross(quat[1:], twice)


def quat_integrate(quat: Float[Array, " 4"], rotation: Float[Array, " 3"]) -> Float[Array, " 4"]:
    """Return quat ⊗ exp(rotation / 2), as `mju_quatIntegrate`; smooth at zero rotation."""
    square = rotation @ rotation
    small = square < 1e-12
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    scale = jnp.where(small, 0.5 - square / 48, jnp.sin(angle / 2) / angle)
    scalar = jnp.where(small, 1 - square / 8, jnp.cos(angle / 2))
    return quat_multiply(quat, jnp.concatenate([scalar[None], scale * rotation]))


def quat_difference(quat: Float[Array, " 4"], quat_ref: Float[Array, " 4"]) -> Float[Array, " 3"]:
    """2 log(quat_ref⁻¹ ⊗ quat) in (−π, π], as `mju_subQuat`; smooth at zero rotation."""
    delta = quat_multiply(quat_ref * jnp.array([1, -1, -1, -1], quat.dtype), quat)
    delta = jnp.where(delta[0] < 0, -delta, delta)
    square = delta[1:] @ delta[1:]
    small = square < 1e-12
    sine = jnp.sqrt(jnp.where(small, 1.0, square))
    scale = jnp.where(small, 2 / delta[0], 2 * jnp.arctan2(sine, delta[0]) / sine)
    return scale * delta[1:]

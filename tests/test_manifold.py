"""⊖ and ⊕ against MuJoCo's own functions, and their derivatives."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from engine_models import CONTACT, SMOOTH, load, minus, plus, states

from envs.manifold import manifold, quat_rotate

ANGLES = (0.0, 1e-300, 1e-12, 1e-7, 9e-7, 1.1e-6, 1e-3, 1.0, 3.0, np.pi - 1e-9)


@pytest.mark.parametrize("xml", [SMOOTH, CONTACT])
def test_minus_and_plus_are_mujocos(xml):
    model = load(xml)
    space = manifold(model)
    xs, _ = states(model, 8, spread=1.0)
    rng = np.random.default_rng(1)
    for x, x_ref in zip(xs[:4], xs[4:], strict=True):
        dx = rng.standard_normal(2 * model.nv + model.na)
        np.testing.assert_allclose(space.minus(x, x_ref), minus(model, x, x_ref), rtol=0, atol=1e-13)
        np.testing.assert_allclose(space.plus(x, dx), plus(model, x, dx), rtol=0, atol=1e-13)
        np.testing.assert_allclose(space.minus(space.plus(x, dx), x), dx, rtol=0, atol=1e-13)


@pytest.mark.parametrize("angle", ANGLES)
def test_rotations_of_any_size(angle):
    model = load(SMOOTH)
    space = manifold(model)
    x = states(model, 1, spread=1.0)[0][0]
    axis = np.array([0.36, -0.48, 0.8])
    dx = np.zeros(2 * model.nv + model.na)
    dx[3:6], dx[6:9] = angle * axis, -angle * axis[::-1]
    there = space.plus(x, dx)
    np.testing.assert_allclose(there, plus(model, x, dx), rtol=0, atol=1e-15)
    # What acos and the like lose: the angle comes back with full relative accuracy.
    np.testing.assert_allclose(space.minus(there, x), dx, rtol=1e-8, atol=5e-16)
    np.testing.assert_allclose(space.minus(there, x), minus(model, np.asarray(there), x), rtol=0, atol=1e-12)
    flipped = there.at[3:7].multiply(-1)  # the same rotation
    np.testing.assert_allclose(space.minus(flipped, x), space.minus(there, x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_of_minus_and_plus(angle):
    """Against mjd_subQuat and differences of MuJoCo's functions."""
    model = load(SMOOTH)
    space = manifold(model)
    x = states(model, 1, spread=1.0)[0][0]
    dx = np.zeros(2 * model.nv + model.na)
    dx[3:6] = angle * np.array([0.36, -0.48, 0.8])
    there = plus(model, x, dx)
    retract = jax.jacfwd(lambda e: space.minus(space.plus(there, e), x))(jnp.zeros_like(dx))
    at_a, at_b = np.zeros(9), np.zeros(9)
    mujoco.mjd_subQuat(there[3:7], x[3:7], at_a, at_b)
    np.testing.assert_allclose(retract[3:6, 3:6], at_a.reshape(3, 3), rtol=0, atol=2e-6)
    base = jax.jacfwd(lambda e: space.minus(there, space.plus(x, e)))(jnp.zeros_like(dx))
    np.testing.assert_allclose(base[3:6, 3:6], at_b.reshape(3, 3), rtol=0, atol=2e-6)
    ambient = jax.jacfwd(lambda e: space.plus(x, e))(jnp.asarray(dx))
    h = 1e-6
    columns = [(plus(model, x, dx + h * e) - plus(model, x, dx - h * e)) / (2 * h) for e in np.eye(dx.size)]
    np.testing.assert_allclose(ambient, np.transpose(columns), rtol=0, atol=1e-9)


def test_flat_models_subtract():
    xml = (
        '<mujoco><worldbody><body><joint/><joint type="slide"/><geom size=".1"/></body></worldbody></mujoco>'
    )
    space = manifold(mujoco.MjModel.from_xml_string(xml))
    a, b = np.array([7.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.25, 1.0, -1.0])
    np.testing.assert_array_equal(space.minus(a, b), a - b)
    np.testing.assert_array_equal(space.plus(a, b), a + b)


def test_quat_rotate():
    rng = np.random.default_rng(0)
    quat, vector, expected = rng.standard_normal(4), rng.standard_normal(3), np.zeros(3)
    quat /= np.linalg.norm(quat)
    mujoco.mju_rotVecQuat(expected, vector, quat)
    np.testing.assert_allclose(quat_rotate(quat, vector), expected, rtol=0, atol=1e-15)

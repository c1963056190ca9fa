import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps import costs
from gps.types import ResidualCost

R = np.array([0.7, -1.3, 0.02])
NORMS = {
    "quadratic": (costs.quadratic, np.sum(R**2) / 2),
    "smooth_abs": (costs.smooth_abs(0.1), np.sum(np.sqrt(R**2 + 0.01) - 0.1)),
    "l2": (costs.l2(0.1), np.sqrt(R @ R + 0.01) - 0.1),
    "cosh": (costs.cosh(0.5), 0.25 * np.sum(np.cosh(R / 0.5) - 1)),
    "rectify": (costs.rectify(0.3), 0.3 * np.sum(np.log1p(np.exp(R / 0.3)))),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_values_and_convexity(name):
    norm, value = NORMS[name]
    np.testing.assert_allclose(norm(R), value, rtol=1e-12)
    hessian = jax.jit(jax.hessian(norm))
    for r in (R, -R, np.zeros(3), 40 * R if name != "cosh" else 3 * R):
        assert np.linalg.eigvalsh(hessian(jnp.asarray(r))).min() >= -1e-12
    assert norm(jnp.asarray(R, jnp.float32)).dtype == jnp.float32


def test_residual_cost_groups_terms():
    def residual(x, u, y, t):
        return jnp.concatenate([x, u, y])

    cost = costs.residual_cost(residual, (2.0, 0.5), (costs.quadratic, costs.l2(0.2)), sizes=(1, 3))
    x, u, y = np.array([0.3]), np.array([1.0]), np.array([-2.0, 0.4])
    rest = np.concatenate([u, y])
    expected = 2 * 0.5 * 0.09 + 0.5 * (np.sqrt(rest @ rest + 0.04) - 0.2)
    assert isinstance(cost, ResidualCost)
    np.testing.assert_allclose(cost(x, u, y, 0), expected, rtol=1e-12)


def test_advice_on_wrong_arguments():
    with pytest.raises(ValueError, match="2 weights, 1 norms"):
        costs.residual_cost(lambda x, y: x, (1.0, 2.0), (costs.quadratic,))
    with pytest.raises(ValueError, match="weights must be >= 0"):
        costs.residual_cost(lambda x, y: x, (-1.0,), (costs.quadratic,))
    with pytest.raises(ValueError, match=r"shape \(1,\) expected.*came \(3,\)"):
        costs.residual_cost(lambda x, y: x, (1.0,), (costs.quadratic,))(np.ones(3), 0)
    with pytest.raises(ValueError, match="width"):
        costs.smooth_abs(0.0)

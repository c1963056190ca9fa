"""Critics: members of their own, controls in units of the limits, normalised inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.types import Limits
from students.critics import critic

LIMITS = Limits(np.array([-2.0, 0.0]), np.array([2.0, 1.0]))
OBS = {"a": jnp.array([0.3, -1.0]), "b": jnp.ones((2, 2))}


@pytest.mark.parametrize("layer_norm", [False, True])
def test_members_differ_and_are_stacked(layer_norm):
    judge = critic((8, 8), 3, LIMITS, layer_norm=layer_norm)
    variables = judge.init(jax.random.key(0), OBS)
    said = judge.apply(variables, OBS, jnp.array([0.5, 0.5]))
    assert said.shape == (3,) and said.dtype == jnp.float32
    assert len(np.unique(np.asarray(said))) == 3
    first = jax.tree.map(lambda leaf: leaf[:1], variables[0]), variables[1]
    np.testing.assert_allclose(judge.apply(first, OBS, jnp.array([0.5, 0.5])), said[:1], rtol=1e-6)


def test_controls_are_scaled_by_the_limits_and_end_there():
    judge, wide = critic((8,), 1, LIMITS), critic((8,), 1, Limits(-np.ones(2), np.ones(2)))
    variables = judge.init(jax.random.key(0), OBS)
    u = jnp.array([1.0, 0.75])
    np.testing.assert_allclose(
        judge.apply(variables, OBS, u), wide.apply(variables, OBS, jnp.array([0.5, 0.5])), rtol=1e-6
    )
    outside, edge = (judge.apply(variables, OBS, jnp.array([a, 0.5])) for a in (9.0, 2.0))
    np.testing.assert_array_equal(outside, edge)


def test_inputs_are_normalised_by_what_was_seen():
    judge = critic((8,), 1)
    seen = {"a": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "b": jnp.arange(8.0).reshape(2, 2, 2)}
    fresh = judge.init(jax.random.key(0), OBS)
    variables = judge.observe_statistics(fresh, seen, jnp.ones(2))
    shifted = jax.tree.map(lambda leaf: 10 * leaf[0], seen)
    again = judge.observe_statistics(fresh, jax.tree.map(lambda leaf: 10 * leaf, seen), jnp.ones(2))
    plain = jax.tree.map(lambda leaf: leaf[0], seen)
    np.testing.assert_allclose(judge.apply(variables, plain), judge.apply(again, shifted), rtol=1e-5)
    assert judge.apply(fresh, plain).shape == (1,)


def test_several_outputs_and_bad_input():
    judge = critic((8,), 2, outputs=5)
    assert judge.apply(judge.init(jax.random.key(0), OBS), OBS).shape == (2, 5)
    with pytest.raises(ValueError, match="members and outputs must be at least 1, got 0 and 1"):
        critic((8,), 0)
    with pytest.raises(ValueError, match="finite limits"):
        critic((8,), 1, Limits(-np.full(1, np.inf), np.ones(1)))

"""The ring beside Python's deque."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps import replay


def rows(numbers):
    return {"a": jnp.asarray(numbers, jnp.float32), "b": jnp.stack([jnp.asarray(numbers)] * 2, axis=1)}


@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 7, 1, 12), (20,)])
def test_the_oldest_rows_give_way(sizes):
    ring, kept = replay.empty(7, jax.tree.map(lambda leaf: leaf[0], rows([0]))), deque(maxlen=7)
    numbers = iter(range(1, 100))
    for size in sizes:
        new = [next(numbers) for _ in range(size)]
        ring = jax.jit(replay.add)(ring, rows(new))
        kept.extend(new)
        held = np.asarray(ring.rows["a"])[: int(replay.filled(ring))]
        assert sorted(held) == sorted(kept)
    np.testing.assert_array_equal(ring.rows["b"][:, 0], ring.rows["a"])
    assert int(ring.written) == sum(sizes)


def test_samples_are_of_what_is_there_each_as_likely():
    ring = replay.add(replay.empty(10, jax.tree.map(lambda leaf: leaf[0], rows([0]))), rows([1, 2, 3]))
    drawn = replay.sample(jax.random.key(0), ring, 30_000)
    values, counts = np.unique(np.asarray(drawn["a"]), return_counts=True)
    assert values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.02)
    np.testing.assert_array_equal(drawn["b"][:, 1], drawn["a"])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="capacity of at least 1 row, got 0"):
        replay.empty(0, jnp.zeros(2))
    ring = replay.empty(4, {"a": jnp.zeros(2)})
    with pytest.raises(
        ValueError, match=r"rows\['a'\] must have shape \(3, 2\) as the replay has, got \(3, 5\)"
    ):
        replay.add(ring, {"a": jnp.zeros((3, 5))})

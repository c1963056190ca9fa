from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import example, random_steps

from gps import dataset as ds


def plain(leaf):
    """A leaf as NumPy, keys as their words."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def rows(steps, order=None):
    """Every step as a tuple of bytes, in the order given, empty ones left out."""
    order = np.arange(len(steps.weight)) if order is None else order
    leaves = [plain(leaf) for leaf in jax.tree.leaves(steps._replace(next_slot=()))]
    weight = np.asarray(steps.weight)
    return [tuple(leaf[i].tobytes() for leaf in leaves) for i in order if weight[i] > 0]


def drop_some(rng, steps):
    return steps._replace(
        weight=jnp.where(jnp.asarray(rng.random(steps.weight.shape[0]) < 0.4), 0, steps.weight)
    )


def test_the_ring_holds_what_a_deque_would():
    rng = np.random.default_rng(0)
    dataset, oracle = ds.empty(23, example(random_steps(rng, 1))), deque(maxlen=23)
    add = jax.jit(ds.add)
    for m in (4, 9, 9, 9, 40, 9, 40):  # goes round several times, twice in one call
        steps = drop_some(rng, random_steps(rng, m))
        dataset = add(dataset, steps)
        oracle.extend(rows(steps))
        assert int(ds.size(dataset)) == len(oracle)
        order = np.roll(np.arange(23), -int(dataset.next_slot) if len(oracle) == 23 else 0)
        assert rows(dataset, order) == list(oracle)


def test_left_out_steps_take_no_slot_whatever_they_hold():
    rng = np.random.default_rng(1)
    steps = random_steps(rng, 6)
    keep = jnp.asarray([False, True, False, False, True, True])
    steps = steps._replace(weight=jnp.where(keep, steps.weight, 0), cost=jnp.where(keep, steps.cost, jnp.nan))
    dataset = ds.add(ds.empty(4, example(steps)), steps)
    assert np.array_equal(dataset.cost, np.append(np.asarray(steps.cost)[[1, 4, 5]], 0))
    assert int(dataset.next_slot) == 3


def test_vmapped_rings_are_independent():
    rng = np.random.default_rng(2)
    batches = [drop_some(rng, random_steps(rng, 12)) for _ in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    blank = ds.empty(5, example(batches[0]))
    together = jax.jit(jax.vmap(ds.add, in_axes=(None, 0)))(blank, stacked)
    add = jax.jit(ds.add)
    for i, steps in enumerate(batches):
        alone = add(blank, steps)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(plain(a)[i], plain(b)), together, alone)


def test_dtypes_of_the_dataset_win():
    rng = np.random.default_rng(3)
    dataset = ds.empty(4, jax.eval_shape(lambda: example(random_steps(rng, 1, dtype=np.float32))))
    added = ds.add(dataset, random_steps(rng, 3, dtype=np.float64))
    assert jax.tree.map(lambda leaf: leaf.dtype, added) == jax.tree.map(lambda leaf: leaf.dtype, dataset)
    assert added.x.dtype == np.float32


def test_split_holds_out_the_share_asked_for_at_any_fill():
    for fraction in (0.1, 0.25, 0.3, 0.5):
        full = jnp.asarray(np.random.default_rng(4).uniform(0.5, 1, 400))
        train, held = ds.split(jax.random.key(0), full, fraction)
        assert np.array_equal(train + held, full)
        assert not np.any((train > 0) & (held > 0))
        filled = np.cumsum(np.asarray(held) > 0)
        assert np.all(np.abs(filled - fraction * np.arange(1, 401)) <= 2)


def test_split_of_a_fuller_ring_extends_the_split_before():
    key, full = jax.random.key(1), jnp.ones(100)
    half = jnp.where(jnp.arange(100) < 50, full, 0)
    train_half, train_full = (np.asarray(ds.split(key, weight, 0.2)[0]) for weight in (half, full))
    assert np.array_equal(train_half[:50], train_full[:50])
    other = np.asarray(ds.split(jax.random.key(2), full, 0.2)[0])
    assert not np.array_equal(train_full, other)


def test_split_keeps_blocks_together():
    _, held = ds.split(jax.random.key(3), jnp.ones(47), 0.25, block=5)
    blocks = np.append(np.asarray(held) > 0, [False] * 3).reshape(10, 5)
    whole = blocks[:9].all(axis=1)
    assert np.array_equal(whole, blocks[:9].any(axis=1))
    assert 1 <= whole.sum() <= 3


def test_no_fraction_holds_out_nothing():
    weight = jnp.asarray([0.0, 2.0, 1.0])
    train, held = ds.split(jax.random.key(0), weight, 0.0)
    assert np.array_equal(train, weight)
    assert not np.any(held)


def test_errors_say_what_is_wrong():
    rng = np.random.default_rng(5)
    steps = random_steps(rng, 3)
    with pytest.raises(ValueError, match="capacity of at least 1 step, got 0"):
        ds.empty(0, example(steps))
    with pytest.raises(ValueError, match=r"steps\.mean: the dataset stores shape \(3, 2\), got \(3, 4\)"):
        ds.add(ds.empty(4, example(steps)), random_steps(rng, 3, nu=4)._replace(action=steps.action))
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1.5"):
        ds.split(jax.random.key(0), steps.weight, 1.5)
    with pytest.raises(ValueError, match="block needs at least 1 slot, got 0"):
        ds.split(jax.random.key(0), steps.weight, 0.5, block=0)

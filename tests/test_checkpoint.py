"""Checkpoints: what comes back, what is kept, and what damage is noticed."""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps import checkpoint


class State(NamedTuple):
    weights: object
    key: object
    keys: object
    count: int
    rate: float
    flag: bool
    nothing: object
    empty: object
    half: object
    host: object
    scalar: object


def make_state(seed):
    rng = np.random.default_rng(seed)
    return State(
        weights={
            "a": jnp.asarray(rng.normal(size=(3, 4))),
            "b": (jnp.asarray(rng.integers(0, 9, 5), jnp.int32),),
        },
        key=jax.random.key(seed),
        keys=jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        count=seed + 7,
        rate=0.1 * seed,
        flag=bool(seed % 2),
        nothing=None,
        empty=jnp.zeros((0, seed % 2 + 2)),
        half=jnp.asarray(rng.normal(size=6), jnp.bfloat16),
        host=rng.normal(size=2),
        scalar=np.float32(rng.normal()),
    )


def as_bits(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes()
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()


def same_bits(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        as_bits(x) == as_bits(y) and type(x) is type(y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_everything_comes_back_bit_for_bit(tmp_path):
    state = make_state(3)
    checkpoint.save(tmp_path, 5, state)
    step, back = checkpoint.restore(tmp_path, make_state(1))
    assert step == 5
    assert same_bits(back, state)
    assert not same_bits(back, make_state(1))
    draw = jax.random.normal(back.key, (3,))
    np.testing.assert_array_equal(draw, jax.random.normal(jax.random.key(3), (3,)))


def test_last_ones_are_kept_and_any_can_be_read(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, float(step))}, keep=3)
    assert checkpoint.steps(tmp_path) == [3, 4, 5]
    step, state = checkpoint.restore(tmp_path, {"x": jnp.zeros(2)}, step=4)
    assert (step, state["x"].tolist()) == (4, [4.0, 4.0])
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint 2 in .*\[3, 4, 5\]"):
        checkpoint.restore(tmp_path, {"x": jnp.zeros(2)}, step=2)


def test_unfinished_checkpoints_are_not_seen(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.steps(tmp_path) == [1]
    checkpoint.save(tmp_path, 2, {"x": jnp.ones(2)})
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*tmp*"))


def payload(place: Path) -> Path:
    """The largest file: the arrays."""
    return max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named_with_what_to_do(tmp_path, damage):
    rng = np.random.default_rng(0)
    state = {"x": jnp.asarray(rng.normal(size=2000))}
    checkpoint.save(tmp_path, 1, state)
    checkpoint.save(tmp_path, 2, state)
    file = payload(tmp_path / "2")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.restore(tmp_path, state)
    assert str(tmp_path / "2") in str(caught.value)
    assert "go on from iteration 1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoint.restore(tmp_path, state, step=1)[0] == 1


def test_another_state_is_refused_in_words(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.ones((2, 3)), "y": 1})
    for template, words in [
        ({"x": jnp.ones((2, 4)), "y": 1}, r"\['x'\] is float64\[2, 3\], expected float64\[2, 4\]"),
        ({"x": jnp.ones((2, 3), jnp.float32), "y": 1}, "precision"),
        ({"x": jnp.ones((2, 3))}, r"first difference: \['y'\]"),
    ]:
        with pytest.raises(checkpoint.CheckpointError, match=words):
            checkpoint.restore(tmp_path, template)


@pytest.mark.parametrize("name", ["a [old] b", "br[1]/run", "back\\slash"])
def test_a_path_that_could_not_be_read_again_is_refused(tmp_path, name):
    with pytest.raises(checkpoint.CheckpointError, match="choose a path without"):
        checkpoint.save(tmp_path / name, 1, {"x": np.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_a_copy_of_another_checkpoint_is_noticed(tmp_path):
    state = {"x": np.arange(3.0)}
    checkpoint.save(tmp_path, 1, state)
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    with pytest.raises(checkpoint.CheckpointError, match="it is a copy of checkpoint 1"):
        checkpoint.restore(tmp_path, state)


def test_a_leaf_that_is_no_value_is_refused(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"\['f'\] is a function"):
        checkpoint.save(tmp_path, 1, {"f": as_bits})


def test_settled_states_promote_as_restored_ones(tmp_path):
    weak = {"x": jax.jit(lambda: jnp.asarray(1.0) * 2.0)(), "w": jnp.asarray(2.0, None) * 1}
    weak["w"] = jax.lax.convert_element_type(3.0, None) if not weak["w"].weak_type else weak["w"]
    settled = checkpoint.settle(weak)
    checkpoint.save(tmp_path, 1, settled)
    back = checkpoint.restore(tmp_path, settled)[1]
    half = jnp.ones(2, jnp.float32)
    for name in weak:
        assert not settled[name].weak_type
        assert (half * settled[name]).dtype == (half * back[name]).dtype


def test_nothing_to_restore(tmp_path):
    assert checkpoint.steps(tmp_path / "none") == []
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in"):
        checkpoint.restore(tmp_path / "none", {})

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import compiled, example, random_steps
from small_tasks import same

from gps import store
from students import adam, cnn, fit, mlp, mse


def seen(n, seed=0):
    """n steps with a picture and readings."""
    rng = np.random.default_rng(seed)
    steps = random_steps(rng, n, dtype=np.float32)
    picture = jnp.asarray(rng.integers(0, 256, (n, 8, 8, 3)), jnp.uint8)
    return steps._replace(obs={"hand": {"rgb": picture}, "joints": steps.obs["a"]})


def part(steps, begin, end):
    rows = jax.tree.map(lambda leaf: leaf[begin:end], steps._replace(next_slot=()))
    return rows._replace(next_slot=steps.next_slot)


@pytest.fixture
def stored(tmp_path):
    """(path, the 20 steps in it)."""
    steps = seen(20)
    store.create(tmp_path / "steps", example(steps))
    assert store.append(tmp_path / "steps", part(steps, 0, 7)) == 7
    assert store.append(tmp_path / "steps", part(steps, 7, 20)) == 20
    return tmp_path / "steps", steps


def test_what_is_appended_is_what_is_loaded(stored):
    path, steps = stored
    found = store.load(path)
    assert jax.tree.structure(found) == jax.tree.structure(steps)
    assert same(found, steps)
    assert all(
        a.dtype == b.dtype for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(steps), strict=True)
    )
    assert same(store.load(path, rows=5), part(steps, 0, 5))
    assert store.count(path) == 20


def test_loading_copies_nothing(stored):
    path, steps = stored
    found = store.load(path)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    assert all(rights.startswith("r--") for _, rights, *_ in maps)
    spans = {Path(name).stem: [int(end, 16) for end in span.split("-")] for span, *_, name in maps}
    leaves = store._leaves(found._replace(key=jax.random.key_data(found.key)))
    assert set(spans) == set(leaves)
    for name, leaf in leaves.items():
        begin, end = spans[name]
        assert begin <= leaf.unsafe_buffer_pointer() < end
    # A program that may write into its arguments leaves the files alone.
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(found.x)
    np.testing.assert_array_equal(doubled, 2 * np.asarray(steps.x))
    assert same(store.load(path), steps)


def test_steps_without_weight_are_left_out_and_others_cast(stored):
    path, steps = stored
    more = seen(6, seed=1)
    more = more._replace(weight=jnp.asarray([1, 0, 2, 0, 0, 1.0]), mean=more.mean.astype(jnp.float64))
    assert store.append(path, more) == 23
    assert store.append(path, more._replace(weight=jnp.zeros(6))) == 23
    found = store.load(path)
    np.testing.assert_array_equal(
        found.obs["hand"]["rgb"][20:], more.obs["hand"]["rgb"][jnp.array([0, 2, 5])]
    )
    assert found.mean.dtype == steps.mean.dtype


def test_a_student_learns_the_same_bits_from_disk(stored):
    path, steps = stored
    student = compiled(cnn(2, layers=((2, 4, 4),), hidden=(4,)))
    one = jax.tree.map(lambda leaf: leaf[0], steps.obs)
    fitter = fit(student, mse(), adam(1e-2), batch_size=8, updates=10)
    state = jax.jit(fitter.init)(jax.random.key(1), student.init(jax.random.key(0), one))
    here, _ = fitter.run(jax.random.key(2), state, steps)
    there, _ = fitter.run(jax.random.key(2), state, store.load(path))
    assert same(here, there)
    assert not same(here.variables, state.variables)


def test_an_empty_store_is_an_empty_dataset(tmp_path):
    store.create(tmp_path / "steps", example(seen(1)))
    assert store.count(tmp_path / "steps") == 0
    found = store.load(tmp_path / "steps")
    assert found.obs["hand"]["rgb"].shape == (0, 8, 8, 3)
    fitter = fit(mlp(2, (4,)), mse(), updates=1)
    with pytest.raises(ValueError, match="a dataset of no slots"):
        fitter.run(jax.random.key(0), fitter.init(jax.random.key(0), ({"w": jnp.zeros(1)}, ())), found)


def test_an_append_that_was_cut_off_leaves_the_store_as_it_was(stored, monkeypatch):
    path, steps = stored

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "_commit", killed)  # every file written, the index not yet replaced
        store.append(path, seen(5, seed=2))
    with (path / "obs.hand.rgb.bin").open("ab") as file:
        file.write(b"half of a step")
    assert (path / "obs.hand.rgb.bin").stat().st_size == 25 * 192 + 14
    assert same(store.load(path), steps)
    more = seen(3, seed=1)
    assert store.append(path, more) == 23
    assert same(part(store.load(path), 20, 23), more)
    assert (path / "obs.hand.rgb.bin").stat().st_size == 23 * 192


def _append_for_ever(path):
    more = seen(50, seed=1)
    while True:
        store.append(path, more)


def test_kill_while_appending_loses_nothing(stored):
    path, steps = stored
    writer = multiprocessing.get_context("spawn").Process(target=_append_for_ever, args=(path,), daemon=True)
    writer.start()
    while store.count(path) < 200:
        assert writer.is_alive()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    found, more = store.load(path), seen(50, seed=1)
    total = store.count(path)
    assert total >= 200 and total % 50 == 20
    assert same(part(found, 0, 20), steps)
    assert same(part(found, total - 50, total), more)
    assert store.append(path, more) == total + 50  # the lock died with its process


def test_one_process_appends_at_a_time(stored):
    path, steps = stored
    with store._locked(path), pytest.raises(BlockingIOError, match="another process is appending"):
        store.append(path, steps)


def test_nothing_is_overwritten(stored):
    path, steps = stored
    with pytest.raises(FileExistsError, match="is there already: append to it"):
        store.create(path, example(steps))
    assert store.count(path) == 20
    (path / "index.json").unlink()  # as a `create` leaves it that was killed
    with pytest.raises(FileExistsError, match="is there already: it is no store: remove it"):
        store.create(path, example(steps))


class Seen(NamedTuple):
    hand: dict
    joints: jax.Array


def other_shape(steps):
    return steps._replace(obs=steps.obs | {"hand": {"rgb": jnp.zeros((20, 8, 9, 3), jnp.uint8)}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shape, r"obs.hand.rgb: shape \(20, 8, 8, 3\) expected, got \(20, 8, 9, 3\)"),
        (lambda s: s._replace(weight=s.weight.at[3].set(jnp.nan)), "weights must be finite and at least 0"),
        (lambda s: s._replace(weight=s.weight.at[3].set(-1)), "weights must be finite and at least 0"),
        (lambda s: s._replace(cost=s.cost[:19]), r"cost: shape \(20,\) expected, got \(19,\)"),
        (
            lambda s: s._replace(obs=s.obs | {"hand": {"rgb": jnp.zeros((20, 8, 8, 3))}}),
            "obs.hand.rgb: uint8 is stored, got float",
        ),
        (
            lambda s: s._replace(obs=s.obs | {"hand": {"rgb": 300 + jnp.zeros((20, 8, 8, 3), jnp.uint16)}}),
            "obs.hand.rgb: uint8 is stored, got uint16",
        ),
        (lambda s: s._replace(t=s.t.astype(jnp.int64) + 2**40), "t: int32 is stored, got int64; convert it"),
        (lambda s: s._replace(key=jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 20)), "key: "),
        (example, r"shape \('n', 8, 8, 3\) expected, got \(8, 8, 3\)"),
        (lambda s: s._replace(obs=Seen(**s.obs)), "arrays or dicts of arrays"),
        (lambda s: s._replace(key=jax.random.key_data(s.key)), r"key: shape \(20, 2\) expected|threefry"),
        (lambda s: s._replace(obs={"joints": s.obs["joints"]}), r"\['obs.hand.rgb'\] are missing"),
        (lambda s: s._replace(obs=s.obs | {"depth": s.cost}), r"\['obs.depth'\] are not stored"),
    ],
)
def test_other_steps_are_refused_and_nothing_changes(stored, change, message):
    path, steps = stored
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(ValueError, match=message):
        store.append(path, change(steps))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_truncated_file_is_named_with_what_is_left(stored):
    path, steps = stored
    file = path / "obs.hand.rgb.bin"
    os.truncate(file, 12 * 192 + 5)
    message = (
        r"obs.hand.rgb.bin is cut short: 3840 bytes expected, got 2309; the first 12 of 20 steps are whole"
    )
    for use in (store.load, lambda path: store.append(path, steps)):
        with pytest.raises(ValueError, match=message):
            use(path)
    assert same(store.load(path, rows=12), part(steps, 0, 12))
    with pytest.raises(ValueError, match="the first 12 of 20"):
        store.load(path, rows=13)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="is missing: the store is damaged"):
        store.load(path)


def test_what_is_no_store_is_not_read(stored, tmp_path):
    path, steps = stored
    for use in (store.load, store.count, lambda path: store.append(path, steps)):
        with pytest.raises(FileNotFoundError, match=r"gps\.store\.create makes one"):
            use(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has 20 steps, asked for the first 21"):
        store.load(path, rows=21)
    index = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        store.load(path)
    fields = index["fields"]
    for held in (
        [],
        {"format": 1},
        index | {"length": -1},
        index | {"length": "20"},
        index | {"fields": {}},
        index | {"fields": fields | {"speed": fields["cost"]}},
        index | {"fields": fields | {"obs.../cost": fields["cost"]}},
        index | {"fields": fields | {"cost": {"dtype": "float33", "shape": []}}},
        index | {"fields": fields | {"cost": {"dtype": "float32", "shape": [-1]}}},
    ):
        (path / "index.json").write_text(json.dumps(held))
        with pytest.raises(ValueError, match="is not the index of a store"):
            store.load(path)
    (path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="is not the index of a store"):
        store.count(path)


def test_a_foreign_directory_is_left_as_it_is(tmp_path):
    (tmp_path / "letter").write_text("dear all")
    with pytest.raises(FileNotFoundError, match="is no store of steps"):
        store.append(tmp_path, seen(2))
    assert [file.name for file in tmp_path.iterdir()] == ["letter"]


@pytest.mark.parametrize(
    "form",
    [
        lambda leaf: (leaf, leaf),
        lambda leaf: Seen({}, leaf),
        lambda leaf: {0: leaf},
        lambda leaf: {"a.b": leaf},
        lambda leaf: {"a": leaf, "none": {}},
    ],
)
def test_observations_that_would_come_back_as_others_are_refused(tmp_path, form):
    steps = example(seen(1))
    with pytest.raises(ValueError, match="arrays or dicts of arrays"):
        store.create(tmp_path / "steps", steps._replace(obs=form(steps.cost)))
    assert not (tmp_path / "steps").exists()

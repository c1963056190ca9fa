"""The run directory: ownership, atomic files, truncation."""

import json
import math
import multiprocessing

import jax.numpy as jnp
import numpy as np
import pytest

from gps import run


def try_lock(path, answer):
    try:
        with run.locked(path):
            answer.put("got it")
    except run.RunError as error:
        answer.put(str(error))


def ask_another_process(path):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=try_lock, args=(path, answer))
    child.start()
    said = answer.get(timeout=60)
    child.join()
    answer.close()
    answer.join_thread()
    return said


def test_a_directory_in_use_is_refused_to_others(tmp_path):
    with run.locked(tmp_path / "a"):
        said = ask_another_process(tmp_path / "a")
    assert "in use by process" in said
    assert "--run-dir" in said
    with run.locked(tmp_path / "a"), pytest.raises(run.RunError, match="in use"), run.locked(tmp_path / "a"):
        pass


def test_the_lock_ends_with_its_block(tmp_path):
    for _ in range(2):
        with run.locked(tmp_path):
            pass


def test_only_a_free_directory_can_be_reserved(tmp_path):
    run.reserve(tmp_path / "new")
    with run.locked(tmp_path / "locked"):
        run.reserve(tmp_path / "locked")
    run.write_json(tmp_path / "config.json", {})
    with pytest.raises(run.RunError, match=r"holds a run already.*--resume"):
        run.reserve(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(run.RunError, match="not empty"):
        run.reserve(tmp_path / "other")
    with pytest.raises(run.RunError, match="is a file"):
        run.reserve(tmp_path / "config.json")


def test_lines_after_the_checkpoint_are_dropped_and_bytes_kept(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for i in range(1, 6):
        run.append_line(file, {"iteration": i, "x": 0.1 * i})
    wanted = "".join(file.read_text().splitlines(keepends=True)[:3])
    with file.open("a") as torn:
        torn.write('{"iteration": 6, "x"')
    assert [record["iteration"] for record in run.read_lines(file)] == [1, 2, 3, 4, 5]
    run.truncate_lines(file, 3)
    assert file.read_text() == wanted


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    run.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        run.write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_scalars_of_any_kind_and_nothing_else():
    info = {
        "jax": jnp.float32(1.5), "numpy": np.int64(3), "python": 2, "one": jnp.ones((1, 1)),
        "flag": np.bool_(True),        "nan": math.nan, "inf": jnp.inf, "vector": jnp.ones(3), "text": "x",
    }  # fmt: skip
    found = run.scalars(info)
    assert found == {"jax": 1.5, "numpy": 3, "python": 2, "one": 1.0, "flag": True, "nan": None, "inf": None}
    json.loads(json.dumps(found), parse_constant=lambda word: pytest.fail(word))


def test_broken_or_missing_config(tmp_path):
    with pytest.raises(run.RunError, match="no run in"):
        run.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a":')
    with pytest.raises(run.RunError, match="not readable JSON"):
        run.read_config(tmp_path)

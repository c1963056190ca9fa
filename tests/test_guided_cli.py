"""Guided policy search from the command line: what a run leaves, and that it goes on with the same bits."""

import json

import pytest
from commands import bits, gps

from gps.cli import main as cli

WORDS = [
    "train", "--algorithm", "mdgps", "--env", "gps_tasks:cart", "--teacher.clusters", 2,
    "--algorithm.samples", 3, "--algorithm.updates", 20, "--algorithm.copies", 1, "--student.hidden", 8,
    "--algorithm.test-conditions", 2, "--episodes", 2, "--seed", 5,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three iterations."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main([str(word) for word in [*WORDS, "--iterations", 3, "--run-dir", path]]) == 0
    return path


def test_it_goes_on_with_the_same_bits(whole, tmp_path, capsys):
    path = tmp_path / "parts"
    assert gps(capsys, *WORDS, "--iterations", 2, "--run-dir", path)[0] == 0
    code, _, err = gps(capsys, "train", "--run-dir", path, "--resume", "--iterations", 3)
    assert (code, err) == (0, "")
    assert bits(path) == bits(whole)


def test_what_a_human_wants_to_see_is_there(whole):
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    shown = {
        "student_cost",
        "local_cost",
        "kl",
        "kl_bound",
        "eta",
        "step_multiplier",
        "student_distance",
        "loss",
    }
    assert all(shown <= set(record) for record in records)
    assert records[-1]["total_rollouts"] == 3 * 3 * 3
    judged = json.loads((whole / "eval.json").read_text())
    assert judged["teacher"] is None and judged["student"]["episodes"] == 2
    assert (whole / "curves.png").stat().st_size > 10_000

"""The benchmarks of guided policy search: how rollouts are counted, and what is kept of earlier runs."""

import json

import numpy as np
import pytest

from benchmarks import gps_tables, harness
from benchmarks.fitted_dynamics import kept, rollouts_to, thresholds
from gps.run import versions


def test_rollouts_are_counted_up_to_the_first_iteration_that_is_near_enough():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, threshold = rng.uniform(size=30), rng.uniform(0, 0.3)
        count = None
        for i, cost in enumerate(costs):
            if cost <= threshold:
                count = 5 * i
                break
        found = rollouts_to(costs, threshold, 5)
        assert np.isnan(found) if count is None else found == count
    assert rollouts_to(np.array([3.0, 2.0]), 2.0, 7) == 7
    assert list(thresholds(60.0, -40.0).values()) == [-30.0, -36.0]


def test_what_was_measured_is_kept_for_the_code_that_measured_it(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "KEPT", tmp_path)
    calls = []

    def make():
        calls.append(len(calls))
        return {"costs": [float(len(calls))]}

    assert [kept(["task", 1], make)["costs"] for _ in range(2)] == [[1.0], [1.0]]
    assert kept(["task", 2], make)["costs"] == [2.0]
    monkeypatch.setattr(harness, "versions", lambda: {"code": "another"})
    assert kept(["task", 1], make)["costs"] == [3.0]


def test_a_table_is_not_made_of_runs_of_other_code(tmp_path):
    place = tmp_path / "peg" / "mdgps" / "seed-0"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"versions": versions()}))
    gps_tables._of_this_code(tmp_path)
    (place / "config.json").write_text(json.dumps({"versions": {"code": "abc"}}))
    with pytest.raises(ValueError, match=r"runs of other versions of the code \(abc\): remove it"):
        gps_tables._of_this_code(tmp_path)

"""Skipped where scipy is not installed."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.aggregates import interval, middle


def test_the_middle_is_the_mean_of_the_middle_half():
    np.testing.assert_allclose(middle(np.array([-100.0, 1, 2, 3, 4, 5, 6, 900])), 3.5)
    np.testing.assert_allclose(middle(np.array([[3.0, 1], [1, 5], [2, 3]])), [2, 3])  # of three, all


def test_the_interval_of_many_seeds_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    bounds = np.array([interval(rng.normal(size=40)) for _ in range(200)])
    covered = np.mean((bounds[:, 0] < 0) & (bounds[:, 1] > 0))
    assert 0.88 < covered < 0.99
    np.testing.assert_array_equal(interval(np.array([[2.0, 3.0]])), [[2, 3], [2, 3]])

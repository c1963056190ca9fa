"""How the benchmark of fitted dynamics counts rollouts."""

import numpy as np

from benchmarks.fitted_dynamics import rollouts_to, thresholds


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

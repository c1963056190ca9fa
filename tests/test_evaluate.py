"""Figures of merit beside NumPy."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import HORIZON, plain

from gps.episodes import episodes, student_drives, teacher_drives
from gps.evaluate import autonomy, disagreement, drift, evaluate, growth, score

ENV, STUDENT = tasks.corridor(), tasks.recurrent()
VARIABLES = (jnp.asarray(tasks.WEIGHTS), ())
W = 12
KEYS = jax.random.split(jax.random.key(21), W)


@cache
def both():
    """(teacher's, student's) episodes in the same worlds, and the drift between them."""
    settings = {"make_teacher": tasks.corridor_teacher, "student": STUDENT, "replace": False}
    drivers = (teacher_drives, student_drives)
    runs = [episodes(ENV, drive, HORIZON, **settings) for drive in drivers]
    apart = drift(ENV, tasks.corridor_teacher, STUDENT)
    found = jax.jit(lambda: ([run(KEYS, VARIABLES, ()) for run in runs], apart(KEYS, VARIABLES)))()
    return jax.tree.map(plain, found)


def test_scores_are_those_of_each_world_while_it_lasts():
    (steps, _), _ = both()
    scores = score(steps, ENV.dt)
    assert 0 < np.sum(scores.survived) < W and len(set(np.asarray(scores.time))) > 2
    for w in range(W):
        last = next((i + 1 for i in range(HORIZON) if steps.failed[i, w]), HORIZON)
        assert scores.time[w] == last * 0.5
        assert scores.survived[w] == (not steps.failed[last - 1, w])
        np.testing.assert_allclose(scores.cost[w], np.mean(steps.cost[:last, w]))
        for name, values in steps.metrics.items():
            np.testing.assert_allclose(scores.metrics[name][w], np.mean(values[:last, w]))


def test_each_drives_in_its_evaluation():
    (taught, own), _ = both()
    for name, steps in (("make_teacher", taught), ("student", own)):
        driver = tasks.corridor_teacher if name == "make_teacher" else STUDENT
        run = jax.jit(evaluate(ENV, **{name: driver}, num_steps=HORIZON + 3))
        scores, found = jax.tree.map(plain, run(KEYS, VARIABLES))
        np.testing.assert_array_equal(found.alive[:HORIZON], steps.alive)
        assert not np.any(found.alive[HORIZON:])
        np.testing.assert_allclose(found.u[:HORIZON][steps.alive], steps.u[steps.alive], rtol=1e-12)
        np.testing.assert_allclose(scores.cost, score(steps, ENV.dt).cost)
    clipped = np.clip(taught.action.dist.mean, tasks.LOW, tasks.HIGH)
    np.testing.assert_allclose(taught.u[taught.alive], clipped[taught.alive])


def test_drift_is_measured_over_the_worlds_that_last():
    (taught, own), found = both()
    assert 0 < found.alive[-1] < found.alive[0]
    costs = np.zeros(2)
    for t in range(HORIZON):
        for i, (steps, loss) in enumerate(((taught, found.loss_on_teacher), (own, found.loss_on_student))):
            lasting = [w for w in range(W) if steps.alive[t, w]]
            losses = []
            for w in lasting:
                gap = steps.student_mean[t, w] - steps.action.dist.mean[t, w]
                sound = steps.action.status[t, w] == 0
                losses.append(0.5 * gap @ steps.action.Quu[t, w] @ gap if sound else 0.0)
            np.testing.assert_allclose(loss[t], np.mean(losses))
            costs[i] += np.mean(steps.cost[t, lasting])
        np.testing.assert_allclose([found.cost_teacher[t], found.cost_student[t]], costs)
        together = [w for w in range(W) if taught.alive[t, w] and own.alive[t, w]]
        gaps = [np.linalg.norm(own.x[t, w] - taught.x[t, w]) for w in together]
        np.testing.assert_allclose(found.divergence[t], np.mean(gaps), atol=1e-15)
        assert found.alive[t] == len(together)
    assert found.divergence[0] == 0 and found.divergence[-1] > 0.1
    assert np.any(taught.action.status[taught.alive] != 0)


def test_growth_is_the_slope_of_a_log_log_fit():
    length = np.arange(1, 41)
    costs = 0.3 * length**1.7 * np.exp(np.random.default_rng(0).normal(size=40) * 0.2)
    expected = np.polyfit(np.log(length), np.log(costs), 1)[0]
    np.testing.assert_allclose(jax.jit(growth)(jnp.asarray(costs)), expected, rtol=1e-10)
    later = np.polyfit(np.log(length[7:]), np.log(costs[7:]), 1)[0]
    found = jax.jit(lambda costs: growth(costs, skip=7))(jnp.asarray(costs * (length > 7)))
    np.testing.assert_allclose(found, later, rtol=1e-10)
    assert abs(expected - 1.7) < 0.15


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="needs a teacher or a student"):
        evaluate(ENV)
    (steps, _), _ = both()
    with pytest.raises(ValueError, match="takes two"):
        disagreement(steps._replace(action=None))


def test_autonomy_is_ten_interventions_in_ten_minutes_make_ninety():
    """The example of Bojarski et al. 2016, section 6."""
    assert float(autonomy(10, 600.0)) == pytest.approx(90.0)
    np.testing.assert_allclose(autonomy(np.array([0, 5]), 60.0), [100, 50])

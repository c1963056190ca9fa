"""Q-learning from demonstrations: what comes of a step, which rows are drawn, what the margin does."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import plain, same

import students
from gps.algorithms.dqfd import dqfd, look_ahead
from gps.choice import Ranked
from gps.priorities import draw
from gps.types import Limits

KEY, OTHER = jax.random.split(jax.random.key(31))
ENV = tasks.road()._replace(horizon=20)
STUDENT = students.ranked(1, Limits(np.array([-0.6]), np.array([0.6])), hidden=(16,))
BUDGET = {
    "demonstrations": 4, "pretrain_updates": 1500, "num_worlds": 2, "num_steps": 6, "capacity": 30,
    "batch_size": 16, "n": 3, "test_worlds": 2, "learning_rate": 3e-3, "tau": 0.05,
}  # fmt: skip


@cache
def course():
    """States after 0 to 4 iterations, and the info of each."""
    algorithm = dqfd(ENV, tasks.road_teacher, STUDENT, **BUDGET)
    found = [(algorithm.init(KEY), {})]
    for i in range(4):
        found.append(algorithm.step(jax.random.fold_in(OTHER, i), found[-1][0]))
    return algorithm, found


def test_rows_are_drawn_by_priority_and_weighed_by_its_inverse():
    priority = jnp.array([0.0, 3.0, 1.0, 0.0, 4.0, 0.0])
    slots, weight = jax.vmap(lambda key: draw(key, priority, 8, 0.5))(jax.random.split(KEY, 20_000))
    shares = np.bincount(np.ravel(slots), minlength=6) / slots.size
    np.testing.assert_allclose(shares, priority / 8, atol=2e-3)
    chance = np.asarray(priority)[slots] / 8 * 3
    np.testing.assert_allclose(weight, (chance / chance.min(axis=1, keepdims=True)) ** -0.5, rtol=1e-6)
    every = jax.vmap(lambda key: draw(key, priority, 8, 1.0)[0])(jax.random.split(KEY, 100))
    assert np.all(np.sum(np.asarray(every) == 4, axis=1) == 4), "one from each equal share of the total"


def test_rows_without_priority_are_never_drawn_however_rounding_goes():
    rng = np.random.default_rng(0)
    priority = np.where(rng.uniform(size=20_000) < 0.3, 0, rng.uniform(0.5, 1, size=20_000)).astype(
        np.float32
    )
    drawn = jax.jit(jax.vmap(lambda key: draw(key, jnp.asarray(priority), 256, 0.6)))
    slots, weight = drawn(jax.random.split(KEY, 2000))
    assert np.all(priority[slots] > 0) and np.all(np.isfinite(weight))


def test_what_a_teacher_disowns_is_not_held_up_as_an_example():
    unsure = partial(tasks.road_teacher, disowned=0.05)
    state = dqfd(ENV, unsure, STUDENT, **BUDGET | {"pretrain_updates": 0}).init(KEY)
    shown = np.asarray(state.known[:80])
    off = np.abs(np.asarray(state.rows.obs[:80, 0])) > 0.05
    assert 0 < np.sum(shown & off) < shown.sum()
    np.testing.assert_array_equal(np.asarray(state.meant[:80]), shown & ~off)


def test_a_far_return_is_the_sum_of_what_follows_within_the_episode():
    rng = np.random.default_rng(0)
    T, W, n, discount = 12, 5, 4, 0.9
    reward, obs, following = rng.normal(size=(T, W)), rng.normal(size=(T, W, 2)), rng.normal(size=(T, W, 2))
    failed, last = rng.uniform(size=(2, T, W)) < 0.15
    last[-1] = True
    choice = rng.integers(0, 3, size=(T, W))
    parts = (obs, choice, reward, following, failed, last)
    rows = look_ahead(*map(jnp.asarray, parts), (n, discount))
    for w in range(W):
        for t in range(T):
            total, i = 0.0, t
            for i in range(t, min(t + n, T)):
                total += discount ** (i - t) * reward[i, w]
                if failed[i, w] or last[i, w]:
                    break
            factor = 0 if failed[i, w] else discount ** (i - t + 1)
            assert float(rows.far_return[t, w]) == pytest.approx(total)
            assert float(rows.far_discount[t, w]) == pytest.approx(factor)
            np.testing.assert_array_equal(rows.far_obs[t, w], following[i, w])
            assert float(rows.discount[t, w]) == pytest.approx(0 if failed[t, w] else discount)


def test_what_was_shown_is_preferred_by_the_margin():
    algorithm, found = course()
    state = found[0][0]
    known = np.asarray(state.known)
    assert known[:80].sum() == 4 * 19 and not known[80:].any(), "nobody knows what follows a cut"
    shown = jax.tree.map(lambda leaf: leaf[known], state.rows)
    values = jax.vmap(lambda obs: STUDENT.apply(algorithm.policy(state), obs, ())[0].values)(shown.obs)
    best = np.argmax(values, axis=1)
    assert np.mean(best == shown.choice) > 0.85
    free = dqfd(ENV, tasks.road_teacher, STUDENT, **BUDGET | {"supervised": 0.0})
    policy = free.policy(free.init(KEY))
    values = jax.vmap(lambda obs: STUDENT.apply(policy, obs, ())[0].values)(shown.obs)
    assert np.mean(np.argmax(values, axis=1) == shown.choice) < 0.6


def test_the_policy_is_the_average_of_late():
    algorithm, found = course()
    state = found[4][0]
    policy = algorithm.policy(state)
    assert same(policy, (state.target, state.variables[1]))
    assert not same(policy[0], state.variables[0])


def test_demonstrations_stay_while_its_own_steps_give_way():
    _, found = course()
    before, after = found[0][0], found[4][0]
    kept = jax.tree.map(lambda leaf: leaf[:80], (before.rows, before.known))
    assert same(kept, jax.tree.map(lambda leaf: leaf[:80], (after.rows, after.known)))
    assert int(after.written) == 48 and bool(np.all(after.known[80:]))
    assert not same(found[3][0].rows.obs[80:], after.rows.obs[80:])


def test_it_leaves_its_state_alone_repeats_itself_and_counts():
    algorithm, found = course()
    before = found[1][0]
    bits = jax.tree.map(lambda leaf: plain(leaf).copy(), before)
    after, info = algorithm.step(jax.random.fold_in(OTHER, 1), before)
    assert same(before, bits) and same(after, found[2][0])
    assert jax.tree.structure(before) == jax.tree.structure(after)
    other, _ = algorithm.step(KEY, before)
    assert not same(after.variables, other.variables)
    assert int(info["total_simulator_steps"]) == 4 * 20 + 2 * 12
    assert int(info["total_gradient_updates"]) == 1500 + 2 * 12
    assert bool(info["finite"]) and 0 < float(info["demonstrated"]) < 1


def test_ranked_controls():
    values = Ranked(jnp.array([0.1, 0.7, 0.3]), jnp.array([[-1.0], [0.0], [1.0]]))
    assert float(values.mode()[0]) == 0 == float(values.sample(KEY)[0])
    assert (
        float(values.log_prob(jnp.array([0.2]))) == 0 and float(values.log_prob(jnp.array([0.8]))) == -np.inf
    )
    other = values._replace(values=jnp.array([0.1, 0.2, 0.3]))
    assert float(values.kl(values)) == 0 and float(values.kl(other)) == np.inf
    dist, _ = students.ranked(2, Limits(-np.ones(2), 3 * np.ones(2))).apply(
        students.ranked(2, Limits(-np.ones(2), 3 * np.ones(2))).init(KEY, jnp.ones(3)), jnp.ones(3), ()
    )
    assert sorted(map(tuple, dist.controls.tolist())) == [(a, b) for a in (-1, 1, 3) for b in (-1, 1, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.2}, r"discount must be in \[0, 1\], got 1.2"),
        ({"margin": -1.0}, "margin must be at least 0 and finite, got -1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"demonstrations": 0}, "demonstrations must be at least 1"),
        ({"capacity": 11}, "capacity must be at least a piece of num_worlds"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        dqfd(ENV, tasks.road_teacher, STUDENT, **BUDGET | options)


def test_students_that_do_not_choose():
    with pytest.raises(ValueError, match=r"this one has a Gaussian: take students\.ranked"):
        dqfd(ENV, tasks.road_teacher, students.mlp(1), **BUDGET).init(KEY)
    with pytest.raises(ValueError, match="leave the limits"):
        students.ranked(1, Limits(-np.ones(1), np.ones(1)), choices=((-2.0,), (0.0,)))
    with pytest.raises(ValueError, match="an episode of two steps, road has 1"):
        dqfd(ENV._replace(horizon=1), tasks.road_teacher, STUDENT, **BUDGET)
    with pytest.raises(ValueError, match="too many combinations"):
        students.ranked(17, Limits(-np.ones(17), np.ones(17)))
    with pytest.raises(ValueError, match="two controls of 3 numbers"):
        students.ranked(3, Limits(-np.ones(3), np.ones(3)), choices=((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="have no middle"):
        students.ranked(1, Limits(np.array([-np.inf]), np.array([np.inf])))

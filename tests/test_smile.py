"""SMILe: who acts in a crowd, whose parameters move, and how much of the teacher is left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import same

import students
from gps.algorithms.smile import shares, smile
from gps.algorithms.trials import on_test_worlds
from gps.episodes import TEACHER
from students.crowd import crowd, share

KEY = jax.random.key(41)
SMALL = {"num_worlds": 8, "num_steps": 40, "updates": 5, "batch_size": 16, "test_worlds": 0}
BASE = students.mlp(2, (3,))


def member(variables, k):
    params, (statistics, _) = variables
    return jax.tree.map(lambda leaf: leaf[k], (params, statistics))


def test_each_member_acts_as_often_as_its_share_says():
    several = crowd(BASE, 3)
    obs = jax.random.normal(KEY, (4000, 5), jnp.float32)
    variables = share(several.init(KEY, obs[0]), jnp.array([0.2, 0.0, 0.8]))
    acted = jax.vmap(lambda one: several.apply(variables, one, several.initial_carry(one))[0].mode())(obs)
    alone = [
        jax.vmap(lambda one, k=k: BASE.apply(member(variables, k), one, ())[0].mode())(obs) for k in range(3)
    ]
    each = np.stack([np.all(np.abs(acted - one) < 1e-6, axis=1) for one in alone])
    assert np.all(each.sum(axis=0) == 1), "one of them, never a compromise"
    share_of_first = each[0].mean()
    assert abs(share_of_first - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)
    assert not each[1].any()
    rows = several.apply_sequence(variables, obs, jnp.zeros(4000, bool), several.initial_carry(obs[0]))
    np.testing.assert_allclose(jax.vmap(lambda dist: dist.mode())(rows), acted, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.float64])
def test_states_that_differ_in_one_number_are_drawn_for_independently(dtype):
    several = crowd(BASE, 2)
    obs = jnp.zeros((800, 6)).at[:, 4].set(jnp.arange(800) % 200).at[:, 5].set(jnp.arange(800) // 200)
    obs = obs.astype(dtype)
    variables = share(several.init(KEY, obs[0]), jnp.array([0.5, 0.5]))
    acted = jax.vmap(lambda one: several.apply(variables, one, several.initial_carry(one))[0].mode())(obs)
    first = jax.vmap(lambda one: BASE.apply(member(variables, 0), one, ())[0].mode())(obs)
    mine = np.all(np.abs(acted - first) < 1e-6, axis=1)
    changes = np.mean(mine[1:] != mine[:-1])
    assert abs(mine.mean() - 0.5) < 0.08
    assert abs(changes - 0.5) < 0.08, "no runs: neighbours are drawn for apart"


def test_who_acts_alone_learns_alone():
    several = crowd(BASE, 3)
    obs = jax.random.normal(KEY, (20, 5), jnp.float32)
    variables = share(several.init(KEY, obs[0]), jnp.array([0.0, 1.0, 0.0]))
    params, (statistics, _) = several.observe_statistics(variables, obs, jnp.ones(20))
    wanted = BASE.observe_statistics(member(variables, 1), obs, jnp.ones(20))[1]
    assert same(jax.tree.map(lambda leaf: leaf[1], statistics), wanted)
    for k in (0, 2):
        assert same(jax.tree.map(lambda leaf, k=k: leaf[k], statistics), member(variables, k)[1])

    def loss(params):
        act = several.apply((params, variables[1]), obs[0], several.initial_carry(obs[0]))[0]
        return jnp.sum(act.mode() ** 2)

    for leaf in jax.tree.leaves(jax.grad(loss)(params)):
        assert not np.any(leaf[0]) and not np.any(leaf[2])


@pytest.mark.slow
def test_a_crowd_of_students_that_remember():
    one = students.gru(1, 4, (4,))
    several = crowd(one, 2)
    obs, first = jax.random.normal(KEY, (6, 3), jnp.float32), jnp.arange(6) == 0
    variables = share(several.init(KEY, obs[0]), jnp.array([0.0, 1.0]))
    found = several.apply_sequence(variables, obs, first, several.initial_carry(obs[0]))
    wanted = one.apply_sequence(member(variables, 1), obs, first, one.initial_carry(obs[0]))
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-6)
    carry = several.initial_carry(obs[0])
    for t in range(6):
        dist, carry = several.apply(variables, obs[t], carry)
        np.testing.assert_allclose(dist.mean, wanted.mean[t], atol=1e-5)


def test_the_shares_are_the_papers():
    found = shares(0.25, 4, jnp.int32(3))
    each = 0.25 * 0.75 ** np.arange(3) / (1 - 0.75**3)
    np.testing.assert_allclose(found, [*each, 0], rtol=1e-6)
    np.testing.assert_array_equal(shares(0.25, 4, jnp.int32(0)), [1, 0, 0, 0])


def test_each_iteration_makes_one_member_from_its_own_labels_alone():
    env = tasks.road()
    algorithm = smile(
        env, tasks.road_teacher, crowd(students.mlp(1, (4,)), 3), alpha=0.3, iterations=3, **SMALL
    )
    states, taught = [algorithm.init(KEY)], []
    for i in range(3):
        state, info = algorithm.step(jax.random.fold_in(KEY, i), states[-1])
        states.append(state)
        taught.append(float(np.mean(state.dataset.behaviour == TEACHER)))
        assert info["samples"] == np.sum(state.dataset.weight > 0) == 320
    for before, after, made in zip(states, states[1:], range(3), strict=False):
        for k in range(3):
            kept = same(member(before.fit.variables, k), member(after.fit.variables, k))
            assert kept == (k != made)
    for i, share_left in enumerate(taught):
        p = 0.7**i
        assert abs(share_left - p) < 4 * np.sqrt(p * (1 - p) / 320) + 1e-9
    assert not same(states[1].dataset.obs, states[2].dataset.obs)
    rows, driver = states[3].dataset, algorithm.policy(states[2])
    mixture = crowd(students.mlp(1, (4,)), 3)
    acts = jax.vmap(lambda one: mixture.apply(driver, one, mixture.initial_carry(one))[0].mode())(rows.obs)
    own = np.asarray(rows.behaviour) != TEACHER
    np.testing.assert_allclose(rows.action[own], np.clip(acts[own], *env.limits), atol=1e-5)
    np.testing.assert_allclose(algorithm.policy(states[2])[1].shares, shares(0.3, 3, jnp.int32(2)))
    counts = {int(leaf) for leaf in jax.tree.leaves(states[3].fit.opt_state) if leaf.dtype == jnp.int32}
    assert counts == {5}, "the optimiser begins afresh"


@pytest.mark.parametrize(
    ("student", "changed", "message"),
    [
        (students.mlp(1, (4,)), {}, "give it a students.crowd.student, 3. .*got no crowd"),
        (crowd(students.mlp(1, (4,)), 2), {}, "in each of 3 iterations.*got 2"),
        (crowd(students.mlp(1, (4,)), 3), {"alpha": 0.0}, "alpha must be in .0, 1., got 0.0"),
        (crowd(students.mlp(1, (4,)), 3), {"test_worlds": -1}, "test_worlds must be at least 0, got -1"),
    ],
)
def test_what_cannot_work_is_said(student, changed, message):
    with pytest.raises(ValueError, match=message):
        smile(tasks.road(), tasks.road_teacher, student, iterations=3, **SMALL | changed).init(KEY)


@pytest.mark.slow
def test_what_is_tried_is_the_mixture():
    env, several = tasks.road(), crowd(students.mlp(1, (4,)), 2)
    algorithm = smile(env, tasks.road_teacher, several, iterations=2, **SMALL | {"test_worlds": 3})
    state = algorithm.init(KEY)
    for i in range(2):
        state, info = algorithm.step(jax.random.fold_in(KEY, i), state)
    wanted = on_test_worlds(env, several, 3)(algorithm.policy(state))
    assert same(wanted, {name: info[name] for name in wanted})
    alone = on_test_worlds(env, several, 3)(state.fit.variables)
    assert not same(wanted, alone)


def test_the_crowd_is_full_at_last_and_nobody_joins_who_learned_nothing():
    env, several = tasks.road(), crowd(students.mlp(1, (4,)), 1)
    algorithm = smile(env, tasks.road_teacher, several, iterations=1, **SMALL)
    state, _ = algorithm.step(KEY, algorithm.init(KEY))
    with pytest.raises(ValueError, match="all 1 members of the crowd are made"):
        algorithm.step(KEY, state)
    dumb = functools.partial(tasks.road_teacher, disowned=-1.0)
    algorithm = smile(env, dumb, several, iterations=1, **SMALL)
    with pytest.raises(ValueError, match="member 1 learns nothing: the teacher refused every label"):
        algorithm.step(KEY, algorithm.init(KEY))


def test_a_crowd_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least 1 member, got 0"):
        crowd(BASE, 0)

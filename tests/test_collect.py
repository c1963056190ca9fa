"""Worlds that run on, by what has to hold of their rows; the steps themselves are those of `gps.episodes`."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import small_tasks as tasks
from small_tasks import HORIZON, A, B, plain

from gps.collect import collector, student_samples
from gps.gaussian import Gaussian
from gps.types import Student

T, W = 20, 6


def student():
    """Feedback on x with some noise, and a memory that counts."""

    def apply(variables, obs, carry):
        mean = jnp.stack([-0.2, 0.1]) * obs["x"][0] + 0.01 * carry
        return Gaussian(mean, 0.3 * jnp.eye(2)), carry + 1

    return Student(lambda key, obs: ((), ()), lambda obs: jnp.zeros(()), apply, None, None)


@cache
def collected():
    """(rows, info, running after) of two pieces, as NumPy."""
    env = tasks.corridor()
    env = env._replace(observer=env.observer)
    collect = collector(env, student(), student_samples, T)
    run = jax.jit(lambda key, running: collect.run(key, running, (), ()))
    running = jax.jit(collect.begin)(jax.random.split(jax.random.key(0), W))
    pieces = []
    for i in range(2):
        running, rows, info = run(jax.random.key(1 + i), running)
        pieces.append((jax.tree.map(plain, rows), jax.tree.map(plain, info)))
    return pieces, jax.tree.map(plain, running)


def test_what_is_seen_next_is_in_the_next_row_unless_the_episode_is_over():
    for rows, _ in collected()[0]:
        over = rows.terminated | rows.truncated
        following, goes_on = rows.next_obs["x"][:-1], ~over[:-1]
        np.testing.assert_array_equal(following[goes_on], rows.obs["x"][1:][goes_on])
        assert not np.array_equal(following[over[:-1]], rows.obs["x"][1:][over[:-1]])
        np.testing.assert_array_equal(rows.first[1:], over[:-1])
        assert over.any() and rows.terminated.any() and rows.truncated.any()
        assert not np.any(rows.terminated & rows.truncated)


def test_the_step_behind_the_last_of_an_episode_is_seen_where_it_ended():
    env = tasks.corridor()
    for rows, _ in collected()[0]:
        sensed = rows.obs["y"]  # (2 x0 + c, u0 − x1, c): the first two tell the state with its context
        c = sensed[..., 2]
        u = np.clip(rows.action, env.limits.low, env.limits.high)
        x0 = rows.obs["x"][..., 0]
        np.testing.assert_allclose(sensed[..., 0], 2 * x0 + c, rtol=1e-5)
        last_u = rows.obs["u"][..., 0]
        x1 = last_u - sensed[..., 1]
        x = np.stack([x0, x1], axis=-1)
        expected = x @ A.T + u @ B.T + 0.05 * np.sin(x)
        np.testing.assert_allclose(rows.next_obs["x"][..., 0], expected[..., 0], atol=1e-5)


def test_episodes_go_on_from_piece_to_piece():
    (first, _), (second, _) = collected()[0]
    over = first.terminated[-1] | first.truncated[-1]
    np.testing.assert_array_equal(first.next_obs["x"][-1][~over], second.obs["x"][0][~over])
    joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    for w in range(W):
        ends = np.flatnonzero(joined.terminated[:, w] | joined.truncated[:, w])
        lengths = np.diff(ends)
        cut = joined.truncated[ends[1:], w]
        assert np.all(lengths[cut] == HORIZON) and np.all(lengths <= HORIZON)


def test_returns_are_those_of_whole_episodes():
    (first, info_first), (second, info) = collected()[0]
    joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    returns = []
    for w in range(W):
        ends = np.flatnonzero(joined.terminated[:, w] | joined.truncated[:, w])
        returns += [joined.reward[a + 1 : b + 1, w].sum() for a, b in pairwise(ends) if b >= T]
    np.testing.assert_allclose(info["return"], np.mean(returns), rtol=1e-5)
    assert int(info["ended"]) == int((second.terminated | second.truncated).sum())
    assert int(info_first["failed"]) == int(first.terminated.sum())


def test_worlds_begin_at_different_ages():
    running = jax.jit(collector(tasks.corridor(), student(), student_samples, 1).begin)(
        jax.random.split(jax.random.key(3), 200)
    )
    ages = np.asarray(running.world.t)
    assert set(ages.tolist()) == set(range(HORIZON))
    assert np.all(np.isnan(running.reward))

"""Observation wrappers against plain NumPy loops over the observations they wrap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.forest_trail import forest_trail
from envs.fork import fork
from envs.lane_drive import lane_drive
from envs.observations import (
    bias,
    delay,
    differences,
    dropout,
    history,
    inverse_depth,
    noise,
    outage,
    subset,
)
from gps.plant import plant
from gps.types import Mirror, Observer

STEPS = 40
RNG = np.random.default_rng(5)
XS = RNG.normal(size=(STEPS, 3))


def scene():
    """Three numbers to see, offset by a context that `bind` sets."""
    env = plant(
        lambda x, u: x + jnp.concatenate([u, u[:1]]),
        lambda x, u, y, t: jnp.sum(x**2),
        lambda x, y: jnp.sum(x**2),
        nx=3,
        nu=2,
    )

    def bind(context):
        see = Observer(lambda key: (), lambda key, memory, x, y, u_prev: (x + jnp.full(3, context), memory))
        return env._replace(observer=see, bind=bind, planning=env)

    return bind(0.0)


ENV = scene()


def watch(env, xs=XS, seed=0):
    """Observations along `xs` from the start of an episode."""
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def look(memory, knot):
        x, key = knot
        obs, memory = env.observer.observe(key, memory, x, jnp.zeros(0, x.dtype), jnp.zeros(2, x.dtype))
        return memory, obs

    keys = jax.random.split(step_key, len(xs))
    return jax.jit(lambda x: jax.lax.scan(look, env.observer.init(init_key), (x, keys))[1])(jnp.asarray(xs))


def watch_many(env, episodes):
    """The same in episodes of other seeds, [episodes, steps, …]."""
    keys = jax.vmap(jax.random.key)(jnp.arange(episodes))

    def one(key):
        init_key, step_key = jax.random.split(key)

        def look(memory, knot):
            obs, memory = env.observer.observe(knot[1], memory, knot[0], jnp.zeros(0), jnp.zeros(2))
            return memory, obs

        steps = jnp.asarray(XS), jax.random.split(step_key, STEPS)
        return jax.lax.scan(look, env.observer.init(init_key), steps)[1]

    return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_history_is_the_last_n_oldest_first(n):
    expected = [[XS[max(0, t - n + 1 + i)] for i in range(n)] for t in range(STEPS)]
    np.testing.assert_array_equal(watch(history(ENV, n)), expected)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_differences_are_the_rates_of_the_history(n):
    frames = np.asarray(watch(history(ENV, n)))
    seen = np.asarray(watch(differences(ENV._replace(dt=0.5), n)))
    np.testing.assert_array_equal(seen[:, -1], XS)
    np.testing.assert_allclose(seen[:, :-1], 2 * (frames[:, 1:] - frames[:, :-1]), atol=1e-12)


@pytest.mark.parametrize(("dtype", "rate"), [(jnp.uint8, -20.0), (jnp.int32, -20.0), (bool, 0.0)])
def test_differences_of_whole_numbers_and_flags(dtype, rate):
    see = Observer(lambda key: (), lambda key, memory, x, y, u_prev: (x.astype(dtype), memory))
    seen = watch(
        differences(ENV._replace(observer=see, dt=0.5), 2), np.array([[200.0], [190.0]]) * np.ones(3)
    )
    np.testing.assert_array_equal(seen[1, 0], np.full(3, rate))
    with pytest.raises(ValueError, match="noise needs floating point observations, came"):
        watch(noise(ENV._replace(observer=see), 0.1))


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_delay_shows_the_past(steps):
    np.testing.assert_array_equal(watch(delay(ENV, steps)), [XS[max(0, t - steps)] for t in range(STEPS)])


def test_dropout_repeats_what_came_through():
    seen = np.asarray(watch(dropout(ENV, 0.4), np.arange(6000.0).reshape(2000, 3)))
    new = seen[:, 0] == 3.0 * np.arange(2000)
    np.testing.assert_array_equal(seen[1:][~new[1:]], seen[:-1][~new[1:]])
    assert new[0] and abs(new.mean() - 0.6) < 4 * np.sqrt(0.24 / 2000)
    np.testing.assert_array_equal(watch(dropout(ENV, 0.0)), XS)
    np.testing.assert_array_equal(watch(dropout(ENV, 1.0)), np.repeat(XS[:1], STEPS, axis=0))


def test_noise_has_its_standard_deviation():
    xs, std = np.zeros((4000, 3)), np.array([0.1, 1.0, 0.0])
    seen = np.asarray(watch(noise(ENV, std), xs))
    np.testing.assert_allclose(seen.std(axis=0), std, rtol=4 / np.sqrt(2 * 4000), atol=0)
    assert np.all(np.abs(seen.mean(axis=0)) <= 4 * std / np.sqrt(4000))
    assert abs(np.corrcoef(seen[:, :2].T)[0, 1]) < 4 / np.sqrt(4000)
    assert not np.array_equal(seen, watch(noise(ENV, std), xs, seed=1))
    np.testing.assert_array_equal(seen, watch(noise(ENV, std), xs))


def test_history_of_noisy_observations_keeps_each_as_it_was_seen():
    seen = np.asarray(watch(history(noise(ENV, 0.3), 3)))
    np.testing.assert_array_equal(seen[3:, 0], seen[1:-2, 2])
    assert np.abs(seen[:, 2] - XS).std() > 0.1


@pytest.mark.parametrize("select", [[2, 0], slice(1, None), lambda obs: obs[:2] * 2])
def test_subset_of_a_vector(select):
    expected = XS[:, :2] * 2 if callable(select) else XS[:, select]
    np.testing.assert_array_equal(watch(subset(ENV, select)), expected)


def named():
    see = Observer(
        lambda key: (), lambda key, memory, x, y, u_prev: ({"place": x[:2], "speed": x[2]}, memory)
    )
    return ENV._replace(observer=see)


def test_dicts_of_observations():
    seen = watch(history(subset(named(), ["place"]), 2))
    assert list(seen) == ["place"]
    np.testing.assert_array_equal(seen["place"][5], XS[4:6, :2])
    with pytest.raises(ValueError, match="did you mean 'speed'"):
        subset(named(), ["sped"])
    twice = Observer(lambda key: (), lambda key, memory, x, y, u_prev: ((x, x), memory))
    left, right = watch(noise(ENV._replace(observer=twice), 0.1))
    assert np.abs(left - right).min() > 0
    noisy = watch(noise(named(), 0.1))
    assert np.std(noisy["speed"] - XS[:, 2]) > 0.05 and np.std(noisy["place"] - XS[:, :2]) > 0.05


WRAPPERS = {
    "history": functools.partial(history, n=3),
    "differences": functools.partial(differences, n=3),
    "delay": functools.partial(delay, steps=2),
    "dropout": functools.partial(dropout, rate=0.3),
    "noise": functools.partial(noise, std=0.1),
    "subset": functools.partial(subset, select=[0, 2]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_survive_bind_and_leave_the_rest_alone(name):
    wrap = WRAPPERS[name]
    env = wrap(wrap(ENV)) if name != "subset" else wrap(ENV)
    untouched = [field for field in env._fields if field not in ("observer", "bind")]
    assert all(getattr(env, field) is getattr(ENV, field) for field in untouched)
    by_context = jax.vmap(lambda context: watch(env.bind(context)))(jnp.array([0.0, 7.0]))
    np.testing.assert_allclose(watch(env, XS + 7.0), by_context[1], atol=1e-12)
    np.testing.assert_allclose(watch(env), by_context[0], atol=1e-12)
    np.testing.assert_array_equal(watch(env.bind(0.0).bind(7.0)), by_context[1])


def test_wrappers_reflect_what_they_show_or_say_that_they_cannot():
    mirror = Mirror(lambda obs: obs * jnp.array([1.0, -1.0, 1.0]), np.eye(2))
    env = ENV._replace(mirror=mirror)
    np.testing.assert_array_equal(history(env, 4).mirror.obs(XS[:4]), XS[:4] * np.array([[1.0, -1.0, 1.0]]))
    bent = mirror._replace(obs=lambda obs: 1 - obs**3)
    through = differences(ENV._replace(mirror=bent), 4).mirror.obs(watch(differences(ENV, 4))[7])
    expected = watch(differences(ENV, 4), 1 - XS**3)[7]
    np.testing.assert_allclose(through, expected, atol=1e-10)
    for wrap in ("delay", "dropout", "noise"):
        assert WRAPPERS[wrap](env).mirror is mirror
    assert subset(env, [0, 2]).mirror is noise(env, [0.1, 0.2, 0.1]).mirror is None


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_wrappers_keep_the_dtype(name, dtype):
    assert watch(WRAPPERS[name](ENV), XS.astype(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda: history(ENV, 0), "history needs a whole number n >= 1, came 0"),
        (lambda: differences(ENV, 0), "differences needs a whole number n >= 1, came 0"),
        (lambda: delay(ENV, -1), "delay needs a whole number steps >= 0"),
        (lambda: delay(ENV, 2.5), "delay needs a whole number steps >= 0, came 2.5"),
        (lambda: delay(ENV, 10_000), "delay of 10001 observations is longer than an episode"),
        (lambda: outage(ENV, 0.1, sensors=[]), "outage of no sensors"),
        (lambda: fork(gust=np.nan), "gust must be at least 0 and finite, got nan"),
        (lambda: lane_drive(wind=-1.0), "wind must be at least 0 and finite, got -1.0"),
        (lambda: forest_trail(gust=np.inf), "gust must be at least 0 and finite, got inf"),
        (lambda: dropout(ENV, 1.5), "rate between 0 and 1, came 1.5"),
        (lambda: noise(ENV, -0.1), "std >= 0"),
        (lambda: watch(noise(ENV, [0.1, 0.2])), r"std of shape \(2,\) does not fit .* shape \(3,\)"),
        (lambda: subset(ENV, [3]), "indices from 0 to 2 expected, came \\[3\\]"),
        (lambda: subset(named(), [0]), "no 0"),
        (lambda: subset(named(), slice(1)), "give names from \\['place', 'speed'\\]"),
        (lambda: subset(history(ENV, 2), [0]), "needs an observation that is one vector"),
    ],
)
def test_bad_input_says_what_to_do(wrap, says):
    with pytest.raises(ValueError, match=says):
        wrap()


def test_a_bias_lasts_for_an_episode_and_is_drawn_anew_for_the_next():
    offsets = watch_many(bias(ENV, 0.5), 200) - XS
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[:, :1], offsets.shape), atol=1e-12)
    drawn = offsets[:, 0].ravel()
    assert abs(drawn.mean()) < 4 * 0.5 / np.sqrt(600)
    np.testing.assert_allclose(drawn.std(), 0.5, rtol=0.15)


def test_a_sensor_that_fails_reads_zero_for_the_rest_of_the_episode():
    out = np.all(watch_many(outage(ENV, 0.05), 300) == 0, axis=2)
    assert np.all(out[:, 1:] >= out[:, :-1]), "it never comes back"
    expected = 1 - 0.95 ** np.arange(1, STEPS + 1)
    np.testing.assert_allclose(out.mean(0), expected, atol=4 * 0.5 / np.sqrt(300))


def test_a_sensor_that_is_repaired_works_the_share_of_time_that_a_markov_chain_does():
    out = np.all(watch_many(outage(ENV, 0.2, repair=0.3), 300) == 0, axis=2)
    np.testing.assert_allclose(out[:, 20:].mean(), 0.2 / 0.5, atol=0.03)
    assert np.any(out[:, :-1] & ~out[:, 1:])


def test_sensors_of_a_dict_fail_on_their_own():
    both = subset(ENV, lambda obs: {"a": obs[:1], "b": obs[1:]})
    seen = watch(outage(both, 0.05, sensors=["b"]))
    np.testing.assert_array_equal(seen["a"], XS[:, :1])
    assert np.all(seen["b"][-1] == 0) and np.all(seen["b"][0] == XS[0, 1:])
    apart = watch(outage(both, 0.1), seed=3)
    first_lost = [int(np.argmax(np.all(np.asarray(apart[name]) == 0, axis=1))) for name in ("a", "b")]
    assert first_lost[0] != first_lost[1]


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda: bias(ENV, -1.0), "bias needs std >= 0"),
        (lambda: outage(ENV, 1.5), "rate between 0 and 1"),
        (lambda: outage(ENV, 0.1, repair=-1), "repair between 0 and 1"),
        (lambda: outage(subset(ENV, lambda o: {"angle": o}), 0.1, sensors=["angel"]), "did you mean 'angle'"),
        (lambda: history(ENV, ENV.horizon + 1), "longer than an episode"),
        (lambda: differences(ENV, ENV.horizon + 1), "longer than an episode"),
    ],
)
def test_failures_that_cannot_be_are_said(wrap, says):
    with pytest.raises(ValueError, match=says):
        wrap()


def test_inverse_depth_is_near_over_depth_within_its_range():
    both = subset(scene(), lambda obs: {"front_depth": 3 * jnp.abs(obs), "rest": obs})
    env = inverse_depth(both, 0.2, 2.0).bind(0.3)
    for x in XS:
        obs, _ = env.observer.observe(jax.random.key(0), (), x, jnp.zeros(0), jnp.zeros(2))
        np.testing.assert_allclose(
            obs["front_depth"], 0.2 / np.clip(3 * np.abs(x + 0.3), 0.2, 2.0), rtol=1e-12
        )
        np.testing.assert_array_equal(obs["rest"], x + 0.3)
    for near, far in ((0.0, 8.0), (8.0, 0.2), (0.2, np.inf)):
        with pytest.raises(ValueError, match="0 < near < far, both finite"):
            inverse_depth(both, near, far)
    for blind in (scene(), subset(scene(), lambda obs: {"front": obs})):
        with pytest.raises(ValueError, match="finds no depth in the observation"):
            inverse_depth(blind, 0.2, 8.0)

"""Gymnasium's tasks as ours, and ours as gymnasium's."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toys import line

from envs.as_gymnasium import as_gymnasium, as_gymnasium_vector
from envs.gymnasium import from_gymnasium, state_of
from envs.gymnasium_tasks import TASKS
from envs.pendulum import pendulum
from envs.reacher import reacher

READS_STALE = ("Ant", "Humanoid")
"""Gymnasium takes where the robot was before a step from what the last step's integrator left behind."""


def make(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MuJoCo 4 on elements of their MJCF, gymnasium on versions
        return gymnasium.make(f"{kind}-v5")


@pytest.mark.parametrize("kind", TASKS)
def test_rewards_states_and_ends_are_gymnasiums_own(kind):
    world = make(kind)
    env = from_gymnasium(world)
    step, reward = jax.jit(env.step), jax.jit(env.reward)
    failed = jax.jit(lambda x: env.failed(x, jnp.zeros(env.ny)))
    world.action_space.seed(0)
    world.reset(seed=3)
    ended = 0
    for i in range(100):
        x = state_of(world)
        if kind in READS_STALE:
            nq = world.unwrapped.model.nq
            world.unwrapped.set_state(x[:nq], x[nq:])
        u = world.action_space.sample()
        obs, theirs, terminated, _, _ = world.step(u)
        x_next = state_of(world)
        u = jnp.asarray(u, float)
        np.testing.assert_allclose(step(x, u)[0], x_next, atol=2e-6)
        np.testing.assert_allclose(reward(x, u, x_next), theirs, atol=1e-6)
        assert bool(failed(x_next)) == terminated
        seen, _ = env.observer.observe(KEY, (), jnp.asarray(x_next), jnp.zeros(env.ny), u)
        # The rest are contact forces and such; Reacher's last two are positions that the step left behind.
        shared = seen.shape[0] - (2 if kind == "Reacher" else 0)
        np.testing.assert_allclose(seen[:shared], obs[:shared], atol=1e-9)
        ended += terminated
        if terminated:
            world.reset(seed=i)
    assert ended > 0 or kind in ("HalfCheetah", "Swimmer", "Reacher", "Ant")
    assert env.horizon == (50 if kind == "Reacher" else 1000)
    assert env.dt == pytest.approx(world.unwrapped.dt)


KEY = jax.random.key(2)


@pytest.mark.parametrize("kind", TASKS)
def test_episodes_begin_as_gymnasiums_do(kind):
    """The same support and spread of the first states."""
    world = make(kind)
    env = from_gymnasium(world)
    ours = np.asarray(jax.jit(jax.vmap(env.init))(jax.random.split(KEY, 300)))
    theirs = []
    for seed in range(300):
        world.reset(seed=seed)
        theirs.append(state_of(world))
    theirs = np.array(theirs)
    means, spread = theirs.mean(axis=0), theirs.std(axis=0)
    np.testing.assert_array_less(np.abs(ours.mean(axis=0) - means), 5 * spread / np.sqrt(150) + 1e-9)
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.25, atol=1e-12)
    # Uniform and normal noise differ in how far they reach: 1.7 and some 3 deviations.
    reach = lambda rows: np.abs(rows - means).max(axis=0) / np.maximum(spread, 1e-9)  # noqa: E731
    np.testing.assert_array_equal(reach(ours) > 2.2, reach(theirs) > 2.2)


def test_planning_models_are_coarser_and_near():
    env = from_gymnasium("Walker2d-v5")
    assert env.planning is not None and env.planning.dt == env.dt
    x = env.init(KEY)
    u = 0.1 * jnp.ones(env.nu)
    fine, coarse = env.step(x, u)[0], env.planning.step(x, u)[0]
    assert 1e-6 < np.max(np.abs(fine[:9] - coarse[:9])) < 1e-2
    assert from_gymnasium("Walker2d-v5", coarse=0).planning is None


def test_a_task_that_is_not_known_says_what_to_do():
    with pytest.raises(ValueError, match=r"no task 'Pusher-v5' here.*envs.from_mjcf"):
        from_gymnasium("Pusher-v5")
    with pytest.raises(ValueError, match=r"no task 'CartPole-v1' here.*it is not one of MuJoCo's"):
        from_gymnasium("CartPole-v1")
    with pytest.raises(ValueError, match=r"task must be an id such as 'HalfCheetah-v5'.*came 42"):
        from_gymnasium(42)
    with pytest.raises(ValueError, match=r"settings that it has by default, came forward_reward_weight"):
        from_gymnasium("HalfCheetah-v5", forward_reward_weight=2.0)
    assert from_gymnasium("HalfCheetah-v5", max_episode_steps=7).horizon == 7
    heavy = gymnasium.make("Swimmer-v5")
    heavy.unwrapped.model.body_mass[1] *= 10
    with pytest.raises(ValueError, match="the model of Swimmer-v5 was changed after it was made"):
        from_gymnasium(heavy)


# ------------------------------------------------------------------------------- the other way


@pytest.mark.parametrize("make_env", [pendulum, reacher, line])
def test_ours_pass_gymnasiums_checker(make_env):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Box.*")  # unlimited observations, unsymmetric controls
        check_env(as_gymnasium(make_env()), skip_render_check=True)


def test_an_episode_is_that_of_the_env():
    env = reacher(horizon=5)
    world = as_gymnasium(env)
    obs, _ = world.reset(seed=4)
    again, _ = world.reset(seed=4)
    np.testing.assert_array_equal(obs, again)
    other, _ = world.reset(seed=5)
    assert np.any(other != obs)
    world.reset(seed=4)
    target = obs[6:8]
    bound = env.bind(jnp.asarray(target))
    u = np.array([0.5, -2.0])  # beyond the limit of 1
    for t in range(5):
        x = world.state
        obs, reward, terminated, truncated, info = world.step(u)
        expected, _ = bound.step(jnp.asarray(x), jnp.asarray(u))
        np.testing.assert_allclose(world.state, expected, atol=1e-12)
        clipped = jnp.asarray([0.5, -1.0])
        np.testing.assert_allclose(reward, -bound.cost(x, clipped, bound.sense(x, clipped), t), rtol=1e-6)
        assert (terminated, truncated) == (False, t == 4)
        np.testing.assert_allclose(
            info["distance"], bound.metrics(jnp.asarray(x), clipped)["distance"], rtol=1e-6
        )


def test_worlds_of_a_vector_are_worlds_and_begin_again():
    env = line(horizon=3)
    worlds = as_gymnasium_vector(env, 4)
    first, _ = worlds.reset(seed=1)
    assert worlds.observation_space.contains(first)
    ends = []
    for _ in range(6):
        obs, _, terminated, truncated, _ = worlds.step(np.zeros((4, env.nu)))
        ends.append(truncated.copy())
        assert worlds.observation_space.contains(obs) and not np.any(terminated)
    # Three steps, the step that begins a new episode, and two of its three.
    np.testing.assert_array_equal(np.array(ends)[:, 0], [False, False, True, False, False, False])
    assert np.all(obs[:, 1] != first[:, 1]), "worlds that begin again have new targets"
    again, _ = as_gymnasium_vector(env, 4).reset(seed=1)
    np.testing.assert_array_equal(first, again)


def test_bad_calls_say_so():
    world = as_gymnasium(pendulum())
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        world.step(np.zeros(1))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        as_gymnasium_vector(pendulum(), 2).step(np.zeros((2, 1)))
    with pytest.raises(ValueError, match="at least 1 world, came 0"):
        as_gymnasium_vector(pendulum(), 0)
    look = pendulum().observer._replace(observe=lambda key, memory, x, y, u: ((x, x), memory))
    tuples = pendulum()._replace(observer=look, bind=lambda context: pendulum()._replace(observer=look))
    with pytest.raises(ValueError, match="arrays and dictionaries of them as observations, came tuple"):
        as_gymnasium(tuples)

"""The Adroit door as gymnasium-robotics has it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.adroit_door import HINGE, adroit_door, opened
from gps.algorithms.defaults import pairing

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # versions of its tasks, elements of its MJCF
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make("AdroitHandDoorSparse-v1")


@pytest.fixture(scope="module")
def ours():
    return adroit_door()


def test_states_observations_and_rewards_are_those_of_gymnasium_robotics(theirs, ours):
    shown, _ = theirs.reset(seed=3)
    made = theirs.unwrapped
    bound = ours.bind(jnp.asarray(made.model.body_pos[made.door_body_id]))
    step = jax.jit(bound.step)
    see = jax.jit(lambda x, u: bound.observer.observe(KEY, (), x, bound.sense(x, u), u)[0])
    x = bound.init(KEY)
    np.testing.assert_allclose(see(x, jnp.zeros(28)), shown, atol=1e-12)
    rng, touched = np.random.default_rng(0), 0
    for _ in range(60):
        u = rng.uniform(-1.2, 1.2, 28)
        shown, reward, *_ = theirs.step(u)
        x_next, status = step(x, jnp.asarray(u))
        assert int(status) == 0 and float(bound.reward(x, u, x_next)) == reward
        np.testing.assert_allclose(x_next, np.concatenate([made.data.qpos, made.data.qvel]), atol=1e-9)
        # Places of palm and handle are of one engine step before, from where velocities led to x_next.
        before = x_next.at[:30].add(-0.002 * x_next[30:])
        seen, seen_before = see(x_next, u), see(before, u)
        np.testing.assert_allclose(seen[:29], shown[:29], atol=1e-9)
        np.testing.assert_allclose(seen_before[29:38], shown[29:38], atol=1e-9)
        assert seen[38] == shown[38]
        x, touched = x_next, touched + made.data.ncon
    assert touched > 0
    assert theirs.spec.max_episode_steps == ours.horizon and ours.dt == pytest.approx(made.dt)


def test_an_open_door_is_rewarded_as_there(theirs, ours):
    theirs.reset(seed=3)
    made = theirs.unwrapped
    for angle in (1.3, 1.45):
        state = made.get_env_state()
        state["qpos"] = state["qpos"].copy()
        state["qpos"][HINGE] = angle
        made.set_env_state(state)
        reward = theirs.step(np.zeros(28))[1]
        x = jnp.concatenate([jnp.asarray(made.data.qpos), jnp.asarray(made.data.qvel)])
        assert float(ours.reward(x, jnp.zeros(28), x)) == reward
        assert bool(opened(x)) == (angle > 1.4)


def test_doors_stand_where_they_do_there(theirs, ours):
    mine = np.stack([ours.sample_context(key) for key in jax.random.split(KEY, 200)])
    others = []
    for seed in range(200):
        theirs.reset(seed=seed)
        others.append(theirs.unwrapped.model.body_pos[theirs.unwrapped.door_body_id].copy())
    np.testing.assert_allclose(mine.min(axis=0), np.min(others, axis=0), atol=0.005)
    np.testing.assert_allclose(mine.max(axis=0), np.max(others, axis=0), atol=0.005)
    at = jax.jit(lambda place: ours.bind(place).sense(ours.init(KEY), jnp.zeros(28)))
    moved = np.asarray(at(jnp.asarray(mine[0]))) - np.asarray(at(jnp.asarray(mine[1])))
    np.testing.assert_allclose(moved[-3:], mine[0] - mine[1], atol=1e-12)


def test_without_gymnasium_robotics_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'guided-policy-search\[robotics\]'"):
        adroit_door()


def test_haste_of_the_arm_has_its_price_in_the_plans_and_nowhere_else(ours):
    x, u, y = ours.init(KEY), jnp.zeros(28), jnp.zeros(9)
    moving = x.at[30].set(-3.0).at[35].set(2.5).at[36].set(9.0).at[31].set(1.9)
    dear = adroit_door(haste=0.5)
    assert ours.planning is not None and dear.planning is not None
    for mine, other in ((dear, ours), (dear.planning, ours.planning)):
        more = [float(mine.cost(state, u, y, 0) - other.cost(state, u, y, 0)) for state in (x, moving)]
        np.testing.assert_allclose(more, [0, 0.5 * (1.0**2 + 0.5**2)], atol=1e-12)
    assert float(dear.reward(x, u, moving)) == float(ours.reward(x, u, moving))
    with pytest.raises(ValueError, match="haste must be at least 0 and finite, came -1"):
        adroit_door(haste=-1)


@pytest.mark.slow
def test_the_teacher_opens_the_door():
    env, make_teacher, _ = pairing("adroit_door", horizon=120)
    from gps.evaluate import evaluate
    from gps.placement import cpu_jit

    steps = cpu_jit(evaluate(env, make_teacher=make_teacher))(jax.random.split(KEY, 3), ())[1]
    assert np.sum(np.max(steps.x[:, :, HINGE], axis=0) > 1.35) >= 2

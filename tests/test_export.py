"""Episodes of teachers in files that other programs read."""

import functools
import warnings
from typing import NamedTuple

import gymnasium
import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from toys import line
from toys import teacher as by_hand

import teachers
from envs.as_gymnasium import as_gymnasium
from envs.export import record, to_hdf5, to_minari
from envs.gymnasium import from_gymnasium
from envs.reacher import reacher


@pytest.fixture(scope="module")
def recorded():
    env = reacher(horizon=20)
    make = functools.partial(teachers.mpc, horizon=15, iterations=2)
    return env, make, record(env, make, 2, seed=3)


def test_episodes_are_what_the_env_does_under_the_labels(recorded):
    env, make, episodes = recorded
    assert [episode.seed for episode in episodes] == [3, 4]
    for episode in episodes:
        assert episode.states.shape == (21, 4) and episode.gains.shape == (20, 2, 4)
        bound = env.bind(jnp.asarray(episode.context))
        for t in range(20):
            u = episode.actions[t]
            x_next, _ = bound.step(jnp.asarray(episode.states[t]), jnp.asarray(u))
            np.testing.assert_allclose(episode.states[t + 1], x_next, atol=1e-12)
            y = bound.sense(jnp.asarray(episode.states[t]), jnp.asarray(u))
            cost = bound.cost(jnp.asarray(episode.states[t]), jnp.asarray(u), y, t)
            np.testing.assert_allclose(episode.rewards[t], -cost, rtol=1e-6)
        np.testing.assert_array_equal(episode.actions, np.clip(episode.means, -1, 1))
        assert np.all(np.linalg.eigvalsh(episode.covariances) > 0) and np.any(episode.gains != 0)
        assert not episode.terminated and not np.any(episode.label_status)
    assert np.any(episodes[0].context != episodes[1].context)
    again = record(env, make, 1, seed=4)[0]
    np.testing.assert_array_equal(again.states, episodes[1].states)


@pytest.mark.slow
def test_gains_label_the_states_around(recorded):
    """The planner itself, asked at a state nearby, says what mean and gain foretell."""
    env, _, _ = recorded
    precise = functools.partial(teachers.mpc, horizon=15, iterations=60, initial_iterations=60)
    episode = record(env, precise, 1, seed=3)[0]
    teacher = precise(env.bind(jnp.asarray(episode.context)))
    t = int(np.argmin(np.max(np.abs(episode.means), axis=1)))  # the farthest from the limits
    x, mean = jnp.asarray(episode.states[t]), episode.means[t]
    dx = 1e-3 * jnp.asarray([1.0, -1.0, 2.0, 1.0])
    action, _ = teacher.act(None, teacher.init(None, x + dx), x + dx, t)
    foretold = mean + episode.gains[t] @ np.asarray(dx)
    moved = np.linalg.norm(np.asarray(action.dist.mean) - mean)
    assert moved > 1e-3 and np.linalg.norm(np.asarray(action.dist.mean) - foretold) < 0.1 * moved


def test_hdf5_holds_all_and_is_not_written_over(recorded, tmp_path):
    env, _, episodes = recorded
    path = tmp_path / "reacher.hdf5"
    to_hdf5(path, env, episodes)
    with h5py.File(path) as file:
        assert file.attrs["env"] == "reacher" and file.attrs["num_episodes"] == 2
        for i, episode in enumerate(episodes):
            for name, value in episode._asdict().items():
                np.testing.assert_array_equal(file[f"episode_{i}"][name], value)
    with pytest.raises(FileExistsError):
        to_hdf5(path, env, episodes)


def test_minari_reads_it_back(recorded, tmp_path, monkeypatch):
    import minari

    env, _, episodes = recorded
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no author, no link
        to_minari("reacher/teacher-v0", env, episodes, algorithm_name="mpc")
        back = minari.load_dataset("reacher/teacher-v0")
        with pytest.raises(ValueError, match="already exists"):
            to_minari("reacher/teacher-v0", env, episodes)
        monkeypatch.setattr(type(back.storage), "update_episodes", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            to_minari("reacher/teacher-v1", env, episodes)
        monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.rglob("*v1*")) == []
    assert back.total_episodes == 2 and back.total_steps == 40
    for ours, theirs in zip(episodes, back.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(theirs.observations, ours.observations)
        np.testing.assert_allclose(theirs.actions, ours.actions, atol=1e-6)
        np.testing.assert_allclose(theirs.rewards, ours.rewards)
        np.testing.assert_array_equal(theirs.infos["states"], ours.states)
        np.testing.assert_array_equal(theirs.infos["gains"][:-1], ours.gains)
        assert np.all(np.isnan(theirs.infos["gains"][-1])) and theirs.infos["label_status"][-1] == -1
        np.testing.assert_array_equal(theirs.truncations, np.arange(20) == 19)
        assert not np.any(theirs.terminations)


def test_failures_end_an_episode_and_unknown_gains_are_none():
    short = line(horizon=50, wall=1.2)
    episodes = record(short, by_hand(gain=-3.0), 2)  # away from the target, into the wall
    assert all(episode.terminated and len(episode.actions) < 50 for episode in episodes)
    assert all(np.all(np.isnan(episode.gains)) for episode in episodes)
    wild = record(short, by_hand(gain=50.0), 1)[0]
    assert np.max(np.abs(wild.means)) > 1 and np.max(np.abs(wild.actions)) == 1
    with pytest.raises(ValueError, match="num_episodes must be at least 1, came 0"):
        record(short, by_hand(), 0)


def test_a_foreign_world_is_recorded_too():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = gymnasium.make("InvertedPendulum-v5", max_episode_steps=4)
    env = from_gymnasium(world)
    episode = record(env, functools.partial(teachers.mpc, horizon=10, iterations=1), 1, world=world)[0]
    assert episode.states.shape == (5, 4) and np.all(episode.rewards == 1) and not episode.terminated
    np.testing.assert_allclose(
        env.step(*map(jnp.asarray, (episode.states[0], episode.actions[0])))[0], episode.states[1], atol=1e-6
    )


def test_a_world_that_is_not_of_the_task_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cheetah, small = gymnasium.make("HalfCheetah-v5"), gymnasium.make("InvertedPendulum-v5")
    make = functools.partial(teachers.mpc, horizon=3)
    with pytest.raises(
        ValueError, match="the teacher plans Walker2d-v5, came a world that is HalfCheetah-v5"
    ):
        record(from_gymnasium("Walker2d-v5"), make, 1, world=cheetah)
    rescaled = gymnasium.wrappers.RescaleAction(small, np.float32(-1), np.float32(1))
    with pytest.raises(ValueError, match="without wrappers that rescale them"):
        record(from_gymnasium(small), make, 1, world=rescaled)


def test_worlds_in_wrappers_and_worlds_without_end(tmp_path, monkeypatch):
    env = line(horizon=5)
    wrapped = gymnasium.wrappers.RecordEpisodeStatistics(as_gymnasium(env))
    one, other = record(env, by_hand(), 1, world=wrapped)[0], record(env, by_hand(), 1)[0]
    np.testing.assert_array_equal(one.states, other.states)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        endless = gymnasium.make("InvertedDoublePendulum-v5").unwrapped
    task = from_gymnasium(endless)._replace(horizon=3)
    episode = record(task, functools.partial(teachers.mpc, horizon=5, iterations=1), 1, world=endless)[0]
    assert len(episode.actions) == 3 and episode.observations.shape == (4, 9)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ValueError, match="pass the world= that they were recorded in"):
        to_minari("double/teacher-v0", task, [episode])


class Trees(NamedTuple):
    places: np.ndarray
    none: None


def test_hdf5_names_the_parts_of_trees_and_is_whole_or_not_there(recorded, tmp_path):
    env, _, episodes = recorded
    context = {"a/b": np.ones(2), "trees": Trees(np.zeros(3), None), "more": [np.arange(2), np.arange(3)]}
    path = tmp_path / "trees.hdf5"
    to_hdf5(path, env, [episodes[0]._replace(context=context)])
    with h5py.File(path) as file:
        held = file["episode_0/context"]
        assert sorted(held) == ["a|b", "more", "trees"] and list(held["trees"]) == ["places"]
        np.testing.assert_array_equal(held["more/1"], np.arange(3))
    with pytest.raises(TypeError):
        to_hdf5(tmp_path / "bad.hdf5", env, [episodes[0]._replace(context=object())])
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"must be a sequence of `Episode`.*\[episode\] of one"):
        to_hdf5(tmp_path / "bad.hdf5", env, episodes[0])

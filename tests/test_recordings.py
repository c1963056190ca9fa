"""Demonstrations from files: what was exported comes back, teaches as the teacher did, and is checked."""

import functools

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import same

import students
import teachers
from envs.export import record, to_hdf5, to_minari
from envs.reacher import reacher
from gps import recordings
from gps.algorithms.dagger import dagger
from gps.algorithms.pretrain_finetune import imitated, pretrain_finetune
from gps.algorithms.q_demo import q_demo
from gps.demonstrations import demonstrations
from gps.plant import plant

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(env, two episodes of its teacher, the file that they are in)."""
    env = reacher(horizon=12)
    episodes = record(env, functools.partial(teachers.mpc, horizon=8, iterations=1), 2, seed=3)
    path = tmp_path_factory.mktemp("shown") / "reacher.hdf5"
    to_hdf5(path, env, episodes)
    return env, episodes, path


def made(lengths=(5, 3), nx=2, nu=1, terminated=(False, True)):
    """Episodes of random numbers."""
    rng = np.random.default_rng(0)
    return recordings.stack(
        [
            {
                "observations": rng.normal(size=(T + 1, nx)), "actions": rng.uniform(-1, 1, size=(T, nu)),
                "rewards": rng.normal(size=T), "terminated": ends, "states": rng.normal(size=(T + 1, nx)),
            }
            for T, ends in zip(lengths, terminated, strict=True)
        ]
    )  # fmt: skip


@functools.cache
def point():
    """A point on a line."""
    return plant(
        lambda x, u: x + 0.1 * jnp.stack([x[1], u[0]]), lambda x, u, y, t: x @ x, lambda x, y: x @ x, 2, 1,
        horizon=6, dt=0.1, limits=(-1.0, 1.0), name="point", init=lambda key: jax.random.normal(key, (2,)),
    )  # fmt: skip


def test_what_was_exported_comes_back(exported):
    env, episodes, path = exported
    found = recordings.from_hdf5(path)
    for i, episode in enumerate(episodes):
        assert same(jax.tree.map(lambda leaf, i=i: leaf[i], found.obs), episode.observations)
        np.testing.assert_array_equal(found.action[i], episode.actions)
        np.testing.assert_array_equal(found.states[i], episode.states)
        np.testing.assert_array_equal(found.reward[i], episode.rewards)
    assert found.length.tolist() == [12, 12] and not found.terminated.any()
    recordings.check(found, env)


def test_minari_datasets_and_their_files_come_back(exported, tmp_path, monkeypatch):
    env, episodes, _ = exported
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.warns(UserWarning):
        to_minari("reacher/shown-v0", env, episodes)
    for found in (
        recordings.from_minari("reacher/shown-v0"),
        recordings.from_hdf5(next(tmp_path.rglob("main_data.hdf5"))),
    ):
        np.testing.assert_allclose(found.action[1], episodes[1].actions, atol=1e-7)
        np.testing.assert_array_equal(found.states[1], episodes[1].states)
        np.testing.assert_allclose(found.reward, [episode.rewards for episode in episodes])


def test_rows_are_the_steps_of_the_episodes():
    found, env = made(), point()
    labels, steps = recordings.as_labels(found, env), recordings.as_transitions(found, env)
    assert labels.weight.reshape(2, 5).tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert labels.truncated.reshape(2, 5).tolist() == [[False] * 4 + [True], [False] * 5]
    assert labels.terminated.reshape(2, 5)[1].tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(labels.mean.reshape(2, 5, 1), found.action, rtol=1e-6)
    assert steps.terminated.tolist() == [False] * 7 + [True]
    np.testing.assert_allclose(steps.next_obs[4], found.obs[0, 5], rtol=1e-6)
    np.testing.assert_allclose(steps.obs[5:], found.obs[1, :3], rtol=1e-6)
    shown = demonstrations(env, found, 2)(KEY)
    np.testing.assert_allclose(shown.returns, [found.reward[0].sum(), found.reward[1, :3].sum()])
    assert int(shown.steps) == 8


def test_a_student_learns_what_was_recorded():
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(6, 21, 2))
    found = recordings.stack(
        [
            {
                "observations": x,
                "actions": x[:-1] @ [[-0.3], [0.2]],
                "rewards": np.zeros(20),
                "terminated": False,
            }
            for x in xs
        ]
    )
    student = students.mlp(1, (16,), limits=point().limits)
    taught = imitated(point(), found, student, 6, 0.0, 600, "mse")(KEY)
    fresh = jnp.asarray(rng.uniform(-1, 1, size=(50, 2)))
    said = jax.vmap(lambda obs: student.apply(taught.variables, obs, ())[0].mean)(fresh)
    np.testing.assert_allclose(said, fresh @ jnp.array([[-0.3], [0.2]]), atol=0.1)
    assert int(taught.steps) == 120


def test_reinforcement_begins_with_what_was_recorded():
    env, found = point(), made()
    student = students.mlp(1, (4,), limits=env.limits)
    on = pretrain_finetune(
        env, found, student, demonstrations=2, pretrain_updates=3, num_worlds=2, num_steps=4, epochs=1,
        parts=1, critic_updates=1, test_worlds=0, iterations=1,
    )  # fmt: skip
    assert bool(on.step(KEY, on.init(KEY))[1]["finite"])
    off = q_demo(
        env, found, students.squashed(1, env.limits, (4,)), demonstrations=1, num_worlds=2, num_steps=4,
        warm_up=4, batch_size=4, capacity=20, critic_hidden=(4,), critics=2, test_worlds=0,
    )  # fmt: skip
    state, info = off.step(KEY, off.init(KEY))
    assert bool(info["finite"]) and int(state.demonstrations.written) == 5
    assert int(info["total_simulator_steps"]) == 5 + 8


def test_a_recorded_teacher_does_what_was_done_nearby_and_nothing_elsewhere():
    found, env = made(), point()
    teacher = teachers.recorded(env, found, tolerance=0.5)
    for i, t in ((0, 0), (0, 4), (1, 2)):
        action, _ = teacher.act(KEY, (), jnp.asarray(found.states[i, t]) + 1e-3, 0)
        np.testing.assert_allclose(action.dist.mean, found.action[i, t])
        assert int(action.status) == 0
    assert int(teacher.act(KEY, (), jnp.array([9.0, 9.0]), 0)[0].status) != 0
    both = teachers.recorded(env, found, nearest=8)
    np.testing.assert_allclose(
        both.act(KEY, (), jnp.zeros(2), 0)[0].dist.mean,
        [np.concatenate([found.action[0], found.action[1, :3]]).mean()],
    )
    learner = dagger(
        env, functools.partial(teachers.recorded, recording=found), students.mlp(1, (4,)),
        iterations=1, num_worlds=2, num_steps=4, updates=2, batch_size=4, test_worlds=0,
    )  # fmt: skip
    assert bool(learner.step(KEY, learner.init(KEY))[1]["finite"])


def broken(path, **changes):
    """A file of one episode."""
    parts = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": False,
    }
    with h5py.File(path, "w") as file:
        for name, value in (parts | changes).items():
            if value is not None:
                file[f"episode_0/{name}"] = value
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": None}, "episode_0 lacks actions"),
        ({"terminated": None}, "episode_0 lacks terminated"),
        ({"actions": np.zeros((0, 1))}, r"actions must be \[T, nu\] with T at least 1"),
        ({"rewards": np.zeros(2)}, "3 actions need 4 observations and states and 3 rewards"),
        ({"observations": np.zeros((3, 2))}, "3 actions need 4 observations"),
    ],
)
def test_files_that_lack_something(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recordings.from_hdf5(broken(tmp_path / "shown.hdf5", **changes))


def test_episodes_of_different_parts():
    one = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": False,
    }
    with pytest.raises(ValueError, match="observations of its episodes have different parts"):
        recordings.stack([one, one | {"observations": {"a": np.zeros((4, 2))}}])
    with pytest.raises(ValueError, match="episodes differ in shape"):
        recordings.stack([one, one | {"observations": np.zeros((4, 3))}])
    single = one | {"observations": np.zeros((4, 2), np.float32)}
    assert recordings.stack([one, single]).obs.shape == (2, 4, 2)


def test_files_without_episodes(tmp_path):
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    with pytest.raises(ValueError, match="has no episodes"):
        recordings.from_hdf5(tmp_path / "empty.hdf5")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        recordings.from_hdf5(tmp_path / "nothing.hdf5")


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (made(nx=3), r"observations of shape \(2,\), the recording \(3,\)"),
        (made(nu=2), r"point has 1 controls, the recording \(2,\)"),
        (made()._replace(states=np.zeros((2, 6, 5))), r"states of 2 numbers, the recording \(5,\)"),
        (made()._replace(obs={"a": np.zeros((2, 6, 2))}), "point has observations PyTreeDef"),
        (made()._replace(reward=np.full((2, 5), np.nan)), "rewards that are not finite"),
        (made()._replace(obs=np.full((2, 6, 2), np.nan)), "observations that are not finite"),
        (made()._replace(states=np.full((2, 6, 2), np.inf)), "states that are not finite"),
        (made()._replace(action=np.full((2, 5, 1), 50.0)), "controls from .* the recording from"),
    ],
)
def test_recordings_of_another_task(recording, message):
    with pytest.raises(ValueError, match=message):
        demonstrations(point(), recording, 2)


def test_requests_that_cannot_be_met():
    with pytest.raises(ValueError, match="5 demonstrations are asked for, the recording has 2"):
        demonstrations(point(), made(), 5)
    with pytest.raises(ValueError, match="cannot be shown again with noise"):
        demonstrations(point(), made(), 2, noise=0.1)
    with pytest.raises(ValueError, match="has no physics states"):
        teachers.recorded(point(), made()._replace(states=None))
    with pytest.raises(ValueError, match="1 <= nearest <= 8"):
        teachers.recorded(point(), made(), nearest=9)

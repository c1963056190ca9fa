"""Demonstrations that somebody recorded: read from HDF5 or Minari, and what they teach.

shown = from_hdf5("pendulum.hdf5")                            # of `envs.export`, or a Minari dataset's file
algorithm = pretrain_finetune(env, shown, student, demonstrations=10)
teacher = functools.partial(teachers.recorded, recording=shown)      # where states were recorded too
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from gps.dataset import single
from gps.episodes import TEACHER
from gps.replay import Transition
from gps.rollout import first_observation
from gps.types import Dataset, Env

__all__ = [
    "Recording",
    "as_labels",
    "as_transitions",
    "check",
    "first",
    "from_hdf5",
    "from_minari",
    "is_there",
    "stack",
]


class Recording(NamedTuple):
    """E episodes; arrays are as long as the longest of them, T, and mean nothing behind an episode's end."""

    obs: PyTree
    """[E, T + 1, …] also at the last state."""
    action: Float[np.ndarray, "E T nu"]
    reward: Float[np.ndarray, "E T"]
    length: Int[np.ndarray, " E"]
    """Control steps of each."""
    terminated: Bool[np.ndarray, " E"]
    """Whether it failed at its last step; else it was cut there."""
    states: Float[np.ndarray, "E T+1 nx"] | None = None
    """Physics states, where they were recorded."""


def from_hdf5(path: str | Path) -> Recording:
    """Of a file with a group for each episode, as `envs.export.to_hdf5` and Minari (main_data.hdf5) write it.

    A group has `observations` [T + 1, …] (a group in turn, where they have parts), `actions`, `rewards`,
    `terminated` or `terminations`, and `states`, itself or in `infos`, if these were recorded.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError: there is no such file.
        ValueError: there are no episodes in it, or something of one is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is not installed: pip install 'guided-policy-search[export]'") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file '{path}'")

    def read(node: Any) -> Any:
        return {name: read(part) for name, part in node.items()} if isinstance(node, h5py.Group) else node[()]

    with h5py.File(path) as file:
        names = sorted(
            (str(n) for n in file if str(n).startswith("episode_")), key=lambda n: int(n.split("_")[1])
        )
        return stack([_fields(read(file[name]), f"'{path}', {name}") for name in names], f"'{path}'")


def from_minari(dataset_id: str, download: bool = False) -> Recording:
    """Of a Minari dataset; physics states where `infos` has `states`.

    Raises:
        ImportError: minari is not installed.
        FileNotFoundError: it is not here, and not to be downloaded.
        ValueError: there are no episodes in it.
    """
    try:
        import minari
    except ImportError as error:
        raise ImportError("minari is not installed: pip install 'guided-policy-search[export]'") from error
    episodes = minari.load_dataset(dataset_id, download=download).iterate_episodes()
    each = [
        _fields(
            {
                "observations": episode.observations,
                "actions": episode.actions,
                "rewards": episode.rewards,
                "terminations": episode.terminations,
                "infos": episode.infos or {},
            },
            f"{dataset_id}, episode {episode.id}",
        )
        for episode in episodes
    ]
    return stack(each, dataset_id)


def stack(episodes: Sequence[Mapping[str, Any]], source: str = "the recording") -> Recording:
    """Of episodes with `observations` [T + 1, …], `actions` [T, nu], `rewards` [T], `terminated`, `states`.

    Raises:
        ValueError: none, or episodes of no steps, of different shapes, or whose parts differ in length.
    """
    if not episodes:
        raise ValueError(f"{source} has no episodes: nothing can be learned from it")
    everywhere = all(episode.get("states") is not None for episode in episodes)
    parts = [
        (
            episode["observations"],
            episode["actions"],
            episode["rewards"],
            episode["states"] if everywhere else None,
        )
        for episode in episodes
    ]
    lengths = [_length(source, i, *part) for i, part in enumerate(parts)]
    longest = max(lengths)

    def pad(path: tuple, *leaves: Any) -> np.ndarray:
        rows = [np.asarray(leaf) for leaf in leaves]
        if len({row.shape[1:] for row in rows}) > 1:
            shapes = ", ".join(sorted({str(row.shape[1:]) for row in rows}))
            raise ValueError(f"{source}{jax.tree_util.keystr(path)}: episodes differ in shape, {shapes}")
        extra: list[Any] = [(0, longest - length) for length in lengths]
        return np.stack(
            [np.pad(row, [n] + [(0, 0)] * (row.ndim - 1)) for row, n in zip(rows, extra, strict=True)]
        )

    if len({jax.tree.structure(part) for part in parts}) > 1:
        raise ValueError(f"{source}: the observations of its episodes have different parts")
    obs, action, reward, x = jax.tree_util.tree_map_with_path(pad, *parts)
    ends = np.asarray([bool(episode["terminated"]) for episode in episodes])
    return Recording(obs, action, reward, np.asarray(lengths), ends, x)


def first(recording: Recording, count: int) -> Recording:
    """The first `count` episodes.

    Raises:
        ValueError: there are fewer.
    """
    there = len(recording.length)
    if not 1 <= count <= there:
        raise ValueError(f"{count} demonstrations are asked for, the recording has {there}")
    return jax.tree.map(lambda leaf: leaf[:count], recording)


def check(recording: Recording, env: Env) -> None:
    """Raise a ValueError where a recording is not of `env`: other observations, controls or states."""

    def look() -> PyTree:
        key = jax.random.key(0)
        bound = env.bind(env.sample_context(key))
        return first_observation(key, bound, bound.init(key))

    expected, seen = jax.eval_shape(look), recording.obs
    if jax.tree.structure(expected) != jax.tree.structure(seen):
        raise ValueError(
            f"{env.name} has observations {jax.tree.structure(expected)}, the recording "
            f"{jax.tree.structure(seen)}"
        )

    def same(path: tuple, wanted: Any, came: Any) -> None:
        if tuple(came.shape[2:]) != tuple(wanted.shape):
            name = f"observations{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{env.name} has {name} of shape {tuple(wanted.shape)}, the recording {came.shape[2:]}"
            )

    jax.tree_util.tree_map_with_path(same, expected, seen)
    if recording.action.shape[2:] != (env.nu,):
        raise ValueError(f"{env.name} has {env.nu} controls, the recording {recording.action.shape[2:]}")
    if recording.states is not None and recording.states.shape[2:] != (env.nx,):
        raise ValueError(
            f"{env.name} has states of {env.nx} numbers, the recording {recording.states.shape[2:]}"
        )
    T = recording.reward.shape[1]
    parts = {"actions": recording.action, "rewards": recording.reward}
    parts |= {"observations": recording.obs, "states": recording.states}
    for name, tree in parts.items():
        for rows in jax.tree.leaves(tree):
            there = np.arange(rows.shape[1])[None] < (recording.length + rows.shape[1] - T)[:, None]
            mask = there.reshape(*rows.shape[:2], *[1] * (rows.ndim - 2))
            if not np.all(np.isfinite(np.where(mask, rows, 0))):
                raise ValueError(f"the recording has {name} that are not finite")
    done = recording.action[is_there(recording)]
    low, high = (np.asarray(side) for side in env.limits)
    if np.any(done < low - 1e-6 * np.abs(low)) or np.any(done > high + 1e-6 * np.abs(high)):
        raise ValueError(
            f"{env.name} has controls from {low} to {high}, the recording from {done.min(axis=0)} to "
            f"{done.max(axis=0)}"
        )


def as_labels(recording: Recording, env: Env) -> Dataset:
    """Steps [E T, …] with what was done as their label; behind an episode's end their weight is 0.

    What an error costs is not known: the label's precision is 1 in every control. Contexts are not either.
    """
    check(recording, env)
    E, T = recording.reward.shape
    length, ends = (jnp.asarray(part)[:, None] for part in (recording.length, recording.terminated))
    t = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (E, T))
    last, none = t == length - 1, jnp.zeros((E, T), jnp.float32)
    states = np.zeros((E, T + 1, env.nx)) if recording.states is None else recording.states
    action, x = jnp.asarray(recording.action), jnp.asarray(states[:, :-1])
    rows = Dataset(
        obs=jax.tree.map(lambda leaf: jnp.asarray(leaf[:, :-1]), recording.obs),
        x=x,
        t=t,
        key=none,
        action=action,
        log_prob=none,
        behaviour=jnp.full((E, T), TEACHER, jnp.int32),
        mean=action,
        precision=jnp.broadcast_to(jnp.eye(env.nu, dtype=jnp.float32), (E, T, env.nu, env.nu)),
        cost=none,
        first=t == 0,
        terminated=last & ends,
        truncated=last & ~ends,
        weight=(t < length).astype(jnp.float32),
        next_slot=none,
    )
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
    keys = jnp.broadcast_to(jax.random.key(0), (E * T,))
    return single(flat)._replace(x=flat.x, key=keys, next_slot=jnp.int32(0))


def as_transitions(recording: Recording, env: Env) -> Transition:
    """Rows of all steps, also the last of an episode that was cut: what came next is recorded."""
    check(recording, env)
    rows = np.nonzero(is_there(recording))
    last = rows[1] == recording.length[rows[0]] - 1
    obs, following = (
        jax.tree.map(lambda leaf, s=s: jnp.asarray(leaf[rows[0], rows[1] + s]), recording.obs) for s in (0, 1)
    )
    return single(
        Transition(
            obs,
            jnp.asarray(recording.action[rows]),
            jnp.asarray(recording.reward[rows]),
            following,
            jnp.asarray(last & recording.terminated[rows[0]]),
        )
    )


def is_there(recording: Recording) -> Bool[np.ndarray, "E T"]:
    """Which steps are of an episode."""
    return np.arange(recording.reward.shape[1])[None] < recording.length[:, None]


# ------------------------------------------------------------------------------------- internals


def _fields(episode: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What `stack` wants, from a group of either layout."""
    missing = [name for name in ("observations", "actions", "rewards") if name not in episode]
    ends = episode.get("terminated", episode.get("terminations"))
    if missing or ends is None:
        raise ValueError(f"{source} lacks {', '.join(missing or ['terminated'])}")
    states = episode.get("states", episode.get("infos", {}).get("states"))
    found = {name: episode[name] for name in ("observations", "actions", "rewards")}
    return found | {"terminated": bool(np.any(ends)), "states": states}


def _length(source: str, i: int, obs: PyTree, action: Any, reward: Any, states: Any) -> int:
    """Control steps of an episode, as all of its parts have it."""
    T = np.shape(action)[0] if np.ndim(action) == 2 else 0
    if T < 1:
        raise ValueError(
            f"{source}, episode {i}: actions must be [T, nu] with T at least 1, got {np.shape(action)}"
        )
    lengths = {(*np.shape(leaf), 0)[0] for leaf in jax.tree.leaves((obs, states))}
    if lengths != {T + 1} or np.shape(reward) != (T,):
        raise ValueError(
            f"{source}, episode {i}: {T} actions need {T + 1} observations and states and {T} rewards, got "
            f"{sorted(lengths)} and {np.shape(reward)}"
        )
    return T

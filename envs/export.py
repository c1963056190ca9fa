"""Episodes of any teacher as a dataset for other programs: HDF5, or Minari's format.

    episodes = record(env, functools.partial(teachers.mpc, horizon=20), 10)
    to_hdf5("reacher.hdf5", env, episodes)
    to_minari("reacher/teacher-v0", env, episodes)

Beside observations, controls and rewards every step has the full physics state and the teacher's label with
its gains and covariance: u ~ N(mean + gain (x ⊖ state), covariance) labels the states around it too.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.placement import cpu_jit
from gps.types import Action, Env, Teacher

if TYPE_CHECKING:
    import gymnasium

__all__ = ["Episode", "record", "to_hdf5", "to_minari"]


class Episode(NamedTuple):
    """What a world and a teacher did; T control steps."""

    observations: PyTree
    """[T + 1, …]"""
    states: Float[np.ndarray, "T+1 nx"]
    actions: Float[np.ndarray, "T nu"]
    rewards: Float[np.ndarray, " T"]
    means: Float[np.ndarray, "T nu"]
    covariances: Float[np.ndarray, "T nu nu"]
    gains: Float[np.ndarray, "T nu ndx"]
    """NaN from a teacher that knows none."""
    label_status: Int[np.ndarray, " T"]
    """Not 0 where the teacher itself disowns the label."""
    terminated: bool
    """Failed at its last step; else it was cut there."""
    seed: int
    context: PyTree


def record(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    num_episodes: int,
    *,
    world: "gymnasium.Env | None" = None,
    seed: int = 0,
) -> list[Episode]:
    """Episodes that the teacher drives, each to its failure or to its end.

    Args:
        env: the task that the teacher plans in.
        make_teacher: Env → Teacher, called on the env bound to the episode's context.
        num_episodes: how many.
        world: where it drives; `as_gymnasium(env)` unless given. Of a foreign one, such as what
            `envs.gymnasium.from_gymnasium` took, the state is read by `envs.gymnasium.state_of`.
        seed: of the first episode; the next ones follow.

    Raises:
        ImportError: gymnasium is not installed.
        ValueError: no episodes.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, came {num_episodes}")
    from envs.as_gymnasium import GymnasiumEnv, as_gymnasium
    from envs.gymnasium import state_of

    made = as_gymnasium(env) if world is None else world
    begin = cpu_jit(lambda context, key, x: make_teacher(env.bind(context)).init(key, x))
    act = cpu_jit(lambda context, *args: make_teacher(env.bind(context)).act(*args))
    own = isinstance(made, GymnasiumEnv)

    def drive(seed: int) -> Episode:
        obs, _ = made.reset(seed=seed)
        context = made.context if own else ()
        look = (lambda: made.state) if own else (lambda: state_of(made))
        key: Key[Array, ""] = jax.random.key(seed)
        state = begin(context, key, jnp.asarray(look()))
        seen, xs, rows, t, over, terminated = [obs], [look()], [], 0, False, False
        while not over:
            action, state = act(context, jax.random.fold_in(key, t), state, jnp.asarray(xs[-1]), t)
            u = np.asarray(action.dist.mean)
            obs, reward, terminated, truncated, _ = made.step(u)
            rows.append((u, reward, *_label(action, env.ndx)))
            seen.append(obs)
            xs.append(look())
            t, over = t + 1, terminated or truncated
        columns = (np.asarray(column) for column in zip(*rows, strict=True))
        together = jax.tree.map(lambda *leaves: np.stack(leaves), *seen)
        context = jax.tree.map(np.asarray, context)
        return Episode(together, np.stack(xs), *columns, bool(terminated), seed, context)

    return [drive(seed + i) for i in range(num_episodes)]


def to_hdf5(path: str | Path, env: Env, episodes: Sequence[Episode]) -> None:
    """One file: a group `episode_0`, `episode_1`, … each, with `Episode`'s fields; trees are groups in these.

    Raises:
        ImportError: h5py is not installed.
        FileExistsError: there is such a file already.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is not installed: pip install 'guided-policy-search[export]'") from error

    def write(group: Any, name: str, value: PyTree) -> None:
        if isinstance(value, Mapping | tuple):
            inner = group.create_group(name)
            named = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, leaf in named:
                write(inner, str(key), leaf)
        else:
            group.create_dataset(name, data=value)

    with h5py.File(path, "x") as file:
        file.attrs.update({"env": env.name, "dt": env.dt, "num_episodes": len(episodes)})
        for i, episode in enumerate(episodes):
            write(file, f"episode_{i}", episode._asdict())


def to_minari(dataset_id: str, env: Env, episodes: Sequence[Episode], **about: Any) -> Any:
    """A local Minari dataset, which is returned; the physics state and the labels are in `infos`.

    At the last state of an episode, where nobody acts any more, the label is NaN and its status −1.

    Args:
        dataset_id: such as "reacher/teacher-v0".
        env: the task.
        episodes: of it.
        about: `algorithm_name`, `author`, … of `minari.create_dataset_from_buffers`.

    Raises:
        ImportError: minari is not installed.
        ValueError: there is such a dataset already.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise ImportError("minari is not installed: pip install 'guided-policy-search[export]'") from error
    from envs.as_gymnasium import as_gymnasium

    def buffer(i: int, episode: Episode) -> Any:
        T = len(episode.actions)
        ends = np.arange(T) == T - 1
        labels = ("means", "covariances", "gains", "label_status")
        return EpisodeBuffer(
            id=i,
            seed=episode.seed,
            observations=episode.observations,
            actions=episode.actions.astype(np.float32),
            rewards=list(episode.rewards),
            terminations=list(ends & episode.terminated),
            truncations=list(ends & (not episode.terminated)),
            infos={"states": episode.states} | {name: _extended(getattr(episode, name)) for name in labels},
        )

    spaces = as_gymnasium(env)
    return minari.create_dataset_from_buffers(
        dataset_id,
        [buffer(i, episode) for i, episode in enumerate(episodes)],
        action_space=spaces.action_space,
        observation_space=spaces.observation_space,
        **about,
    )


# ------------------------------------------------------------------------------------- internals


def _label(action: Action, ndx: int) -> tuple[np.ndarray, ...]:
    """(mean, covariance, gain, status)."""
    mean, cov = np.asarray(action.dist.mean), np.asarray(action.dist.cov)
    K = np.full((mean.size, ndx), np.nan) if action.K is None else np.asarray(action.K)
    return mean, cov, K, np.asarray(action.status)


def _extended(rows: np.ndarray) -> np.ndarray:
    """With a row for the last state."""
    blank = np.full_like(rows[:1], np.nan if np.issubdtype(rows.dtype, np.floating) else -1)
    return np.concatenate([rows, blank])

"""Episodes of any teacher as a dataset for other programs: HDF5, or Minari's format.

    episodes = record(env, functools.partial(teachers.mpc, horizon=20), 10)
    to_hdf5("reacher.hdf5", env, episodes)
    to_minari("reacher/teacher-v0", env, episodes)

Beside observations, controls and rewards every step has the full physics state and the teacher's label with
its gains and covariance. Of a teacher with feedback, u ~ N(mean + gain (x ⊖ state), covariance) labels the
states around it too.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
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
    """What was done: the label's mean within the limits."""
    rewards: Float[np.ndarray, " T"]
    means: Float[np.ndarray, "T nu"]
    covariances: Float[np.ndarray, "T nu nu"]
    gains: Float[np.ndarray, "T nu ndx"]
    """Zero from planners that sample, NaN from a teacher that does not know."""
    label_status: Int[np.ndarray, " T"]
    """Not 0 where the teacher itself disowns the label."""
    terminated: bool
    """Failed at its last step; else it was cut there, by the world or after `env.horizon` steps."""
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
        ValueError: no episodes, or a world that is not of this task.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, came {num_episodes}")
    from envs.as_gymnasium import GymnasiumEnv, as_gymnasium
    from envs.gymnasium import state_of

    made = as_gymnasium(env) if world is None else world
    base: Any = made.unwrapped
    own = isinstance(base, GymnasiumEnv)
    _check_world(env, made)
    begin = cpu_jit(lambda context, key, x: make_teacher(env.bind(context)).init(key, x))
    act = cpu_jit(lambda context, *args: make_teacher(env.bind(context)).act(*args))

    def drive(seed: int) -> Episode:
        obs, _ = made.reset(seed=seed)
        context = base.context if own else ()
        look = (lambda: base.state) if own else (lambda: state_of(made))
        key: Key[Array, ""] = jax.random.key(seed)
        state = begin(context, key, jnp.asarray(look()))
        seen, xs, rows, t, over, terminated = [obs], [look()], [], 0, False, False
        while not over:
            action, state = act(context, jax.random.fold_in(key, t), state, jnp.asarray(xs[-1]), t)
            u = np.clip(np.asarray(action.dist.mean), *env.limits)
            obs, reward, terminated, truncated, _ = made.step(u)
            rows.append((u, reward, *_label(action, env.ndx)))
            seen.append(obs)
            xs.append(look())
            t += 1
            over = terminated or truncated or t == env.horizon
        actions, rewards, means, covs, gains, status = map(np.asarray, zip(*rows, strict=True))
        return Episode(
            observations=jax.tree.map(lambda *leaves: np.stack(leaves), *seen),
            states=np.stack(xs),
            actions=actions,
            rewards=rewards,
            means=means,
            covariances=covs,
            gains=gains,
            label_status=status,
            terminated=bool(terminated),
            seed=seed,
            context=jax.tree.map(_plain, context),
        )

    return [drive(seed + i) for i in range(num_episodes)]


def to_hdf5(path: str | Path, env: Env, episodes: Sequence[Episode]) -> None:
    """One file: a group `episode_0`, `episode_1`, … each, with `Episode`'s fields; trees are groups in these.

    It is there in whole or not at all.

    Raises:
        ImportError: h5py is not installed.
        FileExistsError: there is such a file already.
        ValueError: what came are not episodes.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is not installed: pip install 'guided-policy-search[export]'") from error

    def write(group: Any, name: str, value: PyTree) -> None:
        fields = value._asdict() if hasattr(value, "_asdict") else value
        if isinstance(fields, Mapping | tuple | list):
            inner = group.create_group(name.replace("/", "|"))
            named = fields.items() if isinstance(fields, Mapping) else enumerate(fields)
            for key, leaf in named:
                write(inner, str(key), leaf)
        elif value is not None:
            group.create_dataset(name.replace("/", "|"), data=value)

    _check_episodes(episodes)
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"'{path}' exists: choose another name, or remove it")
    scratch = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(scratch, "w") as file:
            file.attrs.update({"env": env.name, "dt": env.dt, "num_episodes": len(episodes)})
            for i, episode in enumerate(episodes):
                write(file, f"episode_{i}", episode)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def to_minari(
    dataset_id: str,
    env: Env,
    episodes: Sequence[Episode],
    *,
    world: "gymnasium.Env | None" = None,
    **about: Any,
) -> Any:
    """A local Minari dataset, which is returned; the physics state and the labels are in `infos`.

    It is there in whole or not at all; a killed process leaves a hidden folder `.part-…` beside the datasets.
    At the last state of an episode, where nobody acts any more, the label is NaN and its status −1. Contexts
    are not stored, and actions are in single precision, as Minari wants them: HDF5 keeps both.

    Args:
        dataset_id: such as "reacher/teacher-v0".
        env: the task.
        episodes: of it.
        world: in which they were recorded, if not `as_gymnasium(env)`: its spaces are the dataset's.
        about: `algorithm_name`, `author`, … of `minari.create_dataset_from_buffers`.

    Raises:
        ImportError: minari is not installed.
        ValueError: there is such a dataset already, what came are not episodes, or their observations are
            not of the world's space.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.namespace import create_namespace, list_local_namespaces
        from minari.storage import get_dataset_path
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
            actions=episode.actions.astype(np.float32),  # pyright: ignore[reportArgumentType]
            rewards=list(episode.rewards),
            terminations=list(ends & episode.terminated),
            truncations=list(ends & (not episode.terminated)),
            infos={"states": episode.states} | {name: _extended(getattr(episode, name)) for name in labels},
        )

    _check_episodes(episodes)
    spaces = as_gymnasium(env) if world is None else world
    for episode in episodes:
        first = jax.tree.map(lambda rows: rows[0], episode.observations)
        if not spaces.observation_space.contains(first):
            raise ValueError(
                f"the observations of these episodes are not of {spaces.observation_space}: pass the world= "
                "that they were recorded in"
            )
    root = get_dataset_path()
    if (root / dataset_id).exists():
        raise ValueError(f"Minari dataset '{dataset_id}' already exists: choose another name or version")
    # A half-written dataset would be listed and read as a short one: it is made out of sight, then moved.
    with TemporaryDirectory(prefix=".part-", dir=root) as scratch:
        with _datasets_in(scratch):
            minari.create_dataset_from_buffers(
                dataset_id,
                [buffer(i, episode) for i, episode in enumerate(episodes)],
                action_space=spaces.action_space,
                observation_space=spaces.observation_space,
                **about,
            )
        namespace = Path(dataset_id).parent.as_posix()
        if namespace != "." and namespace not in list_local_namespaces():
            create_namespace(namespace)
        (Path(scratch) / dataset_id).replace(root / dataset_id)
    return minari.load_dataset(dataset_id)


# ------------------------------------------------------------------------------------- internals


def _check_world(env: Env, world: Any) -> None:
    """The engine must get the controls that are written down, in the task that the teacher plans in."""
    space = world.action_space
    same = space.shape == (env.nu,) and all(
        np.allclose(mine, its) for mine, its in zip(env.limits, (space.low, space.high), strict=True)
    )
    if not same:
        raise ValueError(
            f"{env.name} has controls in {env.limits}, the world has {space}: pass a world whose actions are "
            "the engine's controls, without wrappers that rescale them"
        )
    name = world.spec.id if world.spec else None
    if name is not None and name != env.name and env.name in _registered():
        raise ValueError(f"the teacher plans {env.name}, came a world that is {name}")


@contextmanager
def _datasets_in(folder: str) -> Iterator[None]:
    """Where Minari writes."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _registered() -> set[str]:
    import gymnasium

    return set(gymnasium.registry)


def _check_episodes(episodes: Sequence[Episode]) -> None:
    if isinstance(episodes, Episode) or not all(isinstance(episode, Episode) for episode in episodes):
        raise ValueError(
            "episodes must be a sequence of `Episode`, as `record` returns them: [episode] of one"
        )


def _plain(leaf: Array) -> np.ndarray:
    """As NumPy; of a key its numbers."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def _label(action: Action, ndx: int) -> tuple[np.ndarray, ...]:
    """(mean, covariance, gain, status)."""
    mean, cov = np.asarray(action.dist.mean), np.asarray(action.dist.cov)
    K = np.full((mean.size, ndx), np.nan) if action.K is None else np.asarray(action.K)
    return mean, cov, K, np.asarray(action.status)


def _extended(rows: np.ndarray) -> np.ndarray:
    """With a row for the last state."""
    blank = np.full_like(rows[:1], np.nan if np.issubdtype(rows.dtype, np.floating) else -1)
    return np.concatenate([rows, blank])

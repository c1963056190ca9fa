"""Any `Env` as a `gymnasium.Env`, alone or as a vector of worlds that step in one call of the engine.

    world = as_gymnasium(env)
    worlds = as_gymnasium_vector(env, 64)

The action is the control, the reward `Env.reward` or the negative cost. An episode is terminated where the
task has failed or its simulation broke down, and truncated after `Env.horizon` control steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.placement import cpu_jit
from gps.types import Env, Status

__all__ = ["as_gymnasium", "as_gymnasium_vector"]


class _World(NamedTuple):
    """A running episode."""

    key: Key[Array, ""]
    context: PyTree
    x: Float[Array, " nx"]
    u: Float[Array, " nu"]
    memory: PyTree
    t: Int[Array, ""]


class _Step(NamedTuple):
    """What a step came to."""

    obs: PyTree
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    metrics: dict[str, Float[Array, ""]]


def as_gymnasium(env: Env) -> "GymnasiumEnv":
    """One world."""
    return GymnasiumEnv(env)


def as_gymnasium_vector(env: Env, num_envs: int) -> "GymnasiumVectorEnv":
    """`num_envs` worlds, each with its own context.

    Raises:
        ValueError: less than one world.
    """
    return GymnasiumVectorEnv(env, num_envs)


class GymnasiumEnv(gymnasium.Env):
    """Made by `as_gymnasium`."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(self, env: Env) -> None:
        reset, step = _programs(env)
        self._reset, self._step = cpu_jit(reset), cpu_jit(step)
        self.observation_space = _observation_space(env)
        self.action_space = _action_space(env)
        self._world: _World | None = None

    @property
    def state(self) -> Float[np.ndarray, " nx"]:
        """The full state now."""
        return np.asarray(self._running().x)

    @property
    def context(self) -> PyTree:
        """Of this episode: `env.bind(context)` is its task."""
        return self._running().context

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode in a new context; the same for the same seed."""
        super().reset(seed=seed)
        self._world, obs = self._reset(jax.random.key(int(self.np_random.integers(2**31))))
        return _to_numpy(obs), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One control step."""
        self._world, seen = self._step(self._running(), jnp.asarray(action, float))
        info = {name: float(value) for name, value in seen.metrics.items()}
        return (
            _to_numpy(seen.obs),
            float(seen.reward),
            bool(seen.terminated),
            bool(seen.truncated),
            info,
        )

    def _running(self) -> _World:
        if self._world is None:
            raise gymnasium.error.ResetNeeded("call reset() before anything else")
        return self._world


class GymnasiumVectorEnv(VectorEnv):
    """Made by `as_gymnasium_vector`. A world whose episode has ended begins a new one with the next step."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, env: Env, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"a vector needs at least 1 world, came {num_envs}")
        reset, step = _programs(env)

        def advance(
            keys: Key[Array, " n"], worlds: _World, actions: Array, over: Bool[Array, " n"]
        ) -> tuple[_World, _Step]:
            went = jax.vmap(step)(worlds, actions)

            def begin_again() -> tuple[_World, _Step]:
                fresh, obs = jax.vmap(reset)(keys)
                begun = _Step(obs, *jax.tree.map(jnp.zeros_like, went[1][1:]))

                def pick(new: Array, old: Array) -> Array:
                    return jnp.where(over.reshape(-1, *[1] * (new.ndim - 1)), new, old)

                return jax.tree.map(pick, (fresh, begun), went)

            return jax.lax.cond(jnp.any(over), begin_again, lambda: went)

        self._reset, self._step = cpu_jit(jax.vmap(reset)), cpu_jit(advance)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _observation_space(env), _action_space(env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._worlds: _World | None = None
        self._over = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """New episodes; the same for the same seed."""
        super().reset(seed=seed)
        self._worlds, obs = self._reset(self._keys())
        self._over = np.zeros(self.num_envs, bool)
        return _to_numpy(obs), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control step of every world."""
        if self._worlds is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._worlds, seen = self._step(
            self._keys(), self._worlds, jnp.asarray(actions, float), jnp.asarray(self._over)
        )
        terminated, truncated = np.array(seen.terminated), np.array(seen.truncated)
        self._over = terminated | truncated
        info = {name: np.asarray(value) for name, value in seen.metrics.items()}
        return _to_numpy(seen.obs), np.array(seen.reward, float), terminated, truncated, info

    def _keys(self) -> Key[Array, " n"]:
        return jax.random.split(jax.random.key(int(self.np_random.integers(2**31))), self.num_envs)


# ------------------------------------------------------------------------------------- internals


def _programs(env: Env) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(key → world, observation) and (world, action → world, step)."""

    def look(key: Array, bound: Env, world: _World, y: Array) -> tuple[PyTree, PyTree]:
        return bound.observer.observe(key, world.memory, world.x, y, world.u)

    def reset(key: Key[Array, ""]) -> tuple[_World, PyTree]:
        key, context_key, start_key, memory_key, look_key = jax.random.split(key, 5)
        context = env.sample_context(context_key)
        bound = env.bind(context)
        x = bound.init(start_key)
        world = _World(
            key, context, x, jnp.zeros(env.nu, x.dtype), bound.observer.init(memory_key), jnp.int32(0)
        )
        obs, memory = look(look_key, bound, world, bound.sense(x, world.u))
        return world._replace(memory=memory), obs

    def step(world: _World, action: Array) -> tuple[_World, _Step]:
        bound = env.bind(world.context)
        key, look_key = jax.random.split(world.key)
        u = jnp.clip(action.astype(world.x.dtype), *bound.limits)
        x, status = bound.step(world.x, u)
        after = world._replace(key=key, x=x, u=u, t=world.t + 1)
        if bound.reward is None:
            reward = -bound.cost(world.x, u, bound.sense(world.x, u), world.t)
        else:
            reward = bound.reward(world.x, u, x)
        y = bound.sense(x, u)
        obs, memory = look(look_key, bound, after, y)
        failed = bound.failed(x, y) | (status != Status.OK)
        metrics = {} if bound.metrics is None else bound.metrics(world.x, u)
        over = (after.t >= env.horizon) & ~failed
        return after._replace(memory=memory), _Step(obs, reward, failed, over, metrics)

    return reset, step


def _action_space(env: Env) -> spaces.Box:
    low, high = (np.broadcast_to(np.asarray(side, np.float32), (env.nu,)) for side in env.limits)
    return spaces.Box(low, high, dtype=np.float32)


def _observation_space(env: Env) -> spaces.Space:
    """A Box for an array, a Dict for a dictionary of them."""

    def first(key: Array) -> PyTree:
        return _programs(env)[0](key)[1]

    shapes = jax.eval_shape(first, jax.random.key(0))

    def space(leaf: Any) -> spaces.Space:
        if isinstance(leaf, dict):
            return spaces.Dict({name: space(value) for name, value in leaf.items()})
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"{env.name}: gymnasium knows arrays and dictionaries of them as observations, came "
                f"{type(leaf).__name__}"
            )
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            info = np.iinfo(leaf.dtype)
            return spaces.Box(info.min, info.max, leaf.shape, leaf.dtype)
        return spaces.Box(-np.inf, np.inf, leaf.shape, leaf.dtype)

    return space(shapes)


def _to_numpy(obs: PyTree) -> PyTree:
    """Copies, which their receiver may write to."""
    return jax.tree.map(lambda leaf: np.array(leaf), obs)

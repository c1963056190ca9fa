"""What the student may see, as wrappers around an env: a subset, noise, delays, failures, histories.

Each returns the same task with another `observer`, in every context it is bound to; dynamics, costs and
the planner's model are untouched. They compose, the innermost first: `history(noise(env, 0.1), 4)` is a
history of noisy observations. Observations keep their type, memories are of the default floating type.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from gps.plant import in_every_context
from gps.types import Env, Mirror, Observer

__all__ = ["bias", "delay", "differences", "dropout", "history", "inverse_depth", "noise", "outage", "subset"]


class Window(NamedTuple):
    """Memory of `history`, `differences`, `delay` and `dropout`."""

    inner: PyTree
    """Memory of the observer inside."""
    past: PyTree
    """The last n observations, oldest first: [n, …] in every leaf."""
    fresh: Bool[Array, ""]
    """No observation has been made in this episode."""


def history(env: Env, n: int) -> Env:
    """The last `n` observations, oldest first: every leaf gains a leading axis [n].

    An episode begins with n copies of its first observation: a system at rest, rather than zeros that no
    sensor would send.

    Raises:
        ValueError: n < 1, or more than an episode has observations.
    """
    _at_least("history", "n", n, 1)
    _within_episode("history", env, n)
    each = lambda mirror: mirror._replace(obs=jax.vmap(mirror.obs))  # noqa: E731
    return _observe_through(env, lambda observer: _windowed(env, observer, n, lambda past: past), each)


def differences(env: Env, n: int) -> Env:
    """`history` as rates of change: n − 1 differences per second, oldest first, then the last observation.

    The same information in the same shape, conditioned for a network: neighbouring observations are almost
    equal, and what tells them apart is the velocity. Whole numbers and flags become floats.

    Raises:
        ValueError: n < 1, or more than an episode has observations.
    """
    _at_least("differences", "n", n, 1)
    _within_episode("differences", env, n)

    def rates(frames: PyTree) -> PyTree:
        def one(f: Array) -> Array:
            f = f.astype(
                jnp.promote_types(f.dtype, jnp.float32)
            )  # unsigned numbers and flags have no differences
            return jnp.concatenate([jnp.diff(f, axis=0) / env.dt, f[-1:]])

        return jax.tree.map(one, frames)

    def frames(rates: PyTree) -> PyTree:
        def one(r: Array) -> Array:
            return jnp.concatenate([r[-1:] - jnp.cumsum(r[:-1][::-1], axis=0)[::-1] * env.dt, r[-1:]])

        return jax.tree.map(one, rates)

    def each(mirror: Mirror) -> Mirror:
        return mirror._replace(obs=lambda seen: rates(jax.vmap(mirror.obs)(frames(seen))))

    return _observe_through(env, lambda observer: _windowed(env, observer, n, rates), each)


def delay(env: Env, steps: int) -> Env:
    """The observation made `steps` control steps ago; until there is one, the first of the episode.

    Raises:
        ValueError: steps < 0, or longer than an episode.
    """
    _at_least("delay", "steps", steps, 0)
    _within_episode("delay", env, steps + 1)
    oldest = lambda past: jax.tree.map(lambda rows: rows[0], past)  # noqa: E731
    return _observe_through(env, lambda observer: _windowed(env, observer, steps + 1, oldest))


def noise(env: Env, std: float | Sequence[float] | Array) -> Env:
    """Independent Gaussian noise on every entry, anew at every step.

    `std` is one number, or one per entry of an observation that is a single array.

    Raises:
        ValueError: a negative standard deviation, or as many of them as the observation has no entries.
    """
    scale = np.asarray(std, float)
    if not np.all(scale >= 0):
        raise ValueError(f"noise needs std >= 0, came {std}")

    def wrap(observer: Observer) -> Observer:
        def disturb(leaf: Array, key: Array) -> Array:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"noise needs floating point observations, came {leaf.dtype}: take a `subset`"
                )
            if scale.ndim and scale.shape != leaf.shape:
                raise ValueError(
                    f"noise: std of shape {scale.shape} does not fit an observation of shape {leaf.shape}: "
                    "give one number, or one per entry"
                )
            spread = jnp.broadcast_to(jnp.asarray(scale, leaf.dtype), leaf.shape)
            return leaf + spread * jax.random.normal(key, leaf.shape, leaf.dtype)

        def observe(key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, PyTree]:
            inner_key, own_key = jax.random.split(key)
            obs, memory = observer.observe(inner_key, memory, x, y, u_prev)
            leaves, tree = jax.tree.flatten(obs)
            keys = jax.random.split(own_key, len(leaves))
            return tree.unflatten([disturb(leaf, keys[i]) for i, leaf in enumerate(leaves)]), memory

        return observer._replace(observe=observe)

    return _observe_through(env, wrap, lambda mirror: None if scale.ndim else mirror)


def bias(env: Env, std: float) -> Env:
    """An offset on every entry that lasts for an episode, drawn from N(0, std²) at its start.

    Raises:
        ValueError: a negative standard deviation.
    """
    if not std >= 0:
        raise ValueError(f"bias needs std >= 0, came {std}")

    def wrap(observer: Observer) -> Observer:
        def init(key: Array) -> tuple[PyTree, PyTree]:
            inner_key, own_key = jax.random.split(key)
            inner = observer.init(inner_key)
            obs, _ = jax.eval_shape(observer.observe, key, inner, *_arguments(env))
            leaves, tree = jax.tree.flatten(obs)
            keys = jax.random.split(own_key, max(1, len(leaves)))
            draws = [std * jax.random.normal(keys[i], leaf.shape) for i, leaf in enumerate(leaves)]
            return inner, tree.unflatten(draws)

        def observe(key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, PyTree]:
            inner, offset = memory
            obs, inner = observer.observe(key, inner, x, y, u_prev)
            return jax.tree.map(_shifted, obs, offset), (inner, offset)

        return Observer(init, observe)

    return _observe_through(env, wrap, lambda mirror: mirror)


def outage(env: Env, rate: float, repair: float = 0.0, sensors: Sequence[str] | None = None) -> Env:
    """Each sensor fails with probability `rate` at each step, and reads zero until it works again.

    Args:
        env: the task.
        rate: probability that a working sensor fails.
        repair: probability that one that failed works again; 0: it is lost for the rest of the episode.
        sensors: which of a dict of observations may fail, each on its own, all of them by default; an
            observation that is no dict is one sensor.

    Raises:
        ValueError: probabilities outside [0, 1], or no such sensor.
    """
    for name, value in (("rate", rate), ("repair", repair)):
        if not 0 <= value <= 1:
            raise ValueError(f"outage needs a {name} between 0 and 1, came {value}")
    full = _seen(env, env.observer)
    sensors = [sensors] if isinstance(sensors, str) else sensors
    if sensors is not None:
        if not len(sensors):
            raise ValueError("outage of no sensors: name some, or leave `sensors` out for all of them")
        _picker(full, sensors)
    names = sorted(full) if isinstance(full, dict) and sensors is None else list(sensors or [""])

    def wrap(observer: Observer) -> Observer:
        def observe(key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, PyTree]:
            inner, out = memory
            inner_key, own_key = jax.random.split(key)
            obs, inner = observer.observe(inner_key, inner, x, y, u_prev)
            out = jax.random.uniform(own_key, out.shape) < jnp.where(out, 1 - repair, rate)
            if not isinstance(obs, dict):
                return jax.tree.map(lambda leaf: _lost(out[0], leaf), obs), (inner, out)
            return obs | {name: _lost(out[i], obs[name]) for i, name in enumerate(names)}, (inner, out)

        return Observer(lambda key: (observer.init(key), jnp.zeros(len(names), bool)), observe)

    return _observe_through(env, wrap)


def dropout(env: Env, rate: float) -> Env:
    """Each observation is lost with probability `rate`, and the last one that came through is seen again.

    The first of an episode always comes through.

    Raises:
        ValueError: rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout needs a rate between 0 and 1, came {rate}")

    def wrap(observer: Observer) -> Observer:
        def observe(key: Array, memory: Window, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, Window]:
            inner_key, own_key = jax.random.split(key)
            new, inner = observer.observe(inner_key, memory.inner, x, y, u_prev)
            lost = jax.random.bernoulli(own_key, rate) & ~memory.fresh
            seen = jax.tree.map(lambda a, past: jnp.where(lost, past[0].astype(a.dtype), a), new, memory.past)
            past = jax.tree.map(lambda a, rows: a[None].astype(rows.dtype), seen, memory.past)
            return seen, Window(inner, past, jnp.asarray(False))

        return Observer(_blank_window(env, observer, 1), observe)

    return _observe_through(env, wrap)


def subset(env: Env, select: Sequence[int] | Sequence[str] | slice | Callable[[PyTree], PyTree]) -> Env:
    """Part of the observation: entries of a vector, keys of a dict, or what a function makes of it.

    Raises:
        ValueError: the observation has no such entry.
    """
    full = _seen(env, env.observer)
    pick = select if callable(select) else _picker(full, select)

    def wrap(observer: Observer) -> Observer:
        def observe(key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, PyTree]:
            obs, memory = observer.observe(key, memory, x, y, u_prev)
            return pick(obs), memory

        return observer._replace(observe=observe)

    return _observe_through(env, wrap, lambda mirror: None)


def inverse_depth(env: Env, near: float, far: float) -> Env:
    """Depth images as near / depth, in (0, 1]: what is close by stands out, and nothing is infinite.

    Args:
        env: the task; its observation is a dict with images of cameras' depth, called `…_depth`.
        near: least depth told apart, m; it becomes 1.
        far: depth where nothing is to be seen, m; it becomes near / far.

    Raises:
        ValueError: distances out of order, or no image of depth.
    """
    if not 0 < near < far < np.inf:
        raise ValueError(f"inverse_depth needs 0 < near < far, both finite, came {near} and {far}")
    full = _seen(env, env.observer)
    if not (isinstance(full, dict) and any(name.endswith("_depth") for name in full)):
        raise ValueError(
            "inverse_depth finds no depth in the observation: observe a Camera with outputs=('depth',)"
        )

    def inverse(name: str, leaf: Array) -> Array:
        return near / jnp.clip(leaf, near, far) if name.endswith("_depth") else leaf

    def wrap(observer: Observer) -> Observer:
        def observe(key: Array, memory: PyTree, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, PyTree]:
            obs, memory = observer.observe(key, memory, x, y, u_prev)
            return {name: inverse(name, leaf) for name, leaf in obs.items()}, memory

        return observer._replace(observe=observe)

    return _observe_through(env, wrap)


# ------------------------------------------------------------------------------------- internals


def _observe_through(
    env: Env,
    wrap: Callable[[Observer], Observer],
    reflect: Callable[[Mirror], Mirror | None] = lambda mirror: mirror,
) -> Env:
    """`env` with its observer wrapped, whatever context it is bound to later; `reflect` adapts its mirror.

    It has no `views` any more: they would show what the student does not see.
    """
    return in_every_context(
        env,
        lambda task: task._replace(
            observer=wrap(task.observer),
            mirror=None if task.mirror is None else reflect(task.mirror),
            views=(),
        ),
    )


def _windowed(env: Env, observer: Observer, n: int, read: Callable[[PyTree], PyTree]) -> Observer:
    def observe(key: Array, memory: Window, x: Array, y: Array, u_prev: Array) -> tuple[PyTree, Window]:
        obs, inner = observer.observe(key, memory.inner, x, y, u_prev)

        def push(rows: Array, new: Array) -> Array:
            last = new[None].astype(rows.dtype)
            return jnp.where(memory.fresh, jnp.repeat(last, n, axis=0), jnp.concatenate([rows[1:], last]))

        past = jax.tree.map(push, memory.past, obs)
        seen = jax.tree.map(lambda rows, new: rows.astype(new.dtype), past, obs)
        return read(seen), Window(inner, past, jnp.asarray(False))

    return Observer(_blank_window(env, observer, n), observe)


def _blank_window(env: Env, observer: Observer, n: int) -> Callable[[Array], Window]:
    def init(key: Array) -> Window:
        inner = observer.init(key)
        obs, _ = jax.eval_shape(observer.observe, key, inner, *_arguments(env))
        past = jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape), leaf.dtype), obs)
        return Window(inner, past, jnp.asarray(True))

    return init


def _seen(env: Env, observer: Observer) -> PyTree:
    """Shapes of an observation."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda k, *a: observer.observe(k, observer.init(k), *a)[0], key, *_arguments(env))


def _lost(out: Array, leaf: Array) -> Array:
    return jnp.where(out, jnp.zeros_like(leaf), leaf)


def _shifted(leaf: Array, offset: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"bias needs floating point observations, came {leaf.dtype}: take a `subset`")
    return leaf + offset.astype(leaf.dtype)


def _within_episode(wrapper: str, env: Env, n: int) -> None:
    if n > env.horizon:
        raise ValueError(
            f"{wrapper} of {n} observations is longer than an episode of '{env.name}' of {env.horizon} steps"
        )


def _arguments(env: Env) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of x, y and u_prev."""
    return tuple(jax.ShapeDtypeStruct((n,), jnp.result_type(float)) for n in (env.nx, env.ny, env.nu))


def _picker(full: PyTree, select: Sequence[int] | Sequence[str] | slice) -> Callable[[PyTree], PyTree]:
    if isinstance(full, dict):
        if isinstance(select, slice):
            raise ValueError(
                f"subset: the observation is a dict: give names from {sorted(full)}, not {select}"
            )
        names = [select] if isinstance(select, str) else list(select)
        for name in names:
            if name not in full:
                close = difflib.get_close_matches(str(name), [str(known) for known in full], 1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {sorted(full)}"
                raise ValueError(f"subset: the observation has no {name!r}: {hint}")
        return lambda obs: {name: obs[name] for name in names}
    if not hasattr(full, "ndim") or full.ndim != 1:
        raise ValueError("subset by index needs an observation that is one vector; give a function instead")
    size = full.shape[0]
    index = np.arange(size)[select] if isinstance(select, slice) else np.asarray(select)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not np.all((-size <= index) & (index < size)):
        raise ValueError(f"subset: indices from 0 to {size - 1} expected, came {select}")
    return lambda obs: obs[index]


def _at_least(wrapper: str, name: str, value: int, least: int) -> None:
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{wrapper} needs a whole number {name} >= {least}, came {value!r}")

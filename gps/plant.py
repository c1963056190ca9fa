"""An `Env` from plain differentiable JAX functions: analytic plants and other people's dynamics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gps.rollout import clip_control, closed_loop, guard_step
from gps.types import Cost, Env, FinalCost, Limits, LinearDynamics, Observer, Status

__all__ = ["plant"]


def plant(
    dynamics: Callable[[Array, Array], Array],
    cost: Cost,
    final_cost: FinalCost,
    nx: int,
    nu: int,
    *,
    horizon: int = 100,
    dt: float = 1.0,
    limits: Limits | tuple | None = None,
    init: Callable | None = None,
    sense: Callable[[Array, Array], Array] | None = None,
    nv: int | None = None,
    name: str = "plant",
) -> Env:
    """The task of `dynamics` (x, u) → x' with a flat state.

    `limits` (low, high) broadcast to [nu], default none; `init` is key → x, default the origin;
    `sense` is (x, u) → y, default no sensors; `nv` says that x begins with nv positions and their nv
    velocities, which change by dt times those. Derivatives are `jacfwd` of `dynamics` without the
    clipping of controls. The student sees the whole state and the context is empty: change either,
    or `failed`, `reward`, `metrics`, with `env._replace(…)`, and `bind` with them, which returns the env as
    it is made here.

    Raises:
        ValueError: a function returns another shape than the sizes given ask for.
    """
    read = sense if sense is not None else lambda x, u: jnp.zeros((0,), x.dtype)
    start = init if init is not None else lambda key: jnp.zeros(nx)
    ny = _check_shapes(dynamics, cost, final_cost, read, start, nx, nu)
    box = _limits(limits, nu)

    def raw_step(x: Array, u: Array) -> tuple[Array, Array]:
        return dynamics(x, clip_control(u, box)), jnp.int32(Status.OK)

    def linearize(x: Array, u: Array) -> LinearDynamics:
        A, B = jax.jacfwd(dynamics, (0, 1))(x, u)
        C, D = jax.jacfwd(read, (0, 1))(x, u)
        return LinearDynamics(A, B, C, D)

    step = guard_step(raw_step)
    if nv is not None and not 0 < 2 * nv <= nx:
        raise ValueError(f"nv positions and as many velocities must fit into nx = {nx}, got nv = {nv}")
    env = Env(
        name=name,
        nx=nx,
        ndx=nx,
        nu=nu,
        ny=ny,
        horizon=horizon,
        dt=dt,
        limits=box,
        init=start,
        step=step,
        sense=read,
        linearize=linearize,
        rollout=closed_loop(step, read, cost, final_cost, jnp.subtract, box),
        cost=cost,
        final_cost=final_cost,
        failed=lambda x, y: jnp.asarray(False),
        minus=jnp.subtract,
        plus=jnp.add,
        observer=Observer(lambda key: (), lambda key, memory, x, y, u_prev: (x, memory)),
        sample_context=lambda key: (),
        bind=lambda context: env,
        nv=nv,
    )
    return env


def in_every_context(env: Env, change: Callable[[Env], Env]) -> Env:
    """`change`(env), whatever context it is bound to later: `_replace` alone is undone by `bind`."""
    return change(env)._replace(bind=lambda context: in_every_context(env.bind(context), change))


def _limits(limits: Limits | tuple | None, nu: int) -> Limits:
    low, high = limits if limits is not None else (-np.inf, np.inf)
    try:
        box = Limits(*(np.array(np.broadcast_to(side, (nu,)), float) for side in (low, high)))
    except ValueError:
        came = (np.shape(low), np.shape(high))
        raise ValueError(
            f"limits must broadcast to [nu] = [{nu}], came low and high of shapes {came}"
        ) from None
    if not np.all(box.low <= box.high):
        raise ValueError(f"limits need low <= high, came low {box.low} and high {box.high}: swap them?")
    return box


def _check_shapes(
    dynamics: Callable,
    cost: Callable,
    final_cost: Callable,
    sense: Callable,
    init: Callable,
    nx: int,
    nu: int,
) -> int:
    """Raise where a function does not fit the sizes; return ny."""
    x, u, t = jax.ShapeDtypeStruct((nx,), float), jax.ShapeDtypeStruct((nu,), float), jnp.int32(0)
    y = jax.eval_shape(sense, x, u)
    if y.ndim != 1:
        raise ValueError(f"sense(x, u) must return a vector [ny], came shape {y.shape}: ravel it")
    key = jax.eval_shape(lambda: jax.random.key(0))
    wanted = {
        "init(key)": ((nx,), jax.eval_shape(init, key)),
        "dynamics(x, u)": ((nx,), jax.eval_shape(dynamics, x, u)),
        "cost(x, u, y, t)": ((), jax.eval_shape(lambda *z: cost(*z), x, u, y, t)),
        "final_cost(x, y)": ((), jax.eval_shape(lambda *z: final_cost(*z), x, y)),
    }
    for call, (shape, out) in wanted.items():
        came = getattr(out, "shape", None)
        if came != shape:
            raise ValueError(
                f"{call} must return shape {shape} for nx = {nx} and nu = {nu}, came {came}: "
                "check the sizes given to plant, or index or sum what the function returns"
            )
    return y.shape[0]

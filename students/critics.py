"""Critics: what a state is worth, or an action in it. Beside `students.networks`, the module with Flax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from gps.types import Limits
from students.inputs import vector
from students.networks import ACTIVATIONS
from students.normalise import Moments, initial_moments, merge, normalise

__all__ = ["Critic", "critic"]


class Critic(NamedTuple):
    """Pure functions of `variables` = (params, statistics), like those of a `Student`; unbatched."""

    init: Callable[..., tuple[PyTree, Moments]]
    """(key, obs) → variables."""
    apply: Callable[..., Float[Array, " members"]]
    """(variables, obs, u) → what each member says; u is None without `limits`."""
    observe_statistics: Callable[..., tuple[PyTree, Moments]]
    """(variables, obs [n, …], weight [n]) → variables with the input normalisation updated."""


def critic(
    hidden: tuple[int, ...] = (256, 256),
    members: int = 1,
    limits: Limits | None = None,
    outputs: int = 1,
    layer_norm: bool = False,
    activation: str = "relu",
    dtype: Any = jnp.float32,
) -> Critic:
    """An ensemble of dense networks on everything that is seen, flattened.

    Args:
        hidden: widths of the hidden layers.
        members: networks of the same shape, each from weights of its own.
        limits: finite ones make it a Q-function: controls are its input too, as −1 to 1 within these.
        outputs: numbers of each member; more than one make `apply` return [members, outputs].
        layer_norm: normalise each hidden layer (Ball et al. 2023: holds Q down where there are no data).
        activation: a name in `ACTIVATIONS`.
        dtype: of parameters and outputs.

    Raises:
        ValueError: no members, or limits that are not finite.
    """
    if members < 1 or outputs < 1:
        raise ValueError(f"members and outputs must be at least 1, got {members} and {outputs}")
    if limits is not None and not np.all(np.isfinite([limits.low, limits.high])):
        raise ValueError(f"a Q-function scales controls by finite limits, got {limits.low} to {limits.high}")
    module = _Value(tuple(hidden), outputs, layer_norm, ACTIVATIONS[activation], dtype)

    def inputs(moments: Moments, obs: PyTree, u: Array | None) -> Array:
        seen = normalise(moments, vector(obs, dtype, pixels=True))
        if limits is None:
            return seen
        assert u is not None, "a Q-function needs a control"
        low, high = (jnp.asarray(side, dtype) for side in limits)
        scaled = (u.astype(dtype) - (low + high) / 2) / ((high - low) / 2)
        return jnp.concatenate([seen, jnp.clip(scaled, -1, 1)])

    def init(key: Key[Array, ""], obs: PyTree) -> tuple[PyTree, Moments]:
        moments = initial_moments(vector(obs, dtype, pixels=True).shape[0], dtype)
        u = None if limits is None else jnp.zeros(np.shape(limits.low), dtype)
        value = inputs(moments, obs, u)
        params = jax.vmap(lambda key: module.init(key, value)["params"])(jax.random.split(key, members))
        return params, moments

    def apply(variables: tuple[PyTree, Moments], obs: PyTree, u: Array | None = None) -> Array:
        params, moments = variables
        value = inputs(moments, obs, u)

        def member(params: PyTree) -> Any:
            return module.apply({"params": params}, value)

        said = jax.vmap(member)(params)
        return said[:, 0] if outputs == 1 else said

    def observe_statistics(
        variables: tuple[PyTree, Moments], obs: PyTree, weight: Float[Array, " n"]
    ) -> tuple[PyTree, Moments]:
        params, moments = variables
        flat = jax.vmap(lambda one: vector(one, dtype, pixels=True))(obs)
        return params, merge(moments, flat, weight)

    return Critic(init, apply, observe_statistics)


class _Value(nn.Module):
    hidden: tuple[int, ...]
    outputs: int
    layer_norm: bool
    activation: Callable[[Array], Array]
    dtype: Any

    @nn.compact
    def __call__(self, value: Float[Array, " n"]) -> Float[Array, " outputs"]:
        kind = {"dtype": self.dtype, "param_dtype": self.dtype}
        for width in self.hidden:
            value = nn.Dense(width, **kind)(value)
            if self.layer_norm:
                value = nn.LayerNorm(**kind)(value)
            value = self.activation(value)
        return nn.Dense(self.outputs, **kind)(value)

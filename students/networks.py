"""Policies as neural networks. The only module of the project that imports Flax."""

import difflib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from gps.gaussian import Gaussian
from gps.types import Limits, Student
from students.normalise import Moments, initial_moments, merge, normalise

__all__ = ["ACTIVATIONS", "mlp", "set_covariance", "takes_covariance"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}

LOG_STD_FLOOR = -6.0
"""Keeps a likelihood fitted to a deterministic teacher finite: a standard deviation of 0.25 % of the
half-range."""


class MLP(nn.Module):
    """Dense layers with an output layer that starts near zero, so that a new policy acts near its centre."""

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array]
    dtype: Any

    @nn.compact
    def __call__(self, value: Float[Array, " n"]) -> Float[Array, " outputs"]:
        """Normalised input → output, of means in units of the half-range."""
        for width in self.hidden:
            value = self.activation(nn.Dense(width, dtype=self.dtype, param_dtype=self.dtype)(value))
        small = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
        return nn.Dense(self.outputs, dtype=self.dtype, param_dtype=self.dtype, kernel_init=small)(value)


def mlp(
    nu: int,
    hidden: tuple[int, ...] = (128, 128),
    activation: str = "tanh",
    log_std: float = -1.0,
    limits: Limits | None = None,
    covariance: Literal["learned", "labels", "network"] = "learned",
    min_std: float = 0.0,
    dtype: Any = jnp.float32,
) -> Student:
    """Gaussian policy N(μ(o), S) with a covariance S that depends on the observation only if asked to.

    μ = clip(centre + half · net(normalise(o)), low, high), where centre and half-range come from `limits`
    (0 and 1 where there is none). The derivative passes straight through the clip: a label on a limit is
    reached exactly and then pulls no further, while an output outside the limits is never stuck there.
    Jacobians ∂μ/∂o are therefore those of the unclipped mean, as suits a controller that the env clips
    anyway. Samples are not clipped: log-probabilities belong to the unclipped action.

    Args:
        nu: number of controls.
        hidden: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        log_std: initial log standard deviation of the action, in units of the half-range.
        limits: box that the mean stays in.
        covariance: 'learned': S = diag(half · exp(θ))², θ a parameter. 'labels': a full matrix
            without a gradient (mind decoupled weight decay), set in closed form by `set_covariance`.
            'network': S(o) = diag(half · exp(log_std + net'(o)))², a second output of the same network.
        min_std: least spread that inputs are divided by, in units of the observation; see `normalise`.
        dtype: of parameters and outputs; observations are cast to it.

    Raises:
        ValueError: for an unknown activation or covariance, or limits of the wrong shape.
    """
    _check(nu, hidden, activation, limits, covariance, (log_std, min_std))
    seen = covariance == "network"
    network = MLP(tuple(hidden), 2 * nu if seen else nu, ACTIVATIONS[activation], dtype)
    low, high, centre, half = _box(nu, limits, dtype)

    def init(key: Key[Array, ""], obs: PyTree) -> tuple[PyTree, Moments]:
        flat = _flatten(obs, dtype)
        std = jnp.full(nu, log_std, dtype)
        own = {"log_std": std}
        spread = {"learned": own, "labels": {"cov": jnp.diag((half * jnp.exp(std)) ** 2)}, "network": {}}
        params = {"network": network.init(key, flat)["params"], **spread[covariance]}
        return params, initial_moments(flat.shape[0], dtype)

    def apply(variables: tuple[PyTree, Moments], obs: PyTree, carry: tuple) -> tuple[Gaussian, tuple]:
        params, moments = variables
        value = normalise(moments, _flatten(obs, dtype), min_std)
        raw: Any = network.apply({"params": params["network"]}, value)
        mean = clip_straight_through(centre + half * raw[:nu], low, high)
        if covariance == "labels":
            return Gaussian(mean, jax.lax.stop_gradient(params["cov"])), carry
        exponent = log_std + raw[nu:] if seen else params["log_std"]
        std = half * jnp.exp(clip_straight_through(exponent, LOG_STD_FLOOR, jnp.inf))
        return Gaussian(mean, jnp.diag(std**2)), carry

    def apply_sequence(
        variables: tuple[PyTree, Moments], obs: PyTree, first: Bool[Array, " T"], carry: tuple
    ) -> Gaussian:
        del first
        return jax.vmap(lambda one: apply(variables, one, carry)[0])(obs)

    def observe_statistics(
        variables: tuple[PyTree, Moments], obs: PyTree, weight: Float[Array, " n"]
    ) -> tuple[PyTree, Moments]:
        params, moments = variables
        return params, merge(moments, jax.vmap(lambda one: _flatten(one, dtype))(obs), weight)

    return Student(init, tuple, apply, apply_sequence, observe_statistics)


def takes_covariance(variables: tuple[PyTree, Moments]) -> bool:
    """Whether this student's covariance is to be set (`set_covariance`), not learned."""
    return "cov" in variables[0]


def set_covariance(variables: tuple[PyTree, Moments], cov: Float[Array, "nu nu"]) -> tuple[PyTree, Moments]:
    """The same student with action covariance `cov`, e.g. `students.label_covariance(dataset)`.

    Raises:
        ValueError: if the student learns its covariance (it was not made with covariance='labels').
    """
    params, moments = variables
    if not takes_covariance(variables):
        raise ValueError("this student learns its covariance; make it with covariance='labels' to set one")
    if params["cov"].shape != cov.shape:
        raise ValueError(f"the student's covariance has shape {params['cov'].shape}, got {cov.shape}")
    return {**params, "cov": cov.astype(params["cov"].dtype)}, moments


@jax.custom_jvp
def clip_straight_through(
    value: Float[Array, " n"], low: Float[Array, " n"], high: Float[Array, " n"]
) -> Float[Array, " n"]:
    """clip(value, low, high) with derivative 1 with respect to `value` everywhere, and 0 to the limits."""
    return jnp.clip(value, low, high)


@clip_straight_through.defjvp
def _clip_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return clip_straight_through(*primals), tangents[0]


def _flatten(obs: PyTree, dtype: Any) -> Float[Array, " n"]:
    """All leaves of one observation, in pytree order, as one vector."""
    return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(obs)])


def _box(nu: int, limits: Limits | None, dtype: Any) -> tuple[Array, Array, Array, Array]:
    """(low, high, centre, half-range); centre 0 and half-range 1 where a limit is infinite."""
    low = jnp.full(nu, -jnp.inf, dtype) if limits is None else jnp.asarray(limits.low, dtype)
    high = jnp.full(nu, jnp.inf, dtype) if limits is None else jnp.asarray(limits.high, dtype)
    bounded = jnp.isfinite(low) & jnp.isfinite(high)
    centre = jnp.where(bounded, (low + high) / 2, 0)
    half = jnp.where(bounded, (high - low) / 2, 1)
    return low, high, centre, half


def _check(
    nu: int,
    hidden: tuple[int, ...],
    activation: str,
    limits: Limits | None,
    covariance: str,
    stds: tuple[float, float],
) -> None:
    """Raise on settings that cannot work."""
    if nu < 1:
        raise ValueError(f"a policy needs at least 1 control, got nu = {nu}: has the model actuators?")
    if not isinstance(hidden, tuple | list) or not all(isinstance(w, int) and w >= 1 for w in hidden):
        raise ValueError(f"hidden must be a tuple of widths of at least 1, such as (128, 128), got {hidden}")
    log_std, min_std = stds
    if not (np.isfinite(log_std) and 0 <= min_std < np.inf):
        raise ValueError(f"log_std must be finite and min_std in [0, ∞), got {log_std} and {min_std}")
    if activation not in ACTIVATIONS:
        close = difflib.get_close_matches(activation, ACTIVATIONS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown activation {activation!r}, known are {', '.join(ACTIVATIONS)}{hint}")
    if covariance not in ("learned", "labels", "network"):
        raise ValueError(f"covariance must be 'learned', 'labels' or 'network', got {covariance!r}")
    if limits is not None and (jnp.shape(limits.low) != (nu,) or jnp.shape(limits.high) != (nu,)):
        shapes = jnp.shape(limits.low), jnp.shape(limits.high)
        raise ValueError(f"limits for {nu} controls must have shape ({nu},), got {shapes[0]} and {shapes[1]}")
    if limits is not None and not np.all(np.asarray(limits.low) < np.asarray(limits.high)):
        raise ValueError(f"limits need low < high, got {limits.low} and {limits.high}")

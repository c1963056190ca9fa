"""Students: a network, what it reads of an observation, and the distribution over actions that it means."""

import difflib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from gps.types import Limits, Student, Unroll
from students.heads import (
    Covariance,
    Head,
    choice_head,
    gaussian_head,
    mixture_head,
    ranked_head,
    squashed_head,
)
from students.inputs import images, vector
from students.networks import ACTIVATIONS, Layer, Memory, Network, dense, seeing
from students.normalise import Moments, initial_moments, merge, normalise

__all__ = [
    "classifier",
    "cnn",
    "dave2",
    "gru",
    "lstm",
    "mlp",
    "ranked",
    "set_covariance",
    "spatial_softmax",
    "squashed",
    "takes_covariance",
]

SMALL: tuple[Layer, ...] = ((32, 4, 4), (32, 3, 2), (32, 3, 1))
DAVE2: tuple[Layer, ...] = ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1))
VISUOMOTOR: tuple[Layer, ...] = ((32, 5, 2), (32, 3, 1), (32, 3, 1))
UNROLL = Unroll(32, 8)


def mlp(
    nu: int,
    hidden: tuple[int, ...] = (128, 128),
    activation: str = "tanh",
    log_std: float = -1.0,
    limits: Limits | None = None,
    covariance: Covariance = "learned",
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
    _check(nu, hidden, activation, covariance, (log_std, min_std))
    head = gaussian_head(nu, limits, covariance, log_std, dtype)
    return _student(dense(tuple(hidden), head.outputs, activation, dtype), head, False, min_std, dtype)


def squashed(
    nu: int,
    limits: Limits,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    log_std: float = -1.0,
    min_std: float = 0.0,
    dtype: Any = jnp.float32,
) -> Student:
    """A Gaussian behind tanh, which never leaves the limits: the policy of SAC (Haarnoja et al. 2018).

    Args:
        nu: number of controls.
        limits: box that every action stays in.
        hidden: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        log_std: initial log standard deviation before tanh.
        min_std: least spread that inputs are divided by, see `normalise`.
        dtype: of parameters and outputs.

    Raises:
        ValueError: for an unknown activation, or limits that are not finite.
    """
    _check(nu, hidden, activation, "network", (log_std, min_std))
    head = squashed_head(nu, limits, log_std, dtype)
    return _student(dense(tuple(hidden), head.outputs, activation, dtype), head, False, min_std, dtype)


def cnn(
    nu: int,
    layers: tuple[Layer, ...] = SMALL,
    points: bool = False,
    hidden: tuple[int, ...] = (128,),
    memory: Memory = "none",
    size: int = 64,
    unroll: Unroll = UNROLL,
    components: int = 1,
    activation: str = "relu",
    log_std: float = -1.0,
    limits: Limits | None = None,
    covariance: Covariance = "learned",
    min_std: float = 0.0,
    dtype: Any = jnp.float32,
) -> Student:
    """A policy that sees: convolutions on the images, then dense layers on these and all other readings.

    Images and readings are told apart by their dimensions (`students.inputs`); a history of images is seen
    as channels. Everything else is as in `mlp`.

    Args:
        nu: number of controls.
        layers: (channels, side, stride) of each convolution.
        points: pass on where each channel is most active instead of all its pixels.
        hidden: widths of the dense layers.
        memory: a recurrent cell behind them, 'gru' or 'lstm', or 'none'.
        size: of what it remembers.
        unroll: windows that a student that remembers is trained on.
        components: more than one make a mixture of Gaussians, for teachers who do one thing or another; train
            it by 'nll'.
        activation: of the dense layers.
        log_std: initial log standard deviation, in units of the half-range.
        limits: box that the mean stays in.
        covariance: as in `mlp`.
        min_std: least spread that readings are divided by.
        dtype: of parameters and outputs.

    Raises:
        ValueError: settings that make no policy; when it meets an observation: there is no image in it.
    """
    _check(nu, hidden, activation, covariance, (log_std, min_std))
    _check_memory(memory, size, unroll, components, covariance)
    if components > 1:
        head = mixture_head(nu, limits, components, log_std, dtype)
    else:
        head = gaussian_head(nu, limits, covariance, log_std, dtype)
    net = seeing(tuple(layers), points, tuple(hidden), head.outputs, activation, memory, size, dtype)
    return _student(net, head, bool(layers), min_std, dtype, None if memory == "none" else unroll)


def classifier(
    nu: int,
    choices: tuple[tuple[float, ...], ...],
    layers: tuple[Layer, ...] = SMALL,
    hidden: tuple[int, ...] = (128,),
    limits: Limits | None = None,
    dtype: Any = jnp.float32,
) -> Student:
    """A policy that sees and says which of a few controls is called for; train it by 'nll', cross-entropy.

    It acts on the mean of the controls under its probabilities (`gps.choice`).

    Args:
        nu: number of controls.
        choices: the controls.
        layers: (channels, side, stride) of each convolution.
        hidden: widths of the dense layers.
        limits: of the controls, which the choices have to keep.
        dtype: of parameters and outputs.
    """
    _check(nu, hidden, "relu", "learned", (0.0, 0.0))
    head = choice_head(nu, choices, dtype)
    _check_choices(choices, limits)
    net = seeing(tuple(layers), False, tuple(hidden), head.outputs, "relu", "none", 1, dtype)
    return _student(net, head, True, 0.0, dtype)


def ranked(
    nu: int,
    limits: Limits,
    choices: tuple[tuple[float, ...], ...] | None = None,
    hidden: tuple[int, ...] = (128, 128),
    activation: str = "relu",
    dtype: Any = jnp.float32,
) -> Student:
    """A Q-function of a few controls, which acts on the best: the policy of DQN (Mnih et al. 2015).

    Args:
        nu: number of controls.
        limits: of the controls, which the choices have to keep.
        choices: the controls; None: low, middle and high of each, in all combinations.
        hidden: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        dtype: of parameters and outputs.

    Raises:
        ValueError: for an unknown activation, limits that are not finite and no choices, or choices outside.
    """
    _check(nu, hidden, activation, "learned", (0.0, 0.0))
    low, high = np.asarray(limits.low), np.asarray(limits.high)
    if choices is None:
        if not np.all(np.isfinite([low, high])):
            raise ValueError(f"say which choices there are: limits {low} to {high} have no middle")
        if 3**nu > 1000:
            raise ValueError(f"{nu} controls have too many combinations to choose from: say which, choices=")
        levels = np.stack([low, (low + high) / 2, high], axis=1)
        choices = tuple(tuple(float(u) for u in one) for one in itertools.product(*levels))
    head = ranked_head(nu, choices, dtype)
    _check_choices(choices, limits)
    return _student(dense(tuple(hidden), head.outputs, activation, dtype), head, False, 0.0, dtype)


def dave2(nu: int, limits: Limits | None = None, log_std: float = -1.0, dtype: Any = jnp.float32) -> Student:
    """The nine layers that drove a car (Bojarski et al. 2016), for images of 66 × 200 pixels.

    Args:
        nu: number of controls.
        limits: box that the mean stays in.
        log_std: initial log standard deviation, in units of the half-range.
        dtype: of parameters and outputs.
    """
    return cnn(nu, DAVE2, hidden=(100, 50, 10), limits=limits, log_std=log_std, dtype=dtype)


def spatial_softmax(
    nu: int,
    layers: tuple[Layer, ...] = VISUOMOTOR,
    hidden: tuple[int, ...] = (40, 40),
    limits: Limits | None = None,
    covariance: Covariance = "learned",
    log_std: float = -1.0,
    dtype: Any = jnp.float32,
) -> Student:
    """Feature points, then dense layers on these and the readings (Levine, Finn, Darrell & Abbeel 2016).

    Args:
        nu: number of controls.
        layers: (channels, side, stride) of each convolution.
        hidden: widths of the dense layers.
        limits: box that the mean stays in.
        covariance: as in `mlp`.
        log_std: initial log standard deviation, in units of the half-range.
        dtype: of parameters and outputs.
    """
    return cnn(nu, layers, True, hidden, limits=limits, covariance=covariance, log_std=log_std, dtype=dtype)


def gru(
    nu: int,
    size: int = 64,
    hidden: tuple[int, ...] = (64,),
    unroll: Unroll = UNROLL,
    components: int = 1,
    limits: Limits | None = None,
    log_std: float = -1.0,
    dtype: Any = jnp.float32,
) -> Student:
    """A policy that remembers: dense layers, then a gated recurrent unit (Cho et al. 2014).

    Args:
        nu: number of controls.
        size: of what it remembers.
        hidden: widths of the dense layers before it.
        unroll: windows that it is trained on.
        components: more than one make a mixture of Gaussians, to be trained by 'nll'.
        limits: box that the mean stays in.
        log_std: initial log standard deviation, in units of the half-range.
        dtype: of parameters and outputs.
    """
    return _recurrent("gru", nu, size, hidden, unroll, components, limits, log_std, dtype)


def lstm(
    nu: int,
    size: int = 64,
    hidden: tuple[int, ...] = (64,),
    unroll: Unroll = UNROLL,
    components: int = 1,
    limits: Limits | None = None,
    log_std: float = -1.0,
    dtype: Any = jnp.float32,
) -> Student:
    """The same with long short-term memory (Hochreiter & Schmidhuber 1997); arguments as in `gru`."""
    return _recurrent("lstm", nu, size, hidden, unroll, components, limits, log_std, dtype)


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


# ------------------------------------------------------------------------------------- internals


def _student(
    network: Network, head: Head, sees: bool, min_std: float, dtype: Any, unroll: Unroll | None = None
) -> Student:
    """`network` on (images, normalised vector), read by `head`."""

    def read(moments: Moments, obs: PyTree) -> tuple[Array | None, Array]:
        value = normalise(moments, vector(obs, dtype, pixels=not sees), min_std)
        return (images(obs, dtype) if sees else None), value

    def init(key: Key[Array, ""], obs: PyTree) -> tuple[PyTree, Moments]:
        moments = initial_moments(vector(obs, dtype, pixels=not sees).shape[0], dtype)
        return {"network": network.init(key, *read(moments, obs)), **head.params}, moments

    def apply(variables: tuple[PyTree, Moments], obs: PyTree, carry: PyTree) -> tuple[Any, PyTree]:
        params, moments = variables
        features = network.encode(params["network"], *read(moments, obs))
        carry, raw = network.act(params["network"], carry, features)
        return head.distribution(params, raw), carry

    def apply_sequence(
        variables: tuple[PyTree, Moments], obs: PyTree, first: Bool[Array, " T"], carry: PyTree
    ) -> Any:
        params, moments = variables
        features = jax.vmap(lambda one: network.encode(params["network"], *read(moments, one)))(obs)
        fresh = network.initial_carry()

        def step(carry: PyTree, knot: tuple[Array, Array]) -> tuple[PyTree, Array]:
            begins, value = knot
            carry = jax.tree.map(lambda new, old: jnp.where(begins, new, old), fresh, carry)
            return network.act(params["network"], carry, value)

        if jax.tree.leaves(fresh):
            raw = jax.lax.scan(step, carry, (first, features))[1]
        else:
            raw = jax.vmap(lambda value: network.act(params["network"], carry, value)[1])(features)
        return jax.vmap(head.distribution, (None, 0))(params, raw)

    def observe_statistics(
        variables: tuple[PyTree, Moments], obs: PyTree, weight: Float[Array, " n"]
    ) -> tuple[PyTree, Moments]:
        params, moments = variables
        return params, merge(moments, jax.vmap(lambda one: vector(one, dtype, pixels=not sees))(obs), weight)

    def initial_carry(obs: PyTree) -> PyTree:
        return network.initial_carry()

    return Student(init, initial_carry, apply, apply_sequence, observe_statistics, unroll)


def _check_choices(choices: tuple[tuple[float, ...], ...], limits: Limits | None) -> None:
    low, high = (-np.inf, np.inf) if limits is None else limits
    if not np.all((np.asarray(choices) >= low) & (np.asarray(choices) <= high)):
        raise ValueError(f"choices {choices} leave the limits of the controls, {low} to {high}")


def _recurrent(
    memory: Memory,
    nu: int,
    size: int,
    hidden: tuple[int, ...],
    unroll: Unroll,
    components: int,
    limits: Limits | None,
    log_std: float,
    dtype: Any,
) -> Student:
    return cnn(
        nu,
        (),
        hidden=hidden,
        memory=memory,
        size=size,
        unroll=unroll,
        components=components,
        activation="tanh",
        limits=limits,
        log_std=log_std,
        dtype=dtype,
    )


def _check(
    nu: int,
    hidden: tuple[int, ...],
    activation: str,
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


def _check_memory(memory: str, size: int, unroll: Unroll, components: int, covariance: str) -> None:
    if memory not in ("none", "gru", "lstm"):
        raise ValueError(f"memory must be 'none', 'gru' or 'lstm', got {memory!r}")
    if size < 1 or components < 1:
        raise ValueError(f"size and components must be at least 1, got {size} and {components}")
    if components > 1 and covariance != "learned":
        raise ValueError(f"a mixture has its own spreads: leave covariance={covariance!r} out")
    if memory == "none" and unroll != UNROLL:
        raise ValueError("unroll is for students that remember: leave it out, or choose memory='gru'")
    length, burn_in = unroll
    if length < 2 or not 0 <= burn_in < length:
        raise ValueError(
            f"a window of {length} steps cannot begin with {burn_in} that only warm up: unroll needs "
            "length >= 2 and 0 <= burn_in < length"
        )

"""Neural networks. The only module of the project that imports Flax.

A network is a `Network` of pure functions: `encode` turns what is seen at one step into features, `act` turns
features into numbers and keeps a memory. A sequence is encoded at once and remembered step by step.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

__all__ = ["ACTIVATIONS", "Layer", "Memory", "Network", "dense", "seeing"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}

Layer = tuple[int, int, int]
"""(channels, side of the kernel, stride) of a convolution without padding."""

Memory = Literal["none", "gru", "lstm"]


class Network(NamedTuple):
    """Pure functions of a network's parameters; unbatched."""

    init: Callable[..., PyTree]
    """(key, images or None, vector) → params."""
    initial_carry: Callable[[], PyTree]
    """() → what it remembers at the start; the empty tuple without memory."""
    encode: Callable[..., Float[Array, " features"]]
    """(params, images or None, vector) → features."""
    act: Callable[..., tuple[PyTree, Float[Array, " outputs"]]]
    """(params, carry, features) → (carry, outputs), means in units of the half-range."""


def dense(hidden: tuple[int, ...], outputs: int, activation: str, dtype: Any) -> Network:
    """Dense layers on the vector; no images, no memory."""
    module = _Dense(hidden, outputs, ACTIVATIONS[activation], dtype)

    def act(params: PyTree, carry: tuple, value: Array) -> tuple[tuple, Array]:
        raw: Any = module.apply({"params": params}, value)
        return carry, raw

    return Network(
        init=lambda key, images, vector: module.init(key, vector)["params"],
        initial_carry=tuple,
        encode=lambda params, images, vector: vector,
        act=act,
    )


def seeing(
    layers: tuple[Layer, ...],
    points: bool,
    hidden: tuple[int, ...],
    outputs: int,
    activation: str,
    memory: Memory,
    size: int,
    dtype: Any,
) -> Network:
    """Convolutions on the images, dense layers on what they find and the vector, then perhaps a memory.

    Args:
        layers: of convolutions; without any the network is blind.
        points: pass on where each channel is most active (`FeaturePoints`) instead of all pixels.
        hidden: widths of the dense layers.
        outputs: numbers returned.
        activation: of the dense layers; that of convolutions is relu.
        memory: kind of the recurrent cell behind the dense layers.
        size: of what it remembers.
        dtype: of parameters and outputs.
    """
    module = _Seeing(tuple(layers), points, hidden, outputs, ACTIVATIONS[activation], memory, size, dtype)
    zeros = jnp.zeros(size, dtype)
    carry = {"none": (), "gru": zeros, "lstm": (zeros, zeros)}[memory]

    def encode(params: PyTree, images: Array | None, vector: Array) -> Array:
        found: Any = module.apply({"params": params}, images, vector, method="encode")
        return found

    def act(params: PyTree, carry: PyTree, features: Array) -> tuple[PyTree, Array]:
        result: Any = module.apply({"params": params}, carry, features, method="act")
        return result

    return Network(
        init=lambda key, images, vector: module.init(key, carry, images, vector)["params"],
        initial_carry=lambda: carry,
        encode=encode,
        act=act,
    )


# --------------------------------------------------------------------------------------- modules


class _Dense(nn.Module):
    """Dense layers with an output layer that starts near zero, so that a new policy acts near its centre."""

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array]
    dtype: Any

    @nn.compact
    def __call__(self, value: Float[Array, " n"]) -> Float[Array, " outputs"]:
        for width in self.hidden:
            value = self.activation(nn.Dense(width, dtype=self.dtype, param_dtype=self.dtype)(value))
        return _last(self.outputs, self.dtype)(value)


class _Convolution(nn.Module):
    """A convolution as one matrix product over patches, which a CPU does well in any program.

    XLA's own convolution inside a loop on a CPU takes 10 to 20 times as long (64 × 64 pixels).
    """

    layer: Layer
    dtype: Any

    @nn.compact
    def __call__(self, image: Float[Array, "height width n"]) -> Float[Array, "rows columns channels"]:
        channels, side, stride = self.layer
        rows, columns = ((n - side) // stride + 1 for n in image.shape[:2])
        if rows < 1 or columns < 1:
            raise ValueError(
                f"an image of {image.shape[:2]} pixels is smaller than a kernel of {side} × {side}: take "
                "larger images, or fewer or smaller `layers`"
            )
        spans = [slice(i, i + stride * (rows - 1) + 1, stride) for i in range(side)]
        across = [slice(i, i + stride * (columns - 1) + 1, stride) for i in range(side)]
        patches = jnp.concatenate([image[a, b] for a in spans for b in across], axis=-1)
        kernel = nn.initializers.he_normal()
        return nn.Dense(channels, dtype=self.dtype, param_dtype=self.dtype, kernel_init=kernel)(patches)


class _Seeing(nn.Module):
    layers: tuple[Layer, ...]
    points: bool
    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array]
    memory: Memory
    size: int
    dtype: Any

    def setup(self) -> None:
        kind = {"dtype": self.dtype, "param_dtype": self.dtype}
        self.convolutions = [_Convolution(layer, self.dtype) for layer in self.layers]
        self.dense = [nn.Dense(width, **kind) for width in self.hidden]
        cells = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
        if self.memory != "none":
            self.cell = cells[self.memory](self.size, **kind)
        self.last = _last(self.outputs, self.dtype)

    def __call__(self, carry: PyTree, images: Array | None, vector: Array) -> tuple[PyTree, Array]:
        return self.act(carry, self.encode(images, vector))

    def encode(self, images: Array | None, vector: Array) -> Array:
        value = vector
        if images is not None:
            for convolution in self.convolutions:
                images = nn.relu(convolution(images))
            seen = feature_points(images) if self.points else images.reshape(-1)
            value = jnp.concatenate([seen, vector])
        for layer in self.dense:
            value = self.activation(layer(value))
        return value

    def act(self, carry: PyTree, features: Array) -> tuple[PyTree, Array]:
        if self.memory != "none":
            carry, features = self.cell(carry, features)
        return carry, self.last(features)


def feature_points(channels: Float[Array, "height width n"]) -> Float[Array, " 2n"]:
    """Where each channel is most active: the mean column and row, in [−1, 1], under a softmax over pixels.

    Spatial softmax and expectation (Levine, Finn, Darrell & Abbeel 2016, section 5.1).
    """
    height, width, n = channels.shape
    share = jax.nn.softmax(channels.reshape(-1, n), axis=0).reshape(height, width, n)
    across = jnp.einsum("hwn,w->n", share, jnp.linspace(-1, 1, width, dtype=channels.dtype))
    down = jnp.einsum("hwn,h->n", share, jnp.linspace(-1, 1, height, dtype=channels.dtype))
    return jnp.concatenate([across, down])


def _last(outputs: int, dtype: Any) -> nn.Dense:
    small = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
    return nn.Dense(outputs, dtype=dtype, param_dtype=dtype, kernel_init=small)

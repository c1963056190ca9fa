"""Whether two policies act alike: both are driven through the same observations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from gps.types import Limits

__all__ = ["Driver", "at_random", "difference", "drive"]


class Driver(NamedTuple):
    """A policy at the start of an episode."""

    step: Callable[[PyTree, Any], tuple[Any, Any]]
    """(obs, carry) → (u, carry)."""
    carry: Any


def drive(driver: Driver, observations: PyTree) -> Float[np.ndarray, "T nu"]:
    """The controls along an episode of given observations [T, …]."""
    us, carry = [], driver.carry
    for t in range(len(jax.tree.leaves(observations)[0])):
        u, carry = driver.step(jax.tree.map(lambda leaf, t=t: leaf[t], observations), carry)
        us.append(np.asarray(u))
    return np.stack(us)


def at_random(observations: PyTree, seed: int = 0) -> PyTree:
    """As many observations [T, …] with the same mean and spread in every entry.

    Bytes are any bytes; other whole numbers and flags are those that occur, in another order.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: np.ndarray) -> np.ndarray:
        if leaf.dtype.kind == "f":
            spread = np.std(leaf, axis=0)
            wide = np.where(spread > 0, spread, 1)
            return (np.mean(leaf, axis=0) + wide * rng.normal(size=leaf.shape)).astype(leaf.dtype)
        if leaf.dtype == np.uint8:
            return rng.integers(0, 256, leaf.shape, np.uint8)
        return rng.permutation(leaf)

    return jax.tree.map(lambda leaf: draw(np.asarray(leaf)), observations)


def difference(
    found: Float[np.ndarray, "T nu"], expected: Float[np.ndarray, "T nu"], limits: Limits
) -> tuple[float, int]:
    """(the largest difference in units of the controls' range, the step at which it occurs).

    Where a control has no limits, its unit is the largest that is `expected`, at least 1. What is NaN in one
    of them alone is infinitely far.
    """
    span = np.asarray(limits.high, float) - np.asarray(limits.low, float)
    largest = np.maximum(np.max(np.abs(expected), axis=0), 1)
    gap = np.abs(found - expected) / np.where(np.isfinite(span), span, largest)
    lost = np.where(np.isnan(found) & np.isnan(expected), 0, np.inf)
    gap = np.max(np.where(np.isnan(gap), lost, gap), axis=1)
    worst = int(np.argmax(gap))
    return float(gap[worst]), worst

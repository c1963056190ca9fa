"""Shapes in time of the noise that planners sample with: maps [T, m] from m numbers to T controls.

A basis is made once per planner. White noise of variance 1 becomes noise of variance 1 at every step, but
between the knots of a spline, where it is about half.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

__all__ = ["Noise", "Spline", "coloured", "spline", "white"]

Noise = Callable[[int], Float[np.ndarray, "T m"]]
Spline = Literal["zero", "linear", "cubic"]


def white() -> Noise:
    """Every step for itself."""
    return np.eye


def spline(knots: int, kind: Spline = "cubic") -> Noise:
    """A spline through `knots` values, which lie evenly from the first control to the last.

    "zero" holds each value until the next, "cubic" is Hermite's with the slopes of finite differences, as in
    MuJoCo MPC (Howell et al. 2022, arXiv:2212.00541).

    Raises:
        ValueError: no knots, or another kind.
    """
    if knots < 1:
        raise ValueError(f"a spline needs at least 1 knot, came {knots}")
    if kind not in get_args(Spline):
        raise ValueError(f"spline must be one of {', '.join(get_args(Spline))}, came {kind!r}")

    def basis(T: int) -> np.ndarray:
        n = min(knots, T)
        if n == 1:
            return np.ones((T, 1))
        if kind == "zero":
            return np.eye(n)[np.arange(T) * n // T]
        place = np.linspace(0, n - 1, T)
        left = np.minimum(place.astype(int), n - 2)
        s, values = (place - left)[:, None], np.eye(n)
        if kind == "linear":
            return (1 - s) * values[left] + s * values[left + 1]
        slopes = np.gradient(values, axis=0)
        return (
            (1 + 2 * s) * (1 - s) ** 2 * values[left]
            + s**2 * (3 - 2 * s) * values[left + 1]
            + s * (1 - s) ** 2 * slopes[left]
            + s**2 * (s - 1) * slopes[left + 1]
        )

    return basis


def coloured(beta: float) -> Noise:
    """Power density 1 / f^β: 0 is white, 1 pink, 2 a walk (Pinneri et al. 2020, arXiv:2008.06389).

    Of a spectrum twice as long as the plan, lest its end be tied to its beginning.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, came {beta}")

    def basis(T: int) -> np.ndarray:
        n = 2 * T
        frequency = np.fft.rfftfreq(n)
        frequency[0] = frequency[1]
        rows = np.fft.irfft(np.fft.rfft(np.eye(n), axis=0) * frequency[:, None] ** (-beta / 2), n, axis=0)[:T]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return basis

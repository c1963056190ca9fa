"""What a student minimises: functions of its distribution and one labelled step.

A loss is `(dist, step) → scalar`, unbatched; `step` is one row of a `Dataset`. `fit` takes the mean over a
minibatch, weighted by `step.weight`. None of them factorises anything per step, so that a batch over one
student with a state-independent covariance costs one small Cholesky.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import Gaussian, inverse_spd, log_det_chol, symmetrise
from gps.linalg import cholesky
from gps.squashed import Squashed
from gps.types import Dataset

__all__ = ["Loss", "LossName", "kl", "label_covariance", "mse", "named", "nll"]

Loss = Callable[[Gaussian, Dataset], Float[Array, ""]]
"""(student's distribution, step) → loss at that step."""

LossName = Literal["kl", "nll", "mse"]


def nll(target: Literal["label", "executed"] = "label") -> Loss:
    """−log π(a | o) in nats, of the teacher's mean or of the action that was executed.

    Raises:
        ValueError: for another target.
    """
    if target not in ("label", "executed"):
        raise ValueError(f"target must be 'label' or 'executed', got {target!r}")

    def loss(dist: Gaussian, step: Dataset) -> Float[Array, ""]:
        return -dist.log_prob(step.mean if target == "label" else step.action)

    return loss


def kl(covariance: bool = True) -> Loss:
    """KL(student ‖ teacher) for a label N(m, P⁻¹), the loss of PLATO and of the S-step of MDGPS.

    ½ (μ−m)ᵀP(μ−m) + ½ (tr(P S) − log det S − n), which is the divergence in nats less the label's own
    constant ½ log det P: it has no gradient, and without it P may be singular (a control the teacher does
    not care about). The second part is smallest where S⁻¹ is the mean of P over the data
    (`label_covariance`).

    Args:
        covariance: False leaves the second part out: precision-weighted regression of the mean, for a student
            whose covariance is set in closed form.
    """

    def loss(dist: Gaussian, step: Dataset) -> Float[Array, ""]:
        error = _mean("kl", dist) - step.mean
        regression = 0.5 * error @ (step.precision @ error)
        if not covariance:
            return regression
        log_det = log_det_chol(cholesky(dist.cov))
        trace = jnp.sum(step.precision * dist.cov)
        return regression + 0.5 * (trace - log_det - error.shape[0])

    return loss


def mse() -> Loss:
    """Mean over the controls of (μ − m)²: squared units of the control; says nothing about the covariance."""

    def loss(dist: Gaussian | Squashed, step: Dataset) -> Float[Array, ""]:
        mean = dist.mode() if isinstance(dist, Squashed) else _mean("mse", dist)
        return jnp.mean((mean - step.mean) ** 2)

    return loss


def _mean(loss: LossName, dist: Gaussian) -> Float[Array, " nu"]:
    if not isinstance(dist, Gaussian):
        raise ValueError(
            f"loss '{loss}' needs a student with a Gaussian, this one has a {type(dist).__name__}: take 'nll'"
        )
    return dist.mean


def named(name: LossName) -> Loss:
    """The loss of this name with its defaults.

    Raises:
        ValueError: there is none.
    """
    if name not in get_args(LossName):
        raise ValueError(f"loss must be one of {', '.join(get_args(LossName))}, got {name!r}")
    return {"kl": kl, "nll": nll, "mse": mse}[name]()


def label_covariance(dataset: Dataset) -> Float[Array, "nu nu"]:
    """Inverse of the weighted mean label precision.

    The state-independent S that minimises Σ w KL(N(μ, S) ‖ teacher), whatever the means (Montgomery & Levine
    2016, §4). NaN for an empty dataset or a singular mean precision.
    """
    filled = dataset.weight > 0
    precision = jnp.where(filled[:, None, None], dataset.precision, 0)
    mean = jnp.einsum("n,nij->ij", dataset.weight, precision) / jnp.sum(dataset.weight)
    return inverse_spd(symmetrise(mean))

"""Policy gradient with demonstrations as an auxiliary loss (DAPG: Rajeswaran et al. 2018)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Int, PyTree

from gps.algorithms.likelihoods import log_probs
from gps.algorithms.on_policy import Batch, Improve, Settings, on_policy
from gps.algorithms.pretrain_finetune import imitated
from gps.recordings import Recording
from gps.types import Algorithm, Dataset, Env, Limits, Student, Teacher
from students.losses import LossName

__all__ = ["Natural", "hybrid_pg", "natural"]


class Natural(NamedTuple):
    """Settings of the policy's step."""

    step: float = 0.01
    """δ: ½ gᵀF⁻¹g of the step, about its KL divergence, nats."""
    weight: float = 0.1
    """λ₀ of the demonstrations, in units of the largest advantage."""
    decay: float = 0.95
    """λ₁: their weight falls by this factor in each iteration."""
    damping: float = 1e-3
    """Added to the Fisher matrix's diagonal."""
    solver_steps: int = 10
    """Of conjugate gradients."""
    metric_steps: int = 2048
    """Steps, drawn from those collected, that the Fisher matrix and the divergence that bounds the step are
    means over, where there are more (Schulman et al. 2015, appendix C)."""


def hybrid_pg(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | Recording,
    student: Student,
    *,
    demonstrations: int = 20,
    noise: float = 0.0,
    pretrain_updates: int = 3000,
    loss: LossName = "mse",
    weight: float = 0.1,
    decay: float = 0.95,
    wait: int = 15,
    step: float = 0.01,
    damping: float = 1e-3,
    num_worlds: int = 32,
    num_steps: int = 64,
    discount: float = 0.99,
    trace: float = 0.95,
    critic_updates: int = 80,
    critic_hidden: tuple[int, ...] = (64, 64),
    test_worlds: int = 16,
) -> Algorithm:
    """Natural gradient of E[A log π(u|o)] + λ₀ λ₁ᵏ max A · E_D[log π(u*|o)], after behaviour cloning.

    With decay = 1 the demonstrations keep their weight: the plain hybrid objective E[r] + λ Σ_D log π.
    Cloning fits what the demonstrator wanted; u* is what it did, its hand's noise included.

    Args:
        env: the task.
        make_teacher: Env → Teacher, who shows whole episodes; or what was recorded (`gps.recordings`).
        student: the policy, without memory.
        demonstrations: episodes that are shown.
        noise: of the hand that shows them, in half-ranges of the limits.
        pretrain_updates: gradient updates of the imitation.
        loss: of the imitation.
        weight: λ₀.
        decay: λ₁.
        wait: iterations in which the critic alone learns.
        step: δ, nats.
        damping: added to the Fisher matrix's diagonal.
        num_worlds: as in `ppo`, and so the rest.
        num_steps: control steps per world and iteration.
        discount: γ.
        trace: λ of the advantage estimate.
        critic_updates: gradient updates of the critic per iteration.
        critic_hidden: widths of the critic's layers.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: settings that cannot work, or a student that remembers.
    """
    taught = imitated(env, make_teacher, student, demonstrations, noise, pretrain_updates, loss)
    settings = Settings(
        num_worlds,
        num_steps,
        discount,
        trace,
        critic_updates,
        critic_hidden=critic_hidden,
        wait=wait,
        test_worlds=test_worlds,
    )
    improve = natural(student, env.limits, Natural(step, weight, decay, damping))
    return on_policy(env, student, improve, settings, taught)


def natural(student: Student, limits: Limits, settings: Natural) -> Improve:
    """The policy's step: θ + √(2δ / gᵀF⁻¹g) F⁻¹g, F the Fisher matrix.

    It is halved as long as its KL divergence is more than 1.5 δ. Both terms of g are means over their steps;
    the paper sums, so that its λ₀ also weighs how many demonstrations there are.

    Raises:
        ValueError: settings that cannot work, or a student that remembers.
    """
    _check(student, settings)

    def run(
        key: Array, variables: PyTree, labels: Dataset, batch: Batch, iteration: Int[Array, ""]
    ) -> tuple[PyTree, Dataset, dict[str, Array]]:
        params, statistics = variables
        theta, unravel = ravel_pytree(params)
        taken = jnp.sum(labels.weight > 0)
        weight = settings.weight * settings.decay**iteration * jnp.max(batch.advantage)

        def policy(theta: Array) -> tuple[PyTree, PyTree]:
            return unravel(theta), statistics

        def objective(theta: Array) -> tuple[Array, Array]:
            log_prob = log_probs(student, policy(theta), batch.windows, limits)[1]
            shown = jax.vmap(lambda obs, u: student.apply(policy(theta), obs, ())[0].log_prob(u))(
                labels.obs, labels.action
            )
            told = jnp.sum(jnp.where(labels.weight > 0, shown, 0)) / jnp.maximum(taken, 1)
            return jnp.mean(batch.advantage * jnp.exp(log_prob - batch.log_prob)) + weight * told, told

        (gain, told), slope = jax.value_and_grad(objective, has_aux=True)(theta)
        some = _drawn(key, batch.windows, settings.metric_steps)
        now = jax.lax.stop_gradient(log_probs(student, variables, some, limits)[0])

        def away(theta: Array) -> Array:
            dists = log_probs(student, policy(theta), some, limits)[0]
            return _divergence(now, dists)

        def fisher(vector: Array) -> Array:
            return jax.jvp(jax.grad(away), (theta,), (vector,))[1] + settings.damping * vector

        direction = cg(fisher, slope, maxiter=settings.solver_steps)[0]
        length = jnp.sqrt(2 * settings.step / jnp.maximum(direction @ fisher(direction), 1e-12))
        far = lambda share: away(theta + share * length * direction) > 1.5 * settings.step  # noqa: E731
        share = jax.lax.while_loop(lambda s: far(s) & (s > 1e-3), lambda s: s / 2, jnp.ones_like(length))
        moved = theta + share * length * direction
        before, after = (log_probs(student, policy(at), batch.windows, limits)[0] for at in (theta, moved))
        info = {"loss": -gain, "kl": _divergence(before, after), "shown": told, "updates": jnp.int32(1)}
        return (unravel(moved), statistics), labels, info

    return Improve(lambda variables, labels: labels, run)


def _divergence(old: PyTree, new: PyTree) -> Array:
    """KL(old ‖ new), mean over windows [n, L]."""
    return jnp.mean(jax.vmap(jax.vmap(lambda old, new: old.kl(new)))(old, new))


def _drawn(key: Array, windows: PyTree, count: int) -> PyTree:
    """`count` of the windows, or all where there are no more."""
    total = jax.tree.leaves(windows)[0].shape[0]
    if total <= count:
        return windows
    rows = jax.random.choice(key, total, (count,), replace=False)
    return jax.tree.map(lambda leaf: leaf[rows], windows)


def _check(student: Student, settings: Natural) -> None:
    if student.unroll is not None:
        raise ValueError("hybrid_pg is for students without memory: take pretrain_finetune")
    if not settings.step > 0 or not settings.damping >= 0:
        raise ValueError(
            f"step must be positive, damping not negative, got {settings.step}, {settings.damping}"
        )
    if settings.metric_steps < 1:
        raise ValueError(f"metric_steps must be at least 1, got {settings.metric_steps}")
    if not settings.weight >= 0 or not 0 <= settings.decay <= 1:
        raise ValueError(
            f"weight must be at least 0 and decay in [0, 1], got {settings.weight} and {settings.decay}"
        )

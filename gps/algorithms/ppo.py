"""PPO: reinforcement learning from scratch, by clipped policy gradients (Schulman et al. 2017)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from gps.algorithms.likelihoods import log_probs
from gps.algorithms.on_policy import Batch, Improve, Settings, minibatches, on_policy
from gps.types import Algorithm, Dataset, Env, Limits, Student, Teacher

__all__ = ["Clipped", "clipped", "ppo"]


class Clipped(NamedTuple):
    """Settings of the policy's step."""

    epochs: int = 8
    """Passes over an iteration's experience."""
    parts: int = 8
    """Minibatches per pass."""
    learning_rate: float = 3e-4
    """Of Adam, falling to 0 over the planned iterations."""
    clip: float = 0.2
    """ε: how far the probability of an action may move before it is pushed no further."""
    entropy: float = 0.0
    """What a nat of entropy is worth, in standard deviations of the advantage."""
    anchor: float = 0.0
    """What a nat of KL(policy of the beginning ‖ policy) costs, in the same units."""
    decay: float = 1.0
    """The anchor's price falls by this factor in each iteration."""


def ppo(
    env: Env,
    make_teacher: Callable[[Env], Teacher] | None,
    student: Student,
    *,
    iterations: int = 100,
    num_worlds: int = 32,
    num_steps: int = 64,
    epochs: int = 8,
    parts: int = 8,
    learning_rate: float = 3e-4,
    clip: float = 0.2,
    entropy: float = 0.0,
    discount: float = 0.99,
    trace: float = 0.95,
    critic_updates: int = 80,
    critic_hidden: tuple[int, ...] = (64, 64),
    test_worlds: int = 16,
) -> Algorithm:
    """max_θ E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)], ρ = π_θ(u|o) / π_collected(u|o); the teacher is not asked.

    Reward is `Env.reward`, or −cost. The advantage A by a critic on the student's observations.

    Args:
        env: the task.
        make_teacher: not called.
        student: the policy, of any kind whose distribution has a density; its covariance is learned.
        iterations: of collecting and improving.
        num_worlds: worlds side by side; their episodes go on from one iteration to the next.
        num_steps: control steps per world and iteration.
        epochs: passes over an iteration's experience.
        parts: minibatches per pass; of whole worlds for a student that remembers.
        learning_rate: of Adam, falling to 0 over the iterations.
        clip: ε.
        entropy: what a nat of entropy is worth.
        discount: γ.
        trace: λ of the advantage estimate.
        critic_updates: gradient updates of the critic per iteration.
        critic_hidden: widths of the critic's layers.
        test_worlds: worlds on which the student alone is tried after each iteration.
    """
    settings = Settings(
        num_worlds,
        num_steps,
        discount,
        trace,
        critic_updates,
        critic_hidden=critic_hidden,
        test_worlds=test_worlds,
    )
    step = Clipped(epochs, parts, learning_rate, clip, entropy)
    return on_policy(env, student, clipped(student, env.limits, step, iterations), settings)


def clipped(student: Student, limits: Limits, settings: Clipped, iterations: int) -> Improve:
    """The policy's step. `iterations` are planned: the learning rate falls to 0 over these.

    What it keeps: the optimiser's state and, if there is an anchor, the student's variables of the beginning.

    Raises:
        ValueError: settings that cannot work.
    """
    _check(settings, iterations)
    count = iterations * settings.epochs * settings.parts
    rate = optax.linear_schedule(settings.learning_rate, 0.0, count)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))

    def run(
        key: Array, variables: PyTree, kept: tuple, batch: Batch, iteration: Int[Array, ""]
    ) -> tuple[PyTree, tuple, dict[str, Array]]:
        (params, statistics), (opt_state, reference) = variables, kept
        price = settings.anchor * settings.decay**iteration

        def loss(params: PyTree, part: Batch) -> tuple[Array, Array]:
            dists, log_prob = log_probs(student, (params, statistics), part.windows, limits)
            ratio = jnp.exp(log_prob - part.log_prob)
            held = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
            gain = jnp.mean(jnp.minimum(ratio * part.advantage, held * part.advantage))
            if settings.entropy:
                gain -= settings.entropy * jnp.mean(ratio * jax.lax.stop_gradient(log_prob))
            if settings.anchor:
                taught, _ = log_probs(student, reference, part.windows, limits)
                away = jax.vmap(jax.vmap(lambda old, new: old.kl(new)))(taught, dists)
                gain -= price * jnp.mean(away)
            return -gain, jnp.mean(ratio - 1 - jnp.log(ratio))

        def update(carry: tuple, part: Batch) -> tuple[tuple, tuple[Array, Array]]:
            params, opt_state = carry
            info, gradient = jax.value_and_grad(loss, has_aux=True)(params, part)
            change, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, change), opt_state), info

        (params, opt_state), (losses, kls) = minibatches(
            key, batch, settings.epochs, settings.parts, update, (params, opt_state)
        )
        info = {
            "loss": jnp.mean(losses),
            "kl": jnp.mean(kls[-settings.parts :]),
            "updates": jnp.int32(settings.epochs * settings.parts),
        }
        return (params, statistics), (opt_state, reference), info

    def init(variables: PyTree, labels: Dataset | None) -> tuple[PyTree, PyTree]:
        return optimizer.init(variables[0]), variables if settings.anchor else ()

    return Improve(init, run)


def _check(settings: Clipped, iterations: int) -> None:
    for name, value in {"iterations": iterations, "epochs": settings.epochs, "parts": settings.parts}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (0 <= settings.entropy < math.inf and 0 <= settings.anchor < math.inf):
        raise ValueError(
            f"entropy and anchor must be at least 0 and finite, got {settings.entropy} and {settings.anchor}"
        )
    if not 0 <= settings.decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {settings.decay}")
    if not 0 < settings.clip < 1:
        raise ValueError(f"clip must be in (0, 1), got {settings.clip}")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {settings.learning_rate}")

"""A student as the linear-Gaussian controller that it looks like along a trajectory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gps.types import Env, LinearGaussian, Student

__all__ = ["linearise"]


def linearise(env: Env, student: Student) -> Callable[[PyTree, Float[Array, "T nx"]], LinearGaussian]:
    """(variables, xs) → the student around the states `xs`: ū_t = μ(o(x_t)), K_t = ∂μ/∂o ∂o/∂δx, Σ_t its own.

    The derivative goes through the sensors, read at zero control, by the engine's finite differences, and
    through the network: a single trajectory is enough where a regression needs many. The student must be a
    function of the present state: one that remembers has no ∂u/∂x and is to be linearised by regression.

    Raises:
        ValueError: the student or its observations have a memory.
    """
    memory = jax.eval_shape(env.observer.init, jax.eval_shape(lambda: jax.random.key(0)))
    if jax.tree.leaves((memory, student.initial_carry())):
        raise ValueError(
            "a student that remembers (a history, a recurrent network) is no function of the state: "
            "linearise it by regression, or let it see the present only"
        )
    key = jax.random.key(0)  # observers without memory that draw noise are linearised at one draw

    def one(variables: PyTree, x: Float[Array, " nx"]) -> LinearGaussian:
        rest = jnp.zeros(env.nu, x.dtype)

        def act(delta: Array) -> tuple[Array, tuple[Array, Array]]:
            there = env.plus(x, delta)
            obs, _ = env.observer.observe(key, (), there, env.sense(there, rest), rest)
            dist, _ = student.apply(variables, obs, student.initial_carry())
            mean = dist.mean.astype(x.dtype)
            return mean, (mean, dist.cov.astype(x.dtype))

        K, (mean, cov) = jax.jacfwd(act, has_aux=True)(jnp.zeros(env.ndx, x.dtype))
        moves = (mean > jnp.asarray(env.limits.low, x.dtype)) & (mean < jnp.asarray(env.limits.high, x.dtype))
        return LinearGaussian(x, mean, jnp.where(moves[:, None], K, 0), cov)

    return lambda variables, xs: jax.vmap(one, (None, 0))(variables, xs)

"""A student as the linear-Gaussian controller that it looks like, along one trajectory or over rollouts.

The derivatives are exact where the student is a function of the present state. A regression sees what it did
over rollouts (Levine & Abbeel 2014; Montgomery & Levine 2016, section 3), whatever it remembers or looks at.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gps.gmm import fit_gmm, seed_gmm
from gps.regression import Regression, regress
from gps.rollout import observations, saturate
from gps.types import Env, LinearGaussian, Student, Trajectory

__all__ = ["linearise", "regressed"]


def linearise(env: Env, student: Student) -> Callable[[PyTree, Float[Array, "T nx"]], LinearGaussian]:
    """(variables, xs) → the student around the states `xs`: ū_t = μ(o(x_t)), K_t = ∂μ/∂o ∂o/∂δx, Σ_t its own.

    The derivative goes through the sensors, read at zero control, by the engine's finite differences, and
    through the network: a single trajectory is enough where a regression needs many. The student must be a
    function of the present state: one that remembers has no ∂u/∂x and is to be linearised by regression.

    Raises:
        ValueError: the student or its observations have a memory.
    """
    memory = jax.eval_shape(env.observer.init, jax.eval_shape(lambda: jax.random.key(0)))
    if jax.tree.leaves(memory) or student.unroll is not None:
        raise ValueError(
            "a student that remembers (a history, a recurrent network) is no function of the state: "
            "linearise it by regression (linearisation='regression'), or let it see the present only"
        )
    key = jax.random.key(0)  # observers without memory that draw noise are linearised at one draw

    def one(variables: PyTree, x: Float[Array, " nx"]) -> LinearGaussian:
        rest = jnp.zeros(env.nu, x.dtype)

        def act(delta: Array) -> tuple[Array, tuple[Array, Array]]:
            there = env.plus(x, delta)
            obs, _ = env.observer.observe(key, (), there, env.sense(there, rest), rest)
            dist, _ = student.apply(variables, obs, student.initial_carry(obs))
            mean = dist.mean.astype(x.dtype)
            return mean, (mean, dist.cov.astype(x.dtype))

        K, (mean, cov) = jax.jacfwd(act, has_aux=True)(jnp.zeros(env.ndx, x.dtype))
        return LinearGaussian(x, mean, K, cov)

    return lambda variables, xs: saturate(jax.vmap(one, (None, 0))(variables, xs), env.limits)


def regressed(
    env: Env, student: Student, clusters: int = 10, strength: float = 1.0, ridge: float = 1e-6
) -> Callable[[PyTree, Trajectory, Float[Array, " N"]], LinearGaussian]:
    """(variables, rollouts [N], weight [N]) → the student around the rollouts' first state, by regression.

    At each step the mean of the student, given what it would have seen and remembered in each rollout, on
    the states, with a mixture over all steps as prior (`gps.regression.regress`): it needs fewer rollouts
    than the state has entries. What the line does not explain of the mean is added to its covariance.
    Rollouts of weight 0 are left out.

    Args:
        env: the task.
        student: the policy.
        clusters: of the mixture.
        strength: how many samples the prior stands for.
        ridge: variance of a state, in its units squared, that is regarded as noise.
    """
    key = jax.random.key(0)

    def along(variables: PyTree, path: Trajectory) -> tuple[Array, Array]:
        def act(carry: PyTree, obs: PyTree) -> tuple[PyTree, tuple[Array, Array]]:
            dist, carry = student.apply(variables, obs, carry)
            return carry, (dist.mean.astype(path.us.dtype), dist.cov.astype(path.us.dtype))

        seen = observations(env, key, path.xs, path.us)
        carry = student.initial_carry(jax.tree.map(lambda leaf: leaf[0], seen))
        return jax.lax.scan(act, carry, seen)[1]

    def run(variables: PyTree, paths: Trajectory, weight: Float[Array, " N"]) -> LinearGaussian:
        ref = paths.xs[jnp.argmax(weight), 0]
        means, covs = jax.vmap(along, (None, 0))(variables, paths)
        away = jax.vmap(jax.vmap(env.minus, (0, None)), (0, None))(paths.xs[:, :-1], ref)
        rows = jnp.concatenate([away, means], axis=2)
        points, counts = rows.reshape(-1, rows.shape[2]), jnp.repeat(weight, rows.shape[1])
        prior, _ = fit_gmm(seed_gmm(key, points, counts, clusters), points, counts, 20, 1e-2)

        def one(x: Array, u: Array, cov: Array) -> LinearGaussian:
            line: Regression = regress(x, u, weight, prior, strength=strength, ridge=ridge)
            own = jnp.tensordot(weight / jnp.sum(weight), cov, axes=1)
            return LinearGaussian(ref, line.y_mean - line.gain @ line.x_mean, line.gain, own + line.cov)

        return jax.vmap(one, in_axes=1)(away, means, covs)

    return run

"""Linear-Gaussian controllers: around other states, the states that they cause, and what those cost."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gps.gaussian import Gaussian, symmetrise
from gps.linalg import full_precision
from gps.types import LinearDynamics, LinearGaussian, QuadraticCost

__all__ = ["expected_cost", "marginals", "recenter"]


@full_precision
def recenter(
    controller: LinearGaussian,
    xs: Float[Array, "T nx"],
    minus: Callable[..., Array],
    plus: Callable[..., Array],
) -> LinearGaussian:
    """The same controller around the states `xs`: to first order exactly the same law of u given x.

    u = ū + K (x ⊖ x̄) becomes ū' + K' (x ⊖ x̂) with ū' = ū + K (x̂ ⊖ x̄) and K' = K ∂((x̂ ⊕ δ) ⊖ x̄)/∂δ at
    δ = 0, the identity in flat coordinates. `minus` and `plus` are those of the env.
    """

    def one(knot: LinearGaussian, x: Array) -> LinearGaussian:
        def away(delta: Array) -> Array:
            return minus(plus(x, delta), knot.xs)

        zero = jnp.zeros(knot.K.shape[1], x.dtype)
        return LinearGaussian(x, knot.us + knot.K @ away(zero), knot.K @ jax.jacfwd(away)(zero), knot.cov)

    return jax.vmap(one)(controller, xs)


@full_precision
def marginals(
    dynamics: LinearDynamics,
    controller: LinearGaussian,
    us: Float[Array, "T nu"],
    start: Gaussian,
    noise: Float[Array, "T ndx ndx"] | None = None,
) -> Gaussian:
    """Distribution of (δx_t, δu_t), t = 0 … T, under the controller; the last δu is zero.

    `us` are the nominal controls that `dynamics` is around; `controller` is around the nominal states.
    """
    T, n, m = dynamics.B.shape
    spread = jnp.zeros((T, n, n), dynamics.B.dtype) if noise is None else noise

    def step(x: Gaussian, knot: tuple) -> tuple[Gaussian, Gaussian]:
        A, B, K, k, cov, N = knot
        both = jnp.concatenate([jnp.eye(n, dtype=K.dtype), K])
        joint = Gaussian(
            both @ x.mean + jnp.concatenate([jnp.zeros(n, K.dtype), k]),
            symmetrise(both @ x.cov @ both.T + jnp.pad(cov, (n, 0))),
        )
        F = jnp.concatenate([A, B], axis=1)
        return Gaussian(F @ joint.mean, symmetrise(F @ joint.cov @ F.T + N)), joint

    knots = (dynamics.A, dynamics.B, controller.K, controller.us - us, controller.cov, spread)
    last, joints = jax.lax.scan(step, start, knots)
    last = Gaussian(jnp.pad(last.mean, (0, m)), jnp.pad(last.cov, (0, m)))
    return jax.tree.map(lambda rows, row: jnp.concatenate([rows, row[None]]), joints, last)


@full_precision
def expected_cost(cost: QuadraticCost, states: Gaussian) -> Float[Array, " T+1"]:
    """E[c_t] of a quadratic cost, per step, for (δx, δu) distributed as `states` [T+1] (see `marginals`)."""

    def one(c: QuadraticCost, joint: Gaussian) -> Array:
        H = jnp.block([[c.Q, c.M], [c.M.T, c.R]])
        g = jnp.concatenate([c.q, c.r])
        return c.c + g @ joint.mean + 0.5 * (joint.mean @ H @ joint.mean + jnp.sum(H * joint.cov))

    return jax.vmap(one)(cost, states)

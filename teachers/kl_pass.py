"""One pass of KL-constrained control: the LQR at a given η and the divergence that it leads to.

At dual variable η the answer is an LQR on c − η log p̄ (Levine & Abbeel 2014). It is solved in the coordinates
in which the divergence is simplest: with p̄ = N(k̄ + K̄ δx, L Lᵀ) and δu = k̄ + K̄ δx + L v the penalty is
½ η |v|², so that no large numbers cancel however large η is, and

    p(v|x) = N(κ + K δx, (I + E)⁻¹),   E = G / η,   G = Lᵀ(R + BᵀVB) L

whose divergence has a closed form in E that keeps its digits where E is small.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gps.gaussian import Gaussian
from gps.linalg import cholesky, eigh, lower_inverse
from gps.types import Limits, LinearDynamics, LinearGaussian, QuadraticCost
from teachers.linalg import box_qp, free_solve, shifted_solve
from teachers.lqr import augment_value, augmented_cost, augmented_dynamics

__all__ = ["Pass", "Problem", "controller_of", "make_problem", "second_moments", "solve_at", "solve_for"]


class Box(NamedTuple):
    """Bounds on the mean of w = L v at δx = 0, per step."""

    low: Float[Array, "T m"]
    high: Float[Array, "T m"]
    inverse: Float[Array, "T m m"]
    """L⁻¹."""
    K: Float[Array, "T m n"]
    """Of p̄."""


class Problem(NamedTuple):
    """The problem in the coordinates z = (δx, 1) and v, one row per step."""

    F: Float[Array, "T n1 n1+m"]
    """(z, v) → z at the next step."""
    C: Float[Array, "T n1+m n1+m"]
    """Cost ½ (z, v)ᵀC(z, v)."""
    S: Float[Array, "n1 n1"]
    """Final cost ½ zᵀS z."""
    noise: Float[Array, "T n1 n1"]
    moment: Float[Array, "n1 n1"]
    """E[z zᵀ] at the first step."""
    entropy: Float[Array, " T"]
    """Weight of the entropy in the objective."""
    L: Float[Array, "T m m"]
    """Square root of the covariance of p̄."""
    box: Box | None


class Pass(NamedTuple):
    """What η leads to."""

    eta: Float[Array, " T"]
    gains: Float[Array, "T m n1"]
    cov: Float[Array, "T m m"]
    kl: Float[Array, " T"]
    ok: Bool[Array, ""]


def make_problem(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    previous: LinearGaussian,
    start: Gaussian,
    noise: Array | None,
    entropy: Array | float,
    limits: Limits | None,
) -> Problem:
    """The arguments of `teachers.kl_lqr` in the coordinates z and v."""
    T, n, m = dynamics.B.shape
    dtype = dynamics.B.dtype
    L = jax.vmap(cholesky)(previous.cov)
    k = previous.us - cost.u[:T]
    # (δx, 1, δu) = turn (z, v)
    top = jnp.broadcast_to(jnp.eye(n + 1, n + 1 + m, dtype=dtype)[None], (T, n + 1, n + 1 + m))
    turn = jnp.concatenate([top, jnp.concatenate([previous.K, k[:, :, None], L], axis=2)], axis=1)
    F = augmented_dynamics(dynamics) @ turn
    C = jnp.swapaxes(turn, 1, 2) @ augmented_cost(cost) @ turn
    spread = jnp.zeros((T, n, n), dtype) if noise is None else noise
    mean = jnp.concatenate([start.mean, jnp.ones(1, dtype)])
    moment = jnp.pad(start.cov, (0, 1)) + mean[:, None] * mean[None, :]
    box = None
    if limits is not None:
        low, high = (jnp.asarray(side, dtype)[None] - previous.us for side in limits)
        box = Box(low, high, jax.vmap(lower_inverse)(L), previous.K)
    return Problem(
        F,
        C,
        augment_value(cost.Q[T], cost.q[T]),
        jnp.pad(spread, ((0, 0), (0, 1), (0, 1))),
        moment,
        jnp.broadcast_to(jnp.asarray(entropy, dtype), (T,)),
        L,
        box,
    )


def solve_at(problem: Problem, eta: Float[Array, " T"]) -> Pass:
    """The answer at η, one per step: LQR backwards, second moments forwards."""
    return _sweep(problem, lambda G, g, eta_t: eta_t, eta)[0]


def solve_for(
    problem: Problem,
    bound: Float[Array, " T"],
    moments: Float[Array, "T n1 n1"],
    ends: tuple[Array, Array],
) -> tuple[Pass, Float[Array, "T n1 n1"]]:
    """Backwards with the η, between `ends`, at which each step's divergence would be its bound.

    That takes E[z zᵀ], which `moments` stands for; returned beside the answer are those it really leads to.
    """
    hints = (bound, moments, problem.entropy)
    return _sweep(problem, functools.partial(_eta_for, ends=ends), hints)


def _sweep(problem: Problem, choose: Callable[..., Array], hints: PyTree) -> tuple[Pass, Array]:
    """(the answer at η = choose(G, g, hints of the step), its second moments E[z zᵀ])."""
    n1, m = problem.S.shape[0], problem.F.shape[2] - problem.S.shape[0]
    eye = jnp.eye(m, dtype=problem.S.dtype)

    def back(carry: tuple, knot: tuple) -> tuple[tuple, tuple]:
        S, ok = carry
        F, C, hint, box = knot
        W = C + F.T @ (S @ F)
        eta = choose(W[n1:, n1:], W[n1:, :n1], hint)
        E, g = W[n1:, n1:] / eta, W[n1:, :n1] / eta
        answer, log_det, definite = shifted_solve(E, jnp.concatenate([-g, eye], axis=1))
        gains = answer[:, :n1] if box is None else _boxed(E, g, box, answer[:, :n1])
        ok = ok & definite
        half = W[n1:, :n1] + 0.5 * (W[n1:, n1:] @ gains + eta * gains)
        cross = gains.T @ half
        V = W[:n1, :n1] + cross + cross.T
        S = jnp.where(ok, 0.5 * (V + V.T), S)  # else asymmetry grows with the powers of A
        return (S, ok), (eta, gains, answer[:, n1:], jnp.sum(E * answer[:, n1:]), log_det)

    start = (problem.S, jnp.asarray(True))
    knots = (problem.F, problem.C, hints, problem.box)
    (_, ok), (eta, gains, cov, shrunk, log_det) = jax.lax.scan(back, start, knots, reverse=True)
    more = problem.entropy / eta
    cov = cov * (1 + more)[:, None, None]
    moments = second_moments(problem, gains, cov)
    square = jnp.sum((gains @ moments) * gains, axis=(1, 2))
    return Pass(eta, gains, cov, _spread(m, more, shrunk, log_det) + 0.5 * square, ok), moments


def _spread(m: int, more: Array, shrunk: Array, log_det: Array) -> Array:
    """KL(N(0, (1+s)(I+E)⁻¹) ‖ N(0, I)), s = `more`, from tr E(I+E)⁻¹ = m − tr (I+E)⁻¹ and log det(I+E)."""
    return 0.5 * (m * (more - jnp.log1p(more)) - (1 + more) * shrunk + log_det)


def second_moments(problem: Problem, gains: Array, cov: Array) -> Float[Array, "T n1 n1"]:
    """E[z zᵀ] at each step under v = gains z + N(0, cov)."""
    n1 = gains.shape[2]
    B = problem.F[:, :, n1:]
    closed = problem.F[:, :, :n1] + B @ gains
    noise = problem.noise + B @ cov @ jnp.swapaxes(B, 1, 2)

    def forward(moment: Array, knot: tuple) -> tuple[Array, Array]:
        A, N = knot
        return A @ moment @ A.T + N, moment

    return jax.lax.scan(forward, problem.moment, (closed, noise))[1]


def _eta_for(G: Array, g: Array, knot: tuple[Array, ...], ends: tuple[Array, Array]) -> Float[Array, ""]:
    """The η at which one step's divergence is the bound; where G has negative eigenvalues, above them.

    In G's eigenvectors the divergence is a sum over its eigenvalues λ, and falls as η grows: bisection on
    the logarithm of what η exceeds −min λ by.
    """
    (bound, moment, entropy), (low, high), m = knot, ends, G.shape[0]
    values, vectors = eigh(G)
    turned = vectors.T @ g
    sizes = jnp.sum((turned @ moment) * turned, axis=1)
    least = jnp.maximum(-values[0], 0)
    above = values + least

    def divergence(excess: Array) -> Array:
        eta, shifted = least + excess, above + excess  # shifted = λ + η
        more = entropy / eta
        shrunk = jnp.sum(values / shifted)
        return _spread(m, more, shrunk, jnp.sum(jnp.log(shifted / eta))) + 0.5 * jnp.sum(sizes / shifted**2)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        over = divergence(jnp.exp(middle)) > bound
        return jnp.where(over, middle, ends[0]), jnp.where(over, ends[1], middle)

    nearest = jnp.maximum(low, 1e-6 * least)
    ends = jax.lax.fori_loop(0, 40, halve, (jnp.log(nearest), jnp.log(high)))
    idle = divergence(nearest) <= bound
    return least + jnp.where(idle, nearest, jnp.exp(0.5 * (ends[0] + ends[1])))


def _boxed(E: Array, g: Array, box: Box, free_gains: Array) -> Array:
    """Gains in v whose mean control at δx = 0 stays in the box; what a bound holds does not move with x.

    In w = L v, where the box is one: ½ wᵀH w + gᵀw with H = L⁻ᵀ(I + E)L⁻¹.
    """
    m = E.shape[0]
    H = box.inverse.T @ (jnp.eye(m, dtype=E.dtype) + E) @ box.inverse
    h = box.inverse.T @ g
    qp = box_qp(H, h[:, -1], box.low, box.high)
    held = jnp.where(qp.free[:, None], 0, -box.K)
    K, _ = free_solve(H, -(h[:, :-1] + H @ held), qp.free)
    gains = box.inverse @ jnp.concatenate([K + held, qp.x[:, None]], axis=1)
    return jnp.where(jnp.all(qp.free), free_gains, gains)


def controller_of(problem: Problem, previous: LinearGaussian, found: Pass) -> LinearGaussian:
    """Back from v to controls."""
    L = problem.L
    gains = L @ found.gains
    cov = L @ found.cov @ jnp.swapaxes(L, 1, 2)
    return LinearGaussian(
        previous.xs,
        previous.us + gains[:, :, -1],
        previous.K + gains[:, :, :-1],
        0.5 * (cov + jnp.swapaxes(cov, 1, 2)),
    )

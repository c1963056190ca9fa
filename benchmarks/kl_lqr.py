"""KL-constrained LQR, mixtures and fitted dynamics at the size of the peg tasks: T = 100, nx = 26, nu = 7.

One core. The authors' code took 57 ms for a pass (backward, marginals, divergence), 248 ms to 2.9 s for a
dual solve, 197 ms for a fit of the dynamics and 43 ms for an update of the mixture, on a like machine.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, main, median_time
from gps.gaussian import Gaussian
from gps.gmm import fit_gmm, seed_gmm
from gps.types import LinearDynamics, LinearGaussian, QuadraticCost
from teachers.fitted import fit_dynamics, transitions
from teachers.kl_lqr import KLSolution, KLStatus, kl_lqr

T, N_X, N_U = 100, 26, 7
SEED = 0
ROLLOUTS, CLUSTERS = 5, 20
BOUND, FAR = 0.1 * T, 1e6
"""Nats of a trajectory; where the search for η (16 in the end) begins."""


def problem(rng: np.random.Generator) -> tuple:
    """(dynamics, cost, previous, start, noise): an integrator with a random cost."""
    n, m, size = N_X, N_U, N_X + N_U
    A, B = np.eye(n) + 0.1 * rng.normal(size=(T, n, n)) / np.sqrt(n), 0.1 * rng.normal(size=(T, n, m))
    G = rng.normal(size=(T + 1, size, size))
    H, g = G @ G.transpose(0, 2, 1) / size, rng.normal(size=(T + 1, size))
    H[-1, n:], H[-1, :, n:], g[-1, n:] = 0, 0, 0
    J = jnp.asarray
    xs, us, c = jnp.zeros((T + 1, n)), jnp.zeros((T + 1, m)), jnp.zeros(T + 1)
    cost = QuadraticCost(
        c, J(g[:, :n]), J(g[:, n:]), J(H[:, :n, :n]), J(H[:, n:, n:]), J(H[:, :n, n:]), xs, us
    )
    cov = jnp.tile(0.1 * jnp.eye(m), (T, 1, 1))
    controls, gains = J(0.1 * rng.normal(size=(T, m))), J(0.05 * rng.normal(size=(T, m, n)))
    previous = LinearGaussian(xs[:T], controls, gains, cov)
    start, noise = Gaussian(jnp.zeros(n), 0.01 * jnp.eye(n)), jnp.tile(1e-4 * jnp.eye(n), (T, 1, 1))
    dynamics = LinearDynamics(J(A), J(B), jnp.zeros((T, 0, n)), jnp.zeros((T, 0, m)))
    return dynamics, cost, previous, start, noise


def dual(fast: bool) -> list[Row]:
    """One pass, and a search that starts far off."""
    given = problem(np.random.default_rng(SEED))

    def solve(given: tuple, eta: float = 1.0, max_passes: int = 60) -> KLSolution:
        dynamics, cost, previous, start, noise = given
        return kl_lqr(
            dynamics, cost, previous, BOUND, start=start, noise=noise, eta=eta, max_passes=max_passes
        )

    one = jax.jit(functools.partial(solve, max_passes=1))
    whole = jax.jit(functools.partial(solve, eta=FAR))
    found = whole(given)
    assert found.status == KLStatus.ACTIVE, found.status
    repeats = 3 if fast else 31
    single = median_time(lambda: one(given), repeats).median * 1e3
    total = median_time(lambda: whole(given), repeats).median * 1e3
    return [
        Row("one pass", single, "ms", "<= 2.8"),
        Row("the authors' code ÷ ours, one pass", 57 / single, "1", ">= 20"),
        Row("dual solve", total, "ms", "<= 30"),
        Row("passes of that solve", int(found.passes), "1"),
    ]


def fits(fast: bool) -> list[Row]:
    """One condition's five rollouts: an EM pass of 20 clusters, and the dynamics with that prior."""
    rng = np.random.default_rng(SEED)
    xs = jnp.asarray(np.cumsum(0.1 * rng.normal(size=(ROLLOUTS, T + 1, N_X)), axis=1))
    us = jnp.asarray(rng.normal(size=(ROLLOUTS, T, N_U)))
    points = transitions(xs, us).reshape(-1, 2 * N_X + N_U)
    weight = jnp.ones(len(points))
    seed = jax.jit(functools.partial(seed_gmm, clusters=CLUSTERS))
    mixture = jax.block_until_ready(seed(jax.random.key(SEED), points, weight))
    em = jax.jit(functools.partial(fit_gmm, iterations=1))
    fit = jax.jit(fit_dynamics)
    repeats = 3 if fast else 31
    update = median_time(lambda: em(mixture, points, weight), repeats).median * 1e3
    dynamics = median_time(lambda: fit(xs, us, None, mixture), repeats).median * 1e3
    return [
        Row("EM pass of the mixture", update, "ms"),
        Row("fit of the dynamics", dynamics, "ms"),
        Row("the authors' code ÷ ours, fit of the dynamics", 197 / dynamics, "1", ">= 20"),
    ]


CASES = {"dual": dual, "fits": fits}

if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    main("kl_lqr", CASES, seeds=(SEED,))

"""Controllers around other states, the states that they cause and what those cost: by engine and samples."""

import jax
import numpy as np
from engine_models import SMOOTH, load, minus, plus, states

from envs.manifold import manifold
from gps.gaussian import Gaussian
from gps.rollout import saturate
from gps.types import Limits, LinearDynamics, LinearGaussian, QuadraticCost
from teachers.controllers import expected_cost, marginals, recenter


def test_a_recentred_controller_agrees_to_second_order_on_the_manifold():
    model = load(SMOOTH)
    space, rng = manifold(model), np.random.default_rng(0)
    ndx, T = 2 * model.nv + model.na, 3
    old, _ = states(model, T, seed=1, spread=1.0)
    new, _ = states(model, T, seed=2, spread=1.0)
    K, us = rng.normal(size=(T, model.nu, ndx)), rng.normal(size=(T, model.nu))
    controller = LinearGaussian(old, us, K, np.tile(np.eye(model.nu), (T, 1, 1)))
    moved = jax.jit(lambda c, xs: recenter(c, xs, *space))(controller, new)
    np.testing.assert_array_equal(moved.xs, new)
    way = rng.normal(size=(T, ndx))
    errors = []
    for size in (1e-2, 5e-3):
        worst = 0.0
        for t in range(T):
            x = plus(model, new[t], size * way[t])
            wanted = us[t] + K[t] @ minus(model, x, old[t])
            worst = max(worst, np.abs(moved.us[t] + moved.K[t] @ (size * way[t]) - wanted).max())
        errors.append(worst)
    assert 1e-6 < errors[0] < 0.1
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert np.abs(np.asarray(moved.K) - K).max() > 0.1, "with gains as they were it would be first order"


def test_a_control_that_the_limits_hold_stays_at_them():
    K = np.random.default_rng(1).normal(size=(2, 3, 2)) + 3
    us = np.array([[0.2, -1.7, 2.0], [0.9, -1.0, 2.5]])
    covs = np.tile(np.eye(3), (2, 1, 1))
    limits = Limits(np.array([-1.0, -1.5, -np.inf]), np.array([0.5, 1.0, 2.0]))
    found = saturate(LinearGaussian(np.zeros((2, 2)), us, K, covs), limits)
    np.testing.assert_array_equal(found.us, [[0.2, -1.5, 2.0], [0.5, -1.0, 2.0]])
    held = np.array([[False, True, True], [True, False, True]])
    np.testing.assert_array_equal(found.K, np.where(held[..., None], 0, K))
    np.testing.assert_array_equal(found.cov, covs)


def test_states_and_costs_of_a_controller_by_samples():
    n, m, T, N = 3, 2, 5, 200_000
    rng = np.random.default_rng(0)
    A, B = np.eye(n) + 0.2 * rng.normal(size=(T, n, n)), rng.normal(size=(T, n, m))
    ripple, root, own = (0.3 * rng.normal(size=s) for s in ((T, n, n), (n, n), (T, m, m)))
    noise, start = ripple @ ripple.transpose(0, 2, 1), Gaussian(rng.normal(size=n), root @ root.T)
    us = rng.normal(size=(T, m))
    controller = LinearGaussian(
        np.zeros((T, n)),
        rng.normal(size=(T, m)),
        0.3 * rng.normal(size=(T, m, n)),
        own @ own.transpose(0, 2, 1),
    )
    G = rng.normal(size=(T + 1, n + m, n + m))
    H, g, c = G + G.transpose(0, 2, 1), rng.normal(size=(T + 1, n + m)), rng.normal(size=T + 1)
    H[-1, n:], H[-1, :, n:], g[-1, n:] = 0, 0, 0
    blank = np.zeros((T + 1, n)), np.zeros((T + 1, m))
    cost = QuadraticCost(c, g[:, :n], g[:, n:], H[:, :n, :n], H[:, n:, n:], H[:, :n, n:], *blank)
    dynamics = LinearDynamics(A, B, np.zeros((T, 0, n)), np.zeros((T, 0, m)))
    found = jax.jit(marginals)(dynamics, controller, us, start, noise)
    costs = jax.jit(expected_cost)(cost, found)
    x = rng.multivariate_normal(start.mean, start.cov, N)
    for t in range(T + 1):
        u = np.zeros((N, m))
        if t < T:
            mean = controller.us[t] - us[t] + x @ controller.K[t].T
            u = mean + rng.multivariate_normal(np.zeros(m), controller.cov[t], N)
        both = np.concatenate([x, u], axis=1)
        size = np.sqrt(np.diagonal(found.cov[t])) + 1e-9
        assert np.all(np.abs(both.mean(axis=0) - found.mean[t]) <= 5 * size / np.sqrt(N))
        np.testing.assert_allclose(
            np.cov(both.T) / np.outer(size, size), found.cov[t] / np.outer(size, size), atol=0.02
        )
        sampled = c[t] + both @ g[t] + 0.5 * np.sum((both @ H[t]) * both, axis=1)
        assert abs(sampled.mean() - costs[t]) < 5 * sampled.std() / np.sqrt(N)
        if t < T:
            x = x @ A[t].T + u @ B[t].T + rng.multivariate_normal(np.zeros(n), noise[t], N)

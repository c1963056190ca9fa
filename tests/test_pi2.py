"""PI²: its weights and moments against SciPy and loops, what a step may do, and a task that it solves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import cart, costs_while_learning, roll
from scipy.optimize import minimize_scalar

from gps.plant import plant
from gps.types import KLTerm, LinearGaussian, Status, Trajectory
from teachers.pi2 import local_pi2
from teachers.reps import Tilt, reps, reweight, tilted

KEY = jax.random.key(2)
T, N, n, m = 5, 9, 4, 2
X0 = jnp.array([0.1, 0.2, -0.3, 0.4])


def mass():
    """A point in the plane, pushed along both axes over uneven ground."""
    goal = jnp.array([1.0, -0.5])

    def dynamics(x, u):
        return x + 0.1 * jnp.concatenate([x[2:], 4 * u - 0.5 * x[2:] + 0.2 * jnp.sin(3 * x[:2])])

    def cost(x, u, y, t):
        return jnp.sum((x[:2] - goal) ** 2) + 0.01 * (u @ u)

    def last(x, y):
        return 5 * jnp.sum((x[:2] - goal) ** 2)

    return plant(dynamics, cost, last, n, m, horizon=T, dt=0.1, limits=(-4.0, 4.0), nv=m, name="mass")


ENV = mass()


def law(seed, scale=1.0):
    """A linear-Gaussian policy of no symmetry whatever."""
    rng = np.random.default_rng(seed)
    root = 0.3 * rng.normal(size=(T, m, m))
    cov = scale**2 * (root @ root.transpose(0, 2, 1) + 0.05 * np.eye(m))
    drawn = rng.normal(size=(T, n)), 0.2 * rng.normal(size=(T, m)), 0.2 * rng.normal(size=(T, m, n)), cov
    return LinearGaussian(*map(jnp.asarray, drawn))


@functools.cache
def program():
    """(x0, paths, policy, bound) → the new controller and what is told of it; plain and jitted."""
    teacher = local_pi2(ENV, inertia=0.7)

    def run(x0, paths, policy, bound):
        state, _ = teacher.learn(KEY, teacher.init(KEY, x0), paths)
        state, info = teacher.improve(state, (KLTerm(policy, bound),))
        return teacher.controller(state), info

    return run, jax.jit(run)


@functools.partial(jax.jit, static_argnames="number")
def paths_of(policy, number=N, seed=0, x0=X0):
    return roll(ENV, policy, x0, jax.random.key(seed), number)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# ------------------------------------------------------------------------------------------ weights


def dual_minimum(costs, bound):
    """(weights, η) at the minimum of the dual of REPS, by SciPy."""
    above = costs - costs.min()

    def dual(log_eta):
        eta = np.exp(log_eta)
        return (eta * bound + eta * np.log(np.mean(np.exp(-above / eta)))) / above.max()

    middle = np.log(above.max())
    found = minimize_scalar(dual, bounds=(middle - 8, middle + 6), method="bounded", options={"xatol": 1e-10})
    weights = np.exp(-above / np.exp(found.x))
    return weights / weights.sum(), np.exp(found.x)


def test_weights_are_at_the_minimum_of_the_dual():
    rng, rows = np.random.default_rng(0), []
    for _ in range(40):
        sound = rng.permutation(np.arange(12) < rng.integers(4, 13))
        bound = 10 ** rng.uniform(-2, 0) * 0.8 * np.log(sound.sum())
        costs = 10 ** rng.uniform(-6, 6) * (rng.normal() + rng.exponential(size=12))
        rows.append((costs, sound / sound.sum(), bound))
    found, etas = jax.jit(jax.vmap(reps))(*map(np.stack, zip(*rows, strict=True)))
    for (costs, share, bound), weights, eta in zip(rows, found, etas, strict=True):
        sound = share > 0
        wanted, minimum = dual_minimum(costs[sound], bound)
        np.testing.assert_allclose(eta, minimum, rtol=1e-4)  # of a minimum that is flat
        np.testing.assert_allclose(weights[sound], wanted, atol=1e-4)
        assert np.all(weights[~sound] == 0)
        w = np.asarray(weights)[sound]
        np.testing.assert_allclose(np.sum(w * np.log(w * sound.sum())), bound, rtol=1e-7)


def test_a_bound_beyond_all_leaves_the_cheapest():
    costs, share = np.array([3.0, 1.0, 2.0, 1.0, -9.0]), np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    weights, eta = jax.jit(reps)(costs, share, 1.0)
    np.testing.assert_array_equal(weights, [0, 0.5, 0, 0.5, 0])
    assert 0 < eta < 1e-14
    none, _ = jax.jit(reps)(costs, np.zeros(5), 1.0)
    np.testing.assert_array_equal(none, 0)


def moments(z, costs, bound, inertia):
    """Shift and covariance of the noise of one step, by loops."""
    w, _ = dual_minimum(costs, bound)
    count, mean, shift = 1 / sum(w**2), np.zeros(m), np.zeros(m)
    for weight, row in zip(w, z, strict=True):
        mean += weight * row
        shift += (weight - 1 / len(z)) * row
    scatter = np.zeros((m, m))
    for weight, row in zip(w, z, strict=True):
        scatter += count * weight * np.outer(row - mean, row - mean)
    return shift, (scatter + inertia * np.eye(m)) / (count - 1 + inertia)


def test_moments_are_the_weighted_ones():
    rng = np.random.default_rng(1)
    z, costs, share = rng.normal(size=(N, m)), rng.normal(size=N), np.full(N, 1 / N)
    for bound, inertia in ((0.3, 0.7), (1.5, 2.0)):
        found = jax.jit(reweight)(z, costs, share, bound, inertia)
        shift, cov = moments(z, costs, bound, inertia)
        np.testing.assert_allclose(found.shift, shift, atol=1e-5)
        np.testing.assert_allclose(found.cov, cov, atol=1e-5)


def test_with_many_rollouts_it_is_the_gaussian_that_a_quadratic_cost_makes():
    count, bound = 200_000, 0.6
    H, goal = np.array([[2.0, 0.6], [0.6, 0.5]]), np.array([1.0, -2.0])
    z = np.random.default_rng(2).normal(size=(count, m))
    costs = 0.5 * np.einsum("si,ij,sj->s", z - goal, H, z - goal)
    found = jax.jit(reweight)(z, costs, np.full(count, 1 / count), bound, 1e-6)
    cov = np.linalg.inv(np.eye(m) + H / float(found.eta))  # N(0, I) exp(−cost / η)
    mean = cov @ H @ goal / float(found.eta)
    np.testing.assert_allclose(found.shift, mean, atol=0.02)  # 4 standard errors of some 1/√(count / 4)
    np.testing.assert_allclose(found.cov, cov, atol=0.02)
    kl = 0.5 * (np.trace(cov) - m - np.linalg.slogdet(cov)[1] + mean @ mean)
    np.testing.assert_allclose(kl, bound, atol=0.02)


def test_weights_that_know_nothing_leave_the_covariance_as_it_is_on_average():
    rng, count, number = np.random.default_rng(0), 20_000, 4
    z, costs = rng.normal(size=(count, number, 2)), rng.normal(size=(count, number))
    run = jax.jit(jax.vmap(reweight, (0, 0, None, None, None)))
    error = np.asarray(run(z, costs, np.full(number, 0.25), 0.7, 0.5).cov) - np.eye(2)
    assert np.all(np.abs(error.mean(axis=0)) < 4 * error.std(axis=0) / np.sqrt(count))
    assert error.std() > 0.3


# --------------------------------------------------------------------------------------- controllers


def divergence(new, old):
    """Of two laws with the same gains, at each step."""
    found = []
    for t in range(len(new.us)):
        P, S = np.linalg.inv(np.asarray(old.cov[t])), np.asarray(new.cov[t])
        shift = np.asarray(new.us[t] - old.us[t])
        found.append(0.5 * (np.trace(P @ S) - m - np.linalg.slogdet(P @ S)[1] + shift @ P @ shift))
    return np.array(found)


def test_a_tilted_law_goes_as_far_as_its_bound_lets_it():
    rng, base = np.random.default_rng(3), law(0)
    root = rng.normal(size=(T, m, m))
    tilt = Tilt(rng.normal(size=(T, m)), root @ root.transpose(0, 2, 1) + 0.1 * np.eye(m), np.ones(T))
    L = np.linalg.cholesky(base.cov)
    us = base.us + np.einsum("tij,tj->ti", L, tilt.shift)
    cov = L @ tilt.cov @ L.transpose(0, 2, 1)
    whole = divergence(base._replace(us=us, cov=cov), base)
    bound = whole * np.array([1.5, 0.4, 0.1, 2.0, 0.01])
    inf = np.full(m, np.inf)
    new, kl = jax.jit(tilted)(base, tilt, base.us, bound, (-inf, inf))
    np.testing.assert_allclose(kl, np.minimum(whole, bound), rtol=1e-6)
    np.testing.assert_allclose(kl, divergence(new, base), rtol=1e-6)
    move, asked = np.asarray(new.us - base.us), np.asarray(us - base.us)
    s = np.sum(move * asked, axis=1) / np.sum(asked**2, axis=1)
    np.testing.assert_allclose(s[[0, 3]], 1)
    np.testing.assert_allclose(new.us, base.us + s[:, None] * (us - base.us), rtol=1e-9)
    np.testing.assert_allclose(new.cov, base.cov + s[:, None, None] * (cov - base.cov), rtol=1e-9)
    assert same((new.xs, new.K), (base.xs, base.K))
    boxed, _ = jax.jit(tilted)(base, tilt, base.us + 0.3, 9 * whole, (np.full(m, -0.1), np.full(m, 0.2)))
    np.testing.assert_allclose(boxed.us, np.clip(us + 0.3, -0.1, 0.2) - 0.3, atol=1e-12)


def wanted(policy, paths, bound, inertia=0.7):
    """The step of one policy by NumPy, nothing active but the bound on the weights: (us, cov)."""
    policy, paths = jax.tree.map(np.asarray, (policy, paths))
    us, covs = [], []
    for t in range(T):
        L = np.linalg.cholesky(policy.cov[t])
        ahead = paths.us[:, t] - (paths.xs[:, t] - policy.xs[t]) @ policy.K[t].T - policy.us[t]
        z = ahead @ np.linalg.inv(L).T
        shift, cov = moments(z, paths.costs[:, t:].sum(axis=1), bound[t], inertia)
        us.append(policy.us[t] + L @ shift)
        covs.append(L @ cov @ L.T)
    return np.array(us), np.array(covs)


def test_a_step_is_made_of_the_sound_rollouts_noise_and_cost_to_go():
    policy, bound = law(1), 0.2 + 0.05 * np.arange(T)
    paths = paths_of(policy)
    garbage = jax.tree.map(lambda leaf: leaf.at[3].set(jnp.nan), paths._replace(status=()))
    garbage = garbage._replace(status=paths.status.at[3].set(Status.DIVERGED))
    new, info = program()[1](X0, garbage, policy, bound)
    us, cov = wanted(policy, jax.tree.map(lambda leaf: jnp.delete(leaf, 3, axis=0), paths), bound)
    far = divergence(policy._replace(us=us, cov=cov), policy)
    np.testing.assert_allclose(info["kl"], np.minimum(far, bound), rtol=1e-4)
    assert 0 < np.sum(far < bound) < T
    for t in range(T):
        move, whole = np.asarray(new.us[t] - policy.us[t]), us[t] - np.asarray(policy.us[t])
        s = move @ whole / (whole @ whole)
        assert abs(s - 1) < 1e-4 or far[t] > bound[t]
        np.testing.assert_allclose(move, s * whole, atol=1e-5)
        np.testing.assert_allclose(new.cov[t] - policy.cov[t], s * (cov[t] - policy.cov[t]), atol=1e-5)
    assert same((new.xs, new.K), (policy.xs, policy.K)) and info["solved"]


def test_a_bound_on_the_whole_is_shared_equally():
    policy = law(1)
    whole, each = (program()[1](X0, paths_of(policy), policy, bound) for bound in (1.2, np.full(T, 1.2 / T)))
    close(whole, each, rtol=1e-9)


@pytest.mark.parametrize("change", [lambda c: c + 7.0, lambda c: 300.0 * c], ids=["constant", "scale"])
def test_costs_may_be_shifted_and_scaled(change):
    policy = law(2)
    paths, run = paths_of(policy), program()[1]
    new, info = run(X0, paths, policy, 2.0)
    other, told = run(X0, paths._replace(costs=change(paths.costs)), policy, 2.0)
    close(other, new, rtol=1e-7)
    np.testing.assert_allclose(told["eta"] / info["eta"], change(1.0) - change(0.0), rtol=1e-7)


def test_nothing_is_learned_from_one_rollout_or_equal_costs():
    policy, run = law(5), program()[1]
    one, info = run(X0, paths_of(policy, 1), policy, 2.0)
    close(one, policy, rtol=1e-12)
    np.testing.assert_allclose(info["kl"], 0, atol=1e-12)
    paths = paths_of(policy)
    equal, info = run(X0, paths._replace(costs=0 * paths.costs + 3.0), policy, 2.0)
    np.testing.assert_allclose(equal.us, policy.us, atol=1e-12)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((equal, info)))


def test_fewer_rollouts_than_controls_leave_a_covariance():
    policy, run = law(7), jax.jit(jax.vmap(program()[0], (None, 0, None, None)))
    paths = [paths_of(policy, m, seed) for seed in range(20)]
    new, info = run(X0, jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths), policy, 30.0)
    least = np.linalg.eigvalsh(new.cov)[..., 0] / np.linalg.eigvalsh(policy.cov)[None, :, 0]
    assert least.min() > 0.1 and np.all(info["solved"])


def test_without_a_sound_rollout_the_state_is_as_it_was():
    teacher, policy = local_pi2(ENV), law(9)
    learn = jax.jit(teacher.learn)
    before, _ = learn(KEY, teacher.init(KEY, X0), paths_of(policy))
    lost = paths_of(policy, seed=1)._replace(status=jnp.full(N, Status.ENGINE_ERROR))
    after, info = learn(KEY, before, lost)
    assert same(before, after) and int(info["lost"]) == N
    close(program()[1](X0, lost, policy, 2.0)[0], policy, rtol=1e-12)


def test_conditions_under_vmap_are_as_each_alone():
    run, one = program()
    policies = [law(seed) for seed in (10, 11)]
    paths = [paths_of(policy, x0=x0) for policy, x0 in zip(policies, (X0, -X0), strict=True)]
    rows = list(zip((X0, -X0), paths, policies, (0.5, 8.0), strict=True))
    found = jax.jit(jax.vmap(run))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))
    for i, row in enumerate(rows):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), one(*row), rtol=1e-6, atol=1e-8)


def test_single_precision_is_kept_and_enough():
    def single(leaf):
        return jnp.asarray(leaf, jnp.float32) if leaf.dtype == float else leaf

    policy, jitted = law(13), program()[1]
    given = X0, paths_of(policy), policy, jnp.asarray(2.0)
    new, info = jitted(*jax.tree.map(single, given))
    assert {leaf.dtype for leaf in (*new, info["kl"], info["eta"])} == {jnp.dtype(jnp.float32)}
    close(new, jitted(*given)[0], rtol=1e-3, atol=1e-4)


def test_a_policy_without_covariance_is_reported_and_kept():
    policy = law(14)
    broken = policy._replace(cov=policy.cov.at[2].multiply(-1.0))
    new, info = program()[1](X0, paths_of(policy), broken, 2.0)
    assert not info["solved"] and same(new, broken)
    np.testing.assert_array_equal(info["kl"], 0)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([{}], "exactly one KL term must have a bound, got 0 of 1"),
        ([{"bound": 0.0}], "the KL bound must be positive, got 0.0"),
        ([{"bound": 1.0, "weight": np.ones(T)}], "one KL term with a bound and no price"),
        ([{"bound": 1.0}, {"weight": np.ones(T)}], "use it under mdgps, pigps or traj_opt"),
    ],
)
def test_terms_that_cannot_be_met_are_refused_in_words(terms, words):
    teacher = local_pi2(ENV)
    with pytest.raises(ValueError, match=words):
        teacher.improve(teacher.init(KEY, X0), [KLTerm(law(0), **term) for term in terms])


def test_settings_that_cannot_work_are_refused_in_words():
    with pytest.raises(ValueError, match="inertia must be positive and finite, got 0"):
        local_pi2(ENV, inertia=0.0)
    teacher = local_pi2(ENV, slots=3)
    shapes = (T + 1, n), (T, m), (T + 1, 0), (T + 1,), ()
    paths = Trajectory(*(jnp.zeros((4, *shape)) for shape in shapes))
    with pytest.raises(ValueError, match="got 4 rollouts for 3 slots: make the teacher with slots=4"):
        teacher.learn(KEY, teacher.init(KEY, X0), paths)


# ----------------------------------------------------------------------------------------- learning


def cheapest(goal, horizon):
    """The least cost that the cart of `gps_tasks` can have: a least-squares problem in its controls."""
    A, B = np.array([[1, 0.1], [0, 0.97]]), np.array([0.0, 0.1])
    x, rows, wanted = np.zeros((2, horizon)), [], []
    for t in range(horizon):
        rows += [2**0.5 * x[0], 0.2**0.5 * x[1], 0.05**0.5 * np.eye(horizon)[t]]
        wanted += [2**0.5 * goal, 0.0, 0.0]
        x = A @ x + np.outer(B, np.eye(horizon)[t])
    rows, wanted = np.array([*rows, 10**0.5 * x[0], x[1]]), np.array([*wanted, 10**0.5 * goal, 0.0])
    us = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    assert np.max(np.abs(us)) < 8  # within the limits
    return np.sum((rows @ us - wanted) ** 2)


def test_it_comes_near_the_best_that_can_be_done():
    best = cheapest(1.0, 20)
    costs = np.asarray(costs_while_learning(local_pi2, cart().bind(jnp.asarray(1.0)), 60, 20 * 0.5))
    assert np.all(costs[:, 0] > 2 * best)
    assert np.all(costs[:, -1] < 1.1 * best)
    assert np.all(costs > best * (1 - 1e-9))

"""PI² against oracles of its weights and of its whole update; and what it shares with PILQR as a teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import roll
from scipy.optimize import brentq, minimize_scalar

from gps.plant import plant
from gps.types import KLTerm, LinearGaussian, Status, Trajectory
from teachers.kl_lqr import KLStatus
from teachers.pi2 import boltzmann, local_pi2, temperature
from teachers.pilqr import local_pilqr

KEY, GOAL = jax.random.key(2), np.array([1.0, -0.5])
T, N, n, m = 6, 9, 4, 2


def mass(final=None, horizon=T, limits=(-4.0, 4.0)):
    """A point in the plane, pushed along both axes over slightly uneven ground, on its way to GOAL."""

    def dynamics(x, u):
        return x + 0.1 * jnp.concatenate([x[2:], 4 * u - 0.5 * x[2:] + 0.2 * jnp.sin(3 * x[:2])])

    def cost(x, u, y, t):
        return 0.1 * jnp.sum((x[:2] - GOAL) ** 2) + 0.01 * (u @ u)

    def last(x, y):
        return 5 * jnp.sum((x[:2] - GOAL) ** 2) + jnp.sum(x[2:] ** 2)

    return plant(dynamics, cost, final or last, n, m, horizon=horizon, dt=0.1, limits=limits, name="mass")


ENV = mass()
MAKERS = [local_pi2, functools.partial(local_pilqr, clusters=0)]
X0 = jnp.array([0.1, 0.2, -0.3, 0.4])


def law(seed, scale=1.0):
    """A linear-Gaussian policy of no symmetry whatever."""
    rng = np.random.default_rng(seed)
    root = 0.3 * rng.normal(size=(T, m, m))
    cov = scale**2 * (root @ root.transpose(0, 2, 1) + 0.05 * np.eye(m))
    drawn = rng.normal(size=(T, n)), 0.2 * rng.normal(size=(T, m)), 0.2 * rng.normal(size=(T, m, n)), cov
    return LinearGaussian(*map(jnp.asarray, drawn))


@functools.cache
def program(make):
    """(x0, paths, policy, bound) → what a teacher makes of the policy from the paths, plain and jitted."""
    teacher = make(ENV, inertia=0.7)

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


def reps(costs, bound):
    """Weights and temperature by SciPy: the root of the divergence, on a log scale."""

    def weights(eta):
        w = np.exp(-(costs - costs.min()) / eta)
        return w / w.sum()

    def excess(log_eta):
        w = weights(np.exp(log_eta))
        return np.sum(w[w > 0] * np.log(len(w) * w[w > 0])) - bound

    eta = np.exp(brentq(excess, np.log(np.ptp(costs)) - 12, np.log(np.ptp(costs)) + 12, xtol=1e-13))
    return weights(eta), eta


def solve(costs, share, bound):
    eta = temperature(costs, share, bound)
    return eta, *boltzmann(costs, share, eta)


def test_weights_are_those_of_reps():
    rng, rows = np.random.default_rng(0), []
    for _ in range(40):
        sound = rng.permutation(np.arange(12) < rng.integers(3, 13))
        bound = 10 ** rng.uniform(-4, 0) * 0.9 * np.log(sound.sum())
        costs = 10 ** rng.uniform(-6, 6) * (rng.normal() + rng.exponential(size=12))
        rows.append((costs, sound / sound.sum(), bound))
    etas, found, divergences = jax.jit(jax.vmap(solve))(*map(np.stack, zip(*rows, strict=True)))
    for (costs, share, bound), eta, weights, kl in zip(rows, etas, found, divergences, strict=True):
        sound = share > 0
        wanted, root = reps(costs[sound], bound)
        np.testing.assert_allclose(eta, root, rtol=1e-6)
        np.testing.assert_allclose(weights[sound], wanted, atol=1e-7)
        assert np.all(weights[~sound] == 0)
        np.testing.assert_allclose(kl, bound, rtol=1e-9)
        away = costs[sound] - costs[sound].min()

        def dual(log_eta, away=away, bound=bound):
            return np.exp(log_eta) * (bound + np.log(np.mean(np.exp(-away / np.exp(log_eta)))))

        least = minimize_scalar(dual, bracket=(np.log(root) - 1, np.log(root) + 1)).fun
        np.testing.assert_allclose(dual(np.log(eta)), least, rtol=1e-9)


def test_beyond_log_n_the_best_rollouts_alone():
    costs, share = np.array([3.0, 1.0, 2.0, 1.0, -9.0]), np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    eta, weights, kl = jax.jit(solve)(costs, share, 1.0)
    np.testing.assert_array_equal(weights, [0, 0.5, 0, 0.5, 0])
    np.testing.assert_allclose(kl, np.log(2))
    assert 0 < eta < 1e-14


def test_divergence_keeps_its_digits_where_it_is_tiny():
    rng = np.random.default_rng(1)
    costs, share = rng.normal(size=10), np.full(10, 0.1)
    _, kl = boltzmann(costs.astype(np.float32), share.astype(np.float32), np.float32(3e3))
    np.testing.assert_allclose(kl, costs.var() / 2 / 3e3**2, rtol=1e-3)  # to second order; about 5e-8


# ------------------------------------------------------------------------------------------- update


def updated(policy, paths, bound, inertia=0.7):
    """The update of one policy by NumPy, nothing active but the bound on the weights: (us, cov, eta)."""
    us, covs, etas = [], [], []
    for t in range(T):
        K, cov = np.asarray(policy.K[t]), np.asarray(policy.cov[t])
        forward = np.asarray(paths.us[:, t]) - (np.asarray(paths.xs[:, t]) - np.asarray(policy.xs[t])) @ K.T
        w, eta = reps(np.asarray(paths.costs)[:, t:].sum(axis=1), bound[t])
        effective, mean = 1 / np.sum(w**2), w @ forward
        scatter = effective * np.einsum("i,ij,ik->jk", w, forward - mean, forward - mean)
        us.append(np.asarray(policy.us[t]) + mean - forward.mean(axis=0))
        covs.append((scatter + inertia * cov) / (effective - 1 + inertia))
        etas.append(eta)
    return np.array(us), np.array(covs), np.array(etas)


def divergence(new, old):
    """Of two laws with the same gains, at each step."""
    found = []
    for t in range(T):
        P, S = np.linalg.inv(np.asarray(old.cov[t])), np.asarray(new.cov[t])
        shift = np.asarray(new.us[t] - old.us[t])
        found.append(0.5 * (np.trace(P @ S) - m - np.linalg.slogdet(P @ S)[1] + shift @ P @ shift))
    return np.array(found)


def test_the_update_is_the_weighted_feedforward():
    policy, bound = law(0), 0.2 * np.exp(0.3 * np.arange(T))
    paths = paths_of(policy)
    new, info = program(local_pi2)[1](X0, paths, policy, bound)
    us, cov, eta = updated(policy, paths, bound)
    assert np.all(info["kl"] < 0.99 * bound)  # the Gaussian is within the bound by itself
    np.testing.assert_allclose(new.us, us, rtol=1e-7)
    np.testing.assert_allclose(new.cov, cov, rtol=1e-6)
    np.testing.assert_allclose(info["eta"], eta, rtol=1e-6)
    np.testing.assert_allclose(info["kl"], divergence(new, policy), rtol=1e-9)
    assert same((new.xs, new.K), (policy.xs, policy.K))
    assert info["status"] == KLStatus.ACTIVE


def test_a_bound_on_the_whole_is_shared_equally():
    policy = law(1)
    _, run = program(local_pi2)
    whole, each = (run(X0, paths_of(policy), policy, bound) for bound in (1.2, np.full(T, 1.2 / T)))
    close(whole, each, rtol=1e-12)


@pytest.mark.parametrize("change", [lambda c: c + 7.0, lambda c: 300.0 * c], ids=["constant", "scale"])
def test_costs_may_be_shifted_and_scaled(change):
    policy = law(2)
    paths, (_, run) = paths_of(policy), program(local_pi2)
    new, info = run(X0, paths, policy, 2.0)
    other, told = run(X0, paths._replace(costs=change(paths.costs)), policy, 2.0)
    close(other, new, rtol=1e-8)
    np.testing.assert_allclose(told["eta"] / info["eta"], change(1.0) - change(0.0), rtol=1e-8)


def test_rollouts_of_a_wider_controller_do_not_break_the_bound():
    policy, wide = law(3), law(3, scale=6.0)
    paths, bound = paths_of(wide), np.full(T, 0.3)
    new, info = program(local_pi2)[1](X0, paths, policy, bound)
    us, cov, _ = updated(policy, paths, bound)
    np.testing.assert_allclose(info["kl"], bound, rtol=1e-6)
    np.testing.assert_allclose(divergence(new, policy), bound, rtol=1e-6)
    share = (np.asarray(new.us) - policy.us) / (us - policy.us)  # one for both controls and the covariance
    np.testing.assert_allclose(share[:, 0], share[:, 1], rtol=1e-6)
    np.testing.assert_allclose(new.cov, policy.cov + share[:, :1, None] * (cov - policy.cov), rtol=1e-6)
    assert np.all((share > 0) & (share < 0.7))


def test_the_mean_control_stays_in_the_limits():
    policy = law(4)._replace(K=jnp.zeros((T, m, n)))
    policy = policy._replace(us=policy.us.at[:, 0].set(3.9).at[:, 1].set(-4.5))
    paths = paths_of(policy)
    paths = paths._replace(costs=paths.costs.at[:, :-1].add(-1e3 * paths.us[:, :, 0]))
    new, _ = program(local_pi2)[1](X0, paths, policy, 6.0)
    assert jnp.max(new.us[:, 0]) == pytest.approx(4.0)
    assert np.all(new.us[:, 0] <= 4.0)
    assert np.all(new.us[:, 1] >= -4.5)  # where the policy was outside already


def test_nothing_is_learned_from_one_rollout_or_equal_costs():
    policy = law(5)
    one, info = program(local_pi2)[1](X0, paths_of(policy, 1), policy, 2.0)
    np.testing.assert_array_equal(one.us, policy.us)
    np.testing.assert_allclose(one.cov, policy.cov, rtol=1e-12)
    assert np.all(np.isfinite(info["eta"]))
    np.testing.assert_allclose(info["kl"], 0, atol=1e-12)
    paths = paths_of(policy)
    equal, info = program(local_pi2)[1](X0, paths._replace(costs=0 * paths.costs + 3.0), policy, 2.0)
    np.testing.assert_array_equal(equal.us, policy.us)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((equal, info)))


def test_weights_that_know_nothing_leave_the_covariance_as_it_is_on_average():
    policy, run = law(6), jax.jit(jax.vmap(program(local_pi2)[0], (None, 0, None, None)))
    rng, count = np.random.default_rng(0), 2000
    paths = paths_of(policy, 5 * count)
    paths = paths._replace(costs=jnp.asarray(rng.normal(size=paths.costs.shape)))
    batch = jax.tree.map(lambda leaf: leaf.reshape(count, 5, *leaf.shape[1:]), paths)
    new, info = run(X0, batch, policy, np.full(T, 0.8))
    free = info["kl"] < 0.79  # not drawn back
    assert jnp.mean(free) > 0.95
    ratio = np.einsum("tij,ntji->n", np.linalg.inv(policy.cov), new.cov) / (T * m)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(count) + 0.01


def test_covariance_is_positive_definite_with_few_rollouts():
    policy, number = law(7), m
    run = jax.jit(jax.vmap(program(local_pi2)[0], (None, 0, None, None)))
    paths = [paths_of(policy, number, seed) for seed in range(20)]
    new, info = run(X0, jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths), policy, 30.0)
    least = np.linalg.eigvalsh(new.cov)[..., 0] / np.linalg.eigvalsh(policy.cov)[None, :, 0]
    assert least.min() > 0.1
    assert np.all(info["status"] == 0)


# -------------------------------------------------------------------------------- as local teachers


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
def test_a_rollout_that_diverged_is_ignored_bit_for_bit(make):
    policy, run = law(8), program(make)[1]
    paths = paths_of(policy)

    def spoil(value):
        bad = jax.tree.map(lambda leaf: leaf.at[-1].set(value), paths._replace(status=()))
        return bad._replace(status=paths.status.at[-1].set(Status.DIVERGED))

    once, twice = (run(X0, spoil(value), policy, 2.0) for value in (7.0, -3e5))
    assert same(once, twice)
    without = run(X0, jax.tree.map(lambda leaf: leaf[:-1], paths), policy, 2.0)
    close(once, without, rtol=1e-6, atol=1e-9)
    assert not same(once[0], run(X0, paths, policy, 2.0)[0])


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
def test_without_a_sound_rollout_the_state_is_as_it_was(make):
    teacher, policy = make(ENV), law(9)
    learn = jax.jit(teacher.learn)
    before, _ = learn(KEY, teacher.init(KEY, X0), paths_of(policy))
    paths = paths_of(policy, seed=1)
    after, info = learn(KEY, before, paths._replace(status=jnp.full(N, Status.ENGINE_ERROR)))
    assert same(before, after)
    assert int(info["lost"]) == N


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
def test_conditions_under_vmap_are_as_each_alone(make):
    run, one = program(make)
    starts = [X0, 2 * X0, -X0]
    policies = [law(seed) for seed in (10, 11, 12)]
    paths = [paths_of(policy, x0=x0) for policy, x0 in zip(policies, starts, strict=True)]
    bounds = [0.5, 2.0, 8.0]
    rows = list(zip(starts, paths, policies, bounds, strict=True))
    found = jax.jit(jax.vmap(run))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))
    for i, row in enumerate(rows):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), one(*row), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
def test_single_precision_is_kept(make):
    def single(tree):
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32) if leaf.dtype == float else leaf, tree
        )

    policy = law(13)
    given = X0, paths_of(policy), policy, jnp.asarray(2.0)
    new, info = program(make)[1](*single(given))
    floats = [leaf for leaf in jax.tree.leaves((new, info)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
    double, _ = program(make)[1](*given)
    close(new, double, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
def test_a_policy_without_covariance_is_reported_and_kept(make):
    policy = law(14)
    broken = policy._replace(cov=policy.cov.at[2].multiply(-1.0))
    new, info = program(make)[1](X0, paths_of(policy), broken, 2.0)
    assert info["status"] == KLStatus.NOT_FINITE
    np.testing.assert_array_equal(new.cov, broken.cov)
    assert all(np.all(np.isfinite(leaf)) for leaf in (*new, info["kl"]))


@pytest.mark.parametrize("make", MAKERS, ids=["pi2", "pilqr"])
@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([{}], "exactly one KL term must have a bound, got 0 of 1"),
        ([], "exactly one KL term must have a bound, got 0 of 0"),
        ([{"bound": 1.0}, {"bound": 2.0}], "exactly one KL term must have a bound, got 2 of 2"),
        ([{"bound": 0.0}], "must be positive, came 0.0"),
        ([{"bound": np.array([1.0, -1.0] * 3)}], "must be positive, came"),
        ([{"bound": np.ones(T + 1)}], r"a number or have shape \[6\], came \[7\]"),
        ([{"bound": 1.0, "weight": np.ones(T)}], "has a price: PI² takes a bound only"),
    ],
)
def test_terms_that_cannot_be_met_are_refused_in_words(make, terms, words):
    teacher = make(ENV)
    with pytest.raises(ValueError, match=words):
        teacher.improve(teacher.init(KEY, X0), [KLTerm(law(0), **term) for term in terms])


def test_settings_that_cannot_work_are_refused_in_words():
    for make in MAKERS:
        with pytest.raises(ValueError, match="inertia must be positive, came 0"):
            make(ENV, inertia=0.0)
        teacher = make(ENV, remember=3)
        shapes = (T + 1, n), (T, m), (T + 1, 0), (T + 1,), ()
        paths = Trajectory(*(jnp.zeros((4, *shape)) for shape in shapes))
        with pytest.raises(ValueError, match=r"came 4 rollouts and there is room for 3: .* remember=4"):
            teacher.learn(KEY, teacher.init(KEY, X0), paths)
    with pytest.raises(ValueError, match=r"model_share must be in \(0, 1\], came 0"):
        local_pilqr(ENV, model_share=0.0)


# ----------------------------------------------------------------------------------------- learning


def costs_while_learning(make, env, updates, bound, rollouts=10, runs=4):
    """Cost of the mean controller [runs, updates + 1] from the first rollouts on."""
    teacher, x0 = make(env), jnp.zeros(env.nx)

    def update(state, key):
        controller = teacher.controller(state)
        quiet = env.rollout(x0, controller, jnp.zeros_like(controller.us))
        state, _ = teacher.learn(key, state, roll(env, controller, x0, key, rollouts))
        state, _ = teacher.improve(state, (KLTerm(controller, jnp.asarray(bound)),))
        return state, jnp.sum(quiet.costs)

    def run(key):
        return jax.lax.scan(update, teacher.init(key, x0), jax.random.split(key, updates + 1))[1]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, runs)))


def test_it_learns_to_reach():
    costs = costs_while_learning(functools.partial(local_pi2, std=0.5), mass(horizon=20), 15, 6.0)
    assert np.all(costs[:, -1] < costs[:, 0] / 4)

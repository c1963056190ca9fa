import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import compiled
from scipy.stats import multivariate_normal

from gps.types import Limits
from students import mlp, set_covariance
from students.normalise import CLIP, initial_moments, merge, normalise

LIMITS = Limits(jnp.asarray([-1.0, 0.0]), jnp.asarray([3.0, 0.5]))


merge, normalise = jax.jit(merge), jax.jit(normalise)


def make(*args, **settings):
    return compiled(mlp(*args, **settings))


def observations(rng, m):
    """A pytree with floats, integers and more than one dimension."""
    return {"pos": jnp.asarray(rng.normal(2, 3, (m, 2))), "pix": jnp.asarray(rng.integers(0, 255, (m, 2, 2)))}


def flat(obs):
    m = len(obs["pos"])
    return np.concatenate([np.reshape(obs["pix"], (m, -1)), np.asarray(obs["pos"])], axis=1)


def randomised(variables, scale=1.0):
    """Parameters of order one everywhere, so that no term of the network is too small to be seen."""
    leaves, tree = jax.tree.flatten(variables[0])
    rng = np.random.default_rng(7)
    noisy = [leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(tree, noisy), variables[1]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_policy_is_the_formula_of_its_docstring(activation):
    rng = np.random.default_rng(0)
    obs = observations(rng, 50)
    student = make(2, (7, 6), activation, limits=LIMITS, dtype=jnp.float64)
    one = jax.tree.map(lambda leaf: leaf[3], obs)
    variables = student.observe_statistics(student.init(jax.random.key(0), one), obs, jnp.ones(50))
    params, _ = variables = randomised(variables)
    rows = flat(obs)
    value = (rows[3] - rows.mean(0)) / rows.std(0)
    for layer in ("Dense_0", "Dense_1", "Dense_2"):
        weights = params["network"][layer]
        value = value @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        if layer != "Dense_2":
            value = np.tanh(value) if activation == "tanh" else np.maximum(value, 0)
    half = np.array([2.0, 0.25])
    expected = np.clip(np.array([1.0, 0.25]) + half * value, LIMITS.low, LIMITS.high)
    dist, carry = student.apply(variables, one, student.initial_carry(one))
    np.testing.assert_allclose(dist.mean, expected, rtol=1e-10)
    np.testing.assert_allclose(dist.cov, np.diag((half * np.exp(params["log_std"])) ** 2), rtol=1e-10)
    assert carry == ()
    action = dist.mean + 3.0  # outside the limits: its density is that of the unclipped Gaussian
    oracle = multivariate_normal(expected, dist.cov).logpdf(action)
    np.testing.assert_allclose(dist.log_prob(action), oracle, rtol=1e-9)


def test_a_new_policy_acts_near_the_centre_of_the_limits():
    obs = jnp.asarray(np.random.default_rng(1).normal(size=(200, 6)))
    student = make(2, limits=LIMITS, log_std=-2.0)
    variables = student.init(jax.random.key(1), obs[0])
    dist = student.apply_sequence(variables, obs, jnp.zeros(200, bool), ())
    mean = np.asarray(dist.mean)
    assert np.max(np.abs((mean - np.array([1, 0.25])) / np.array([2, 0.25]))) < 0.1
    np.testing.assert_allclose(dist.cov[0], np.diag((np.array([2, 0.25]) * np.exp(-2)) ** 2), rtol=1e-5)
    assert np.ptp(mean, axis=0).min() > 0


def test_means_stay_within_one_sided_and_two_sided_limits():
    limits = Limits(jnp.asarray([-jnp.inf, 0.1]), jnp.asarray([0.3, 0.7]))
    obs = 100 * jnp.asarray(np.random.default_rng(2).normal(size=(300, 4)))
    student = make(2, (16,), limits=limits)
    dist = student.apply_sequence(
        randomised(student.init(jax.random.key(0), obs[0]), 5.0), obs, jnp.zeros(300, bool), ()
    )
    mean, low, high = (np.asarray(value, np.float32) for value in (dist.mean, *limits))
    assert np.all(np.isfinite(mean))
    assert np.all(mean >= low)
    assert np.all(mean <= high)
    assert np.any(mean[:, 1] == high[1])
    assert mean[:, 0].min() < -3  # no bound below: not squashed


def test_an_output_outside_the_limits_is_pulled_back_but_never_pushed_on():
    student = make(1, (), limits=Limits(jnp.asarray([-1.0]), jnp.asarray([1.0])), dtype=jnp.float64)
    params, moments = student.init(jax.random.key(0), jnp.ones(1))
    params["network"]["Dense_0"]["bias"] = jnp.asarray([5.0])

    def loss(bias, label):
        moved = {**params, "network": {"Dense_0": {**params["network"]["Dense_0"], "bias": bias}}}
        mean = student.apply((moved, moments), jnp.ones(1), ())[0].mean
        return jnp.sum((mean - label) ** 2)

    gradient = jax.grad(loss)(jnp.asarray([5.0]), 0.25)
    np.testing.assert_allclose(gradient, [2 * (1 - 0.25)])
    assert np.all(jax.grad(loss)(jnp.asarray([5.0]), 1.0) == 0)
    np.testing.assert_allclose(jax.jacfwd(loss)(jnp.asarray([5.0]), 0.25), gradient)


def test_moments_merged_in_batches_are_those_of_all_the_data():
    rng = np.random.default_rng(3)
    moments, values, weights = initial_moments(4, jnp.float64), [], []
    for m in (1, 30, 7, 200):
        value, weight = rng.normal([1, -50, 0, 3], [1, 0.1, 30, 2], (m, 4)), rng.uniform(0, 3, m)
        weight[rng.random(m) < 0.2] = 0
        moments = merge(
            moments, jnp.asarray(np.where(weight[:, None] > 0, value, np.nan)), jnp.asarray(weight)
        )
        values.append(value)
        weights.append(weight)
    values, weights = np.concatenate(values), np.concatenate(weights)
    mean = np.average(values, axis=0, weights=weights)
    var = np.average((values - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(moments.weight, weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var, var, rtol=1e-10)
    value = mean + rng.normal(size=4) * np.sqrt(var)
    np.testing.assert_allclose(normalise(moments, value), (value - mean) / np.sqrt(var), rtol=1e-9)


def test_an_empty_batch_changes_nothing():
    rng = np.random.default_rng(4)
    before = merge(initial_moments(2, jnp.float64), jnp.asarray(rng.normal(size=(5, 2))), jnp.ones(5))
    for start in (before, initial_moments(2, jnp.float64)):
        after = merge(start, jnp.full((3, 2), jnp.nan), jnp.zeros(3))
        assert all(np.array_equal(a, b) for a, b in zip(start, after, strict=True))
    value = jnp.asarray([0.3, -2.0])
    assert np.array_equal(normalise(initial_moments(2, jnp.float64), value), value)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1000.3, -3.3e-5])
def test_a_constant_input_becomes_zero_and_a_varying_one_is_clipped(constant):
    rng = np.random.default_rng(5)
    moments = initial_moments(2)
    for m in (1000, 333, 1):
        data = np.stack([np.full(m, constant), rng.normal(7, 2, m)], axis=1).astype(np.float32)
        moments = merge(moments, jnp.asarray(data), jnp.asarray(rng.uniform(0, 1, m), jnp.float32))
    out = normalise(moments, jnp.asarray([constant, 1e6], jnp.float32))
    assert np.array_equal(out, np.asarray([0, CLIP], np.float32))
    gradient = jax.jacfwd(normalise, argnums=1)(moments, jnp.asarray([constant + 1, 7.0], jnp.float32))
    np.testing.assert_allclose(gradient, np.diag([0, 1 / np.sqrt(moments.var[1])]), rtol=1e-5)


def test_a_sequence_is_its_steps():
    rng = np.random.default_rng(6)
    obs = observations(rng, 9)
    student = make(2, (8,), limits=LIMITS)
    variables = randomised(student.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], obs)), 0.1)
    dist = student.apply_sequence(variables, obs, jnp.arange(9) % 4 == 0, student.initial_carry(obs))
    for t in range(9):
        one, _ = student.apply(variables, jax.tree.map(lambda leaf, t=t: leaf[t], obs), ())
        np.testing.assert_allclose(dist.mean[t], one.mean, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(dist.cov[t], one.cov, rtol=1e-6)


def test_a_covariance_set_from_labels_is_returned_and_has_no_gradient():
    student = make(2, (4,), limits=LIMITS, covariance="labels")
    obs = jnp.ones(3)
    variables = student.init(jax.random.key(0), obs)
    np.testing.assert_allclose(
        student.apply(variables, obs, ())[0].cov, np.diag((np.array([2, 0.25]) * np.exp(-1)) ** 2), rtol=1e-5
    )
    cov = jnp.asarray([[2.0, 0.5], [0.5, 1.0]])
    params, moments = set_covariance(variables, cov)
    assert np.array_equal(student.apply((params, moments), obs, ())[0].cov, cov)
    gradient = jax.grad(lambda p: student.apply((p, moments), obs, ())[0].log_prob(jnp.ones(2)))(params)
    assert np.all(gradient["cov"] == 0)
    assert np.any(gradient["network"]["Dense_1"]["bias"] != 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_is_kept_whatever_comes_in(dtype):
    student = make(2, (4,), limits=LIMITS, dtype=dtype)
    obs = {"a": jnp.ones(3, jnp.float64), "b": jnp.ones(2, jnp.uint8)}
    variables = student.init(jax.random.key(0), obs)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), obs)
    variables = student.observe_statistics(variables, batch, jnp.ones(2, jnp.float64))
    dist = student.apply(variables, obs, ())[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, dist))} == {jnp.dtype(dtype)}


def test_the_key_of_init_matters_and_decides():
    student = make(2, (4,))

    def kernel(k):
        return student.init(jax.random.key(k), jnp.ones(3))[0]["network"]["Dense_0"]["kernel"]

    assert np.array_equal(kernel(0), kernel(0))
    assert not np.array_equal(kernel(0), kernel(1))


def test_students_of_many_seeds_vmap():
    student, obs = make(2, (4,)), jnp.asarray([0.1, 0.2, 0.3])
    keys = jax.random.split(jax.random.key(0), 3)
    variables = jax.vmap(student.init, in_axes=(0, None))(keys, obs)
    means = jax.vmap(lambda v: student.apply(v, obs, ())[0].mean)(variables)
    for i in range(3):
        alone = student.apply(student.init(keys[i], obs), obs, ())[0].mean
        np.testing.assert_allclose(means[i], alone, rtol=1e-4, atol=1e-7)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"unknown activation 'tahn'.*did you mean 'tanh'"):
        mlp(2, activation="tahn")
    with pytest.raises(ValueError, match="'learned', 'labels' or 'network', got 'full'"):
        mlp(2, covariance="full")
    with pytest.raises(ValueError, match=r"limits for 3 controls must have shape \(3,\), got \(2,\)"):
        mlp(3, limits=LIMITS)
    for odd in ((0,), (-2, 3), 32, (2.5,)):
        with pytest.raises(ValueError, match="hidden must be a tuple of widths of at least 1"):
            mlp(2, hidden=odd)
    with pytest.raises(ValueError, match="at least 1 control, got nu = 0"):
        mlp(0)
    for odd in ({"log_std": np.nan}, {"min_std": -1.0}, {"min_std": np.inf}):
        with pytest.raises(ValueError, match="log_std must be finite and min_std in"):
            mlp(2, **odd)
    for low in (2.0, np.nan):
        with pytest.raises(ValueError, match="limits need low < high"):
            mlp(1, limits=Limits(np.array([low]), np.array([1.0])))
    learned = mlp(2).init(jax.random.key(0), jnp.ones(3))
    with pytest.raises(ValueError, match="covariance='labels'"):
        set_covariance(learned, jnp.eye(2))
    set_by_labels = mlp(2, covariance="labels").init(jax.random.key(0), jnp.ones(3))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), got \(3, 3\)"):
        set_covariance(set_by_labels, jnp.eye(3))

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from labelled import compiled, example, flat_obs, random_steps
from scipy.stats import chi2

from gps import dataset as ds
from gps.types import Mirror
from students import adam, fit, kl, mlp, mse, nll
from students.augment import reflect
from students.shuffle import seed_of, stream

KEY = jax.random.key(5)


def ring(rng, m, capacity, **settings):
    """A ring with m random steps; its empty slots hold NaN."""
    steps = random_steps(rng, m, **settings)
    dataset = jax.jit(ds.add)(ds.empty(capacity, example(steps)), steps)
    hole = np.arange(capacity) >= m

    def poison(leaf):
        return jnp.asarray(np.where(hole.reshape(-1, *[1] * (leaf.ndim - 1)), np.nan, leaf))

    obs = jax.tree.map(poison, dataset.obs)
    return dataset._replace(obs=obs, mean=poison(dataset.mean), precision=poison(dataset.precision))


def start(fitter, student, dataset, seed=0):
    one = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[0]), dataset.obs)
    return jax.jit(fitter.init)(jax.random.key(9), compiled(student).init(jax.random.key(seed), one))


def means(student, state, dataset):
    first = jnp.zeros(len(dataset.weight), bool)
    return np.asarray(compiled(student).apply_sequence(state.variables, dataset.obs, first, ()).mean)


def plain(leaf):
    """A leaf as NumPy, keys as their words."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(plain(x), plain(y)) for x, y in pairs)


# ------------------------------------------------------------------------------------------- shuffle


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_stream_is_one_permutation_after_another(batch_size):
    take = jax.jit(jax.vmap(stream, in_axes=(None, 0, None, None)), static_argnums=3)
    batches = jnp.arange(-(-3 * 1008 // batch_size))
    for n in (1, 2, 3, 7, 8, 9, 64, 100, 1001):
        period = n * -(-batch_size // n)
        drawn = np.asarray(take(seed_of(KEY), batches, jnp.int32(n), batch_size)).ravel()
        epochs = drawn[: 3 * period].reshape(3, period)
        assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.sort(np.arange(period) % n), (3, 1)))
        if n >= 64:
            assert not np.array_equal(epochs[0], epochs[1])
            assert not np.array_equal(epochs[1], epochs[2])


def test_all_orders_are_equally_likely():
    seeds = jax.vmap(seed_of)(jax.random.split(KEY, 6000))
    drawn = np.asarray(jax.jit(jax.vmap(lambda seed: stream(seed, jnp.asarray(3), jnp.asarray(4), 4)))(seeds))
    orders = list(itertools.permutations(range(4)))
    counts = np.array([np.sum(np.all(drawn == np.array(order), axis=1)) for order in orders])
    expected = len(drawn) / len(orders)
    assert counts.sum() == len(drawn)
    assert np.sum((counts - expected) ** 2 / expected) < chi2.ppf(0.9999, len(orders) - 1)


def test_where_an_element_goes_says_nothing_about_its_neighbour():
    seeds = jax.vmap(seed_of)(jax.random.split(KEY, 4000))
    drawn = np.asarray(
        jax.jit(jax.vmap(lambda seed: stream(seed, jnp.asarray(0), jnp.asarray(50), 50)))(seeds)
    )
    for table in (
        drawn[:, 0],
        drawn[:, 17],
        (drawn[:, 1] - drawn[:, 0]) % 50,
        (drawn[:, 30] + drawn[:, 8]) % 50,
    ):
        counts = np.bincount(table, minlength=50)
        levels = counts[1:] if counts[0] == 0 else counts
        expected = len(drawn) / len(levels)
        assert np.sum((levels - expected) ** 2 / expected) < chi2.ppf(0.9999, len(levels) - 1)


# --------------------------------------------------------------------------------------- what is learned


def test_a_linear_student_finds_the_weighted_least_squares_solution():
    rng = np.random.default_rng(0)
    dataset = ring(rng, 40, 64)
    weight = dataset.weight * jnp.where(jnp.arange(64) % 3 == 0, 10, 1)  # far from uniform
    dataset = dataset._replace(weight=weight)
    student = mlp(2, hidden=(), dtype=jnp.float64)
    fitter = fit(student, mse(), adam(3e-2, updates=3000), batch_size=16, updates=3000)
    state, info = fitter.run(KEY, start(fitter, student, dataset), dataset)
    inputs = np.column_stack([flat_obs(dataset)[:40], np.ones(40)])
    root = np.sqrt(np.asarray(weight[:40]))[:, None]
    solution, *_ = np.linalg.lstsq(root * inputs, root * np.asarray(dataset.mean[:40]), rcond=None)
    mean = means(student, state, dataset)[:40]
    np.testing.assert_allclose(mean, inputs @ solution, atol=2e-2)
    uniform, *_ = np.linalg.lstsq(inputs, np.asarray(dataset.mean[:40]), rcond=None)
    assert np.abs(inputs @ uniform - inputs @ solution).max() > 0.3  # the weights matter
    least = np.sum(root**2 * (inputs @ solution - dataset.mean[:40]) ** 2) / np.sum(root**2) / 2
    np.testing.assert_allclose(info["loss"], least, rtol=0.1)
    assert (int(info["samples"]), int(info["updates"]), bool(info["finite"])) == (40, 3000, True)


def test_in_the_mirror_a_student_learns_from_both_sides():
    rng = np.random.default_rng(1)
    dataset = ring(rng, 40, 64)
    dataset = dataset._replace(weight=jnp.sign(dataset.weight))
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    mirror = Mirror(lambda obs: jax.tree.map(jnp.negative, obs), turn)
    student = mlp(2, hidden=(), dtype=jnp.float64)
    settings = {"batch_size": 256, "updates": 3000, "augment": reflect(mirror)}
    fitter = fit(student, mse(), adam(1e-2, updates=3000, decay=0.6), **settings)
    state, _ = fitter.run(KEY, start(fitter, student, dataset), dataset)
    inputs, labels = flat_obs(dataset)[:40], np.asarray(dataset.mean[:40])
    both = np.column_stack([np.concatenate([inputs, -inputs]), np.ones(80)])
    solution, *_ = np.linalg.lstsq(both, np.concatenate([labels, labels @ turn.T]), rcond=None)
    mean = means(student, state, dataset)[:40]
    np.testing.assert_allclose(mean, both[:40] @ solution, atol=3e-2)
    alone, *_ = np.linalg.lstsq(both[:40], labels, rcond=None)
    assert np.abs(both[:40] @ (alone - solution)).max() > 0.3


@pytest.mark.parametrize("name", ["nll", "kl"])
def test_a_learned_covariance_goes_where_the_closed_form_says(name):
    rng = np.random.default_rng(1)
    dataset = ring(rng, 48, 48)
    student = mlp(2, hidden=(), dtype=jnp.float64)
    fitter = fit(student, {"nll": nll(), "kl": kl()}[name], adam(3e-2, updates=2000), 48, updates=2000)
    state, _ = fitter.run(KEY, start(fitter, student, dataset), dataset)
    var = np.exp(2 * np.asarray(state.variables[0]["log_std"]))
    weight = np.asarray(dataset.weight)
    if name == "kl":
        precision = np.average(np.asarray(dataset.precision), axis=0, weights=weight)
        expected = 1 / np.diag(precision)
    else:
        inputs = np.column_stack([flat_obs(dataset), np.ones(48)])
        root = np.sqrt(weight)[:, None]
        solution, *_ = np.linalg.lstsq(root * inputs, root * np.asarray(dataset.mean), rcond=None)
        expected = np.average((inputs @ solution - dataset.mean) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(var, expected, rtol=1e-3)


def test_a_covariance_of_the_network_is_the_labels_where_it_looks():
    """Precisions whose logarithms are lines in the observation, which a network without layers can be."""
    rng = np.random.default_rng(3)
    dataset = ring(rng, 48, 48)
    exponents = flat_obs(dataset) @ (0.4 * rng.normal(size=(5, 2)))
    dataset = dataset._replace(precision=jnp.asarray(np.exp(exponents)[:, :, None] * np.eye(2)))
    student = mlp(2, hidden=(), covariance="network", dtype=jnp.float64)
    fitter = fit(student, kl(), adam(3e-2, updates=3000, decay=0.5), 48, updates=3000)
    state, _ = fitter.run(KEY, start(fitter, student, dataset), dataset)
    covs = jax.vmap(lambda obs: student.apply(state.variables, obs, ())[0].cov)(dataset.obs)
    np.testing.assert_allclose(covs, np.exp(-exponents)[:, :, None] * np.eye(2), rtol=0.02, atol=1e-9)


def test_inputs_are_normalised_by_the_training_steps_once_however_often_it_runs():
    dataset = ring(np.random.default_rng(2), 30, 50)
    student = mlp(2, (4,))
    fitter = fit(student, mse(), updates=3)
    state = start(fitter, student, dataset)
    for k in range(3):
        state, _ = fitter.run(jax.random.key(k), state, dataset)
    weight, inputs = np.asarray(dataset.weight[:30]), flat_obs(dataset)[:30]
    mean = np.average(inputs, axis=0, weights=weight)
    moments = state.variables[1]
    np.testing.assert_allclose(moments.weight, weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        moments.var, np.average((inputs - mean) ** 2, axis=0, weights=weight), rtol=1e-4
    )


def recorder(updates):
    """An optimiser that moves nothing and writes down the gradient of the output bias."""

    def update(gradient, state, params=None):
        count, seen = state
        still = jax.tree.map(jnp.zeros_like, gradient)
        return still, (count + 1, seen.at[count].set(gradient["network"]["Dense_0"]["bias"][0]))

    return optax.GradientTransformation(lambda params: (jnp.int32(0), jnp.zeros(updates)), update)


def test_every_training_step_is_seen_once_per_epoch_in_a_new_order():
    dataset = ring(np.random.default_rng(8), 20, 37)
    dataset = dataset._replace(cost=jnp.arange(37.0), weight=jnp.where(jnp.arange(37) < 20, 2.0, 0))
    student = mlp(2, hidden=(), dtype=jnp.float64)

    def slot(dist, step):
        """A loss whose gradient names the slot."""
        return dist.mean[0] * step.cost

    fitter = fit(student, slot, recorder(48), batch_size=1, epochs=3, validation=0.25)
    state = start(fitter, student, dataset)
    train = np.flatnonzero(np.asarray(ds.split(state.split_key, dataset.weight, 0.25)[0]))
    assert 14 <= len(train) <= 16
    new, info = fitter.run(KEY, state, dataset)
    epochs = np.asarray(new.opt_state[1])[: 3 * len(train)].reshape(3, -1)
    assert int(info["updates"]) == 3 * len(train)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(train, (3, 1)))
    assert len(np.unique(epochs, axis=0)) == 3


# ------------------------------------------------------------------------- validation and early stopping


def test_held_out_labels_do_not_reach_the_parameters():
    dataset = ring(np.random.default_rng(3), 60, 60)
    student = mlp(2, (4,))
    fitter = fit(student, mse(), epochs=4, batch_size=16, validation=0.2)
    state = start(fitter, student, dataset)
    held = np.asarray(ds.split(state.split_key, dataset.weight, 0.2)[1]) > 0
    assert held.sum() == 12
    spoilt = dataset._replace(mean=jnp.where(held[:, None], 1e3, dataset.mean))
    (one, info), (two, info_two) = (fitter.run(KEY, state, data) for data in (dataset, spoilt))
    assert same(one.variables, two.variables)
    assert info_two["validation_loss"] > 1e4 * info["validation_loss"]
    slot = int(np.flatnonzero(~held)[0])
    three, _ = fitter.run(KEY, state, dataset._replace(mean=dataset.mean.at[slot].set(1e3)))
    assert not same(one.variables, three.variables)


def test_early_stopping_returns_the_best_parameters():
    dataset = ring(np.random.default_rng(4), 40, 80)  # random labels: the student can only overfit
    student = mlp(2, (64,))
    fitter = fit(student, mse(), adam(1e-2), batch_size=8, epochs=200, validation=0.25, patience=4)
    state, info = fitter.run(KEY, start(fitter, student, dataset), dataset)
    run, trace = int(info["epochs"]), np.asarray(info["validation_losses"])
    assert 4 < run < 100
    assert np.all(np.isnan(trace[run:]))
    assert np.nanargmin(trace) == run - 5
    weight = np.asarray(ds.split(state.split_key, dataset.weight, 0.25)[1])[:40]
    mean = means(student, state, dataset)[:40]
    losses = np.mean((np.asarray(mean) - np.asarray(dataset.mean[:40])) ** 2, axis=1)
    np.testing.assert_allclose(np.average(losses, weights=weight), np.nanmin(trace), rtol=1e-4)
    np.testing.assert_allclose(info["validation_loss"], np.nanmin(trace))
    assert int(info["updates"]) == run * 4  # 30 training steps in batches of 8, none for the 40 empty slots


def test_with_too_little_data_to_hold_out_it_still_learns():
    dataset = ring(np.random.default_rng(5), 2, 50)
    student = mlp(2, (4,))
    fitter = fit(student, mse(), epochs=30, validation=0.05, patience=3)

    def held(key):
        return np.asarray(ds.split(key, dataset.weight, 0.05)[1])

    key = next(key for key in jax.random.split(KEY, 20) if not held(key).any())
    state = start(fitter, student, dataset)._replace(split_key=key)
    new, info = fitter.run(KEY, state, dataset)
    assert int(info["epochs"]) == 30
    assert info["train_losses"][-1] < 0.999 * info["train_losses"][0]
    assert not same(new.variables[0], state.variables[0])


# ------------------------------------------------------------------------------------------ contracts


@pytest.fixture(scope="module")
def small():
    """A float64 dataset and a float32 student with its fitter."""
    dataset = ring(np.random.default_rng(6), 30, 50)
    student = mlp(2, (4,))
    fitter = fit(student, kl(), adam(1e-2, updates=100), batch_size=8, updates=25)
    return dataset, student, fitter, start(fitter, student, dataset)


def test_same_key_same_bits_other_key_other_bits(small):
    dataset, _, fitter, state = small
    (one, _), (two, _), (other, _) = (fitter.run(jax.random.key(k), state, dataset) for k in (0, 0, 1))
    assert same(one, two)
    assert not same(one.variables, other.variables)


def test_dtypes_and_structure_of_the_state_are_kept(small):
    dataset, _, fitter, state = small
    new, info = fitter.run(KEY, state, dataset)
    assert jax.tree.map(lambda leaf: leaf.dtype, new) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert new.variables[0]["log_std"].dtype == info["loss"].dtype == np.float32
    assert dataset.mean.dtype == np.float64


def test_one_program_serves_every_fill(small):
    _, student, _, _ = small
    fitter = fit(student, mse(), batch_size=8, epochs=2)
    rng = np.random.default_rng(7)
    updates = []
    for m in (1, 20, 50):
        dataset = ring(rng, m, 50)
        _, info = fitter.run(KEY, start(fitter, student, dataset), dataset)
        updates.append(int(info["updates"]))
    assert updates == [2, 6, 14]
    assert fitter.run._cache_size() == 1


def test_an_empty_dataset_leaves_the_student_as_it_is(small):
    dataset, _, fitter, state = small
    state, _ = fitter.run(KEY, state, dataset)  # so that the optimiser has momentum
    new, info = fitter.run(KEY, state, dataset._replace(weight=jnp.zeros(50)))
    assert same(new, state)
    assert int(info["samples"]) == 0


def test_seeds_in_one_batch_are_the_seeds_alone(small):
    dataset, student, fitter, _ = small
    states = [start(fitter, student, dataset, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    keys = jax.random.split(KEY, 3)
    together, _ = jax.vmap(fitter.run, in_axes=(0, 0, None))(keys, stacked, dataset)
    for i in range(3):
        alone, _ = fitter.run(keys[i], states[i], dataset)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True)
        for many, one in pairs:
            np.testing.assert_allclose(plain(many)[i], plain(one), rtol=2e-3, atol=2e-5)


def test_a_label_that_is_not_a_number_is_reported(small):
    dataset, _, fitter, state = small
    _, info = fitter.run(KEY, state, dataset._replace(mean=dataset.mean.at[3].set(jnp.nan)))
    assert not bool(info["finite"])


def test_the_learning_rate_falls_along_a_half_cosine():
    optimizer = adam(1e-2, updates=40, decay=0.5, clip=1e9)
    params = jnp.zeros(1)
    state, steps = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(41):
        change, state = update(jnp.ones(1), state, params)  # constant gradient: |step| is the rate
        steps.append(-float(change[0]))
    t = np.clip((np.arange(41) - 20) / 20, 0, 1)
    np.testing.assert_allclose(steps, 1e-2 * 0.5 * (1 + np.cos(np.pi * t)), rtol=1e-6, atol=1e-9)
    assert isinstance(adam(), optax.GradientTransformation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either epochs or updates, got epochs=None and updates=None"),
        ({"epochs": 2, "updates": 3}, "either epochs or updates"),
        ({"epochs": 0}, "at least 1, got epochs=0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 1, "validation": 1.0}, "got 1.0"),
        ({"updates": 2.5}, "updates must be a whole number, got 2.5"),
        ({"epochs": 1, "batch_size": 1.5}, "batch_size must be a whole number"),
        ({"epochs": 5, "patience": 2}, "needs epochs and validation > 0"),
        ({"updates": 5, "validation": 0.1, "patience": 2}, "needs epochs"),
    ],
)
def test_errors_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(mlp(2), mse(), **settings)

"""Students that see and remember: their parts against NumPy and SciPy, and what only they can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import compiled, example, random_steps
from scipy.signal import correlate
from scipy.stats import norm

from gps import dataset as ds
from gps.gaussian import Gaussian
from gps.mixture import Mixture
from gps.types import Limits, Unroll
from students import adam, cnn, dave2, fit, frame_stack, gru, lstm, mlp, mse, nll, spatial_softmax
from students.inputs import images, vector
from students.networks import feature_points, seeing

KEY = jax.random.key(3)
TINY = ((4, 3, 2), (3, 2, 1))


def picture(rng, *shape):
    return jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)


# ------------------------------------------------------------------------------------- inputs


def test_images_become_channels_and_the_rest_a_vector():
    rng = np.random.default_rng(0)
    obs = {
        "eye": picture(rng, 5, 6, 3),
        "eye_depth": jnp.asarray(rng.normal(size=(2, 5, 6, 1))),  # a history of two
        "joints": jnp.asarray(rng.normal(size=(2, 4))),
        "rate": jnp.asarray(1.5),
    }
    seen = images(obs, jnp.float64)
    np.testing.assert_allclose(seen[..., :3], np.asarray(obs["eye"]) / 127.5 - 1, rtol=1e-12)
    np.testing.assert_array_equal(seen[..., 3], obs["eye_depth"][0, ..., 0])
    np.testing.assert_array_equal(seen[..., 4], obs["eye_depth"][1, ..., 0])
    np.testing.assert_array_equal(vector(obs, jnp.float64), [*np.ravel(obs["joints"]), 1.5])


def test_images_of_several_sizes_or_none_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"images .* of one size"):
        images({"a": picture(rng, 4, 4, 3), "b": picture(rng, 4, 5, 3)}, jnp.float32)
    with pytest.raises(ValueError, match=r"needs images .* students.mlp"):
        cnn(1, TINY).init(KEY, {"joints": jnp.zeros(3)})


# ------------------------------------------------------------------------------------ networks


def test_convolutions_are_scipys():
    rng = np.random.default_rng(1)
    net = seeing(TINY, False, (5,), 2, "tanh", "none", 1, jnp.float64)
    image, readings = jnp.asarray(rng.normal(size=(9, 8, 2))), jnp.asarray(rng.normal(size=3))
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), net.init(KEY, image, readings))
    value = np.asarray(image)
    for i, (channels, side, stride) in enumerate(TINY):
        layer = params[f"convolutions_{i}"]["Dense_0"]
        kernel = np.asarray(layer["kernel"]).reshape(side, side, value.shape[-1], channels)
        maps = [correlate(value, kernel[..., c], "valid")[::stride, ::stride, 0] for c in range(channels)]
        value = np.maximum(np.stack(maps, -1) + np.asarray(layer["bias"]), 0)
    found = np.concatenate([value.reshape(-1), readings])
    hidden = np.tanh(found @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
    np.testing.assert_allclose(net.encode(params, image, readings), hidden, rtol=1e-9)


def test_feature_points_are_expected_places():
    rng = np.random.default_rng(2)
    channels = rng.normal(size=(5, 7, 3)) * 3
    points = np.asarray(feature_points(jnp.asarray(channels)))
    for c in range(3):
        share = np.exp(channels[..., c]) / np.exp(channels[..., c]).sum()
        across = sum(share[i, j] * (2 * j / 6 - 1) for i in range(5) for j in range(7))
        down = sum(share[i, j] * (2 * i / 4 - 1) for i in range(5) for j in range(7))
        np.testing.assert_allclose([points[c], points[3 + c]], [across, down], rtol=1e-9)


@pytest.mark.parametrize(
    ("student", "size"),
    [
        (lambda: cnn(2, TINY), (9, 8)),
        (lambda: cnn(2, TINY, memory="gru", size=5), (9, 8)),
        (lambda: dave2(2), (66, 200)),
        (lambda: spatial_softmax(2, TINY), (9, 8)),
    ],
)
def test_what_they_see_moves_what_they_do(student, size):
    rng = np.random.default_rng(3)
    policy = compiled(student())
    obs = {"eye": picture(rng, *size, 3), "joints": jnp.asarray(rng.normal(size=2), jnp.float32)}
    params, moments = policy.init(KEY, obs)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.asarray(rng.normal(size=p.shape), p.dtype), params)

    def act(obs):
        return policy.apply((params, moments), obs, policy.initial_carry(obs))[0].mean

    base = act(obs)
    assert base.shape == (2,)
    assert not np.allclose(base, act(obs | {"eye": picture(rng, *size, 3)}))
    assert not np.allclose(base, act(obs | {"joints": obs["joints"] + 1}))


def test_dave2_has_the_published_number_of_parameters():
    params, _ = jax.eval_shape(dave2(1).init, KEY, {"eye": jax.ShapeDtypeStruct((66, 200, 3), jnp.uint8)})
    layers = jax.tree.map(lambda p: int(np.prod(p.shape)), params["network"])
    assert sum(jax.tree.leaves(layers)) == 252_219  # of the net of Bojarski et al., biases and all


def stacked_mlp(nu, size, hidden, dtype):
    return frame_stack(mlp(nu, hidden, dtype=dtype), 3)


def stacked_gru(nu, size, hidden, dtype):
    return frame_stack(gru(nu, size, hidden, dtype=dtype), 2)


@pytest.mark.parametrize("make", [gru, lstm, stacked_mlp, stacked_gru])
def test_a_sequence_is_its_steps_and_forgets_where_an_episode_begins(make):
    rng = np.random.default_rng(4)
    student = compiled(make(2, size=5, hidden=(4,), dtype=jnp.float64))
    obs = jnp.asarray(rng.normal(size=(7, 3)))
    params, moments = student.init(KEY, obs[0])
    variables = (jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape)), params), moments)
    first = jnp.asarray([True, False, False, True, False, False, False])
    means, carry = [], student.initial_carry(obs[0])
    for i in range(7):
        carry = student.initial_carry(obs[0]) if first[i] else carry
        dist, carry = student.apply(variables, obs[i], carry)
        means.append(dist.mean)
    dists = student.apply_sequence(variables, obs, first, student.initial_carry(obs[0]))
    np.testing.assert_allclose(dists.mean, np.stack(means), rtol=1e-9)
    other = student.apply_sequence(variables, obs.at[0].add(5.0), first, student.initial_carry(obs[0]))
    assert not np.allclose(other.mean[2], dists.mean[2]), "it remembers"
    np.testing.assert_array_equal(other.mean[3:], dists.mean[3:])


def test_a_stack_is_what_a_history_shows():
    rng = np.random.default_rng(5)
    frames = [picture(rng, 9, 8, 3) for _ in range(4)]
    seeing = cnn(2, TINY)
    student = compiled(frame_stack(seeing, 3))
    variables = student.init(KEY, frames[0])
    params = jax.tree.map(lambda p: p + 0.1 * jnp.asarray(rng.normal(size=p.shape), p.dtype), variables[0])
    carry = student.initial_carry(frames[0])
    for i in range(4):
        dist, carry = student.apply((params, variables[1]), frames[i], carry)
        shown = jnp.stack([frames[max(i - k, 0)] for k in (2, 1, 0)])
        expected, _ = compiled(seeing).apply((params, variables[1]), shown, ())
        np.testing.assert_array_equal(dist.mean, expected.mean)


# ------------------------------------------------------------------------------------ mixtures


def mixture(rng, K=3, n=2):
    weights = rng.dirichlet(np.ones(K))
    return Mixture(*map(jnp.asarray, (np.log(weights), rng.normal(size=(K, n)), rng.uniform(0.3, 1, (K, n)))))


def test_the_density_of_a_mixture_is_scipys():
    dist, value = mixture(np.random.default_rng(5)), np.array([0.3, -0.2])
    each = np.prod(norm(np.asarray(dist.means), np.asarray(dist.stds)).pdf(value), axis=1)
    np.testing.assert_allclose(dist.log_prob(value), np.log(np.exp(dist.log_weights) @ each), rtol=1e-9)
    modes = [float(dist.log_prob(mean)) for mean in dist.means]
    np.testing.assert_array_equal(dist.mode(), dist.means[int(np.argmax(modes))])


def test_draws_of_a_mixture_have_its_moments():
    dist = mixture(np.random.default_rng(6))
    draws = np.asarray(jax.jit(jax.vmap(dist.sample))(jax.random.split(KEY, 40_000)))
    weights, means, stds = np.exp(dist.log_weights), np.asarray(dist.means), np.asarray(dist.stds)
    mean = weights @ means
    var = weights @ (stds**2 + means**2) - mean**2
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 4 * np.sqrt(var / 40_000))
    np.testing.assert_allclose(draws.var(0), var, rtol=0.05)


def test_the_divergence_of_mixtures_is_exact_for_single_components_and_near_by_sampling():
    rng = np.random.default_rng(7)
    one, two = mixture(rng, 1), mixture(rng, 1)
    gaussians = [Gaussian(m.means[0], jnp.diag(m.stds[0] ** 2)) for m in (one, two)]
    np.testing.assert_allclose(one.kl(two), gaussians[0].kl(gaussians[1]), rtol=1e-9)
    apart = Mixture(jnp.log(jnp.array([0.3, 0.7])), jnp.array([[-3.0], [3.0]]), jnp.array([[0.5], [0.4]]))
    other = Mixture(jnp.log(jnp.array([0.6, 0.4])), jnp.array([[-2.8], [3.3]]), jnp.array([[0.6], [0.7]]))
    draws = jax.vmap(apart.sample)(jax.random.split(KEY, 20_000))
    ratio = np.asarray(jax.vmap(apart.log_prob)(draws) - jax.vmap(other.log_prob)(draws))
    assert abs(float(apart.kl(other)) - ratio.mean()) < 4 * ratio.std() / np.sqrt(20_000) + 0.01
    assert abs(float(apart.kl(apart))) < 1e-6


# ------------------------------------------------------------------------------------ learning


def filled(rng, m, **fields):
    steps = random_steps(rng, m, nu=1, dtype=np.float32)._replace(weight=jnp.ones(m), **fields)
    return ds.add(ds.empty(m, example(steps)), steps)


def learnt(student, data, loss, updates=600, batch_size=64, seed=0):
    fitter = fit(student, loss, adam(3e-3, updates=updates), batch_size=batch_size, updates=updates)
    one = jax.tree.map(lambda leaf: leaf[0], data.obs)
    state = fitter.init(KEY, student.init(jax.random.key(seed), one))
    return fitter.run(jax.random.key(1), state, data)


def test_a_mixture_learns_a_teacher_that_does_one_thing_or_the_other():
    rng = np.random.default_rng(8)
    labels = jnp.asarray(rng.choice([-0.8, 0.8], (400, 1)) + 0.02 * rng.normal(size=(400, 1)), jnp.float32)
    obs = jnp.asarray(rng.normal(size=(400, 2)), jnp.float32)
    data = filled(rng, 400, obs=obs, mean=labels)
    box = Limits(-np.ones(1), np.ones(1))
    student = gru(1, size=4, hidden=(8,), components=2, limits=box, unroll=Unroll(2, 0))
    # without memory, but with the same head
    blind = compiled(student)
    state, info = learnt(student, data, nll())
    dists = jax.vmap(lambda o: blind.apply(state.variables, o, blind.initial_carry(o))[0])(obs)
    modes = np.abs(np.asarray(jax.vmap(Mixture.mode)(dists)))
    assert np.all(np.abs(modes - 0.8) < 0.1), "never in between"
    assert float(info["loss"]) < 0


def recall(rng, episodes=60, length=6):
    """What was shown in an episode's first step is to be done in all of them."""
    shown = rng.choice([-0.7, 0.7], episodes)
    obs = np.zeros((episodes, length, 2), np.float32)
    obs[:, 0, 0] = shown
    obs[..., 1] = rng.normal(size=(episodes, length))
    t = np.tile(np.arange(length), episodes)
    return filled(
        rng,
        episodes * length,
        obs=jnp.asarray(obs.reshape(-1, 2)),
        mean=jnp.asarray(np.repeat(shown, length)[:, None], jnp.float32),
        t=jnp.asarray(t, jnp.int32),
        first=jnp.asarray(t == 0),
        key=jnp.repeat(jax.random.split(KEY, episodes), length),
    )


def test_only_a_student_that_remembers_can_repeat_what_it_saw():
    data = recall(np.random.default_rng(9))
    remembers = gru(1, size=12, hidden=(12,), unroll=Unroll(6, 5))
    _, info = learnt(remembers, data, mse(), batch_size=96)
    assert float(info["loss"]) < 0.02
    _, info = learnt(mlp(1, (12,)), data, mse(), batch_size=96)
    assert float(info["loss"]) > 0.3, "five sixths of a variance of .49"


def test_the_loss_is_taken_behind_the_burn_in_and_after_a_beginning():
    """One window that holds all of the data: its loss before the first update, step by step."""
    rng = np.random.default_rng(10)
    steps = random_steps(rng, 8, nu=1, dtype=np.float32)._replace(
        weight=jnp.ones(8),
        t=jnp.asarray(
            [3, 4, 5, 6, 0, 1, 7, 8], jnp.int32
        ),  # an episode begins at slot 4, a step is missing at 6, and another episode goes on at 2
        key=jax.random.split(KEY, 2)[jnp.array([0, 0, 1, 1, 1, 1, 1, 1])],
        first=jnp.asarray([False, False, False, False, True, False, False, False]),
    )
    data = ds.add(ds.empty(8, example(steps)), steps)
    student = compiled(gru(1, size=4, hidden=(4,), unroll=Unroll(8, 3)))
    fitter = fit(gru(1, size=4, hidden=(4,), unroll=Unroll(8, 3)), mse(), adam(0.0 + 1e-9), 8, updates=1)
    one = jax.tree.map(lambda leaf: leaf[0], data.obs)
    state = fitter.init(KEY, student.init(KEY, one))
    fitted, info = fitter.run(jax.random.key(2), state, data)
    params, statistics = state.variables[0], fitted.variables[1]
    losses = []
    for start in range(8):
        order, carry = [(start + k) % 8 for k in range(8)], student.initial_carry(one)
        error, known = [], False
        for k, slot in enumerate(order):
            gap = k > 0 and int(data.t[slot]) != int(data.t[order[k - 1]]) + 1
            gap |= k > 0 and data.key[slot] != data.key[order[k - 1]]
            begins = bool(data.first[slot]) or gap
            known |= begins
            carry = student.initial_carry(one) if begins else carry
            seen = jax.tree.map(lambda leaf, slot=slot: leaf[slot], data.obs)
            dist, carry = student.apply((params, statistics), seen, carry)
            if known or k >= 3:
                error.append(float(dist.mean[0] - data.mean[slot, 0]) ** 2)
        losses.append(np.mean(error))
    assert np.min(np.abs(np.array(losses) - float(info["loss"]))) < 1e-5
    assert np.ptp(losses) > 1e-3, "it matters where the window begins"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cnn(1, unroll=Unroll(4, 0)), "unroll is for students that remember"),
        (lambda: gru(1, unroll=Unroll(4, 4)), "a window of 4 steps cannot begin with 4"),
        (lambda: gru(1, unroll=Unroll(1, 0)), "length >= 2"),
        (lambda: frame_stack(mlp(1), 0), "at least 1, got 0"),
        (lambda: frame_stack(mlp(1), 4, length=3), "windows of 3 steps begin with 3"),
        (lambda: cnn(1, memory="rnn"), "memory must be"),
        (lambda: cnn(1, size=0), "size and components"),
        (lambda: cnn(1, components=2, covariance="labels"), "its own spreads"),
        (lambda: fit(gru(1), mse(), batch_size=50, updates=1), "whole windows of 32"),
        (lambda: cnn(1).init(KEY, picture(np.random.default_rng(0), 6, 6, 3)), "smaller than a kernel"),
    ],
)
def test_settings_that_make_no_student_are_said(make, says):
    with pytest.raises(ValueError, match=says):
        make()

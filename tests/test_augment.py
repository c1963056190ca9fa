import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import random_steps
from small_tasks import corridor, corridor_teacher

from gps.algorithms.bc import bc
from gps.types import Mirror, Unroll
from students import adam, fit, gru, mlp, mse
from students.augment import brightness, chain, pixel_noise, reflect, shift

LENGTH = 6
KEYS = jax.random.split(jax.random.key(3), 40)


def window(level=None):
    """Six steps with two cameras' pictures of bytes, and readings."""
    rng = np.random.default_rng(0)
    steps = random_steps(rng, LENGTH)._replace(key=(), next_slot=())
    picture = rng.integers(0, 256, (LENGTH, 7, 9, 3)) if level is None else np.full((LENGTH, 7, 9, 3), level)
    obs = {"left": picture, "right": 255 - picture}
    return steps._replace(
        obs={name: jnp.asarray(image, jnp.uint8) for name, image in obs.items()} | {"speed": steps.obs["a"]}
    )


def changed(augment, steps):
    """By each of `KEYS`, as NumPy."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(augment, (0, None)))(KEYS, steps))


def everything_but_images_is_as_it_was(found, steps):
    for name in set(steps._fields) - {"obs", "key", "next_slot"}:
        assert np.array_equal(
            getattr(found, name), np.broadcast_to(getattr(steps, name), getattr(found, name).shape)
        )
    assert np.array_equal(found.obs["speed"][0], steps.obs["speed"])


def test_a_window_is_in_the_mirror_as_a_whole_or_not_at_all():
    steps = random_steps(np.random.default_rng(0), LENGTH)._replace(key=(), next_slot=())
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    found = changed(reflect(Mirror(lambda obs: jax.tree.map(jnp.negative, obs), turn)), steps)
    turned = np.all(found.obs["a"] == -np.asarray(steps.obs["a"]), axis=(1, 2))
    same = np.all(found.obs["a"] == np.asarray(steps.obs["a"]), axis=(1, 2))
    assert np.all(turned ^ same)
    assert 10 < turned.sum() < 30
    for name, image in (("mean", steps.mean @ turn.T), ("action", steps.action @ turn.T)):
        expected = np.where(turned[:, None, None], image, getattr(steps, name))
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12)


def test_shifted_images_are_crops_of_what_the_edges_continue():
    steps = window()
    found = changed(shift(2), steps)
    padded = {
        name: np.pad(steps.obs[name], [(0, 0), (2, 2), (2, 2), (0, 0)], "edge") for name in ("left", "right")
    }
    corners = []
    for i in range(len(KEYS)):
        fits = [
            (a, b)
            for a in range(5)
            for b in range(5)
            if all(
                np.array_equal(found.obs[name][i], padded[name][:, a : a + 7, b : b + 9]) for name in padded
            )
        ]
        assert len(fits) == 1  # every step and both cameras by the same
        corners += fits
    assert len(set(corners)) > 12
    everything_but_images_is_as_it_was(found, steps)


def test_brightness_is_one_factor_for_a_window():
    steps = window(level=100)
    found = changed(brightness(0.4), steps)
    left = found.obs["left"].reshape(len(KEYS), -1)
    assert np.all(left == left[:, :1])
    assert 60 <= left.min() < 70 < 130 < left.max() <= 140
    np.testing.assert_allclose(found.obs["right"].reshape(len(KEYS), -1)[:, 0], 1.55 * left[:, 0], atol=1.5)
    bright = changed(brightness(0.4), window(level=250)).obs["left"]
    assert bright.max() == 255
    everything_but_images_is_as_it_was(found, steps)


def test_pixel_noise_is_new_for_every_pixel_of_every_step():
    steps = window(level=120)
    found = changed(pixel_noise(8.0), steps)
    noise = found.obs["left"].astype(float) - 120
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 8) < 0.1
    other = found.obs["right"].astype(float) - 135
    for a, b in (
        (noise[:, 0], noise[:, 1]),
        (noise, other),
    ):  # neither the next step's nor the other camera's
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03
    everything_but_images_is_as_it_was(found, steps)


def test_a_chain_draws_anew_for_each_of_its_changes():
    steps = window(level=100)
    twice = changed(chain(brightness(0.4), brightness(0.4)), steps).obs["left"][:, 0, 0, 0, 0] / 100
    assert twice.min() < 0.58 or twice.max() > 1.5
    one = changed(brightness(0.4), steps).obs["left"][:, 0, 0, 0, 0] / 100
    assert not np.allclose(twice, one**2, atol=0.02)


@pytest.mark.parametrize(("student", "length"), [(mlp(2, hidden=()), 1), (gru(2, 4, (), Unroll(4, 1)), 4)])
def test_a_student_that_remembers_has_its_windows_changed_as_wholes(student, length):
    steps, shapes = random_steps(np.random.default_rng(0), 16), []

    def watched(key, window):
        shapes.append(window.t.shape)
        return window._replace(mean=jnp.full_like(window.mean, 0.25))

    fitter = fit(student, mse(), adam(1e-2), batch_size=8, updates=300, augment=watched)
    one = jax.tree.map(lambda leaf: leaf[0], steps.obs)
    state = fitter.init(jax.random.key(1), student.init(jax.random.key(0), one))
    _, info = fitter.run(jax.random.key(2), state, steps)
    assert set(shapes) == {(length,)}
    assert float(info["loss"]) < 0.02  # labels of its own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shift(0), "at least 1, got 0"),
        (lambda: shift(1.5), "whole number of pixels"),
        (lambda: brightness(1.5), r"\(0, 1\], got 1.5"),
        (lambda: pixel_noise(-1.0), "positive, finite standard deviation, got -1"),
    ],
)
def test_changes_that_cannot_be_meant_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_algorithm_learns_from_changed_steps():
    env = corridor()
    settings = {"iterations": 1, "num_worlds": 2, "num_steps": 4, "updates": 2, "test_worlds": 0}
    algorithm = bc(env, corridor_teacher, mlp(env.nu, hidden=(4,)), augment=shift(2), **settings)
    with pytest.raises(ValueError, match=r"no images of bytes \[height, width, channels\]"):
        algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0)))

"""The trail, its three cameras, and the student that classifies what they show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from envs import forest_trail as trail
from gps.choice import Choice
from students import classifier

KEY = jax.random.key(0)
PHASES = np.array([0.3, 2.0, 4.0])


@pytest.fixture(scope="module")
def bound():
    env = trail.forest_trail(24, 32, horizon=40)
    return env.bind(trail.Hike(jnp.asarray(PHASES), jnp.zeros((len(trail.WAVES), 2))))


def looks(bound, x, key=KEY):
    views = zip(trail.CHOICES, bound.views, strict=True)
    return {name: np.asarray(view.observe(key, x, ())["trail"], int) for name, view in views}


def brown(image):
    """The mean column of the trail's pixels below the horizon, as a share of the width."""
    ground = image[image.shape[0] // 2 :]
    _, columns = np.nonzero(ground[..., 0] > ground[..., 1] + 12)
    return columns.mean() / image.shape[1] if len(columns) > 5 else None


def test_the_trail_lies_ahead_and_leaves_the_pictures_on_their_other_sides(bound):
    x = bound.init(KEY)
    middle = {
        name: [brown(looks(bound, x, key)[name]) for key in jax.random.split(KEY, 12)]
        for name in trail.CHOICES
    }
    means = {name: np.mean([where for where in found if where is not None]) for name, found in middle.items()}
    assert abs(means["centre"] - 0.5) < 0.15
    assert means["left"] > means["centre"] + 0.2 and means["right"] < means["centre"] - 0.2


def test_a_picture_to_the_left_calls_for_a_turn_to_the_right(bound):
    x, u = bound.init(KEY), jnp.array([0.3, 1.0])
    calls = [np.asarray(view.relabel(KEY, x, u)) for view in bound.views]
    np.testing.assert_allclose(calls, [[0, trail.SPEED], [-trail.RATE, 0], [trail.RATE, 0]])


def test_turning_left_turns_left_and_forward_is_ahead(bound):
    x = bound.init(KEY)
    turned, ahead = x, x
    for _ in range(10):
        turned, _ = jax.jit(bound.step)(turned, jnp.array([1.0, 0.0]))
        ahead, _ = jax.jit(bound.step)(ahead, jnp.array([0.0, 1.5]))
    assert float(turned[2] - x[2]) > 0.5
    way = np.asarray(ahead[:2] - x[:2])
    heading = np.array([np.cos(x[2]), np.sin(x[2])])
    assert way @ heading > 1.0 and abs(np.linalg.det([heading, way])) < 0.05


def test_a_choice_is_a_distribution_over_its_controls():
    rng = np.random.default_rng(0)
    logits, other, controls = rng.normal(size=4), rng.normal(size=4), rng.normal(size=(4, 2))
    choice = Choice(jnp.asarray(logits), jnp.asarray(controls))
    np.testing.assert_allclose(choice.mode(), softmax(logits) @ controls)
    for k in range(4):
        near = jnp.asarray(controls[k] + 1e-3)
        np.testing.assert_allclose(choice.log_prob(near), log_softmax(logits)[k])
    drawn = np.asarray(jax.vmap(choice.sample)(jax.random.split(KEY, 4000)))
    share = np.array([np.mean(np.all(drawn == control, axis=1)) for control in controls])
    assert np.all(np.abs(share - softmax(logits)) < 4 * 0.5 / np.sqrt(4000))
    kl = np.sum(softmax(logits) * (log_softmax(logits) - log_softmax(other)))
    np.testing.assert_allclose(choice.kl(Choice(jnp.asarray(other), choice.controls)), kl)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (((1.0, 0.0),), "at least two"),
        (((1.0,), (0.0,)), "2 numbers"),
        (((9.0, 0.0), (0.0, 0.0)), "leave the limits"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(bound, choices, says):
    with pytest.raises(ValueError, match=says):
        classifier(2, choices, limits=bound.limits)

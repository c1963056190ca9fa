from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import teachers
from envs.cartpole_pixels import FINE, TEACHER, cartpole_pixels, grey
from gps.evaluate import evaluate
from gps.placement import cpu_jit


@pytest.fixture(scope="module")
def env():
    return cartpole_pixels(20, 42)


def test_grey_is_the_mean_of_the_rays_of_a_pixel():
    fine = np.random.default_rng(0).integers(0, 256, (2 * FINE, 4 * FINE, 3), np.uint8)
    found = jax.jit(grey)(fine)
    for i in range(2):
        for j in range(4):
            cell = fine[FINE * i : FINE * (i + 1), FINE * j : FINE * (j + 1)]
            assert found[i, j, 0] == np.floor(cell.mean())


def test_left_is_right_in_the_mirror(env):
    look = jax.jit(
        jax.vmap(lambda x: env.observer.observe(jax.random.key(0), (), x, jnp.zeros(0), jnp.zeros(1))[0])
    )
    step = jax.jit(jax.vmap(lambda x, u: env.step(x, u)[0]))
    rng = np.random.default_rng(1)
    x, u = rng.uniform(-1, 1, (6, 4)), rng.uniform(-1, 1, (6, 1))
    here, there = look(x), look(-x)
    reflected = env.mirror.obs(here)["rail"]
    assert np.abs(np.asarray(reflected, int) - np.asarray(there["rail"], int)).max() <= 1
    assert np.any(here["rail"] != there["rail"])
    np.testing.assert_allclose(step(-x, u @ env.mirror.control), -step(x, u), atol=1e-9)


def test_it_fails_where_the_pole_has_fallen(env):
    at = [env.failed(jnp.array([0.0, angle, 0.0, 0.0]), jnp.zeros(0)) for angle in (0.5, 1.5, 1.6, -3.0)]
    assert [bool(failed) for failed in at] == [False, False, True, True]
    assert bool(env.failed(jnp.array([2.6, 0.0, 0.0, 0.0]), jnp.zeros(0)))
    xs = np.asarray(jax.vmap(env.init)(jax.random.split(jax.random.key(0), 500)))
    assert 0.29 < np.abs(xs[:, 1]).max() <= 0.3
    with pytest.raises(ValueError, match="has not fallen yet, got 2"):
        cartpole_pixels(tilt=2.0)


@pytest.mark.slow
def test_the_teacher_catches_the_pole():
    run = cpu_jit(evaluate(cartpole_pixels(4, 8), make_teacher=partial(teachers.mpc, **TEACHER)))
    scores, driven = run(jax.random.split(jax.random.key(7), 32), ())
    assert np.all(scores.survived == 1)
    assert np.all(driven.metrics["upright"][-25:] == 1)

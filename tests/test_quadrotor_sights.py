"""What the quadrotors' students see: in the mirror, and by a depth camera."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrotor_geometry import clearance_to_trees, draw, pose, ray_to_circles, rotation

from envs import forest as trees_around
from envs import quadrotor as quad
from envs import quadrotor_forest
from gps.algorithms.defaults import pairing


def reflected_forest(world):
    centres = world.trees.centres * [1, -1]
    trees = trees_around._plant(
        lambda i, _: jnp.asarray(centres)[i], len(centres), 2.0, quadrotor_forest.REACH
    )
    return world._replace(trees=trees, gust=reflected_gust(world.gust))


def reflected_canyon(world):
    return world._replace(course=world.course * [-1, 1], gust=reflected_gust(world.gust))


def reflected_gust(waves):
    return waves * [1, -1, 1, -1]


@pytest.mark.parametrize(
    ("name", "reflect"),
    [
        ("quadrotor_forest", reflected_forest),
        ("quadrotor_depth", reflected_forest),
        ("quadrotor_canyon", reflected_canyon),
    ],
)
def test_in_the_mirror_everything_is_the_same(name, reflect):
    env = pairing(name, gust=0.5).env
    rng, sides = np.random.default_rng(3), np.array([1, -1, 1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1])

    @jax.jit
    def look(world, x, u):
        bound = env.bind(world)
        y = bound.sense(x, u)
        obs, _ = bound.observer.observe(jax.random.key(0), (), x, y, u)
        return obs, bound.step(x, u)[0], bound.cost(x, u, y, 0), bound.failed(x, y)

    for world in (jax.tree.map(lambda a, i=i: a[i], draw(env, 4)) for i in range(4)):
        x, u = pose([0.5, 0.3, 1.5], 0.4, rng), rng.uniform(0, 1, 4)
        x[7:] = rng.normal(size=6)
        here, there = look(world, x, u), look(reflect(world), x * sides, env.mirror.control @ u)
        atol = 1e-6 if name == "quadrotor_depth" else 1e-9  # images are in single precision
        jax.tree.map(partial(np.testing.assert_allclose, atol=atol), env.mirror.obs(here[0]), there[0])
        np.testing.assert_allclose(here[1] * sides, there[1], atol=1e-9)
        np.testing.assert_allclose(here[2:], there[2:], atol=1e-9)
        for a, b in zip(jax.tree.leaves(here[0]), jax.tree.leaves(there[0]), strict=True):
            apart = np.abs(a - b).max() / np.abs(a).max()
            assert apart > 0.1  # they are not the same to begin with


def test_the_depth_camera_sees_the_nearest_trees():
    """The middle row of the image, which is level, against circles."""
    height, width, rng = 15, 48, np.random.default_rng(4)
    env = pairing("quadrotor_depth", height=height, width=width, gust=0.0).env
    worlds, seen, expected = draw(env, 8), [], []
    across = (np.arange(width) + 0.5 - width / 2) / (height / 2 / np.tan(np.deg2rad(25)))

    @jax.jit
    def look(world, x):
        observe = env.bind(world).observer.observe
        return observe(jax.random.key(0), (), x, jnp.zeros(1), jnp.zeros(4))[0]["front_depth"]

    for i in range(8):
        world, turn = jax.tree.map(lambda a, i=i: a[i], worlds), rng.uniform(-np.pi, np.pi)
        x = pose([*rng.uniform(-5, 5, 2), 1.5])
        x[3:7] = [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
        if clearance_to_trees(x[:2], world.trees.centres) < 0.5:
            continue
        ways = np.stack([np.ones(width), -across, np.zeros(width)], axis=1) @ rotation(x[3:7]).T
        eye, way = x[:3] + rotation(x[3:7]) @ [0.21, 0, 0], np.linalg.norm(ways, axis=1)
        hit = ray_to_circles(eye, ways / way[:, None], world.trees.centres)
        depth = quad.RADIUS / np.clip(hit / way, quad.RADIUS, quad.RANGE)
        half_a_tile = (hit > 9.5) & (hit / way < quad.RANGE)  # a tree may not stand there twice
        seen.append(look(world, x)[height // 2, :, 0])
        expected.append(np.where(half_a_tile, np.nan, depth))
    seen, expected = np.array(seen), np.array(expected)
    told = np.isfinite(expected)
    assert len(seen) >= 3 and told.mean() > 0.9
    assert 0.3 < np.mean(expected > quad.RADIUS / quad.RANGE) < 0.95
    np.testing.assert_allclose(seen[told], expected[told], atol=1e-6)

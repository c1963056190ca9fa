"""Drawings of the tasks: what must be on the picture is, frames are cheap."""

import time

import jax
import numpy as np
import pytest

from envs import draw
from gps.algorithms.defaults import ENVS, pairing
from gps.cli import registry
from gps.video import Clip

TITLES = ("teacher", "student")


@pytest.fixture(scope="module")
def envs():
    return {name: pairing(name).env for name in ENVS}


def episode(env, steps=12):
    """Two drivers in one world, moved by hand; the second fails after 5 steps."""
    context = env.sample_context(jax.random.key(1))
    x = np.asarray(env.bind(context).init(jax.random.key(2)))
    xs = np.tile(x, (2, steps, 1))
    xs[:, :, 0] += 0.06 * np.arange(steps)
    context = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), context)
    return Clip(context, xs, np.zeros((2, steps, env.nu)), np.array([steps, 5]), np.array([False, True]))


@pytest.mark.parametrize("name", ENVS)
def test_every_task_has_a_drawing_whose_frames_show_both_and_differ(envs, name):
    clip, drawing = episode(envs[name]), registry.task(name).drawing
    frames = list(drawing.frames(envs[name], clip, TITLES, [0, 5, 8, 11]))
    assert len({frame.shape for frame in frames}) == 1
    half = frames[0].shape[1] // 2
    assert not np.array_equal(frames[0][:, :half], frames[1][:, :half])
    assert not np.array_equal(frames[2][:, :half], frames[3][:, :half])
    assert np.array_equal(frames[2][:, half:], frames[3][:, half:]), "its episode is over"
    if drawing.still is not None:
        assert drawing.still(envs[name], clip, TITLES).get_size_inches().min() > 1


def test_rays_end_on_trees():
    """Against geometry: every beam shorter than the range ends on the surface of a tree that is drawn."""
    env = pairing("quadrotor_forest").env
    clip = episode(env)
    x = clip.xs[0, 0]
    ranges = draw._laser(env, clip, clip.xs[None, :, 0])[0, 0]
    beams = draw._beams(x, ranges)
    trees = np.asarray(clip.context.trees.centres[0])
    offsets = beams[:, 1, None] - trees[None]
    tile = np.asarray(draw.TILE)
    offsets = (offsets + tile / 2) % tile - tile / 2
    gaps = np.abs(np.linalg.norm(offsets, axis=2) - draw.radii(len(trees))).min(axis=1)
    hit = ranges < 7.99
    assert 3 < hit.sum() < len(hit)
    np.testing.assert_allclose(gaps[hit], 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(beams[:, 1] - beams[:, 0], axis=1), ranges)


def test_walls_are_drawn_where_the_laser_meets_them():
    env = pairing("quadrotor_canyon", width=2.6).env
    clip = episode(env)
    first = draw._laser(env, clip, clip.xs[None, :, 0])[0, 0]
    assert first[0] + first[-1] == pytest.approx(2.6, abs=1e-6)


def test_body_turns_with_the_quaternion():
    angle = 0.7
    x = np.concatenate([[1, 2, 3], [np.cos(angle / 2), 0, 0, np.sin(angle / 2)], np.zeros(6)])
    forward, left = draw._axes_of(x[3:7])
    np.testing.assert_allclose(forward, [np.cos(angle), np.sin(angle), 0], atol=1e-12)
    np.testing.assert_allclose(left, [-np.sin(angle), np.cos(angle), 0], atol=1e-12)
    np.testing.assert_allclose(draw._body(x)[1].mean(axis=0), [1, 2])


def test_a_frame_is_cheap(envs):
    name = "quadrotor_forest"
    frames = registry.task(name).drawing.frames(envs[name], episode(envs[name], 40), TITLES, range(40))
    next(iter(frames))
    start = time.process_time()
    count = sum(1 for _ in frames)
    assert (time.process_time() - start) / count < 0.1

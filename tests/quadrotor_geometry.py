"""Poses, trees and rays around a quadrotor, written out in NumPy."""

import jax
import numpy as np

from envs import forest as trees_around
from envs import quadrotor as quad


def draw(env, n, seed=0):
    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(env.sample_context))(jax.random.split(jax.random.key(seed), n))
    )


def rotation(quat):
    w, x, y, z = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose(pos, tilt=0.0, rng=None):
    """A state at `pos`, turned and tilted at random by up to `tilt` rad."""
    x = np.zeros(13)
    x[:3] = pos
    axis = np.zeros(3) if rng is None else rng.normal(size=3)
    axis *= tilt / max(np.linalg.norm(axis), 1e-9)
    half = np.linalg.norm(axis) / 2
    x[3:7] = np.r_[np.cos(half), np.sinc(half / np.pi) * axis / 2]
    return x


def images(trees):
    shifts = trees_around.TILE * np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)])
    return (trees[:, None] + shifts).reshape(-1, 2), np.repeat(np.arange(len(trees)), len(shifts))


def ray_to_circles(eye, d, trees):
    """Distance along each ray `d` from `eye` to the nearest of the endless pillars at periodic `trees`."""
    centres, which = images(trees)
    radius = trees_around.radii(len(trees))[which]
    flat = np.linalg.norm(d[:, :2], axis=1)
    way = d[:, :2] / flat[:, None]
    along = way @ (centres - eye[:2]).T
    aside = np.abs(way[:, :1] * (centres[:, 1] - eye[1]) - way[:, 1:] * (centres[:, 0] - eye[0]))
    hit = (aside < radius) & (along > 0)
    first = along - np.sqrt(np.where(hit, radius**2 - aside**2, 0))
    return np.where(hit, first, np.inf).min(axis=1) / flat


def clearance_to_trees(pos, trees):
    centres, which = images(trees)
    distance = np.linalg.norm(centres - pos, axis=1) - trees_around.radii(len(trees))[which]
    return distance.min() - quad.RADIUS

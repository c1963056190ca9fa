"""Fly through a forest: the teacher knows every tree, the student has a depth camera that looks ahead."""

from envs import quadrotor as quad
from envs.camera import Camera
from envs.observations import inverse_depth
from envs.quadrotor_forest import flight
from gps.types import Env

TEACHER = quad.TEACHER
POLICY = "cnn"
STUDENT = {"layers": ((16, 4, 2), (32, 3, 2)), "hidden": (128, 128), "min_std": quad.STUDENT["min_std"]}


def quadrotor_depth(
    height: int = 16,
    width: int = 48,
    density: float = 0.12,
    speed: float = 3.0,
    gap: float = 2.0,
    gust: float = 0.2,
    sideways: float = 1.0,
    horizon: int = 400,
) -> Env:
    """The flight of `quadrotor_forest` without its laser.

    Args:
        height: of the student's images, pixels.
        width: of the student's images, pixels; with 48 by 16 it sees 109° by 50°.
        density: trees per m².
        speed: commanded, m/s.
        gap: least distance between the centres of two trees, m.
        gust: root mean square of the wind's force, N; the teacher's model has no wind.
        sideways: weight of sideways speed in the flight cost.
        horizon: control steps of .05 s in an episode.
    """
    camera = Camera("front", height, width, outputs=("depth",), far=quad.RANGE)
    env = flight("quadrotor_depth", density, speed, gap, gust, sideways, horizon, camera)
    return inverse_depth(env, quad.RADIUS, quad.RANGE)

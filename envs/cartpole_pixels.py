"""Balance a pole, seen by a camera beside the rail: one picture shows no velocities.

State, controls and cost are those of `envs.cartpole`. The pole begins near upright, moving, and the episode
ends where it falls: to swing it up takes 38400 labels even where positions are given (`benchmarks.swingup`).
"""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, UInt8

from envs import cartpole
from envs.camera import Camera
from envs.mjcf import Task, from_engine
from envs.mujoco import engine
from gps.types import Env, Mirror, Unroll

POLICY = "cnn"
STUDENT = {"memory": "gru", "unroll": Unroll(32, 8)}
TEACHER = {"horizon": 20, "initial_iterations": 30}
"""Those of `envs.cartpole` look farther ahead, and let the pole fall to swing it up again."""
LEFT_IS_RIGHT = Mirror(lambda obs: {"rail": jnp.flip(obs["rail"], -2)}, -np.eye(1))
FINE = 3
"""Rays per pixel, along and across."""
FAR, TALL = 12.0, 1.3
"""How far the camera stands from the rail, and half of the height it sees there, m."""


def cartpole_pixels(height: int = 40, width: int = 84, tilt: float = 0.3, horizon: int = 150) -> Env:
    """The cart and the pole of `envs.cartpole`; the student sees grey pictures.

    Args:
        height: of the student's images, pixels.
        width: of the student's images, pixels.
        tilt: the pole begins up to this far from upright, rad, and moves at up to this many rad/s.
        horizon: control steps of .04 s in an episode.
    """
    if not 0 <= tilt < np.pi / 2:
        raise ValueError(f"tilt must be in [0, pi / 2) rad, where the pole has not fallen yet, got {tilt}")
    sim = engine(_model(), substeps=cartpole.SUBSTEPS)
    look = sim.camera(Camera("rail", FINE * height, FINE * width))
    stage, final = cartpole.swing_cost()

    def start(key: Array) -> Float[Array, " 4"]:
        return jax.random.uniform(key, (4,), minval=-1.0) * jnp.array([0.5, tilt, 0.2, tilt])

    task = Task(
        cost=stage,
        final_cost=final,
        init=start,
        observe=lambda x, y: {"rail": grey(look(x)["rail"])},
        failed=lambda x, y: cartpole.off_the_rail(x, y) | (jnp.cos(x[1]) < 0),
        metrics=lambda x, u: {"upright": cartpole.upright(x)},
        mirror=LEFT_IS_RIGHT,
    )
    return from_engine(sim, lambda context: task, horizon=horizon, name="cartpole_pixels")


def grey(image: UInt8[Array, "rows columns 3"]) -> UInt8[Array, "height width 1"]:
    """Mean colour of FINE x FINE pixels: levels of grey say where an edge goes through a pixel."""
    rows, columns, colours = image.shape
    cells = image.reshape(rows // FINE, FINE, columns // FINE, FINE * colours)
    return (jnp.sum(cells, axis=(1, 3), dtype=jnp.int32)[..., None] // (FINE**2 * colours)).astype(jnp.uint8)


def _model() -> mujoco.MjModel:
    """The cart and the pole, larger than life and without mass, before a camera that sees the whole rail."""
    spec = mujoco.MjSpec.from_file(str(cartpole.ASSET))
    fovy = 2 * np.rad2deg(np.arctan(TALL / FAR))
    spec.worldbody.add_camera(name="rail", pos=[0, -FAR, 1], xyaxes=[1, 0, 0, 0, 0, 1], fovy=fovy)
    seen = {"mass": 0.0, "contype": 0, "conaffinity": 0}
    shapes = mujoco.mjtGeom
    spec.body("pole").add_geom(
        type=shapes.mjGEOM_CAPSULE,
        fromto=[0, -0.1, 0, 0, -0.1, 1],
        size=[0.08, 0, 0],
        rgba=[0.15, 0.05, 0.05, 1],
        **seen,
    )
    spec.body("cart").add_geom(
        type=shapes.mjGEOM_BOX, size=[0.25, 0.05, 0.12], rgba=[0.1, 0.1, 0.3, 1], **seen
    )
    return spec.compile()

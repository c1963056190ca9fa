"""How any MuJoCo task is shown from outside: by OpenGL where the machine has it, by rays where it has not.

OpenGL (shadows, smooth edges, meshes with their textures) is MuJoCo's own renderer, on EGL, or on what the
variable MUJOCO_GL names: egl, osmesa, glfw, or off. Students never see through it: see `envs.camera`.
"""

import copy
import functools
import importlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float, PyTree, UInt8

from envs.camera import Camera, Viewpoint, check, find
from envs.mujoco import engine, num_inputs
from envs.sights import in_columns
from gps.placement import cpu_jit
from gps.types import Env
from gps.video import Clip, Drawing, FilmError, Frame

__all__ = ["bodies", "drawing", "outside", "pictures"]

HEIGHT, WIDTH = 300, 400
"""Pixels per driver."""
ELEVATION, DOWN, FLAT = -15.0, -60.0, 0.2
"""Degrees; the second for what is less than FLAT as high as it is wide."""
MARGIN = 1.3
"""Around what fills the picture."""
SMOOTH = 2
"""Rays per pixel, along each side."""


def bodies(camera: Camera | None = None) -> Drawing:
    """Films of a MuJoCo task, seen by `camera`, or as `outside` says."""

    def frames(env: Env, clip: Clip, titles: Sequence[str], steps: Sequence[int]) -> Iterator[Frame]:
        at = np.minimum(np.asarray(steps)[:, None], clip.lasted[None] - 1)  # [frames, n]
        try:
            shown = pictures(env, clip.context, clip.xs[np.arange(len(titles)), at], camera)
        except ValueError as error:
            raise FilmError(f"{env.name}: {error}") from error
        yield from in_columns([shown], titles)

    return Drawing(frames)


drawing = bodies()
"""The film of a task that brings no drawing of its own."""


def pictures(
    env: Env, context: PyTree, xs: Float[np.ndarray, "k n nx"], camera: Camera | None = None
) -> UInt8[np.ndarray, "k n height width 3"]:
    """What stands at states `xs` of n episodes, each in its own context [n, …].

    Of an engine with variants, bodies are drawn as they are in the first.

    Raises:
        ValueError: the env was not made from a MuJoCo model, or has no such camera; without OpenGL, a model
            that rays do not draw; an image without pixels, or a viewpoint that is none.
    """
    if env.bodies is None:
        raise ValueError(f"{env.name} has no bodies to draw: it was not made from a MuJoCo model")
    model, count = env.bodies.model, num_inputs(env.bodies.model)
    camera = Camera("outside", HEIGHT, WIDTH, viewpoint=outside(model)) if camera is None else camera
    check(model, camera)
    rest = jnp.asarray(engine(model, sensors=False, inputs=True).make_inputs())

    def placed(context: PyTree, x: jax.Array) -> jax.Array:
        bound: Any = env.bind(context).bodies
        row = bound.inputs(x)
        return rest.astype(x.dtype) if row is None else row[:count]

    rows = cpu_jit(jax.vmap(jax.vmap(placed), (None, 0)))(context, jnp.asarray(xs))
    flat, rows = xs.reshape(-1, xs.shape[-1]), np.asarray(rows).reshape(-1, count)
    opened = opengl()
    drawn = _by_rays(model, camera, flat, rows) if opened is None else _by(opened, model, camera, flat, rows)
    return drawn.reshape(*xs.shape[:2], *drawn.shape[1:])


def outside(model: mujoco.MjModel) -> Viewpoint:
    """From the side and a little above, farther up for what is flat; a robot that goes away is followed."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    roots = [b for b in range(1, model.nbody) if any(_goes_away(model, j) for j in _joints(model, b))]
    follow = roots[0] if roots else 0
    kept = [g for g in range(model.ngeom) if _shown(model, g, follow)]
    axes, middles = data.geom_xmat[kept].reshape(-1, 3, 3), model.geom_aabb[kept, :3]
    centres = data.geom_xpos[kept] + np.einsum("gij,gj->gi", axes, middles)
    reach = np.einsum("gij,gj->gi", np.abs(axes), model.geom_aabb[kept, 3:])
    low, high = ((centres - reach).min(0), (centres + reach).max(0)) if kept else (-np.ones(3), np.ones(3))
    x, y, z = map(float, (low + high) / 2 - data.xpos[follow])
    size, half = high - low, np.deg2rad(model.vis.global_.fovy) / 2
    elevation = DOWN if size[2] < FLAT * max(size[:2]) else ELEVATION
    distance = float(MARGIN * np.linalg.norm(size) / 2 / np.sin(half))
    return Viewpoint(follow, (x, y, z), distance, float(model.vis.global_.azimuth), elevation)


@functools.cache
def opengl() -> Callable[[int, int], Any] | None:
    """(width, height) → a context of OpenGL, in which MuJoCo can draw; None where there is none."""
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in ("disable", "disabled", "off", "false", "0"):
        return None
    headless = platform.system() == "Linux" and asked in ("", "egl")
    try:
        made: Any = importlib.import_module("mujoco.egl" if headless else "mujoco.gl_context").GLContext
        made(1, 1).free()
    except Exception:  # drivers, and the bindings to them, fail in every way
        return None
    return made


# ------------------------------------------------------------------------------------- internals


def _joints(model: mujoco.MjModel, body: int) -> range:
    return range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])


def _goes_away(model: mujoco.MjModel, joint: int) -> bool:
    far = (int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    return int(model.jnt_type[joint]) in far and not model.jnt_limited[joint]


def _shown(model: mujoco.MjModel, geom: int, follow: int) -> bool:
    """Whether it belongs to what the picture is of: no plane, and a part of what is followed, if anything."""
    body = model.geom_bodyid[geom]
    return model.geom_rbound[geom] > 0 and (
        not follow or model.body_rootid[body] == model.body_rootid[follow]
    )


def _by_rays(model: mujoco.MjModel, camera: Camera, xs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[k, height, width, 3]; each pixel is the mean of SMOOTH² rays."""
    fine = camera._replace(height=SMOOTH * camera.height, width=SMOOTH * camera.width, outputs=("rgb",))
    look = engine(model, sensors=False, inputs=True).camera(fine)
    draw = cpu_jit(jax.vmap(lambda x, row: look(x, row)[fine.name]))
    drawn = np.empty((len(xs), camera.height, camera.width, 3), np.uint8)
    for k in range(len(xs)):  # one at a time: a fine picture has 10⁶ numbers
        image = np.asarray(draw(jnp.asarray(xs[k : k + 1]), jnp.asarray(rows[k : k + 1])), np.float32)
        drawn[k] = image.reshape(camera.height, SMOOTH, camera.width, SMOOTH, 3).mean((1, 3))
    return drawn


def _by(
    opened: Callable[[int, int], Any], model: mujoco.MjModel, camera: Camera, xs: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """[k, height, width, 3], in a context of OpenGL."""
    model = copy.copy(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = camera.width, camera.height
    data, scene, eye = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=10_000), _eye(model, camera)
    rect, option = mujoco.MjrRect(0, 0, camera.width, camera.height), mujoco.MjvOption()
    option.geomgroup[:] = [group in camera.groups for group in range(len(option.geomgroup))]
    context = opened(camera.width, camera.height)
    context.make_current()
    painter = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    try:
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, painter)
        drawn = np.empty((len(xs), camera.height, camera.width, 3), np.uint8)
        for x, row, picture in zip(xs, rows, drawn, strict=True):
            _pose(model, data, x, row)
            if camera.viewpoint is not None:
                eye.lookat[:] = data.xpos[camera.viewpoint.body] + camera.viewpoint.at
            mujoco.mjv_updateScene(model, data, option, None, eye, mujoco.mjtCatBit.mjCAT_ALL.value, scene)
            mujoco.mjr_render(rect, scene, painter)
            mujoco.mjr_readPixels(picture, None, rect, painter)
        return drawn[:, ::-1]
    finally:
        painter.free()
        context.free()


def _pose(model: mujoco.MjModel, data: mujoco.MjData, x: np.ndarray, row: np.ndarray) -> None:
    """Everything where x and the inputs put it."""
    data.qpos[:] = x[: model.nq]
    data.qvel[:] = x[model.nq : model.nq + model.nv]
    mocap = row[model.nv :]
    data.mocap_pos[:] = mocap[: 3 * model.nmocap].reshape(-1, 3)
    data.mocap_quat[:] = mocap[3 * model.nmocap :].reshape(-1, 4)
    mujoco.mj_fwdPosition(model, data)


def _eye(model: mujoco.MjModel, camera: Camera) -> mujoco.MjvCamera:
    """MuJoCo's own name of the camera."""
    eye = mujoco.MjvCamera()
    if camera.viewpoint is None:
        eye.type, eye.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, find(model, camera)
        return eye
    eye.type = mujoco.mjtCamera.mjCAMERA_FREE.value
    eye.distance, eye.azimuth, eye.elevation = camera.viewpoint[2:]
    return eye

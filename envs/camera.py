"""Cameras of a model as functions of its state: images inside `jit`, `vmap` and `scan`, without OpenGL.

Rays are cast against the geoms (native/camera.cc), with MuJoCo's own intersections: depth and segmentation
are what `mj_ray` finds. Colours are those of geoms and materials, planes show their textures, and one
directional light, a headlight and a sky shade the picture; there are no shadows or reflections, and what is
half transparent is opaque. Tendons, sites and geoms whose colour is wholly transparent are not seen.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import mujoco
import numpy as np
from jaxtyping import Array

__all__ = ["Camera", "Look", "Output", "Viewpoint", "check", "find", "native_camera"]

Output = Literal["rgb", "depth", "segmentation"]

Look = Callable[..., dict[str, Array]]
"""(x, inputs=None) → images [height, width, channels]: `name` uint8, three channels; `name`_depth float32,
metres along the optical axis; `name`_segmentation int32, the numbers of geoms, −1 for none."""

SKY = ((0.35, 0.55, 0.85), (0.85, 0.9, 0.95), (0.45, 0.45, 0.45))
"""Above, at the horizon and below, of models without a skybox."""


class Viewpoint(NamedTuple):
    """Where a camera looks from that is not in the MJCF, as MuJoCo's free camera does.

    It goes with a body and does not turn with it; its lens is that of `<visual><global fovy>`.
    """

    body: int
    """The number of the body; 0: the world."""
    at: tuple[float, float, float]
    """The point looked at, from where the body is, along the axes of the world, m."""
    distance: float
    """From that point, m."""
    azimuth: float = 90.0
    """Degrees; 90 looks along y, 0 along x."""
    elevation: float = -20.0
    """Degrees; below 0 it looks down."""


class Camera(NamedTuple):
    """What to draw. `name` is the camera's in the MJCF, its mode 'fixed' or 'track'."""

    name: str
    height: int = 64
    """Pixels."""
    width: int = 64
    outputs: tuple[Output, ...] = ("rgb",)
    far: float | None = None
    """Metres; what is farther away is not seen, and the depth where nothing is. None: the model's zfar."""
    groups: tuple[int, ...] = (0, 1, 2)
    """Groups of the geoms that can be seen."""
    viewpoint: Viewpoint | None = None
    """Its own place, instead of that of the MJCF's camera; `name` is then only what its images are called."""

    def key(self, output: Output) -> str:
        """What this output is called among the images."""
        return self.name if output == "rgb" else f"{self.name}_{output}"


def native_camera(models: Sequence[mujoco.MjModel], camera: Camera) -> tuple:
    """The arguments of `_engine.add_camera`: where the camera is, its lens, and a scene for each model.

    Raises:
        ValueError: no such camera or output, an empty image, or a camera or model that rays do not draw.
    """
    model = models[0]
    check(model, camera)
    _check_rays(model, camera)
    body, level, pos, quat = _mount(model, camera)
    far = model.vis.map.zfar * model.stat.extent if camera.far is None else camera.far
    reals = np.array([*pos, *quat, *_pinhole(model, camera), far], np.float64)
    place = (body, level, camera.height, camera.width)
    return place, reals.tobytes(), [_scene(one, camera.groups) for one in models]


def find(model: mujoco.MjModel, camera: Camera) -> int:
    """The number of the camera in the model.

    Raises:
        ValueError: there is none of this name.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera.name not in names:
        close = difflib.get_close_matches(str(camera.name), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {names or 'none'}"
        raise ValueError(f"the model has no camera named {camera.name!r}: {hint}")
    return names.index(camera.name)


# ------------------------------------------------------------------------------------- internals


def _mount(model: mujoco.MjModel, camera: Camera) -> tuple[int, bool, np.ndarray, np.ndarray]:
    """(body, whether it stays level, where on the body, the quaternion of its axes)."""
    view, quat = camera.viewpoint, np.zeros(4)
    if view is None:
        index = find(model, camera)
        body = int(model.cam_bodyid[index])
        if int(model.cam_mode[index]) == int(mujoco.mjtCamLight.mjCAMLIGHT_FIXED):
            return body, False, model.cam_pos[index], model.cam_quat[index]
        mujoco.mju_mat2Quat(quat, model.cam_mat0[index])
        return body, True, model.cam_pos0[index], quat
    turned, raised = np.deg2rad([view.azimuth, view.elevation])
    ahead = np.array([np.cos(raised) * np.cos(turned), np.cos(raised) * np.sin(turned), np.sin(raised)])
    right = np.array([np.sin(turned), -np.cos(turned), 0.0])
    axes = np.stack([right, np.cross(right, ahead), -ahead], axis=1)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return view.body, True, np.array(view.at) - view.distance * ahead, quat


def _pinhole(model: mujoco.MjModel, camera: Camera) -> tuple[float, float, float, float]:
    """Focal lengths and principal point (fx, fy, cx, cy), pixels from the top left corner."""
    height, width, fovy = camera.height, camera.width, model.vis.global_.fovy
    if camera.viewpoint is None:
        index = find(model, camera)
        sensor, fovy = model.cam_sensorsize[index], model.cam_fovy[index]
        if sensor[0] > 0:
            fx, fy, px, py = model.cam_intrinsic[index]
            cx, cy = width * (0.5 - px / sensor[0]), height * (0.5 - py / sensor[1])
            return width * fx / sensor[0], height * fy / sensor[1], cx, cy
    focal = height / 2 / np.tan(np.deg2rad(fovy) / 2)
    return focal, focal, width / 2, height / 2


def _scene(model: mujoco.MjModel, groups: tuple[int, ...]) -> tuple:
    """(whole numbers of the geoms, their real numbers, textures, colours), as module.cc reads them."""
    ints, reals, textures, known = [], [], [], {}
    for g in range(model.ngeom):
        rgba, texture, repeat = _surface(model, g)
        if rgba[3] == 0 or model.geom_group[g] not in groups:
            continue
        number = -1
        if texture >= 0 and int(model.geom_type[g]) == int(mujoco.mjtGeom.mjGEOM_PLANE):
            if texture not in known:
                known[texture] = len(textures)
                image = _pixels(model, texture)
                textures.append((image.shape[1], image.shape[0], image.tobytes()))
            number = known[texture]
        elif texture >= 0:
            rgba = rgba * [*_pixels(model, texture).reshape(-1, 3).mean(0) / 255, 1]
        ints.append((g, model.geom_type[g], model.geom_bodyid[g], number))
        where = (model.geom_pos[g], model.geom_quat[g], model.geom_size[g], [model.geom_rbound[g]])
        reals.append(np.concatenate([*where, rgba[:3], repeat]))
    flat = np.concatenate([*reals, np.zeros(0)]).astype(np.float64)
    colours = np.concatenate([*_lights(model), *_sky(model)]).astype(np.float64)
    return np.asarray(ints, np.int32).tobytes(), flat.tobytes(), textures, colours.tobytes()


def _surface(model: mujoco.MjModel, g: int) -> tuple[np.ndarray, int, np.ndarray]:
    """(rgba, texture or −1, repetitions per metre): the geom's own colour, unless that is the default."""
    rgba, material = model.geom_rgba[g].astype(float), model.geom_matid[g]
    if material < 0:
        return rgba, -1, np.ones(2)
    if np.all(rgba == [0.5, 0.5, 0.5, 1.0]):
        rgba = model.mat_rgba[material].astype(float)
    roles = mujoco.mjtTextureRole
    found = [model.mat_texid[material, int(role)] for role in (roles.mjTEXROLE_RGB, roles.mjTEXROLE_RGBA)]
    repeat, size = model.mat_texrepeat[material].astype(float), model.geom_size[g, :2]
    if not model.mat_texuniform[material]:
        repeat = np.where(size > 0, repeat / np.where(size > 0, 2 * size, 1), repeat)
    return rgba, max(found), repeat


def _pixels(model: mujoco.MjModel, texture: int) -> np.ndarray:
    """[height, width, 3], uint8."""
    height, width, depth = (getattr(model, f"tex_{n}")[texture] for n in ("height", "width", "nchannel"))
    start = model.tex_adr[texture]
    image = model.tex_data[start : start + height * width * depth].reshape(height, width, depth)
    return np.ascontiguousarray(image[..., :3] if depth >= 3 else np.repeat(image[..., :1], 3, axis=2))


def _lights(model: mujoco.MjModel) -> tuple[np.ndarray, ...]:
    """Ambient colour, headlight, direction of the sun and its colour: the first light, as if far away."""
    head, lit = model.vis.headlight, np.flatnonzero(model.light_active)
    on = float(head.active > 0)
    ambient = on * np.array(head.ambient) + model.light_ambient[lit].sum(0)
    sun = (model.light_dir0[lit[0]], model.light_diffuse[lit[0]]) if lit.size else (np.zeros(3), np.zeros(3))
    return ambient, on * np.array(head.diffuse), *sun


def _sky(model: mujoco.MjModel) -> tuple[np.ndarray, ...]:
    """Colours above, at the horizon and below: of the skybox's faces up, front and down."""
    boxes = np.flatnonzero(model.tex_type == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX))
    if not boxes.size:
        return tuple(np.array(colour) for colour in SKY)
    image = _pixels(model, int(boxes[0])) / 255.0
    side = image.shape[1]
    if image.shape[0] != 6 * side:  # one picture for all faces
        return (image.mean((0, 1)),) * 3
    faces = image.reshape(6, side, side, 3)  # right, left, up, down, front, back
    middle = slice((side - 1) // 2, side // 2 + 1)
    return tuple(face[middle, middle].mean((0, 1)) for face in (faces[2], faces[4], faces[3]))


def check(model: mujoco.MjModel, camera: Camera) -> None:
    """Whether this is a picture of `model` at all, whatever draws it.

    Raises:
        ValueError: no such camera, body or output, an image without pixels, or numbers that are not finite.
    """
    for side, size in (("height", camera.height), ("width", camera.width)):
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(
                f"camera {camera.name!r}: {side} must be a whole number of pixels, at least 1, got {size!r}"
            )
    unknown = [o for o in camera.outputs if o not in get_args(Output)]
    if unknown or not camera.outputs:
        known = ", ".join(get_args(Output))
        raise ValueError(f"camera {camera.name!r}: outputs must be some of {known}, got {camera.outputs}")
    if camera.far is not None and not 0 < camera.far < np.inf:
        raise ValueError(f"camera {camera.name!r}: far must be positive and finite, got {camera.far}")
    if camera.viewpoint is None:
        find(model, camera)
    else:
        _check_viewpoint(model, camera.name, camera.viewpoint)


def _check_rays(model: mujoco.MjModel, camera: Camera) -> None:
    """Whether rays draw it."""
    if model.nflex or model.nskin:
        raise ValueError("models with flexes or skins cannot be drawn by rays: use mujoco.Renderer")
    if camera.viewpoint is not None:
        return
    index, modes = find(model, camera), mujoco.mjtCamLight
    if int(model.cam_mode[index]) not in (int(modes.mjCAMLIGHT_FIXED), int(modes.mjCAMLIGHT_TRACK)):
        raise ValueError(f"camera {camera.name!r}: mode must be 'fixed' or 'track', it has another")
    if int(model.cam_projection[index]) != int(mujoco.mjtProjection.mjPROJ_PERSPECTIVE):
        raise ValueError(f"camera {camera.name!r} is orthographic: only perspective ones are drawn")


def _check_viewpoint(model: mujoco.MjModel, name: str, view: Viewpoint) -> None:
    if not isinstance(view.body, int | np.integer) or view.body not in range(model.nbody):
        raise ValueError(
            f"camera {name!r}: the viewpoint's body must be one of 0 to {model.nbody - 1}, got {view.body}"
        )
    if len(view.at) != 3 or not np.all(np.isfinite([*view.at, *view[2:]])) or not view.distance > 0:
        raise ValueError(
            f"camera {name!r}: the viewpoint needs a point of three finite numbers, finite angles and a "
            f"distance > 0, got {view}"
        )

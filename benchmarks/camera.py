"""Images of a camera by ray casting: frames per second inside a jitted batch, beside MuJoCo's own rays.

The scene has 60 geoms of every kind on a floor, seen from many places. `mj_multiRay` casts the same rays from
Python, a call per frame, and knows depth, geom and normal but no colours.
"""

from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from benchmarks.harness import Row, main, time_ratio
from envs.camera import Camera, Output
from envs.mujoco import engine

SEED = 0
GEOMS = 60
FRAMES = 256
KINDS: tuple[tuple[Output, ...], ...] = (("rgb",), ("depth",), ("rgb", "depth", "segmentation"))


def scene(count: int = GEOMS) -> mujoco.MjModel:
    """Geoms strewn before a camera on a free body."""
    rng, geoms = np.random.default_rng(SEED), ""
    for i in range(count):
        kind = ("sphere", "capsule", "box", "cylinder", "ellipsoid")[i % 5]
        numbers = (rng.uniform([-4, 2, 0], [4, 12, 2]), rng.uniform(-180, 180, 3), rng.uniform(0.1, 0.5, 3))
        pos, turn, size = (" ".join(f"{v:.4f}" for v in row) for row in numbers)
        geoms += f'<geom type="{kind}" pos="{pos}" euler="{turn}" size="{size}" contype="0" conaffinity="0"/>'
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco><asset><texture name="tiles" type="2d" builtin="checker" width="64" height="64"/>
      <material name="floor" texture="tiles" texuniform="true"/></asset>
    <worldbody><light directional="true" dir="1 1 -2"/>
      <geom type="plane" size="0 0 1" material="floor"/>{geoms}
      <body pos="0 0 1"><freejoint/><geom size=".05" mass="1" rgba="0 0 0 0"/>
        <camera name="eye" fovy="60" xyaxes="1 0 0 0 0 1"/></body></worldbody></mujoco>""")


def places(model: mujoco.MjModel, n: int) -> np.ndarray:
    """States [n, nx] of a camera that looks ahead from within a box of 2 m."""
    xs = np.zeros((n, model.nq + model.nv))
    xs[:, :3] = np.random.default_rng(SEED).uniform([-1, -1, 0.5], [1, 1, 1.5], (n, 3))
    xs[:, 3] = 1
    return xs


def rays(model: mujoco.MjModel, xs: np.ndarray, size: int) -> np.ndarray:
    """Depth [n, size²] of the same frames by mj_multiRay."""
    data = mujoco.MjData(model)
    focal, side = size / 2 / np.tan(np.deg2rad(30)), np.arange(size) + 0.5 - size / 2
    ways = np.stack([*np.meshgrid(side / focal, -side / focal), -np.ones((size, size))], -1).reshape(-1, 3)
    ids, normals = np.zeros(size**2, np.int32), np.zeros(3 * size**2)
    groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    depth = np.zeros((len(xs), size**2))
    for i, x in enumerate(xs):
        data.qpos[:] = x[: model.nq]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        turned = (ways @ data.cam_xmat[0].reshape(3, 3).T).ravel()
        mujoco.mj_multiRay(
            model, data, data.cam_xpos[0], turned, groups, 1, -1, ids, depth[i], normals, size**2, 1e10
        )
    return depth


def frames(size: int, target: str | None) -> list[Row]:
    """Rows of square images of `size` pixels a side."""
    model = scene()
    xs = places(model, FRAMES)
    sim, batch = engine(model), jnp.asarray(xs)
    rows = []
    for outputs in KINDS:
        look = jax.jit(jax.vmap(sim.camera(Camera("eye", size, size, outputs))))
        ratio = time_ratio(partial(rays, model, xs, size), partial(look, batch), repeats=5)
        name, wanted = " + ".join(outputs), target if outputs == ("rgb",) else None
        rows.append(Row(name, FRAMES / ratio.b.median, "frames/s", wanted))
        rows.append(Row(f"mj_multiRay from Python ÷ {name}, time", ratio.median, "1"))
    return rows


CASES = {
    "64 × 64": lambda fast: frames(64, ">= 1000"),
    "128 × 128": lambda fast: frames(128, None),
}

if __name__ == "__main__":
    main("camera", CASES, seeds=(SEED,))

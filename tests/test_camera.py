"""Golden against MuJoCo's own rays and its pinhole sensor; colours against shading written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import from_mjcf
from envs.camera import Camera, Viewpoint
from envs.mujoco import engine

ALL = ("rgb", "depth", "segmentation")
TETRAHEDRON = "0 0 0  .6 0 0  0 .5 0  0 0 .7"


@functools.cache
def clutter(seed=0, count=30):
    """Every kind of geom that rays meet, strewn before a camera that turns with its body."""
    rng, geoms = np.random.default_rng(seed), ""
    for i in range(count):
        kind = ("sphere", "capsule", "box", "cylinder", "ellipsoid")[i % 5]
        pos, turn = rng.uniform([-3, 1, 0], [3, 8, 2]), rng.uniform(-180, 180, 3)
        size, rgb = rng.uniform(0.1, 0.5, 3), rng.uniform(0.1, 1, 3)
        text = [" ".join(f"{v:.4f}" for v in a) for a in (pos, turn, size, rgb)]
        geoms += (
            f'<geom type="{kind}" pos="{text[0]}" euler="{text[1]}" size="{text[2]}" rgba="{text[3]} 1" '
            'contype="0" conaffinity="0"/>'
        )
    heights = " ".join(f"{h:.3f}" for h in rng.uniform(0, 1, 25))
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco model="clutter">
      <asset><mesh name="tetrahedron" vertex="{TETRAHEDRON}"/>
        <hfield name="hills" nrow="5" ncol="5" size="1 1 .5 .1" elevation="{heights}"/></asset>
      <worldbody>
        <light directional="true" dir="1 1 -2" diffuse=".5 .4 .3" ambient=".1 .1 .1"/>
        <geom type="plane" size="0 0 1" rgba=".3 .4 .5 1"/>
        <geom type="plane" size="2 1 1" pos="0 9 1" euler="90 0 10" rgba=".9 .1 .5 1"/>
        <geom type="mesh" mesh="tetrahedron" pos="-1 3 .5" euler="20 30 40" rgba=".9 .9 .1 1"/>
        <geom type="hfield" hfield="hills" pos="2 4 0" rgba=".1 .6 .2 1"/>
        <geom type="sphere" size=".5" pos="0 2 1" rgba="0 0 0 0"/>
        <geom type="sphere" size=".5" pos="0 2 1" group="3"/>
        {geoms}
        <body name="head" pos="0 0 1"><freejoint/><geom size=".05" mass="1" rgba="0 0 0 0"/>
          <camera name="eye" fovy="60" xyaxes="1 0 0 0 .1 1" pos="0 .1 0"/>
          <camera name="chase" mode="track" pos="0 -2 1" xyaxes="1 0 0 0 .3 1"/></body>
      </worldbody>
    </mujoco>""")


def state(model, pos=(0.0, 0.0, 1.0), quat=(1.0, 0.0, 0.0, 0.0)):
    return np.concatenate([pos, np.array(quat) / np.linalg.norm(quat), np.zeros(model.nv)])


def rays(model, camera, x, groups=(1, 1, 1, 0, 0, 0)):
    """(depth, segmentation) pixel by pixel by mj_ray, depth along the optical axis."""
    data = mujoco.MjData(model)
    data.qpos[:] = x[: model.nq]
    mujoco.mj_forward(model, data)
    eye = data.camera(camera.name)
    focal = camera.height / 2 / np.tan(np.deg2rad(model.camera(camera.name).fovy[0]) / 2)
    depth, ids = np.zeros((camera.height, camera.width)), np.zeros((camera.height, camera.width), int)
    for row, column in np.ndindex(depth.shape):
        right, up = (column + 0.5 - camera.width / 2) / focal, (camera.height / 2 - row - 0.5) / focal
        way, found = eye.xmat.reshape(3, 3) @ [right, up, -1], np.zeros(1, np.int32)
        met = mujoco.mj_ray(model, data, eye.xpos, way, np.array(groups, np.uint8), 1, -1, found)
        seen = 0 <= met < camera.far
        depth[row, column], ids[row, column] = (met, found[0]) if seen else (camera.far, -1)
    return depth, ids


@pytest.mark.parametrize("name", ["eye", "chase"])
@pytest.mark.parametrize(
    ("pos", "quat"),
    [((0, 0, 1), (1, 0, 0, 0)), ((0.4, 1.5, 1.2), (1, 0.1, 0.2, 0.3)), ((-1, 2, 0.8), (1, 0, 0, -0.3))],
)
def test_depth_and_segmentation_are_those_of_mj_ray(name, pos, quat):
    model = clutter()
    camera = Camera(name, 40, 48, ALL, far=20.0)
    x = state(model, pos, quat)
    images = jax.jit(engine(model).camera(camera))(x)
    depth, ids = rays(model, camera, x)
    assert len(np.unique(ids)) > 5, "a picture of many things"
    np.testing.assert_array_equal(images[f"{name}_segmentation"][..., 0], ids)
    np.testing.assert_allclose(images[f"{name}_depth"][..., 0], depth, rtol=1e-6)


def test_depth_of_a_sphere_before_a_wall_is_the_formula():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><geom type="sphere" size="1" pos="0 0 -5"/>
        <geom type="box" size="50 50 1" pos="0 0 -11"/><camera name="down" fovy="90"/></worldbody></mujoco>"""
    )
    depth = engine(model).camera(Camera("down", 50, 50, ("depth",)))(jnp.zeros(0))["down_depth"][..., 0]
    side = (np.arange(50) + 0.5 - 25) / 25
    r2 = side[:, None] ** 2 + side[None, :] ** 2
    # |t (a, b, −1) − (0, 0, −5)|² = 1
    root = 25 - (1 + r2) * 24
    expected = np.where(root > 0, (5 - np.sqrt(np.maximum(root, 0))) / (1 + r2), 10.0)
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_a_lens_with_its_own_focal_lengths_sees_the_frustum_that_mujoco_draws():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><geom type="sphere" size=".02" pos=".3 5 1.4"/>
        <camera name="lens" pos=".1 .2 .9" xyaxes="1 .1 0 0 .1 1" sensorsize=".02 .015" focal=".015 .013"
        principal=".002 -.001" resolution="40 30"/></worldbody></mujoco>"""
    )
    data, view, drawn = mujoco.MjData(model), mujoco.MjvCamera(), mujoco.MjvScene(model, 10)
    mujoco.mj_forward(model, data)
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    mujoco.mjv_updateCamera(model, data, view, drawn)
    eye = drawn.camera[0]
    right, up, back = data.cam_xmat[0].reshape(3, 3).T @ (data.geom_xpos[0] - data.cam_xpos[0])
    across = (right / -back * eye.frustum_near - eye.frustum_center) / eye.frustum_width  # −1 to 1
    down = (eye.frustum_top - up / -back * eye.frustum_near) / (eye.frustum_top - eye.frustum_bottom)
    images = engine(model).camera(Camera("lens", 300, 400, ("segmentation",)))(jnp.zeros(0))
    seen = np.argwhere(np.asarray(images["lens_segmentation"][..., 0]) == 0)
    np.testing.assert_allclose(seen.mean(0) + 0.5, [300 * down, 200 * (1 + across)], atol=0.6)


def test_colours_are_lambertian_under_one_light_and_the_headlight():
    model = clutter()
    camera = Camera("eye", 24, 32, ALL, far=20.0)
    images = engine(model).camera(camera)(state(model))
    ids, depth = (np.asarray(images[f"eye_{o}"])[..., 0] for o in ("segmentation", "depth"))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    eye = data.camera("eye")
    focal, sun = 12 / np.tan(np.pi / 6), np.array([1, 1, -2]) / np.sqrt(6)
    head, checked = model.vis.headlight, 0
    for row, column in np.ndindex(ids.shape):
        g = ids[row, column]
        if g < 0 or model.geom_type[g] not in (0, 2):  # a plane's normal is its z axis, a sphere's its radius
            continue
        way = eye.xmat.reshape(3, 3) @ [(column + 0.5 - 16) / focal, (12 - row - 0.5) / focal, -1]
        at = eye.xpos + depth[row, column] * way
        normal = data.geom_xmat[g].reshape(3, 3)[:, 2] if model.geom_type[g] == 0 else at - data.geom_xpos[g]
        normal = normal / np.linalg.norm(normal)
        facing = abs(normal @ way) / np.linalg.norm(way)
        lit = head.ambient + 0.1 + head.diffuse * facing + np.array([0.5, 0.4, 0.3]) * max(-normal @ sun, 0)
        expected = 255 * np.clip(model.geom_rgba[g, :3] * lit, 0, 1)
        np.testing.assert_allclose(images["eye"][row, column].astype(float), expected, atol=1.0)
        checked += 1
    assert checked > 100


def test_textures_lie_on_planes_as_mujoco_repeats_them():
    xml = """<mujoco><asset>
      <texture name="quarters" type="2d" builtin="checker" width="2" height="2" rgb1="1 0 0" rgb2="0 0 1"/>
      <material name="floor" texture="quarters" texrepeat="{repeat}" texuniform="{uniform}"/></asset>
      <visual><headlight ambient="1 1 1" diffuse="0 0 0"/></visual>
      <worldbody><geom type="plane" size="{size}" material="floor"/>
      <camera name="down" pos="0 0 2" fovy="90"/></worldbody></mujoco>"""
    pictures = [
        np.asarray(
            engine(mujoco.MjModel.from_xml_string(xml.format(repeat=r, uniform=u, size=s))).camera(
                Camera("down", 8, 8)
            )(jnp.zeros(0))["down"]
        )
        for r, u, s in (("1 1", "true", "0 0 1"), (".5 .5", "true", "0 0 1"), ("2 2", "false", "2 2 1"))
    ]
    # The picture is 4 m wide: a texel of the first is a pixel, of the second two.
    np.testing.assert_array_equal(pictures[0][..., 1], 0)
    red = pictures[0][..., 0] > pictures[0][..., 2]
    np.testing.assert_array_equal(red, ~np.roll(red, 1, axis=1))
    np.testing.assert_array_equal(red, ~np.roll(red, 1, axis=0))
    wide = pictures[1][..., 0] > pictures[1][..., 2]
    np.testing.assert_array_equal(wide, ~np.roll(wide, 2, axis=1))
    np.testing.assert_array_equal(pictures[2], pictures[1])


def test_a_texture_far_away_is_its_mean():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><asset><texture name="c" type="2d" builtin="checker" width="2" height="2" rgb1="1 0 0"
        rgb2="0 0 1"/><material name="floor" texture="c" texrepeat="50 50" texuniform="true"/></asset>
        <visual><headlight ambient="1 1 1" diffuse="0 0 0"/></visual>
        <worldbody><geom type="plane" size="0 0 1" material="floor"/><camera name="down" pos="0 0 2"/>
        </worldbody></mujoco>"""
    )
    picture = np.asarray(engine(model).camera(Camera("down", 4, 4))(jnp.zeros(0))["down"])
    np.testing.assert_allclose(picture, np.broadcast_to([128, 0, 128], (4, 4, 3)), atol=1)


def test_the_same_bits_at_any_number_of_threads_and_in_any_batch():
    model = clutter()
    rng = np.random.default_rng(1)
    xs = np.stack(
        [state(model, rng.uniform([-0.5, -0.5, 0.5], [0.5, 0.5, 1.5]), rng.normal(size=4)) for _ in range(7)]
    )
    camera = Camera("eye", 16, 16, ALL)
    one, many = (engine(model, threads=n).camera(camera) for n in (1, 3))
    batch = jax.jit(jax.vmap(many))(xs)
    for i, x in enumerate(xs):
        alone = one(x)
        for name, image in alone.items():
            np.testing.assert_array_equal(batch[name][i], image)
    assert not np.array_equal(batch["eye"][0], batch["eye"][1])


def test_images_follow_mocap_bodies_and_variants():
    xml = """<mujoco><worldbody><body name="target" mocap="true" pos="0 0 -3">
      <geom type="sphere" size="{size}"/></body><camera name="down" fovy="90"/></worldbody></mujoco>"""
    small, large = (mujoco.MjModel.from_xml_string(xml.format(size=size)) for size in (0.5, 1.0))
    sim = engine(small, variants=[large])
    look = sim.camera(Camera("down", 20, 20, ("segmentation",)))

    def count(**inputs):
        return int(np.sum(look(jnp.zeros(0), sim.make_inputs(**inputs))["down_segmentation"] == 0))

    assert 0 < count(variant=0) < count(variant=1)
    assert count(variant=0, mocap_pos=jnp.array([[0.0, 0.0, 3.0]])) == 0
    assert count(variant=0, mocap_pos=jnp.array([[0.0, 0.0, -2.0]])) > count(variant=0)


def test_images_run_inside_scan_and_keep_their_types():
    model = clutter()
    sim = engine(model)
    look = sim.camera(Camera("eye", 6, 8, ALL))

    def fall(x, _):
        return sim.step(x, jnp.zeros(0))[0], look(x)

    _, film = jax.jit(lambda x: jax.lax.scan(fall, x, None, 3))(jnp.asarray(state(model), jnp.float32))
    assert film["eye"].shape == (3, 6, 8, 3) and film["eye"].dtype == jnp.uint8
    assert film["eye_depth"].shape == (3, 6, 8, 1) and film["eye_depth"].dtype == jnp.float32
    assert film["eye_segmentation"].dtype == jnp.int32


def test_a_broken_state_gives_blank_images_and_leaves_the_others_alone():
    model = clutter()
    xs = np.stack([state(model), np.full(model.nq + model.nv, np.nan)])
    images = jax.vmap(engine(model).camera(Camera("eye", 8, 8, ALL)))(xs)
    assert np.all(images["eye"][1] == 0) and np.all(np.isnan(images["eye_depth"][1]))
    assert np.all(images["eye_segmentation"][1] == -1) and np.any(images["eye"][0] > 0)


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        (Camera("eyes"), "no camera named 'eyes': did you mean 'eye'"),
        (Camera("eye", height=0), "height must be a whole number of pixels, at least 1, got 0"),
        (Camera("eye", width=-3), "width must be"),
        (Camera("eye", outputs=("normals",)), "outputs must be some of rgb, depth, segmentation"),
        (Camera("eye", outputs=()), "outputs must be"),
        (Camera("eye", far=-1.0), "far must be positive"),
    ],
)
def test_what_cannot_be_drawn_is_said(camera, says):
    with pytest.raises(ValueError, match=says):
        engine(clutter()).camera(camera)


def test_a_task_may_be_seen_by_cameras_and_sensors_together():
    model = clutter()
    env = from_mjcf(model, lambda x, u, y, t: x[2] ** 2, observe=[Camera("eye", 8, 12, ("rgb", "depth"))])
    x = env.init(jax.random.key(0))
    obs, _ = env.observer.observe(jax.random.key(0), (), x, env.sense(x, jnp.zeros(0)), jnp.zeros(0))
    assert {name: leaf.shape for name, leaf in obs.items()} == {"eye": (8, 12, 3), "eye_depth": (8, 12, 1)}
    with pytest.raises(ValueError, match="did you mean 'eye'"):
        from_mjcf(model, lambda x, u, y, t: x[2] ** 2, observe=[Camera("eya")])


@pytest.mark.parametrize(("azimuth", "elevation"), [(90.0, -20.0), (0.0, 0.0), (210.0, -70.0)])
def test_a_viewpoint_looks_at_its_point_and_follows_its_body(azimuth, elevation):
    model = clutter(count=0)
    body = model.body("head").id
    model.geom_rgba[model.body_geomadr[body]] = 1  # the head, a ball of radius .05, can be seen
    view = Viewpoint(body, (0.0, 0.0, 0.0), 0.7, azimuth, elevation)
    camera = Camera("outside", 9, 9, ALL, viewpoint=view)
    look = jax.jit(engine(model).camera(camera))
    for pos, quat in (((0, 0, 1), (1, 0, 0, 0)), ((0.4, -1.5, 1.2), (1, 0.1, 0.2, 0.3))):
        images = look(state(model, pos, quat))
        assert images["outside_depth"][4, 4, 0] == pytest.approx(0.65, abs=1e-6)
        assert images["outside_segmentation"][4, 4, 0] == model.body_geomadr[body]
        top, foot = images["outside_segmentation"][[0, 8], :, 0]
        assert np.all(foot == 0), "the ground"
        assert np.all(top == 0) == (elevation == -70), "other things, unless it looks steeply down"


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (Viewpoint(99, (0, 0, 0), 1.0), "body must be one of 0 to 1, got 99"),
        (Viewpoint(0, (0, 0, 0), 0.0), "a distance > 0, got"),
        (Viewpoint(0, (0, np.nan, 0), 1.0), "three finite numbers"),
    ],
)
def test_viewpoints_that_are_none(view, message):
    with pytest.raises(ValueError, match=message):
        engine(clutter(count=0)).camera(Camera("outside", viewpoint=view))

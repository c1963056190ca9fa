"""Films of MuJoCo tasks from outside: OpenGL and rays show the same, where the bodies are."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
import toys

from envs import bodies, from_mjcf
from envs.camera import Camera, Viewpoint
from envs.mjcf import Task, from_engine
from envs.mujoco import engine
from gps import video
from gps.cli import registry

needs_opengl = pytest.mark.skipif(bodies.opengl() is None, reason="no OpenGL on this machine")

SCENE = """
<mujoco model="glow">
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <asset><material name="glow" rgba="1 1 1 1"/>
    <texture type="skybox" builtin="flat" rgb1="0 0 0" rgb2="0 0 0" width="8" height="8"/></asset>
  <worldbody>
    <camera name="fixed" pos="0 -4 1" xyaxes="1 0 0 0 .3 1"/>
    <body name="cart" pos="0 0 .5">
      <joint name="x" type="slide" axis="1 0 0"/><joint type="hinge" axis="0 1 0"/>
      <geom type="box" size=".4 .1 .2" material="glow"/></body>
    <body name="mark" mocap="true" pos="1 0 1">
      <geom size=".2" material="glow" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator><motor joint="x"/></actuator>
</mujoco>"""


def lit(env, contexts, xs, camera=None):
    """Where a picture is bright: [k, n, height, width]."""
    return bodies.pictures(env, contexts, xs, camera)[..., 0] > 60


def marked():
    """A task whose context is where the mark stands."""
    sim = engine(mujoco.MjModel.from_xml_string(SCENE))

    def define(place):
        inputs = sim.make_inputs(mocap_pos=place[None])
        cost = lambda x, u, y, t: jnp.sum(x**2)  # noqa: E731
        return Task(cost, lambda x, y: 0.0 * x[0], lambda key: jnp.zeros(4), lambda x, y: x, inputs=inputs)

    return from_engine(
        sim, define, lambda key: jnp.array([1.0, 0, 1]), default_context=np.zeros(3), horizon=5, name="marked"
    )


PLACES = np.array([[1.0, 0, 1], [-0.8, 0, 1.4]])
STATES = np.array([[[0.0, 0, 0, 0]] * 2, [[0.5, 0.6, 0, 0]] * 2])
CAMERAS = [
    None,
    Camera("fixed", 60, 90),
    Camera("up", 60, 90, viewpoint=Viewpoint(1, (0, 0, 0.3), 5.0, 60, -40)),
]


@needs_opengl
@pytest.mark.parametrize("camera", CAMERAS)
def test_opengl_and_rays_show_the_same(monkeypatch, camera):
    env = marked()
    drawn = lit(env, PLACES, STATES, camera)
    monkeypatch.setattr(bodies, "opengl", lambda: None)
    traced = lit(env, PLACES, STATES, camera)
    assert drawn.shape == traced.shape
    both, either = (drawn & traced).sum((2, 3)), (drawn | traced).sum((2, 3))
    assert np.all(either > 60)
    assert np.all(both / either > 0.9)
    assert not np.array_equal(drawn[0, 0], drawn[1, 0])
    assert not np.array_equal(drawn[0, 0], drawn[0, 1])


def test_without_opengl_each_episode_is_shown_in_its_own_context(monkeypatch):
    monkeypatch.setattr(bodies, "opengl", lambda: None)
    env = marked()
    shown = lit(env, PLACES, STATES, Camera("fixed", 60, 90))
    alone = lit(env, PLACES[1:], STATES[:, 1:], Camera("fixed", 60, 90))
    np.testing.assert_array_equal(shown[:, 1], alone[:, 0])
    first, second = (np.flatnonzero(s.any(0)) for s in shown[0])  # by a lens of 72 pixels
    assert abs(first[-1] - (45 + 72 * 1.2 / 3.83)) < 1.5, "the mark's right end"
    assert abs(second[0] - (45 - 72 * 1.0 / 3.72)) < 1.5, "its left end"


def test_what_goes_away_is_followed_and_fills_the_picture(monkeypatch):
    monkeypatch.setattr(bodies, "opengl", lambda: None)
    env = from_mjcf(SCENE.replace('mocap="true"', ""), cost=lambda x, u, y, t: jnp.sum(x**2), horizon=3)
    assert env.bodies is not None
    assert bodies.outside(env.bodies.model).body == 1
    shown = lit(env, (), np.array([[[0.0, 0, 0, 0]], [[30.0, 0, 0, 0]]]))[:, 0]
    assert shown[0].mean() > 0.02
    rows, columns = np.nonzero(shown[1])
    assert abs(rows.mean() - bodies.HEIGHT / 2) < 10
    assert abs(columns.mean() - bodies.WIDTH / 2) < 10


def test_flat_things_are_seen_from_above_and_what_stays_is_not_followed():
    limited = SCENE.replace('type="slide"', 'type="slide" limited="true" range="-1 1"')
    assert bodies.outside(mujoco.MjModel.from_xml_string(limited)).body == 0
    flat = SCENE.replace('size=".4 .1 .2"', 'size=".4 .1 .02"')
    assert bodies.outside(mujoco.MjModel.from_xml_string(flat)).elevation == bodies.DOWN
    assert bodies.outside(mujoco.MjModel.from_xml_string(SCENE)).elevation == bodies.ELEVATION


def test_film_of_a_task_without_a_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(bodies, "opengl", lambda: None)
    monkeypatch.setattr(bodies, "HEIGHT", 30)
    monkeypatch.setattr(bodies, "WIDTH", 40)
    clip = video.Clip(PLACES, np.zeros((2, 5, 4)), np.zeros((2, 5, 1)), np.array([5, 2]), np.zeros(2, bool))
    drawing = registry.load(registry.BODIES)
    frames = list(drawing.frames(marked(), clip, ["teacher", "student"], range(5)))
    assert len(frames) == 5
    video.film(tmp_path / "a.mp4", marked(), [clip], ["teacher", "student"], drawing)
    assert (tmp_path / "a.mp4").stat().st_size > 0


def test_what_cannot_be_drawn_is_said(monkeypatch):
    monkeypatch.setattr(bodies, "opengl", lambda: None)
    with pytest.raises(ValueError, match="line has no bodies to draw"):
        bodies.pictures(toys.line(), (), np.zeros((1, 1, 2)))
    clip = video.Clip(PLACES, np.zeros((2, 5, 4)), np.zeros((2, 5, 1)), np.array([5, 2]), np.zeros(2, bool))
    with pytest.raises(
        video.FilmError, match="marked: the model has no camera named 'fixt': did you mean 'fixed'"
    ):
        next(iter(bodies.bodies(Camera("fixt")).frames(marked(), clip, ["a", "b"], [0])))


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera("up", 0, 8, viewpoint=Viewpoint(0, (0, 0, 0), 1.0)), "height must be a whole number"),
        (Camera("up", 10.5, 8, viewpoint=Viewpoint(0, (0, 0, 0), 1.0)), "height must be a whole number"),
        (Camera("up", 8, 8, viewpoint=Viewpoint(-1, (0, 0, 0), 1.0)), "body must be one of 0 to 2, got -1"),
        (Camera("up", 8, 8, viewpoint=Viewpoint(0, (0, 0), 1.0)), "a point of three finite numbers"),
        (Camera("fixt", 8, 8), "did you mean 'fixed'"),
    ],
)
@pytest.mark.parametrize("gl", [bodies.opengl, lambda: None], ids=["as it is", "rays"])
def test_a_picture_that_is_none_is_refused_whatever_draws_it(monkeypatch, gl, camera, message):
    monkeypatch.setattr(bodies, "opengl", gl)
    with pytest.raises(ValueError, match=message):
        bodies.pictures(marked(), PLACES, STATES, camera)


@pytest.mark.parametrize(("asked", "found"), [("off", False), ("disabled", False)])
def test_the_variable_switches_opengl_off(monkeypatch, asked, found):
    monkeypatch.setenv("MUJOCO_GL", asked)
    assert bool(bodies.opengl.__wrapped__()) is found

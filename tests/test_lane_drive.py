"""The road, the car, and what its cameras and labels say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar

import teachers
from envs import lane_drive as lane
from envs.observations import history
from envs.road import bend, nearest
from gps.algorithms.bc import bc
from gps.algorithms.side_cameras import side_cameras
from gps.evaluate import evaluate
from gps.labels import as_dataset, looked_at
from gps.placement import cpu_jit
from gps.types import Action, Gaussian, Teacher
from students import mlp

KEY = jax.random.key(0)
PHASES = np.array([0.3, 2.0, 4.0])


@pytest.fixture(scope="module")
def env():
    return lane.lane_drive(12, 24, horizon=40)


def drive(gust=0.0):
    return lane.Drive(jnp.asarray(PHASES), gust * jnp.ones((len(lane.WAVES), 2)))


def calm(bound):
    """A teacher that steers by a constant."""
    action = Action(Gaussian(jnp.array([0.01]), jnp.eye(1)), jnp.eye(1), jnp.zeros(1), jnp.int32(0))
    return Teacher(lambda key, x: (), lambda key, state, x, t: (action, state))


def road_y(x):
    lengths, heights = map(np.asarray, lane.WINDING)
    return np.sum(heights * np.sin(2 * np.pi * x / lengths + PHASES))


@pytest.mark.parametrize(("x", "side"), [(3.0, 0.8), (57.0, -2.5), (-131.0, 1.7)])
def test_the_nearest_point_of_the_road_is_found(x, side):
    pos = np.array([x, road_y(x) + side])
    distance, road = nearest(lane.WINDING, jnp.asarray(PHASES), jnp.asarray(pos))
    best = minimize_scalar(
        lambda s: np.hypot(s - pos[0], road_y(s) - pos[1]), (x - 2, x + 2), options={"xtol": 1e-12}
    )
    assert float(distance) == pytest.approx(np.sign(side) * best.fun, abs=1e-3)
    slope = (road_y(best.x + 1e-4) - road_y(best.x - 1e-4)) / 2e-4
    assert float(road.heading) == pytest.approx(np.arctan(slope), abs=1e-3)


def test_curvature_is_that_of_three_points():
    a, b, c = (np.array([x, road_y(x)]) for x in (19.9, 20.0, 20.1))
    area = np.linalg.det(np.stack([b - a, c - b]))
    circle = 2 * area / np.prod([np.linalg.norm(side) for side in (b - a, c - b, c - a)])
    assert float(bend(lane.WINDING, jnp.asarray(PHASES), jnp.asarray(20.0)).curvature) == pytest.approx(
        circle, rel=1e-4
    )


@pytest.mark.parametrize(("offset", "heading"), [(0.7, 0.0), (-0.4, 0.06), (0.0, -0.08)])
def test_recovery_begins_the_cubic_that_ends_in_the_lane(offset, heading):
    """y'' is a line in s that begins at the label; held constant, the label does not lead there."""
    length = lane.SPEED * lane.RECOVERY
    begin = float(lane.recovery(jnp.asarray(offset), jnp.asarray(heading), length))
    slope = 6 * (2 * offset + length * heading) / length**3
    way = solve_ivp(
        lambda s, y: [y[1], begin + slope * s], (0, length), [offset, heading], rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(way.y[:, -1], 0, atol=1e-8)
    held = solve_ivp(lambda s, y: [y[1], begin], (0, length), [offset, heading], rtol=1e-10, atol=1e-12)
    assert np.abs(held.y[:, -1]).max() > 0.01


def test_the_car_turns_by_its_steering_angle(env):
    """Curvature tan δ / wheelbase, as a single-track model rolls, at the speed of its cruise control."""
    bound = env.bind(drive())
    x = bound.init(KEY)
    for _ in range(15):
        x, _ = jax.jit(bound.step)(x, jnp.array([0.08]))
    speed = float(jnp.hypot(x[7], x[8]))
    assert float(x[10]) / speed == pytest.approx(np.tan(0.08) / lane.WHEELBASE, rel=1e-3)
    assert speed == pytest.approx(lane.SPEED, rel=0.01)


def test_a_side_camera_sees_what_a_car_beside_the_lane_would(env):
    bound = env.bind(drive())
    x = bound.init(KEY)
    for name, shift in lane.CAMERAS.items():
        look = bound.views[list(lane.CAMERAS).index(name)]
        turn = lane.turned(name, KEY, x.dtype)
        moved = x.at[lane.YAW].add(turn)
        aside = shift * jnp.array([-jnp.sin(moved[lane.YAW]), jnp.cos(moved[lane.YAW])])
        beside = moved.at[:2].add(aside)
        seen, _ = bound.observer.observe(KEY, (), beside, bound.sense(x, jnp.zeros(1)), jnp.zeros(1))
        same = np.mean(np.asarray(look.observe(KEY, x, ())["road"]) == np.asarray(seen["road"]))
        assert same > 0.98, "but for tiles that come and go at the horizon"


def test_from_the_left_the_label_turns_right(env):
    bound, u = env.bind(drive()), jnp.array([0.02])
    x = bound.init(KEY)
    for name, view in zip(lane.CAMERAS, bound.views, strict=True):
        turn = float(lane.turned(name, KEY, u.dtype))
        length = lane.SPEED * lane.RECOVERY
        back = -(6 * lane.CAMERAS[name] + 4 * length * turn) / length**2
        curvature = np.tan(0.02) / lane.WHEELBASE + back
        expected = np.arctan(lane.WHEELBASE * curvature)
        np.testing.assert_allclose(view.relabel(KEY, x, u), [expected], rtol=1e-6)
    turns = [float(lane.turned("left", key, u.dtype)) for key in jax.random.split(KEY, 200)]
    assert max(turns) < lane.TURN and np.std(turns) == pytest.approx(lane.TURN / np.sqrt(3), rel=0.15)


def test_the_road_stands_still_and_the_wind_is_not_seen(env):
    x = env.bind(drive()).init(KEY)
    here, there = (lane.scenery(jnp.asarray(PHASES), x.at[0].set(place))[0] for place in (1.0, 4.0))
    np.testing.assert_allclose(here[1 : lane.TILES], there[: lane.TILES - 1], atol=1e-12)
    bushes, later = here[lane.TILES :], lane.scenery(jnp.asarray(PHASES), x.at[0].set(7.0))[0][lane.TILES :]
    np.testing.assert_allclose(bushes[1:], later[:-1], atol=1e-12)
    calm, windy = (env.bind(drive(gust)) for gust in (0.0, 1.0))
    y = calm.sense(x, jnp.zeros(1))
    pictures = [one.observer.observe(KEY, (), x, y, jnp.zeros(1))[0]["road"] for one in (calm, windy)]
    np.testing.assert_array_equal(*pictures)
    moved = [one.step(x, jnp.zeros(1))[0][lane.STEERING] for one in (calm, windy)]
    assert abs(float(moved[0] - moved[1])) > 1e-3


@pytest.mark.slow
def test_the_teacher_holds_against_the_wind(env):
    run = cpu_jit(evaluate(env, make_teacher=partial(teachers.mpc, **lane.TEACHER)))
    scores, _ = run(jax.random.split(KEY, 4), ())
    assert np.all(scores.survived == 1)
    assert np.all(scores.metrics["offset"] < 0.05)


def test_every_state_is_looked_at_by_all_cameras(env):
    run = cpu_jit(evaluate(env, make_teacher=calm, num_steps=3))
    _, steps = run(jax.random.split(KEY, 2), ())
    rows = as_dataset(steps)
    seen = jax.jit(partial(looked_at, env=env))(KEY, rows=rows)
    assert seen.t.shape == (18,) and seen.next_slot == 0
    for field in ("x", "t", "weight", "first", "action"):
        np.testing.assert_array_equal(getattr(seen, field), np.concatenate([getattr(rows, field)] * 3))
    np.testing.assert_array_equal(seen.obs["road"][:6], rows.obs["road"])
    np.testing.assert_allclose(seen.mean[:6], rows.mean, rtol=1e-6)
    left, right = np.asarray(seen.mean[6:12] - rows.mean), np.asarray(seen.mean[12:] - rows.mean)
    assert left.mean() < -0.01 and right.mean() > 0.01
    assert np.ptp(left) > 0.005, "each is turned by an angle of its own"


def test_side_cameras_are_asked_of_a_task_that_has_them(env):
    with pytest.raises(ValueError, match="no other views"):
        side_cameras(env._replace(views=()), calm, mlp(1))
    with pytest.raises(ValueError, match="a wrapped env has none"):
        side_cameras(history(env, 3), calm, mlp(1))


@pytest.mark.slow
def test_both_learn_from_as_many_frames(env):
    budget = {"iterations": 1, "num_worlds": 2, "updates": 3, "batch_size": 6, "test_worlds": 0}
    one = bc(env, calm, mlp(1, (4,)), num_steps=6, **budget)
    three = side_cameras(env, calm, mlp(1, (4,)), num_steps=2, **budget)
    for algorithm, asked in ((one, 12), (three, 4)):
        state, info = algorithm.step(KEY, algorithm.init(KEY))
        assert int(info["samples"]) == 12 and int(info["teacher_queries"]) == asked
        assert int(jnp.sum(state.dataset.weight)) == 12

"""The quadrotor's worlds against geometry written out in NumPy: laser, contacts, walls, trees, wind."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrotor_geometry import clearance_to_trees, draw, images, pose, ray_to_circles, rotation

from envs import canyon, quadrotor_canyon, quadrotor_forest
from envs import forest as trees_around
from envs import quadrotor as quad
from gps.algorithms.defaults import pairing

ANGLES = np.linspace(np.pi / 2, -np.pi / 2, quad.NUM_RAYS)
WIDTH = 3.0


@cache
def forest():
    return pairing("quadrotor_forest", gust=0.0).env


@cache
def ravine():
    return pairing("quadrotor_canyon", gust=0.0).env


@cache
def sense(name):
    env = {"forest": forest, "canyon": ravine}[name]()
    return jax.jit(jax.vmap(lambda context, x: env.bind(context).sense(x, jnp.zeros(4))))


def beams(x):
    """Directions of the rays in the world, [30, 3]."""
    flat = np.stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES], axis=1)
    return flat @ rotation(x[3:7]).T


def to_floor(x):
    down = beams(x)[:, 2]
    return np.where(down < 0, x[2] / np.where(down < 0, -down, 1), np.inf)


def test_laser_of_the_forest_sees_the_nearest_tree():
    rng, worlds = np.random.default_rng(0), draw(forest(), 12)
    xs, expected = [], []
    while len(xs) < 12:
        trees = worlds.trees.centres[len(xs)]
        x = pose(np.r_[rng.uniform(-30, 30, 2), 1.5], rng.uniform(0, 0.4), rng)
        if clearance_to_trees(x[:2], trees) > 0.02:
            xs.append(x)
            d = beams(x)
            expected.append(np.minimum(ray_to_circles(x[:3], d, trees), to_floor(x)))
    read, expected = np.asarray(sense("forest")(worlds, np.array(xs)))[:, 1:], np.array(expected)
    near = expected < quad.RANGE
    assert 0.3 < near.mean() < 0.95
    np.testing.assert_allclose(read[near], expected[near], atol=1e-6)
    assert np.all((read[~near] < 0) | (read[~near] > quad.RANGE - 1e-6))


def test_contact_in_the_forest_is_negative_clearance():
    rng, n = np.random.default_rng(1), 60
    worlds = draw(forest(), 3)
    worlds = jax.tree.map(lambda a: np.repeat(a, n // 3, axis=0), worlds)
    radius = trees_around.radii(worlds.trees.centres.shape[1])
    xs, expected = [], []
    for trees in worlds.trees.centres:
        i, angle, gap = rng.integers(len(trees)), rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.1)
        out = np.array([np.cos(angle), np.sin(angle)]) * (radius[i] + quad.RADIUS + gap)
        pos = trees[i] + out + trees_around.TILE * rng.integers(-2, 3, 2)
        xs.append(pose(np.r_[pos, rng.uniform(0.5, 2.5)]))
        expected.append(clearance_to_trees(pos, trees))
    y = np.asarray(sense("forest")(worlds, np.array(xs)))
    np.testing.assert_array_equal(y[:, 0] > 0, np.array(expected) < 0)
    failed = jax.vmap(forest().failed)(np.array(xs), y)
    np.testing.assert_array_equal(failed, np.array(expected) < 0)
    assert 0.2 < failed.mean() < 0.8


@pytest.mark.parametrize(("x", "y0", "fails"), [
    (pose([0, 0, 1.5]), 0, False), (pose([0, 0, 1.5]), 1, True), (pose([0, 0, 0.19]), 0, True),
    (pose([0, 0, 3.51]), 0, True), (pose([0, 0, 3.49]), 0, False),
])  # fmt: skip
def test_failure_is_contact_or_height(x, y0, fails):
    assert bool(quad.failed(x, np.r_[y0, np.ones(30)])) == fails


def test_failure_is_tilt():
    for angle, fails in ((1.25, False), (1.28, True)):
        x = pose([0, 0, 1.5])
        x[3:7] = [np.cos(angle / 2), 0, np.sin(angle / 2), 0]
        assert bool(quad.failed(x, np.zeros(31))) == fails


def test_forests_keep_gap_and_clearing():
    for trees in draw(forest(), 8, seed=5).trees.centres:
        centres, which = images(trees)
        apart = np.linalg.norm(trees[:, None] - centres[None], axis=2)
        apart[np.arange(len(trees))[:, None] == which[None]] = np.inf
        assert apart.min() >= 2.0 - 1e-9
        assert np.linalg.norm(centres, axis=1).min() >= trees_around.CLEARING - 1e-9
        assert np.all((trees >= 0) & (trees <= trees_around.TILE))


def test_every_tree_within_reach_is_known():
    rng, worlds, reach = np.random.default_rng(2), draw(forest(), 8), quadrotor_forest.REACH
    distances, met = jax.jit(trees_around.distances), 0
    for i in range(8):
        trees = jax.tree.map(lambda a, i=i: a[i], worlds.trees)
        centres, which = images(trees.centres)
        for pos in rng.uniform(-30, 30, (200, 2)):
            every = np.linalg.norm(centres - pos, axis=1) - trees_around.radii(len(trees.centres))[which]
            known = np.sort(np.asarray(distances(trees, pos)))
            close = np.sort(every[every < reach])
            np.testing.assert_allclose(known[: len(close)], close, atol=1e-9)
            met += len(close)
    assert met > 500


# ---------------------------------------------------------------------------------------- canyon


def course(waves, x):
    return sum(a * (1 - np.cos(k * x)) for a, k in waves)


def wall_faces(waves, first, last):
    """Middle, direction and outward normal of every segment of both walls."""
    x = np.arange(first, last + 1.0) * canyon.STEP
    for side in (1, -1):
        y = course(waves, x) + side * WIDTH / 2
        start, end = np.stack([x, y], 1)[:-1], np.stack([x, y], 1)[1:]
        along = (end - start) / np.linalg.norm(end - start, axis=1)[:, None]
        yield (start + end) / 2, along, side * np.stack([-along[:, 1], along[:, 0]], 1), end - start


def ray_to_boxes(x, waves):
    """(to the boxes, to the bare polylines): distances along each ray."""
    here = int(np.floor(x[0]))
    d, flat = beams(x), np.linalg.norm(beams(x)[:, :2], axis=1)
    way = d[:, :2] / flat[:, None]
    boxes, lines = [to_floor(x) * flat], [to_floor(x) * flat]
    for middle, along, out, chord in wall_faces(waves, here - 3, here + 20):
        # Slabs: along the face within its half length, outward from the face within the thickness.
        o1, d1 = (x[:2] - middle) @ np.eye(2), way
        enter, leave = np.full((len(way), len(middle)), -np.inf), np.full((len(way), len(middle)), np.inf)
        for axis, low, high in ((along, -canyon.HALF_LENGTH, canyon.HALF_LENGTH), (out, 0, canyon.THICKNESS)):
            at, speed = np.sum(o1 * axis, 1), d1 @ axis.T
            t = np.stack([(low - at) / speed, (high - at) / speed])
            enter, leave = np.maximum(enter, t.min(0)), np.minimum(leave, t.max(0))
        boxes.append(np.where((enter < leave) & (enter > 0), enter, np.inf).min(1))
        at = np.sum(o1 * out, 1)
        t = -at / (way @ out.T)
        place = np.sum((o1 + t[:, :, None] * way[:, None]) * along, 2)
        on = (t > 0) & (np.abs(place) <= np.linalg.norm(chord, axis=1) / 2)
        lines.append(np.where(on, t, np.inf).min(1))
    return np.min(boxes, 0) / flat, np.min(lines, 0) / flat


def distances(pos, waves):
    """To the boxes of the left and of the right wall."""
    found = []
    for middle, along, out, _ in wall_faces(waves, int(np.floor(pos[0])) - 5, int(np.floor(pos[0])) + 6):
        reach = np.sum((pos - middle) * along, 1)
        depth = np.sum((pos - middle) * out, 1)
        beyond = np.maximum(np.abs(reach) - canyon.HALF_LENGTH, 0)
        off = np.maximum(np.maximum(-depth, depth - canyon.THICKNESS), 0)
        found.append(np.hypot(beyond, off).min())
    return np.array(found)


def places(n, margin, seed):
    """Random canyons, and in each a point between the walls or up to −`margin` m inside one."""
    rng, worlds = np.random.default_rng(seed), draw(ravine(), n, seed)
    along = rng.uniform(-20, 120, n)
    aside = rng.uniform(-1, 1, n) * (WIDTH / 2 - margin)
    return worlds, [np.r_[x, course(w, x) + y] for x, y, w in zip(along, aside, worlds.course, strict=True)]


def test_laser_of_the_canyon_sees_walls_without_a_gap():
    worlds, spots = places(24, 0.3, 0)
    rng = np.random.default_rng(2)
    xs = np.array([pose(np.r_[pos, 1.5], rng.uniform(0, 0.3), rng) for pos in spots])
    boxes, lines = np.swapaxes([ray_to_boxes(x, w) for x, w in zip(xs, worlds.course, strict=True)], 0, 1)
    read = np.asarray(sense("canyon")(worlds, xs))[:, 1:]
    near = boxes < quad.RANGE
    assert 0.5 < near.mean() < 1
    np.testing.assert_allclose(read[near], boxes[near], atol=1e-6)
    closed = lines < quad.RANGE
    assert np.all(read[closed] > 0) and np.all(read[closed] <= lines[closed] + 1e-6)


def test_analytic_clearance_of_the_canyon_is_that_of_its_boxes():
    worlds, spots = places(200, 0.02, 3)
    measure = jax.jit(jax.vmap(lambda waves, pos: canyon.wall_distances(waves, pos, WIDTH)))
    made = measure(worlds.course, np.array([np.r_[pos, 1.5] for pos in spots]))
    expected = np.array([distances(pos, w) for pos, w in zip(spots, worlds.course, strict=True)])
    np.testing.assert_allclose(np.min(made, axis=1), expected.min(axis=1), atol=1e-5)
    worlds, spots = places(100, -0.4, 4)
    made = np.asarray(measure(worlds.course, np.array([np.r_[pos, 1.5] for pos in spots])))
    middle = np.array([course(w, pos[0]) for pos, w in zip(spots, worlds.course, strict=True)])
    aside = np.array(spots)[:, 1] - middle
    outside = np.abs(aside) > WIDTH / 2 + 0.05
    assert outside.sum() > 10
    np.testing.assert_array_equal(made[outside, 0] < 0, aside[outside] > 0)
    np.testing.assert_array_equal(made[outside, 1] < 0, aside[outside] < 0)


def test_contact_in_the_canyon_is_negative_clearance():
    worlds, spots = places(80, 0.05, 6)
    xs = np.array([pose(np.r_[pos, 1.5]) for pos in spots])
    clear = np.array(
        [distances(pos, w).min() - quad.RADIUS for pos, w in zip(spots, worlds.course, strict=True)]
    )
    np.testing.assert_array_equal(np.asarray(sense("canyon")(worlds, xs))[:, 0] > 0, clear < 0)
    assert 5 < np.sum(clear < 0) < 75


def test_courses_are_no_steeper_than_told_and_wind():
    x = np.linspace(0, 150, 3000)
    sample = jax.jit(jax.vmap(lambda key: quadrotor_canyon.sample_canyon(key, 14.0, 0.7)))
    waves = sample(jax.random.split(jax.random.key(0), 100)).course
    slopes = [np.gradient(course(w, x), x) for w in np.asarray(waves)]
    assert 0.6 < np.max(np.abs(slopes)) <= 0.7 + 1e-6 and np.min(np.abs(slopes).max(axis=1)) > 0.25
    np.testing.assert_allclose(np.array(slopes)[:, 0], 0, atol=0.02)
    chord = np.hypot(canyon.STEP, canyon.STEEPEST * canyon.STEP)
    assert chord <= 2 * canyon.HALF_LENGTH + 1e-12


@pytest.mark.parametrize(
    ("option", "value"), [("width", 0.5), ("bend", 2.0), ("slope", 1.5), ("slope", -0.1)]
)
def test_impossible_canyons_are_refused(option, value):
    with pytest.raises(ValueError, match=r"expected width >= 0\.8 m, bend >= 4 m"):
        quadrotor_canyon.quadrotor_canyon(**{option: value})


def test_impossible_forests_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        quadrotor_forest.quadrotor_forest(density=0.5, gap=3.0)
    for odd in ({"gap": -2.0}, {"gap": np.nan}, {"density": 0.0}, {"density": np.inf}, {"density": np.nan}):
        with pytest.raises(ValueError, match="above 0 m and a density that plants at least one tree"):
            quadrotor_forest.quadrotor_forest(**odd)


@pytest.mark.parametrize("task", [quadrotor_forest.quadrotor_forest, quadrotor_canyon.quadrotor_canyon])
@pytest.mark.parametrize(("name", "value"), [("speed", np.nan), ("gust", -1.0), ("sideways", np.inf)])
def test_impossible_flights_are_refused(task, name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite, got {value}"):
        task(**{name: value})


# ------------------------------------------------------------------------------- flight and wind


def test_half_thrust_hovers_and_each_motor_turns_the_body_its_way():
    env = ravine()
    step = jax.jit(env.step)
    x, _ = step(pose([0, 0, 1.5]), np.full(4, 0.5))
    np.testing.assert_allclose(x, pose([0, 0, 1.5]), atol=1e-12)
    signs = []
    for i in range(4):
        x, _ = step(pose([0, 0, 1.5]), np.full(4, 0.5) + 0.1 * np.eye(4)[i])
        torque = np.array([0.02, 0.02, 0.035]) * x[10:13] / 0.05
        lever = 0.1 * 9.81 / 2 * 0.15 / np.sqrt(2)
        np.testing.assert_allclose(np.abs(torque), [lever, lever, 0.06 * 0.1 * 9.81 / 2], rtol=0.02)
        signs.append(np.sign(x[10:13]))
    np.testing.assert_array_equal(signs, [[1, -1, 1], [-1, -1, -1], [-1, 1, 1], [1, 1, -1]])


@pytest.mark.parametrize("make", [forest, ravine])
def test_planners_model_flies_like_the_world_in_still_air(make):
    env, rng = make(), np.random.default_rng(0)

    @jax.jit
    def fly(us):
        x = jnp.asarray(pose([0, 0, 1.5])).at[7].set(3.0)
        move = lambda step: jax.lax.scan(lambda x, u: (step(x, u)[0],) * 2, x, us)[1]  # noqa: E731
        return move(env.step), move(env.planning.step)

    real, planned = fly(0.5 + 0.05 * rng.normal(size=(18, 4)))
    np.testing.assert_allclose(planned[:, :3], real[:, :3], atol=0.03)
    np.testing.assert_allclose(planned[:, 3:], real[:, 3:], atol=0.15)
    assert np.abs(np.asarray(real)[-1, 3:7] - [1, 0, 0, 0]).max() > 0.02


def test_wind_has_its_root_mean_square_and_no_vertical_part():
    keys = jax.random.split(jax.random.key(0), 200)
    spots = np.random.default_rng(0).uniform(-50, 50, (200, 20, 3))
    wind = jax.vmap(quad.sample_gust)(keys)
    force = jax.vmap(jax.vmap(lambda w, p: quad.gust_force(w, p, 0.2), (None, 0)))(wind, spots)
    assert force.shape == (200, 20, 6) and np.all(np.asarray(force)[..., 2:] == 0)
    square = np.sum(np.asarray(force) ** 2, axis=-1)
    error = 4 * square.mean(axis=1).std() / np.sqrt(200)
    assert abs(square.mean() - 0.04) < error < 0.01


def test_student_sees_range_heading_tilt_velocity_error_rates_and_height():
    x = pose([3.0, 1.0, 1.7])
    turn = 0.4
    x[3:7] = [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
    x[7:10], x[10:13] = rotation(x[3:7]) @ [2.0, 0.5, 0.1] + [3.0, 0, 0], [0.1, 0.2, 0.3]
    y = np.r_[0, -1.0, 9.0, 0.1, 4.0, np.full(26, 2.0)]
    seen = np.asarray(quad.observe(3.0)(x, y))
    np.testing.assert_allclose(seen[:4], [1 / 8, 1 / 8, 1 / quad.RADIUS, 1 / 4])
    rest = [np.sin(turn), 0, 0, 2.0, 0.5, 0.1, 0.1, 0.2, 0.3, 0.2]
    np.testing.assert_allclose(seen[30:], rest, atol=1e-12)

from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import teachers
from envs import peg
from envs.mjcf import load_model
from envs.peg_images import TEACHER, peg_images
from gps.evaluate import evaluate
from gps.placement import cpu_jit

SIDE = 48


@pytest.fixture(scope="module")
def env():
    return peg_images(SIDE, SIDE)


@pytest.fixture(scope="module")
def data():
    """Of the model, to ask MuJoCo itself."""
    return mujoco.MjData(load_model(peg.ASSET))


def posed(data, angles, offset=(0.0, 0.0)):
    data.qpos[:] = angles
    data.mocap_pos[0] = [offset[0], 0.3 + offset[1], 0]
    mujoco.mj_forward(data.model, data)
    return np.concatenate([angles, np.zeros(7)])


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.1, -0.1), (-0.1, 0.1)])
def test_the_hole_is_seen_where_the_camera_looks_at_it(env, data, offset):
    x = posed(data, peg.START, offset)
    eye = data.model.camera("hand").id
    to_eye = data.cam_xmat[eye].reshape(3, 3).T
    centre = to_eye @ (np.array([offset[0], 0.3 + offset[1], peg.RIM]) - data.cam_xpos[eye])
    focal = SIDE / 2 / np.tan(np.deg2rad(data.model.cam_fovy[eye]) / 2)
    column, row = SIDE / 2 + focal * centre[:2] / -centre[2] * [1, -1]
    bound = env.bind(jnp.asarray(offset))
    seen, _ = jax.jit(bound.observer.observe)(jax.random.key(0), (), x, jnp.zeros(12), jnp.zeros(7))
    grey = np.asarray(seen["hand"], float).mean(axis=-1)
    darkest = np.argwhere(grey < 100)  # the edge of the hole; the table is bright
    inside = np.linalg.norm(darkest + 0.5 - [row, column], axis=1) < 4
    assert inside.sum() > 6
    np.testing.assert_array_equal(seen["joints"], x)


def test_a_blind_student_sees_the_joints_alone(env):
    x = np.asarray(env.init(jax.random.key(0)))
    blind = peg_images(SIDE, SIDE, blind=True)
    seen, _ = jax.jit(blind.observer.observe)(jax.random.key(0), (), x, jnp.zeros(12), jnp.zeros(7))
    assert not np.any(seen["hand"])
    np.testing.assert_array_equal(seen["joints"], x)


def test_the_planners_arm_touches_nothing_and_moves_alike_where_nothing_is_touched(env, data):
    rng, u = np.random.default_rng(0), jnp.ones(7)
    ahead = jax.jit(lambda x: (env.planning.step(x, u)[0], env.step(x, u)[0]))
    apart = {True: [], False: []}
    while min(map(len, apart.values())) < 3:
        x = posed(data, peg.START + rng.uniform(-1, 1, 7) * [0.6, 0.6, 0, 0.6, 0, 0.15, 0])
        free, real = ahead(x)
        apart[data.ncon > 0].append(np.abs(free - real).max())
    assert max(apart[False]) < 0.05 < 0.2 < min(apart[True])  # its steps are coarser


def test_the_planner_comes_down_over_the_hole_and_not_beside_it(env):
    cost = jax.jit(lambda y: env.planning.cost(jnp.zeros(14), jnp.zeros(7), y, 0))

    def at(aside, height):
        return float(cost(jnp.asarray(np.r_[aside, 0.3, height, aside, 0.3, height + 0.3, np.zeros(6)])))

    heights = peg.RIM + np.array([0.2, 0.07, 0.02, -0.05, -0.1])
    over, beside = ([at(aside, height) for height in heights] for aside in (0.0, 0.05))
    assert np.all(np.diff(over) < 0)
    assert beside[0] > beside[1] < beside[2] < beside[3] < beside[4]  # the funnel begins .06 over the rim


def test_holes_out_of_reach_are_refused():
    with pytest.raises(ValueError, match=r"holes up to \.1 m from their usual place, got spread = 0.2"):
        peg_images(spread=0.2)


@pytest.mark.slow
def test_the_teacher_inserts_everywhere(env):
    run = cpu_jit(evaluate(env, make_teacher=partial(teachers.mpc, **TEACHER), num_steps=40))
    _, driven = run(jax.random.split(jax.random.key(100), 16), ())
    assert np.all(driven.metrics["inserted"][-1] == 1)

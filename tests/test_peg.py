"""The published tasks: their geometry, conditions and what their students see."""

from functools import cache

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares

from envs import obstacle as obstacle_module
from envs import peg as peg_module
from envs.blind_peg import blind_peg
from envs.mjcf import load_model
from envs.obstacle import obstacle
from envs.peg import peg
from envs.peg_sparse import peg_sparse
from gps.linalg import cholesky
from gps.rollout import observations, open_loop, student_rollout
from gps.types import Status
from students.policies import mlp
from teachers.ilqr import ilqr

REACHED = np.array([0.9478, 0.3667, -2.2197, -1.2778, 1.8476, -0.7681, -0.3862])
"""Joint angles, by inverse kinematics, with the peg at the bottom of a hole in its usual place."""


@cache
def arm():
    return load_model(peg_module.ASSET)


def contacts(offset, qpos):
    """Contact distances of the peg at `qpos`, the table moved by `offset`."""
    data = mujoco.MjData(arm())
    data.qpos[:], data.mocap_pos[0, :2] = qpos, np.array([0, 0.3]) + offset
    mujoco.mj_forward(arm(), data)
    return np.array([contact.dist for contact in data.contact]), data.sensordata.copy()


def test_the_hole_has_five_millimetres_of_clearance_all_round():
    free, sensors = contacts(np.zeros(2), REACHED)
    np.testing.assert_allclose(sensors[:6], peg_module.TARGET, atol=2e-3)
    for way in np.eye(2):
        for side in (-1, 1):
            near, _ = contacts(0.002 * side * way, REACHED)
            assert near.size == 0 or near.min() > -0.004, "2 mm either way touch the floor at most"
            hit, _ = contacts(0.009 * side * way, REACHED)
            assert hit.min() < -0.0025, "9 mm do not fit"
    assert free.size == 0 or free.min() > -0.004


def test_the_first_pose_the_conditions_and_the_costs_are_those_of_the_paper():
    env = peg()
    assert (env.nx, env.nu, env.horizon, round(env.dt, 9)) == (14, 7, 100, 0.05)
    np.testing.assert_allclose(env.init(jax.random.key(0))[:7], [0.1, 0.1, -1.54, -1.7, 1.54, -0.2, 0])
    assert env.conditions.shape == (9, 2) and blind_peg().conditions.shape == (4, 2)
    assert sorted({*np.abs(env.conditions).ravel()}) == [0.0, 0.1]
    np.testing.assert_allclose(np.abs(blind_peg().conditions), 0.012)
    x, u, y = jnp.zeros(14), jnp.arange(7.0), jnp.asarray([0.1, 0.3, -0.5, 0, 0.3, -0.2, *[0.0] * 6])
    gains = np.array([3.09, 1.08, 0.393, 0.674, 0.111, 0.152, 0.098])
    away = 0.5 * 10 * 2 * 0.01 + 0.5 * 0.1 * np.log(1e-5 + 0.04)
    np.testing.assert_allclose(env.cost(x, u, y, 0), np.sum(1e-3 / gains * np.arange(7.0) ** 2) + away)
    np.testing.assert_allclose(env.final_cost(x, y), 10 * away)
    moved = env.bind(jnp.asarray([0.1, 0.0]))
    np.testing.assert_allclose(moved.final_cost(x, y), 10 * 0.05 * (np.log(1e-5 + 0.04)), atol=1.0)
    with pytest.raises(ValueError, match="the arm reaches holes up to"):
        peg(spread=0.3)


def test_what_is_measured_is_the_tip_in_its_own_hole():
    x = jnp.concatenate([jnp.asarray(REACHED), jnp.zeros(7)])
    at_home = peg().metrics(x, jnp.zeros(7))
    assert float(at_home["distance"]) < 0.002 and float(at_home["inserted"]) == 1
    np.testing.assert_allclose(at_home["depth"], 0.1, atol=2e-3)
    elsewhere = peg().bind(jnp.asarray([0.1, 0.0])).metrics(x, jnp.zeros(7))
    np.testing.assert_allclose(elsewhere["distance"], 0.1, atol=2e-3)
    assert float(elsewhere["inserted"]) == float(elsewhere["depth"]) == 0
    assert (float(at_home["success"]), float(elsewhere["success"])) == (1, 0)


def test_every_hole_is_reached_with_a_bent_elbow():
    """Inverse kinematics by SciPy: there is a pose for each, well within the joints' ranges."""
    low, high = arm().jnt_range.T
    data = mujoco.MjData(arm())
    for offset in (-0.1, -0.1), (0.1, -0.1), (-0.1, 0.1), (0.1, 0.1):
        goal = np.array(peg_module.TARGET) + np.array([*offset, 0, *offset, 0])

        def away(q, goal=goal):
            data.qpos[:] = q
            mujoco.mj_kinematics(arm(), data)
            return data.site_xpos.ravel() - goal

        found = least_squares(away, REACHED, bounds=(low + 0.05, high - 0.05))
        assert np.abs(found.fun).max() < 1e-5
        assert found.x[3] < -0.8, "the elbow, rad"


def test_the_blind_student_sees_the_joints_only_and_the_other_the_way_to_the_hole():
    here, there = jnp.zeros(2), jnp.asarray([0.01, -0.01])
    for make, size, differs in ((blind_peg, 14, False), (peg, 26, True)):
        env = make()
        x = env.init(jax.random.key(0)) + 0.05
        seen = [
            bound.observer.observe(jax.random.key(0), (), x, bound.sense(x, jnp.zeros(7)), jnp.zeros(7))[0]
            for bound in map(env.bind, (here, there))
        ]
        assert seen[0].shape == (size,)
        np.testing.assert_allclose(seen[0][:14], x)
        assert bool(jnp.any(seen[0] != seen[1])) == differs
    np.testing.assert_allclose(seen[0][14:16] - seen[1][14:16], there, atol=1e-12)


def test_the_hole_of_the_context_is_the_one_that_stops_the_peg():
    env = peg()
    x0 = jnp.concatenate([jnp.asarray(REACHED), jnp.zeros(7)])
    still = open_loop(env, x0, jnp.zeros((100, 7)))
    pushed = still._replace(us=still.us.at[:20].set(jnp.asarray([0, 8.0, 0, 0, 0, 0, 0])))
    ends = [
        env.bind(c).rollout(x0, pushed, jnp.zeros((100, 7)))
        for c in (jnp.zeros(2), jnp.asarray([0.0, -0.08]))
    ]
    assert all(int(end.status) == Status.OK for end in ends)
    assert not np.allclose(ends[0].xs, ends[1].xs, atol=1e-3)


def test_obstacle_is_a_gate_and_a_wall_with_two_ways_round():
    env, model = obstacle(), load_model(obstacle_module.ASSET)
    np.testing.assert_allclose(env.conditions, np.linspace(-1.5, 1.5, 5))
    assert (env.horizon, round(env.dt, 9)) == (200, 0.05)
    walls = {(round(float(p[0]), 6), round(float(p[1]), 6)) for p in model.geom_pos[:5]}
    assert walls == {(1, 0.8), (1, -0.8), (2, 0), (2, 1.3), (2, -1.3)}
    straight = open_loop(env, jnp.zeros(4), jnp.tile(jnp.asarray([[1.0, 0.0]]), (200, 1)))
    stopped = env.rollout(jnp.zeros(4), straight, jnp.zeros((200, 2)))
    assert float(stopped.xs[-1, 0]) < 1.85, "there is no way through the middle"
    detour = straight.us.at[60:110, 1].set(0.9).at[130:170, 1].set(-0.6)
    passed = env.rollout(jnp.zeros(4), straight._replace(us=detour), jnp.zeros((200, 2)))
    assert float(passed.xs[:, 0].max()) > 2.5


def test_the_sparse_peg_is_the_peg_with_a_reward_for_being_in():
    offset = jnp.array([0.015, -0.01])
    sparse, dense = peg_sparse(horizon=12).bind(offset), peg(0.02, 12).bind(offset)
    x, u = dense.init(jax.random.key(0)), jnp.full(7, 0.3)
    np.testing.assert_array_equal(sparse.step(x, u)[0], dense.step(x, u)[0])
    look = [env.observer.observe(None, (), x, env.sense(x, u), u)[0] for env in (sparse, dense)]
    np.testing.assert_array_equal(*look)
    assert float(sparse.reward(x, u, x)) == 0
    into = ilqr(sparse.planning, 40, iterations=60)
    found, _ = jax.jit(into.solve)(x, jnp.zeros((40, 7)))
    rewards = jax.vmap(lambda x: sparse.reward(x, u, x))(found.trajectory.xs)
    tips = jax.vmap(lambda x: dense.metrics(x, u)["distance"])(found.trajectory.xs)
    np.testing.assert_array_equal(rewards > 0, tips <= 0.03)
    assert rewards[-1] == 1 > rewards[0]


def test_a_students_rollout_is_the_loop_of_its_parts_and_is_seen_again_from_the_states():
    env = blind_peg(horizon=12)
    student = mlp(7, hidden=(16,), covariance="labels", dtype=jnp.float64, limits=env.limits)
    variables = student.init(jax.random.key(1), jnp.ones(14))
    x0 = env.init(jax.random.key(0))
    run = jax.jit(student_rollout(env, student))
    path, obs, drawn = run(jax.random.key(2), variables, x0, 0.0)
    np.testing.assert_array_equal(np.clip(drawn, *env.limits), path.us)
    x = x0
    for t in range(12):
        dist, _ = student.apply(variables, x, ())
        np.testing.assert_allclose(path.us[t], dist.mean, atol=1e-12)
        x, _ = env.step(x, dist.mean)
        np.testing.assert_allclose(path.xs[t + 1], x, atol=1e-9)
    np.testing.assert_allclose(observations(env, jax.random.key(3), path.xs, path.us), obs, atol=1e-12)
    noisy, *_ = jax.vmap(lambda key: run(key, variables, x0, 1.0))(jax.random.split(jax.random.key(4), 4000))
    first = noisy.us[:, 0] - path.us[0][None]
    cov = student.apply(variables, x0, ())[0].cov
    np.testing.assert_allclose(first.T @ first / 4000, cov, atol=0.1 * float(cov[0, 0]))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables[0]["network"]), variables[1]
    lost, *_ = run(jax.random.key(2), ({**variables[0], "network": broken[0]}, variables[1]), x0, 0.0)
    assert int(lost.status) == Status.DIVERGED and np.all(np.isfinite(lost.xs))
    assert np.all(np.isfinite(cholesky(cov)))

"""One list of contracts, held against every env; see `gps.types.Env`."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import cartpole, pendulum, reacher
from gps.algorithms.defaults import ENVS, pairing
from gps.rollout import open_loop
from gps.types import Env, Status

N, STEPS = 6, 25
OWN = """<mujoco model="own">
  <option timestep=".02" integrator="implicitfast"/><default><geom size=".03"/></default>
  <worldbody>
    <body><joint name="ball" type="ball" damping=".05"/><geom type="capsule" fromto="0 0 0 .4 0 0"/>
      <body pos=".4 0 0"><joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 .3 0 0"/>
    </body></body>
  </worldbody>
  <actuator>
    <general joint="hinge" ctrlrange="-1 2" ctrllimited="true" dyntype="filter" dynprm=".1"/>
    <motor joint="ball" gear=".2 0 0" ctrlrange="-3 1" ctrllimited="true"/>
  </actuator>
  <sensor><jointpos name="bend" joint="hinge"/><ballangvel name="spin" joint="ball"/></sensor>
</mujoco>"""


class Explored(NamedTuple):
    """Episodes under random controls, each in its own context."""

    context: object
    xs: np.ndarray
    us: np.ndarray
    """As asked for, up to 1.5 times the limits."""
    ys: np.ndarray
    costs: np.ndarray
    final_cost: np.ndarray
    obs: object
    failed: np.ndarray
    status: np.ndarray
    metrics: dict


@cache
def make(name):
    if name != "own":
        return pairing(name).env
    from envs.mjcf import from_mjcf

    return from_mjcf(OWN, lambda x, u, y, t: x @ x + u @ u + y @ y, observe=["bend", "spin"], horizon=50)


def explore(env, key):
    """One episode of `STEPS` random controls."""
    world, start, moves, watch = jax.random.split(key, 4)
    context = env.sample_context(world)
    bound = env.bind(context)
    low, high = jnp.asarray(env.limits.low), jnp.asarray(env.limits.high)
    spread = jax.random.uniform(moves, (STEPS, env.nu), minval=-0.25, maxval=1.25)
    us = jax.vmap(lambda s: low + s * (high - low))(spread)
    x0 = bound.init(start)

    def advance(carry, knot):
        x, memory, u_prev = carry
        u, t = knot
        y = bound.sense(x, u_prev)
        obs, memory = bound.observer.observe(jax.random.fold_in(watch, t), memory, x, y, u_prev)
        x_next, status = bound.step(x, u)
        cost = bound.cost(x, u, bound.sense(x, u), t)
        return (x_next, memory, u), (x, y, cost, obs, bound.failed(x, y), status)

    first = (x0, bound.observer.init(watch), jnp.zeros(env.nu))
    last, rows = jax.lax.scan(advance, first, (us, jnp.arange(STEPS)))
    xs, ys, costs, obs, failed, status = rows
    xs = jnp.concatenate([xs, last[0][None]])
    metrics = {} if env.metrics is None else jax.vmap(bound.metrics)(xs[:-1], us)
    final = bound.final_cost(xs[-1], bound.sense(xs[-1], jnp.zeros(env.nu)))
    return Explored(context, xs, us, ys, costs, final, obs, failed, status, metrics)


KEYS = jax.random.split(jax.random.key(3), N)


@cache
def explored(name):
    env = make(name)
    program = jax.jit(jax.vmap(lambda key: explore(env, key)))
    return program, jax.tree.map(np.asarray, program(KEYS))


SLOW = ("quadrotor_canyon", "quadrotor_depth")  # long to compile, and built like quadrotor_forest
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in (*ENVS, "own")]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def test_sizes_and_settings_are_sane(name):
    env = make(name)
    assert isinstance(env, Env) and (env.name == name)
    assert 1 <= env.horizon * env.dt <= 60 and 0.005 <= env.dt <= 0.1
    low, high = env.limits
    assert low.shape == high.shape == (env.nu,) and np.all(low < high) and np.all(np.isfinite([low, high]))
    _, seen = explored(name)
    assert seen.xs.shape == (N, STEPS + 1, env.nx) and seen.ys.shape == (N, STEPS, env.ny)
    assert seen.costs.shape == seen.status.shape == seen.failed.shape == (N, STEPS)
    assert all(values.shape == (N, STEPS) for values in seen.metrics.values())


def test_random_controls_give_finite_numbers(name):
    _, seen = explored(name)
    for leaf in jax.tree.leaves(seen):
        assert np.all(np.isfinite(leaf))
    assert np.all(seen.costs >= 0) and np.all(seen.status == Status.OK)
    assert not np.any(seen.failed[:, 0]), "an episode begins in failure"


def test_same_key_same_result_and_another_key_another(name):
    program, seen = explored(name)
    again = jax.tree.map(np.asarray, program(KEYS[::-1]))
    for one, other in zip(jax.tree.leaves(seen), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other[::-1])
    assert len(np.unique(seen.xs[:, -1], axis=0)) == N
    for leaf in jax.tree.leaves(seen.context):
        sides = set(np.unique(leaf)) <= {-1.0, 1.0}  # one of two things: both are met
        distinct = len(np.unique(leaf.reshape(N, -1), axis=0))
        assert distinct == (2 if sides else N), "contexts do not depend on the key"


def test_one_episode_alone_is_as_in_the_batch(name):
    _, seen = explored(name)
    env = make(name)
    alone = jax.jit(lambda key: explore(env, key))(KEYS[2])
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(seen), strict=True):
        np.testing.assert_allclose(one, other[2], rtol=1e-6, atol=1e-8)


def shapes(env, dtype):
    x, y, u = (jax.ShapeDtypeStruct((n,), dtype) for n in (env.nx, env.ny, env.nu))
    return x, y, u, jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_results_keep_the_dtype(name, dtype):
    env = make(name)
    x, y, u, t, key = shapes(env, dtype)
    context = jax.eval_shape(env.sample_context, key)

    def everything(context, x, y, u, t, key):
        bound = env.bind(context)
        plan = bound if bound.planning is None else bound.planning
        roll = bound.rollout(x, open_loop(env, x, jnp.stack([u, u])), jnp.zeros((2, env.nu), x.dtype))
        obs, _ = bound.observer.observe(key, bound.observer.init(key), x, y, u)
        metrics = {} if bound.metrics is None else bound.metrics(x, u)
        parts = bound.step(x, u)[0], bound.sense(x, u), bound.cost(x, u, y, t), bound.final_cost(x, y)
        plans = plan.step(x, u)[0], plan.linearize(x, u), plan.cost(x, u, plan.sense(x, u), t)
        moves = bound.minus(x, x), bound.plus(x, bound.minus(x, x))
        return (*parts, *plans, *moves, bound.linearize(x, u), roll[:4], obs, metrics)

    made = jax.eval_shape(everything, context, x, y, u, t, key)
    images = {jnp.dtype(jnp.uint8)}  # of cameras
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} - images == {jnp.dtype(dtype)}


def test_memories_keep_their_structure(name):
    env = make(name)
    for dtype in (jnp.float32, jnp.float64):
        x, y, u, _, key = shapes(env, dtype)
        memory = jax.eval_shape(env.observer.init, key)
        _, later = jax.eval_shape(env.observer.observe, key, memory, x, y, u)
        assert jax.tree.structure(memory) == jax.tree.structure(later)
        assert [a.dtype for a in jax.tree.leaves(memory)] == [a.dtype for a in jax.tree.leaves(later)]


def test_an_episode_begins_without_memory(name):
    """The first observation of an episode does not depend on the one before it."""
    env, (_, seen) = make(name), explored(name)

    @jax.jit
    def first(key, x, y):
        u = jnp.zeros(env.nu)
        fresh, memory = env.observer.observe(key, env.observer.init(key), x, y, u)
        env.observer.observe(key, memory, 2 * x, y, u)
        return fresh, env.observer.observe(key, env.observer.init(key), x, y, u)[0]

    once, again = first(KEYS[0], seen.xs[0, 3], seen.ys[0, 3])
    jax.tree.map(np.testing.assert_array_equal, once, again)


def test_step_clips_controls(name):
    env, (_, seen) = make(name), explored(name)
    xs, us = seen.xs[:, 5], seen.us[:, 5]
    step = jax.jit(jax.vmap(env.step))
    low, high = env.limits
    assert np.any((us < low) | (us > high))
    np.testing.assert_array_equal(step(xs, us)[0], step(xs, np.clip(us, low, high))[0])
    assert not np.array_equal(step(xs, us)[0], step(xs, np.clip(us, low / 2 + high / 2, high))[0])


def test_linearize_is_the_derivative_of_step(name):
    """Of a step under the same inputs: the wind must be the same everywhere."""
    env, (_, seen) = make(name), explored(name)
    eps = 1e-5

    @jax.jit
    def derivatives(context, x, u):
        bound = env.bind(context)
        moved = lambda dx, du: bound.step(bound.plus(x, dx), u + du)[0]  # noqa: E731
        eye_x, eye_u = eps * jnp.eye(env.ndx), eps * jnp.eye(env.nu)
        no_x, no_u = jnp.zeros(env.ndx), jnp.zeros(env.nu)
        by_x = jax.vmap(lambda d: bound.minus(moved(d, no_u), moved(-d, no_u)))(eye_x)
        by_u = jax.vmap(lambda d: bound.minus(moved(no_x, d), moved(no_x, -d)))(eye_u)
        return bound.linearize(x, u), by_x.T / (2 * eps), by_u.T / (2 * eps)

    low, high = env.limits
    us = low + (high - low) * (0.1 + 0.8 * np.random.default_rng(0).random((N, env.nu)))
    context = jax.tree.map(jnp.asarray, seen.context)
    if hasattr(context, "gust"):
        context = context._replace(gust=context.gust.at[:, :, :2].set(0))
    linear, A, B = jax.vmap(derivatives)(context, seen.xs[:, 4], us)
    np.testing.assert_allclose(linear.A, A, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(linear.B, B, rtol=2e-4, atol=2e-4)
    assert linear.C.shape == (N, env.ny, env.ndx) and linear.D.shape == (N, env.ny, env.nu)


def test_plus_undoes_minus(name):
    env, (_, seen) = make(name), explored(name)
    xs, others = seen.xs[:, 1], seen.xs[:, -1]
    dx = jax.jit(jax.vmap(env.minus))(xs, others)
    assert dx.shape == (N, env.ndx) and np.abs(dx).max() > 0.01
    back = jax.jit(jax.vmap(env.plus))(others, dx)
    np.testing.assert_allclose(jax.vmap(env.minus)(back, xs), np.zeros((N, env.ndx)), atol=1e-9)


def test_rollout_is_step_after_step(name):
    env, (_, seen) = make(name), explored(name)

    def roll(context, x0, us):
        bound = env.bind(context)
        return bound.rollout(x0, open_loop(env, x0, jnp.zeros_like(us)), us)

    made = jax.jit(jax.vmap(roll))(seen.context, seen.xs[:, 0], seen.us)
    np.testing.assert_allclose(made.xs, seen.xs, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(made.us, np.clip(seen.us, env.limits.low, env.limits.high))
    np.testing.assert_array_equal(made.status, Status.OK)
    np.testing.assert_allclose(made.costs[:, -1], seen.final_cost, rtol=1e-5)
    inside = np.all(made.us == seen.us, axis=2)
    np.testing.assert_allclose(made.costs[:, :-1][inside], seen.costs[inside], rtol=1e-5)


def test_planning_model_has_the_same_state_and_controls(name):
    env = make(name)
    plan = env.bind(env.sample_context(jax.random.key(0))).planning
    if plan is None:
        assert env.planning is None
        return
    sizes = lambda e: (e.nx, e.ndx, e.nu, e.dt, e.horizon)  # noqa: E731
    assert sizes(plan) == sizes(env) and sizes(env.planning) == sizes(env)
    np.testing.assert_array_equal(plan.limits, env.limits)


REACHED = {
    "reacher": "obs, costs",
    "blind_peg": "costs",
    "obstacle": "first",
    "swimmer": "first",
    "lane_drive": "costs, first",
    "forest_trail": "costs, first",
    "fork": "",  # one of two things, and not seen from everywhere: see tests/test_fork.py
}
"""What the context makes a difference to; elsewhere to the observation."""


def test_context_reaches_cost_or_senses(name):
    env, (_, seen) = make(name), explored(name)
    if not jax.tree.leaves(seen.context):
        return

    def meet(context, x):
        bound, u = env.bind(context), jnp.zeros(env.nu)
        y = bound.sense(x, u)
        obs, _ = bound.observer.observe(KEYS[0], bound.observer.init(KEYS[0]), x, y, u)
        obs = jnp.concatenate([leaf.ravel().astype(x.dtype) for leaf in jax.tree.leaves(obs)])
        return {"costs": bound.cost(x, u, y, jnp.int32(0)), "obs": obs, "first": bound.init(KEYS[0])}

    met = jax.jit(jax.vmap(meet, in_axes=(0, None)))(seen.context, seen.xs[0, -1])
    for what in filter(None, REACHED.get(name, "obs").split(", ")):
        assert len(np.unique(met[what], axis=0)) == N


# ------------------------------------------------------------------------------- each task's own


def test_starts_cover_the_circle_and_half_of_them_hang():
    xs = np.asarray(jax.vmap(cartpole.start)(jax.random.split(jax.random.key(0), 2000)))
    hanging = np.cos(xs[:, 1]) < -np.cos(0.3)
    assert abs(hanging.mean() - (0.5 + 0.5 * 0.3 / np.pi)) < 4 * 0.5 / np.sqrt(2000)
    assert np.abs(xs[:, 0]).max() < 0.5 and np.abs(xs[:, 2:]).max() < 0.2
    everywhere = np.histogram(np.mod(xs[:, 1], 2 * np.pi), 12)[0]
    assert everywhere.min() > 2000 / 2 / 12 * 0.6
    angles = np.asarray(jax.vmap(pendulum.start)(jax.random.split(jax.random.key(0), 2000)))[:, 0]
    assert np.histogram(angles, 12, (-np.pi, np.pi))[0].min() > 2000 / 12 * 0.6


def test_cartpole_shows_changes_instead_of_velocities():
    env, (_, seen) = make("cartpole"), explored("cartpole")
    assert seen.obs.shape == (N, STEPS, 4, 3)
    x, angle = seen.xs[:, :-1, 0], seen.xs[:, :-1, 1]
    np.testing.assert_allclose(seen.obs[:, :, -1], np.stack([x, np.cos(angle), np.sin(angle)], -1), atol=1e-9)
    change = np.diff(seen.obs[:, :, -1], axis=1) / env.dt
    np.testing.assert_allclose(seen.obs[:, 3:, 0], change[:, :-2], atol=1e-9)
    assert not np.any(seen.obs[:, 0, :-1])
    off = np.array([2.6, 0.0, 0, 0])
    assert env.failed(off, np.zeros(0)) and not env.failed(off * 0.9, np.zeros(0))


def test_cartpole_in_the_mirror_is_the_same():
    env, (_, seen) = make("cartpole"), explored("cartpole")
    step = jax.jit(lambda x, u: env.step(x, u)[0])
    x, u = seen.xs[3, 7], np.array([0.4])
    np.testing.assert_allclose(step(-x, env.mirror.control @ u), -step(x, u), atol=1e-12)
    cost = jax.jit(lambda x, u: env.cost(x, u, jnp.zeros(0), jnp.int32(0)))
    np.testing.assert_allclose(cost(-x, -u), cost(x, u), rtol=1e-12)
    reflected = seen.obs[3, 7] * np.array([-1.0, 1.0, -1.0])
    np.testing.assert_allclose(env.mirror.obs(seen.obs[3, 7]), reflected, atol=1e-12)


def test_swing_up_tasks_have_their_minimum_upright():
    for module, nx in ((cartpole, 4), (pendulum, 2)):
        env = make(module.__name__.split(".")[-1])
        cost = jax.jit(lambda x, env=env: env.cost(x, jnp.zeros(1), jnp.zeros(0), jnp.int32(0)))
        angle = 1 if nx == 4 else 0
        states = np.zeros((3, nx))
        states[:, angle] = [0.0, 2 * np.pi, np.pi]
        costs = [float(cost(x)) for x in states]
        assert costs[0] == 0 and costs[1] < 1e-20 and costs[2] > 1
        upright = [float(env.metrics(x, jnp.zeros(1))["upright"]) for x in states]
        assert upright == [1.0, 1.0, 0.0]


def test_tip_of_the_reacher_is_where_the_engine_has_it():
    import mujoco

    from envs.mjcf import load_model

    model = load_model(reacher.ASSET)
    data = mujoco.MjData(model)
    for q in np.random.default_rng(1).uniform(-3, 3, (5, 2)):
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(reacher.tip(np.r_[q, 0, 0]), data.site("tip").xpos[:2], atol=1e-12)


def test_targets_of_the_reacher_are_within_reach_and_seen():
    targets = np.asarray(jax.vmap(reacher.sample_target)(jax.random.split(jax.random.key(0), 500)))
    radius = np.linalg.norm(targets, axis=1)
    assert radius.min() >= 0.06 and radius.max() <= 0.27 and np.ptp(np.arctan2(*targets.T)) > 6
    _, seen = explored("reacher")
    np.testing.assert_allclose(seen.obs[:, 0, 6:8], seen.context, atol=1e-12)
    tips = np.asarray(jax.vmap(jax.vmap(reacher.tip))(seen.xs[:, :-1]))
    distance = np.linalg.norm(tips - seen.context[:, None], axis=2)
    np.testing.assert_allclose(seen.metrics["distance"], distance, atol=1e-12)
    np.testing.assert_array_equal(seen.metrics["reached"], distance < 0.01)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gps.plant import plant
from teachers.mpc import mpc
from teachers.planned import planned
from teachers.planner import SolveStatus
from teachers.predictive_sampling import predictive_sampling

KEY = jax.random.key(0)
X0 = jnp.array([1.0, -0.5])
A, B = jnp.array([[1.0, 0.1], [0.0, 1.0]]), jnp.array([[0.0], [0.1]])


def linear(horizon=12, **options):
    """A linear-quadratic regulator: one solve is exact everywhere."""
    Q, R = jnp.diag(jnp.array([1.0, 0.1])), jnp.array([[0.5]])
    return plant(
        lambda x, u: A @ x + B @ u,
        lambda x, u, y, t: x @ Q @ x + u @ R @ u,
        lambda x, y: x @ Q @ x,
        2,
        1,
        horizon=horizon,
        **options,
    )


@pytest.fixture(scope="module")
def plan():
    """(planned, replanned at every step to the episode's end) labels of a state in step t."""
    once = planned(linear())
    act = jax.jit(lambda x, t: once.act(KEY, once.init(KEY, X0), x, t)[0])

    def replan(x, t):
        again = mpc(linear(12 - t), iterations=3, initial_iterations=0)
        return jax.jit(lambda x: again.act(KEY, again.init(KEY, x), x, t)[0])(x)

    return act, replan


@pytest.mark.parametrize("t", [0, 5])
def test_off_the_plan_it_does_what_a_new_plan_would(plan, t):
    once, replan = plan
    x = jnp.array([-0.3, 0.8])
    mine, new = once(x, t), replan(x, t)
    for name in ("Quu", "q", "K"):
        np.testing.assert_allclose(getattr(mine, name), getattr(new, name), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(mine.dist.mean, new.dist.mean, rtol=1e-6)
    np.testing.assert_allclose(mine.dist.cov, new.dist.cov, rtol=1e-6)
    assert int(mine.status) == 0


def test_behind_its_end_the_last_control_is_held():
    teacher = planned(linear(), horizon=6)
    state = jax.jit(teacher.init)(KEY, X0)
    act = jax.jit(teacher.act)
    far = jnp.array([5.0, 5.0])
    for t in (6, 9):
        action, _ = act(KEY, state, far, t)
        np.testing.assert_array_equal(action.dist.mean, state.controller.us[-1])
        assert not np.any(action.K)
    assert float(abs(act(KEY, state, far, 5)[0].dist.mean[0] - state.controller.us[-1][0])) > 0.1


def test_it_begins_with_the_controls_given():
    env, sampler = linear(limits=(-0.5, 0.5)), partial(predictive_sampling, samples=2, std=1e-9)
    course = jnp.linspace(-1, 1, 12)[:, None]
    for start, wanted in ((course, jnp.clip(course, -0.5, 0.5)), (jnp.array([0.2]), jnp.full((12, 1), 0.2))):
        state = jax.jit(planned(env, iterations=1, start=start, planner=sampler).init)(KEY, X0)
        np.testing.assert_allclose(state.controller.us, wanted, atol=1e-7)
    with pytest.raises(ValueError, match=r"shape \(1,\) or a plan of shape \(12, 1\), came shape \(11, 1\)"):
        planned(env, start=course[:-1])


def test_the_planning_model_is_planned_on_and_checked():
    env, other = linear(), linear()
    lazy = other._replace(cost=lambda x, u, y, t: jnp.sum((u - 0.3) ** 2), final_cost=lambda x, y: 0 * x[0])
    teacher = planned(env._replace(planning=lazy))
    action, _ = jax.jit(lambda x: teacher.act(KEY, teacher.init(KEY, x), x, 3))(X0)
    np.testing.assert_allclose(action.dist.mean, 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="planning model must share"):
        planned(env._replace(planning=lazy._replace(nx=3)))


def test_labels_stay_within_the_limits():
    env = linear(limits=(-0.5, 0.5))
    teacher = planned(env)
    state = jax.jit(teacher.init)(KEY, X0)
    for x in (jnp.array([5.0, 5.0]), jnp.array([-5.0, -5.0])):
        action, _ = jax.jit(teacher.act)(KEY, state, x, 8)
        assert float(jnp.max(jnp.abs(action.K))) > 0.1  # no control is at its limit there
        np.testing.assert_allclose(action.dist.mean, [-0.5 * np.sign(x[0])])


def test_differences_are_those_of_the_env():
    def minus(x, other):
        return jnp.array([jnp.mod(x[0] - other[0] + jnp.pi, 2 * jnp.pi) - jnp.pi, x[1] - other[1]])

    teacher = planned(linear()._replace(minus=minus))
    state, act = jax.jit(teacher.init)(KEY, X0), jax.jit(teacher.act)
    x = jnp.array([0.4, 0.1])
    here, turned = (act(KEY, state, one, 3)[0] for one in (x, x.at[0].add(2 * jnp.pi)))
    np.testing.assert_allclose(turned.dist.mean, here.dist.mean, rtol=1e-9)
    assert abs(float(here.dist.mean[0] - state.controller.us[3][0])) > 1e-3


def test_plans_of_sampling_differ_by_their_keys():
    teacher = planned(linear(limits=(-1, 1)), iterations=1, planner=predictive_sampling)
    one, other = (jax.jit(teacher.init)(key, X0) for key in jax.random.split(KEY))
    assert np.max(np.abs(one.controller.us - other.controller.us)) > 0.01


def test_a_plan_that_failed_disowns_all_its_labels():
    teacher = planned(linear(), iterations=2)
    init, act = jax.jit(teacher.init), jax.jit(teacher.act)
    for x0 in (jnp.full(2, jnp.inf), jnp.array([jnp.nan, 1.0])):
        action, _ = act(KEY, init(KEY, x0), X0, 4)
        assert int(action.status) == SolveStatus.DIVERGED
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(action))
    with pytest.raises(ValueError, match="start must be finite"):
        planned(linear(), start=jnp.full(1, jnp.nan))


def test_a_knot_whose_expansion_is_indefinite_says_so():
    teacher = planned(linear())
    state = jax.jit(teacher.init)(KEY, X0)
    state = state._replace(definite=state.definite.at[5].set(False))
    found = [int(jax.jit(teacher.act)(KEY, state, X0, t)[0].status) for t in (4, 5, 6)]
    assert found == [0, SolveStatus.NOT_PD, 0]

"""Coaching: the teacher plans with a price on every control that is not the student's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import plain, same

import teachers
from envs.observations import history, noise
from gps.algorithms.bc import bc
from gps.algorithms.coaching import coaching
from gps.costs import quadratic
from gps.episodes import TEACHER
from gps.types import Action, Gaussian, ResidualCost, Teacher

KEY = jax.random.key(23)
SMALL = {"iterations": 3, "num_worlds": 4, "num_steps": 30, "updates": 20, "batch_size": 16, "test_worlds": 0}


def go(algorithm, iterations):
    """The states after each iteration."""
    states = [algorithm.init(KEY)]
    for i in range(iterations):
        states.append(algorithm.step(jax.random.fold_in(KEY, i), states[-1])[0])
    return states[1:]


def greedy(env):
    """The control of the least planned cost of one step, which is quadratic in one control."""

    def act(key, state, x, t):
        model = env if env.planning is None else env.planning
        low, middle, high = (model.cost(x, jnp.array([u]), jnp.zeros(0), t) for u in (-1.0, 0.0, 1.0))
        curvature = low - 2 * middle + high
        mean = ((low - high) / (2 * curvature))[None]
        eye = jnp.eye(1)
        return Action(Gaussian(mean, eye), eye, -mean, jnp.int32(0)), state

    return Teacher(lambda key, x0: (), act)


def road(cost):
    env = tasks.road()._replace(cost=cost)
    return env._replace(bind=lambda context: env)


COSTS = {
    "any": lambda x, u, y, t: 0.01 * jnp.sum((u - 0.5) ** 2),
    "residual": ResidualCost(lambda x, u, y, t: np.sqrt(0.02) * (u - 0.5), quadratic),
}


def modes(state, rows):
    """What the student of this state does where the rows are."""
    weight = np.asarray(state.fit.variables[0][0], float)
    return rows.obs @ weight[:, :-1].T + weight[:, -1]


@pytest.mark.parametrize("cost", COSTS)
def test_a_label_is_the_least_of_cost_and_price(cost):
    """.01 (u − .5)² + price (u − π)² is least at u = (.005 + price π) / (.01 + price)."""
    price, n = 0.03, SMALL["num_worlds"] * SMALL["num_steps"]
    states = go(coaching(road(COSTS[cost]), greedy, tasks.affine(), price=price, beta=0.25, **SMALL), 3)
    rows = jax.tree.map(plain, states[-1].dataset._replace(next_slot=()))
    alone, first, second = (jax.tree.map(lambda leaf, i=i: leaf[i * n : (i + 1) * n], rows) for i in range(3))
    np.testing.assert_allclose(alone.mean, 0.5, atol=1e-6)
    drove = [np.mean(seen.behaviour == TEACHER) for seen in (alone, first, second)]
    np.testing.assert_allclose(drove, [1, 0.25, 0.25], atol=4 * np.sqrt(0.25 / n))
    for state, seen in ((states[0], first), (states[1], second)):
        own = modes(state, seen)
        assert np.std(own) > 0.01
        np.testing.assert_allclose(seen.mean, (0.005 + price * own) / (0.01 + price), atol=1e-5)


def test_without_a_price_and_driven_by_the_teacher_it_is_behaviour_cloning():
    env, student = tasks.road(), tasks.affine()
    coached = go(coaching(env, tasks.road_teacher, student, price=0.0, beta=1.0, **SMALL), 2)[-1]
    cloned = go(bc(env, tasks.road_teacher, student, **SMALL), 2)[-1]
    assert same(coached.dataset, cloned.dataset) and same(coached.fit, cloned.fit)
    assert np.all(coached.dataset.behaviour[:240] == TEACHER)


def test_labels_older_than_the_window_are_let_go():
    env, student, n = tasks.road(), tasks.affine(), SMALL["num_worlds"] * SMALL["num_steps"]
    every = go(coaching(env, tasks.road_teacher, student, **SMALL), 3)
    last = go(coaching(env, tasks.road_teacher, student, window=2, **SMALL), 3)
    assert last[2].dataset.weight.shape == (2 * n,)
    assert same(
        last[1].dataset._replace(next_slot=()),
        jax.tree.map(lambda a: a[: 2 * n], every[1].dataset._replace(next_slot=())),
    )
    np.testing.assert_array_equal(last[2].dataset.obs[n:], every[2].dataset.obs[n : 2 * n])
    assert not np.array_equal(last[2].dataset.obs[:n], every[2].dataset.obs[:n])


@pytest.mark.parametrize(
    "planner",
    [
        pytest.param(teachers.ilqr, marks=pytest.mark.slow),
        pytest.param(functools.partial(teachers.cem, samples=32), marks=pytest.mark.slow),
        functools.partial(teachers.cem, samples=32, worlds=np.zeros(2)),  # contexts that it binds anew
    ],
)
def test_a_planner_comes_nearer_to_its_student_for_a_price(planner):
    env, student = tasks.swing(), tasks.affine()
    make = functools.partial(teachers.mpc, horizon=8, iterations=2, initial_iterations=2, planner=planner)

    def apart(price):
        states = go(coaching(env, make, student, price=price, beta=1.0, **SMALL), 2)
        rows = jax.tree.map(lambda leaf: plain(leaf)[120:240], states[-1].dataset._replace(next_slot=()))
        return np.sqrt(np.mean((rows.mean - np.clip(modes(states[0], rows), -2, 2)) ** 2))

    assert apart(10.0) < 0.3 * apart(0.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"price": -1.0}, "price must be at least 0 and finite, got -1.0"),
        ({"price": float("nan")}, "price must be at least 0 and finite, got nan"),
        ({"price": float("inf")}, "price must be at least 0 and finite, got inf"),
        ({"beta": 1.5}, r"beta must be in \[0, 1\], got 1.5"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work(wrong, said):
    with pytest.raises(ValueError, match=said):
        coaching(tasks.road(), tasks.road_teacher, tasks.affine(), **wrong)


def test_an_env_or_a_student_that_remembers_is_refused():
    with pytest.raises(ValueError, match="what it sees must not be noisy"):
        coaching(noise(tasks.road(), 0.5), tasks.road_teacher, tasks.affine())
    with pytest.raises(ValueError, match="neither it nor what it sees may have a memory"):
        coaching(history(tasks.road(), 2), tasks.road_teacher, tasks.affine())
    with pytest.raises(ValueError, match="neither it nor what it sees may have a memory"):
        coaching(tasks.road(), tasks.road_teacher, tasks.recurrent())

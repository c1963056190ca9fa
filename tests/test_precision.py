"""Every matrix product of a solver says that it wants full precision: accelerators round by default."""

import jax
import jax.numpy as jnp
import pytest
from gps_tasks import cart, roll
from test_planners import PLANNERS

import teachers
from gps.gaussian import Gaussian
from gps.types import KLTerm
from teachers.kl_lqr import kl_lqr
from teachers.local_lqr import local_lqr
from teachers.lqr import backward
from teachers.parallel_lqr import parallel_backward
from teachers.pi2 import local_pi2
from teachers.pilqr import local_pilqr

ENV = cart(6)
KEY = jax.random.key(0)
X0 = jnp.asarray([1.0, 0.0], jnp.float32)
FULL = (jax.lax.Precision.HIGHEST,) * 2


def products(fun, *args):
    """The precision of every matrix product in the program, inner programs included."""
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                found.append(equation.params["precision"])
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jax.make_jaxpr(fun)(*args).jaxpr)
    return found


def check(fun, *args):
    found = products(fun, *args)
    assert found and set(found) == {FULL}


@pytest.mark.parametrize("name", PLANNERS)
def test_planners(name):
    planner = PLANNERS[name](ENV, iterations=2)
    guess = planner.begin(X0, jnp.zeros((6, 1), jnp.float32))
    check(planner.improve, KEY, X0, guess)


def test_a_program_without_it_is_seen():
    assert products(lambda a: a @ a, jnp.eye(2)) == [None]


def lqr_problem():
    xs, us = jnp.zeros((7, 2)), jnp.zeros((6, 1))
    dynamics = jax.vmap(ENV.linearize)(xs[:-1], us)
    solution, _ = teachers.ilqr(ENV, iterations=2).solve(X0.astype(float), us)
    Q = jnp.broadcast_to(jnp.eye(2), (7, 2, 2))
    row, one = jnp.zeros((7, 2)), jnp.ones((7, 1, 1))
    cost = teachers.lqr.QuadraticCost(row[:, 0], row, row[:, :1], Q, one, row[:, :, None], xs, row[:, :1])
    return dynamics, cost, solution.controller


def test_backward_passes_and_kl_lqr():
    dynamics, cost, controller = lqr_problem()
    check(backward, dynamics, cost)
    check(parallel_backward, dynamics, cost)
    start = Gaussian(jnp.zeros(2), 0.1 * jnp.eye(2))
    check(lambda: kl_lqr(dynamics, cost, controller, 1.0, start=start))


@pytest.mark.parametrize("make", [local_lqr, local_pi2, local_pilqr])
def test_local_teachers(make):
    teacher = make(ENV)
    x0 = X0.astype(float)
    state = teacher.init(KEY, x0)
    paths = roll(ENV, teacher.controller(state), x0, KEY, 10)
    term = KLTerm(teacher.controller(state), bound=jnp.asarray(1.0))
    check(lambda state: teacher.improve(teacher.learn(KEY, state, paths)[0], (term,)), state)

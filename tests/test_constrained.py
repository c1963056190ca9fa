"""iLQR on an augmented Lagrangian, beside SciPy on the same problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from gps_tasks import cart

import teachers
from gps.rollout import open_loop
from teachers.constrained import Constraints, constrained
from teachers.planner import SolveStatus

ENV, X0 = cart(20), jnp.asarray([1.0, 0.0])
CASES = {
    "a speed limit": Constraints(at_most=lambda x, u, y, t: jnp.stack([x[1], -x[1]]) - 0.6),
    "a rate that depends on time": Constraints(at_most=lambda x, u, y, t: jnp.abs(u) - (1 + 0.2 * t)),
    "to be somewhere in the end": Constraints(final_equal=lambda x, y: x - jnp.asarray([0.3, 0.1])),
    "not beyond": Constraints(final_at_most=lambda x, y: 0.4 - x[:1]),
    "an obstacle in (position, velocity)": Constraints(
        at_most=lambda x, u, y, t: 0.3**2 - jnp.sum((x - jnp.asarray([0.6, -0.7])) ** 2)[None]
    ),
    "two at once": Constraints(
        at_most=lambda x, u, y, t: -x[1:] - 0.9, equal=lambda x, u, y, t: jnp.where(t < 3, u, 0.0)
    ),
}


def by_scipy(constraints, near):
    """The least cost that SLSQP finds, from random starts and from `near` controls."""
    T = ENV.horizon

    def roll(us):
        return ENV.rollout(X0, open_loop(ENV, X0, us[:, None]), jnp.zeros((T, 1)))

    def read(us, stage, final):
        path = roll(us)
        rows = (
            []
            if stage is None
            else [jax.vmap(stage)(path.xs[:-1], path.us, path.ys[:-1], jnp.arange(T)).ravel()]
        )
        return jnp.concatenate([*rows, *([] if final is None else [final(path.xs[-1], path.ys[-1])])])

    asked = []
    for kind, sign, stage, final in (
        ("ineq", -1, constraints.at_most, constraints.final_at_most),
        ("eq", 1, constraints.equal, constraints.final_equal),
    ):
        if stage is None and final is None:
            continue
        of = jax.jit(lambda us, stage=stage, final=final, sign=sign: sign * read(us, stage, final))
        slopes = jax.jit(jax.jacfwd(of))
        asks = np.any(np.asarray(slopes(jnp.asarray(near))) != 0, axis=1)  # SLSQP takes no empty rows
        asked.append(
            {
                "type": kind,
                "fun": lambda us, f=of, i=asks: f(us)[i],
                "jac": lambda us, f=slopes, i=asks: f(us)[i],
            }
        )
    cost = jax.jit(lambda us: jnp.sum(roll(us).costs))
    rng, found = np.random.default_rng(0), []
    for start in (*rng.normal(size=(3, T)), near + 0.05 * rng.normal(size=T)):
        end = scipy.optimize.minimize(
            cost, start, jac=jax.jit(jax.grad(cost)), bounds=[(-8, 8)] * T,
            constraints=asked, method="SLSQP", options={"maxiter": 500, "ftol": 1e-9},
        )  # fmt: skip
        if end.success:
            found.append(end.fun)
    return min(found)


@pytest.mark.parametrize("name", CASES)
def test_the_constrained_optimum_is_found(name):
    planner = constrained(ENV, constraints=CASES[name])
    solution, trace = jax.jit(planner.solve)(X0, jnp.zeros((20, 1)))
    assert solution.status == SolveStatus.CONVERGED
    last = int(solution.iterations) - 1
    assert trace.violation[last] <= 1e-4
    np.testing.assert_allclose(trace.cost[last], solution.cost)
    best = by_scipy(CASES[name], np.asarray(solution.trajectory.us)[:, 0])
    np.testing.assert_allclose(solution.cost, best, rtol=2e-3)
    free, _ = jax.jit(teachers.ilqr(ENV).solve)(X0, jnp.zeros((20, 1)))
    assert solution.cost > 1.002 * free.cost, "the constraint does not bind: it tests nothing"


def test_multipliers_are_handed_on_from_step_to_step():
    planner = constrained(ENV, iterations=8, constraints=CASES["a speed limit"])
    teacher = teachers.mpc(
        ENV, iterations=3, initial_iterations=10,
        planner=lambda env, **k: constrained(env, constraints=CASES["a speed limit"], inner=10, **k),
    )  # fmt: skip

    def advance(carry, t):
        x, state = carry
        action, state = teacher.act(jax.random.key(0), state, x, t)
        x, _ = ENV.step(x, action.dist.mean)
        return (x, state), x

    xs = jax.jit(
        lambda: jax.lax.scan(advance, (X0, teacher.init(jax.random.key(0), X0)), jnp.arange(20))[1]
    )()
    assert np.max(np.abs(xs[:, 1])) < 0.6 + 1e-3
    assert abs(float(xs[-1, 0])) < 0.2
    guess = planner.begin(X0, jnp.zeros((20, 1)))
    _, after = jax.jit(planner.improve)(jax.random.key(0), X0, guess)
    assert np.max(after.multipliers.stage[0]) > 0.1
    np.testing.assert_array_equal(
        planner.shift(after).multipliers.stage[0][:-1], after.multipliers.stage[0][1:]
    )


def test_what_cannot_be_met_says_so():
    impossible = Constraints(final_equal=lambda x, y: x[:1] - 50.0)
    solution, trace = jax.jit(constrained(ENV, iterations=4, constraints=impossible).solve)(
        X0, jnp.zeros((20, 1))
    )
    assert solution.status == SolveStatus.MAX_ITERATIONS and trace.violation[-1] > 1
    assert np.all(np.isfinite(solution.trajectory.xs))


WRONG = {
    "at least one constraint": {"constraints": Constraints()},
    "growth must be greater than 1": {"growth": 1.0},
    "penalty must be greater than 0": {"penalty": 0.0},
    "tolerance must be greater than 0": {"tolerance": 0.0},
    "horizon >= 1": {"horizon": 0},
}


@pytest.mark.parametrize("words", WRONG)
def test_settings_that_cannot_work_say_so(words):
    with pytest.raises(ValueError, match=words):
        constrained(ENV, **({"constraints": CASES["not beyond"]} | WRONG[words]))

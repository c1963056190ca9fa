"""One list of planners; what every one of them has to do, alone and under `mpc`."""

import copy
import functools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import cart

import teachers
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from envs.pendulum import ASSET as PENDULUM
from envs.pendulum import pendulum
from envs.reacher import reacher
from gps.rollout import open_loop
from gps.types import LinearGaussian, Status
from teachers.planner import SolveStatus

KEY, OTHER = jax.random.split(jax.random.key(5))
NOISE = teachers.spline(8)
SAMPLING = {
    "predictive sampling": teachers.predictive_sampling,
    "mppi": teachers.mppi,
    "cem": teachers.cem,
    "cma_es": teachers.cma_es,
    "dial": teachers.dial,
}
SAMPLING = {name: functools.partial(make, samples=32, noise=NOISE) for name, make in SAMPLING.items()}
PLANNERS = SAMPLING | {
    "ilqr": teachers.ilqr,
    "multiple_shooting": teachers.multiple_shooting,
    "constrained": functools.partial(
        teachers.constrained,
        constraints=teachers.Constraints(at_most=lambda x, u, y, t: np.array([-1.0])),  # always fulfilled
        inner=50,
    ),
    "ilqs": functools.partial(teachers.ilqs, sampler=SAMPLING["predictive sampling"]),
    "best_of": functools.partial(teachers.best_of, planners=(teachers.ilqr, SAMPLING["cem"])),
}
TASKS = {
    "cart": (functools.partial(cart, 20), (1.0, 0.0), 14.9627),
    "pendulum": (functools.partial(pendulum, 40), (2.5, 0.0), 116.44759),
    "reacher": (functools.partial(reacher, 40), (-1.0, 1.0, 0.0, 0.0), 22.1497),
}
"""Task, start, best cost known: the least of iLQR from random starts (`test_best_is_the_best`)."""


@cache
def task(name):
    make, x0, best = TASKS[name]
    return make(), jnp.asarray(x0), best


@cache
def solver(name, of, iterations):
    """(key, x0) → (Solution, what happened)."""
    env, _, _ = task(of)
    planner = PLANNERS[name](env, iterations=iterations)

    def run(key, x0):
        guess = planner.begin(x0, jnp.zeros((env.horizon, env.nu), x0.dtype))
        return planner.improve(key, x0, guess)

    return jax.jit(run)


def sparing(names, quick):
    """`names` as parameters; those that are not `quick` are slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


COMPOSED = ("constrained", "ilqs", "best_of")  # of the others, and with tests of their own
NEAR, EACH = sparing(PLANNERS, ("ilqr",)), sparing(PLANNERS, set(PLANNERS) - set(COMPOSED))


@pytest.mark.parametrize("name", NEAR)
def test_comes_near_the_best_cost_known_in_two_tasks_of_three(name):
    near = []
    for of in TASKS:
        _, x0, best = task(of)
        solution, _ = solver(name, of, 100 if name in SAMPLING else 50)(KEY, x0)
        np.testing.assert_allclose(solution.cost, np.sum(solution.trajectory.costs), rtol=1e-12)
        assert solution.cost > 0.999 * best, "a better optimum than the one known: put it into TASKS"
        near.append(bool(solution.cost <= 1.05 * best))
    assert sum(near) >= 2, near


@pytest.mark.parametrize("of", sparing(TASKS, ("pendulum",)))
def test_best_is_the_best(of):
    env, x0, best = task(of)
    starts = 0.3 * np.max(env.limits.high) * jax.random.normal(KEY, (8, env.horizon, env.nu))
    planner = teachers.ilqr(env, iterations=200)
    costs = jax.jit(jax.vmap(lambda us: planner.solve(x0, us)[0].cost))(starts)
    np.testing.assert_allclose(np.min(costs), best, rtol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_plans_are_what_they_say(name):
    """Inside the limits, repeatable, the trajectory that its controls lead to, a Gaussian around it."""
    env, x0, _ = task("cart")
    run = solver(name, "cart", 3)
    solution, guess = run(KEY, x0)
    again, _ = run(KEY, x0)
    jax.tree.map(np.testing.assert_array_equal, solution, again)
    us = np.asarray(solution.trajectory.us)
    assert np.all(us >= env.limits.low) and np.all(us <= env.limits.high)
    blank = jnp.zeros((20, 1, 2))
    path = env.rollout(x0, LinearGaussian(jnp.zeros((20, 2)), us, blank, blank[..., :1]), jnp.zeros((20, 1)))
    np.testing.assert_allclose(path.xs, solution.trajectory.xs, atol=1e-9)
    cov = np.asarray(solution.controller.cov)
    assert np.all(cov > 0)
    np.testing.assert_allclose(cov * np.asarray(solution.Quu), 1, rtol=1e-8)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((solution, guess)))
    if name in SAMPLING:
        np.testing.assert_allclose(solution.q, -solution.Quu[..., 0] * us, rtol=1e-9)
        other, _ = run(OTHER, x0)
        assert np.any(np.asarray(other.trajectory.us) != us), "another key, the same plan"


@pytest.mark.parametrize("name", EACH)
def test_batches_and_dtypes(name):
    _, x0, _ = task("cart")
    starts = jnp.stack([x0, -0.5 * x0])
    keys = jax.random.split(KEY)
    run = solver(name, "cart", 3)
    together, _ = jax.jit(jax.vmap(run))(keys, starts)
    for i in range(2):
        alone, _ = run(keys[i], starts[i])
        np.testing.assert_allclose(together.cost[i], alone.cost, rtol=1e-6)
    single, guess = run(KEY, x0.astype(jnp.float32))
    floats = [
        leaf.dtype for leaf in jax.tree.leaves((single, guess)) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert set(floats) == {jnp.dtype(jnp.float32)}


def cliff(of, bad):
    """The task with a cost of `bad` beyond a place, which some samples reach."""
    env, x0, _ = task(of)
    return env._replace(cost=lambda x, u, y, t: jnp.where(x[0] > 1.05, bad, env.cost(x, u, y, t))), x0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SAMPLING)
def test_samples_whose_cost_is_no_number_do_not_count(name, bad):
    env, x0 = cliff("cart", bad)
    planner = SAMPLING[name](env, iterations=20)
    solution, trace = jax.jit(planner.solve)(x0, jnp.zeros((20, 1)))
    assert np.sum(trace.lost) > 0
    assert np.isfinite(solution.cost) and solution.cost < trace.mean[0]
    assert solution.status == SolveStatus.MAX_ITERATIONS


@pytest.mark.parametrize("name", SAMPLING)
def test_where_all_is_lost_it_says_so_and_keeps_the_plan(name):
    env, x0 = cliff("cart", np.nan)
    planner = SAMPLING[name](env, iterations=2)
    us = jnp.full((20, 1), 0.25)
    solution, guess = jax.jit(planner.improve)(KEY, x0 + 1.0, planner.begin(x0, us))
    assert solution.status == SolveStatus.DIVERGED and not np.isfinite(solution.cost)
    np.testing.assert_array_equal(guess.us, us)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(guess))


def test_a_planner_that_diverged_begins_again_from_the_best_plan():
    env, x0 = cliff("cart", np.nan)
    planner = teachers.best_of(env, planners=(teachers.ilqr, SAMPLING["cem"]))
    safe, wild = jnp.zeros((20, 1)), jnp.full((20, 1), 8.0)
    sound, lost = planner.begin(x0, safe)[1], planner.begin(x0, wild)[0]
    solution, (guess, _) = jax.jit(planner.improve)(KEY, x0, (lost, sound))
    assert np.isfinite(solution.cost)
    np.testing.assert_allclose(guess.plan.us, solution.trajectory.us, rtol=1e-12)


@pytest.mark.parametrize("name", EACH)
def test_replans_in_closed_loop(name):
    """Under `mpc`, from state to state: the pendulum is up at the end."""
    env, x0, _ = task("pendulum")
    teacher = teachers.mpc(env, horizon=30, iterations=2, initial_iterations=10, planner=PLANNERS[name])

    def advance(carry, t):
        x, state = carry
        action, state = teacher.act(jax.random.fold_in(KEY, t), state, x, t)
        x, status = env.step(x, action.dist.mean)
        return (x, state), (x, status, action.status)

    run = jax.jit(lambda: jax.lax.scan(advance, (x0, teacher.init(KEY, x0)), jnp.arange(80)))
    _, (xs, status, of_labels) = run()
    assert np.all(np.asarray(status) == Status.OK) and np.all(np.asarray(of_labels) == 0)
    assert np.all(np.cos(np.asarray(xs)[-15:, 0]) > 0.97)


@pytest.mark.parametrize("name", PLANNERS)
def test_horizons_and_warm_starts_are_checked(name):
    env, x0, _ = task("cart")
    for wrong in ({"horizon": 0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="horizon >= 1 and iterations >= 1"):
            PLANNERS[name](env, **wrong)
    with pytest.raises(ValueError, match=r"warm start must be \[T, nu\] = \(20, 1\), came \(19, 1\)"):
        PLANNERS[name](env).begin(x0, jnp.zeros((19, 1)))
    with pytest.raises(ValueError, match=r"x0 must be a state of shape .*, came \(1,\)"):
        PLANNERS[name](env).begin(x0[:1], jnp.zeros((20, 1)))


@pytest.mark.parametrize("name", SAMPLING)
def test_controls_without_limits_need_a_scale(name):
    env, x0, _ = task("cart")
    free = env._replace(limits=type(env.limits)(np.array([-np.inf]), np.array([8.0])))
    with pytest.raises(ValueError, match=r"controls \[0\] of cart have no limits.*pass scale"):
        SAMPLING[name](free)
    held = env._replace(limits=type(env.limits)(np.array([8.0]), np.array([8.0])))
    with pytest.raises(ValueError, match=r"controls \[0\] of cart .*no range between them.*pass scale"):
        SAMPLING[name](held)
    planner = SAMPLING[name](free, scale=np.array([8.0]), iterations=5)
    solution, _ = jax.jit(planner.solve)(x0, jnp.zeros((20, 1)))
    assert np.isfinite(solution.cost)


@pytest.mark.parametrize("name", ["ilqr", "multiple_shooting"])
def test_a_cost_without_curvature_in_the_controls_is_solved_by_regularising(name):
    """Quu is singular at the last knot, whose control no cost sees, and at every knot of a flat cost."""
    env, x0, _ = task("cart")
    blind = env._replace(
        cost=lambda x, u, y, t: env.cost(x, 0 * u, y, t), final_cost=lambda x, y: jnp.zeros((), x.dtype)
    )
    solution, _ = jax.jit(PLANNERS[name](blind, iterations=100).solve)(x0, jnp.zeros((20, 1)))
    assert solution.status != SolveStatus.DIVERGED and not solution.definite[-1]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(solution))
    still = blind.rollout(x0, open_loop(env, x0, jnp.zeros((20, 1))), jnp.zeros((20, 1)))
    assert solution.cost < 0.5 * np.sum(still.costs)
    flat = env._replace(cost=lambda x, u, y, t: 0 * x[0], final_cost=lambda x, y: 0 * x[0])
    solution, _ = jax.jit(PLANNERS[name](flat, iterations=5).solve)(x0, jnp.zeros((20, 1)))
    assert not np.any(solution.definite) and np.all(np.isfinite(solution.controller.cov))


GOALS = jnp.asarray([-1.0, 0.2, 0.5, 1.0])


@pytest.mark.parametrize(
    ("objective", "value"),
    {"average": np.mean, "worst": np.max, 0.5: lambda costs: np.mean(np.sort(costs)[-2:])}.items(),
)
def test_a_sample_counts_for_what_it_costs_in_all_worlds(objective, value):
    env, x0, _ = task("cart")
    us = 0.3 * jax.random.normal(KEY, (20, 1))
    costs = []
    for goal in GOALS:
        bound = env.bind(goal)
        costs.append(float(jnp.sum(bound.rollout(x0, open_loop(bound, x0, us), jnp.zeros((20, 1))).costs)))
    planner = SAMPLING["cem"](env, iterations=30, worlds=GOALS, objective=objective)
    solution, trace = jax.jit(planner.solve)(x0, us)
    np.testing.assert_allclose(trace.mean[0], value(costs), rtol=1e-9)
    assert solution.cost < trace.mean[0]
    # What is handed out is its course in the env itself.
    path = env.rollout(x0, open_loop(env, x0, solution.trajectory.us), jnp.zeros((20, 1)))
    np.testing.assert_allclose(path.costs, solution.trajectory.costs, rtol=1e-9)


def test_plans_that_allow_for_other_models_are_better_in_the_worst_of_them():
    """A pendulum whose motor may be weaker than thought: models of one engine, chosen by the context."""
    strong = load_model(PENDULUM)
    models = [strong]
    for gain in (0.6, 0.8):
        weaker = copy.copy(strong)
        weaker.actuator_gainprm[:] *= gain
        models.append(weaker)
    sim = engine(strong, substeps=2, variants=models[1:])
    nominal = pendulum(30)

    def define(context):
        return Task(
            nominal.cost,
            nominal.final_cost,
            nominal.init,
            lambda x, y: x,
            inputs=sim.make_inputs(variant=context),
        )

    env = from_engine(sim, define, default_context=jnp.zeros(()), horizon=30, name="pendulum with variants")
    worlds, x0 = jnp.arange(3.0), jnp.asarray([1.0, 0.0])

    def worst(planner):
        solution, _ = jax.jit(planner.solve)(x0, jnp.zeros((30, 1)))
        costs = []
        for context in worlds:
            bound = env.bind(context)
            path = bound.rollout(x0, open_loop(bound, x0, solution.trajectory.us), jnp.zeros((30, 1)))
            costs.append(float(jnp.sum(path.costs)))
        return max(costs)

    make = functools.partial(teachers.cem, env, iterations=40, samples=32, noise=NOISE)
    assert worst(make(worlds=worlds, objective="worst")) < 0.8 * worst(make())


@pytest.mark.parametrize("make", [teachers.predictive_sampling, teachers.cem, teachers.cma_es])
def test_what_the_env_proposes_is_one_of_the_samples(make):
    """A policy that reads the state and the time, from a plan's own start; one that fails does no harm."""
    env, x0, _ = task("cart")
    start = jnp.int32(3)

    def policy(x, t):
        return -3.0 * x[:1] - 2.0 * x[1:2] + 0.02 * t

    x, us = x0, []
    for t in range(20):
        us.append(jnp.clip(policy(x, start + t), *env.limits))
        x, _ = env.step(x, us[-1])

    def plan(proposal):
        planner = make(env._replace(proposal=proposal), iterations=1, std=1e-3)
        return jax.jit(planner.solve)(x0, jnp.zeros((20, 1)), start)[0]

    np.testing.assert_allclose(plan(policy).trajectory.us, jnp.stack(us), atol=1e-12)
    alone, lost = plan(None), plan(lambda x, t: jnp.full(1, jnp.nan))
    assert plan(policy).cost < 0.9 * alone.cost
    assert np.all(np.isfinite(lost.trajectory.us)) and lost.cost < 1.01 * alone.cost


WRONG = {
    "objective must be 'average', 'worst' or a share": (teachers.mppi, {"worlds": GOALS, "objective": 1.5}),
    "worlds must be contexts with one leading axis": (teachers.mppi, {"worlds": jnp.zeros(())}),
    "std must be positive": (teachers.mppi, {"std": 0.0}),
    "temperature must be positive": (teachers.mppi, {"temperature": -1.0}),
    "at least one must be new": (teachers.cem, {"samples": 4, "keep": 3, "elites": 2}),
    "elites must be between 1 and the number of samples, 64": (teachers.cem, {"elites": 65}),
    "smoothing must be at least 0": (teachers.cem, {"smoothing": 1.0}),
    "least must be positive": (teachers.cem, {"least": 0.0}),
    "at least 4 samples": (teachers.cma_es, {"samples": 3}),
    "over_horizon must be positive": (teachers.dial, {"over_horizon": 0.0}),
    "returns must be one of best, mean": (teachers.cem, {"returns": "worst"}),
    "scale must be positive": (teachers.mppi, {"scale": np.array([0.0])}),
    "at least one planner": (teachers.best_of, {"planners": ()}),
}


@pytest.mark.parametrize("words", WRONG)
def test_settings_that_cannot_work_say_so(words):
    make, options = WRONG[words]
    with pytest.raises(ValueError, match=words):
        make(task("cart")[0], **options)

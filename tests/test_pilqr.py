"""PILQR: the model's part of the cost, how the bound is shared, the composed step, and where it helps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gps_tasks import costs_while_learning
from scipy.optimize import brentq
from test_kl_lqr import T, divergence, m, n, problem
from test_pi2 import dual_minimum, moments

from gps.plant import plant
from gps.types import KLTerm
from teachers.local_lqr import LocalState, Model, local_lqr
from teachers.pi2 import Rollouts
from teachers.pilqr import LEAST, PILQRState, local_pilqr, predicted_costs, shortened

FLAT = plant(
    lambda x, u: x, lambda x, u, y, t: x @ x, lambda x, y: x @ x, n, m, horizon=T, limits=(-1e3, 1e3)
)
"""Of a task the step needs coordinates and limits only, once there are a model and rollouts."""
N, INERTIA = 8, 0.7


def drawn(seed):
    """A random model, a policy around its nominal states and rollouts that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    dynamics, cost, policy, start, noise = given = jax.tree.map(jnp.asarray, problem(rng))
    model = Model(dynamics, cost, noise, start)
    xs = cost.x[None, :T] + 0.3 * rng.normal(size=(N, T, n))
    us = policy.us[None] + 0.4 * rng.normal(size=(N, T, m))
    costs = jnp.asarray(rng.normal(size=(N, T + 1)))
    return given, model, policy, Rollouts(xs, us, costs, jnp.full(N, 1 / N))


def noise(policy, past):
    """z [N, T, m] in u = ū + K (x − x̄) + L z."""
    p, xs, us = jax.tree.map(np.asarray, (policy, past.xs, past.us))
    away = us - p.us - np.einsum("tij,ntj->nti", p.K, xs - p.xs)
    return np.einsum("tij,ntj->nti", np.linalg.inv(np.linalg.cholesky(p.cov)), away)


def rolled(model, policy, past):
    """Costs [N, T+1] of the rollouts' noise along the model, by loops."""
    costs, dynamics, law = jax.tree.map(np.asarray, (model.cost, model.dynamics, policy))
    z, found = noise(policy, past), np.zeros((N, T + 1))
    for i in range(N):
        dx = np.asarray(past.xs[i, 0]) - costs.x[0]
        for t in range(T + 1):
            du = np.zeros(m)
            if t < T:
                du = law.us[t] - costs.u[t] + law.K[t] @ dx + np.linalg.cholesky(law.cov[t]) @ z[i, t]
            both = np.concatenate([dx, du])
            H = np.block([[costs.Q[t], costs.M[t]], [costs.M[t].T, costs.R[t]]])
            found[i, t] = costs.c[t] + np.concatenate([costs.q[t], costs.r[t]]) @ both + 0.5 * both @ H @ both
            if t < T:
                dx = dynamics.A[t] @ dx + dynamics.B[t] @ du
    return found


@functools.cache
def programs():
    """A step of PILQR, one of LQR alone, jitted: (model, policy, …, bound) → the controller, what is told."""
    both, lqr = local_pilqr(FLAT, clusters=0, inertia=INERTIA), local_lqr(FLAT, clusters=0)

    def local(model, policy):
        return LocalState(policy, model.cost.x[0], model, None, jnp.ones(T), jnp.asarray(True))

    def step(model, policy, past, trust, bound):
        state = PILQRState(local(model, policy), past, jnp.full(T, trust))
        state, info = both.improve(state, (KLTerm(policy, bound),))
        return both.controller(state), info | {"next": state.trust}

    def alone(model, policy, bound):
        state, info = lqr.improve(local(model, policy), (KLTerm(policy, bound),))
        return lqr.controller(state), info

    return jax.jit(step), jax.jit(alone)


def with_residual(model, policy, past, residual):
    """The rollouts, costing what the model says and `residual` more."""
    return past._replace(costs=jnp.asarray(rolled(model, policy, past) + residual))


def to_go(costs):
    return np.stack([costs[:, t:].sum(axis=1) for t in range(T)], axis=1)


def test_the_models_part_of_the_cost():
    _, model, policy, past = drawn(0)
    found = jax.jit(functools.partial(predicted_costs, FLAT))(model, policy, past, noise(policy, past))
    np.testing.assert_allclose(found, rolled(model, policy, past), rtol=1e-8)


def test_where_the_model_explains_all_it_is_the_lqr_step():
    given, model, policy, past = drawn(1)
    step, alone = programs()
    new, info = step(model, policy, with_residual(model, policy, past, 5.0), 1.0, 2.0)
    np.testing.assert_allclose(info["trust"], 1)
    lqr, told = alone(model, policy, 2.0)
    for ours, wanted in zip(new, lqr, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_allclose(info["kl"], told["kl"], atol=1e-6)
    np.testing.assert_allclose(info["kl"], divergence(given, new), rtol=1e-6)


def test_the_bound_is_shared_by_what_the_model_explains_and_trust_comes_back_by_doubling():
    _, model, policy, past = drawn(2)
    predicted = rolled(model, policy, past)
    residual = 0.7 * np.random.default_rng(3).normal(size=(N, T + 1)) * predicted.std(axis=0)
    past, bound = with_residual(model, policy, past, residual), 3.0
    whole, rest = to_go(predicted + residual), to_go(residual)
    wanted = []
    for t in range(T):
        _, eta = dual_minimum(whole[:, t], bound / T)
        w = np.exp(-(rest[:, t] - rest[:, t].min()) / eta)
        w /= w.sum()
        wanted.append(1 - w @ np.log(N * w) * T / bound)
    wanted = np.clip(wanted, LEAST, 1)
    assert wanted.min() == LEAST and np.sum(wanted > 0.4) > 2
    for trust in (1.0, 0.2):
        _, info = programs()[0](model, policy, past, trust, bound)
        np.testing.assert_allclose(info["next"], np.minimum(wanted, 2 * trust), rtol=1e-3)
        np.testing.assert_allclose(info["trust"], np.mean(info["next"]))


def drawn_back(shift, cov, room):
    """How far from N(0, I) towards N(shift, cov) the divergence is `room`, or 1."""

    def excess(s):
        mixed = np.eye(m) + s * (cov - np.eye(m))
        return 0.5 * (np.trace(mixed) - m - np.linalg.slogdet(mixed)[1] + s**2 * shift @ shift) - room

    return 1.0 if excess(1.0) <= 0 else brentq(excess, 1e-9, 1.0)


@pytest.mark.parametrize("bound", [0.3, 3.0, 12.0])
def test_a_step_is_lqr_then_pi2_within_the_bound_together(bound):
    given, model, policy, past = drawn(4)
    predicted = rolled(model, policy, past)
    residual = 2 * np.random.default_rng(5).normal(size=(N, T + 1)) * predicted.std(axis=0)
    past, (step, alone) = with_residual(model, policy, past, residual), programs()
    new, info = step(model, policy, past, 1.0, bound)
    assert info["solved"]
    np.testing.assert_allclose(info["kl"], divergence(given, new), rtol=1e-6)
    assert np.sum(info["kl"]) <= bound * (1 + 1e-6)
    first, _ = alone(model, policy, jnp.sum(info["next"]) * bound / T)
    for ours, wanted in ((new.K, first.K), (new.xs, first.xs)):
        np.testing.assert_allclose(ours, wanted, atol=1e-8)
    z, rest, parts = noise(policy, past), to_go(residual), []
    assert np.sum((info["next"] > LEAST) & (info["next"] < 1)) > T // 2
    for t in range(T):
        if not LEAST < info["next"][t] < 1:  # how much PI² has is not seen then
            continue
        room = (1 - float(info["next"][t])) * bound / T
        shift, cov = moments(z[:, t], rest[:, t], room, INERTIA)
        share = drawn_back(shift, cov, room)
        wanted = share * np.linalg.cholesky(first.cov[t]) @ shift
        moved = np.asarray(new.us[t] - first.us[t])
        parts.append(moved @ wanted / (wanted @ wanted))
        np.testing.assert_allclose(moved, parts[-1] * wanted, atol=1e-5)
    np.testing.assert_allclose(parts, parts[0], rtol=1e-2)
    assert 0 < parts[0] < 1.001


@pytest.mark.parametrize("each", [False, True])
def test_where_both_steps_lead_the_same_way_the_second_is_shortened(each):
    given, model, policy, _ = drawn(7)
    first, new = (policy._replace(us=policy.us + jnp.full((T, m), step)) for step in (0.1, 0.4))
    start, end = (divergence(given, law) for law in (first, new))
    bound = 0.6 * start + 0.4 * end
    bound = jnp.asarray(bound if each else bound.sum())
    found, kl = jax.jit(shortened)(model, first, new, policy, bound)
    np.testing.assert_allclose(kl, divergence(given, found), rtol=1e-6)
    np.testing.assert_allclose(kl if each else jnp.sum(kl), bound, rtol=1e-6)
    moved = np.asarray(found.us - policy.us)
    np.testing.assert_allclose(moved, moved[0, 0])  # all along the way from one to the other
    far, kl = jax.jit(shortened)(model, first, new, policy, 9 * bound)
    np.testing.assert_allclose(far.us, new.us, rtol=1e-12)
    np.testing.assert_allclose(kl, end, rtol=1e-6)


def test_without_an_lqr_step_there_is_none_at_all():
    _, model, policy, past = drawn(6)
    broken = model._replace(dynamics=model.dynamics._replace(A=model.dynamics.A.at[3].set(jnp.nan)))
    new, info = programs()[0](broken, policy, past, 1.0, 2.0)
    assert not info["solved"]
    for ours, kept in zip(new, policy, strict=True):
        np.testing.assert_array_equal(ours, kept)
    np.testing.assert_array_equal(info["kl"], 0)


def test_terms_and_settings_that_cannot_work_are_refused_in_words():
    with pytest.raises(ValueError, match="inertia must be positive and finite, got -1"):
        local_pilqr(FLAT, inertia=-1.0)
    teacher, (_, _, policy, _) = local_pilqr(FLAT, clusters=0), drawn(0)
    state = teacher.init(jax.random.key(0), jnp.zeros(n))
    with pytest.raises(ValueError, match="one KL term with a bound and no price"):
        teacher.improve(state, (KLTerm(policy, bound=jnp.asarray(1.0), weight=jnp.ones(T)),))


# ----------------------------------------------------------------------------------------- learning


def distance_read(in_steps):
    """A cart that must get to 1 and stop; `in_steps`, its distance is read in steps of .2: nowhere a slope.

    Without limits: those of the LQR step hold at the rollouts' mean states, far from where it leads.
    """

    def step(x, u):
        return x + 0.1 * jnp.stack([x[1], u[0] - 0.3 * x[1]])

    def cost(x, u, y, t):
        return 0.05 * u[0] ** 2

    def last(x, y):
        away = x[0] - 1.0
        return jnp.where(in_steps, 10 * jnp.floor(5 * jnp.abs(away)), 50 * away**2 + x[1] ** 2)

    return plant(step, cost, last, 2, 1, horizon=20, dt=0.1, limits=(-1e3, 1e3), nv=1, name="distance read")


@pytest.mark.slow
def test_it_is_no_worse_than_lqr_where_that_is_right_and_learns_where_that_sees_nothing():
    def run(make):
        def learn(in_steps):
            teacher = functools.partial(make, clusters=0)
            return costs_while_learning(teacher, distance_read(in_steps), 12, 10.0, rollouts=12)

        return np.asarray(jax.vmap(learn)(jnp.array([False, True])))

    (smooth, steps), (lqr_smooth, lqr_steps) = run(local_pilqr), run(local_lqr)
    assert np.mean(lqr_smooth[:, -1]) < lqr_smooth[0, 0] / 5
    assert np.all(np.mean(smooth, axis=0) < 1.02 * np.mean(lqr_smooth, axis=0))
    assert np.all(lqr_steps[:, -1] > 0.75 * lqr_steps[:, 0])
    assert np.mean(steps[:, -1]) < np.mean(steps[:, 0]) / 5

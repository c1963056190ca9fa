"""Single updates of reinforcement learning: which way they go, and how far."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import students
from gps import replay
from gps.algorithms.hybrid_pg import Natural, _drawn, natural
from gps.algorithms.likelihoods import Windows
from gps.algorithms.off_policy import OffPolicyState, Settings, _cloning, _learner
from gps.algorithms.on_policy import Batch
from gps.algorithms.ppo import Clipped, clipped
from gps.plant import plant
from gps.replay import Transition
from gps.types import Dataset, Limits
from students.critics import critic

KEY = jax.random.key(4)
LIMITS = Limits(-np.ones(1), np.ones(1))
OBS = jnp.array([0.5, -1.0], jnp.float32)
BEST = 0.4


def env():
    return plant(lambda x, u: x, lambda x, u, y, t: u @ u, lambda x, y: x @ x, 2, 1, limits=LIMITS)


def off_policy_state(student, rows, settings):
    """(state, update) with `rows` as all that ever happened."""
    judge = critic(settings.critic_hidden, settings.critics, LIMITS)
    optimizer = optax.adam(settings.learning_rate)
    variables, worth = student.init(KEY, OBS), judge.init(KEY, OBS)
    ring = replay.add(replay.empty(rows.reward.shape[0], jax.tree.map(lambda leaf: leaf[0], rows)), rows)
    price = jnp.float32(np.log(0.01))
    state = OffPolicyState(
        variables, optimizer.init(variables[0]), worth, optimizer.init(worth[0]), worth[0], price,
        optimizer.init(price), ring, None, None, jnp.int32(0), {},
    )  # fmt: skip
    return state, jax.jit(_learner(env(), student, judge, optimizer, settings)), judge


def repeated(state, update, times):
    keys = jax.random.split(KEY, times)
    return jax.jit(lambda state: jax.lax.scan(lambda s, key: update(key, s), state, keys))(state)


def bandit(terminated, reward):
    """Controls all over the limits, always from the same observation to itself."""
    u = jnp.linspace(-1, 1, 64, dtype=jnp.float32)[:, None]
    obs = jnp.tile(OBS, (64, 1))
    return Transition(obs, u, reward(u[:, 0]), obs, jnp.full(64, terminated))


SETTINGS = Settings(batch_size=64, learning_rate=3e-3, discount=0.5, tau=0.05, critic_hidden=(32,))


def test_a_critic_learns_the_reward_and_of_what_follows_unless_it_was_the_end():
    student = students.squashed(1, LIMITS, (8,))
    ends, goes_on = (bandit(over, lambda u: jnp.ones_like(u)) for over in (True, False))
    for rows, expected in ((ends, 1.0), (goes_on, 2.0)):  # Σ γᵏ = 2; a nat of entropy is worth little
        state, update, judge = off_policy_state(student, rows, SETTINGS)
        state, _ = repeated(state, update, 600)
        said = judge.apply(state.critic, OBS, jnp.zeros(1))
        np.testing.assert_allclose(said, expected, atol=0.15)


def test_an_actor_climbs_what_the_critics_say():
    student = students.squashed(1, LIMITS, (8,))
    state, update, _ = off_policy_state(student, bandit(True, lambda u: -4 * (u - BEST) ** 2), SETTINGS)
    state, _ = repeated(state, update, 600)
    assert float(student.apply(state.variables, OBS, ())[0].mode()[0]) == pytest.approx(BEST, abs=0.1)


@pytest.mark.parametrize(("log_std", "rises"), [(-4.0, True), (0.0, False)])
def test_entropy_costs_more_as_long_as_there_is_too_little(log_std, rises):
    student = students.squashed(1, LIMITS, (8,), log_std=log_std)
    state, update, _ = off_policy_state(student, bandit(True, lambda u: 0 * u), SETTINGS)
    after, info = update(KEY, state)
    assert bool(after.log_price > state.log_price) is rises
    assert (float(info["entropy"]) < -1.0) is rises, "the target is −nu nats in units of the half-range"


def test_what_was_shown_draws_the_actor_where_the_critic_prefers_it():
    student = students.squashed(1, LIMITS, (8,))
    variables = student.init(KEY, OBS)
    own = float(student.apply(variables, OBS, ())[0].mode()[0])
    assert abs(own) < 0.1
    value = lambda obs, u: -((u[0] - BEST) ** 2)  # noqa: E731
    for shown, counts in ((0.3, True), (-0.5, False)):
        rows = bandit(True, jnp.zeros_like)._replace(u=jnp.full((64, 1), shown, jnp.float32))
        distance = _cloning(student, variables, rows, 8, value, np.ones(1, np.float32))
        assert float(distance) == pytest.approx((own - shown) ** 2 if counts else 0.0, abs=1e-5)


# ------------------------------------------------------------------------------------- on policy


def collected(student, variables, count=400):
    """Draws from the student, those above its mean better than those below."""
    dist = student.apply(variables, OBS, ())[0]
    u = jax.vmap(dist.sample)(jax.random.split(KEY, count))
    gain = (u[:, 0] - dist.mean[0]) / jnp.sqrt(dist.cov[0, 0])
    windows = Windows(jnp.tile(OBS, (count, 1)), jnp.zeros(count, bool), (), u)
    return jax.tree.map(lambda leaf: leaf[:, None], Batch(windows, jax.vmap(dist.log_prob)(u), gain))


def shown(u, count=20):
    """Demonstrations of one control."""
    obs, u = jnp.tile(OBS, (count, 1)), jnp.full((count, 1), u, jnp.float32)
    fields = dict.fromkeys(Dataset._fields) | {"obs": obs, "action": u, "weight": jnp.ones(count)}
    return Dataset(**fields)


def mean(student, variables):
    return float(student.apply(variables, OBS, ())[0].mean[0])


@pytest.fixture(scope="module")
def actor():
    student = students.mlp(1, (8,), limits=LIMITS)
    variables = student.init(KEY, OBS)
    return student, variables, collected(student, variables)


def test_ppo_makes_better_actions_likelier_and_stops_at_the_clip(actor):
    student, variables, batch = actor
    step = clipped(student, LIMITS, Clipped(epochs=20, parts=4, learning_rate=3e-3, clip=0.2), 1)
    moved, _, info = jax.jit(step.run)(KEY, variables, step.init(variables, None), batch, jnp.int32(0))
    assert mean(student, moved) > mean(student, variables) + 0.01
    opposite = batch._replace(advantage=-batch.advantage)
    back, _, _ = jax.jit(step.run)(KEY, variables, step.init(variables, None), opposite, jnp.int32(0))
    assert mean(student, back) < mean(student, variables) - 0.01
    assert 0 < float(info["kl"]) < 0.2


def test_an_anchor_holds_the_policy_back(actor):
    student, variables, batch = actor
    ways = []
    for anchor in (0.0, 3.0):
        step = clipped(student, LIMITS, Clipped(epochs=20, parts=4, learning_rate=3e-3, anchor=anchor), 1)
        run = jax.jit(step.run)
        moved, _, _ = run(KEY, variables, step.init(variables, None), batch, jnp.int32(0))
        ways.append(mean(student, moved) - mean(student, variables))
    assert 0 < ways[1] < 0.8 * ways[0]


def test_a_natural_step_goes_uphill_as_far_as_it_may(actor):
    student, variables, batch = actor
    for delta in (1e-4, 1e-3):
        step = natural(student, LIMITS, Natural(step=delta, weight=0.0, damping=1e-6, solver_steps=30))
        moved, _, info = jax.jit(partial(step.run))(KEY, variables, shown(-0.9), batch, jnp.int32(0))
        assert mean(student, moved) > mean(student, variables)
        assert float(info["kl"]) == pytest.approx(delta, rel=0.15)


def test_a_metric_of_few_steps_leads_another_way_about_as_far(actor):
    student, variables, _ = actor
    obs = jax.random.normal(KEY, (400, OBS.size), jnp.float32)
    u = jax.random.normal(KEY, (400, 1), jnp.float32)
    windows = Windows(obs, jnp.zeros(400, bool), (), u)
    log_prob = jax.vmap(lambda o, u: student.apply(variables, o, ())[0].log_prob(u))(obs, u)
    batch = jax.tree.map(lambda leaf: leaf[:, None], Batch(windows, log_prob, u[:, 0]))
    ways = []
    for steps in (20, 400, 401):
        step = natural(student, LIMITS, Natural(step=1e-3, weight=0.0, metric_steps=steps))
        moved, _, info = jax.jit(step.run)(KEY, variables, shown(-0.9), batch, jnp.int32(0))
        assert float(info["kl"]) == pytest.approx(1e-3, rel=0.6 if steps == 20 else 0.15)
        ways.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved[0])]))
    np.testing.assert_array_equal(ways[1], ways[2])
    assert np.max(np.abs(ways[0] - ways[1])) > 1e-3
    with pytest.raises(ValueError, match="metric_steps must be at least 1, got 0"):
        natural(student, LIMITS, Natural(metric_steps=0))


def test_the_metric_is_of_steps_drawn_without_repetition_or_of_all():
    rows = {"obs": jnp.arange(50.0)[:, None], "action": 2 * jnp.arange(50)}
    some = _drawn(KEY, rows, 20)
    assert len(np.unique(some["action"])) == 20
    np.testing.assert_array_equal(2 * some["obs"][:, 0], some["action"])
    assert _drawn(KEY, rows, 50) is rows


def test_demonstrations_pull_a_natural_step_ever_less(actor):
    student, variables, batch = actor
    step = natural(student, LIMITS, Natural(step=1e-2, weight=10.0, decay=0.5))
    run = jax.jit(step.run)
    first, _, _ = run(KEY, variables, shown(-0.9), batch, jnp.int32(0))
    late, _, _ = run(KEY, variables, shown(-0.9), batch, jnp.int32(30))
    assert mean(student, first) < mean(student, variables) < mean(student, late)

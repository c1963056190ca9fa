"""Reinforcement learning: its estimates beside sums in NumPy, its algorithms by what users rely on."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import plain, same

import students
from envs.pendulum import pendulum
from gps.algorithms.hybrid_pg import hybrid_pg
from gps.algorithms.hybrid_q import hybrid_q
from gps.algorithms.likelihoods import _held_inside
from gps.algorithms.on_policy import advantages, minibatches
from gps.algorithms.ppo import ppo
from gps.algorithms.pretrain_finetune import pretrain_finetune
from gps.algorithms.q_demo import q_demo
from gps.algorithms.sac import sac
from gps.collect import Experience
from gps.plant import in_every_context
from gps.types import Limits

KEY, OTHER = jax.random.split(jax.random.key(31))
ON = {"num_worlds": 4, "num_steps": 8, "epochs": 2, "parts": 2, "critic_updates": 3, "iterations": 3}
OFF = {"num_worlds": 2, "num_steps": 8, "warm_up": 8, "batch_size": 4, "capacity": 40, "critic_hidden": (4,)}
SHOWN = {"demonstrations": 2, "pretrain_updates": 3}
NATURAL = {name: ON[name] for name in ("num_worlds", "num_steps", "critic_updates")} | {"wait": 0}
ALGORITHMS = {
    "ppo": (ppo, ON),
    "pretrain_finetune": (pretrain_finetune, ON | SHOWN | {"wait": 1}),
    "hybrid_pg": (hybrid_pg, NATURAL | SHOWN),
    "sac": (sac, OFF),
    "q_demo": (q_demo, OFF | {"demonstrations": 2}),
    "hybrid_q": (hybrid_q, OFF | {"demonstrations": 2}),
}
OFF_POLICY = ("sac", "q_demo", "hybrid_q")
DEAR = ("ppo", "pretrain_finetune", "q_demo", "hybrid_q")
CHECKED = [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in ALGORITHMS]


def experience(T=9, W=3):
    rng = np.random.default_rng(0)
    ends = rng.uniform(size=(2, T, W)) < 0.2
    return Experience(
        obs=rng.normal(size=(T, W)), action=(), log_prob=(), reward=rng.normal(size=(T, W)),
        next_obs=rng.normal(size=(T, W)), first=(), terminated=ends[0], truncated=ends[1] & ~ends[0],
    )  # fmt: skip


@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (1.0, 0.0), (0.95, 1.0)])
def test_advantages_are_discounted_sums_of_errors_up_to_the_end(discount, trace):
    rows = experience()
    gain, returns = advantages(jax.tree.map(jnp.asarray, rows), jnp.tanh, discount, trace)
    T, W = rows.reward.shape
    for w in range(W):
        for t in range(T):
            total, weight = 0.0, 1.0
            for k in range(t, T):
                then = 0.0 if rows.terminated[k, w] else np.tanh(rows.next_obs[k, w])
                total += weight * (rows.reward[k, w] + discount * then - np.tanh(rows.obs[k, w]))
                weight *= discount * trace
                if rows.terminated[k, w] or rows.truncated[k, w]:
                    break
            assert float(gain[t, w]) == pytest.approx(total, abs=1e-12)
            assert float(returns[t, w]) == pytest.approx(total + np.tanh(rows.obs[t, w]), abs=1e-12)


def test_a_mean_at_its_limit_is_pushed_inward_only():
    mean, low, high = jnp.array([-1.0, 0.2, 1.0, 1.0]), -jnp.ones(4), jnp.ones(4)
    for sign in (1.0, -1.0):
        weight = sign * jnp.array([1.0, 1.0, 1.0, -1.0])
        slope = jax.grad(lambda mean, weight=weight: weight @ _held_inside(mean, low, high))(mean)
        outward = (np.asarray(mean) == 1) & (weight < 0) | (np.asarray(mean) == -1) & (weight > 0)
        np.testing.assert_array_equal(slope, np.where(outward, 0, weight))
    np.testing.assert_array_equal(_held_inside(mean, low, high), mean)


def test_each_row_is_in_one_minibatch_of_an_epoch():
    rows = {"n": jnp.arange(12), "pair": jnp.stack([jnp.arange(12)] * 2, axis=1)}

    def update(count, part):
        return count + 1, part

    count, parts = minibatches(KEY, rows, 3, 4, update, jnp.int32(0))
    assert int(count) == 12 and parts["n"].shape == (12, 3)
    epochs = np.asarray(parts["n"]).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(parts["pair"][..., 1], parts["n"])


# ----------------------------------------------------------------------------------- algorithms


@cache
def algorithm(name):
    factory, budget = ALGORITHMS[name]
    env = tasks.corridor()
    off = name in OFF_POLICY
    student = students.squashed(2, env.limits, (4,)) if off else students.mlp(2, (4,), limits=env.limits)
    return factory(env, tasks.corridor_teacher, student, test_worlds=2, **budget)


@cache
def stepped(name):
    """(state before, its bits before the step, state after, info) of the second iteration."""
    state, _ = algorithm(name).step(OTHER, algorithm(name).init(KEY))
    bits = jax.tree.map(lambda leaf: plain(leaf).copy(), state)
    return state, bits, *algorithm(name).step(KEY, state)


@pytest.mark.parametrize("name", CHECKED)
def test_an_algorithm_leaves_its_state_alone_and_repeats_itself(name):
    before, bits, after, info = stepped(name)
    assert same(before, bits) and not same(before, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    again, info_again = algorithm(name).step(KEY, before)
    assert same(after, again)
    assert all(np.array_equal(info[n], info_again[n], equal_nan=True) for n in info)
    other, _ = algorithm(name).step(OTHER, before)
    assert not same(after.variables, other.variables)


@pytest.mark.parametrize("name", CHECKED)
def test_the_info_of_an_algorithm_counts(name):
    _, _, after, info = stepped(name)
    assert bool(info["finite"]) and np.isfinite(float(info["student_return"]))
    steps = 2 * np.prod([ALGORITHMS[name][1][n] for n in ("num_worlds", "num_steps")])
    demonstrated = 0 if name in ("ppo", "sac") else int(info["total_simulator_steps"]) - steps
    assert int(info["total_simulator_steps"]) == steps + demonstrated
    assert 0 <= demonstrated <= 2 * tasks.HORIZON and int(after.iteration) == 2
    assert int(info["gradient_updates"]) > 0


@pytest.mark.parametrize(("rate", "expected"), [(0.35, 11), (0.02, 0), (1.5, 48)])
def test_updates_per_step_are_kept_to_over_iterations(rate, expected):
    env = tasks.corridor()
    student = students.squashed(2, env.limits, (4,))
    made = sac(env, None, student, **OFF | {"updates_per_step": rate, "warm_up": 2, "test_worlds": 0})
    state = made.init(KEY)
    for i in range(2):
        state, info = made.step(jax.random.fold_in(OTHER, i), state)
    assert int(info["total_gradient_updates"]) in (expected - 1, expected)


@pytest.mark.parametrize("name", CHECKED)
def test_the_policy_of_an_algorithm_is_its_students_variables(name):
    state = stepped(name)[2]
    policy = algorithm(name).policy(state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(policy))


def test_reinforcement_waits_for_the_critic_and_keeps_what_was_imitated():
    env = tasks.corridor()
    student = students.mlp(2, (4,), limits=env.limits)
    budget = ON | SHOWN | {"test_worlds": 0}
    made = {
        wait: pretrain_finetune(env, tasks.corridor_teacher, student, wait=wait, **budget) for wait in (0, 1)
    }
    states = {wait: made[wait].init(KEY) for wait in made}
    stepped = {wait: made[wait].step(OTHER, states[wait]) for wait in made}
    after = {wait: state for wait, (state, _) in stepped.items()}
    assert int(stepped[0][1]["total_gradient_updates"]) == 3 + 4 + 3, "those of the imitation are counted"
    assert [int(stepped[wait][1]["gradient_updates"]) for wait in (0, 1)] == [4 + 3, 3], "none while it waits"
    assert same(states[1].variables, after[1].variables) and not same(states[1].critic, after[1].critic)
    assert not same(states[0].variables[0], after[0].variables[0])
    assert same(states[0].variables[1], after[0].variables[1]), "inputs stay normalised as they were"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: ppo(env, None, students.mlp(2), clip=1.5), r"clip must be in \(0, 1\), got 1.5"),
        (lambda env: ppo(env, None, students.mlp(2), num_worlds=0), "num_worlds must be at least 1, got 0"),
        (lambda env: ppo(env, None, students.mlp(2), discount=1.1), r"discount must be in \[0, 1\], got 1.1"),
        (
            lambda env: ppo(env, None, students.mlp(2), **ON | {"parts": 99}).step(
                KEY, ppo(env, None, students.mlp(2), **ON | {"parts": 99}).init(KEY)
            ),
            "32 windows cannot be split into 99 minibatches",
        ),
        (
            lambda env: ppo(env, None, students.mlp(2), entropy=np.nan),
            "entropy and anchor must be at least 0",
        ),
        (lambda env: sac(env, None, None, **OFF | {"test_worlds": -1}), "test_worlds and clone must be"),
        (
            lambda env: hybrid_q(env, tasks.corridor_teacher, None, **OFF | {"demonstrated": 0.01}),
            "a share of 0.01 of 4 rows is no row at all",
        ),
        (lambda env: sac(env, None, students.mlp(2), **OFF).init(KEY), "take students.squashed"),
        (
            lambda env: sac(env, None, students.squashed(2, env.limits), **OFF | {"batch_size": 99}),
            "enlarge capacity",
        ),
        (
            lambda env: sac(env._replace(limits=Limits(-np.full(2, np.inf), np.ones(2))), None, None),
            "controls need finite limits",
        ),
        (
            lambda env: pretrain_finetune(env, None, students.mlp(2), anchor=-1.0),
            "anchor must be at least 0",
        ),
        (
            lambda env: pretrain_finetune(env, tasks.corridor_teacher, students.mlp(2), wait=-1),
            "wait must be at least 0, got -1",
        ),
        (
            lambda env: q_demo(env, tasks.corridor_teacher, None, noise=-1.0),
            "noise must be at least 0 and finite, got -1",
        ),
        (lambda env: students.squashed(2, env.limits._replace(high=np.full(2, np.inf))), "needs finite ones"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(tasks.corridor())


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_a_reward_that_is_not_a_number_is_told(name):
    factory, budget = ALGORITHMS[name]
    env = in_every_context(
        tasks.corridor(),
        lambda env: env._replace(reward=lambda x, u, then: jnp.where(x[0] > 0, jnp.nan, 1.0)),
    )
    kind = students.squashed if name == "sac" else students.mlp
    made = factory(env, None, kind(2, hidden=(4,), limits=env.limits), **budget | {"test_worlds": 0})
    state, infos = made.init(KEY), []
    for i in range(2):
        state, info = made.step(jax.random.fold_in(OTHER, i), state)
        infos.append(bool(info["finite"]))
    assert not infos[-1]


# -------------------------------------------------------------------------------------- learning


def gymnasium_pendulum():
    """Pendulum-v1's reward and length."""

    def reward(x, u, x_next):
        angle = jnp.mod(x[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
        return -(angle**2 + 0.1 * x[1] ** 2 + 0.001 * (2 * u[0]) ** 2)

    return in_every_context(pendulum(horizon=200), lambda env: env._replace(reward=reward))


def learned(algorithm, iterations):
    """The last return of the student alone, from a state that its run ends in."""
    state, info = algorithm.init(KEY), {}
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(OTHER, i), state)
    return float(info["student_return"])


@pytest.mark.slow
def test_ppo_swings_a_pendulum_up():
    env = gymnasium_pendulum()
    student = students.mlp(1, (64, 64), limits=env.limits)
    made = ppo(env, None, student, iterations=80, num_worlds=16, num_steps=128, discount=0.95)
    assert learned(made, 80) >= -200


@pytest.mark.slow
def test_sac_swings_a_pendulum_up():
    env = gymnasium_pendulum()
    student = students.squashed(1, env.limits, (64, 64))
    budget = {
        "num_worlds": 4,
        "num_steps": 256,
        "warm_up": 1024,
        "critic_hidden": (64, 64),
        "learning_rate": 1e-3,
    }
    assert learned(sac(env, None, student, **budget), 12) >= -200

"""The loop that off-policy actor-critics share: step worlds, keep what happened, learn from all of it.

Stepping and learning alternate within one jitted program, on the CPU, where the engine is. The variants
differ in what they learn from (`Settings.demonstrated`) and in what else the actor is pulled by
(`Settings.clone`).
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from gps import replay
from gps.algorithms.trials import on_test_worlds
from gps.collect import Running, collector
from gps.dataset import single
from gps.demonstrations import Demonstrations
from gps.episodes import STUDENT
from gps.placement import cpu_fit_jit
from gps.replay import Replay, Transition
from gps.rollout import first_observation
from gps.squashed import Squashed
from gps.types import Action, Algorithm, Env, Student
from students.critics import Critic, critic

__all__ = ["OffPolicyState", "Settings", "off_policy"]


class Settings(NamedTuple):
    """Of the loop; the same for every algorithm that is compared."""

    num_worlds: int = 8
    """Worlds side by side."""
    num_steps: int = 128
    """Control steps per world and iteration."""
    updates_per_step: float = 1.0
    """Gradient updates per control step of one world."""
    warm_up: int = 2048
    """Control steps, in all worlds together, whose controls are drawn uniformly."""
    capacity: int = 200_000
    """Of the replay."""
    batch_size: int = 256
    learning_rate: float = 3e-4
    """Of Adam, for student, critics and α."""
    discount: float = 0.99
    tau: float = 0.005
    """Share of the new parameters in the target's at each update."""
    critics: int = 2
    """Members of the ensemble."""
    layer_norm: bool = False
    """In the critics."""
    critic_hidden: tuple[int, ...] = (256, 256)
    test_worlds: int = 16
    """Worlds on which the student alone is tried after each iteration."""
    demonstrated: float = 0.0
    """Share of each batch that comes from the demonstrations (symmetric sampling: .5)."""
    clone: float = 0.0
    """Weight of the actor's distance from demonstrated controls, where the critic prefers these."""


class OffPolicyState(NamedTuple):
    """All of a run."""

    variables: PyTree
    """The student's."""
    opt_state: PyTree
    critic: PyTree
    critic_opt: PyTree
    target: PyTree
    """The critic's parameters of late."""
    log_price: Float[Array, ""]
    """log α: what a nat of entropy is worth."""
    price_opt: PyTree
    replay: Replay
    demonstrations: Replay | None
    running: Running
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


def off_policy(
    env: Env,
    student: Student,
    settings: Settings,
    demonstrate: Callable[[Key[Array, ""]], Demonstrations] | None = None,
) -> Algorithm:
    """Soft actor-critic, whose student is a `students.squashed`.

    Q(o, u) ← r + γ (min_k Q_k(o', u') − α log π(u'|o')), π ← argmax E[min_k Q_k − α log π]; α keeps the
    entropy at −nu nats in units of the half-range (Haarnoja et al. 2018, appendix D). With more than two
    critics two, drawn anew, make each target, and the student climbs the mean of all (Chen et al. 2021).

    `demonstrate` makes the demonstrations when a run begins: what inputs are divided by is then
    known. Without, it is what the warm-up has seen.

    Raises:
        ValueError: settings that cannot work, or a student with another distribution.
    """
    _check(settings, env, demonstrate is not None)
    judge = critic(settings.critic_hidden, settings.critics, env.limits, layer_norm=settings.layer_norm)
    act = collector(env, student, _explores, 1)
    optimizer = optax.adam(settings.learning_rate)
    learn = _learner(env, student, judge, optimizer, settings)
    try_out = on_test_worlds(env, student, settings.test_worlds)
    rate = Fraction(settings.updates_per_step * settings.num_worlds).limit_denominator(1000)

    @cpu_fit_jit
    def init(key: Key[Array, ""]) -> OffPolicyState:
        student_key, critic_key, world_key, row_key, shown_key = jax.random.split(key, 5)
        bound = env.bind(env.sample_context(row_key))
        obs = first_observation(row_key, bound, bound.init(row_key))
        variables, worth = student.init(student_key, obs), judge.init(critic_key, obs)
        _check_student(student, variables, obs)
        seen, number = single(obs), jnp.float32(0)
        row = Transition(seen, jnp.zeros(env.nu, jnp.float32), number, seen, jnp.asarray(False))
        shown, spent = None, jnp.int32(0)
        if demonstrate is not None:
            made = demonstrate(shown_key)
            shown = replay.add(replay.empty(made.transitions.reward.shape[0], row), made.transitions)
            variables, worth = _see(student, judge, variables, worth, shown, made.transitions.reward.shape[0])
            spent = made.steps
        price, zero = jnp.float32(math.log(0.1)), jnp.int32(0)
        return OffPolicyState(
            variables,
            optimizer.init(variables[0]),
            worth,
            optimizer.init(worth[0]),
            worth[0],
            price,
            optimizer.init(price),
            replay.empty(settings.capacity, row),
            shown,
            act.begin(jax.random.split(world_key, settings.num_worlds)),
            zero,
            {"simulator_steps": spent, "gradient_updates": zero, "crashes": zero},
        )

    def advance(key: Array, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Array]]:
        """One control step in every world."""
        warm = state.replay.written < settings.warm_up
        running, rows, seen = act.run(key, state.running, state.variables, warm)
        row = Transition(rows.obs, rows.action, rows.reward, rows.next_obs, rows.terminated)
        kept = replay.add(state.replay, jax.tree.map(lambda leaf: leaf[0], row))
        state = state._replace(running=running, replay=kept)
        if demonstrate is None:
            over = warm & (kept.written >= settings.warm_up)
            variables, worth = jax.lax.cond(
                over,
                lambda: _see(student, judge, state.variables, state.critic, kept, settings.warm_up),
                lambda: (state.variables, state.critic),
            )
            state = state._replace(variables=variables, critic=worth)
        return state, seen

    def improve(key: Array, state: OffPolicyState, count: Array) -> tuple[OffPolicyState, dict[str, Array]]:
        """The updates that belong to it, and what was seen of the last one."""

        def once(i: Array, carry: tuple) -> tuple:
            return learn(jax.random.fold_in(key, i), carry[0])

        shapes = jax.eval_shape(learn, key, state)[1]
        none = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, count, once, (state, none))

    @cpu_fit_jit
    def iterate(key: Array, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Array]]:
        def step(state: OffPolicyState, i: Array) -> tuple[OffPolicyState, tuple]:
            act_key, learn_key = jax.random.split(jax.random.fold_in(key, i))
            state, seen = advance(act_key, state)
            now = state.iteration * settings.num_steps + i
            due = (now + 1) * rate.numerator // rate.denominator - now * rate.numerator // rate.denominator
            count = jnp.where(state.replay.written >= settings.warm_up, due, 0)
            state, info = improve(learn_key, state, count)
            return state, (seen, info, count)

        steps = jnp.arange(settings.num_steps, dtype=jnp.int32)
        state, (seen, info, updates) = jax.lax.scan(step, state, steps)
        leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((state.variables, state.critic))]
        counts = {
            "simulator_steps": jnp.int32(settings.num_worlds * settings.num_steps),
            "gradient_updates": jnp.sum(updates, dtype=jnp.int32),
            "crashes": jnp.sum(seen["failed"], dtype=jnp.int32),
        }
        totals = {name: total + counts[name] for name, total in state.totals.items()}
        shown = jax.tree.map(jnp.nanmean, info) | counts
        shown |= {f"total_{name}": total for name, total in totals.items()}
        shown |= {
            "driver_return": jnp.nanmean(seen["return"]),
            "entropy_price": jnp.exp(state.log_price),
            "finite": jnp.all(jnp.stack(leaves)),
        }
        return state._replace(iteration=state.iteration + 1, totals=totals), shown

    def step(key: Key[Array, ""], state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Any]]:
        state, info = iterate(key, state)
        return state, info | try_out(state.variables)

    return Algorithm(init, step, lambda state: state.variables)


# ------------------------------------------------------------------------------------- internals


def _explores(key: Array, warm: PyTree, action: Action | None, dist: Squashed, env: Env) -> tuple:
    """A draw from the student, or as long as it is `warm` from anywhere within the limits."""
    low, high = (jnp.asarray(side, dist.mean.dtype) for side in env.limits)
    anywhere = jax.random.uniform(key, dist.mean.shape, dist.mean.dtype, low, high)
    u = jnp.where(warm, anywhere, dist.sample(key))
    return u, dist.log_prob(u), jnp.int32(STUDENT)


def _learner(
    env: Env, student: Student, judge: Critic, optimizer: optax.GradientTransformation, settings: Settings
) -> Callable[[Array, OffPolicyState], tuple[OffPolicyState, dict[str, Array]]]:
    """One update of critic, actor, α and target."""
    low, high = (np.asarray(side, np.float32) for side in env.limits)
    least = float(np.sum(np.log((high - low) / 2))) - env.nu  # entropy, nats
    shown = round(settings.demonstrated * settings.batch_size)

    def draw(variables: PyTree, obs: PyTree, key: Array) -> tuple[Array, Array]:
        dist: Any = student.apply(variables, obs, ())[0]
        return dist.sample_log_prob(key)

    def batch(key: Array, state: OffPolicyState) -> Transition:
        keys = jax.random.split(key)
        own = replay.sample(keys[0], state.replay, settings.batch_size - shown)
        if not shown or state.demonstrations is None:
            return own
        theirs = replay.sample(keys[1], state.demonstrations, shown)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), theirs, own)

    def learn(key: Array, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Array]]:
        batch_key, next_key, member_key, draw_key = jax.random.split(key, 4)
        rows, price = batch(batch_key, state), jnp.exp(state.log_price)
        keys = jax.random.split(next_key, settings.batch_size)
        u, log_prob = jax.vmap(draw, (None, 0, 0))(state.variables, rows.next_obs, keys)
        believed = jax.vmap(judge.apply, (None, 0, 0))((state.target, state.critic[1]), rows.next_obs, u)
        if settings.critics > 2:
            members = jax.random.choice(member_key, settings.critics, (2,), replace=False)
            believed = believed[:, members]
        then = jnp.min(believed, axis=1) - price * log_prob
        wanted = rows.reward + settings.discount * jnp.where(rows.terminated, 0, then)

        def critic_loss(params: PyTree) -> Array:
            said = jax.vmap(judge.apply, (None, 0, 0))((params, state.critic[1]), rows.obs, rows.u)
            return jnp.mean(jnp.sum((said - wanted[:, None]) ** 2, axis=1))

        loss, slope = jax.value_and_grad(critic_loss)(state.critic[0])
        change, critic_opt = optimizer.update(slope, state.critic_opt, state.critic[0])
        worth = optax.apply_updates(state.critic[0], change), state.critic[1]

        def value(obs: PyTree, u: Array) -> Array:
            said = judge.apply(worth, obs, u)
            return jnp.min(said) if settings.critics <= 2 else jnp.mean(said)

        def actor_loss(params: PyTree) -> tuple[Array, Array]:
            variables, keys = (params, state.variables[1]), jax.random.split(draw_key, settings.batch_size)
            u, log_prob = jax.vmap(draw, (None, 0, 0))(variables, rows.obs, keys)
            total = jnp.mean(price * log_prob - jax.vmap(value)(rows.obs, u))
            if settings.clone and shown:
                total += settings.clone * _cloning(student, variables, rows, shown, value, (high - low) / 2)
            return total, jnp.mean(log_prob)

        (gain, log_prob), slope = jax.value_and_grad(actor_loss, has_aux=True)(state.variables[0])
        change, opt_state = optimizer.update(slope, state.opt_state, state.variables[0])
        params = optax.apply_updates(state.variables[0], change)
        change, price_opt = optimizer.update(-(log_prob + least), state.price_opt, state.log_price)
        log_price = optax.apply_updates(state.log_price, change)
        target = jax.tree.map(
            lambda old, new: (1 - settings.tau) * old + settings.tau * new, state.target, worth[0]
        )
        state = state._replace(
            variables=(params, state.variables[1]),
            opt_state=opt_state,
            critic=worth,
            critic_opt=critic_opt,
            target=target,
            log_price=log_price,
            price_opt=price_opt,
        )
        return state, {"critic_loss": loss, "loss": gain, "entropy": -log_prob}

    return learn


def _cloning(
    student: Student,
    variables: PyTree,
    rows: Transition,
    count: int,
    value: Callable[[PyTree, Array], Array],
    half: np.ndarray,
) -> Array:
    """Mean squared distance from the demonstrated controls, in half-ranges, behind a Q-filter.

    Only where the critic says that they are better than the student's own (Nair et al. 2018, equation 5).
    """

    def one(obs: PyTree, shown: Array) -> Array:
        own = student.apply(variables, obs, ())[0].mode()
        better = value(obs, shown) > value(obs, jax.lax.stop_gradient(own))
        return jnp.where(better, jnp.mean(((own - shown) / half) ** 2), 0)

    return jnp.mean(jax.vmap(one)(*(jax.tree.map(lambda leaf: leaf[:count], (rows.obs, rows.u)))))


def _see(
    student: Student, judge: Critic, variables: PyTree, worth: PyTree, seen: Replay, count: int
) -> tuple[PyTree, PyTree]:
    """Student and critic with the input normalisation of the first `count` rows."""
    obs = jax.tree.map(lambda leaf: leaf[:count], seen.rows.obs)
    weight = jnp.ones(jax.tree.leaves(obs)[0].shape[0], jnp.float32)
    return student.observe_statistics(variables, obs, weight), judge.observe_statistics(worth, obs, weight)


def _check_student(student: Student, variables: PyTree, obs: PyTree) -> None:
    kind = jax.eval_shape(lambda: student.apply(variables, obs, student.initial_carry(obs))[0])
    if student.unroll is not None or not isinstance(kind, Squashed):
        raise ValueError(
            "an off-policy actor needs a student without memory that never leaves its limits, this one has a "
            f"{type(kind).__name__}: take students.squashed(env.nu, env.limits)"
        )


def _check(settings: Settings, env: Env, shown: bool) -> None:
    for name in ("num_worlds", "num_steps", "warm_up", "batch_size", "critics"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    for name in ("discount", "tau", "demonstrated"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(settings, name)}")
    if not 0 < settings.updates_per_step < math.inf or not 0 < settings.learning_rate < math.inf:
        raise ValueError("updates_per_step and learning_rate must be positive and finite")
    if settings.capacity < max(settings.batch_size, settings.num_worlds, settings.warm_up):
        raise ValueError(
            f"a replay of {settings.capacity} rows does not hold a batch of {settings.batch_size} or a "
            f"warm-up of {settings.warm_up}: enlarge capacity"
        )
    if settings.test_worlds < 0 or not 0 <= settings.clone < math.inf:
        raise ValueError(
            f"test_worlds and clone must be at least 0, got {settings.test_worlds} and {settings.clone}"
        )
    rows = round(settings.demonstrated * settings.batch_size)
    if rows > 0 and not shown:
        raise ValueError("there are no demonstrations to learn from: leave demonstrated 0")
    if shown and rows == 0:
        raise ValueError(
            f"a share of {settings.demonstrated} of {settings.batch_size} rows is no row at all: enlarge it"
        )
    if not np.all(np.isfinite([env.limits.low, env.limits.high])):
        raise ValueError(
            f"{env.name}: controls need finite limits, got {env.limits.low} to {env.limits.high}"
        )

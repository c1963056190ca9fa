"""Deep Q-learning from demonstrations: a few controls to choose from (DQfD: Hester et al. 2018)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.algorithms.trials import on_test_worlds
from gps.choice import Ranked, nearest
from gps.collect import Running, collector
from gps.dataset import single
from gps.demonstrations import outcomes
from gps.episodes import STUDENT, TEACHER, Drive, episodes
from gps.placement import cpu_fit_jit
from gps.priorities import draw
from gps.rollout import first_observation
from gps.types import Action, Algorithm, Env, Student, Teacher

__all__ = ["DQfDState", "Row", "dqfd", "look_ahead"]


class Row(NamedTuple):
    """A step of the replay, and what came of it n steps later; numbers in single precision."""

    obs: PyTree
    choice: Int[Array, ""]
    reward: Float[Array, ""]
    next_obs: PyTree
    discount: Float[Array, ""]
    """γ, or 0 behind a failure."""
    far_return: Float[Array, ""]
    """Σ_i γ^i r of the next n steps, of fewer where the episode or the piece of it ends."""
    far_obs: PyTree
    far_discount: Float[Array, ""]
    """γ to the power of these, or 0 behind a failure."""


class DQfDState(NamedTuple):
    """All of a run."""

    variables: PyTree
    """The student's: parameters and statistics of its Q-function."""
    opt_state: PyTree
    target: PyTree
    """Parameters of late."""
    unit: Float[Array, ""]
    """Standard deviation of the discounted returns from every demonstrated step on: values are in this."""
    rows: Row
    """The demonstrations, which stay, and then a ring of its own steps."""
    meant: Bool[Array, " N"]
    """Whether somebody showed it who stands by it."""
    error: Float[Array, " N"]
    """|δ| when a row was last learned from; a new row's is the largest so far."""
    known: Bool[Array, " N"]
    """Whether there is such a row."""
    written: Int[Array, ""]
    """Own rows ever written."""
    running: Running
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


def dqfd(
    env: Env,
    make_teacher: Callable[[Env], Teacher],
    student: Student,
    *,
    demonstrations: int = 20,
    pretrain_updates: int = 5000,
    margin: float = 0.8,
    supervised: float = 1.0,
    far: float = 1.0,
    n: int = 10,
    decay: float = 1e-5,
    explore: float = 0.01,
    num_worlds: int = 8,
    num_steps: int = 64,
    updates_per_step: float = 1.0,
    capacity: int = 50_000,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    discount: float = 0.99,
    tau: float = 0.005,
    alpha: float = 0.4,
    beta: float = 0.6,
    bonus: float = 1.0,
    test_worlds: int = 16,
) -> Algorithm:
    """J = J_1 + λ₁ J_n + λ₂ J_E + λ₃ ‖θ‖²: double Q-learning that never forgets what was shown.

    J_E = max_a [Q(o, a) + margin · 1(a ≠ a_E)] − Q(o, a_E), of demonstrations only: what was done is worth
    more than anything else by the margin, in standard deviations of the demonstrated returns. Rows are drawn
    by priority (|δ| + ε)^α, demonstrations with a bonus ε. The teacher's control is taken as the choice next
    to it. With `supervised` 0 it is double Q-learning with demonstrations in the replay. Beyond the paper:
    the target follows by Polyak averaging, and is the policy that is returned, for it is steadier than the
    parameters of the last update.

    Args:
        env: the task.
        make_teacher: Env → Teacher, who shows whole episodes.
        student: a `students.ranked`.
        demonstrations: episodes that are shown.
        pretrain_updates: gradient updates on these alone, before the first step in the env.
        margin: by which what was shown has to be better, in standard deviations of the demonstrated returns.
        supervised: λ₂.
        far: λ₁, of the n-step error.
        n: steps of it.
        decay: λ₃.
        explore: how often a choice is made at random.
        num_worlds: worlds side by side.
        num_steps: control steps per world and iteration.
        updates_per_step: gradient updates per control step of one world.
        capacity: own steps that are remembered.
        batch_size: rows per update.
        learning_rate: of Adam.
        discount: γ.
        tau: share of the new parameters in the target's at each update.
        alpha: how much priorities matter, 0 not at all.
        beta: how far weights undo them, 1 wholly.
        bonus: ε of demonstrations; that of own steps is .001.
        test_worlds: worlds on which the student alone is tried after each iteration.

    Raises:
        ValueError: settings that cannot work, or a student that does not choose.
    """
    if env.horizon < 2:
        raise ValueError(f"demonstrations need an episode of two steps, {env.name} has {env.horizon}")
    _check(
        {"demonstrations": demonstrations, "n": n, "num_worlds": num_worlds, "num_steps": num_steps}
        | {"batch_size": batch_size, "capacity": capacity - num_worlds * num_steps + 1},
        {"discount": discount, "tau": tau, "explore": explore, "alpha": alpha, "beta": beta},
        {"margin": margin, "supervised": supervised, "far": far, "decay": decay, "bonus": bonus}
        | {"pretrain_updates": pretrain_updates, "test_worlds": test_worlds},
        {"learning_rate": learning_rate, "updates_per_step": updates_per_step},
    )
    act = collector(env, student, _explores, num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(learning_rate))
    try_out = on_test_worlds(env, student, test_worlds)
    shown = demonstrations * env.horizon
    floor = jnp.where(jnp.arange(shown + capacity) < shown, bonus, 1e-3).astype(jnp.float32)

    def values(params: PyTree, statistics: PyTree, obs: PyTree) -> Float[Array, " K"]:
        dist: Any = student.apply((params, statistics), obs, ())[0]
        return dist.values

    def learn(key: Array, state: DQfDState) -> tuple[DQfDState, dict[str, Array]]:
        """One update."""
        priority = jnp.where(state.known, (state.error + floor) ** alpha, 0)
        slots, weight = draw(key, priority, batch_size, beta)
        rows, taught = jax.tree.map(lambda leaf: leaf[slots], state.rows), state.meant[slots]
        params, statistics = state.variables

        def wanted(reward: Array, discount: Array, obs: PyTree) -> Array:
            best = jnp.argmax(values(params, statistics, obs))
            return reward + discount * values(state.target, statistics, obs)[best]

        near = jax.vmap(wanted)(rows.reward / state.unit, rows.discount, rows.next_obs)
        later = jax.vmap(wanted)(rows.far_return / state.unit, rows.far_discount, rows.far_obs)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            said = jax.vmap(values, (None, None, 0))(params, statistics, rows.obs)
            done = jax.nn.one_hot(rows.choice, said.shape[1], dtype=said.dtype)
            own = jnp.sum(said * done, axis=1)
            short = jnp.max(said + margin * (1 - done), axis=1) - own
            each = (near - own) ** 2 + far * (later - own) ** 2 + supervised * jnp.where(taught, short, 0)
            size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            expert = jnp.sum(jnp.where(taught, short, 0)) / jnp.maximum(jnp.sum(taught), 1)
            return jnp.mean(weight * each) + decay * size, (jnp.abs(near - own), expert)

        (total, (error, expert)), slope = jax.value_and_grad(loss, has_aux=True)(params)
        change, opt_state = optimizer.update(slope, state.opt_state, params)
        params = optax.apply_updates(params, change)
        target = jax.tree.map(lambda old, new: (1 - tau) * old + tau * new, state.target, params)
        state = state._replace(
            variables=(params, statistics),
            opt_state=opt_state,
            target=target,
            error=state.error.at[slots].set(error),
        )
        return state, {"loss": total, "margin_loss": expert, "demonstrated": jnp.mean(taught)}

    def several(key: Array, state: DQfDState, count: int) -> tuple[DQfDState, dict[str, Array]]:
        """`count` updates, and the means of what they saw."""
        one = lambda state, i: learn(jax.random.fold_in(key, i), state)  # noqa: E731
        state, info = jax.lax.scan(one, state, jnp.arange(count))
        return state, jax.tree.map(jnp.mean, info)

    @cpu_fit_jit
    def init(key: Key[Array, ""]) -> DQfDState:
        student_key, world_key, row_key, show_key, learn_key = jax.random.split(key, 5)
        bound = env.bind(env.sample_context(row_key))
        variables = student.init(student_key, first_observation(row_key, bound, bound.init(row_key)))
        rows, known, meant, spent = show(show_key, variables)
        seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (rows, known, known & meant))
        params, statistics = student.observe_statistics(variables, seen[0].obs, seen[1].astype(jnp.float32))

        def room(leaf: Array) -> Array:
            return jnp.concatenate([leaf, jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype)])

        zero = jnp.int32(0)
        state = DQfDState(
            (params, statistics),
            optimizer.init(params),
            params,
            _unit(rows, known, discount),
            jax.tree.map(room, seen[0]),
            room(seen[2]),
            jnp.ones(shown + capacity, jnp.float32),
            room(seen[1]),
            zero,
            act.begin(jax.random.split(world_key, num_worlds)),
            zero,
            {"simulator_steps": spent, "gradient_updates": jnp.int32(pretrain_updates), "crashes": zero},
        )
        return several(learn_key, state, pretrain_updates)[0] if pretrain_updates else state

    def show(key: Array, variables: PyTree) -> tuple[Row, Array, Array, Int[Array, ""]]:
        """Demonstrations [T, W], which rows there are, which the teacher stands by, control steps taken."""
        controls = _controls(student, variables, env)
        run = episodes(env, _chooses(controls), env.horizon, make_teacher=make_teacher, replace=False)
        steps = run(jax.random.split(key, demonstrations), (), ())
        following, known = outcomes(steps)
        last = ~jnp.concatenate([known[1:], jnp.zeros_like(known[:1])])
        choice = jax.vmap(jax.vmap(lambda u: nearest(controls, u.astype(controls.dtype))))(steps.u)
        rows = look_ahead(
            single(steps.obs),
            choice,
            single(steps.reward),
            single(following),
            steps.failed,
            last,
            (n, discount),
        )
        assert steps.action is not None, "a teacher drove"
        meant = steps.action.status == 0
        return rows, known, meant, jnp.sum(steps.alive, dtype=jnp.int32)

    @cpu_fit_jit
    def iterate(key: Array, state: DQfDState) -> tuple[DQfDState, dict[str, Array]]:
        act_key, learn_key = jax.random.split(key)
        controls = _controls(student, state.variables, env)
        running, seen, info = act.run(act_key, state.running, state.variables, jnp.float32(explore))
        choice = jax.vmap(jax.vmap(lambda u: nearest(controls, u)))(seen.action.astype(controls.dtype))
        ends = seen.terminated | seen.truncated
        ends = ends.at[-1].set(True)
        rows = look_ahead(seen.obs, choice, seen.reward, seen.next_obs, seen.terminated, ends, (n, discount))
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        slots = shown + (state.written + jnp.arange(num_worlds * num_steps)) % capacity
        state = state._replace(
            running=running,
            rows=jax.tree.map(lambda old, new: old.at[slots].set(new.astype(old.dtype)), state.rows, flat),
            error=state.error.at[slots].set(jnp.max(jnp.where(state.known, state.error, 0))),
            known=state.known.at[slots].set(True),
            written=state.written + slots.shape[0],
        )
        updates = max(1, round(updates_per_step * num_worlds * num_steps))
        state, learned = several(learn_key, state, updates)
        leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.variables)]
        counts = {
            "simulator_steps": jnp.int32(slots.shape[0]),
            "gradient_updates": jnp.int32(updates),
            "crashes": info["failed"].astype(jnp.int32),
        }
        totals = {name: total + counts[name] for name, total in state.totals.items()}
        learned |= counts | {f"total_{name}": total for name, total in totals.items()}
        learned |= {"driver_return": info["return"], "finite": jnp.all(jnp.stack(leaves))}
        return state._replace(iteration=state.iteration + 1, totals=totals), learned

    def step(key: Key[Array, ""], state: DQfDState) -> tuple[DQfDState, dict[str, Any]]:
        state, info = iterate(key, state)
        return state, info | try_out(policy(state))

    def policy(state: DQfDState) -> tuple[PyTree, PyTree]:
        return state.target, state.variables[1]

    return Algorithm(init, step, policy)


def look_ahead(
    obs: PyTree,
    choice: Int[Array, "T W"],
    reward: Float[Array, "T W"],
    next_obs: PyTree,
    failed: Bool[Array, "T W"],
    last: Bool[Array, "T W"],
    horizon: tuple[int, float],
) -> Row:
    """Rows [T, W] with their returns of up to n steps; `horizon` is (n, γ).

    What comes behind a step that is `last` of its piece of an episode is not known; if it failed, nothing
    comes.
    """
    n, discount = horizon
    near = discount * (1 - failed.astype(reward.dtype))
    total, then, factor = reward, next_obs, near

    def later(leaf: Array) -> Array:
        return jnp.concatenate([leaf[1:], leaf[-1:]])

    def pick(far: Array, close: Array) -> Array:
        return jnp.where((last | failed).reshape(*last.shape, *[1] * (close.ndim - 2)), close, far)

    for _ in range(n - 1):
        total = pick(reward + discount * later(total), reward)
        then = jax.tree.map(lambda far, close: pick(later(far), close), then, next_obs)
        factor = pick(discount * later(factor), near)
    return Row(obs, choice.astype(jnp.int32), reward, next_obs, near, total, then, factor)


# ------------------------------------------------------------------------------------- internals


def _unit(rows: Row, known: Bool[Array, "T W"], discount: float) -> Array:
    """Standard deviation of the discounted sums of reward from each demonstrated step on; 1 if all agree."""

    def back(following: Array, knot: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, there = knot
        total = jnp.where(there, reward + discount * following, 0)
        return total, total

    returns = jax.lax.scan(back, jnp.zeros_like(rows.reward[0]), (rows.reward, known), reverse=True)[1]
    spread = jnp.std(returns, where=known)
    return jnp.where(spread > 1e-6 * jnp.max(jnp.abs(returns)), spread, 1)


def _controls(student: Student, variables: PyTree, env: Env) -> Float[Array, "K nu"]:
    """That the student chooses from.

    Raises:
        ValueError: it does not choose.
    """
    key = jax.random.key(0)
    obs = first_observation(key, env, env.init(key))
    dist: Any = student.apply(variables, obs, student.initial_carry(obs))[0]
    if student.unroll is not None or not isinstance(dist, Ranked):
        raise ValueError(
            "dqfd needs a student without memory that ranks its controls, this one has a "
            f"{type(dist).__name__}: take students.ranked(env.nu, env.limits)"
        )
    return dist.controls


def _chooses(controls: Float[Array, "K nu"]) -> Drive:
    """The teacher drives, by the control next to what it wants."""

    def drive(key: Array, settings: PyTree, action: Action, dist: None, env: Env) -> tuple:
        wanted = action.dist.mean
        u = controls[nearest(controls, wanted.astype(controls.dtype))].astype(wanted.dtype)
        u = jnp.where(jnp.all(jnp.isfinite(wanted)), u, wanted)  # a failure, as everywhere
        return u, jnp.zeros((), u.dtype), jnp.int32(TEACHER)

    return drive


def _explores(key: Array, share: PyTree, action: None, dist: Ranked, env: Env) -> tuple:
    """The best control, but a share of the time one at random."""
    lot, pick = jax.random.split(key)
    count = dist.values.shape[0]
    other = dist.controls[jax.random.randint(pick, (), 0, count)]
    u = jnp.where(jax.random.bernoulli(lot, share), other, dist.mode())
    chance = share / count + (1 - share) * jnp.exp(dist.log_prob(u))
    return u, jnp.log(chance), jnp.int32(STUDENT)


def _check(
    counts: dict[str, int], shares: dict[str, float], sizes: dict[str, float], rates: dict[str, float]
) -> None:
    for name, value in counts.items():
        if value < 1:
            least = "a piece of num_worlds * num_steps rows" if name == "capacity" else "1"
            raise ValueError(f"{name} must be at least {least}")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    for name, value in sizes.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    for name, value in rates.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")

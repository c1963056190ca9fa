"""The loop that policy gradients share: collect, estimate advantages, improve the policy, fit the critic.

They differ in the step that improves the policy (`Improve`). Collecting runs on the CPU, where the engine is;
everything else on the student's device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.algorithms.likelihoods import Windows
from gps.algorithms.trials import on_test_worlds
from gps.collect import Experience, Running, collector, student_samples
from gps.placement import cpu_jit, student_jit
from gps.rollout import first_observation
from gps.types import Algorithm, Dataset, Env, Student
from students.critics import Critic, critic

__all__ = [
    "Batch",
    "Improve",
    "OnPolicyState",
    "Settings",
    "Taught",
    "advantages",
    "minibatches",
    "on_policy",
]


class Settings(NamedTuple):
    """Of the loop; the same for every policy gradient that is compared."""

    num_worlds: int = 32
    """Worlds side by side."""
    num_steps: int = 64
    """Control steps per world and iteration."""
    discount: float = 0.99
    trace: float = 0.95
    """λ of the advantage estimate: 0 trusts the critic, 1 the returns."""
    critic_updates: int = 80
    """Per iteration."""
    critic_batch: int = 256
    critic_rate: float = 1e-3
    """Learning rate of Adam."""
    critic_hidden: tuple[int, ...] = (64, 64)
    wait: int = 0
    """Iterations at the beginning in which the critic alone learns."""
    test_worlds: int = 16
    """Worlds on which the student alone is tried after each iteration."""


class Batch(NamedTuple):
    """What a policy is improved on: n windows of L steps, L = 1 for students without memory."""

    windows: Windows
    log_prob: Float[Array, "n L"]
    """Under the policy that collected."""
    advantage: Float[Array, "n L"]
    """Mean 0, standard deviation 1 over the batch."""


class Improve(NamedTuple):
    """The part that tells policy gradients apart."""

    init: Callable[[PyTree, Dataset | None], PyTree]
    """(student's variables, demonstrations) → what it keeps from iteration to iteration (its optimiser)."""
    run: Callable[..., tuple[PyTree, PyTree, dict[str, Array]]]
    """(key, variables, kept, batch, iteration) → (variables, kept, info with the number of `updates`)."""


class Taught(NamedTuple):
    """A student that has been taught by demonstrations."""

    variables: PyTree
    labels: Dataset | None
    steps: Int[Array, ""]
    """Control steps that it took."""
    updates: Int[Array, ""]
    """Gradient updates that it took."""


class Scale(NamedTuple):
    """Mean and spread of returns, of late: critics predict returns in these units."""

    weight: Float[Array, ""]
    mean: Float[Array, ""]
    square: Float[Array, ""]


class OnPolicyState(NamedTuple):
    """All of a run."""

    variables: PyTree
    """The student's."""
    kept: PyTree
    """`Improve.init`."""
    critic: PyTree
    critic_opt: PyTree
    scale: Scale
    running: Running
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


def on_policy(
    env: Env,
    student: Student,
    improve: Improve,
    settings: Settings,
    taught: Callable[[Key[Array, ""]], Taught] | None = None,
) -> Algorithm:
    """Actor and critic on the same experience, which is used in one iteration only.

    `taught` makes the student's variables when a run begins. Such a student keeps the input normalisation
    that it was taught with; without, it follows what is seen.

    Raises:
        ValueError: settings that cannot work.
    """
    _check(settings)
    collect = collector(env, student, student_samples, settings.num_steps)
    judge = critic(settings.critic_hidden, activation="tanh")
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(settings.critic_rate))
    try_out = on_test_worlds(env, student, settings.test_worlds)

    @cpu_jit
    def begin(key: Array, world_key: Array) -> tuple[PyTree, Running]:
        """What is seen first, and the worlds."""
        bound = env.bind(env.sample_context(key))
        seen = first_observation(key, bound, bound.init(key))
        return seen, collect.begin(jax.random.split(world_key, settings.num_worlds))

    def init(key: Key[Array, ""]) -> OnPolicyState:
        student_key, critic_key, world_key, row_key = jax.random.split(key, 4)
        (obs, running), zero = begin(row_key, world_key), jnp.int32(0)
        before = (
            Taught(student.init(student_key, obs), None, zero, zero)
            if taught is None
            else taught(student_key)
        )
        worth = judge.init(critic_key, obs)
        return OnPolicyState(
            before.variables,
            improve.init(before.variables, before.labels),
            worth,
            optimizer.init(worth[0]),
            Scale(*(jnp.float32(0),) * 3),
            running,
            zero,
            {"simulator_steps": before.steps, "gradient_updates": before.updates, "crashes": zero},
        )

    @cpu_jit
    def gather(key: Array, state: OnPolicyState) -> tuple[Running, PyTree, Experience, dict[str, Array]]:
        running, rows, info = collect.run(key, state.running, state.variables, ())
        return running, state.running.world.carry, rows, info

    @student_jit
    def learn(
        key: Array, state: OnPolicyState, carry: PyTree, rows: Experience
    ) -> tuple[OnPolicyState, dict]:
        policy_key, critic_key = jax.random.split(key)
        worth = _told(judge, state.critic, state.scale)
        gain, returns = advantages(rows, worth, settings.discount, settings.trace)
        batch = _batch(student, rows, carry, gain)
        variables, kept, info = _after(
            settings.wait, improve, policy_key, state.variables, state.kept, batch, state.iteration
        )
        scale = _rescale(state.scale, returns)
        flat = _flat(rows.obs)
        fitted, critic_opt, loss = _fit_critic(
            critic_key,
            judge,
            optimizer,
            (state.critic, state.critic_opt),
            (flat, returns.reshape(-1), scale),
            settings,
        )
        if taught is None:
            variables = student.observe_statistics(variables, flat, jnp.ones(rows.reward.size, jnp.float32))
        leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((variables, fitted, loss))]
        explained = 1 - jnp.var(gain) / jnp.maximum(jnp.var(returns), 1e-12)
        info |= {"critic_loss": loss, "explained": explained, "finite": jnp.all(jnp.stack(leaves))}
        state = state._replace(
            variables=variables,
            kept=kept,
            critic=fitted,
            critic_opt=critic_opt,
            scale=scale,
            iteration=state.iteration + 1,
        )
        return state, info

    def step(key: Key[Array, ""], state: OnPolicyState) -> tuple[OnPolicyState, dict[str, Any]]:
        collect_key, learn_key = jax.random.split(key)
        running, carry, rows, seen = gather(collect_key, state)
        state, info = learn(learn_key, state._replace(running=()), carry, rows)
        counts = {
            "simulator_steps": rows.reward.size,
            "gradient_updates": int(info.pop("updates")) + settings.critic_updates,
            "crashes": int(seen["failed"]),
        }
        totals = {name: total + counts[name] for name, total in state.totals.items()}
        info |= counts | {"driver_return": seen["return"]}
        info |= {f"total_{name}": count for name, count in totals.items()} | try_out(state.variables)
        return state._replace(running=running, totals=totals), info

    return Algorithm(init, step, lambda state: state.variables)


def advantages(
    rows: Experience, worth: Callable[[PyTree], Float[Array, ""]], discount: float, trace: float
) -> tuple[Float[Array, "T W"], Float[Array, "T W"]]:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), and the returns they imply.

    δ_t = r_t + γ V(o_{t+1}) − V(o_t), A_t = δ_t + γλ A_{t+1}. Behind a failure nothing is worth anything;
    an episode that is cut, or the piece's end, is worth what the critic says of what comes next.
    """
    now, then = jax.vmap(jax.vmap(worth))(rows.obs), jax.vmap(jax.vmap(worth))(rows.next_obs)
    errors = rows.reward + discount * jnp.where(rows.terminated, 0, then) - now
    goes_on = ~(rows.terminated | rows.truncated)

    def back(following: Array, knot: tuple[Array, Array]) -> tuple[Array, Array]:
        error, goes_on = knot
        gain = error + discount * trace * jnp.where(goes_on, following, 0)
        return gain, gain

    gain = jax.lax.scan(back, jnp.zeros_like(errors[0]), (errors, goes_on), reverse=True)[1]
    return gain, gain + now


def minibatches(
    key: Key[Array, ""],
    rows: PyTree,
    epochs: int,
    count: int,
    update: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
) -> tuple[PyTree, PyTree]:
    """`update`(carry, minibatch) → (carry, info) over `epochs` passes in `count` shuffled parts each.

    Rows that are left over of an epoch wait for the next. The info returned is that of every update.
    """
    total = jax.tree.leaves(rows)[0].shape[0]
    size = total // count
    if size < 1:
        raise ValueError(
            f"{total} windows cannot be split into {count} minibatches: take fewer parts, more worlds"
        )

    def epoch(carry: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        order = jax.random.permutation(key, total)[: size * count].reshape(count, size)
        return jax.lax.scan(
            lambda c, part: update(c, jax.tree.map(lambda leaf: leaf[part], rows)), carry, order
        )

    carry, info = jax.lax.scan(epoch, carry, jax.random.split(key, epochs))
    return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), info)


# ------------------------------------------------------------------------------------- internals


def _after(
    wait: int, improve: Improve, key: Array, variables: PyTree, kept: PyTree, batch: Batch, iteration: Array
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """`improve.run`, whose iterations are counted from `wait` on; before, nothing is done."""

    def run() -> tuple[PyTree, PyTree, dict[str, Array]]:
        return improve.run(key, variables, kept, batch, iteration - wait)

    def rest() -> tuple[PyTree, PyTree, dict[str, Array]]:
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run)[2])
        return variables, kept, none

    return jax.lax.cond(iteration < wait, rest, run) if wait else run()


RECENT = 0.3
"""Weight of an iteration's returns in their mean and spread."""


def _spread(scale: Scale) -> tuple[Array, Array]:
    """(mean, standard deviation); 0 and 1 before there are any returns."""
    weight = jnp.where(scale.weight > 0, scale.weight, 1)
    mean = scale.mean / weight
    std = jnp.sqrt(jnp.maximum(scale.square / weight - mean**2, 1e-8))
    return mean, jnp.where(scale.weight > 0, std, 1)


def _rescale(scale: Scale, returns: Array) -> Scale:
    new = Scale(jnp.float32(1), jnp.mean(returns), jnp.mean(returns**2))
    return jax.tree.map(lambda old, new: (1 - RECENT) * old + RECENT * new, scale, new)


def _told(judge: Critic, variables: PyTree, scale: Scale) -> Callable[[PyTree], Array]:
    """Observation → value in units of the reward."""
    mean, std = _spread(scale)
    return lambda obs: mean + std * judge.apply(variables, obs)[0]


def _fit_critic(
    key: Array,
    judge: Critic,
    optimizer: optax.GradientTransformation,
    fitted: tuple[PyTree, PyTree],
    data: tuple[PyTree, Array, Scale],
    settings: Settings,
) -> tuple[PyTree, PyTree, Array]:
    """(variables, optimiser's state, mean loss): regression to the returns in units of `scale`."""
    (worth, opt_state), (obs, returns, scale) = fitted, data
    mean, std = _spread(scale)
    params, moments = judge.observe_statistics(worth, obs, jnp.ones(returns.shape, jnp.float32))
    targets = (returns - mean) / std
    size = min(settings.critic_batch, returns.shape[0])

    def loss(params: PyTree, rows: Array) -> Array:
        seen = jax.tree.map(lambda leaf: leaf[rows], obs)
        told = jax.vmap(lambda one: judge.apply((params, moments), one)[0])(seen)
        return jnp.mean((told - targets[rows]) ** 2)

    def update(carry: tuple, key: Array) -> tuple[tuple, Array]:
        params, opt_state = carry
        rows = jax.random.randint(key, (size,), 0, returns.shape[0])
        value, gradient = jax.value_and_grad(loss)(params, rows)
        change, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, change), opt_state), value

    keys = jax.random.split(key, settings.critic_updates)
    (params, opt_state), losses = jax.lax.scan(update, (params, opt_state), keys)
    return (params, moments), opt_state, jnp.mean(losses)


def _batch(student: Student, rows: Experience, carry: PyTree, gain: Array) -> Batch:
    """Windows: whole worlds [W, T] for a student that remembers, else single steps [T W, 1]."""
    gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
    steps = Batch(Windows(rows.obs, rows.first, (), rows.action), rows.log_prob, gain)
    if student.unroll is not None:
        whole = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), steps)
        return whole._replace(windows=whole.windows._replace(carry=carry))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[2:]), steps)


def _flat(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _check(settings: Settings) -> None:
    for name in ("num_worlds", "num_steps", "critic_updates", "critic_batch"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    for name in ("discount", "trace"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(settings, name)}")
    for name in ("wait", "test_worlds"):
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(settings, name)}")

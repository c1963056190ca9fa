"""Supervised learning of a student on a dataset: one jitted program for any number of filled slots."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gps.dataset import size, split
from gps.types import Dataset, Student, Unroll
from students.augment import Augment
from students.losses import Loss
from students.shuffle import seed_of, stream

__all__ = ["Fit", "FitState", "adam", "fit"]


class FitState(NamedTuple):
    """All that the next `run` needs; a pytree of arrays, so saving it is a checkpoint."""

    variables: PyTree
    """The student's (params, statistics)."""
    opt_state: PyTree
    start: PyTree
    """Statistics before any data: a run merges the whole dataset into these, so no step counts twice."""
    split_key: Key[Array, ""]
    """Says which slots are held out, for as long as this state lives."""


class Fit(NamedTuple):
    """Made by `fit`."""

    init: Callable[[Key[Array, ""], PyTree], FitState]
    """(key, variables) → state; `variables` from `student.init` or from an earlier run."""
    run: Callable[[Key[Array, ""], FitState, Dataset], tuple[FitState, dict[str, Array]]]
    """(key, state, dataset) → (state, info), jitted."""


class _Progress(NamedTuple):
    """What the loop over epochs carries."""

    params: PyTree
    opt_state: PyTree
    best_params: PyTree
    best_loss: Float[Array, ""]
    stale: Int[Array, ""]
    epoch: Int[Array, ""]
    updates: Int[Array, ""]
    train_loss: Float[Array, " epochs"]
    validation_loss: Float[Array, " epochs"]


def adam(
    learning_rate: float = 1e-3,
    updates: int | None = None,
    decay: float = 0.3,
    clip: float = 10.0,
    periodic: bool = False,
) -> optax.GradientTransformation:
    """Adam on clipped gradients, with a learning rate that falls to 0 in the last share of the updates.

    Args:
        learning_rate: step size until the decay begins.
        updates: number of updates over the whole life of the optimiser (all runs together); None: no decay.
        decay: share of `updates`, at their end, over which the rate falls along a half cosine.
        clip: largest global norm of a gradient.
        periodic: begin the schedule anew after every `updates` instead, for runs on data that move.
    """
    if updates is None:
        return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate))
    last = max(1, round(decay * updates))
    schedule = optax.join_schedules(
        [optax.constant_schedule(learning_rate), optax.cosine_decay_schedule(learning_rate, last)],
        [updates - last],
    )

    def anew(count: ArrayLike) -> ArrayLike:
        return schedule(jnp.asarray(count) % updates)

    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(anew if periodic else schedule))


def fit(
    student: Student,
    loss: Loss,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int = 64,
    epochs: int | None = None,
    updates: int | None = None,
    validation: float = 0.0,
    patience: int | None = None,
    augment: Augment | None = None,
) -> Fit:
    """Minimise the weighted mean of `loss` over the filled slots of a dataset.

    Minibatches come from a shuffled stream over the filled slots alone (`students.shuffle`): no update is
    spent on empty ones, and the same program serves a dataset however full it is. Floating point labels
    are cast to the dtype of the student's parameters. The input normalisation is that of the training
    slots. An empty dataset leaves the student as it is.

    A student that remembers learns from windows of consecutive slots (`Student.unroll`): its memory is fresh
    at a window's start, wherever an episode begins, and where a step is missing between two slots; a
    minibatch is of batch_size / length windows, and the loss that of the steps behind the burn-in.

    `info` has `loss` (training, mean over the last epoch), `validation_loss` (of the parameters returned; NaN
    without held-out steps), `updates`, `epochs`, `samples` (filled slots), `finite` (parameters and loss are
    numbers) and the traces `train_losses`, `validation_losses` (NaN where no epoch was run).

    Args:
        student: the policy; without memory its initial carry is used at every step.
        loss: see `students.losses`.
        optimizer: any optax transformation, `adam()` if None. Its state goes on from run to run; to start it
            afresh, call `init` with the variables reached.
        batch_size: steps per gradient update.
        epochs: passes over the training slots at most, each of ⌈n / batch_size⌉ updates. Either this or
            `updates`.
        updates: number of gradient updates, exactly.
        validation: share of the slots held out, the same ones in every run.
        patience: stop after this many epochs without a new lowest validation loss (training loss, as long as
            nothing is held out). With it, the parameters of the best epoch are returned; without, the last.
        augment: (key, window) → window, what every window of a minibatch goes through (of one step without
            memory), see `students.augment`.

    Raises:
        ValueError: on settings that contradict each other; from `run`, on a dataset that has no slots.
    """
    _check(batch_size, epochs, updates, validation, patience)
    length = _window(student.unroll, batch_size)
    optimizer = adam() if optimizer is None else optimizer
    rounds = 1 if epochs is None else epochs

    def init(key: Key[Array, ""], variables: PyTree) -> FitState:
        return FitState(variables, optimizer.init(variables[0]), variables[1], key)

    @jax.jit
    def run(key: Key[Array, ""], state: FitState, dataset: Dataset) -> tuple[FitState, dict[str, Array]]:
        if not dataset.weight.shape[0]:
            raise ValueError("a dataset of no slots teaches nothing: fill it, or its store, first")
        data = _cast(dataset, state.variables[0])
        train_weight, held_weight = split(state.split_key, data.weight, validation, block=length)
        params, statistics = student.observe_statistics(
            (state.variables[0], state.start), dataset.obs, train_weight
        )
        objective = _objective(student, loss, statistics)
        train = data._replace(weight=train_weight)
        count = size(train)
        update = _updater(objective, optimizer, key, train, (batch_size, length), augment)
        held_out = _held_out(objective, data._replace(weight=held_weight), validation, length)
        steps = -(-count // batch_size) if updates is None else updates

        def epoch(progress: _Progress) -> _Progress:
            return _epoch(progress, update, held_out, steps)

        def unfinished(progress: _Progress) -> Bool[Array, ""]:
            impatient = False if patience is None else progress.stale >= patience
            return (progress.epoch < rounds) & ~jnp.asarray(impatient)

        begin = _begin(params, state.opt_state, rounds)
        end = epoch(begin) if updates is not None else jax.lax.while_loop(unfinished, epoch, begin)
        chosen = end.params if patience is None else end.best_params
        new = state._replace(variables=(chosen, statistics), opt_state=end.opt_state)
        new = jax.tree.map(lambda old, fitted: jnp.where(count > 0, fitted, old), state, new)
        return new, _info(end, chosen, count, patience)

    return Fit(init, run)


def _begin(params: PyTree, opt_state: PyTree, rounds: int) -> _Progress:
    """Before the first epoch."""
    zero, trace = jnp.zeros((), jnp.int32), jnp.full(rounds, jnp.nan, _dtype(params))
    best_loss = jnp.asarray(jnp.inf, _dtype(params))
    return _Progress(params, opt_state, params, best_loss, zero, zero, zero, trace, trace)


def _epoch(progress: _Progress, update: Callable, held_out: Callable, steps: int | Array) -> _Progress:
    """`steps` updates, then a look at the held-out steps."""

    def body(i: Int[Array, ""], carry: tuple) -> tuple:
        params, opt_state, total = carry
        params, opt_state, value = update(params, opt_state, progress.updates + i)
        return params, opt_state, total + value

    total = jnp.zeros((), _dtype(progress.params))
    params, opt_state, total = jax.lax.fori_loop(0, steps, body, (progress.params, progress.opt_state, total))
    mean = total / jnp.maximum(steps, 1).astype(total.dtype)
    held = held_out(params)
    score = jnp.where(jnp.isnan(held), mean, held)
    better = score < progress.best_loss
    return _Progress(
        params,
        opt_state,
        jax.tree.map(lambda new, old: jnp.where(better, new, old), params, progress.best_params),
        jnp.where(better, score, progress.best_loss),
        jnp.where(better, 0, progress.stale + 1),
        progress.epoch + 1,
        progress.updates + steps,
        progress.train_loss.at[progress.epoch].set(mean),
        progress.validation_loss.at[progress.epoch].set(held),
    )


def _objective(student: Student, loss: Loss, statistics: PyTree) -> Callable:
    """(params, steps [windows, length]) → Σ w loss / number of steps."""
    unroll = student.unroll

    def objective(params: PyTree, windows: Dataset) -> Float[Array, ""]:
        steps = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), windows)

        def one(step: Dataset) -> Float[Array, ""]:
            carry = student.initial_carry(step.obs)
            return loss(student.apply((params, statistics), step.obs, carry)[0], step)

        return jnp.mean(steps.weight * jax.vmap(one)(steps))

    def sequential(params: PyTree, windows: Dataset) -> Float[Array, ""]:
        def one(steps: Dataset) -> tuple[Array, Array]:
            begins = steps.first | _gap(steps.t, steps.key)
            known = jnp.cumsum(begins) > 0
            counts = known | (jnp.arange(begins.shape[0]) >= (0 if unroll is None else unroll.burn_in))
            carry = student.initial_carry(jax.tree.map(lambda leaf: leaf[0], steps.obs))
            dists = student.apply_sequence((params, statistics), steps.obs, begins, carry)
            return jnp.where(counts, steps.weight * jax.vmap(loss)(dists, steps), 0), counts

        losses, counts = jax.vmap(one)(windows)
        return jnp.sum(losses) / jnp.maximum(jnp.sum(counts), 1)

    return objective if unroll is None else sequential


def _gap(t: Int[Array, " length"], key: PyTree) -> Bool[Array, " length"]:
    """Where a slot is not the step behind the one before it: another time, or another episode's key."""
    changes = [jnp.any(words[1:] != words[:-1], axis=1) for words in jax.tree.leaves(key)]
    return jnp.concatenate(
        [jnp.zeros(1, bool), functools.reduce(jnp.logical_or, changes, t[1:] != t[:-1] + 1)]
    )


def _updater(
    objective: Callable,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    train: Dataset,
    batch: tuple[int, int],
    augment: Augment | None,
) -> Callable:
    """(params, opt_state, i) → (params, opt_state, loss): the i-th update of a run.

    `batch`: steps of an update, and of each of its windows.

    Weights are divided by their mean over the dataset, not over the minibatch: the gradient is then
    unbiased for the weighted mean over the dataset.
    """
    count, seed = size(train), seed_of(key)
    batch_size, length = batch
    filled = jnp.nonzero(train.weight > 0, size=train.weight.shape[0], fill_value=0)[0].astype(jnp.int32)
    mean_weight = jnp.sum(train.weight) / jnp.maximum(count, 1)
    steps = _steps(train)._replace(weight=train.weight / jnp.where(mean_weight > 0, mean_weight, 1))

    def update(params: PyTree, opt_state: PyTree, i: Int[Array, ""]) -> tuple[PyTree, PyTree, Array]:
        start = stream(seed, i, count, batch_size // length)
        following = (start[:, None] + jnp.arange(length)[None]) % jnp.maximum(count, 1)
        rows = filled[following.reshape(-1)]
        windows = _windows(jax.tree.map(lambda leaf: leaf[rows], steps), length)
        if augment is not None:
            keys = jax.random.split(jax.random.fold_in(key, i), batch_size // length)
            windows = jax.vmap(augment)(keys, windows)
        value, gradient = jax.value_and_grad(objective)(params, windows)
        change, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, change), opt_state, value

    return update


def _windows(steps: Dataset, length: int) -> Dataset:
    """[n, …] → [n / length, length, …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, length, *leaf.shape[1:]), steps)


def _held_out(
    objective: Callable, held: Dataset, fraction: float, length: int
) -> Callable[[PyTree], Float[Array, ""]]:
    """Params → weighted mean loss of the held-out steps, gathered once; NaN if there are none."""
    if fraction == 0:
        return lambda params: jnp.asarray(jnp.nan, _dtype(params))
    most = min(held.weight.shape[0], math.ceil(held.weight.shape[0] * fraction) + length)
    most = -(-most // length) * length
    rows = jnp.nonzero(held.weight > 0, size=most, fill_value=0)[0]
    real = jnp.arange(most) < size(held)
    weight = jnp.where(real, held.weight[rows], 0)
    steps = jax.tree.map(lambda leaf: leaf[rows], _steps(held))._replace(weight=weight / jnp.mean(weight))
    return lambda params: objective(params, _windows(steps, length))


def _steps(data: Dataset) -> Dataset:
    """What a loss may read of a dataset: the fields with a step axis, keys as whole numbers [N, words]."""
    return data._replace(key=jax.tree.map(jax.random.key_data, data.key), next_slot=())


def _cast(dataset: Dataset, params: PyTree) -> Dataset:
    """Floating point labels in the dtype of the parameters; the observations are the student's to cast."""
    dtype = _dtype(params)

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, dataset)


def _dtype(params: PyTree) -> Any:
    """The dtype that the parameters have in common."""
    return jnp.result_type(*jax.tree.leaves(params))


def _info(end: _Progress, params: PyTree, count: Int[Array, ""], patience: int | None) -> dict[str, Array]:
    """What a human wants to see of a run."""
    last = jnp.maximum(end.epoch - 1, 0)
    loss = end.train_loss[last]
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    return {
        "loss": loss,
        "validation_loss": end.validation_loss[last] if patience is None else jnp.nanmin(end.validation_loss),
        "updates": end.updates,
        "epochs": end.epoch,
        "samples": count,
        "finite": jnp.all(jnp.stack(leaves)) & jnp.isfinite(loss),
        "train_losses": end.train_loss,
        "validation_losses": end.validation_loss,
    }


def _window(unroll: Unroll | None, batch_size: int) -> int:
    """Steps of a window, 1 for a student without memory."""
    if unroll is None:
        return 1
    if unroll.length < 2:
        raise ValueError(f"a window needs at least 2 steps, the student's `unroll` has {unroll.length}")
    if batch_size % unroll.length:
        raise ValueError(
            f"batch_size={batch_size} is counted in steps and has to hold whole windows of {unroll.length} "
            "(Student.unroll): take a multiple"
        )
    return unroll.length


def _check(
    batch_size: int, epochs: int | None, updates: int | None, validation: float, patience: int | None
) -> None:
    """Raise on settings that contradict each other."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for name, value in {"batch_size": batch_size, "epochs": epochs, "updates": updates}.items():
        if value is not None and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {value}")
    if (epochs is None) == (updates is None):
        raise ValueError(f"give either epochs or updates, got epochs={epochs} and updates={updates}")
    if (epochs is not None and epochs < 1) or (updates is not None and updates < 1):
        raise ValueError(f"epochs and updates must be at least 1, got epochs={epochs}, updates={updates}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a share in [0, 1), got {validation}")
    if patience is not None and (patience < 1 or validation == 0 or epochs is None):
        raise ValueError(
            f"patience={patience} counts epochs without a better validation loss: it must be at least 1 and "
            f"needs epochs and validation > 0, got epochs={epochs} and validation={validation}"
        )

"""Speed of `students.fit`, beside a hand-written scan that neither shuffles nor gathers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import students
from benchmarks.harness import Row, main, median_time, time_ratio
from gps import dataset as ds
from gps.types import Dataset, Student
from students.shuffle import seed_of, stream

SEED = 0
N_OBS, NU = 11, 3


def labelled(n: int, n_obs: int, nu: int) -> Dataset:
    """A full ring of n random observations with smooth labels."""
    keys = jax.random.split(jax.random.key(SEED), 2)
    obs = jax.random.normal(keys[0], (n, n_obs))
    mean = jnp.tanh(obs @ jax.random.normal(keys[1], (n_obs, nu)))
    one, flag, whole = jnp.ones(n), jnp.zeros(n, bool), jnp.zeros(n, jnp.int32)
    precision = jnp.broadcast_to(3 * jnp.eye(nu), (n, nu, nu))
    x, key = jnp.zeros((n, 1)), jax.random.split(jax.random.key(SEED), n)
    steps = Dataset(
        obs, x, whole, key, mean, one, whole, mean, precision, one, flag, flag, flag, one, jnp.int32(0)
    )
    example = jax.tree.map(lambda leaf: leaf[0], steps._replace(next_slot=()))
    return ds.add(ds.empty(n, example._replace(next_slot=jnp.int32(0))), steps)


def fitting(dataset: Dataset, student: Student, loss: students.Loss, **settings: Any) -> Callable:
    """A call that runs one fit, always from the same state."""
    fitter = students.fit(student, loss, students.adam(1e-3), **settings)
    state = fitter.init(jax.random.key(1), student.init(jax.random.key(2), dataset.obs[0]))
    return lambda: fitter.run(jax.random.key(3), state, dataset)


def plain_scan(dataset: Dataset, hidden: tuple[int, ...], batch_size: int) -> Callable:
    """One epoch of squared error by hand: consecutive rows, no shuffling, no normalisation, no statistics."""
    sizes = (dataset.obs.shape[1], *hidden, dataset.mean.shape[1])
    keys = jax.random.split(jax.random.key(4), len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    layers = [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros((1, b))) for k, a, b in pairs]
    optimizer = students.adam(1e-3)
    batches = jax.tree.map(lambda a: a.reshape(-1, batch_size, a.shape[-1]), (dataset.obs, dataset.mean))

    def loss(layers: list, obs: jax.Array, mean: jax.Array) -> jax.Array:
        for weight, bias in layers[:-1]:
            obs = jnp.tanh(obs @ weight + bias)
        return jnp.mean((obs @ layers[-1][0] + layers[-1][1] - mean) ** 2)

    def update(carry: tuple, batch: tuple) -> tuple:
        value, gradient = jax.value_and_grad(loss)(carry[0], *batch)
        change, state = optimizer.update(gradient, carry[1])
        return (optax.apply_updates(carry[0], change), state), value

    run = jax.jit(lambda layers, state: jax.lax.scan(update, (layers, state), batches))
    return lambda: run(layers, optimizer.init(layers))


def speed(fast: bool, loss: students.Loss, target: str | None) -> list[Row]:
    """Samples per second of one epoch, 32×32 at batch 64."""
    n = 64 * (100 if fast else 1000)
    dataset = labelled(n, N_OBS, NU)
    call = fitting(dataset, students.mlp(NU, (32, 32)), loss, batch_size=64, epochs=1)
    ratio = time_ratio(call, plain_scan(dataset, (32, 32), 64), 3 if fast else 15)
    return [
        Row("speed", n / ratio.a.median, "samples/s", target),
        Row("time / plain scan", ratio.median, "1"),
    ]


def plato_fit(fast: bool) -> list[Row]:
    """What one iteration of PLATO costs: 128×128, batch 256, 1500 updates on 9600 steps."""
    updates = 50 if fast else 1500
    dataset = labelled(9600, 40, 4)
    call = fitting(dataset, students.mlp(4, (128, 128)), students.kl(), batch_size=256, updates=updates)
    timing = median_time(call, 1 if fast else 5)
    return [
        Row("time of 1500 updates", timing.median * 1500 / updates, "s"),
        Row("speed", updates * 256 / timing.median, "samples/s"),
    ]


def shuffling(fast: bool) -> list[Row]:
    """Our stream against sorting, for one epoch of indices."""
    n = 2**13 if fast else 2**16
    batches = jnp.arange(n // 64)
    ours = jax.jit(lambda key: jax.vmap(lambda i: stream(seed_of(key), i, jnp.int32(n), 64))(batches))
    sort = jax.jit(lambda key: jax.random.permutation(key, n))
    ratio = time_ratio(partial(ours, jax.random.key(5)), partial(sort, jax.random.key(5)), 3 if fast else 15)
    return [
        Row("time per index", 1e9 * ratio.a.median / n, "ns"),
        Row("time / jax.random.permutation", ratio.median, "1", "<= 0.2"),
    ]


CASES = {
    "mlp 32x32, batch 64, nll": partial(speed, loss=students.nll(), target=">= 700000"),
    "mlp 32x32, batch 64, kl": partial(speed, loss=students.kl(), target=">= 700000"),
    "mlp 32x32, batch 64, mse": partial(speed, loss=students.mse(), target=">= 700000"),
    "mlp 128x128, batch 256, kl": plato_fit,
    "shuffle": shuffling,
}

if __name__ == "__main__":
    main("students", CASES, seeds=(SEED,), x64=False)

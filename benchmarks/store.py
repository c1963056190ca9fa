"""Labelled steps on disk: how fast images are drawn at random, appended and learnt from, beside memory.

The files are warm, in the system's page cache, as they are from the second epoch on of data that fit there.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import students
from benchmarks.harness import Row, main, median_time, time_ratio
from envs.pendulum import pendulum
from gps import store
from gps.dataset import empty
from gps.labels import example_row
from gps.types import Dataset
from students.fit import fit
from students.losses import mse

SEED = 0
SIDE, BATCH = 64, 256


def steps(n: int) -> Dataset:
    """Images of noise [64, 64, 3] with random labels, as a full dataset."""
    rng, env = np.random.default_rng(SEED), pendulum()
    picture = {"front": jnp.zeros((SIDE, SIDE, 3), jnp.uint8)}
    blank = empty(n, example_row(env, jax.random.key(SEED))._replace(obs=picture))
    return blank._replace(
        obs={"front": jnp.asarray(rng.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8))},
        mean=jnp.asarray(rng.normal(size=(n, env.nu)), jnp.float32),
        weight=jnp.ones(n, jnp.float32),
    )


def images(fast: bool) -> list[Row]:
    """Rows of images of 64 × 64 pixels."""
    n, updates = (1024, 4) if fast else (20480, 40)
    held = steps(n)
    row = jax.tree.map(lambda leaf: leaf[0], held._replace(next_slot=()))._replace(next_slot=held.next_slot)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps"
        store.create(path, row)
        append = median_time(partial(store.append, path, held), repeats=1)
        mapped = store.load(path, rows=n)  # warming up, the timing appended them twice
        drawing = time_ratio(partial(draw, mapped), partial(draw, held))
        student = students.cnn(held.mean.shape[1])
        fitter = fit(student, mse(), batch_size=BATCH, updates=updates)
        state = fitter.init(jax.random.key(1), student.init(jax.random.key(0), row.obs))
        runs = [partial(fitter.run, jax.random.key(2), state, data) for data in (mapped, held)]
        same = jax.tree.map(np.array_equal, runs[0]()[0].variables, runs[1]()[0].variables)
        fitting = time_ratio(*runs, repeats=3)
    return [
        Row("drawn at random", n / drawing.a.median, "frames/s", ">= 20000"),
        Row("drawn from disk ÷ from memory, time", drawing.median, "1"),
        Row("appended, with fsync", n / append.median, "frames/s"),
        Row("fit from disk ÷ from memory, time", fitting.median, "1"),
        Row(
            "fit from disk: parameters with the same bits",
            float(np.mean(jax.tree.leaves(same))),
            "share",
            ">= 1",
        ),
    ]


@jax.jit
def _batch(images: jax.Array, rows: jax.Array) -> jax.Array:
    return images[rows]


def draw(data: Dataset) -> list[jax.Array]:
    """Every frame once, in minibatches, in random order."""
    pictures = data.obs["front"]
    order = np.random.default_rng(SEED).permutation(len(pictures)).reshape(-1, BATCH)
    return [_batch(pictures, rows).block_until_ready() for rows in order]


if __name__ == "__main__":
    main("store", {"64 × 64": images}, seeds=(SEED,))

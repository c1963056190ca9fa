"""Random labelled datasets for the tests, made with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from gps.types import Dataset


def spd(rng, n, batch=()):
    """Random symmetric positive definite matrices with eigenvalues of order one."""
    half = rng.normal(size=(*batch, n, n))
    return half @ np.swapaxes(half, -1, -2) + 0.3 * np.eye(n)


def random_steps(rng, m, n_obs=5, nu=2, nx=3, dtype=np.float64):
    """m steps with every field random, `first` and the like included, weights in (0.2, 2)."""

    def real(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    def flag():
        return jnp.asarray(rng.random(m) < 0.3)

    return Dataset(
        obs={"a": real(m, n_obs - 2), "b": real(m, 1, 2)},
        x=real(m, nx),
        t=jnp.asarray(rng.integers(0, 100, m), jnp.int32),
        key=jax.random.wrap_key_data(jnp.asarray(rng.integers(0, 2**32, (m, 2)), jnp.uint32)),
        action=real(m, nu),
        log_prob=real(m),
        behaviour=jnp.asarray(rng.integers(0, 3, m), jnp.int32),
        mean=real(m, nu),
        precision=jnp.asarray(spd(rng, nu, (m,)), dtype),
        cost=real(m),
        first=flag(),
        terminated=flag(),
        truncated=flag(),
        weight=jnp.asarray(rng.uniform(0.2, 2, m), dtype),
        next_slot=jnp.zeros((), jnp.int32),
    )


def example(steps):
    """One step of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], steps._replace(next_slot=()))._replace(
        next_slot=steps.next_slot
    )


def flat_obs(steps):
    """[m, n_obs] NumPy array of the observations, in pytree order."""
    m = steps.weight.shape[0]
    return np.concatenate([np.reshape(leaf, (m, -1)) for leaf in (steps.obs["a"], steps.obs["b"])], axis=1)


def compiled(student):
    """The student with its functions jitted: eager JAX compiles every operation by itself."""
    names = ("init", "apply", "apply_sequence", "observe_statistics")
    return student._replace(**{name: jax.jit(getattr(student, name)) for name in names})

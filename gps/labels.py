"""From episodes to the rows of a dataset."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gps.dataset import single
from gps.episodes import Steps
from gps.rollout import clip_control, first_observation
from gps.types import Dataset, Env

__all__ = ["as_dataset", "example_row", "looked_at"]


def as_dataset(steps: Steps, weight: Float[Array, "T W"] | None = None) -> Dataset:
    """Labelled steps as rows, [W·T, …], those of a world one after another.

    The label's precision is the action's Quu, what an error costs, also where the control sits on a limit. A
    label that the teacher disowns has weight 0.

    Raises:
        ValueError: no teacher labelled these steps.
    """
    action = steps.action
    if action is None:
        raise ValueError("these episodes have no teacher, hence no labels: pass make_teacher to `episodes`")
    sound = (action.status == 0) & steps.alive
    given = jnp.ones_like(steps.cost) if weight is None else weight
    rows = Dataset(
        obs=steps.obs,
        x=steps.x,
        t=steps.t,
        key=steps.key,
        action=steps.u,
        log_prob=steps.log_prob,
        behaviour=steps.behaviour,
        mean=action.dist.mean,
        precision=action.Quu,
        cost=steps.cost,
        first=steps.first,
        terminated=steps.failed,
        truncated=steps.truncated,
        weight=jnp.where(sound, given, jnp.zeros_like(given)),
        next_slot=jnp.zeros_like(steps.t),
    )
    flat = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), rows)
    return flat._replace(next_slot=jnp.int32(0))


def looked_at(key: Key[Array, ""], env: Env, rows: Dataset) -> Dataset:
    """The same states through each of `Env.views`, with the label of each: [views · N, …], one after another.

    A state is bound to its context anew (`Dataset.key`), its sensors are read at zero control.
    """

    def through(view: int) -> Dataset:
        def one(key: Array, row: Dataset) -> Dataset:
            bound = env.bind(env.sample_context(row.key))
            look = bound.views[view]
            obs = look.observe(key, row.x, bound.sense(row.x, jnp.zeros_like(row.action)))
            return row._replace(obs=obs, mean=clip_control(look.relabel(key, row.x, row.mean), env.limits))

        keys = jax.random.split(jax.random.fold_in(key, view), rows.t.shape[0])
        return jax.vmap(one)(keys, rows._replace(next_slot=rows.t))

    seen = [through(view) for view in range(len(env.views))]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seen)
    return joined._replace(next_slot=rows.next_slot)


def example_row(env: Env, key: Key[Array, ""]) -> Dataset:
    """One row as a dataset of `env` stores it, with weight 0: see `gps.dataset.empty`.

    Observations and labels are stored in single precision; the state stays as exact as it is, to be looked
    at again.
    """
    bound = env.bind(env.sample_context(key))
    x = bound.init(key)
    u = jnp.zeros(env.nu, x.dtype)
    number, count, flag = jnp.float32(0), jnp.int32(0), jnp.asarray(False)
    return Dataset(
        obs=single(first_observation(key, bound, x)),
        x=x,
        t=count,
        key=key,
        action=single(u),
        log_prob=number,
        behaviour=count,
        mean=single(u),
        precision=jnp.zeros((env.nu, env.nu), jnp.float32),
        cost=number,
        first=flag,
        terminated=flag,
        truncated=flag,
        weight=number,
        next_slot=count,
    )

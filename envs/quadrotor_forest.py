"""Fly through a forest: the teacher knows every tree, the student has a laser."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs import quadrotor as quad
from envs.mjcf import Task, from_engine
from gps.types import Env

TEACHER, STUDENT = quad.TEACHER, quad.STUDENT
TILE = np.array([48.0, 20.0])
"""The forest repeats with this period in x and y, m: it has no edge to flee to."""
NEAREST = 8
"""Trees that the flight cost looks at."""
CLEARING = 3.0
"""Free of trees around the start, m."""


class Forest(NamedTuple):
    """The context of an episode."""

    trees: Float[Array, "n 2"]
    """Centres, m; tree i has radius `radii(n)[i]`."""
    gust: Float[Array, "k 4"]


def quadrotor_forest(
    density: float = 0.12,
    speed: float = 3.0,
    gap: float = 2.0,
    gust: float = 0.2,
    sideways: float = 1.0,
    horizon: int = 400,
) -> Env:
    """The task.

    Args:
        density: trees per m².
        speed: commanded, m/s.
        gap: least distance between the centres of two trees, m.
        gust: root mean square of the wind's force, N; the teacher's model has no wind.
        sideways: weight of sideways speed in the flight cost (forward speed has 1); with less the teacher
            dodges rather than brakes, which keeps its speed among dense trees.
        horizon: control steps of .05 s in an episode.
    """
    count = round(density * float(np.prod(TILE)))
    if not 1 <= count * gap**2 * np.pi / 4 <= 0.5 * float(np.prod(TILE)):
        raise ValueError(
            f"{count} trees {gap} m apart do not fit on {TILE[0]:.0f} m x {TILE[1]:.0f} m: lower density or "
            "gap (density * gap² must stay below .63), or plant at least one tree"
        )
    radius = radii(count)
    sees, moves = quad.world_engines(_model(count))
    plan_engine = quad.planning_engine()

    def define(context: Forest, planning: bool) -> Task:
        def clearances(pos: Array) -> Array:
            gaps = _offsets(pos[:2], context.trees)
            distance = jnp.sqrt(jnp.sum(gaps**2, axis=1)) - jnp.asarray(radius, pos.dtype)
            return -jax.lax.top_k(-distance, NEAREST)[0] - quad.RADIUS

        def inputs(x: Array) -> Array:
            trees = jax.vmap(jnp.add, (None, 0))(x[:2], _offsets(x[:2], context.trees))
            pos = jnp.concatenate([trees, jnp.full((count, 1), 2.0, x.dtype)], axis=1)
            return sees.make_inputs(quad.gust_force(context.gust, x[:3], gust), pos)

        stage, final = quad.flight_cost(speed, sideways, clearances, NEAREST)
        return Task(
            cost=stage,
            final_cost=final,
            init=quad.start(speed, lateral=1.0),
            observe=quad.observe(speed) if not planning else lambda x, y: x,
            failed=quad.failed if not planning else Task._field_defaults["failed"],
            inputs=None if planning else inputs,
            metrics=quad.metrics,
            planning=None if planning else model(context),
        )

    def model(context: Forest) -> Env:
        define_plan = functools.partial(define, planning=True)
        return from_engine(
            plan_engine, define_plan, default_context=context, horizon=horizon, name="quadrotor"
        )

    return from_engine(
        sees,
        functools.partial(define, planning=False),
        lambda key: sample_forest(key, count, gap),
        default_context=sample_default(count),
        horizon=horizon,
        name="quadrotor_forest",
        dynamics=moves,
    )


def radii(count: int) -> np.ndarray:
    """Radius of each tree, m: .15 to .3, in a fixed shuffled order (a geom's size is not a context)."""
    return 0.15 + 0.15 * ((np.arange(count) * 0.618034) % 1.0)


def sample_forest(key: Array, count: int, gap: float, tries: int = 512) -> Forest:
    """Trees, each at the first of `tries` places that keeps `gap` and the clearing, or the best of them."""
    keys = jax.random.split(key, 2)
    spots = jax.random.uniform(keys[0], (count, tries // 16, 16, 2)) * TILE.reshape(1, 1, 1, 2)

    def room(spot: Array, trees: Array, planted: Array) -> Array:
        square = jnp.sum(_offsets(spot, trees) ** 2, axis=1)
        apart = jnp.sqrt(jnp.min(jnp.where(planted, square, jnp.inf)))
        return jnp.minimum(apart, jnp.linalg.norm(_offset(jnp.zeros(2), spot)) - CLEARING + gap)

    def plant(i: int, trees: Array) -> Array:
        def look(best: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            rooms = jax.vmap(room, in_axes=(0, None, None))(spots[i, best[0]], trees, jnp.arange(count) < i)
            j = jnp.argmax(jnp.minimum(rooms, gap))
            spot = jnp.where(rooms[j] > best[2], spots[i, best[0], j], best[1])
            return best[0] + 1, spot, jnp.maximum(rooms[j], best[2])

        searching = lambda best: (best[0] < tries // 16) & (best[2] < gap)  # noqa: E731
        return trees.at[i].set(jax.lax.while_loop(searching, look, (0, spots[i, 0, 0], -jnp.inf))[1])

    trees = jax.lax.fori_loop(0, count, plant, jnp.zeros((count, 2), spots.dtype))
    return Forest(trees, quad.sample_gust(keys[1]))


def sample_default(count: int) -> Forest:
    """The unbound env's context: rows of trees beside the way, still air."""
    index = np.arange(count)
    trees = np.stack([TILE[0] * index / count, np.where(index % 2, 5.0, 15.0)], axis=1)
    return Forest(trees, np.zeros((quad.NUM_GUSTS, 4)))


def _offset(pos: Float[Array, " 2"], tree: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """From `pos` to the nearest image of a tree in the periodic forest."""
    tile = jnp.asarray(TILE, pos.dtype)
    way = tree.astype(pos.dtype) - pos
    return way - tile * jnp.round(way / tile)


_offsets = jax.vmap(_offset, in_axes=(None, 0))


def _model(count: int) -> mujoco.MjModel:
    def plant(spec: mujoco.MjSpec) -> None:
        for i, radius in enumerate(radii(count)):
            tree = spec.worldbody.add_body(name=f"tree{i}", mocap=True, pos=[i, 5.0, 2.0])
            tree.add_geom(
                spec.find_default("obstacle"), type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[radius, 4.0, 0.0]
            )

    return quad.world(plant)

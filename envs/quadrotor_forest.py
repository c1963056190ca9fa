"""Fly through a forest: the teacher knows every tree, the student has a laser."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PyTree

from envs import forest
from envs import quadrotor as quad
from envs.camera import Camera
from envs.forest import Trees
from envs.mjcf import Task, from_engine
from gps.types import Env, Mirror

TEACHER, STUDENT = quad.TEACHER, quad.STUDENT
REACH = quad.SAFE_DISTANCE + quad.RADIUS
"""Trees farther than this do not enter the flight cost, m."""


class Forest(NamedTuple):
    """The context of an episode."""

    trees: Trees
    gust: Float[Array, "k 4"]


def quadrotor_forest(
    density: float = 0.12,
    speed: float = 3.0,
    gap: float = 2.0,
    gust: float = 0.2,
    sideways: float = 1.0,
    horizon: int = 400,
) -> Env:
    """Fly through a forest of random trees, in gusts.

    Args:
        density: trees per m².
        speed: commanded, m/s.
        gap: least distance between the centres of two trees, m.
        gust: root mean square of the wind's force, N; the teacher's model has no wind.
        sideways: weight of sideways speed in the flight cost (forward speed has 1); with less the teacher
            dodges rather than brakes, which keeps its speed among dense trees.
        horizon: control steps of .05 s in an episode.
    """
    return flight("quadrotor_forest", density, speed, gap, gust, sideways, horizon)


def flight(
    name: str,
    density: float,
    speed: float,
    gap: float,
    gust: float,
    sideways: float,
    horizon: int,
    depth: Camera | None = None,
) -> Env:
    """The task; with a camera for `depth` the student sees its image and `quadrotor.inertial`, no laser."""
    quad.check_flight(speed, gust, sideways)
    area = float(np.prod(forest.TILE))
    if not (0 < density < np.inf and 0 < gap < np.inf and round(density * area) >= 1):
        raise ValueError(
            f"expected a gap above 0 m and a density that plants at least one tree on {area:.0f} m², "
            f"got gap={gap} and density={density}"
        )
    count = round(density * area)
    if count * gap**2 * np.pi / 4 > 0.5 * area:
        raise ValueError(
            f"{count} trees {gap} m apart do not fit on {area:.0f} m²: lower density or "
            "gap (density * gap² must stay below .63)"
        )
    default = Forest(forest.two_rows(count, gap, REACH), jnp.zeros((quad.NUM_GUSTS, 4)))
    sees, moves = quad.world_engines(_model(count, 0 if depth else quad.NUM_RAYS))
    look = None if depth is None else sees.camera(depth)
    plan_engine = quad.planning_engine()

    def define(context: Forest, planning: bool) -> Task:
        def clearances(pos: Array) -> Array:
            return forest.distances(context.trees, pos[:2]) - quad.RADIUS

        def inputs(x: Array) -> Array:
            centres = x[None, :2] + forest.offsets(x[:2], context.trees.centres)
            pos = jnp.concatenate([centres, jnp.full((count, 1), 2.0, x.dtype)], axis=1)
            return sees.make_inputs(quad.gust_force(context.gust, x[:3], gust), pos)

        def observe(x: Array, y: Array) -> PyTree:
            if planning:
                return x
            if look is None:
                return quad.observe(speed)(x, y)
            images = {name: image.astype(x.dtype) for name, image in look(x, inputs(x)).items()}
            return images | {"inertial": quad.inertial(x, speed)}

        stage, final = quad.flight_cost(speed, sideways, clearances, default.trees.near.shape[-1])
        return Task(
            cost=stage,
            final_cost=final,
            init=quad.start(speed, lateral=1.0),
            observe=observe,
            failed=quad.failed if not planning else Task._field_defaults["failed"],
            inputs=None if planning else inputs,
            metrics=quad.metrics,
            mirror=quad.LEFT_IS_RIGHT if look is None else SEEN_LEFT_IS_RIGHT,
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
        default_context=default,
        horizon=horizon,
        name=name,
        dynamics=moves,
    )


def sample_forest(key: Array, count: int, gap: float) -> Forest:
    """Trees and wind of an episode."""
    keys = jax.random.split(key, 2)
    return Forest(forest.sample_trees(keys[0], count, gap, REACH), quad.sample_gust(keys[1]))


def _flipped(name: str, seen: Array) -> Array:
    if name == "inertial":
        return seen * jnp.asarray(quad.INERTIAL_SIGNS, seen.dtype)
    return jnp.flip(seen, -2)


SEEN_LEFT_IS_RIGHT = Mirror(
    lambda obs: {name: _flipped(name, seen) for name, seen in obs.items()}, quad.MOTORS_SWAPPED
)
"""The image and the motors change sides."""


def _model(count: int, rays: int) -> mujoco.MjModel:
    def plant(spec: mujoco.MjSpec) -> None:
        for i, radius in enumerate(forest.radii(count)):
            tree = spec.worldbody.add_body(name=f"tree{i}", mocap=True, pos=[i, 5.0, 2.0])
            tree.add_geom(
                spec.find_default("obstacle"), type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[radius, 4.0, 0.0]
            )

    return quad.world(plant, rays)

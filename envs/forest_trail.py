"""Follow a trail through a forest: three cameras yawed by 30° teach three classes (Giusti et al. 2016).

State (6): place and heading of a drone that holds its height, and their velocities. Control (2): turning
rate, rad/s, and speed forward, m/s. The student sees the camera ahead and says left, straight or right; it
turns as P(left) − P(right) and flies as fast as P(straight). In a demonstration the picture ahead is called
straight, the one that looks to the left calls for a turn to the right, and the other way round (`Env.views`).
The cameras sway, as on the head of a hiker: what lies between two classes is then seen, and probabilities
change little by little. Gusts push the drone off its way; the teacher's model has none.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from envs.camera import Camera
from envs.mjcf import Task, from_engine, load_model
from envs.mujoco import engine
from envs.road import Winding, bend, nearest, paved, planted, sample_phases
from envs.wind import blow, check_strength, sample_waves
from gps.costs import quadratic, residual_cost
from gps.types import Env, View

ASSET = Path(__file__).parent / "assets" / "drone.xml"
WINDING = Winding((23.0, 41.0, 67.0), (0.7, 1.4, 2.4))
SPEED, RATE = 1.5, 1.0
"""Straight on, m/s, and while turning, rad/s."""
CHOICES = {"centre": (0.0, SPEED), "left": (-RATE, 0.0), "right": (RATE, 0.0)}
"""What the picture of each camera asks for: straight on, to the right, to the left."""
POLICY = "classifier"
STUDENT = {"choices": tuple(CHOICES.values())}
TEACHER = {"horizon": 20, "initial_iterations": 10}
SWAY = 8.0
"""Standard deviation of the angle by which the pictures of a demonstration are turned, degrees."""
WIDTH = 1.5
"""Distance from the middle of the trail at which it is left, m."""
WEIGHTS = (1.0, 1.0, 1.0, 0.5)
"""Of distance from the trail, m², heading, rad², speed and turning rate."""
SUBSTEPS = 2
PIECE, PIECES, TREES = 1.5, 14, 28
"""The pieces of trail that are shown, m each, and the trees on either side of it."""
WAVES = tuple(2 * np.pi / length for length in (5.0, 9.0, 17.0))
"""Wave numbers of the gusts along the trail, rad/m."""


class Hike(NamedTuple):
    """The context of an episode."""

    phases: Float[Array, " k"]
    """Of the trail (`envs.road`)."""
    gust: Float[Array, "n 2"]
    """Waves of the wind across it, along x (`envs.wind`)."""


def forest_trail(height: int = 48, width: int = 64, gust: float = 0.1, horizon: int = 600) -> Env:
    """Follow a trail by a camera that looks ahead.

    Args:
        height: of the student's images, pixels.
        width: of the student's images, pixels.
        gust: root mean square of the wind's force, N, on a drone of 1 kg.
        horizon: control steps of .1 s in an episode.

    Raises:
        ValueError: a wind that is negative or not finite.
    """
    check_strength("gust", gust)
    sim, plan = engine(_model(), SUBSTEPS), engine(load_model(ASSET), SUBSTEPS, sensors=False)
    looks = {name: sim.camera(Camera(name, height, width)) for name in CHOICES}

    def define(hike: Hike, planning: bool) -> Task:
        def away(x: Array) -> Float[Array, " 2"]:
            offset, trail = nearest(WINDING, hike.phases, x[:2])
            return jnp.stack([offset, x[2] - trail.heading])

        def flight(x: Array) -> Float[Array, " 3"]:
            return jnp.concatenate([away(x), jnp.hypot(x[3], x[4])[None] - SPEED])

        def around(x: Array) -> Array:
            push = gust * blow(hike.gust, WAVES, x[0])
            return sim.make_inputs(
                jnp.stack([jnp.zeros_like(push), push, jnp.zeros_like(push)]), *wood(hike, x)
            )

        def seen(name: str, x: Array) -> dict[str, Array]:
            return {"trail": looks[name](x, around(x))[name]}

        def view(name: str) -> View:
            call = jnp.asarray(CHOICES[name])

            def look(key: Array, x: Array, y: Array) -> dict[str, Array]:
                return seen(name, x.at[2].add(jnp.deg2rad(SWAY) * jax.random.normal(key, (), x.dtype)))

            return View(look, lambda key, x, u: call.astype(u.dtype))

        kinds = (quadratic,) * 4
        return Task(
            cost=residual_cost(lambda x, u, y, t: jnp.concatenate([flight(x), u[:1]]), WEIGHTS, kinds),
            final_cost=residual_cost(lambda x, y: flight(x), tuple(5 * w for w in WEIGHTS[:3]), kinds[:3]),
            init=partial(start, hike),
            observe=lambda x, y: x if planning else seen("centre", x),
            failed=lambda x, y: jnp.abs(away(x)[0]) > WIDTH,
            inputs=None if planning else around,
            metrics=lambda x, u: {"offset": jnp.abs(away(x)[0]), "speed": jnp.hypot(x[3], x[4])},
            views=() if planning else tuple(view(name) for name in CHOICES),
            planning=None if planning else model(hike),
        )

    def model(hike: Hike) -> Env:
        define_plan = partial(define, planning=True)
        return from_engine(plan, define_plan, default_context=hike, horizon=horizon, name="drone")

    return from_engine(
        sim,
        partial(define, planning=False),
        sample_hike,
        default_context=Hike(jnp.zeros(len(WINDING.lengths)), jnp.zeros((len(WAVES), 2))),
        horizon=horizon,
        name="forest_trail",
    )


def sample_hike(key: Array) -> Hike:
    """Any trail, any wind."""
    trail_key, gust_key = jax.random.split(key)
    return Hike(sample_phases(trail_key, WINDING), sample_waves(gust_key, len(WAVES)))


def start(hike: Hike, key: Array) -> Float[Array, " 6"]:
    """At speed along the trail, up to 1 m beside it: on the way back the teacher looks at it from there."""
    where, side = jax.random.uniform(key, (2,), minval=-1.0)
    trail = bend(WINDING, hike.phases, where)
    along = SPEED * jnp.stack([jnp.cos(trail.heading), jnp.sin(trail.heading)])
    place = jnp.stack([where, trail.y + side / jnp.cos(trail.heading), trail.heading])
    return jnp.concatenate([place, along, jnp.zeros(1)])


def wood(hike: Hike, x: Float[Array, " 6"]) -> tuple[Array, Array]:
    """(positions, quaternions) of pieces of trail and trees around the drone."""
    pieces = paved(WINDING, hike.phases, x[0], PIECE, PIECES)
    trees = planted(WINDING, hike.phases, x[0] - 3.0, 0.9, TREES, (1.8, 7.0))
    return jnp.concatenate([pieces[0], trees[0]]), jnp.concatenate([pieces[1], trees[1]])


def _model() -> mujoco.MjModel:
    """The drone, and what its cameras see."""
    spec = mujoco.MjSpec.from_file(str(ASSET))
    for i in range(PIECES):
        piece = spec.worldbody.add_body(name=f"piece{i}", mocap=True)
        brown = np.array([0.42, 0.33, 0.22, 1]) * [*[0.92 + 0.08 * (i % 2)] * 3, 1]
        piece.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.95, 0.55, 0.01], rgba=brown)
    for i in range(TREES):
        tree = spec.worldbody.add_body(name=f"tree{i}", mocap=True)
        thick, bark = 0.12 + 0.04 * (i % 4), [0.3 + 0.05 * (i % 3), 0.22, 0.15, 1]
        tree.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[0, 0, 2.5], size=[thick, 2.5, 0], rgba=bark)
        tree.add_geom(
            type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
            pos=[0, 0, 4.5],
            size=[1.0, 1.0, 1.6],
            rgba=[0.12, 0.35, 0.14, 1],
        )
    return spec.compile()

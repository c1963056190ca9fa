"""How flights are shown: the world and the laser from above, the height from the side."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from envs import canyon
from envs import quadrotor as quad
from envs.forest import TILE, radii
from gps import plots
from gps.placement import cpu_jit
from gps.types import Env
from gps.video import Clip, Drawing, Frame

__all__ = ["canyon_flight", "flight", "forest_flight"]

GROUND, SKY, TREE, EDGE, LASER = "#eef2e6", "#f4f8fc", "#5f8f4e", "#3d6331", "#e8590c"
ROCK, CLIFF, CRASH = "#b3a28a", "#6b5a45", "#d9480f"
TRAILS = ("#1c5fb0", "#c2255c", "#7048e8", "#0b7285")
"""A colour per driver."""
BEHIND, AHEAD, ASIDE = 4.0, 10.5, 4.2
"""What the film shows around the drone, m."""
CEILING = 3.5
ARM, ROTOR_WIDTH, BODY = 0.15, 0.22, "#222222"
"""Of the drone's picture, m: larger than life."""

# --------------------------------------------------------------------------------------- flights


class _View(NamedTuple):
    """One drone's artists: seen from above, and from the side below that."""

    top: Any
    side: Any
    rays: Any
    trail: Any
    drone: Any
    rotors: Any
    height: Any
    beside: Any
    crash: Any
    figures: Any


Obstacles = Callable[[Any, Env, Clip, int], None]
"""(axes, env, clip, i) draws the world of episode i from above."""


def flight(obstacles: Obstacles) -> Drawing:
    """Flights along +x, from above and (height) from the side, with trail and laser."""

    def frames(env: Env, clip: Clip, titles: Sequence[str], steps: Sequence[int]) -> Iterator[Frame]:
        figure, views = _views(env, clip, titles, obstacles)
        at = np.minimum(np.asarray(steps)[:, None], clip.lasted[None] - 1)  # [frames, n]
        xs = clip.xs[np.arange(len(titles)), at]
        ranges = _laser(env, clip, xs)
        for k, t in enumerate(steps):
            for i, view in enumerate(views):
                _show(view, env, clip, i, t, ranges[k, i])
            yield plots.pixels(figure)

    def still(env: Env, clip: Clip, titles: Sequence[str]) -> Any:
        return _whole_flight(env, clip, titles, obstacles)

    return Drawing(frames, still)


def forest(axes: Any, env: Env, clip: Clip, i: int) -> None:
    """Trees, with their images in the periodic forest."""
    trees = np.asarray(clip.context.trees.centres)[i]
    low, high = _corners(clip)
    copies = [
        np.arange(np.floor(a / size) - 1, np.ceil(b / size) + 1)
        for a, b, size in zip(low, high, TILE, strict=True)
    ]
    shifts = np.stack(np.meshgrid(*copies, indexing="ij"), axis=-1).reshape(-1, 1, 2) * TILE
    places = (trees + shifts).reshape(-1, 2)
    seen = np.all((places > low - 0.5) & (places < high + 0.5), axis=1)
    width = np.tile(2 * radii(len(trees)), len(shifts))[seen]
    _discs(axes, places[seen], width, facecolor=TREE, edgecolor=EDGE, linewidth=0.8)


def walls(axes: Any, env: Env, clip: Clip, i: int) -> None:
    """Both walls of the canyon, as far apart as the laser reads at its straight beginning."""
    (x_low, y_low), (x_high, y_high) = _corners(clip)
    first = _laser(env, clip, clip.xs[None, :, 0])[0, i]
    x = np.arange(np.floor(x_low), x_high + 1)
    middle = np.asarray(canyon.centre_line(jnp.asarray(clip.context.course[i]), jnp.asarray(x)))
    half, colours = (first[0] + first[-1]) / 2, {"facecolor": ROCK, "edgecolor": CLIFF, "linewidth": 1.2}
    axes.fill_between(x, middle + half, y_high + 20, **colours)
    axes.fill_between(x, middle - half, y_low - 20, **colours)


def _discs(axes: Any, places: np.ndarray, widths: Any, **colours: Any) -> Any:
    widths = np.broadcast_to(widths, len(places))
    made = plots.part("collections").EllipseCollection(
        widths,
        widths,
        np.zeros(len(places)),
        units="xy",
        offsets=places,
        offset_transform=axes.transData,
        **colours,
    )
    return axes.add_collection(made)


def _corners(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Lower left and upper right corner of all that can be seen, m."""
    seen = np.concatenate([row[:lasted, :2] for row, lasted in zip(clip.xs, clip.lasted, strict=True)])
    around = np.array([[BEHIND, 2 * ASIDE], [AHEAD, 2 * ASIDE]])
    return seen.min(axis=0) - around[0], seen.max(axis=0) + around[1]


def _laser(env: Env, clip: Clip, xs: Float[np.ndarray, "frames n 13"]) -> Float[np.ndarray, "frames n rays"]:
    """What the laser reads, m."""

    @cpu_jit
    def read(xs: jax.Array, context: Any) -> jax.Array:
        bound, still = env.bind(context), jnp.zeros(env.nu, xs.dtype)
        y = jax.vmap(bound.sense, in_axes=(0, None))(xs, still)[:, 1:]
        return jnp.where(y < 0, quad.RANGE, jnp.minimum(y, quad.RANGE))

    return np.asarray(jax.vmap(read, in_axes=(1, 0), out_axes=1)(jnp.asarray(xs), clip.context))


def _views(env: Env, clip: Clip, titles: Sequence[str], obstacles: Obstacles) -> tuple[Any, list[_View]]:
    """The film's figure, one column per drone."""
    count, width, high, low = len(titles), 6.4, 6.4 * 2 * ASIDE / (BEHIND + AHEAD), 0.75
    figure = plots.blank(width * count, high + low)
    views = []
    for i, title in enumerate(titles):
        left, wide, split = i / count + 0.003, 1 / count - 0.006, low / (high + low)
        top = figure.add_axes((left, split, wide, 1 - split - 0.008), facecolor=GROUND, xticks=[], yticks=[])
        side = figure.add_axes(
            (left, 0.012, wide, split - 0.022), facecolor=SKY, xticks=[], yticks=[], ylim=(-0.15, CEILING)
        )
        obstacles(top, env, clip, i)
        views.append(_artists(top, side, title, TRAILS[i % len(TRAILS)]))
    return figure, views


def _artists(top: Any, side: Any, title: str, colour: str) -> _View:
    label = {
        "va": "top",
        "zorder": 9,
        "bbox": {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 3},
    }
    top.text(0.012, 0.965, title, transform=top.transAxes, fontsize=13, color=colour, weight="bold", **label)
    side.axhline(0, color=CLIFF, linewidth=2)
    side.axhline(quad.ALTITUDE, color=CLIFF, linewidth=0.6, linestyle=(0, (4, 4)))
    side.text(0.012, 0.9, "height", transform=side.transAxes, fontsize=9, va="top", color=CLIFF)
    return _View(
        top,
        side,
        rays=_rays(top),
        trail=top.plot([], [], color=colour, linewidth=2, zorder=3)[0],
        drone=top.plot([], [], color=BODY, linewidth=2, zorder=5)[0],
        rotors=_rotors(top, np.zeros((4, 2)), colour),
        height=side.plot([], [], color=colour, linewidth=1.6)[0],
        beside=side.plot([], [], color=BODY, linewidth=4, solid_capstyle="round")[0],
        crash=top.plot([], [], marker="X", color=CRASH, markersize=17, markeredgecolor="white", zorder=8)[0],
        figures=top.text(
            0.988, 0.965, "", transform=top.transAxes, ha="right", fontsize=11, family="monospace", **label
        ),
    )


def _show(view: _View, env: Env, clip: Clip, i: int, t: int, ranges: np.ndarray) -> None:
    """Moves the artists to control step t, or to the last one of the episode."""
    now = min(t, int(clip.lasted[i]) - 1)
    over = clip.failed[i] and now == clip.lasted[i] - 1
    xs, x = clip.xs[i, : now + 1], clip.xs[i, now]
    frame, rotors = _body(x)
    nose = x[[0, 2], None] + 0.2 * np.array([-1, 1]) * _axes_of(x[3:7])[0][[0, 2], None]
    view.top.set(xlim=(x[0] - BEHIND, x[0] + AHEAD), ylim=(x[1] - ASIDE, x[1] + ASIDE))
    view.side.set(xlim=(x[0] - BEHIND, x[0] + AHEAD))
    view.rays.set_segments(_beams(x, ranges))
    view.rotors.set_offsets(rotors)
    view.drone.set_data(*frame.T)
    view.beside.set_data(*nose)
    view.trail.set_data(xs[:, 0], xs[:, 1])
    view.height.set_data(xs[:, 0], xs[:, 2])
    view.crash.set_data(*((x[:1], x[1:2]) if over else ([], [])))
    flying = f"{now * env.dt:4.1f} s {x[0]:4.0f} m {np.hypot(x[7], x[8]):4.1f} m/s"
    view.figures.set_text(f"crashed at {x[0]:.0f} m" if over else flying)


def _axes_of(quat: Float[np.ndarray, " 4"]) -> tuple[np.ndarray, np.ndarray]:
    """The drone's forward and left direction in the world."""
    w, x, y, z = quat
    forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    return forward, np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])


def _whole_flight(env: Env, clip: Clip, titles: Sequence[str], obstacles: Obstacles) -> Any:
    """The first world from above on two rows, with every driver's trail; the second one's laser, twice."""
    low, high = _corners(clip)
    low, high = low + np.array([BEHIND - 2, 2 * ASIDE - 3]), high - np.array([AHEAD - 2, 2 * ASIDE - 3])
    length, width, head = (high[0] - low[0]) / 2, 12.8, 0.4
    figure = plots.blank(width, 2 * width * (high[1] - low[1]) / length + head + 0.1)
    share = head / figure.get_figheight()
    rows = figure.subplots(2, 1)
    figure.subplots_adjust(0.003, 0.006, 0.997, 1 - share, hspace=0.02)
    for row, axes in enumerate(rows):
        axes.set(facecolor=GROUND, xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        obstacles(axes, env, clip, 0)
        for i, title in enumerate(titles):
            _trail(axes, clip, i, title)
        left = low[0] + row * length
        _fan(axes, env, clip, min(1, len(titles) - 1), left + 0.3 * length)
        axes.set(xlim=(left, left + length), ylim=(low[1], high[1]))
        for tens in range(int(np.ceil(left / 10)), int((left + length) // 10) + 1):
            axes.text(10 * tens, low[1] + 0.2, f"{10 * tens} m", fontsize=9, ha="center", color=CLIFF)
    figure.legend(
        *rows[0].get_legend_handles_labels(), loc="upper right", ncols=len(titles), frameon=False, fontsize=12
    )
    return figure


def _trail(axes: Any, clip: Clip, i: int, title: str) -> None:
    xs, colour = clip.xs[i, : clip.lasted[i]], TRAILS[i % len(TRAILS)]
    under = {"linewidth": 7.0, "alpha": 0.35} if i == 0 else {"linewidth": 2.4}  # the first one shows beneath
    axes.plot(xs[:, 0], xs[:, 1], color=colour, label=title, zorder=3, **under)
    if clip.failed[i]:
        axes.plot(*xs[-1, :2], marker="X", color=CRASH, markersize=15, markeredgecolor="white", zorder=8)


def _fan(axes: Any, env: Env, clip: Clip, i: int, at: float) -> None:
    """The drone of episode i and its laser where it passed x = `at`, if it did."""
    now = int(np.searchsorted(clip.xs[i, : clip.lasted[i], 0], at))
    if now < clip.lasted[i]:
        x, colour = clip.xs[i, now], TRAILS[i % len(TRAILS)]
        _rays(axes).set_segments(_beams(x, _laser(env, clip, clip.xs[None, :, now])[0, i]))
        frame, rotors = _body(x)
        axes.plot(*frame.T, color=BODY, linewidth=2, zorder=5)
        _rotors(axes, rotors, colour)


def _rotors(axes: Any, places: np.ndarray, colour: str) -> Any:
    look = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.6, "zorder": 6}
    return _discs(axes, places, ROTOR_WIDTH, **look)


def _rays(axes: Any) -> Any:
    """The laser's artist."""
    return axes.add_collection(
        plots.part("collections").LineCollection([], colors=LASER, linewidths=0.8, alpha=0.5)
    )


def _beams(x: np.ndarray, ranges: np.ndarray) -> Float[np.ndarray, "rays 2 2"]:
    """From the drone to what each ray reads."""
    forward = _axes_of(x[3:7])[0]
    angle = np.arctan2(forward[1], forward[0]) + np.linspace(np.pi / 2, -np.pi / 2, len(ranges))
    ends = x[:2] + ranges[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.stack([np.broadcast_to(x[:2], ends.shape), ends], axis=1)


def _body(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(line of the drone's frame, its four rotors), from above."""
    forward, left = _axes_of(x[3:7])
    rotors = x[:2] + ARM * np.array([forward + left, -forward - left, forward - left, left - forward])[:, :2]
    return np.insert(rotors, 2, np.nan, axis=0), rotors


forest_flight, canyon_flight = flight(forest), flight(walls)

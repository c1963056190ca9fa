"""Pictures by matplotlib, on its Agg canvas always: no display, no pyplot state."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PlotError", "bars", "blank", "curves", "grid", "part", "pixels", "save", "save_pixels"]


class PlotError(ValueError):
    """matplotlib is missing."""


def blank(width: float, height: float) -> Any:
    """An empty figure of that many inches (100 dots each) on an Agg canvas.

    Raises:
        PlotError: matplotlib is not installed.
    """
    made = part("figure").Figure(figsize=(width, height), dpi=100)
    part("backends.backend_agg").FigureCanvasAgg(made)
    return made


def part(name: str) -> Any:
    """The module matplotlib.`name`, imported when it is needed.

    Raises:
        PlotError: matplotlib is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise PlotError("pictures need matplotlib: pip install 'guided-policy-search[plot]'") from error


def grid(rows: int, columns: int, width: float = 4.0, height: float = 2.4) -> tuple[Any, list[list[Any]]]:
    """A figure with rows × columns axes."""
    figure = blank(width * columns, height * rows)
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def pixels(figure: Any) -> np.ndarray:
    """The figure as uint8 [height, width, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save(figure: Any, path: Path) -> None:
    """The figure as a png, atomically."""
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def save_pixels(image: np.ndarray, path: Path) -> None:
    """uint8 [height, width, 3] as a png, atomically."""
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    part("image").imsave(temporary, image, format="png")
    temporary.replace(path)


def curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Every scalar of metrics.jsonl against the iteration; what belongs together shares an axis."""
    names = list(dict.fromkeys(key for record in records for key in record if key != "iteration"))
    groups: dict[str, list[str]] = {}
    for name in names:
        if f"total_{name}" not in names:
            groups.setdefault(_subject(name), []).append(name)
    panels = list(groups.values())
    if not panels:
        return
    columns = min(4, len(panels))
    figure, axes = grid(-(-len(panels) // columns), columns, width=3.2, height=2.2)
    flat = [axis for row in axes for axis in row]
    for axis, panel in zip(flat, panels, strict=False):
        for name in panel:
            points = [(r["iteration"], r[name]) for r in records if r.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        axis.set_title((panel[0] if len(panel) == 1 else _subject(panel[0])).replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
        if len(panel) > 1 and axis.lines:
            axis.legend(fontsize=7)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    save(figure, path)


DRIVERS = ("teacher", "driver", "local", "student", "test")
"""Who a figure is of, where it is one of several."""


def _subject(name: str) -> str:
    """What a figure is about, whoever it is of: curves about the same are drawn together."""
    who, _, what = name.partition("_")
    return what if who in DRIVERS and what else name.removesuffix("_bound")


def bars(groups: Mapping[str, Mapping[str, Sequence[float]]], label: str, path: Path) -> None:
    """Means of `groups[group][name]` as bars, the single values (seeds) as dots on them."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    figure, axes = grid(1, 1, width=max(4.0, 0.6 * len(names) * len(groups) + 2.5), height=3.0)
    axis = axes[0][0]
    for j, name in enumerate(names):
        found = [
            (i, np.asarray(values[name], float)) for i, values in enumerate(groups.values()) if name in values
        ]
        places = [i + 0.8 * (j + 0.5) / len(names) - 0.4 for i, _ in found]
        drawn = axis.bar(places, [v.mean() for _, v in found], width=0.75 / len(names), alpha=0.5, label=name)
        for place, (_, v) in zip(places, found, strict=True):
            axis.plot(
                np.full(len(v), place), v, ".", color=drawn.patches[0].get_facecolor()[:3], markersize=5
            )
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel(label)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)

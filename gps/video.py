"""Film: the same episodes under several drivers, drawn side by side by matplotlib, no display needed."""

import contextlib
import importlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree, UInt8

from gps import plots
from gps.episodes import Steps
from gps.placement import cpu_jit
from gps.types import Env

__all__ = [
    "FPS",
    "Clip",
    "Drawing",
    "FilmError",
    "Frame",
    "clip",
    "curves",
    "film",
    "side_by_side",
    "write_mp4",
]

FPS = 10
"""Frames per second at most."""

Frame = UInt8[np.ndarray, "height width 3"]


class FilmError(ValueError):
    """A film cannot be written."""


class Clip(NamedTuple):
    """n episodes on the host, as long as the longest of them."""

    context: PyTree
    """[n, …]."""
    xs: Float[np.ndarray, "n T nx"]
    us: Float[np.ndarray, "n T nu"]
    lasted: Int[np.ndarray, " n"]
    """Control steps until the end; later rows mean nothing."""
    failed: Bool[np.ndarray, " n"]
    """Whether it ended in failure."""


class Drawing(NamedTuple):
    """How an env is shown."""

    frames: Callable[[Env, Clip, Sequence[str], Sequence[int]], Iterable[Frame]]
    """(env, clip, titles [n], steps) → a frame for each of the control steps, n episodes side by side."""
    still: Callable[[Env, Clip, Sequence[str]], Any] | None = None
    """(env, clip, titles [n]) → a figure of the whole episodes; None: the film's last frame."""


def clip(env: Env, steps: Steps) -> Clip:
    """The episodes of `steps` (not replaced), [T, n, …], as a clip of n."""
    alive = np.asarray(steps.alive)
    context = cpu_jit(jax.vmap(env.sample_context))(steps.key[0])
    return Clip(
        jax.tree.map(np.asarray, context),
        np.swapaxes(np.asarray(steps.x), 0, 1),
        np.swapaxes(np.asarray(steps.u), 0, 1),
        alive.sum(axis=0),
        np.asarray(np.any(np.asarray(steps.failed) & alive, axis=0)),
    )


def side_by_side(clips: Sequence[Clip], episode: int) -> Clip:
    """One episode of each clip as a clip."""
    return jax.tree.map(lambda *leaves: np.stack([leaf[episode] for leaf in leaves]), *clips)


def film(
    path: Path,
    env: Env,
    clips: Sequence[Clip],
    titles: Sequence[str],
    drawing: Drawing | None = None,
    seconds: float = 8.0,
) -> None:
    """Writes the clips one after the other as an mp4, and a picture of the first beside it as a png.

    Args:
        path: of the mp4.
        env: the unbound env; dt gives the speed.
        clips: of n episodes each, shown side by side.
        titles: n words, e.g. teacher and student.
        drawing: the env's own; without one, curves of states and controls.
        seconds: longer clips play faster.

    Raises:
        FilmError: no ffmpeg, or no frames.
    """
    drawing = Drawing(curves) if drawing is None else drawing
    stride, fps = _pace(max(int(part.lasted.max()) for part in clips), env.dt, seconds)

    def frames() -> Iterator[Frame]:
        for i, part in enumerate(clips):
            last = int(part.lasted.max()) - 1
            frame = None
            for frame in drawing.frames(env, part, titles, [*range(0, last, stride), last]):
                yield frame
            if frame is None:
                return
            if i == 0 and drawing.still is None:
                plots.save_pixels(frame, Path(path).with_suffix(".png"))
            yield from [frame] * round(fps)

    write_mp4(path, frames(), fps)
    if drawing.still is not None:
        plots.save(drawing.still(env, clips[0], titles), Path(path).with_suffix(".png"))


def curves(env: Env, shown: Clip, titles: Sequence[str], steps: Sequence[int]) -> Iterator[Frame]:
    """States above, controls below, growing with time: the picture of an env that brings none."""
    count = len(titles)
    figure, axes = plots.grid(2, count)
    times = np.arange(shown.us.shape[1]) * env.dt
    rows = [(axes[0][i], shown.xs[i], i) for i in range(count)]
    rows += [(axes[1][i], shown.us[i], i) for i in range(count)]
    lines = []
    for axis, values, i in rows:
        seen = values[: shown.lasted[i]]
        low, high = float(np.min(seen)), float(np.max(seen))
        margin = 0.05 * (high - low) + 1e-6
        axis.set(xlim=(0, float(times[steps[-1]]) + 1e-6), ylim=(low - margin, high + margin))
        lines.append(axis.plot(np.empty((0, 1)), np.empty((0, values.shape[1]))))
    for i, title in enumerate(titles):
        axes[0][i].set_title(title, fontsize=10)
        axes[1][i].set_xlabel("time (s)")
    axes[0][0].set_ylabel("state")
    axes[1][0].set_ylabel("control")
    for t in steps:
        for (_, values, i), drawn in zip(rows, lines, strict=True):
            shown_until = min(t + 1, int(shown.lasted[i]))
            for dimension, line in enumerate(drawn):
                line.set_data(times[:shown_until], values[:shown_until, dimension])
        yield plots.pixels(figure)
        figure.set_layout_engine("none")  # arranged once


def write_mp4(path: Path, frames: Iterable[Frame], fps: float) -> None:
    """Encodes frames [height, width, 3] of one size with the ffmpeg of imageio-ffmpeg; atomic.

    Raises:
        FilmError: imageio-ffmpeg is missing, ffmpeg fails, or there is no frame.
    """
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise FilmError("films need imageio-ffmpeg: pip install 'guided-policy-search[plot]'") from error
    supply = (_even(frame) for frame in frames)
    first = next(supply, None)
    if first is None:
        raise FilmError(f"no frames for {path}")
    temporary = Path(path).with_name(f".{Path(path).name}.part.mp4")
    size = f"{first.shape[1]}x{first.shape[0]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:.6g}", "-i", "-"]
    target = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(temporary)]
    try:
        _feed([ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target], first, supply)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise FilmError(f"ffmpeg could not write {path}: {' '.join(str(error).split())[:200]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _feed(command: list[str], first: Frame, rest: Iterable[Frame]) -> None:
    """Pipes frames into ffmpeg, in a session of its own so that Ctrl-C reaches us alone.

    (imageio_ffmpeg's own writer forks with a `preexec_fn`, which a process with JAX's threads must not do.)
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, start_new_session=True)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(first.tobytes())
                for frame in rest:
                    pipe.write(frame.tobytes())
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace") or f"exit code {process.returncode}")


# ------------------------------------------------------------------------------------- internals


def _pace(steps: int, dt: float, seconds: float) -> tuple[int, float]:
    """(stride, frames per second) of at most FPS and `seconds`, in real time where that allows it."""
    stride = max(1, round(1 / (FPS * dt)), -(-steps // int(FPS * seconds)))
    return stride, min(FPS, max(1 / (dt * stride), -(-steps // stride) / seconds))


def _even(frame: Frame) -> Frame:
    """h264 wants even sizes: one row or column repeated where needed."""
    frame = np.asarray(frame, np.uint8)
    odd = np.array([[0, size % 2] for size in (*frame.shape[:2], 0)])
    padded = np.pad(frame, odd, mode="edge")
    return np.ascontiguousarray(padded)

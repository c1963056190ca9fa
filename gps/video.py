"""Film: frames to mp4, rendered by OpenGL where there is one and drawn by matplotlib where there is not."""

import contextlib
import functools
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree, UInt8

from gps import plots
from gps.types import Env, Trajectory

__all__ = ["FilmError", "draw_curves", "film", "has_opengl", "titled", "write_mp4"]

Frame = UInt8[np.ndarray, "height width 3"]
Draw = Callable[[Env, PyTree, Trajectory], Iterable[Frame]]
"""(env, contexts [n, …], trajectories [n, …]) → frames that show the n episodes side by side."""


class FilmError(ValueError):
    """A film cannot be written."""


def film(
    path: Path,
    env: Env,
    clips: Sequence[tuple[PyTree, Trajectory]],
    titles: Sequence[str],
    draw: Draw | None = None,
    render: Draw | None = None,
    seconds: float = 8.0,
) -> None:
    """Writes the clips one after the other as an mp4, and a still of the first beside it as a png.

    Args:
        path: of the mp4.
        env: the unbound env; dt gives the speed.
        clips: (contexts, trajectories) with leading axis n each: n episodes side by side.
        titles: n words, e.g. teacher and student.
        draw: the env's own picture; without one, curves of states and controls.
        render: the env's OpenGL picture, used where OpenGL works.
        seconds: longer clips play faster.

    Raises:
        FilmError: no ffmpeg, or no frames.
    """
    chosen = render if render is not None and has_opengl() else draw or draw_curves
    stride, fps = _pace(clips[0][1].xs.shape[1], env.dt, seconds)

    def frames() -> Iterator[Frame]:
        for contexts, trajectories in clips:
            thinned = trajectories._replace(
                xs=trajectories.xs[:, ::stride],
                us=trajectories.us[:, ::stride],
                ys=trajectories.ys[:, ::stride],
            )
            last = None
            for frame in chosen(env, *jax.tree.map(np.asarray, (contexts, thinned))):
                last = titled(frame, titles)
                yield last
            if last is not None:
                plots.save_pixels(last, Path(path).with_suffix(".png"))
                yield from [last] * round(fps / 2)

    write_mp4(path, frames(), fps)


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


@functools.cache
def has_opengl() -> bool:
    """Whether MuJoCo can render here; tried in a process of its own, since a bad driver may end it."""
    program = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def draw_curves(env: Env, contexts: PyTree, trajectories: Trajectory) -> Iterator[Frame]:
    """States above, controls below, growing with time: the picture of an env that brings none."""
    del contexts
    count, T = trajectories.us.shape[:2]
    figure, axes = plots.grid(2, count)
    times = np.arange(T) * env.dt * max(1, round(env.horizon / T))
    series = [(axes[0][i], trajectories.xs[i][:T]) for i in range(count)]
    series += [(axes[1][i], trajectories.us[i]) for i in range(count)]
    lines = []
    for axis, values in series:
        low, high = float(np.min(values)), float(np.max(values))
        margin = 0.05 * (high - low) + 1e-6
        axis.set(xlim=(0, float(times[-1]) + 1e-6), ylim=(low - margin, high + margin), xlabel="time (s)")
        lines.append(axis.plot(np.empty((0, 1)), np.empty((0, values.shape[1]))))
    axes[0][0].set_ylabel("state")
    axes[1][0].set_ylabel("control")
    for t in range(1, T + 1):
        for (_, values), drawn in zip(series, lines, strict=True):
            for dimension, line in enumerate(drawn):
                line.set_data(times[:t], values[:t, dimension])
        yield plots.pixels(figure)


def titled(frame: Frame, titles: Sequence[str]) -> Frame:
    """`frame` under a bar that names its len(titles) equal columns."""
    return np.concatenate([_bar(frame.shape[1], tuple(titles)), np.asarray(frame, np.uint8)])


# ------------------------------------------------------------------------------------- internals


@functools.lru_cache(maxsize=8)
def _bar(width: int, titles: tuple[str, ...]) -> Frame:
    figure = plots.blank(width / 100, 0.3)
    for i, title in enumerate(titles):
        figure.text((i + 0.5) / len(titles), 0.5, title, ha="center", va="center", fontsize=11)
    bar = plots.pixels(figure)[:, :width]
    return np.pad(bar, ((0, 0), (0, width - bar.shape[1]), (0, 0)), constant_values=255)


def _pace(knots: int, dt: float, seconds: float) -> tuple[int, float]:
    """(stride, frames per second) of at most 25 fps and `seconds`, in real time where that allows it."""
    stride = max(1, round(0.04 / dt), -(-knots // int(25 * seconds)))
    return stride, min(25.0, max(1 / (dt * stride), -(-knots // stride) / seconds))


def _even(frame: Frame) -> Frame:
    """h264 wants even sizes: one row or column repeated where needed."""
    frame = np.asarray(frame, np.uint8)
    height, width = frame.shape[:2]
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)

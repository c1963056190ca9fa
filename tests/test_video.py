"""Films, read back by ffmpeg; pictures without a display."""

import re
import subprocess

import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from gps import plots, video
from gps.types import Trajectory


def read(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    about = re.search(rb"Video: h264.*?, (\d+)x(\d+).*?, ([\d.]+) fps", done.stderr)
    width, height, fps = (float(group) for group in about.groups())
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return (width, height, fps), frames


def test_what_is_written_can_be_read(tmp_path):
    shades = (0, 120, 250)
    frames = [np.full((41, 63, 3), shade, np.uint8) for shade in shades]
    video.write_mp4(tmp_path / "a.mp4", iter(frames), fps=10)
    about, back = read(tmp_path / "a.mp4")
    assert about == (64, 42, 10)
    assert [abs(float(frame.mean()) - shade) < 6 for frame, shade in zip(back, shades, strict=True)] == [
        True
    ] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_failures_are_in_words_and_leave_nothing(tmp_path):
    with pytest.raises(video.FilmError, match="no frames"):
        video.write_mp4(tmp_path / "a.mp4", [], fps=10)
    with pytest.raises(video.FilmError, match="could not write"):
        video.write_mp4(tmp_path / "missing" / "a.mp4", [np.zeros((16, 16, 3), np.uint8)], fps=10)

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise ArithmeticError("the picture's own error")

    with pytest.raises(ArithmeticError):
        video.write_mp4(tmp_path / "a.mp4", broken(), fps=10)
    assert not list(tmp_path.iterdir())


def two_flights(horizon):
    rng = np.random.default_rng(0)
    zeros = np.zeros((2, horizon + 1, 0))
    return Trajectory(
        jnp.asarray(rng.normal(size=(2, horizon + 1, 2))),
        jnp.asarray(rng.normal(size=(2, horizon, 1))),
        jnp.asarray(zeros),
        jnp.zeros((2, horizon + 1)),
        jnp.zeros(2, jnp.int32),
    )


def test_film_uses_the_drawing_of_the_env_and_curves_without_one(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    env = toys.line(horizon=6)
    seen = []

    def draw(env, contexts, trajectories):
        seen.append((contexts, trajectories.xs.shape))
        yield from [np.full((20, 40, 3), 200, np.uint8)] * 4

    clip = (jnp.ones(2), two_flights(6))
    video.film(tmp_path / "a.mp4", env, [clip, clip], ("teacher", "student"), draw)
    assert [shape for _, shape in seen] == [(2, 7, 2)] * 2
    assert len(read(tmp_path / "a.mp4")[1]) >= 8
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    video.film(tmp_path / "b.mp4", env, [clip], ("teacher", "student"))
    assert len(read(tmp_path / "b.mp4")[1]) >= 6


def test_curves_grow_with_time():
    frames = list(video.draw_curves(toys.line(horizon=5), (), two_flights(5)))
    ink = [int((frame < 128).sum()) for frame in frames]
    assert len(frames) == 5
    assert ink[-1] > ink[0]


@pytest.mark.parametrize(("dt", "knots"), [(0.002, 1001), (0.05, 201), (0.1, 31), (0.02, 20001)])
def test_pace_keeps_time_unless_the_film_would_be_long(dt, knots):
    stride, fps = video._pace(knots, dt, seconds=8.0)
    shown = -(-knots // stride) / fps
    assert fps <= 25
    assert shown <= 8.2
    if knots * dt < 7.9:
        assert shown == pytest.approx(knots * dt, rel=0.1)


def test_titles_add_a_bar_and_keep_the_width():
    frame = np.zeros((30, 333, 3), np.uint8)
    titled = video.titled(frame, ("teacher", "student"))
    assert titled.shape[1:] == (333, 3)
    assert (titled[-30:] == frame).all()
    bar = titled[:-30] < 128
    assert bar[:, :166].any()
    assert bar[:, 166:].any()


def test_pictures_need_no_display_and_no_pyplot(tmp_path):
    records = [
        {"iteration": i, "teacher_cost": 1.0 / i, "loss": None if i == 2 else 2.0} for i in range(1, 4)
    ]
    plots.curves(records, tmp_path / "curves.png")
    plots.bars({"a": {"plato": [1.0, 2.0], "teacher": [3.0]}}, "seconds", tmp_path / "bars.png")
    for file in ("curves.png", "bars.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")

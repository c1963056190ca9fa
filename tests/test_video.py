"""Films, read back by ffmpeg; pictures without a display."""

import re
import subprocess

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from gps import plots, video
from gps.episodes import Steps


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


def two_episodes(horizon, lasted=None):
    rng = np.random.default_rng(0)
    xs, us = rng.normal(size=(2, horizon, 2)), rng.normal(size=(2, horizon, 1))
    lasted = np.full(2, horizon) if lasted is None else np.array(lasted)
    return video.Clip(np.ones(2), xs, us, lasted, lasted < horizon)


def test_film_uses_the_drawing_of_the_env_and_curves_without_one(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    env = toys.line(horizon=40)
    seen = []

    def frames(env, clip, titles, steps):
        seen.append((clip.lasted.tolist(), list(titles), steps))
        yield from [np.full((20, 40, 3), 200, np.uint8)] * len(steps)

    def still(env, clip, titles):
        figure = plots.blank(3, 1)
        figure.text(0.5, 0.5, " ".join(titles))
        return figure

    clips = [two_episodes(40), two_episodes(40, (40, 7)), two_episodes(40, (3, 7))]
    video.film(tmp_path / "a.mp4", env, clips, ("teacher", "student"), video.Drawing(frames))
    assert [(lasted, titles) for lasted, titles, _ in seen] == [
        (clip.lasted.tolist(), ["teacher", "student"]) for clip in clips
    ]
    assert [steps[-1] for _, _, steps in seen] == [39, 39, 6], "each ends with its longest episode"
    (_, _, fps), back = read(tmp_path / "a.mp4")
    assert len(back) == sum(len(steps) + round(fps) for _, _, steps in seen)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    video.film(tmp_path / "b.mp4", env, clips[:1], ("teacher", "student"), video.Drawing(frames, still))
    assert plots.part("image").imread(tmp_path / "b.png").shape[:2] == (100, 300)
    video.film(tmp_path / "c.mp4", env, clips[1:2], ("teacher", "student"))
    assert len(read(tmp_path / "c.mp4")[1]) >= 6


def test_a_clip_holds_what_happened():
    T, n = 5, 3
    rng = np.random.default_rng(1)
    keys = jax.random.split(jax.random.key(2), n)
    alive = np.arange(T)[:, None] < np.array([5, 2, 5])
    failed = np.zeros((T, n), bool)
    failed[[1, 3], [1, 1]] = failed[4, 2] = True
    blank = dict.fromkeys(Steps._fields)
    x, u = rng.normal(size=(T, n, 2)), rng.normal(size=(T, n, 1))
    found = {"x": x, "u": u, "alive": alive, "failed": failed, "key": jnp.stack([keys] * T)}
    env = toys.line()
    clip = video.clip(env, Steps(**(blank | found)))
    assert clip.lasted.tolist() == [5, 2, 5]
    assert clip.failed.tolist() == [False, True, True]
    np.testing.assert_allclose(clip.context, [env.sample_context(key) for key in keys])
    pair = video.side_by_side((clip, clip._replace(us=-clip.us)), 1)
    np.testing.assert_array_equal(pair.xs, np.stack([x[:, 1], x[:, 1]]))
    np.testing.assert_array_equal(pair.us, np.stack([u[:, 1], -u[:, 1]]))


def test_curves_grow_with_time_and_stop_where_the_episode_did():
    clip = two_episodes(6, lasted=(6, 3))
    frames = list(video.curves(toys.line(), clip, ("teacher", "student"), range(6)))
    half = frames[0].shape[1] // 2
    ink = np.array([[(side < 128).sum() for side in (f[:, :half], f[:, half:])] for f in frames])
    assert len(frames) == 6
    assert ink[5, 0] > ink[2, 0] > ink[0, 0]
    assert ink[2, 1] == ink[5, 1]


@pytest.mark.parametrize(("dt", "steps"), [(0.002, 1001), (0.05, 201), (0.1, 31), (0.02, 20001)])
def test_pace_keeps_time_unless_the_film_would_be_long(dt, steps):
    stride, fps = video._pace(steps, dt, seconds=8.0)
    shown = -(-steps // stride) / fps
    assert fps <= video.FPS
    assert shown <= 8.2
    if steps * dt < 7.9:
        assert shown == pytest.approx(steps * dt, rel=0.1)


def test_pictures_need_no_display_and_no_pyplot(tmp_path):
    records = [
        {"iteration": i, "teacher_cost": 1.0 / i, "loss": None if i == 2 else 2.0} for i in range(1, 4)
    ]
    plots.curves(records, tmp_path / "curves.png")
    plots.bars({"a": {"plato": [1.0, 2.0], "teacher": [3.0]}}, "seconds", tmp_path / "bars.png")
    for file in ("curves.png", "bars.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")

"""`gps compare`: a run for every algorithm, task and seed, of which only the missing are made."""

import json
import signal
import subprocess
import time

import pytest
from commands import bits, gps, lines, start

from gps import checkpoint, run


def test_compare_fills_in_only_what_is_missing(tmp_path, capsys):
    words = [
        *("compare", "--algorithms", "toys:imitate", "toys:imitate(rate=.3)"),
        *("--envs", "toys:line", "toys:line(wall=4, teacher.gain=1.5)", "--seeds", 0, 1),
        *("--iterations", 2, "--episodes", 3, "--out", tmp_path / "c", "--jobs", 1),
    ]
    code, out, _ = gps(capsys, *words)
    assert code == 0
    assert "training crashes" in out
    rows = json.loads((tmp_path / "c" / "results.json").read_text())
    assert len(rows) == 8
    assert {row["training"]["crashes"] for row in rows} == {1}
    config = json.loads(next((tmp_path / "c").glob("*wall*/*rate*/seed-1/config.json")).read_text())
    assert (config["options"]["env"]["wall"], config["options"]["teacher"]["gain"]) == (4, 1.5)
    assert config["options"]["algorithm"]["rate"] == 0.3
    assert {entry.name for entry in (tmp_path / "c").iterdir()} >= {"report.md", "compare.png"}
    lost = next((tmp_path / "c").glob("toys-line/toys-imitate/seed-1"))
    before = bits(lost)
    subprocess.run(["rm", "-r", lost], check=True)
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").rglob("eval.json")}
    code, out, _ = gps(capsys, *words)
    assert (code, out.count(": kept")) == (0, 7)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert bits(lost) == before
    assert json.loads((tmp_path / "c" / "results.json").read_text())[1]["student"] == rows[1]["student"]
    config_file = lost / "config.json"
    config_file.write_text(config_file.read_text().replace(run.versions()["code"], "0ther"))
    out = gps(capsys, *words)[1]
    assert f"{lost}: made with other versions (code 0ther → " in out
    assert out.count("other versions") == 1
    longer = [4 if word == 2 else word for word in words]
    code, _, err = gps(capsys, *longer)
    assert code == 1
    assert "was made with iterations = 2 instead of 4" in err


def test_compare_refuses_twins_and_makes_lost_reports_again(tmp_path, capsys):
    words = [
        "compare",
        "--envs",
        "toys:line",
        "--iterations",
        2,
        "--episodes",
        2,
        "--out",
        tmp_path,
        "--jobs",
        1,
    ]
    code, _, err = gps(capsys, *words, "--algorithms", "toys:imitate", "--seeds", 0, 0)
    assert code == 2
    assert "toys:imitate on toys:line seed 0 and toys:imitate on toys:line seed 0 would share" in err
    assert not list(tmp_path.iterdir())
    variants = ["toys:imitate(rate=1e-3)", "toys:imitate(rate=1e+3)"]
    assert gps(capsys, *words, "--algorithms", *variants)[0] == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert rows[0]["student"] != rows[1]["student"]
    report = next(tmp_path.glob("*/*1e-3/seed-0/report.md"))
    report.unlink()  # killed before it was written
    code, out, _ = gps(capsys, *words, "--algorithms", *variants)
    assert (code, out.count(": kept")) == (0, 1)
    assert report.exists()
    assert "must be at least 0, got -1" in gps(capsys, *words, "--algorithms", *variants, "--seeds", -1)[2]
    assert "each option once" in gps(capsys, *words, "--algorithms", "toys:imitate(rate=1, rate=2)")[2]
    assert "--episodes must be at least 1, got 0" in gps(capsys, "demo", "--episodes", 0)[2]


@pytest.mark.slow
def test_compare_in_processes_of_their_own_makes_the_same_runs(tmp_path, capsys):
    variants = ["toys:imitate", "toys:imitate(rate=.3)"]
    words = ["compare", "--algorithms", *variants, "--envs", "toys:line", "--seeds", 0, 1, "--iterations", 3]
    words += ["--episodes", 3]
    assert gps(capsys, *words, "--out", tmp_path / "one", "--jobs", 1)[0] == 0
    process = start(*words, "--out", tmp_path / "two", "--jobs", 2)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.count("3/3") == 4
    for path in (tmp_path / "one").glob("*/*/seed-*"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert bits(path) == bits(other)
        assert (path / "eval.json").read_text() == (other / "eval.json").read_text()


@pytest.mark.slow
def test_compare_stops_its_processes_and_says_what_went_wrong_in_one(tmp_path):
    slow = "toys:imitate(pause=.2)"
    words = ["compare", "--envs", "toys:line", "--iterations", 100, "--jobs", 2, "--out", tmp_path / "c"]
    process = start(*words, "--algorithms", slow, "toys:imitate(pause=.1)")
    runs = [tmp_path / "c" / "toys-line" / f"toys-imitate-pause=.{n}" / "seed-0" for n in (1, 2)]
    while not all(lines(run) for run in runs) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    saved = [checkpoint.steps(run / "checkpoints")[-1] for run in runs]
    assert saved == [lines(run) for run in runs], "SIGTERM is what it sends them"
    process = start(*words[:-1], tmp_path / "d", "--algorithms", slow, "toys:imitate(mode='broken')")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err == "gps: error: the cost returned NaN at step 3; check the cost function\n"
    broken, going = sorted((tmp_path / "d").glob("*/*/seed-*"))
    assert lines(broken) == 1
    assert lines(going) < 100

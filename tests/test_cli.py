"""The command line: a run survives anything, errors are one line, nothing is overwritten."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import TOY, bits, gps, lines, start

from gps import checkpoint


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, capsys):
    options = ["--iterations", 40, "--seed", 3, "--algorithm.pause", 0.02]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert gps(capsys, *TOY, *options, "--run-dir", whole)[0] == 0
    rng = np.random.default_rng()
    kills = 0
    for target in (1, 12, 25):
        resume = ["--resume"] if (killed / ".lock").exists() else []
        process = start(*TOY, *options, "--run-dir", killed, *resume)
        while lines(killed) < target and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 3
    assert lines(killed) < 40
    code, out, err = gps(capsys, "train", "--run-dir", killed, "--resume", "--episodes", 0)
    assert (code, err) == (0, ""), out
    assert bits(killed) == bits(whole)


def test_ctrl_c_saves_says_how_to_go_on_and_does(tmp_path, capsys):
    run_dir, options = tmp_path / "r", ["--iterations", 30, "--checkpoint-every", 1000]
    process = start(*TOY, *options, "--algorithm.pause", 0.05, "--run-dir", run_dir)
    while lines(run_dir) < 3 and process.poll() is None:
        time.sleep(0.005)
    code, out, err = gps(capsys, "train", "--run-dir", run_dir, "--resume")
    assert code == 1
    assert f"in use by process {process.pid}" in err
    assert err.count("\n") == 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert f"gps train --run-dir {run_dir} --resume" in out
    assert "Traceback" not in err
    assert checkpoint.steps(run_dir / "checkpoints") == [lines(run_dir)]
    assert gps(capsys, "train", "--run-dir", run_dir, "--resume", "--episodes", 0)[0] == 0
    whole = tmp_path / "whole"
    assert gps(capsys, *TOY, *options, "--algorithm.pause", 0.05, "--run-dir", whole)[0] == 0
    assert bits(run_dir) == bits(whole)


def test_a_finished_run_holds_everything_and_can_be_lengthened(tmp_path, capsys):
    path = tmp_path / "r"
    code, out, _ = gps(capsys, *TOY[:-1], 3, "--iterations", 2, "--run-dir", path)
    assert code == 0
    assert "teacher cost 0.5" in out
    assert "KL –" in out
    names = {entry.name for entry in path.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "timing.jsonl", "checkpoints", "eval.json"}
    assert names >= {"curves.png", "flight.mp4", "flight.png", "report.md"}
    config = json.loads((path / "config.json").read_text())
    assert config["options"]["student"] == {"hidden": [4]}
    assert config["options"]["env"] == {"horizon": 12, "wall": 2.5}
    report = (path / "report.md").read_text()
    assert "flight.mp4" in report
    assert "time to failure" in report
    assert json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["loss"] > 0
    before = (path / "metrics.jsonl").read_text()
    code, out, _ = gps(capsys, "train", "--run-dir", path, "--resume", "--iterations", 4, "--episodes", 0)
    assert code == 0
    assert (path / "metrics.jsonl").read_text().startswith(before)
    assert lines(path) == 4
    assert "unknown option" in gps(capsys, *TOY, "--algorithm.iterations", 4, "--run-dir", tmp_path / "x")[2]
    assert gps(capsys, *TOY, "--iterations", 4, "--run-dir", tmp_path / "w")[0] == 0
    assert (path / "metrics.jsonl").read_text() == (tmp_path / "w" / "metrics.jsonl").read_text()
    assert gps(capsys, "eval", path, "--episodes", 2, "--no-film")[0] == 0
    assert json.loads((path / "eval.json").read_text())["student"]["episodes"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--algorithm", "plto"], "unknown algorithm 'plto'; did you mean plato?"),
        ([*TOY[:3], "--env", "quadrotor_forst"], "did you mean quadrotor_forest?"),
        ([*TOY, "--env.walll", "3"], "unknown option --env.walll; did you mean --env.wall?"),
        ([*TOY, "--itertions", "3"], "did you mean --iterations?"),
        ([*TOY, "--algorithm.rate", "fast"], "could not convert string to float: 'fast'"),
        ([*TOY, "--student.hidden", "3", "x"], "--student.hidden"),
        ([*TOY, "--iterations", "0"], "--iterations must be at least 1, got 0"),
        ([*TOY, "--resume"], "--resume needs --run-dir"),
        (["train", "--run-dir", "nowhere", "--resume"], "no run in nowhere"),
        (["train", "--algorithm", "toys:imitat", "--env", "toys:line"], "did you mean imitate?"),
        (["train", "--algorithm", "nomodule:x", "--env", "toys:line"], "no module nomodule"),
        (["eval", "nowhere"], "no run in nowhere"),
        (["eval"], "required"),
        (["evl"], "unknown command 'evl'; did you mean eval?"),
        (["envs", "--all"], "takes no options"),
        (["compare", "--algorithms", "toys:imitate(rat=1)", "--envs", "toys:line"], "did you mean rate?"),
        (["compare", "--algorithms", "toys:imitate(1)", "--envs", "toys:line"], "write NAME(option=value"),
        (["compare", "--seeds", "a"], "--seeds"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_advice(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = gps(capsys, *words)
    assert code != 0
    assert said in err
    assert err.startswith("gps: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


BAD = ["train", "--algorithm", "bc", "--run-dir", "r"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("missing_file", "no MJCF file at 'nowhere/model.xml': check the path"),
        ("broken_file", "MuJoCo cannot compile MJCF text: "),
        ("wrong_shape", "cost(x, u, y, t) must return a scalar, shape (), got (2,): sum or index it"),
        ("unknown_sensor", "no sensor named 'angel': did you mean 'angle'?"),
        ("nan_cost", "line: the cost of the first state is nan"),
        ("infinite_start", "line: the first state of an episode has entries that are not finite"),
    ],
)
def test_a_task_that_is_wrong_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, task, said
):
    monkeypatch.chdir(tmp_path)
    code, out, err = gps(capsys, *BAD, "--env", f"bad_tasks:{task}")
    assert (code, out) == (1, "")
    assert err.startswith("gps: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "bad_tasks:INSTANCE"], "bad_tasks:INSTANCE is NoneType, expected a function"),
        (
            ["--env", "bad_tasks:no_default"],
            "no_default needs a value for 'length', which no option can give",
        ),
        (["--env", "bad_tasks:unlimited", "--teacher.horizon", "0"], "a planner needs horizon >= 1"),
        (["--env", "bad_tasks:unlimited", "--student.hidden", "0"], "hidden must be a tuple of widths"),
        (["--env", "bad_tasks:unlimited", "--seed", str(2**64)], "--seed must be at most"),
        (["--env", "bad_tasks:unlimited", "--run-dir", "old [1]"], "choose a path without [ ]"),
    ],
)
def test_a_setting_that_cannot_work_leaves_no_run_behind(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = gps(capsys, *BAD, *words)
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_that_teaches_nothing_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--algorithm.num-worlds", 2, "--algorithm.num-steps", 6, "--algorithm.updates", 3]
    code, _, err = gps(capsys, *BAD, *small, "--env", "bad_tasks:nan_observation", "--iterations", 2)
    assert code == 1
    assert "iteration 1 left the student's parameters or its loss not finite" in err
    code, _, err = gps(
        capsys, *BAD[:-1], "late", *small, "--env", "bad_tasks:late_nan_cost", "--iterations", 1, "--no-film"
    )
    assert code == 1
    assert "cost is not finite in 20 of 20 episodes" in err


def test_damaged_records_are_named(tmp_path, capsys):
    path = tmp_path / "r"
    assert gps(capsys, *TOY, "--iterations", 2, "--run-dir", path)[0] == 0
    for text in ("garbage\n", '{"loss": 1}\n', "[]\n"):
        (path / "metrics.jsonl").write_text(text)
        code, _, err = gps(capsys, "train", "--run-dir", path, "--resume", "--iterations", 3)
        assert (code, err.count("\n")) == (1, 1)
        assert f"{path}/metrics.jsonl is damaged" in err
    for text in ("null", "{}", '{"options": []}'):
        (path / "config.json").write_text(text)
        code, _, err = gps(capsys, "eval", path)
        assert (code, err.count("\n")) == (1, 1)
        assert "config.json" in err


@pytest.mark.slow
def test_a_task_of_ones_own_without_control_limits_is_trained_and_judged(tmp_path, capsys):
    """From MJCF to report with the real teacher, student and algorithm."""
    budget = ["--iterations", 2, "--algorithm.num-steps", 4, "--algorithm.num-worlds", 2]
    budget += ["--algorithm.updates", 5, "--algorithm.test-worlds", 0]
    path = tmp_path / "r"
    code, out, err = gps(
        capsys, *BAD[:3], "--run-dir", path, "--env", "bad_tasks:unlimited", *budget, "--episodes", 2
    )
    assert (code, err) == (0, ""), out
    assert "2/2" in out
    found = json.loads((path / "eval.json").read_text())
    assert found["teacher"]["episodes"] == 2
    assert found["teacher"]["cost"] < 0.26, "doing nothing costs .25 and more"
    assert {"flight.mp4", "flight.png", "report.md"} <= {entry.name for entry in path.iterdir()}


def test_no_compiler_and_no_python_are_said_before_anything_is_installed(tmp_path):
    root = Path(__file__).parents[1]
    for given, said in ((["CXX_FOUND="], "no C++ compiler found"), (["PYTHON="], "no python >= 3.11 found")):
        command = ["make", "--no-print-directory", "-C", root, "setup", f"VENV={tmp_path / 'venv'}", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert f"error: {said}; install one" in done.stderr
        assert not list(tmp_path.iterdir())


def test_a_run_is_never_overwritten_nor_changed_on_the_way(tmp_path, capsys):
    path = tmp_path / "r"
    assert gps(capsys, *TOY, "--iterations", 2, "--run-dir", path)[0] == 0
    before = bits(path)
    code, _, err = gps(capsys, *TOY, "--iterations", 2, "--run-dir", path)
    assert (code, err.count("\n")) == (1, 1)
    assert "--resume" in err
    resume = ["train", "--run-dir", path, "--resume", "--episodes", 0]
    assert "started with --algorithm.rate 0.1, not 0.2" in gps(capsys, *resume, "--algorithm.rate", 0.2)[2]
    assert "started with --seed 0, not 1" in gps(capsys, *resume, "--seed", 1)[2]
    assert "less than the run's own 2" in gps(capsys, *resume, "--iterations", 1)[2]
    assert bits(path) == before


def test_an_infinite_option_is_kept_in_json_that_everyone_can_read(tmp_path, capsys):
    path = tmp_path / "r"
    assert gps(capsys, *TOY, "--iterations", 2, "--env.wall", "inf", "--run-dir", path)[0] == 0

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    config = json.loads((path / "config.json").read_text(), parse_constant=refuse)
    assert config["options"]["env"]["wall"] == "inf"
    code, _, err = gps(capsys, "train", "--run-dir", path, "--resume", "--iterations", 3, "--episodes", 0)
    assert (code, err, lines(path)) == (0, "", 3)
    _, _, err = gps(capsys, "train", "--run-dir", path, "--resume", "--env.wall", 2, "--episodes", 0)
    assert "was started with --env.wall inf, not 2" in err


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken_when_told(tmp_path, capsys):
    path = tmp_path / "r"
    assert gps(capsys, *TOY, "--iterations", 3, "--run-dir", path)[0] == 0
    before = bits(path)
    for file in (path / "checkpoints" / "3").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    for words in (["train", "--run-dir", path, "--resume"], ["eval", path]):
        code, _, err = gps(capsys, *words)
        assert (code, err.count("\n")) == (1, 1)
        assert f"remove {path / 'checkpoints' / '3'} to go on from iteration 2" in err
    assert lines(path) == 3
    subprocess.run(["rm", "-r", path / "checkpoints" / "3"], check=True)
    assert gps(capsys, "train", "--run-dir", path, "--resume", "--episodes", 0)[0] == 0
    assert bits(path) == before


def test_an_error_while_training_keeps_the_run(tmp_path, capsys):
    options = ["--algorithm.mode", "broken", "--run-dir", tmp_path / "r"]
    code, out, err = gps(capsys, *TOY, *options)
    assert (code, err) == (1, "gps: error: the cost returned NaN at step 3; check the cost function\n")
    assert "continue with" in out
    assert checkpoint.steps(tmp_path / "r" / "checkpoints") == [1]
    assert "Traceback" in gps(capsys, *TOY, *options[:-1], tmp_path / "s", "--debug")[2]
    code, _, err = gps(capsys, *TOY, "--algorithm.mode", "defect", "--run-dir", tmp_path / "t")
    assert code == 1
    assert "Traceback" in err


def test_lists_and_help(capsys):
    assert "plato" in gps(capsys, "algorithms")[1]
    assert "quadrotor_forest" in gps(capsys, "envs")[1]
    assert "compare" in gps(capsys, "--help")[1]
    code, out, _ = gps(capsys, *TOY, "--help")
    assert code == 0
    for said in (
        "--env.wall",
        "a crash beyond this distance",
        "--student.hidden",
        "--algorithm.rate",
        "--seed",
    ):
        assert said in out

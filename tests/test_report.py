"""The report, its command line, the figures of episodes and the progress line."""

import io
import json
import shlex

import numpy as np
import pytest
from rich.console import Console

from gps import report
from gps.cli import evaluate, experiment, options, progress, summary, variants
from gps.cli.registry import UsageError


def made_config():
    chosen = (
        variants.parse("toys:imitate(rate=.3, mode='x y')"),
        variants.parse("toys:line(student.hidden=(3,5))"),
    )
    return variants.config(*chosen, seed=4, iterations=2)


def test_the_command_in_the_report_makes_the_same_config():
    config = made_config()
    words = shlex.split(report.command(experiment.to_json(config)))
    assert words[:2] == ["gps", "train"]
    made = options.grouped("Flags", __import__("gps.cli.train", fromlist=["Flags"]).Flags,
                           experiment.groups(config.algorithm, config.env))  # fmt: skip
    assert experiment.from_flags(options.parse(made, words[2:], "gps train", "")) == config


def test_a_config_survives_json():
    config = made_config()
    back = experiment.from_json(json.loads(json.dumps(experiment.to_json(config))))
    assert back == config
    assert config.options["student"] == {"hidden": [3, 5]}
    assert experiment.scene(config) is experiment.scene(back)


def by_hand(target, x, act):
    """Time, survival, mean cost and mean speed of one episode of the toy env in plain NumPy."""
    costs, speeds, failed = [], [], False
    while len(costs) < 30 and not failed:
        u = float(np.clip(act(x, target), -1, 1))
        costs.append((x[0] - target) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u**2)
        speeds.append(abs(x[1]))
        x = x + 0.1 * np.array([x[1], u])
        failed = abs(x[0]) > 2.5
    return 0.1 * len(costs), float(not failed), np.mean(costs), np.mean(speeds)


def test_figures_of_student_and_teacher_are_those_of_a_plain_loop():
    config = variants.config(
        variants.parse("toys:imitate"), variants.parse("toys:line(horizon=30, teacher.gain=1.5)"), 0, 1
    )
    scene, keys, weights = experiment.scene(config), evaluate.Worlds(12, 5).keys(), np.array([[-0.4, 0.7]])
    scores, steps = scene.judge_student(keys, (weights, ()))
    worlds = [
        (float(scene.env.sample_context(key)), x)
        for key, x in zip(steps.key[0], np.asarray(steps.x[0]), strict=True)
    ]
    found = evaluate.figures(scores)["per_episode"]
    wanted = np.array([by_hand(*world, lambda x, target: weights[0] @ [x[0], target]) for world in worlds])
    for column, name in enumerate(("time_to_failure", "survived", "cost", "speed")):
        np.testing.assert_allclose(found[name], wanted[:, column], atol=1e-8)
    assert 0 < sum(found["survived"]) < 12, "both endings must occur for this test to tell"
    taught = evaluate.judge_teacher(config, evaluate.Worlds(12, 5))
    wanted = np.array([by_hand(*world, lambda x, target: -3.0 * (x[0] - target) - x[1]) for world in worlds])
    np.testing.assert_allclose(taught.figures["per_episode"]["cost"], wanted[:, 2], atol=1e-8)
    np.testing.assert_array_equal(taught.clip.lasted, np.round(wanted[:, 0] / 0.1))
    np.testing.assert_array_equal(taught.clip.failed, wanted[:, 1] == 0)
    np.testing.assert_allclose(taught.clip.context, [target for target, _ in worlds])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (3, "3"), (0.123456, "0.1235"), (123456.7, "123457"), (True, "yes")],
)
def test_numbers_are_short(value, text):
    assert progress.number(value) == text


def test_the_line_shows_what_there_is():
    line = progress.iteration_line({"teacher_cost": 1.25, "crashes": 2, "samples": 100}, 0.5)
    assert line == "teacher cost 1.25  student cost –  crashes 2  KL –  200 samples/s"


def test_the_teachers_cost_stays_on_show_and_time_left_leaves_out_compiling():
    console = Console(file=io.StringIO(), width=200)
    with progress.iterations(console, "train", 5, [{"iteration": 1, "teacher_cost": 0.5}]) as show:
        show(2, {"crashes": 1}, 100.0)
        show(3, {"teacher_cost": 0.25}, 10.0)
        show(4, {"kl": None}, 12.0)
    lines = console.file.getvalue().splitlines()
    assert [line.split("teacher cost ")[1].split()[0] for line in lines] == ["0.5", "0.25", "0.25"]
    assert [line.rsplit("  ", 1)[1] for line in lines] == ["5:00 left", "0:20 left", "0:11 left"]


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("plato", "plato", {}),
        ("plato(lam=3)", "plato", {"lam": 3}),
        ("env(a=.2, teacher.horizon=18, student.hidden=(64,64))", "env",
         {"a": 0.2, "teacher.horizon": 18, "student.hidden": (64, 64)}),
        ("plato(lam=inf, regret=2.)", "plato", {"lam": float("inf"), "regret": 2.0}),
        ("m:f(word='a.b=c', flag=True)", "m:f", {"word": "a.b=c", "flag": True}),
    ],
)  # fmt: skip
def test_variants(text, name, given):
    assert variants.parse(text) == (name, given)


@pytest.mark.parametrize(("text", "says"), [
    ("plato(regret='2')", "plato: regret must be float, got '2'"),
    ("plato(regret=None)", "plato: regret must be float, got None"),
    ("plato(num_worlds=2.5)", "plato: num_worlds must be int, got 2.5"),
    ("plato(num_worlds=True)", "plato: num_worlds must be int, got True"),
])  # fmt: skip
def test_variants_of_the_wrong_type(text, says):
    with pytest.raises(UsageError, match=says):
        variants.config(variants.parse(text), variants.parse("pendulum"), 0, 1)
    with pytest.raises(UsageError, match="hidden must be"):
        variants.config(variants.parse("bc"), variants.parse("pendulum(student.hidden=64)"), 0, 1)
    made = variants.config(variants.parse("bc(learning_rate=1)"), variants.parse("pendulum"), 0, 1)
    assert made.options["algorithm"]["learning_rate"] == 1


def test_totals_are_the_last_total_or_the_sum():
    records = [{"crashes": 2, "total_teacher_queries": 5}, {"crashes": 1, "total_teacher_queries": 9}]
    assert summary.totals(records) == {"crashes": 3, "teacher_queries": 9}
    assert summary.totals([]) == {}

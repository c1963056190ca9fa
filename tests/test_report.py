"""The report, its command line, the figures of episodes and the progress line."""

import json
import shlex

import jax
import numpy as np
import pytest
import toys

from gps import report
from gps.cli import episodes, evaluate, experiment, options, progress, summary, variants


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


def by_hand(env, key, act):
    """One episode of the toy env in plain NumPy."""
    world, start, _ = jax.random.split(key, 3)
    target = float(env.sample_context(world))
    x = np.asarray(env.init(start))
    cost, steps, speed, alive = 0.0, 0, 0.0, True
    for _ in range(env.horizon):
        alive = alive and abs(x[0]) <= 2.5
        u = float(np.clip(act(x, target), -1, 1))
        cost += (x[0] - target) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u**2
        if alive:
            steps, speed = steps + 1, speed + abs(x[1])
            x = x + 0.1 * np.array([x[1], u])
    alive = alive and abs(x[0]) <= 2.5
    cost += (x[0] - target) ** 2 + 0.1 * x[1] ** 2
    return steps * env.dt, float(alive), cost, speed / max(steps, 1)


def test_figures_of_student_and_teacher_are_those_of_a_plain_loop():
    env = toys.line(horizon=30)
    student = toys.student(env.nu, env.limits)
    weights = np.array([[-0.4, 0.7]])
    keys = evaluate.Worlds(12, 5).keys()
    seen = episodes.student_driver(env, student)(keys, (weights, ()))
    found = episodes.figures(env, seen)["per_episode"]
    wanted = [by_hand(env, key, lambda x, target: weights[0] @ [x[0], target]) for key in keys]
    for column, name in enumerate(("time_to_failure", "survived", "cost", "speed")):
        np.testing.assert_allclose(found[name], [row[column] for row in wanted], atol=1e-8)
    assert 0 < sum(found["survived"]) < 12, "both endings must occur for this test to tell"
    taught = episodes.figures(env, episodes.teacher_driver(env, toys.teacher(1.5))(keys))["per_episode"]
    wanted = [by_hand(env, key, lambda x, target: -3.0 * (x[0] - target) - x[1]) for key in keys]
    np.testing.assert_allclose(taught["cost"], [row[2] for row in wanted], atol=1e-8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (3, "3"), (0.123456, "0.1235"), (123456.7, "123457"), (True, "yes")],
)
def test_numbers_are_short(value, text):
    assert progress.number(value) == text


def test_the_line_shows_what_there_is():
    line = progress.iteration_line({"teacher_cost": 1.25, "crashes": 2, "samples": 100}, 0.5)
    assert line == "teacher cost 1.25  student cost –  crashes 2  KL –  200 samples/s"


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("plato", "plato", {}),
        ("plato(lam=3)", "plato", {"lam": 3}),
        ("env(a=.2, teacher.horizon=18, student.hidden=(64,64))", "env",
         {"a": 0.2, "teacher.horizon": 18, "student.hidden": (64, 64)}),
        ("m:f(word='a.b=c', flag=True)", "m:f", {"word": "a.b=c", "flag": True}),
    ],
)  # fmt: skip
def test_variants(text, name, given):
    assert variants.parse(text) == (name, given)


def test_totals_are_the_last_total_or_the_sum():
    records = [{"crashes": 2, "total_teacher_queries": 5}, {"crashes": 1, "total_teacher_queries": 9}]
    assert summary.totals(records) == {"crashes": 3, "teacher_queries": 9}
    assert summary.totals([]) == {}

"""PIGPS learns; and every local teacher stands under the loop, from Python and from the command line."""

import functools
import json
from functools import cache

import jax
import numpy as np
import pytest
from gps_tasks import cart
from small_tasks import same
from test_guided import BEST, SMALL

from envs import blind_peg
from gps.algorithms.defaults import pairing
from gps.algorithms.mdgps import mdgps
from gps.algorithms.pigps import pigps
from gps.cli import experiment, registry, variants
from gps.cli import main as cli
from gps.report import command
from students.policies import mlp
from teachers import local_lqr, local_pi2, local_pilqr

KEY, OTHER = jax.random.split(jax.random.key(29))


@cache
def ran(method, make_teacher, iterations, samples, **options):
    """(the algorithm, states, infos)."""
    env = cart()
    student = mlp(1, hidden=(24,), covariance="labels", limits=env.limits)
    algorithm = method(env, make_teacher, student, **SMALL | {"samples": samples} | options)
    states, infos = [algorithm.init(KEY)], []
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(OTHER, i), states[-1])
        states.append(state)
        infos.append(info)
    return algorithm, states, infos


def pi2_ran():
    return ran(pigps, local_pi2, 16, 15)


@pytest.mark.slow
def test_pigps_comes_near_the_best_that_can_be_done_without_a_model():
    infos = pi2_ran()[2]
    costs = [float(info["student_cost"]) for info in infos]
    assert float(infos[0]["driver_cost"]) > 2 * BEST
    assert BEST * (1 - 1e-3) < min(costs) < 1.1 * BEST, costs
    assert min(float(info["student_distance"]) for info in infos) < 0.1


def test_pigps_is_on_policy_within_its_bound_and_never_adjusts_it():
    infos = pi2_ran()[2]
    assert "teacher_cost" in infos[0] and "teacher_cost" not in infos[1]
    for info in infos:
        assert info["kl"] <= info["kl_bound"] * (1 + 1e-6) and info["failed_solves"] == 0
        assert info["kl_bound"] == 20.0 and info["step_multiplier"] == 1


def test_a_step_of_pigps_repeats_itself_with_the_same_key_and_leaves_its_state_alone():
    algorithm, states, infos = pi2_ran()
    again, info = algorithm.step(jax.random.fold_in(OTHER, 1), states[1])
    assert same(again, states[2]) and same(*(jax.tree.map(np.asarray, one) for one in (info, infos[1])))
    other, _ = algorithm.step(KEY, states[1])
    assert not same(other.local, states[2].local)
    assert jax.tree.structure(states[1]) == jax.tree.structure(states[2])


@pytest.mark.slow
def test_pilqr_stands_under_mdgps_with_a_step_rule():
    teacher = functools.partial(local_pilqr, clusters=0)
    infos = ran(mdgps, teacher, 6, 6)[2]
    costs = [float(info["student_cost"]) for info in infos]
    assert BEST * (1 - 1e-3) < min(costs) < 1.02 * BEST, costs
    assert len({float(info["step_multiplier"]) for info in infos}) > 2
    assert all(info["failed_solves"] > 0 or info["kl"] <= 1.1 * info["kl_bound"] for info in infos)


# -------------------------------------------------------------------------------------- by name


def made(algorithm, env="blind_peg"):
    return variants.config(variants.parse(algorithm), variants.parse(env), seed=0, iterations=2)


@pytest.mark.parametrize(
    ("algorithm", "name", "factory"),
    [
        ("pigps", "local_pi2", local_pi2),
        ("pigps(teacher='local_pilqr')", "local_pilqr", local_pilqr),
        ("mdgps", "", local_lqr),
        ("mdgps(teacher='local_pi2')", "local_pi2", local_pi2),
        ("mdgps(teacher='teachers.pi2:local_pi2')", "teachers.pi2:local_pi2", local_pi2),
    ],
)
def test_an_algorithm_gets_the_teacher_asked_for_with_the_settings_of_the_task(algorithm, name, factory):
    config = made(algorithm, "blind_peg(teacher.std=.7)")
    assert config.teacher == name
    assert experiment.scene(config).make_teacher.func is factory
    assert config.options["teacher"]["stiffness"] == blind_peg.LOCAL["stiffness"]
    assert config.options["teacher"]["std"] == 0.7
    assert ("clusters" in config.options["teacher"]) == (factory is not local_pi2)
    assert experiment.from_json(json.loads(json.dumps(experiment.to_json(config)))) == config
    assert (f"--teacher {name} " in command(experiment.to_json(config))) == bool(name)


def test_a_run_from_before_teachers_had_names_is_read():
    saved = experiment.to_json(made("mdgps"))
    del saved["teacher"]
    assert experiment.from_json(saved) == made("mdgps")


def test_the_same_from_python():
    make_teacher = pairing("blind_peg", local=local_pi2).make_teacher
    assert make_teacher.func is local_pi2
    assert make_teacher.keywords == {name: blind_peg.LOCAL[name] for name in ("std", "stiffness", "damping")}
    assert pairing("blind_peg", local=True).make_teacher.keywords == blind_peg.LOCAL
    assert set(registry.TEACHERS) == {"local_lqr", "local_pi2", "local_pilqr"}
    assert all(callable(registry.load(path)) for path in registry.TEACHERS.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algorithm", "dagger", "--teacher", "local_pi2"], "dagger asks for a planner"),
        (
            ["--algorithm", "mdgps", "--teacher", "local_pi"],
            "unknown teacher 'local_pi'; did you mean local_pi2?",
        ),
        (["--algorithm", "pigps", "--teacher.clusters", "3"], "unknown option --teacher.clusters"),
        (["--algorithm", "pigps", "--teacher.slots", "3"], "got 15 rollouts for 3 slots"),
        (
            ["--algorithm", "badmm", "--teacher", "local_pi2"],
            "PI² takes one KL term with a bound and no price",
        ),
    ],
)
def test_a_wrong_teacher_is_one_line_with_advice(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--env", "blind_peg", *words]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not list(tmp_path.iterdir())

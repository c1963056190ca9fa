"""A person as the teacher: who is asked, what is learned from the answers, and that none of them is lost."""

import io
import json

import jax
import numpy as np
import pytest
import small_tasks as tasks
from commands import bits, gps
from rich.console import Console
from small_tasks import same

import students
from gps.algorithms.asked import asked
from gps.cli.experiment import Scene
from gps.cli.label import Session
from gps.video import Drawing
from students.policies import mlp

KEY = jax.random.key(31)
SMALL = {
    "iterations": 3, "num_worlds": 2, "num_steps": 12, "every": 5, "updates": 200, "batch_size": 8,
    "learning_rate": 3e-2, "test_worlds": 0,
}  # fmt: skip
TOY = ["--env", "toys:line", "--episodes", 0, "--algorithm.every", 4, "--algorithm.num-steps", 12]
TOY += ["--algorithm.updates", 5, "--algorithm.test-worlds", 0, "--iterations", 2]


def go(ask, iterations=2, **changed):
    """(states, infos, the questions that were asked)."""
    heard = []

    def listen(questions):
        heard.append(questions)
        return ask(questions)

    env = tasks.road()
    algorithm = asked(env, None, mlp(env.nu, (), limits=env.limits), ask=listen, **SMALL | changed)
    states, infos = [algorithm.init(KEY)], []
    for i in range(iterations):
        state, info = algorithm.step(jax.random.fold_in(KEY, i), states[-1])
        states.append(state)
        infos.append(info)
    return states, infos, heard


def rule(questions):
    """A person who wants 0.3 − 0.5 x₀, whatever is seen, and does not know what to do left of the middle."""
    x = np.stack([questions.steps.x[row] for row in questions.rows])[:, :1]
    return np.where(x < 0, np.nan, np.clip(0.3 - 0.5 * x, -1, 1))


def test_answers_become_the_labels_of_the_states_that_were_asked_about():
    states, infos, heard = go(rule)
    assert heard[0].rows == ((0, 0), (5, 0), (10, 0), (0, 1), (5, 1), (10, 1))
    assert [questions.iteration for questions in heard] == [0, 1]
    wanted = np.concatenate([rule(questions) for questions in heard])
    xs = np.concatenate([[questions.steps.x[row] for row in questions.rows] for questions in heard])
    given = np.isfinite(wanted[:, 0])
    assert 0 < given.sum() < len(given), "both answers and silence are tested"
    rows = states[-1].dataset
    filled = int(np.sum(rows.weight > 0))
    assert filled == given.sum() == states[-1].totals["samples"]
    np.testing.assert_array_equal(rows.x[:filled], xs[given])
    np.testing.assert_allclose(rows.mean[:filled], wanted[given], rtol=1e-6)
    assert [int(info["unanswered"]) for info in infos] == [int(np.isnan(rule(q)).sum()) for q in heard]
    assert states[-1].totals["teacher_queries"] == 12
    proposed = [questions.steps.student_mean[row] for questions in heard for row in questions.rows]
    np.testing.assert_array_equal(np.concatenate([q.proposed for q in heard]), np.stack(proposed))


def test_an_error_costs_the_same_in_every_control():
    rows = go(lambda questions: questions.proposed, iterations=1)[0][-1].dataset
    np.testing.assert_array_equal(rows.precision[:6], np.broadcast_to(np.eye(1), (6, 1, 1)))


def test_a_run_that_is_lengthened_goes_on_learning_and_forgets_nothing():
    states, _, _ = go(lambda questions: np.full((6, 1), 0.4), iterations=5, updates=20)
    assert int(np.sum(states[-1].dataset.weight > 0)) == 5 * 6
    assert not same(states[-1].fit.variables[0], states[-2].fit.variables[0])


def test_the_student_learns_what_it_was_told():
    _, _, heard = go(lambda questions: np.full((6, 1), 0.4), iterations=3)
    first, last = (float(np.abs(questions.proposed - 0.4).max()) for questions in (heard[0], heard[-1]))
    assert last < 0.05 < first


def test_without_a_single_answer_nothing_is_learned():
    states, infos, _ = go(lambda questions: np.full((6, 1), np.nan), iterations=1)
    assert same(states[0].fit.variables, states[1].fit.variables)
    assert infos[0]["samples"] == 0


@pytest.mark.parametrize(
    ("ask", "changed", "message"),
    [
        (None, {}, "nobody is there to answer: use gps label"),
        (lambda q: np.zeros((5, 1)), {}, r"6 questions ask for answers \(6, 1\), came \(5, 1\)"),
        (lambda q: np.full((6, 1), 7.0), {}, "answers must be within"),
        (lambda q: np.zeros((6, 1)), {"every": 0}, "every must be at least 1 control step, got 0"),
    ],
)
def test_what_cannot_be_asked_or_answered_is_said(ask, changed, message):
    env = tasks.road()
    with pytest.raises(ValueError, match=message):
        algorithm = asked(env, None, mlp(env.nu, (), limits=env.limits), ask=ask, **SMALL | changed)
        algorithm.step(KEY, algorithm.init(KEY))


def test_a_student_that_remembers_is_asked_at_every_step():
    env = tasks.road()
    with pytest.raises(ValueError, match="set every to 1, got 5"):
        asked(env, None, students.gru(env.nu, 4, (4,)), **SMALL)


# ------------------------------------------------------------------------------- the command


def answers(path):
    return [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]


def test_a_file_that_ends_too_early_loses_nothing(tmp_path, capsys):
    whole, cut, run, straight = (tmp_path / name for name in ("whole.txt", "cut.txt", "run", "straight"))
    said = ["# every fourth step", "0.5", "same", "", "-0.25  # back", "skip", "1", "-1"]
    whole.write_text("\n".join(said))
    cut.write_text("\n".join(said[:-2]))
    code, _, err = gps(capsys, "label", *TOY, "--answers", cut, "--run-dir", run)
    assert code == 1
    assert "the file has 4 answers, question 2 of 3 of iteration 2 is number 5 of the run" in err
    with (run / "answers.jsonl").open("a") as file:
        file.write('{"iteration": 2, "wor')  # as a kill leaves it
    code, out, err = gps(capsys, "label", "--answers", whole, "--run-dir", run, "--resume", "--episodes", 0)
    assert (code, err) == (0, ""), out
    assert [row["answer"] for row in answers(run)] == ["0.5", "same", "-0.25", "skip", "1", "-1"]
    assert gps(capsys, "label", *TOY, "--answers", whole, "--run-dir", straight)[0] == 0
    assert bits(run) == bits(straight)
    assert gps(capsys, "eval", run, "--episodes", 2, "--no-film")[0] == 0


def test_in_the_terminal_a_slip_is_asked_again_and_q_stops(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("sys.stdin", io.StringIO("0.5\n\nfive\n7\n0.1 0.2\ns\nq\n"))
    code, out, _ = gps(capsys, "label", *TOY, "--run-dir", run, "--no-picture")
    assert code == 130
    assert out.count("expected 1 numbers within [-1.] and [1.], same or skip, came") == 3
    assert f"gps label --run-dir {run} --resume" in out
    assert [row["answer"] for row in answers(run)] == ["0.5", "same", "skip"]
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n0\n0\n"))
    code, out, _ = gps(capsys, "label", "--run-dir", run, "--resume", "--episodes", 0, "--no-picture")
    assert code == 0
    assert "question 1 of 3 of iteration 2: world 1" in out
    assert [row["answer"] for row in answers(run)][3:] == ["0", "0", "0"]


def test_answers_to_other_questions_are_not_taken(tmp_path, capsys):
    file, run = tmp_path / "answers.txt", tmp_path / "run"
    file.write_text("0\n" * 4)
    assert gps(capsys, "label", *TOY, "--answers", file, "--run-dir", run)[0] == 1
    rows = answers(run)
    assert rows[1]["answer"] == "0"
    rows[3]["state"][0] += 1
    (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = gps(capsys, "label", "--answers", file, "--run-dir", run, "--resume")
    assert code == 1
    assert "answer 1 of iteration 2 was given to another question" in err


def test_answers_outlive_checkpoints(tmp_path, capsys, monkeypatch):
    file, run = tmp_path / "answers.txt", tmp_path / "run"
    file.write_text("0.25\n" * 4)
    rare = ["--checkpoint-every", 2]
    assert gps(capsys, "label", *TOY, *rare, "--answers", file, "--run-dir", run)[0] == 1
    assert not (run / "checkpoints").exists() and len(answers(run)) == 4
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    code, out, _ = gps(capsys, "label", "--run-dir", run, "--resume", "--no-picture")
    assert code == 130
    assert "question 2 of 3 of iteration 2" in out
    assert len(answers(run)) == 4


def test_a_question_is_a_picture_too_and_the_same_is_what_the_student_does(tmp_path):
    env = tasks.road()

    def frames(env, shown, titles, steps):
        drawn.append(float(shown.xs[0, steps[0], 0]))
        yield np.zeros((4, 4, 3), np.uint8)

    drawn: list[float] = []
    scene = Scene(env, tasks.road_teacher, tasks.affine(), Drawing(frames), lambda: None, None)
    terminal = Console(file=io.StringIO())
    terminal.input = lambda prompt: "same"
    session = Session(scene, tmp_path, terminal, None, True)
    (_, state), _, heard = go(session, iterations=1)
    assert drawn == [float(heard[0].steps.x[row][0]) for row in heard[0].rows]
    assert (tmp_path / "question.png").exists()
    np.testing.assert_allclose(state.dataset.mean[:6], heard[0].proposed, rtol=1e-6)
    assert np.any(heard[0].proposed != 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--answers", "nowhere.txt"], "there is no file 'nowhere.txt'"),
        (["--algorithm", "dagger"], "gps label is the algorithm asked, not dagger"),
    ],
)
def test_bad_commands_say_why(words, message, tmp_path, capsys):
    code, _, err = gps(capsys, "label", "--env", "toys:line", *words, "--run-dir", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["left", "nan", "inf", "0 0"])
def test_a_bad_line_of_a_file_is_named(word, tmp_path, capsys):
    file = tmp_path / "answers.txt"
    file.write_text(f"\ufeff0.5\n{word}\n")
    code, _, err = gps(capsys, "label", *TOY, "--answers", file, "--run-dir", tmp_path / "run")
    assert code == 1
    wanted = "expected 1 numbers within [-1.] and [1.], same or skip"
    assert f"answer 2 of the file: {wanted}, came '{word}'" in err


def test_other_commands_do_not_ask(tmp_path, capsys):
    for command in (
        ["train", "--algorithm", "asked", "--env", "toys:line", "--run-dir", tmp_path / "r"],
        ["compare", "--algorithms", "asked", "bc", "--envs", "toys:line", "--out", tmp_path / "r"],
    ):
        code, _, err = gps(capsys, *command)
        assert (code, err) == (2, "gps: error: asked asks a person: run it by gps label\n")
        assert not (tmp_path / "r").exists()

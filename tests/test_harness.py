import json
import re
import time

import jax.numpy as jnp
import pytest

from benchmarks import harness, readme
from benchmarks.harness import Row, median_time, meets, time_ratio


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (1.10, "<= 1.10", True),
        (1.1001, "<= 1.10", False),
        (0.95, ">= 0.95", True),
        (0.9499, ">=0.95", False),
        (700_000, ">= 7e5", True),
        (2.0, "< 2", False),
        (-1.5, "> -2", True),
        (0.109, "0.1 +- 0.01", True),
        (0.111, "0.1 +- 0.01", False),
        (0.089, ".1+-.01", False),
        (float("nan"), "<= 1", False),
        (float("nan"), "0.1 +- 0.01", False),
        (3.0, None, None),
    ],
)
def test_met_follows_from_value_and_target(value, target, met):
    assert meets(value, target) is met


@pytest.mark.parametrize("target", ["1.1", "=> 3", "<= fast", "", "<= 1 s"])
def test_a_target_that_cannot_be_read_is_an_error(target):
    with pytest.raises(ValueError, match=re.escape(f"got {target!r}")):
        meets(1.0, target)


def run(tmp_path, capsys, *argv, a=1.0, b=2.0):
    cases = {
        "case a": lambda fast: [Row("speed", a, "s", "<= 1.5"), Row("nothing", float("nan"), "1", "> 0")],
        "case b": lambda fast: [Row("size", b if not fast else 99, "m")],
        "case c": lambda fast: [Row("count", 7, "1", ">= 8")],
    }
    harness.main("demo", cases, seeds=range(3), argv=list(argv), results=tmp_path / "results")
    return capsys.readouterr().out


def load(tmp_path):
    return json.loads((tmp_path / "results" / "demo.json").read_text())


def test_a_full_run_writes_the_file_of_the_documentation(tmp_path, capsys):
    out = run(tmp_path, capsys)
    report = load(tmp_path)
    assert list(report) == ["command", "date", "machine", "versions", "seeds", "rows"]
    assert report["command"] == "python -m benchmarks.demo"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["date"])
    assert list(report["machine"]) == ["cpu", "cores", "device"]
    assert report["seeds"] == [0, 1, 2]
    assert report["rows"] == [
        {"case": "case a", "figure": "speed", "value": 1.0, "unit": "s", "target": "<= 1.5", "met": True},
        {"case": "case a", "figure": "nothing", "value": None, "unit": "1", "target": "> 0", "met": False},
        {"case": "case b", "figure": "size", "value": 2.0, "unit": "m", "target": None, "met": None},
        {"case": "case c", "figure": "count", "value": 7.0, "unit": "1", "target": ">= 8", "met": False},
    ]
    assert "case b" in out
    assert "size" in out
    assert str(tmp_path) not in json.dumps(report) + out


def test_what_needs_another_machine_says_so(tmp_path, capsys):
    case = {"solver": lambda fast: [Row("solves", None, "1/s", ">= 5"), Row("lost", float("nan"), "1")]}
    harness.main("made_up", case, argv=[], results=tmp_path)
    rows = json.loads((tmp_path / "made_up.json").read_text())["rows"]
    assert [row["value"] for row in rows] == ["not measured yet", None] and rows[0]["met"] is None
    assert "not measured" in capsys.readouterr().out
    text = readme.regenerate("<!-- results:made_up -->\n<!-- /results -->", tmp_path)
    assert "| solves | not measured yet | 1/s | >= 5 |  |" in text and "| lost | – |" in text


def test_a_fast_run_shows_but_does_not_write(tmp_path, capsys):
    assert "99" in run(tmp_path, capsys, "--fast")
    assert not (tmp_path / "results").exists()


def test_only_replaces_its_rows_and_dates_the_others(tmp_path, capsys):
    run(tmp_path, capsys)
    path = tmp_path / "results" / "demo.json"
    old = load(tmp_path) | {"date": "2020-01-01T00:00:00Z"}
    path.write_text(json.dumps(old))
    run(tmp_path, capsys, "--only", "case b", b=5.0)
    report = load(tmp_path)
    assert [row["case"] for row in report["rows"]] == ["case a", "case a", "case b", "case c"]
    assert report["rows"][2] == {**old["rows"][2], "value": 5.0}
    assert report["rows"][3] == {**old["rows"][3], "date": "2020-01-01T00:00:00Z"}
    assert report["date"] > "2021"
    other = {"machine": {"cpu": "other", "cores": 1, "device": "none"}, "versions": {"code": "abc"}}
    path.write_text(json.dumps(report | other))
    run(tmp_path, capsys, "--only", "case a")
    report = load(tmp_path)
    assert report["rows"][3]["date"] == "2020-01-01T00:00:00Z"  # its own date, not that of the run between
    assert (report["rows"][2]["machine"]["cpu"], report["rows"][2]["code"]) == ("other", "abc")
    assert "code" not in report["rows"][0]
    assert "date" not in report["rows"][0]


def test_only_without_a_file_writes_its_rows(tmp_path, capsys):
    run(tmp_path, capsys, "--only", "case c")
    assert [row["case"] for row in load(tmp_path)["rows"]] == ["case c"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--only", "case d"],
            r"unknown case 'case d', known are: case a; case b; case c; did you mean 'case",
        ),
        (["--quick"], "unrecognized arguments: --quick"),
    ],
)
def test_unknown_options_end_with_a_message(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, capsys, *argv)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()


def test_ratios_compare_pairs_and_outlast_a_hiccup():
    calls = []

    def sleeper(name, seconds):
        def call():
            calls.append(name)
            time.sleep(0.2 if len(calls) == 8 else seconds)
            return jnp.zeros(())

        return call

    ratio = time_ratio(sleeper("a", 0.03), sleeper("b", 0.01), repeats=7)
    assert calls[2:10] == ["a", "b", "b", "a", "a", "b", "b", "a"]  # after one call of each to compile
    assert 2 < ratio.median < 4
    assert ratio.low <= ratio.median <= ratio.high
    assert 0.03 <= ratio.a.median < 0.05


def test_median_time_leaves_the_first_call_out():
    delays = iter([0.3, 0.01, 0.01, 0.2, 0.01, 0.01])
    timing = median_time(lambda: time.sleep(next(delays)), repeats=5)
    assert 0.01 <= timing.median < 0.03


# -------------------------------------------------------------------------------------------- README


TEXT = """# Title

<!-- results:demo -->
old
<!-- /results -->
between
<!-- results:demo *b -->
<!-- /results -->
end
"""


@pytest.fixture
def project(tmp_path, capsys):
    run(tmp_path, capsys, b=12345.6)
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    return path, tmp_path / "results"


def test_tables_are_written_between_their_markers(project):
    path, results = project
    readme.main([], path, results)
    text = path.read_text()
    first, second = re.findall(r"<!-- results:demo.*?-->\n(.*?)\n<!-- /results -->", text, re.DOTALL)
    assert "old" not in text
    assert text.startswith("# Title\n\n<!--")
    assert "\nbetween\n" in text
    assert text.endswith("\nend\n")
    assert "| case a | speed | 1 | s | <= 1.5 | yes |" in first
    assert "| case a | nothing | – | 1 | > 0 | **no** |" in first
    assert "| case b | size | 12346 | m |  |  |" in first
    assert "`python -m benchmarks.demo`" in first
    assert re.findall(r"^\| (case.*?) \|", second, re.MULTILINE) == ["case", "case b"]


def test_check_sees_drift_and_writes_nothing(project, capsys):
    path, results = project
    with pytest.raises(SystemExit, match=r"README.md is not what benchmarks/results say: run `make readme`"):
        readme.main(["--check"], path, results)
    assert path.read_text() == TEXT
    readme.main([], path, results)
    readme.main(["--check"], path, results)
    path.write_text(path.read_text().replace("12346", "12347"))
    with pytest.raises(SystemExit) as stop:
        readme.main(["--check"], path, results)
    assert stop.value.code not in (0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- results:gone --><!-- /results -->", "no results for 'gone': run python -m benchmarks.gone"),
        ("<!-- results:demo -->", "has no <!-- /results --> before the next table"),
        ("<!-- results:demo --> <!-- results:demo --><!-- /results -->", "before the next table"),
        ("<!-- results:demo zzz --><!-- /results -->", "no case matches, there are case a, case b, case c"),
    ],
)
def test_a_table_that_cannot_be_made_is_an_error(project, text, message):
    path, results = project
    path.write_text(text)
    with pytest.raises(SystemExit, match=re.escape(message)):
        readme.main([], path, results)
    assert path.read_text() == text


def test_the_readme_of_the_project_is_what_the_results_say():
    if readme.README.exists():
        readme.main(["--check"])


def test_a_wide_table_has_a_line_for_each_who_and_a_column_for_each_what(tmp_path):
    rows = [
        {"case": case, "figure": name, "value": value, "unit": "m", "target": target, "met": True}
        for case, name, value, target in (
            ("a", "tom: far", 1.5, None),
            ("a", "tom: near", 2.5, None),
            ("a", "best: far", 0.5, "<= 1"),
            ("a", "ann: far", 3.5, None),
            ("b", "tom: near", 4.5, None),
            ("b", "plain", 5.5, None),
        )
    ]
    machine = {"cpu": "x", "cores": 1, "device": "y"}
    report = {"command": "c", "date": "2026-01-01", "machine": machine, "rows": rows}
    (tmp_path / "demo.json").write_text(json.dumps(report))
    found = readme.regenerate("<!-- wide results:demo -->\n<!-- /results -->", tmp_path).splitlines()
    assert found[1:6] == [
        "| case |  | far (m) | near (m) |",
        "|---|---|---|---|",
        "| a | tom | 1.5 | 2.5 |",
        "| a | ann | 3.5 |  |",
        "| b | tom |  | 4.5 |",
    ]
    assert found[9:11] == ["| a | best: far | 0.5 | m | <= 1 | yes |", "| b | plain | 5.5 | m |  | yes |"]


def test_a_table_measured_on_two_machines_says_which_case_on_which(tmp_path):
    row = {"figure": "time", "value": 1.0, "unit": "s", "target": None, "met": None}
    old = {"machine": {"cpu": "old", "cores": 2, "device": "cpu"}, "date": "2025-05-05T00:00:00Z"}
    report = {
        "command": "c",
        "date": "2026-01-01T00:00:00Z",
        "machine": {"cpu": "new", "cores": 16, "device": "gpu"},
        "rows": [{"case": "a", **row}, {"case": "b", **row, **old}, {"case": "c", **row}],
    }
    (tmp_path / "demo.json").write_text(json.dumps(report))
    found = readme.regenerate("<!-- results:demo -->\n<!-- /results -->", tmp_path).splitlines()[-2]
    assert found == "`c`, a, c: 2026-01-01, new, 16 cores, gpu; b: 2025-05-05, old, 2 cores, cpu"
    found = readme.regenerate("<!-- results:demo b -->\n<!-- /results -->", tmp_path).splitlines()[-2]
    assert found == "`c`, 2025-05-05, old, 2 cores, cpu"

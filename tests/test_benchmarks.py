"""The benchmark harness on a tiny case, as a user would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import Report, short
from benchmarks.markdown import page
from benchmarks.runner import CASES, matching

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_list_names_every_case():
    listed = run("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(CASES)


def test_an_unknown_case_is_a_clear_error():
    done = run("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "predict" in done.stderr


@pytest.mark.slow
def test_a_quick_case_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "out.json"
    done = run("descriptor", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "Si 8: values, time" in done.stdout
    assert "GFLOP/s per core" in done.stdout
    document = json.loads(file.read_text())
    assert set(document["machine"]["threads"].values()) == {"1"}
    case = document["cases"]["descriptor"]
    assert all(row["ours"] > 0 for row in case["rows"])
    assert all(row["met"] is None for row in case["rows"])
    assert len(case["gemm_gflops_per_core"]) == 2
    assert "| Si 8: values, time |" in page([document])


def test_sections_without_new_results_stay_in_their_places():
    machine = {"processor": "one", "cores": 2, "system": "Linux", "python": "3", "threads": {}, "packages": {}}

    def document(name, figure):
        report = Report()
        report.add("a figure", figure)
        case = report.as_dict() | {"what": "what it is", "gemm_gflops_per_core": [1.0, 2.0]}
        return {"started": "now", "quick": False, "machine": machine, "cases": {name: case}}

    first = page([document("fit", 1.0), document("drift", 2.0)])
    assert page([], first) == first
    both = page([document("predict", 3.0), document("drift", 4.0)], first)
    assert [line for line in both.splitlines() if line.startswith("## ")] == [
        "## predict", "## fit", "## drift", "## Machine",
    ]  # fmt: skip
    assert "| a figure | 1.00 |" in both
    assert "| a figure | 4.00 |" in both
    assert "| a figure | 2.00 |" not in both
    assert both.count("- one, 2 cores") == 1


def test_words_choose_cases_by_their_beginning():
    assert matching(["accuracy-si", "fit"]) == ["accuracy-Si", "fit"]
    assert matching([]) == list(CASES)


def test_targets_are_judged_and_ratios_taken_against_the_first_rival():
    report = Report()
    report.add("a", 1.0, rivals={"x": 2.0, "y": 4.0}, target=1.0)
    report.add("b", 3.0, target=2.0)
    report.add("c", None, target=2.0)
    rows = report.as_dict()["rows"]
    assert [row["met"] for row in rows] == [True, False, None]
    assert rows[0]["ratio"] == pytest.approx(0.5)
    assert [row["met"] for row in report.as_dict(judged=False)["rows"]] == [None] * 3


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0"), (1234.5, "1,234"), (0.01234, "0.0123"), (12.34, "12.3")]
)
def test_numbers_have_three_digits(value, text):
    assert short(value) == text


def test_runs_are_judged_by_how_they_end_and_what_they_leave(tmp_path, monkeypatch):
    from benchmarks.breaking import Bench, markdown
    from benchmarks.broken import Case, case
    from kernelpot import cli

    def fake(argv):
        what = argv[0]
        if what == "select":
            return real(argv)
        if what == "raise":
            raise ValueError("unforeseen")
        if what == "abort":
            os.kill(os.getpid(), 9)
        if what == "sleep":
            time.sleep(60)
        Path("o.xyz").write_text("cut off" if what == "cut" else "1\n\nCu 0 0 0\n")
        if what == "leave":
            Path(".o.part").touch()
        if what == "replace":
            Path("t.xyz").write_text("")
        return 0

    real = cli.main
    monkeypatch.setattr(cli, "main", fake)
    bench = Bench(tmp_path / "runs")
    words = {
        "raise": "traceback", "abort": "signal", "sleep": "too long", "cut": "broken output", "leave": "files left",
        "replace": "input changed", "well": "accepted",
    }  # fmt: skip
    cases = [Case("made up", word, (word, "t.xyz", "o.xyz"), ("o.xyz",), seconds=1.0) for word in words]
    cases.append(case("select", "made up", "bad", extra=("--seed", "x")))
    cases.append(case("select", "made up", "to", extra=("--out", "t.xyz")))
    cases.append(case("select", "made up", "empty", files={"t.xyz": b""}))
    found = {result.case.name: result.verdict for result in bench.run(cases, jobs=2)}
    assert found == words | dict.fromkeys(["select: bad", "select: to", "select: empty"], "refused")
    assert len(list(bench.folder.glob("0*"))) == 6
    assert "| made up | 3 |" in markdown({("made up", "refused"): 3})


def test_broken_inputs_are_the_same_for_the_same_seed(tmp_path):
    import numpy as np

    from benchmarks.breaking_reads import mutated, seeds
    from benchmarks.broken import base_files, broken_structures

    base = base_files(tmp_path)
    one, two = (list(broken_structures(base, np.random.default_rng(3))) for _ in range(2))
    assert one == two
    assert len({content for *_, content in one}) > 150
    fuzzed = [mutated(text, np.random.default_rng(1)) for text in seeds()]
    assert not set(fuzzed) & set(seeds())

"""The file of trials: round trips, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest

from kernelpot.errors import DataError, ParameterError
from kernelpot.tuning.halving import Journal, Trial

GOOD = Trial({"cutoff": 4.95, "size": (8, 6)}, 1, 50, 120, {"energy": 0.00123456789012345}, -6.7, 1.25, 41.0)
FAILED = Trial({"cutoff": 0.1}, 0, 20, 60, {}, math.inf, 0.5, failure="too short")


def test_trials_come_back_as_they_were(tmp_path):
    path = tmp_path / "trials.jsonl"
    journal = Journal(path, {"data": "a", "shares": [0.25, 1.0]})
    for trial in (GOOD, FAILED):
        journal.add(trial)
    back = Journal(path, {"data": "a", "shares": [0.25, 1.0]})
    assert len(back) == 2
    assert back.find({"size": (8, 6), "cutoff": 4.95}, 1) == GOOD
    assert back.find(GOOD.settings, 0) is None
    failed = back.find(FAILED.settings, 0)
    assert math.isinf(failed.loss)
    assert math.isnan(failed.us_per_atom)
    assert failed.failure == "too short"
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, {})
    journal.add(GOOD)
    assert journal.find(GOOD.settings, 1) is GOOD
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_begun(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.touch()
    Journal(path, {"data": "a"}).add(GOOD)
    assert len(Journal(path, {"data": "a"})) == 1


def test_another_search_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "trials.jsonl"
    Journal(path, {"data": "a", "seed": 0, "objective": "cv"}).add(GOOD)
    with pytest.raises(ParameterError, match=r"same search, .* differs in data, seed; name another file"):
        Journal(path, {"data": "b", "seed": 1, "objective": "cv"})


@pytest.mark.parametrize(
    "text",
    ["no json\n", "[]\n", "3\n", '{"format": "kernelpot tune 1", "data": "a"}\n{"rung": 1}\n', '{"other": 1}\n'],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "trials.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="`resume` must be a file that tune wrote"):
        Journal(path, {"data": "a"})


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps({"format": "kernelpot tune 7", "data": "a"}) + "\n")
    with pytest.raises(DataError, match="of this version"):
        Journal(path, {"data": "a"})

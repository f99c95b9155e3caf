"""Parts of the label-efficiency benchmark."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kernelpot as kp
from benchmarks import label_runs, labels
from benchmarks.harness import Settings
from benchmarks.label_arms import arms, choices, heads, information
from benchmarks.label_noise import GramErrors, found_ratio
from benchmarks.label_report import draw, main, needed, tables
from benchmarks.label_rows import KINDS, NOISE, load
from benchmarks.label_runs import FIXED, OWN, Runs, reached
from benchmarks.label_sets import LabelSet, held, split
from tests.datasets import dataset

SMALL = LabelSet(("rmd17/ethanol_train",), 3.5, n_max=3, l_max=2, at_most=40, n_inducing=40)
CHOSEN = [1, 4, 5, 9, 12, 17, 19, 21]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    dataset("rmd17/ethanol_train.xyz.xz")
    return load("ethanol", 0, tmp_path_factory.mktemp("rows"), SMALL)


@pytest.fixture(scope="module")
def space(small):
    part = split(SMALL, 0)
    model = kp.SparseGP(part.descriptor, kp.DotProduct(2), n_inducing=40, noise=kp.Noise(**NOISE))
    return part.structures, model.prepare(part.structures[: part.n_pool])


def test_duplicates_and_runs_stay_on_one_side():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((120, 5))
    means[100:110] = means[:10]
    moving = np.arange(120) < 60
    for number in range(5):
        out = held(means, np.full(120, 4), moving, number)
        assert (out[100:110] == out[:10]).all()
        assert all(len(set(out[k : k + 5])) == 1 for k in range(0, 60, 5))
        assert 0.2 < out.mean() < 0.3
    assert (held(means, np.full(120, 4), moving, 0) != held(means, np.full(120, 4), moving, 1)).any()


def test_errors_are_those_of_a_fitted_model(small, space):
    structures, prepared = space
    model = prepared.fit([structures[k] for k in CHOSEN])
    scores = kp.evaluate(model, structures[small.n_pool :], uncertainty=False).overall
    found = label_runs.errors(small, CHOSEN, FIXED)
    for kind in KINDS:
        assert found[kind]["rmse"] == pytest.approx(scores[kind].rmse, rel=1e-6)
        assert found[kind]["mae"] == pytest.approx(scores[kind].mae, rel=1e-6)


def test_noises_are_those_of_the_library(small, space):
    structures, prepared = space
    model = kp.SparseGP(prepared.descriptor, prepared.kernel, n_inducing=40, noise="cv")
    model = model.prepare(structures[: small.n_pool]).fit([structures[k] for k in CHOSEN], keys={"stress": None})
    ratio = found_ratio(small, CHOSEN)
    assert ratio["energy"] == pytest.approx(model.noise_.energy / model.amplitude_, rel=1e-3)
    assert ratio["forces"] == pytest.approx(model.noise_.forces / model.amplitude_, rel=1e-3)
    left_out = {kind: one.rmse for kind, one in GramErrors(small, CHOSEN).left_out(ratio).items()}
    assert left_out == pytest.approx(model.cross_validation_, rel=1e-3)


def test_blocks_are_those_of_the_library(small, space):
    structures, prepared = space
    theirs = prepared.information(structures[: small.n_pool], truncate=0.0)
    ours = information(small, truncate=0.0)
    np.testing.assert_allclose(ours.target(), theirs.target(), rtol=1e-7, atol=1e-9 * theirs.target().max())
    np.testing.assert_allclose(ours.means, theirs.means)


def test_every_arm_chooses_what_was_asked_for(small):
    info = information(small)
    for name, arm in arms(small.n_atoms).items():
        found = choices(arm, info, (2, 4, 500), 0)
        assert list(found) == [2, 4], name
        assert all((len(set(picks)) == n or arm.paid) and max(picks) < len(info) for n, picks in found.items())
    assert len(heads(info)) == len(info)


def test_a_run_goes_on_where_it_ended(small, tmp_path, monkeypatch):
    ways = {name: arm for name, arm in arms(small.n_atoms).items() if name in ("random", "balanced")}
    sizes = {FIXED: (2, 4), OWN: (4,)}
    runs = Runs(tmp_path / "a.json")
    runs.add(small, ways, sizes, {"balanced": 1})
    assert set(runs.known["random"][0]) == {"chosen", "atoms", "cubed", FIXED}
    monkeypatch.setattr(label_runs, "errors", lambda *_: pytest.fail("fitted twice"))
    monkeypatch.setattr(label_runs, "choices", lambda *_: pytest.fail("chosen twice"))
    again = Runs(tmp_path / "a.json")
    again.add(small, ways, sizes, {"balanced": 1})
    assert again.known == json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(runs.known))


@pytest.mark.parametrize(
    ("goal", "expected"), [(4.0, 10.0), (8.0, 10.0), (2.0, 40.0), (1.0, np.inf), (np.sqrt(8.0), 20.0)]
)
def test_labels_that_reach_an_error(goal, expected):
    assert reached([10, 40, 160], [4.0, 2.0, 2.0], goal) == pytest.approx(expected)


def test_tables_and_figures_of_known_curves(tmp_path):
    def curve(scale):
        error = {n: {"rmse": scale / n, "mae": scale / n, "worst": scale / n} for n in (10, 20, 40)}
        return {
            "chosen": {}, "atoms": {str(n): 2.0 * n for n in error}, "cubed": {str(n): 8.0 * n for n in error},
            FIXED: {str(n): {"energy": e, "forces": e} for n, e in error.items()},
        }  # fmt: skip

    splits = {str(k): {"random": [curve(1.0), curve(3.0)], "balanced": [curve(1.0)]} for k in range(2)}
    assert needed(splits, "balanced", "forces") == pytest.approx(20.0)
    assert needed(splits, "balanced", "forces", what="cubed") == pytest.approx(0.5)
    lines = tables("X", splits)
    assert any(line.startswith("| balanced | 100 | 50.0 | 25.0 | 50.0 | 50.0 | 20 |") for line in lines)
    draw("X", splits, tmp_path / "f" / "x.png")
    assert (tmp_path / "f" / "x.png").stat().st_size > 2000


@pytest.mark.slow
def test_the_quick_case_runs_from_choice_to_page(tmp_path, monkeypatch):
    dataset("ta_snap/ta_all.xyz.xz")
    monkeypatch.setenv("KERNELPOT_LABELS", str(tmp_path))
    report = labels.run(Settings(quick=True), name="Ta")
    assert set(report.details["Ta"]) == {"0", "1"}
    assert all(row.met is None for row in report.rows)
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"cases": {"labels-Ta": report.as_dict(judged=False)}}))
    assert main([str(file), "--docs", str(tmp_path)]) == 0
    assert "## Ta" in (tmp_path / "labels.md").read_text()

"""Reliability against NumPy, SciPy and draws whose spread is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.judgement.intervals import Reliability, reliability_of
from kernelpot.judgement.scores import rank_and_ceiling
from kernelpot.potentials.prediction import Prediction, Spread
from tests import potentials
from tests import structures as make

N = 300


def drawn(scale: float = 1.0, common: float = 0.0, seed: int = 0):
    """Predictions whose force errors have `scale` times their std, `common` of their variance shared by a structure."""
    rng = np.random.default_rng(seed)
    structures = make.copper_gold_set(1) * N
    labels = resolve(structures)
    std = [rng.lognormal(-2.0, 0.8, (4, 3)) for _ in range(N)]
    forces = []
    for s in range(N):
        z = np.sqrt(1 - common) * rng.standard_normal((4, 3)) + np.sqrt(common) * rng.standard_normal()
        forces.append(labels.forces[s] + scale * std[s] * z)
    spread = Spread(np.ones(N), std, np.ones((N, 6)), [])
    return Prediction(labels.energy, forces, labels.stress, [], spread, spread), labels, std, forces


def test_calibrated_errors_are_on_the_diagonal_and_rank_at_the_ceiling():
    prediction, labels, _, _ = drawn()
    found = reliability_of(prediction, labels, [""] * N).overall["forces"]
    for expected, observed in zip(found.expected, found.observed, strict=True):
        assert observed.value == pytest.approx(expected, abs=4 * observed.error + 0.005)
    assert found.rank == pytest.approx(found.ceiling, abs=0.03)
    for std, rmse in zip(found.bin_std, found.bin_rmse, strict=True):
        assert rmse.value == pytest.approx(std, abs=4 * rmse.error)


def test_figures_are_those_of_numpy_and_scipy():
    prediction, labels, std, forces = drawn(1.4)
    found = reliability_of(prediction, labels, [""] * N).overall["forces"]
    error = np.concatenate([(f - known).ravel() for f, known in zip(forces, labels.forces, strict=True)])
    flat = np.concatenate([s.ravel() for s in std])
    assert found.n == 12 * N
    assert found.n_structures == N
    assert found.coverage_95.value == pytest.approx(np.mean(np.abs(error) <= norm.ppf(0.975) * flat))
    assert found.log_score.value == pytest.approx(norm.logpdf(error, scale=flat).mean())
    assert found.rank == pytest.approx(spearmanr(flat, np.abs(error))[0])
    assert found.coverage_68.value < 0.6


def test_the_error_of_coverage_knows_that_components_of_a_structure_hang_together():
    alone, shared = (reliability_of(*drawn(common=c)[:2], [""] * N).overall["forces"] for c in (0.0, 0.9))
    expected = np.sqrt(0.6827 * 0.3173 / (12 * N))
    assert alone.coverage_68.error == pytest.approx(expected, rel=0.25)
    assert shared.coverage_68.error > 2 * expected


def test_components_that_are_zero_by_symmetry_do_not_count():
    prediction, labels, std, forces = drawn()
    for s in range(0, N, 2):
        std[s][:] = 0.0
        forces[s][:] = labels.forces[s]
    found = reliability_of(prediction, labels, [""] * N).overall["forces"]
    assert found.silent == pytest.approx(0.5)
    assert found.n == 6 * N
    assert found.coverage_68.value == pytest.approx(0.6827, abs=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_rank_and_ceiling_are_spearman_correlations(seed):
    rng = np.random.default_rng(seed)
    std = rng.choice([0.1, 0.5, 2.0], 4000)  # with ties
    error = std * rng.standard_normal(4000)
    rank, ceiling = rank_and_ceiling(error, std)
    assert rank == pytest.approx(spearmanr(std, np.abs(error))[0])
    assert ceiling == pytest.approx(rank, abs=0.05)
    assert np.isnan(rank_and_ceiling(error, np.ones(4000))).all()


def test_groups_are_apart_and_json_holds_everything():
    test = make.copper_gold_set(6, seed=3)
    for k, atoms in enumerate(test):
        atoms.info["config_type"] = "abc"[k % 3]
    found = kp.reliability(potentials.copper_gold(), test)
    assert set(found.groups) == {"a", "b", "c"}
    assert found.groups["a"]["energy"].n == 2
    assert next(line for line in str(found).splitlines() if line.startswith("a  ")).split()[-2:] == ["-", "-"]
    assert json.loads(json.dumps(found.as_dict()))["overall"]["forces"]["n"] == 72
    text = str(found)
    for part in ("in 68%", "rank", "ceiling", "forces", "log score"):
        assert part in text
    scores = kp.evaluate(potentials.copper_gold(), test).overall["forces"]
    forces = found.overall["forces"]
    assert (scores.rank, scores.ceiling) == (forces.rank, forces.ceiling)
    assert scores.coverage_95 == forces.coverage_95.value
    assert scores.log_score == pytest.approx(forces.log_score.value)


def test_training_structures_are_judged_without_their_fold():
    model = potentials.model(12).fit(make.copper_gold_set(10))
    left_out, seen = kp.reliability(model, folds=5), kp.reliability(model, list(model.training_.structures))
    assert left_out.overall["forces"].n == seen.overall["forces"].n
    assert left_out.overall["forces"].bin_rmse[-1].value > seen.overall["forces"].bin_rmse[-1].value


def test_the_plot_shows_every_kind(tmp_path):
    pytest.importorskip("matplotlib")
    found = kp.reliability(potentials.copper_gold(), make.copper_gold_set(8, seed=3))
    figure = kp.report.plot_reliability(found, title="Cu-Au")
    titles = [axes.get_title(loc="left").split(":")[0] for axes in figure.axes]
    assert titles == ["Coverage", "Energy", "Forces", "Stress"]
    points = figure.axes[0].get_lines()[1].get_xydata()
    assert points[:, 0] == pytest.approx(100 * np.array(found.overall["energy"].expected))
    assert points[:, 1] == pytest.approx([100 * m.value for m in found.overall["energy"].observed])
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    with pytest.raises(ParameterError, match="at least one kind"):
        kp.report.plot_reliability(Reliability({}, {}))


def test_bad_input_is_named():
    with pytest.raises(LabelError, match="reliability needs labels"):
        kp.reliability(potentials.copper_gold(), [make.copper_gold(1)])
    with pytest.raises(NotFittedError):
        kp.reliability(potentials.model(), make.copper_gold_set(1))
    prediction = potentials.copper_gold().predict(make.copper_gold_set(1), uncertainty=False)
    with pytest.raises(NotFittedError, match="uncertainty=False"):
        reliability_of(prediction, resolve(make.copper_gold_set(1)), [""])


def test_a_single_structure_has_no_error_in_the_table():
    prediction, labels, _, _ = drawn()
    text = str(reliability_of(prediction, labels, ["alone"] + ["rest"] * (N - 1)))
    assert "nan" not in text
    assert any(line.startswith("alone") and "±" not in line for line in text.splitlines())

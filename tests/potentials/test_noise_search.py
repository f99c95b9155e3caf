"""Leave-out errors and evidence against refits and densities in dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from scipy.linalg import LinAlgError
from scipy.stats import multivariate_normal

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import LabelError
from kernelpot.potentials import noise_search
from kernelpot.potentials.noise_search import FoldErrors
from kernelpot.potentials.training import (
    FoldFactors,
    composition_of,
    e0_rows,
    fold_factors,
    labelled_rows,
    least_squares_e0,
    whiten_columns,
)
from tests import potentials
from tests import structures as make

KINDS = ("energy", "forces", "stress")
RATIO = {"energy": 0.004, "forces": 0.06, "stress": 0.01}
FOLD = np.array([0, 1, 2, 0, 1, 2, 2, 1])


@pytest.fixture(scope="module")
def problem():
    """Structures of unequal label sets, their fold factors, and their rows one structure at a time."""
    structures = make.copper_gold_set(8)
    structures[3:4] = make.labelled(structures[3:4], ["energy"])
    structures[5:6] = make.labelled(structures[5:6], ["forces"])
    features = potentials.model(14).prepare(structures).features_
    labels = resolve(structures)
    e0 = least_squares_e0(e0_rows(labels, composition_of(structures, features.species)))
    data = fold_factors(features, structures, labels, FOLD, kinds=KINDS, e0=e0)
    rows = []
    for s, atoms in enumerate(structures):
        part = labelled_rows(features, [atoms], labels.take([s]), kinds=KINDS, e0=e0)
        rows.append({kind: whiten_columns(features, block) for kind, block in part.items()})
        # Weights in units of their prior, so that it is N(0, I) in all that follows.
        for block in rows[-1].values():
            block[:, :-1] /= data.roots
    return data, rows


def stacked(rows, members, kind):
    parts = [rows[s][kind] for s in members if kind in rows[s]]
    return np.concatenate(parts) if parts else np.empty((0, next(iter(rows[0].values())).shape[1]))


def brute_force(rows, ratio):
    """Fit without each fold, from its structures' own rows; return RMSE and mean variance of what was left out."""
    squared, spread, n = (dict.fromkeys(KINDS, 0.0) for _ in range(3))
    for fold in range(3):
        kept, left = np.flatnonzero(fold != FOLD), np.flatnonzero(fold == FOLD)
        train = np.concatenate([stacked(rows, kept, kind) / ratio[kind] for kind in KINDS])
        b, y = train[:, :-1], train[:, -1]
        design = np.concatenate([b, np.eye(b.shape[1])])
        # The prior of E0 is about the least squares of the energies that are left, as in a refit.
        energies, centre = stacked(rows, kept, "energy"), np.zeros(b.shape[1])
        centre[-2:] = np.linalg.lstsq(energies[:, -3:-1], energies[:, -1], rcond=1e-8)[0]
        weights = np.linalg.lstsq(design, np.concatenate([y, centre]), rcond=None)[0]
        r = np.linalg.qr(design, mode="r")
        for kind in KINDS:
            block = stacked(rows, left, kind)
            squared[kind] += np.sum((block[:, :-1] @ weights - block[:, -1]) ** 2)
            spread[kind] += np.sum(np.linalg.solve(r.T, block[:, :-1].T) ** 2)
            n[kind] += len(block)
    rmse = {kind: np.sqrt(squared[kind] / n[kind]) for kind in KINDS}
    return rmse, {kind: spread[kind] / n[kind] for kind in KINDS}


def test_factors_hold_the_rows_of_their_fold(problem):
    data, rows = problem
    assert data.kinds == KINDS
    for kind in KINDS:
        for fold in range(3):
            block = stacked(rows, np.flatnonzero(fold == FOLD), kind) * np.append(data.roots, 1.0)
            assert data.n_rows[kind][fold] == len(block)
            factor = data.factors[kind][fold]
            np.testing.assert_allclose(factor.T @ factor, block.T @ block, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_left_out_errors_equal_refits_without_the_fold(problem, scale):
    data, rows = problem
    ratio = {kind: scale * value for kind, value in RATIO.items()}
    found = FoldErrors(data).left_out(ratio, variance=True)
    rmse, spread = brute_force(rows, ratio)
    for kind in KINDS:
        assert found[kind].rmse == pytest.approx(rmse[kind], rel=1e-4)
        assert (len(found[kind]) == data.n_rows[kind].sum()) == (kind == "energy")
        assert found[kind].rows.sum() == data.n_rows[kind].sum()
        assert found[kind].mean(found[kind].variance) == pytest.approx(spread[kind], rel=1e-4)
        assert FoldErrors(data).left_out(ratio)[kind].rmse == pytest.approx(found[kind].rmse)


def test_a_gram_matrix_that_fails_is_done_by_qr(problem, monkeypatch):
    data, _ = problem
    before = FoldErrors(data).left_out(RATIO, variance=True)

    def refuse(*args, **kwargs):
        raise LinAlgError

    monkeypatch.setattr(noise_search, "cholesky", refuse)
    after = FoldErrors(data).left_out(RATIO, variance=True)
    for kind in KINDS:
        assert after[kind].rmse == pytest.approx(before[kind].rmse, rel=1e-5)
        np.testing.assert_allclose(after[kind].variance, before[kind].variance, rtol=1e-5)


def test_log_evidence_is_the_density_of_all_labels_at_the_best_scale(problem):
    data, rows = problem
    everyone = range(len(rows))
    blocks = [stacked(rows, everyone, kind) for kind in KINDS]
    b, y = np.concatenate(blocks)[:, :-1], np.concatenate(blocks)[:, -1]
    noise = np.concatenate([np.full(len(part), RATIO[kind]) for part, kind in zip(blocks, KINDS, strict=True)])
    covariance = b @ b.T + np.diag(noise**2)

    def density(amplitude):
        return multivariate_normal(np.zeros(len(y)), amplitude**2 * covariance).logpdf(y)

    value, amplitude = FoldErrors(data).log_evidence(RATIO)
    assert value == pytest.approx(density(amplitude), rel=1e-6)
    assert value > max(density(0.95 * amplitude), density(1.05 * amplitude))


def test_tempered_evidence_is_the_integral_of_the_powered_likelihood(problem):
    """The likelihood of each kind to a power, integrated over the weights in dense algebra.

    N(y; Bw, σ²)^η = N(y; Bw, σ²/η) · (2πσ²)^((1-η)n/2) η^(-n/2), so that it is a density times what normalises it.
    """
    data, rows = problem
    power = {"energy": 1.0, "forces": 0.1, "stress": 0.4}
    members = range(len(FOLD))
    blocks = [stacked(rows, members, kind) for kind in KINDS]
    b, y = (np.concatenate([part[:, cut] for part in blocks]) for cut in (slice(None, -1), -1))
    weighting = np.concatenate([np.full(len(part), RATIO[kind]) for part, kind in zip(blocks, KINDS, strict=True)])
    eta = np.concatenate([np.full(len(part), power[kind]) for part, kind in zip(blocks, KINDS, strict=True)])

    def integral(amplitude):
        covariance = amplitude**2 * (b @ b.T + np.diag(weighting**2))
        sigma2 = amplitude**2 * eta * weighting**2  # of a label: the weighting noise is σ/√η
        extra = 0.5 * np.sum((1.0 - eta) * np.log(2.0 * np.pi * sigma2) - np.log(eta))
        return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) + extra

    value, amplitude = FoldErrors(data).log_evidence(RATIO, power)
    assert value == pytest.approx(integral(amplitude), rel=1e-6)
    assert value > max(integral(0.95 * amplitude), integral(1.05 * amplitude))


def powers_of(rng, shared, *, n=60, m=30, d=12):
    """Return the powers for labels whose errors in a fold agree to the share `shared`, of variance one altogether."""
    weights = rng.standard_normal(d)
    factors = {"energy": [], "forces": []}
    for _ in range(8):
        b = rng.standard_normal((n, d))
        factors["energy"].append(np.column_stack([b, b @ weights + 0.01 * rng.standard_normal(n)]))
        b = np.repeat(rng.standard_normal((n, d)), m, axis=0)  # m labels of one direction
        error = np.sqrt(shared) * np.repeat(rng.standard_normal(n), m) + np.sqrt(1 - shared) * rng.standard_normal(
            n * m
        )
        factors["forces"].append(np.column_stack([b, b @ weights + 0.1 * error]))
    rows = {kind: np.array([len(block) for block in blocks]) for kind, blocks in factors.items()}
    return FoldErrors(FoldFactors(factors, rows, (d,))).powers


@pytest.mark.parametrize("shared", [0.0, 0.1, 0.5, 1.0])
def test_powers_count_labels_whose_errors_agree_as_fewer(shared):
    """Of m labels with correlation ρ, m / (1 + (m - 1) ρ) are independent (Kish (1965), the design effect)."""
    found = [powers_of(np.random.default_rng(seed), shared) for seed in range(6)]
    assert all(one["energy"] == 1.0 for one in found)
    assert np.mean([one["forces"] for one in found]) == pytest.approx(1 / (1 + 29 * shared), rel=0.3)
    assert all(0.0 < one["forces"] <= 1.0 for one in found)


def test_search_finds_a_setting_better_than_its_start(problem):
    errors = FoldErrors(problem[0])

    def loss(ratio):
        return sum(np.log(one.rmse) for one in errors.left_out(ratio).values())

    assert loss(errors.search("cv", independent=12)[0]) <= loss(noise_search.START)
    for how, power in (("evidence", None), ("tempered", errors.powers)):
        best, _ = errors.search(how, independent=12)
        assert errors.log_evidence(best, power)[0] >= errors.log_evidence(noise_search.START, power)[0]


def test_stresses_follow_what_energies_and_forces_have_settled(problem):
    errors = FoldErrors(problem[0])
    alone, scales = errors.only(("energy", "forces")).search("cv", independent=12)
    found, again = errors.search("cv", independent=12)
    assert ({kind: found[kind] for kind in alone}, again) == (alone, scales)

    def loss(stress):
        left = errors.left_out(found | {"stress": stress})
        prior = np.log10(stress / noise_search.START["stress"]) ** 2 / 24
        errors_of = (w * np.log(left[kind].rmse) for kind, w in zip(KINDS, (1.0, 1.0, 1 / 3), strict=True))
        return sum(errors_of) + prior

    assert loss(found["stress"]) < min(loss(0.3 * found["stress"]), loss(3.0 * found["stress"])) + 0.02


@pytest.mark.parametrize("how", ["cv", "evidence", "tempered"])
def test_searched_noise_is_repeatable_and_predicts(how):
    structures, test = make.copper_gold_set(12), make.copper_gold_set(3, seed=1)
    first, second = (potentials.model(20, noise=how, seed=4).fit(structures) for _ in range(2))
    assert first.noise_ == second.noise_
    assert first.amplitude_ == second.amplitude_
    assert first.noise_.kinds == KINDS
    assert set(first.calibration_) == set(first.cross_validation_) == set(KINDS)
    assert all(np.isfinite(v) and v > 0 for v in first.calibration_.values())
    np.testing.assert_array_equal(first.predict(test).energy_std, second.predict(test).energy_std)
    scores = kp.evaluate(first, test).overall
    spread = np.std([atoms.get_potential_energy() / len(atoms) for atoms in test])
    assert scores["energy"].rmse < spread


def test_given_noise_stays_as_given():
    model = potentials.model(12, noise=kp.Noise(0.01, 0.2)).fit(make.copper_gold_set(6))
    assert model.noise_ == kp.Noise(0.01, 0.2)
    assert model.amplitude_ == 1.0
    assert set(model.cross_validation_) == {"energy", "forces"}


@pytest.mark.parametrize("how", ["cv", "evidence", "tempered"])
def test_search_with_one_structure_is_refused(how):
    with pytest.raises(LabelError, match="needs at least two different structures, got one"):
        potentials.model(4, noise=how).fit(make.copper_gold_set(1))


@pytest.mark.parametrize("noise", [potentials.NOISE, "cv", "evidence", "tempered"])
def test_forces_that_vanish_by_symmetry_settle_nothing(noise):
    # An equation of state: every force is zero whatever the weights, so its tiny error must not rule the search.
    crystals = [bulk("Cu", "fcc", a=a, cubic=True) for a in np.linspace(3.4, 3.9, 12)]
    model = potentials.model(10, noise=noise).fit(make.labelled(crystals))
    assert model.calibration_["forces"] == 1.0
    assert model.cross_validation_["forces"] < 1e-9
    plain = potentials.model(10, noise=noise).fit(make.labelled(crystals, ["energy", "stress"]))
    assert model.amplitude_ == pytest.approx(plain.amplitude_, rel=1e-3)
    rattled = make.copper(3)
    assert model.predict([rattled]).energy[0] == pytest.approx(plain.predict([rattled]).energy[0], abs=1e-3)
    assert min(model.predict([rattled]).forces_std[0].ravel()) > 1e-3


@pytest.mark.parametrize("noise", ["cv", "evidence", "tempered"])
@pytest.mark.parametrize("slope", [0.0, -3.0])
def test_labels_that_are_exactly_explained_leave_a_finite_model(noise, slope):
    from ase.calculators.singlepoint import SinglePointCalculator

    from kernelpot.demo import structures

    train = structures(10, seed=1)
    for atoms in train:
        atoms.calc = SinglePointCalculator(atoms, energy=slope * len(atoms))
    model = kp.SparseGP(kp.SOAP(cutoff=4.0, n_max=3, l_max=2), n_inducing=20, noise=noise).fit(train)
    prediction = model.predict(train)
    assert model.amplitude_ > 0
    assert np.isfinite(prediction.energy_std).all()
    assert (prediction.energy_std > 0).all()


def test_residual_noise_is_that_of_the_labels():
    """Rows of random numbers, labels with known noise of each kind: more labels than weights find it."""
    rng = np.random.default_rng(3)
    d, n = 12, {"energy": 400, "forces": 3000}
    true = {"energy": 0.02, "forces": 0.3}
    weights = rng.standard_normal(d)
    factors = {}
    for kind, sigma in true.items():
        rows = rng.standard_normal((n[kind], d))
        y = rows @ weights + sigma * rng.standard_normal(n[kind])
        factors[kind] = [np.column_stack([rows, y])[k::2] for k in range(2)]
    data = FoldFactors(factors, {kind: np.array([len(f) for f in factors[kind]]) for kind in true}, (d,))
    found = FoldErrors(data).residual_noise(true)
    for kind, sigma in true.items():
        assert found[kind] == pytest.approx(sigma, rel=0.1)

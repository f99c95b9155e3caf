"""Blocks of information against the rows they are made of."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.features.feature_map import E0_PRIOR
from tests import potentials
from tests import structures as make
from tests.features.test_rows import described

NOISE = kp.Noise(energy=0.004, forces=0.05, stress=0.003)
AMPLITUDE = 0.7


@pytest.fixture(scope="module")
def prepared():
    pool = [make.copper_gold(k) for k in range(5)]
    return kp.SparseGP(potentials.small_soap(), kp.DotProduct(2, AMPLITUDE), n_inducing=10, noise=NOISE).prepare(pool)


def dense_block(model, atoms, kinds):
    """BᵀB of one structure from its unwhitened rows."""
    features = model.features_
    rows = features.rows(described(features, [atoms]), ("energy", "forces", "stress"))
    composition = np.array([[np.count_nonzero(atoms.numbers == z) for z in features.species]], float)
    d = features.n_weights + len(features.species)
    total = np.zeros((d, d))
    for kind in kinds:
        block = AMPLITUDE * features.whiten(getattr(rows, kind))
        e0 = np.zeros((len(block), len(features.species)))
        scale = NOISE.sigma(kind)
        if kind == "energy":
            e0, scale = E0_PRIOR * composition, scale * len(atoms)
        block = np.concatenate([block, e0], axis=1) / scale
        total += block.T @ block
    return total


def test_blocks_hold_the_information_of_all_planned_labels(prepared):
    structures = [make.copper_gold(7), make.slab(1), make.isolated("Au")]
    info = prepared.information(structures, truncate=0.0)
    assert len(info) == 3
    assert info.d == prepared.features_.n_weights + 2
    np.testing.assert_array_equal(info.counts, [[1, 12, 6], [1, 3 * len(structures[1]), 6], [1, 3, 0]])
    np.testing.assert_array_equal(info.n_atoms, [len(atoms) for atoms in structures])
    for s, atoms in enumerate(structures):
        kinds = ("energy", "forces", "stress") if atoms.cell.rank == 3 else ("energy", "forces")
        expected = dense_block(prepared, atoms, kinds)
        block = info.block(s)
        np.testing.assert_allclose(block.T @ block, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_truncation_drops_no_more_than_its_share(prepared):
    structures = [make.copper_gold(8), make.copper_gold(9)]
    whole, short = (prepared.information(structures, truncate=t) for t in (0.0, 1e-2))
    assert len(short.rows) < len(whole.rows)
    for s in range(2):
        lost = whole.block(s).T @ whole.block(s) - short.block(s).T @ short.block(s)
        assert np.trace(lost) == pytest.approx(short.discarded[s].sum(), rel=1e-6)
        assert np.trace(lost) <= 1e-2 * np.trace(whole.block(s).T @ whole.block(s))
    np.testing.assert_array_equal(short.counts, whole.counts)


def test_present_counts_only_labels_that_are_there(prepared):
    structures = [
        *make.labelled([make.copper_gold(1)], ["energy"]),
        *make.labelled([make.copper_gold(2)], ["forces"]),
        *make.labelled([make.copper_gold(3)]),
        make.copper_gold(4),
        *make.labelled([make.isolated("Cu")], ["energy", "forces"]),
    ]
    planned, present = (prepared.information(structures, labels=which) for which in ("planned", "present"))
    np.testing.assert_array_equal(present.counts, [[1, 0, 0], [0, 12, 0], [1, 12, 6], [0, 0, 0], [1, 3, 0]])
    np.testing.assert_array_equal(planned.counts, [[1, 12, 6]] * 4 + [[1, 3, 0]])
    np.testing.assert_allclose(present.block(2), planned.block(2), atol=1e-12)
    assert len(present.block(3)) == 0


def test_only_kinds_with_a_noise_are_planned():
    pool = [make.copper_gold(k) for k in range(3)]
    info = potentials.model(6, noise=kp.Noise(energy=None, forces=0.1)).prepare(pool).information(pool)
    np.testing.assert_array_equal(info.counts, [[0, 12, 0]] * 3)


def test_labels_do_not_matter_to_planned_information(prepared):
    plain = [make.copper_gold(k) for k in range(3)]
    np.testing.assert_array_equal(prepared.information(plain).rows, prepared.information(make.labelled(plain)).rows)


def test_settings_groups_and_means_are_carried(prepared):
    structures = [make.copper_gold(1), make.copper_gold(2)]
    structures[0].info["config_type"] = "bulk"
    info = prepared.information(structures)
    assert info.groups == ("bulk", "")
    assert dict(info.description) == {
        "energy": 0.004, "forces": 0.05, "stress": 0.003, "amplitude": AMPLITUDE, "n_inducing": 10, "truncate": 1e-5,
    }  # fmt: skip
    np.testing.assert_allclose(info.means[0], described(prepared.features_, structures[:1]).x.mean(axis=0), atol=1e-13)


def test_information_equals_what_the_fit_learns():
    structures = make.copper_gold_set(5)
    model = potentials.model(8).fit(structures)
    rows = model.information(structures, labels="present", truncate=0.0).rows
    factor = model.fitted_.posterior.factor
    expected = np.diag(model.fitted_.roots**2) + rows.T @ rows
    np.testing.assert_allclose(factor.T @ factor, expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


def test_misuse_is_refused(prepared):
    with pytest.raises(NotFittedError, match="inducing environments are not fixed yet; call prepare"):
        potentials.model().information([make.copper(0)])
    with pytest.raises(ParameterError, match='`labels` must be "planned" or "present", got \'all\''):
        prepared.information([make.copper(0)], labels="all")
    with pytest.raises(ParameterError, match="write \\[atoms\\]"):
        prepared.information(make.copper(0))


def test_planning_with_another_noise_and_amplitude_equals_a_model_that_has_them(prepared):
    structures = [make.copper_gold(7), make.slab(1)]
    pool = [make.copper_gold(k) for k in range(5)]
    noise = kp.Noise(energy=0.001, forces=0.2)
    other = kp.SparseGP(potentials.small_soap(), kp.DotProduct(2, 3.0), n_inducing=10, noise=noise).prepare(pool)
    found = prepared.information(structures, truncate=0.0, noise=noise, amplitude=3.0)
    expected = other.information(structures, truncate=0.0)
    for s in range(2):
        # Blocks are known up to rotations among their rows.
        np.testing.assert_allclose(
            found.block(s).T @ found.block(s),
            expected.block(s).T @ expected.block(s),
            rtol=1e-9,
            atol=1e-9 * np.abs(expected.rows).max() ** 2,
        )
    assert dict(found.description) == dict(expected.description)
    with pytest.raises(ParameterError, match="`amplitude` must be positive"):
        prepared.information(structures, amplitude=0.0)

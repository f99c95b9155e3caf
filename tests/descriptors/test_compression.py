"""Radial functions combined into fewer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from kernelpot.data.batch import Batch
from kernelpot.descriptors.radial import GTO, Compressed
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError
from tests import structures as make

FULL = SOAP(cutoff=4.0, n_max=6, l_max=3, sigma=0.5, fade=0.8, species=(29, 79), channels=None)
TRAIN = [make.copper_gold(k) for k in range(4)]
WAYS = {"volume": None, "structures": TRAIN}


@pytest.fixture(scope="module")
def batch():
    return Batch.from_structures([make.copper_gold(7), make.slab(2)], 4.0)


def by_l(coefficients, soap):
    """Split into arrays [atoms, m, species, n], one for each l."""
    shape = (*coefficients.shape[:2], 2, soap.n_max)
    return [coefficients.reshape(shape)[:, k * k : (k + 1) ** 2] for k in range(soap.l_max + 1)]


def lost(soap, structures):
    """Share of the squared coefficients that a compressed basis does not hold, for each l."""
    batch = Batch.from_structures(structures, 4.0)
    whole, part = (np.array([np.sum(c**2) for c in by_l(s.environments(batch).coefficients, s)]) for s in (FULL, soap))
    return 1 - part / whole


@pytest.mark.parametrize("structures", WAYS.values(), ids=WAYS.keys())
def test_coefficients_are_the_full_ones_projected(batch, structures):
    small = FULL.compressed(3, structures)
    matrix = np.array(small.basis.matrix)
    assert matrix.shape == (4, 6, 3)
    np.testing.assert_allclose(np.einsum("lnk,lnq->lkq", matrix, matrix), [np.eye(3)] * 4, atol=1e-12)
    full, found = (by_l(s.environments(batch).coefficients, s) for s in (FULL, small))
    for l in range(4):  # noqa: E741
        np.testing.assert_allclose(found[l], full[l] @ matrix[l], atol=1e-10 * np.abs(full[l]).max())
    assert small.n_features == 6 * 7 // 2 * 4


@pytest.mark.parametrize("structures", WAYS.values(), ids=WAYS.keys())
def test_all_components_are_a_rotation(batch, structures):
    """Nothing is left out, so no dot product changes."""
    before, after = (s.values(batch) for s in (FULL, FULL.compressed(6, structures)))
    np.testing.assert_allclose(after @ after.T, before @ before.T, rtol=1e-9)


def test_components_of_structures_lose_least_of_their_density():
    """Their loss is the sum of the eigenvalues left out; neither other components nor the first functions lose less."""
    best = lost(FULL.compressed(3, TRAIN), TRAIN)
    eye = np.eye(6)[:, :3]
    first = Compressed(FULL.basis, tuple(tuple(tuple(row) for row in eye.tolist()) for _ in range(4)))
    assert (best > 0).all()
    assert (best < lost(FULL.compressed(3), TRAIN) + 1e-12).all()
    assert (best < lost(replace(FULL, basis=first, n_max=3), TRAIN)).all()
    coefficients = by_l(FULL.environments(Batch.from_structures(TRAIN, 4.0)).coefficients, FULL)
    for loss, c in zip(best, coefficients, strict=True):
        eigenvalues = np.linalg.eigvalsh(np.einsum("iman,imak->nk", c, c))
        assert loss == pytest.approx(eigenvalues[:3].sum() / eigenvalues.sum(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("scaling", [None, (1.5, 4.0)])
def test_volume_components_are_those_of_neighbours_anywhere(scaling):
    """From the coefficients of dimers at many distances, each weighed by the shell it stands for."""
    soap = replace(FULL, species=(29,), scaling=scaling)
    steps = 400
    r = (np.arange(steps) + 0.5) * soap.cutoff / steps
    ends = np.array([np.zeros(3), np.array([2.0, 3.0, 6.0]) / 7])
    # Moved to where they belong afterwards, as atoms in each other are refused.
    dimers = Batch.from_structures([Atoms("Cu2", positions=2.0 * ends)] * steps, soap.cutoff)
    dimers = dimers.moved((r[:, None, None] * ends).reshape(-1, 3))
    alone = Batch.from_structures([Atoms("Cu")], soap.cutoff)
    c = soap.environments(dimers).coefficients[::2] - soap.environments(alone).coefficients
    found = np.array(soap.compressed(2).basis.matrix)
    for l in range(4):  # noqa: E741
        rows = c[:, l * l : (l + 1) ** 2]
        moments = np.einsum("i,imn,imk->nk", r**2, rows, rows)
        leading = np.linalg.eigh(moments)[1][:, ::-1][:, :2]
        np.testing.assert_allclose(np.linalg.svd(leading.T @ found[l], compute_uv=False), 1.0, atol=1e-6)


def test_settings_make_the_same_descriptor(batch):
    for small in (
        FULL.compressed(3, TRAIN),
        replace(FULL, basis=GTO(3.0)).compressed(2),
        FULL.compressed(5).compressed(3),
    ):
        again = SOAP.from_settings(json.loads(json.dumps(small.settings())))
        assert again == small
        np.testing.assert_array_equal(again.values(batch), small.values(batch))


@pytest.mark.parametrize("n", [0, 7, 2.0])
def test_number_of_components_must_fit(n):
    with pytest.raises(ParameterError, match=f"`n_max` must be .* from 1 to 6, got {n}; start from"):
        FULL.compressed(n)


def test_structures_must_be_there():
    with pytest.raises(ParameterError, match="at least one structure, got none"):
        FULL.compressed(3, [])


def test_a_matrix_for_other_sizes_is_refused(batch):
    with pytest.raises(ParameterError, match="is for l_max 3 and n_max 3, got l_max 2 and n_max 3; compress"):
        replace(FULL.compressed(3), l_max=2).values(batch)

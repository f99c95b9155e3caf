"""Kernel matrices of DScribe's SOAP, from which ours differ only in what they leave out or weigh."""

from __future__ import annotations

import io
import lzma

import numpy as np
import pytest
from ase.io import read
from dscribe import descriptors as dscribe

from kernelpot.data.batch import Batch
from kernelpot.descriptors.radial import GTO
from kernelpot.descriptors.soap.definition import SOAP
from tests import structures as make
from tests.datasets import dataset

R_CUT, N_MAX, L_MAX, SIGMA = 3.5, 4, 3, 0.5


def silver_palladium():
    atoms = make.copper_gold(1)
    atoms.numbers = np.where(atoms.numbers == 79, 46, 47)
    return atoms


def from_dscribe(atoms, species):
    """DScribe's vectors with the weight √2 wherever it lists one of two equal halves."""
    soap = dscribe.SOAP(
        species=species, r_cut=R_CUT, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA, rbf="gto", periodic=bool(atoms.pbc.any())
    )
    vectors = soap.create(atoms)
    rows, columns = np.triu_indices(N_MAX)
    within = np.tile(np.where(rows == columns, 1.0, np.sqrt(2.0)), L_MAX + 1)
    symbols = sorted({*species})
    for k, a in enumerate(symbols):
        for b in symbols[k:]:
            vectors[:, soap.get_location((a, b))] *= within if a == b else np.sqrt(2.0)
    return vectors


def from_kernelpot(atoms, numbers):
    cutoff = R_CUT + SIGMA * np.sqrt(-2.0 * np.log(1e-3))
    soap = SOAP(
        cutoff=cutoff, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA, basis=GTO(radius=R_CUT), fade=0.0,
        species=tuple(sorted(numbers)), channels=None,
    )  # fmt: skip
    return soap.values(Batch.from_structures([atoms], cutoff))


def check(atoms):
    numbers = sorted(set(atoms.numbers.tolist()))
    theirs = from_dscribe(atoms, sorted(set(atoms.get_chemical_symbols())))
    ours = from_kernelpot(atoms, numbers)
    assert ours.shape == theirs.shape
    expected = theirs @ theirs.T
    np.testing.assert_allclose(ours @ ours.T, expected, atol=1e-8 * np.abs(expected).max())
    ours, theirs = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (ours, theirs))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-8)


@pytest.mark.parametrize("atoms", [make.silicon(), silver_palladium(), make.ethanol()], ids=["Si", "AgPd", "ethanol"])
def test_kernel_matrix_is_that_of_dscribe(atoms):
    check(atoms)


@pytest.mark.parametrize(
    ("name", "frame"),
    [("mlearn/Si_train.xyz.xz", 3), ("agpd/AgPd_bulk_master.xyz.xz", 20), ("rmd17/ethanol_train.xyz.xz", 5)],
)
def test_kernel_matrix_of_real_frames_is_that_of_dscribe(name, frame):
    with lzma.open(dataset(name), "rt") as file:
        text = file.read()
    check(read(io.StringIO(text), index=frame, format="extxyz"))

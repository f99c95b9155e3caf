"""Pairs within a distance: one answer, whatever finds them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kernelpot.data.batch import Batch, neighbours
from kernelpot.data.geometry import GeometryLimits, why


def as_set(i, j, images):
    return sorted(zip(i.tolist(), j.tolist(), map(tuple, np.asarray(images).tolist()), strict=True))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 10),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.floats(0.0, 2.0),
    st.floats(0.5, 7.0),
)
@settings(max_examples=1000)
def test_ase_finds_the_same_pairs_in_odd_geometries(seed, n, pbc, spread, reach):
    rng = np.random.default_rng(seed)
    cell = np.diag(10.0 ** rng.uniform(0.3, 1.6, 3)) @ (np.eye(3) + 0.4 * rng.normal(size=(3, 3)))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    assume(heights.min() > 0.5)
    atoms = Atoms(numbers=[29] * n, positions=10.0**spread * rng.normal(size=(n, 3)), cell=cell, pbc=pbc)
    i, j, images = neighbours(atoms, reach)
    assert as_set(i, j, images) == as_set(*neighbor_list("ijS", atoms, reach))
    assert (np.diff(i) >= 0).all()


@pytest.mark.parametrize(
    ("cell", "pbc", "apart"),
    [
        ((0, 0, 0), False, (1500, 1500, 1)),  # Two wide directions and a thin one
        ((0, 0, 0), False, (90_000, 90_000, 90_000)),
        ((9e4, 9e4, 4), True, (1, 1, 2)),  # A sheet
        ((0, 0, 4), (False, False, True), (400, 1, 1)),  # Two wires
        ((4, 4, 0), (True, True, False), (0, 0, 90_000)),  # An atom far from a slab
        ((4, 4, 9e4), (False, True, True), (1, 1, 3)),
    ],
)
def test_atoms_far_apart_are_listed(cell, pbc, apart):
    """Cell lists take bins for the empty space: minutes of time, or a division by zero that ends the process."""
    atoms = Atoms("Cu2", positions=[(0, 0, 0), apart], cell=cell, pbc=pbc)
    batch = Batch.from_structures([atoms], 4.5)
    lengths = np.linalg.norm(batch.vectors, axis=1)
    direct = []
    vectors = np.where(np.asarray(atoms.pbc)[:, None], atoms.cell.array, 0.0)
    for turn in np.ndindex(5, 5, 5):
        moved = (np.array(turn) - 2) @ vectors
        if not (np.array(turn) - 2)[~atoms.pbc].any():
            direct += [np.linalg.norm(atoms.positions[b] + moved - atoms.positions[a]) for a in (0, 1) for b in (0, 1)]
    direct = np.array(direct)
    np.testing.assert_allclose(np.sort(lengths), np.sort(direct[(direct > 0) & (direct <= 4.5)]), rtol=1e-9)
    assert why(atoms, GeometryLimits(short=0.0)) is None or "farther" in why(atoms, GeometryLimits(short=0.0))

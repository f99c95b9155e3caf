from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.check import OVERLAP, check_structure, place, validate
from kernelpot.data.read import read
from kernelpot.errors import DataError
from tests.datasets import dataset


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Si"),
        bulk("Cu", cubic=True) * (5, 5, 5),
        fcc111("Cu", (2, 2, 3), vacuum=5.0),
        fcc111("Cu", (2, 2, 3)),
        molecule("CH3CH2OH"),
        Atoms("Ar"),
        Atoms("Ar", cell=[10, 10, 10], pbc=True),
        Atoms("Cu", cell=[2.5, 0, 0], pbc=[True, False, False]),
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 9e4]]),
    ],
    ids=lambda atoms: f"{atoms.symbols}-{atoms.pbc}",
)
def test_good_structures_pass(atoms):
    check_structure(atoms, "here")


def _with(atoms, **changes):
    atoms = atoms.copy()
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "must have atoms, found none"),
        (Atoms("CX", positions=[[0, 0, 0], [0, 0, 2]]), "atom 1 has 0"),
        (Atoms("H2", positions=[[0, 0, 0], [0, np.nan, 1]]), r"atom 1 is at \[0.0, nan, 1.0\]"),
        (Atoms("H2", positions=[[0, 0, 0], [0, np.inf, 1]]), "positions must be finite"),
        (Atoms("H2", positions=[[0, 0, 0], [0, 0, 1e7]]), "must be below 100000 Å, found 1e\\+07"),
        (Atoms("H", cell=[5, np.nan, 5], pbc=True), "cell vectors must be finite"),
        (Atoms("H", pbc=True), "pbc TTT"),
        (Atoms("H", cell=[5, 5, 0], pbc=True), "must span a volume"),
        (Atoms("H", cell=[[5, 0, 0], [10, 0, 0], [0, 0, 5]], pbc=[True, True, False]), "pbc TTF"),
        (Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.05]]), "atoms 0 and 1 .* are 0.05 Å apart"),
        (Atoms("H2", positions=[[0, 0, 0.01], [0, 0, 4.98]], cell=[5, 5, 5], pbc=True), "0.03 Å apart"),
        (Atoms("H2", positions=[[0, 0, 0], [15, -5, 10.0]], cell=[5, 5, 5], pbc=True), "0 Å apart"),
        (Atoms("H", cell=[5, 5, 0.05], pbc=True), "planes 0.05 Å"),
    ],
)
def test_bad_structures_are_refused_by_name(atoms, message):
    with pytest.raises(DataError, match=message) as caught:
        check_structure(atoms, "train.xyz@7")
    assert str(caught.value).startswith("train.xyz@7: ")


def test_overlap_across_an_open_direction_is_none():
    atoms = Atoms("H2", positions=[[0, 0, 0.01], [0, 0, 4.98]], cell=[5, 5, 5], pbc=[True, True, False])
    check_structure(atoms, "slab")


def test_a_needle_of_a_cell_passes_when_its_crystal_is_sound():
    atoms = bulk("Si")
    cell = np.asarray(atoms.cell).copy()
    cell[1] += 200 * cell[0]
    check_structure(_with(atoms, cell=cell), "needle")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    distance=st.sampled_from([0.2 * OVERLAP, 0.95 * OVERLAP, 1.05 * OVERLAP]),
)
def test_overlaps_are_found_in_any_cell_through_any_face(seed, pbc, distance):
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 4 + rng.uniform(-1.5, 1.5, (3, 3))
    direction = rng.standard_normal(3)
    first = rng.choice([0.0, 0.5, 1.0], 3) @ cell
    shift = rng.integers(-3, 4, 3) * np.array(pbc)
    second = first + distance * direction / np.linalg.norm(direction) + shift @ cell
    atoms = Atoms("Cu2", positions=[first, second], cell=cell, pbc=pbc)
    if distance < OVERLAP:
        with pytest.raises(DataError, match="atoms 0 and 1"):
            check_structure(atoms, "pair")
    else:
        check_structure(atoms, "pair")


def test_validate_names_the_structure():
    bad = Atoms("H2", positions=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"^structure 1 \(from 0\): "):
        validate([molecule("H2O"), bad])
    with pytest.raises(DataError, match=r"^pool@1: "):
        validate([molecule("H2O"), bad], "pool")


def test_place_prefers_the_file_a_structure_came_from():
    atoms = molecule("H2O")
    atoms.info["kernelpot_source"] = "water.xyz@3"
    assert place(atoms, 0) == "water.xyz@3"


@pytest.mark.parametrize("name", ["mlearn/Si_train.xyz.xz", "agpd/AgPd_slab_334.xyz.xz", "ta_snap/ta_all.xyz.xz"])
def test_real_structures_pass(name):
    validate(read(dataset(name), verbose=False))

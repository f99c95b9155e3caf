from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, ParameterError
from tests import structures as make

CASES = {
    "crystal": make.silicon(),
    "two species": make.copper_gold(),
    "molecule": make.ethanol(),
    "slab": make.slab(),
    "cell below the cutoff": make.tiny_cell(),
    "isolated": make.isolated(),
}
CUTOFF = 4.1


@pytest.fixture(scope="module")
def all_cases():
    return Batch.from_structures(list(CASES.values()), CUTOFF)


def listed(i, j, vectors):
    """Pairs in an order that does not depend on who made them."""
    table = np.column_stack([i, j, np.round(vectors, 6) + 0.0])
    return table[np.lexsort(table.T[::-1])]


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_those_of_ase(name):
    atoms = CASES[name]
    batch = Batch.from_structures([atoms], CUTOFF)
    i, j, vectors = neighbor_list("ijD", atoms, CUTOFF)
    assert len(batch.first) == len(i)
    np.testing.assert_allclose(
        listed(batch.first, batch.second, batch.vectors), listed(i, j, vectors.reshape(-1, 3)), atol=2e-6
    )


def test_pairs_are_sorted_and_found_by_their_offsets(all_cases):
    assert (np.diff(all_cases.first) >= 0).all()
    for i in range(all_cases.n_atoms):
        assert (all_cases.first[all_cases.pair_offsets[i] : all_cases.pair_offsets[i + 1]] == i).all()
    assert all_cases.pair_offsets[-1] == len(all_cases.first)


def test_every_pair_has_its_reverse(all_cases):
    forward = listed(all_cases.first, all_cases.second, all_cases.vectors)
    backward = listed(all_cases.second, all_cases.first, -all_cases.vectors)
    np.testing.assert_allclose(forward, backward, atol=2e-6)


def test_structures_keep_to_themselves(all_cases):
    assert len(all_cases) == len(CASES)
    assert all_cases.sizes.tolist() == [len(atoms) for atoms in CASES.values()]
    assert (all_cases.structure[all_cases.first] == all_cases.structure[all_cases.second]).all()


def test_skin_lists_pairs_beyond_the_cutoff():
    atoms = CASES["crystal"]
    batch = Batch.from_structures([atoms], CUTOFF, skin=0.7)
    r = np.linalg.norm(batch.vectors, axis=1)
    assert batch.cutoff == pytest.approx(CUTOFF + 0.7)
    assert len(r) == len(neighbor_list("i", atoms, CUTOFF + 0.7))
    assert ((r > CUTOFF) & (r <= CUTOFF + 0.7)).any()


def test_moved_within_the_skin_lists_all_pairs():
    atoms = CASES["crystal"]
    batch = Batch.from_structures([atoms], CUTOFF, skin=0.6)
    shift = np.random.default_rng(0).normal(size=atoms.positions.shape)
    shift *= 0.299 / np.linalg.norm(shift, axis=1, keepdims=True)
    moved = batch.moved(atoms.positions + shift)
    atoms = atoms.copy()
    atoms.positions += shift
    r = np.linalg.norm(moved.vectors, axis=1)
    i, j, vectors = neighbor_list("ijD", atoms, CUTOFF)
    near = r < CUTOFF
    np.testing.assert_allclose(
        listed(moved.first[near], moved.second[near], moved.vectors[near]), listed(i, j, vectors), atol=2e-6
    )
    assert batch.positions is not moved.positions


def test_take_equals_a_batch_of_its_own(all_cases):
    part = all_cases.take(1, 4)
    own = Batch.from_structures(list(CASES.values())[1:4], CUTOFF)
    for name in (
        "positions", "cells", "pbc", "numbers", "offsets", "first", "second", "shifts", "pair_offsets", "vectors",
        "structure",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(part, name), getattr(own, name), err_msg=name)


def test_sum_per_structure(all_cases):
    totals = all_cases.sum_per_structure(all_cases.numbers.astype(float))
    np.testing.assert_allclose(totals, [atoms.numbers.sum() for atoms in CASES.values()])


def test_volumes_are_nan_without_a_cell(all_cases):
    expected = [atoms.cell.volume if atoms.cell.rank == 3 else np.nan for atoms in CASES.values()]
    np.testing.assert_allclose(all_cases.volumes, expected)


def test_isolated_atom_has_no_pairs():
    batch = Batch.from_structures([make.isolated()], CUTOFF)
    assert (batch.n_atoms, len(batch.first), batch.vectors.shape) == (1, 0, (0, 3))


def test_positions_outside_the_cell_give_the_same_pairs():
    atoms = CASES["two species"]
    outside = atoms.copy()
    outside.positions += np.array([3, -2, 5]) @ atoms.cell.array
    a, b = Batch.from_structures([atoms], CUTOFF), Batch.from_structures([outside], CUTOFF)
    np.testing.assert_allclose(listed(a.first, a.second, a.vectors), listed(b.first, b.second, b.vectors), atol=2e-6)


def test_structures_are_not_changed():
    atoms = CASES["crystal"].copy()
    before = atoms.positions.copy()
    batch = Batch.from_structures([atoms], CUTOFF)
    batch.positions[:] = 0.0
    np.testing.assert_array_equal(atoms.positions, before)


def test_tensors_hold_the_same_numbers(all_cases):
    pytest.importorskip("torch")
    for name, tensor in all_cases.tensors().items():
        np.testing.assert_array_equal(tensor.numpy(), getattr(all_cases, name))


@pytest.mark.parametrize("cutoff", [0.0, -5.0, np.nan, np.inf])
def test_cutoff_must_be_a_positive_length(cutoff):
    with pytest.raises(ParameterError, match="`cutoff` must be positive and in Å, got"):
        Batch.from_structures([CASES["crystal"]], cutoff)


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_skin_must_not_be_negative(skin):
    with pytest.raises(ParameterError, match="`skin` must be zero or positive and in Å, got"):
        Batch.from_structures([CASES["crystal"]], CUTOFF, skin=skin)


def test_no_structures():
    with pytest.raises(ParameterError, match="at least one structure, got none"):
        Batch.from_structures([], CUTOFF)


def test_bad_structures_are_named_by_their_number():
    bad = Atoms("Si2", positions=[[0, 0, 0], [0, 0, np.nan]])
    with pytest.raises(DataError, match="1"):
        Batch.from_structures([CASES["crystal"], bad], CUTOFF)


def test_a_flat_cell_has_no_volume_for_all_its_round_off():
    cell = [[3.0, 0.1, 0.3], [1.0, 2.7, 0.9], [4.0, 2.8, 1.2]]
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [2.3, 0, 0]], cell=cell)
    assert np.isnan(Batch.from_structures([atoms], 5.0).volumes).all()


def test_messages_count_from_the_start_of_the_whole_list():
    with pytest.raises(DataError, match="structure 57 "):
        Batch.from_structures([Atoms("Cu", positions=[[np.nan, 0, 0]])], 5.0, start=57)


@pytest.mark.parametrize("first", ["", "import vesin", "import torch"])
def test_pairs_do_not_import_pytorch_and_leave_vesin_whole(first):
    program = f"""
import sys
{first}
before = "torch" in sys.modules
from ase.build import bulk
from kernelpot.data.batch import Batch
pairs = len(Batch.from_structures([bulk("Cu")], 3.0).first)
assert pairs == 12, pairs
assert ("torch" in sys.modules) == before
import vesin
from vesin._neighbors import HAS_TORCH
assert HAS_TORCH
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The screen keeps or lists every structure, and real sets lose nothing."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import ParameterError
from tests import structures as make
from tests.datasets import dataset
from tests.potentials import small_soap


def collided():
    atoms = make.copper(3)
    atoms.positions[1] = atoms.positions[0] + [0.5, 0.0, 0.0]
    return atoms


def swollen():
    atoms = make.copper(4)
    atoms.set_cell(1.3 * atoms.cell.array, scale_atoms=True)
    return atoms


def test_every_structure_is_kept_or_listed():
    pool = [make.copper(k) for k in range(30)]
    pool[4], pool[9] = collided(), swollen()
    pool[12].positions[0, 0] = np.nan
    found = kp.screen(pool)
    assert [k for k, _ in found.aside] == [4, 12]
    np.testing.assert_array_equal(found.kept, [k for k in range(30) if k not in (4, 12)])
    compared = kp.screen(pool, small_soap())
    assert [k for k, _ in compared.aside] == [4, 9, 12]
    text = str(compared).splitlines()
    assert text[0] == "3 of 30 structures set aside"
    assert text[2].startswith("  structure 9 (from 0): its mean descriptor is")


def test_nothing_to_find():
    found = kp.screen([make.copper(k) for k in range(25)], small_soap())
    assert found.aside == ()
    assert str(found) == "0 of 25 structures set aside"


def test_only_broken_structures():
    found = kp.screen([collided(), collided()], small_soap())
    assert len(found.kept) == 0
    assert len(found.aside) == 2


def test_misuse_is_refused():
    with pytest.raises(ParameterError, match=r"list of ase\.Atoms"):
        kp.screen(make.copper(1))


@pytest.mark.parametrize("file", ["mlearn/Si_train", "ta_snap/ta_all", "agpd/AgPd_bulk_master", "acac/train_600K"])
def test_real_training_sets_lose_nothing(file):
    structures = kp.read(dataset(f"{file}.xyz.xz"), verbose=False)
    assert kp.screen(structures, kp.SOAP(cutoff=5.0, n_max=4, l_max=3)).aside == ()

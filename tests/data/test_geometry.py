"""Broken frames, made on purpose, and good ones of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.geometry import GeometryLimits, broken, nearest, radii
from kernelpot.errors import ParameterError
from tests import structures as make
from tests.datasets import dataset

GOOD = {
    "diamond": bulk("Si", "diamond", a=5.43, cubic=True),
    "caesium": bulk("Cs", "bcc", a=6.14),
    "solid argon": bulk("Ar", "fcc", a=5.31, cubic=True),
    "solid helium": bulk("He", "hcp", a=3.57, c=5.83),
    "slab": fcc111("Al", (2, 2, 3), vacuum=10.0),
    "water": molecule("H2O"),
    "hydrogen": molecule("H2"),
    "salt": bulk("NaCl", "rocksalt", a=5.64),
    "isolated": make.isolated("Au"),
    "isolated in a box": Atoms("Au", cell=[15, 15, 15], pbc=True),
    "argon dimer": Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]),
    "ethanol": make.ethanol(3),
    "hot": make.shaken(bulk("Cu", cubic=True).repeat(2), 1, rattle=0.25),
}


def collided():
    atoms = GOOD["diamond"].copy()
    atoms.positions[1] = atoms.positions[0] + [0.9, 0.0, 0.0]
    return atoms


def torn():
    atoms = molecule("C6H6")
    atoms.positions[7] += 40.0
    return atoms


def swollen():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_cell(2.5 * atoms.cell.array, scale_atoms=True)
    return atoms


def with_nan():
    atoms = GOOD["water"].copy()
    atoms.positions[0, 0] = np.nan
    return atoms


def doubled():
    atoms = GOOD["diamond"].copy()
    return atoms + atoms[[2]]


BROKEN = {
    "collided": (collided, r"atoms 0 and 1 \(Si-Si, or images\) are 0\.9 Å apart, 0\.41 of the sum"),
    "torn": (torn, r"atom 7 \(H\) is farther from any other .* \(1 such atoms\)"),
    "swollen": (swollen, "blown up"),
    "nan": (with_nan, "positions must be finite"),
    "doubled": (doubled, "atoms 2 and 8 .* apart; remove duplicated atoms"),
    "empty": (Atoms, "must have atoms"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_structures_pass(name):
    assert broken([GOOD[name]]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_structures_are_found_with_their_reason(name):
    atoms, message = BROKEN[name]
    ((number, reason),) = broken([GOOD["water"], atoms()])
    assert number == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), periodic=st.booleans())
def test_nearest_distances_are_those_of_ase(seed, periodic):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    cell = np.diag(rng.uniform(4, 9, 3)) + rng.uniform(-0.5, 0.5, (3, 3))
    atoms = Atoms(rng.choice(["H", "C", "Cu"], n), rng.uniform(0, 6, (n, 3)), cell=cell, pbc=periodic)
    ratio, distance, partner = nearest(atoms, 3.0)
    radius = radii()[atoms.numbers]
    # Images in 27 cells and more, by the plain formula.
    shifts = np.array([[a, b, c] for a in range(-3, 4) for b in range(-3, 4) for c in range(-3, 4)]) @ cell
    shifts = shifts if periodic else np.zeros((1, 3))
    for i in range(n):
        d = np.linalg.norm(atoms.positions[None] + shifts[:, None] - atoms.positions[i], axis=2)
        r = np.where(d > 1e-9, d, np.inf) / (radius[i] + radius)[None]
        truth = r.min()
        assert ratio[i] == pytest.approx(truth if truth <= 3.0 else np.inf, rel=1e-9)
        if np.isfinite(ratio[i]):
            assert distance[i] == pytest.approx(ratio[i] * (radius[i] + radius[partner[i]]))


def test_limits_are_the_users():
    hot = [make.shaken(bulk("Cu", cubic=True).repeat(2), 1, rattle=0.25)]
    assert len(broken(hot, GeometryLimits(short=0.95))) == 1
    for wrong in ({"short": -1.0}, {"short": 2.5}, {"alone": 2.0}, {"alone": 20.0}):
        with pytest.raises(ParameterError, match="limits must rise"):
            GeometryLimits(**wrong)


@pytest.mark.parametrize(
    "file",
    ["mlearn/Si_train", "mlearn/Ge_train", "mlearn/Li_train", "mlearn/Ni_train", "ta_snap/ta_all",
     "agpd/AgPd_bulk_master", "agpd/AgPd_slab_225", "acac/train_300K", "acac/train_600K"],
)  # fmt: skip
def test_real_training_sets_lose_nothing(file):
    assert broken(kp.read(dataset(f"{file}.xyz.xz"), verbose=False)) == []

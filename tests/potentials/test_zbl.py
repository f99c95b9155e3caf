"""The repulsion of nuclei: closed forms, derivatives, another package."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError
from tests import structures as make
from tests.features.test_rows import moved, strained

few = settings(deadline=None, max_examples=8)

METALS = {("Cu", "Cu"): (1.0, 3.2), ("Cu", "Au"): (0.8, 3.4), ("Au", "Au"): (1.5, 3.6)}
"""Radii that ordinary structures reach, so that the tests see all three regions."""


def contribution(zbl, structures, cutoff=4.0):
    return zbl.evaluate(Batch.from_structures(structures, cutoff))


def dimer(first, second, r) -> Atoms:
    return Atoms([first, second], [[0, 0, 0], [r / 3, 2 * r / 3, 2 * r / 3]])


def exact(z1, z2, r, inner=None, outer=None) -> mpmath.mpf:
    """The published formula with 30 digits, times the switch."""
    with mpmath.workdps(30):
        r = mpmath.mpf(r)
        # e²/4πε₀ from the SI's exact e and CODATA 2018's ε₀, in eV Å.
        coulomb = mpmath.mpf("1.602176634e-19") * 10**10 / (4 * mpmath.pi * mpmath.mpf("8.8541878128e-12"))
        x = r * (mpmath.mpf(z1) ** 0.23 + mpmath.mpf(z2) ** 0.23) / mpmath.mpf("0.4685")
        terms = (("0.18175", "3.19980"), ("0.50986", "0.94229"), ("0.28022", "0.40290"), ("0.02817", "0.20162"))
        phi = sum(mpmath.mpf(c) * mpmath.exp(-mpmath.mpf(d) * x) for c, d in terms)
        t = 0 if outer is None else min(max((r - inner) / (outer - inner), 0), 1)
        return coulomb * z1 * z2 / r * phi * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)


@pytest.mark.parametrize(("z1", "z2"), [(1, 1), (6, 8), (14, 14), (29, 79), (92, 6)])
@pytest.mark.parametrize("r", [0.12, 0.4, 0.9, 1.3, 1.9])
def test_a_dimer_has_the_published_energy(z1, z2, r):
    names = (chemical_symbols[z1], chemical_symbols[z2])
    for inner, outer in ((3.0, 3.5), (0.3, 2.2)):
        part = contribution(kp.ZBL(inner, outer), [dimer(*names, r)])
        expected = exact(z1, z2, r, inner, outer)
        np.testing.assert_allclose(part.energy[0], float(expected), rtol=1e-9)
        np.testing.assert_allclose(part.local_energy, part.energy[0] / 2)
        slope = float(mpmath.diff(lambda x: exact(z1, z2, x, inner, outer), r))  # noqa: B023
        np.testing.assert_allclose(part.forces[1], -slope * np.array([1, 2, 2]) / 3, rtol=1e-7)
        np.testing.assert_allclose(part.forces.sum(axis=0), 0.0, atol=1e-9 * abs(slope))


def test_the_screening_length_is_that_of_the_theory():
    # 0.8854 Bohr radii: (9π²/128)^(1/3) of the Thomas-Fermi atom, in the 1986 CODATA Bohr radius.
    from kernelpot.potentials.baselines.zbl import SCREENING

    assert pytest.approx((9 * np.pi**2 / 128) ** (1 / 3) * 0.529177, abs=5e-6) == SCREENING


def test_two_nuclei_that_touch_repel_as_bare_charges():
    assert float(exact(14, 14, 1e-9)) * 1e-9 == pytest.approx(14.3996454 * 196, rel=1e-6)
    part = contribution(kp.ZBL(1.0, 2.0), [dimer("Si", "Si", 0.11)])
    assert part.energy[0] < 14.3996454 * 196 / 0.11


@pytest.mark.parametrize("at", [0.9, 2.1])
def test_two_derivatives_are_continuous_at_both_ends(at):
    zbl, h = kp.ZBL(0.9, 2.1), 1e-3

    def curvature(r):
        first, last = (contribution(zbl, [dimer("Si", "O", r + s)]).forces[1] for s in (-h, h))
        return float(np.linalg.norm(last - first)) / (2 * h)

    # A kink of the force would not shrink with the distance to the end.
    jumps = [abs(curvature(at + d) - curvature(at - d)) for d in (0.04, 0.02, 0.01)]
    assert jumps[2] < 0.35 * jumps[0]
    assert contribution(zbl, [dimer("Si", "O", 2.1)]).energy[0] == 0.0


@few
@given(seed=st.integers(0, 1000))
def test_forces_and_stress_are_derivatives(seed):
    zbl, atoms = kp.ZBL(pairs=METALS), make.copper_gold(seed)
    part = contribution(zbl, [atoms])

    def slopes(changes, size, h):
        structures = [change(sign * h) for change in changes for sign in (1, -1)]
        energy = contribution(zbl, structures, 5.0).energy.reshape(-1, 2)
        return (energy[:, 0] - energy[:, 1]) / (2 * h) / size

    moves = [lambda h, i=i, x=x: moved(atoms, i, x, h) for i in range(4) for x in range(3)]
    strains = [lambda h, v=v: strained(atoms, v, h) for v in range(6)]
    for analytic, changes, size in (
        (-part.forces.ravel(), moves, 1.0),
        (part.stress[0], strains, atoms.get_volume()),
    ):
        errors = [np.abs(slopes(changes, size, h) - analytic).max() for h in (2e-2, 1e-2, 5e-3, 1e-3)]
        scale = np.abs(analytic).max()
        for coarse, fine in itertools.pairwise(errors[:3]):
            assert fine < 0.35 * coarse + 1e-9 * scale
        assert errors[-1] < 1e-3 * scale


def test_a_crystal_is_a_sum_over_its_images():
    atoms, zbl = make.tiny_cell(3), kp.ZBL(1.5, 4.0)
    steps = np.array(list(itertools.product(range(-4, 5), repeat=3)))
    r = np.linalg.norm(steps @ atoms.cell.array, axis=1)
    expected = sum(exact(29, 29, one, 1.5, 4.0) for one in r if 0 < one < 4) / 2
    np.testing.assert_allclose(contribution(zbl, [atoms]).energy[0], float(expected), rtol=1e-9)


def test_structures_of_a_batch_do_not_mix():
    zbl = kp.ZBL(pairs=METALS)
    structures = [make.copper_gold(1), make.isolated("Au"), make.slab(3), make.tiny_cell(2)]
    together = contribution(zbl, structures)
    for s, atoms in enumerate(structures):
        alone = contribution(zbl, [atoms])
        np.testing.assert_allclose(together.energy[s], alone.energy[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(together.stress[s], alone.stress[0], rtol=1e-9, atol=1e-12)
    assert together.energy[1] == 0.0
    assert np.isnan(together.stress[1]).all()
    np.testing.assert_allclose(together.local_energy.sum(), together.energy.sum())


@pytest.mark.parametrize("make_structure", [make.copper_gold, make.slab, make.tiny_cell])
def test_rotation_permutation_and_supercells(make_structure):
    zbl, atoms = kp.ZBL(pairs=METALS), make_structure(7)
    one = contribution(zbl, [atoms])
    matrix = make.rotation(3)
    turned = contribution(zbl, [make.turned(atoms, matrix)])
    np.testing.assert_allclose(turned.energy, one.energy, rtol=1e-10)
    np.testing.assert_allclose(turned.forces, one.forces @ matrix.T, atol=1e-9)
    order = np.random.default_rng(0).permutation(len(atoms))
    np.testing.assert_allclose(contribution(zbl, [atoms[order]]).forces, one.forces[order], atol=1e-9)
    twice = contribution(zbl, [atoms.repeat((1, 2, 1))])
    np.testing.assert_allclose(twice.energy, 2 * one.energy, rtol=1e-10)


def test_another_package_agrees():
    quippy = pytest.importorskip(
        "quippy.potential", reason="quippy (the package quippy-ase) is not installed: pip install quippy-ase"
    )
    other = quippy.Potential("IP ZBL cutoff=3.0", param_str="")
    squeezed = make.ethanol(4)
    squeezed.positions *= 0.6
    squeezed.set_cell([30, 30, 30])
    squeezed.pbc = True
    squeezed.calc = other
    # Both count the same pairs only where none lies in the switch, which the other one does not have.
    distances = squeezed.get_all_distances(mic=True)
    assert not ((distances > 2.95) & (distances < 3.05)).any()
    part = contribution(kp.ZBL(2.99, 3.01), [squeezed])
    assert part.energy[0] > 100
    np.testing.assert_allclose(part.energy[0], squeezed.get_potential_energy(), rtol=1e-6)
    np.testing.assert_allclose(part.forces, squeezed.get_forces(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(part.stress[0], squeezed.get_stress(), rtol=1e-6, atol=1e-8)


# ---- distances


def test_distances_come_from_covalent_radii_unless_given():
    found = kp.ZBL().distances([14, 8])
    assert list(found) == [("O", "O"), ("O", "Si"), ("Si", "Si")]
    inner, outer = found["O", "Si"]
    other_inner, other_outer = found["Si", "Si"]
    assert outer / other_outer == pytest.approx((0.66 + 1.11) / 2.22)
    assert inner == other_inner == 0.0
    mixed = kp.ZBL(pairs={("Si", "O"): (0.5, 1.1)}).distances([14, 8])
    assert mixed == {**found, ("O", "Si"): (0.5, 1.1)}
    assert set(kp.ZBL(0.7, 1.4).distances([1, 79]).values()) == {(0.7, 1.4)}
    assert kp.ZBL(0.7, 1.4, {("H", "H"): (0.2, 2.0)}).reach([1, 79]) == 2.0
    assert "Si-Si 0.70 to 1.40 Å" in kp.ZBL(0.7, 1.4).describe([14])


def test_settings_make_an_equal_baseline():
    for zbl in (kp.ZBL(), kp.ZBL(0.7, 1.4), kp.ZBL(pairs={("Si", "O"): (0.5, 1.1)})):
        assert kp.ZBL.from_settings(zbl.settings()) == zbl
    assert kp.ZBL(pairs={("Si", "O"): (0.5, 1.1)}) == kp.ZBL(pairs={("O", "Si"): [0.5, 1.1]})
    assert kp.ZBL() != kp.ZBL(0.7, 1.4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"inner": 2.0, "outer": 1.0}, r"0 <= inner < outer <= 20, got \(2.0, 1.0\)"),
        ({"inner": 1.0, "outer": 1.0}, "inner < outer"),
        ({"inner": -1.0, "outer": 1.0}, "inner < outer"),
        ({"inner": 0.0, "outer": float("inf")}, "inner < outer <= 20"),
        ({"inner": 0.0, "outer": 1e300}, "inner < outer <= 20"),
        ({"inner": float("nan"), "outer": 2.0}, "inner < outer"),
        ({"inner": "a", "outer": 2.0}, "inner < outer"),
        ({"inner": 1.0}, "belong together"),
        ({"outer": 1.0}, "belong together"),
        ({"pairs": {("Si", "Xx"): (0.5, 1.0)}}, r"two elements each.*\('Si', 'Xx'\)"),
        ({"pairs": {("Si", "X"): (0.5, 1.0)}}, "two elements each"),
        ({"pairs": {"SiO": (0.5, 1.0)}}, "two elements each"),
        ({"pairs": {("Si", "O", "O"): (0.5, 1.0)}}, "two elements each"),
        ({"pairs": {("Si", 8): (0.5, 1.0)}}, "two elements each"),
        ({"pairs": {("Si", "O"): (1.0, 0.5)}}, "O-Si.*inner < outer"),
        ({"pairs": {("Si", "O"): 1.0}}, "O-Si.*inner < outer"),
        ({"pairs": {("Si", "O"): (0.5, 1.0), ("O", "Si"): (0.5, 1.0)}}, "O-Si twice"),
        ({"pairs": [("Si", "O")]}, "`pairs` must map"),
    ],
)
def test_bad_distances_are_named(arguments, match):
    with pytest.raises(ParameterError, match=match):
        kp.ZBL(**arguments)


def test_elements_without_radius_need_distances():
    atoms = Atoms("Og2", [[0, 0, 0], [0, 0, 1.0]])
    with pytest.raises(ParameterError, match="no distances for the pair Og-Og"):
        contribution(kp.ZBL(), [atoms])
    assert contribution(kp.ZBL(pairs={("Og", "Og"): (1.0, 2.0)}), [atoms]).energy[0] > 0


def test_a_batch_must_reach_far_enough():
    with pytest.raises(ParameterError, match=r"as far as the ZBL baseline, 3 Å, found a cutoff of 2 Å"):
        contribution(kp.ZBL(1.0, 3.0), [make.copper(0)], cutoff=2.0)

"""Rows of energies, forces and stresses against finite differences of kernel sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.data.stream import species_of
from kernelpot.descriptors.radial import GTO
from kernelpot.descriptors.soap import rows as rows_by_density
from kernelpot.elements.channels import ElementChannels
from kernelpot.features import kernel_map
from kernelpot.features.inducing import choose_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.vectors import DescribedBatch, add_runs
from tests import structures as make
from tests.potentials import small_soap, symmetry_functions

KINDS = ("energy", "forces", "stress")
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
KERNELS = (kp.DotProduct(1), kp.DotProduct(2), kp.DotProduct(3), kp.Gaussian(0.4))
CASES = {
    "one species": lambda: [make.copper(1), make.tiny_cell(2)],
    "two species, slab, isolated": lambda: [make.copper_gold(1), make.slab(3), make.isolated("Au")],
    "molecule": lambda: [make.ethanol(1)],
    "four species": lambda: [make.four_metals(1)],
}


def feature_map(structures, *, zeta=2, n=6, kernel=None, descriptor=None) -> KernelMap:
    descriptor = (descriptor or small_soap()).with_species(species_of(structures))
    inducing = choose_inducing(descriptor, structures, n * len(descriptor.species), method="random", seed=0)
    return KernelMap.from_inducing(descriptor, kernel or kp.DotProduct(zeta), inducing)


def described(features, structures) -> DescribedBatch:
    return features.describe(Batch.from_structures(structures, features.descriptor.cutoff))


def kernel_sums(features, structures) -> np.ndarray:
    """Σ_i k(x_i, z) of each structure and inducing environment, term by term."""
    d = described(features, structures)
    result = np.zeros((len(structures), features.n_inducing))
    for i, x in enumerate(d.x):
        a = d.species[i]
        columns = features.slices[a]
        result[d.batch.structure[i], columns] += features.kernel.value(features.inducing[a] @ x)
    return result


def strained(atoms, voigt, delta):
    """Symmetric strain: an off-diagonal component shares δ between its two places."""
    strain = np.zeros((3, 3))
    a, b = VOIGT[voigt]
    strain[a, b] += delta / 2
    strain[b, a] += delta / 2
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    result.positions = atoms.positions @ (np.eye(3) + strain)
    return result


def moved(atoms, atom, axis, delta):
    result = atoms.copy()
    result.positions[atom, axis] += delta
    return result


def difference(features, change, h):
    """Central difference of the kernel sums along one change of a structure."""
    plus, minus = kernel_sums(features, [change(h), change(-h)])
    return (plus - minus) / (2 * h)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("descriptor", [small_soap(), symmetry_functions()], ids=["SOAP", "ACSF"])
def test_rows_are_derivatives_of_kernel_sums(case, kernel, descriptor):
    structures = CASES[case]()
    features = feature_map(structures, kernel=kernel, descriptor=descriptor)
    rows = features.rows(described(features, structures), KINDS)
    np.testing.assert_allclose(rows.energy, kernel_sums(features, structures), rtol=1e-12, atol=1e-14)
    first = 0
    for s, atoms in enumerate(structures):
        for atom in (0, len(atoms) - 1):
            for axis in range(3):
                slope = difference(features, lambda h, a=atoms, i=atom, x=axis: moved(a, i, x, h), 1e-4)
                np.testing.assert_allclose(rows.forces[3 * (first + atom) + axis], -slope, atol=2e-7)
        for v in range(6):
            row = rows.stress[6 * s + v]
            if atoms.cell.rank < 3:
                assert np.isnan(row).all()
                continue
            slope = difference(features, lambda h, a=atoms, v=v: strained(a, v, h), 1e-4)
            np.testing.assert_allclose(row, slope / atoms.get_volume(), atol=2e-8)
        first += len(atoms)


SOAPS = {
    "plain": {},
    "three radial functions": {"n_max": 3, "l_max": 1},
    "densities alone": {"l_max": 0},
    "modes": {"channels": ElementChannels.modes(2)},
    "as many modes as elements": {"channels": ElementChannels.random(4)},
    "weighted": {"channels": ElementChannels.weighted({"Cu": 0.3})},
    "scaled": {"scaling": (2.0, 4.0)},
    "gto": {"basis": GTO()},
}


@pytest.mark.parametrize("soap", SOAPS)
@pytest.mark.parametrize("coupled", [False, True], ids=["apart", "coupled centres"])
@pytest.mark.parametrize("zeta", [1, 2, 3])
@pytest.mark.parametrize("apart", [0.0, 2.0], ids=["species apart", "species together"])
def test_both_ways_to_derivatives_agree(monkeypatch, soap, coupled, zeta, apart):
    structures = [make.four_metals(1), make.tiny_cell(2), make.slab(1), make.isolated("Cu"), make.four_metals(3)]
    descriptor = replace(small_soap(), **SOAPS[soap]).with_species(species_of(structures))
    if soap == "scaled":
        descriptor = descriptor.compressed(3)
    kernel = kp.DotProduct(zeta, centres=ElementChannels.modes(4)) if coupled else kp.DotProduct(zeta)
    features = feature_map(structures, kernel=kernel, descriptor=descriptor)
    d = described(features, structures)
    monkeypatch.setattr(kp.SOAP, "products_pay", lambda *_: False)
    expected = features.rows(d, KINDS)
    monkeypatch.setattr(kp.SOAP, "products_pay", lambda *_: True)
    monkeypatch.setattr(rows_by_density, "costs", lambda soap, _: (apart, 1.0))
    monkeypatch.setattr(rows_by_density, "COLUMNS", 5)
    monkeypatch.setattr(rows_by_density, "CENTRES", 3)
    for kinds in (KINDS, ("energy", "forces"), ("stress",)):
        rows = features.rows(d, kinds)
        for kind in kinds:
            truth = getattr(expected, kind)
            scale = np.nanmax(np.abs(truth))
            np.testing.assert_allclose(getattr(rows, kind), truth, rtol=0.0, atol=1e-12 * scale)


def test_the_way_with_fewer_operations_is_taken():
    soap = kp.SOAP(n_max=8, l_max=6, channels=None)
    assert soap.with_species((29, 46, 47, 79)).products_pay(400, 50.0)
    assert not soap.with_species((29,)).products_pay(400, 50.0)


def test_only_the_kinds_asked_for_are_made():
    structures = [make.copper(0)]
    features = feature_map(structures)
    d = described(features, structures)
    everything = features.rows(d, KINDS)
    energies = features.rows(d, ["energy"])
    assert energies.forces is None
    assert energies.stress is None
    np.testing.assert_array_equal(energies.energy, everything.energy)
    assert features.rows(d, ["energy", "forces"]).stress is None
    assert features.rows(d, ["stress"]).forces is None
    np.testing.assert_allclose(features.rows(d, ["stress"]).stress, everything.stress, rtol=1e-13, atol=1e-16)


def test_forces_of_rows_sum_to_zero():
    structures = [make.copper_gold(2), make.slab(1)]
    features = feature_map(structures)
    rows = features.rows(described(features, structures), KINDS).forces.reshape(-1, 3, features.n_inducing)
    for start, stop in ((0, 4), (4, 4 + len(structures[1]))):
        np.testing.assert_allclose(rows[start:stop].sum(axis=0), 0.0, atol=1e-13)


def test_cutting_into_chunks_changes_nothing(monkeypatch):
    structures = [make.copper_gold(2), make.slab(1), make.copper_gold(3)]
    features = feature_map(structures)
    d = described(features, structures)
    whole = features.rows(d, KINDS)
    monkeypatch.setattr(kernel_map, "SCRATCH_BYTES", 1)
    parts = features.rows(described(features, structures), KINDS)
    for kind in KINDS:
        np.testing.assert_allclose(getattr(parts, kind), getattr(whole, kind), rtol=1e-11, atol=1e-14)


def test_a_batch_equals_its_structures_one_by_one():
    structures = [make.copper_gold(2), make.isolated("Cu"), make.slab(1)]
    features = feature_map(structures)
    whole = features.rows(described(features, structures), KINDS)
    for kind in KINDS:
        parts = [getattr(features.rows(described(features, [s]), KINDS), kind) for s in structures]
        np.testing.assert_allclose(getattr(whole, kind), np.concatenate(parts), rtol=1e-11, atol=1e-14)


def test_absent_species_leave_their_columns_empty():
    features = feature_map([make.copper_gold(1)])
    rows = features.rows(described(features, [make.copper(0)]), KINDS)
    of_gold = features.slices[1]
    assert features.species == (29, 79)
    np.testing.assert_array_equal(rows.forces[:, of_gold], 0.0)
    np.testing.assert_array_equal(rows.energy[:, of_gold], 0.0)


def test_runs_add_up():
    total = np.ones((4, 2))
    add_runs(total, np.array([0, 0, 2, 3, 3]), np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(total, [[3, 5], [1, 1], [5, 6], [15, 17]])
    add_runs(total, np.array([], dtype=int), np.empty((0, 2)))
    assert total[0, 0] == 3


@pytest.mark.parametrize(
    "channels", [None, kp.elements.ElementChannels.modes(2), "auto"], ids=["apart", "modes", "auto"]
)
@pytest.mark.parametrize("coupled", [False, True])
def test_derivatives_by_way_of_the_density_are_those_of_the_power_spectrum(channels, coupled, monkeypatch):
    """Many neighbours, images of one atom, a surface, a molecule's worth of atoms, more vectors than go together."""
    structures = [make.copper_gold(1), make.tiny_cell(3), make.slab(2), make.copper_gold(4).repeat((2, 1, 1))]
    soap = kp.SOAP(4.2, 4, 3, 0.5, scaling=(2.5, 3.0), channels=channels).with_species((29, 79))
    centres = kp.elements.ElementChannels.similar((29, 79)) if coupled else None
    pool = [*structures, *(make.copper_gold(k) for k in range(7, 30))]
    inducing = choose_inducing(soap, pool, 150, method="random", seed=0)
    features = KernelMap.from_inducing(soap, kp.DotProduct(3, centres=centres), inducing)
    described = features.describe(Batch.from_structures(structures, soap.cutoff, skin=0.4))
    found = {}
    for pays in (True, False):
        monkeypatch.setattr(kp.SOAP, "products_pay", lambda *_, pays=pays: pays)
        found[pays] = features.rows(described, KINDS)
    for kind in KINDS:
        one, two = getattr(found[True], kind), getattr(found[False], kind)
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12 * np.nanmax(np.abs(two)))
    monkeypatch.setattr(kp.SOAP, "products_pay", lambda *_: True)
    np.testing.assert_allclose(features.rows(described, ("forces",)).forces, found[True].forces, atol=1e-13)

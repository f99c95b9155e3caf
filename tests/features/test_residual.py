"""Prior variances of energies, forces and stresses against double kernel sums."""

from __future__ import annotations

import numpy as np
import pytest

from kernelpot.features import prior as priors_of
from tests import structures as make
from tests.features.test_rows import KERNELS, described, feature_map, moved, strained
from tests.potentials import small_soap, symmetry_functions

H = 1e-3


def covariance(features, left, right) -> float:
    """Σ_ij k(x_i, x'_j) of two structures' total energies, over pairs of one species."""
    a, b = described(features, [left]), described(features, [right])
    same = a.species[:, None] == b.species[None, :]
    return float(np.sum(np.where(same, features.kernel.value(a.x @ b.x.T), 0.0)))


def slope_variance(features, change) -> float:
    """Prior variance of (E(h) - E(-h)) / 2h: the finite-difference form of the mixed second derivative."""
    plus, minus = change(H), change(-H)
    total = covariance(features, plus, plus) + covariance(features, minus, minus)
    return (total - 2 * covariance(features, plus, minus)) / (2 * H) ** 2


STRUCTURES = {
    "copper": lambda: make.copper(1),
    "tiny cell": lambda: make.tiny_cell(1),
    "alloy": lambda: make.copper_gold(1),
    "slab": lambda: make.slab(1),
    "molecule": lambda: make.ethanol(1),
    "four species": lambda: make.four_metals(2),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("descriptor", [small_soap(), symmetry_functions()], ids=["SOAP", "ACSF"])
def test_priors_are_double_kernel_sums(name, kernel, descriptor):
    atoms = STRUCTURES[name]()
    features = feature_map([atoms], kernel=kernel, descriptor=descriptor, n=1)
    d = described(features, [atoms])
    energy = priors_of.prior(features.kernel, d, "energy")
    assert energy[0] == pytest.approx(covariance(features, atoms, atoms), rel=1e-12)
    forces = priors_of.forces_prior(features.kernel, d)
    for atom in (0, len(atoms) - 1):
        for axis in range(3):
            expected = slope_variance(features, lambda h, i=atom, x=axis: moved(atoms, i, x, h))
            assert forces[atom, axis] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    stress = priors_of.stress_prior(features.kernel, d)[0]
    for v in range(6):
        if atoms.cell.rank < 3:
            assert np.isnan(stress[v])
            continue
        expected = slope_variance(features, lambda h, v=v: strained(atoms, v, h)) / atoms.get_volume() ** 2
        assert stress[v] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_many_structures_equal_one_by_one(monkeypatch):
    structures = [make.copper_gold(1), make.slab(2), make.isolated("Au")]
    features = feature_map(structures)
    together = described(features, structures)
    apart = [described(features, [s]) for s in structures]
    for kind in ("energy", "forces", "stress"):
        expected = np.concatenate([priors_of.prior(features.kernel, d, kind) for d in apart])
        np.testing.assert_allclose(priors_of.prior(features.kernel, together, kind), expected, rtol=1e-11, atol=1e-13)
    whole = priors_of.forces_prior(features.kernel, together)
    monkeypatch.setattr(priors_of, "GROUP_BYTES", 1)
    monkeypatch.setattr(priors_of, "CENTRES", 2)
    np.testing.assert_allclose(priors_of.forces_prior(features.kernel, together), whole, rtol=1e-11, atol=1e-13)


def test_wide_path_of_the_energy_equals_the_direct_sum():
    # More atoms than features takes |XᵀX|² in place of Σ (x_i·x_j)².
    atoms = make.copper(1).repeat((3, 3, 2))
    features = feature_map([make.copper(1)])
    d = described(features, [atoms])
    assert d.x.shape[0] > d.x.shape[1]
    assert priors_of.prior(features.kernel, d, "energy")[0] == pytest.approx(
        covariance(features, atoms, atoms), rel=1e-12
    )


def test_equal_atoms_give_the_square_of_their_number():
    features = feature_map([make.tiny_cell(0)])
    priors = [
        priors_of.prior(features.kernel, described(features, [make.tiny_cell(0).repeat(n)]), "energy")[0]
        for n in (1, 2, 3)
    ]
    np.testing.assert_allclose(priors, [1, 8**2, 27**2], rtol=1e-10)

"""First derivatives of vectors: transposed product, rows of displacements, finite differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.radial import GTO, PowerGaussian
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ElementChannels
from tests import structures as make

CUTOFF, SKIN = 4.0, 0.4
SYSTEMS = {
    "one species": make.silicon,
    "two species": make.copper_gold,
    "four species": make.four_metals,
    "molecule": make.ethanol,
    "slab": make.slab,
    "cell below the cutoff": make.tiny_cell,
}
COMPRESSED = {l_max: SOAP(CUTOFF, 6, l_max, 0.5, fade=0.8).compressed(4).basis for l_max in (0, 3)}
BASES = {
    "power": PowerGaussian(),
    "gto": GTO(),
    "scaled": PowerGaussian(),
    "mixed": PowerGaussian(),
    "compressed": COMPRESSED,
    "symmetry functions": "symmetry functions",
    "mixed symmetry functions": "mixed symmetry functions",
}
STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # Å, or a strain
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@cache
def described(system, basis, l_max=3):
    """Environments of a system with a random gradient of some energy with respect to the vectors."""
    atoms = SYSTEMS[system](3)
    species = tuple(sorted(set(atoms.numbers.tolist())))
    if "symmetry" in basis:
        found = symmetry_functions(atoms, species, mixed="mixed" in basis, angular=l_max > 0).environments(
            Batch.from_structures([atoms], CUTOFF, skin=SKIN)
        )
        return found, np.random.default_rng(0).normal(size=found.vectors.shape)
    scaling = (1.5, 3.0) if basis == "scaled" else None
    channels = ElementChannels.random(min(len(species), 3), seed=1) if basis == "mixed" else None
    functions = COMPRESSED[l_max] if basis == "compressed" else BASES[basis]
    soap = SOAP(CUTOFF, 4, l_max, 0.5, functions, 0.8, species, scaling, channels)
    found = soap.environments(Batch.from_structures([atoms], CUTOFF, skin=SKIN))
    return found, np.random.default_rng(0).normal(size=found.vectors.shape)


def symmetry_functions(atoms, species, *, mixed, angular):
    """Every kind, whole and broken powers; scaled where there is a standard to take."""
    g4 = [[0.02, 1, 1], [0.3, 4, -1], [0.3, 3.5, 1]] if angular else None
    g5 = [[0.1, 2, -1], [0.0, 7, 0.5]] if angular else None
    channels = ElementChannels.random(min(len(species), 3), seed=1) if mixed else None
    plain = ACSF(CUTOFF, [[0.5, 0.0], [3.0, 1.5]], g4, g5, [1.3], species, channels)
    return plain.scaled([atoms]) if mixed else plain


def of(found):
    """The descriptor behind environments."""
    return getattr(found, "soap", None) or found.acsf


def position_gradient(batch, pairs):
    result = np.zeros((batch.n_atoms, 3))
    np.add.at(result, batch.second, pairs)
    np.add.at(result, batch.first, -pairs)
    return result


def strain_gradient(batch, pairs):
    full = np.einsum("pa,pb->ab", batch.vectors, pairs)
    return np.array([0.5 * (full[a, b] + full[b, a]) for a, b in VOIGT])


def check_differences(differences, exact):
    """The error falls as the square of the step, so that two steps together cancel it down to round-off."""
    scale, h = np.abs(exact).max(), np.array(STEPS)
    found = np.array(differences)
    errors = np.abs(found - exact).max(axis=1) / scale
    assert (errors[1:3] < 0.12 * errors[:2]).all() or errors[0] < 1e-9, errors
    square = (h**2)[:, None]
    extrapolated = (square[:-1] * found[1:] - square[1:] * found[:-1]) / (square[:-1] - square[1:])
    best = (np.abs(extrapolated - exact).max(axis=1) / scale).min()
    assert best < 1e-9, (errors, best)


on_systems = pytest.mark.parametrize("system", SYSTEMS)


@on_systems
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("l_max", [0, 3])
def test_rows_contract_to_the_transposed_product(system, basis, l_max):
    found, gradient = described(system, basis, l_max)
    batch = found.batch
    pairs = found.vjp(gradient)
    forces, virial = np.zeros((batch.n_atoms, 3)), np.zeros(6)
    for start in range(0, batch.n_atoms, 3):
        stop = min(start + 3, batch.n_atoms)
        moved = found.displacements(start, stop)
        np.add.at(forces, moved.target, np.einsum("rxf,rf->rx", moved.rows, gradient[start:stop][moved.centre]))
        virial += np.einsum("ivf,if->v", moved.virial, gradient[start:stop])
    expected = position_gradient(batch, pairs)
    np.testing.assert_allclose(forces, expected, atol=1e-11 * np.abs(pairs).max())
    np.testing.assert_allclose(virial, strain_gradient(batch, pairs), atol=1e-10 * np.abs(pairs).max())


@on_systems
@pytest.mark.parametrize("basis", ["power", "symmetry functions"])
def test_rows_of_a_centre_sum_to_zero(system, basis):
    found, _ = described(system, basis)
    moved = found.displacements(0, found.batch.n_atoms)
    total = np.zeros((found.batch.n_atoms, *moved.rows.shape[1:]))
    np.add.at(total, moved.centre, moved.rows)
    assert np.abs(total).max() < 1e-12 * np.abs(found.vectors).max()


@on_systems
@pytest.mark.parametrize("basis", ["power", "symmetry functions"])
def test_each_moving_atom_has_one_row_per_centre(system, basis):
    found, _ = described(system, basis)
    moved = found.displacements(0, found.batch.n_atoms)
    keys = moved.centre * found.batch.n_atoms + moved.target
    assert len(np.unique(keys)) == len(keys)
    assert (np.diff(moved.centre) >= 0).all()


@on_systems
@pytest.mark.parametrize("basis", BASES)
def test_transposed_product_is_the_gradient_by_positions(system, basis):
    found, gradient = described(system, basis)
    batch = found.batch
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3, batch.n_atoms, 3))
    directions /= np.linalg.norm(directions, axis=(1, 2), keepdims=True)
    directions[0] = np.eye(batch.n_atoms)[0][:, None] * directions[0]
    exact = np.einsum("dax,ax->d", directions, position_gradient(batch, found.vjp(gradient)))
    if batch.n_atoms == 1:
        np.testing.assert_allclose(exact, 0.0, atol=1e-10)
        return

    def energy(positions):
        return np.sum(gradient * of(found).environments(batch.moved(positions)).vectors)

    def difference(h, d):
        return (energy(batch.positions + h * d) - energy(batch.positions - h * d)) / (2 * h)

    check_differences([[difference(h, d) for d in directions] for h in STEPS], exact)


@on_systems
@pytest.mark.parametrize("basis", ["power", "mixed", "symmetry functions", "mixed symmetry functions"])
def test_virial_is_the_gradient_by_strain(system, basis):
    """Off-diagonal strain is symmetric: ε_yz = ε_zy = δ/2."""
    found, gradient = described(system, basis)
    exact = np.einsum("ivf,if->v", found.displacements(0, found.batch.n_atoms).virial, gradient)
    atoms = SYSTEMS[system](3)

    def energy(a, b, delta):
        strained = atoms.copy()
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5 * delta
        strain[b, a] += 0.5 * delta
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
        strained.positions = atoms.positions @ (np.eye(3) + strain)
        return np.sum(gradient * of(found).environments(Batch.from_structures([strained], CUTOFF)).vectors)

    check_differences([[(energy(a, b, h) - energy(a, b, -h)) / (2 * h) for a, b in VOIGT] for h in STEPS], exact)

"""The ASE calculator: its bookkeeping on a counting stand-in, its physics on a fitted model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.demo import label, structures
from kernelpot.demo.pool import heat
from kernelpot.errors import ParameterError, SpeciesError

CUTOFF = 4.0


class PairModel:
    """Energy (r² - cutoff²)² / 1000 for each pair within the cutoff, which counts its calls."""

    cutoff_ = CUTOFF

    def __init__(self):
        self.means, self.predictions, self.pairs = 0, 0, []

    def mean(self, batch, *, gradients=True):
        self.means += 1
        self.pairs.append(batch.first)
        r = batch.vectors
        gap = np.maximum(CUTOFF**2 - (r**2).sum(axis=1), 0.0)
        local = np.zeros(batch.n_atoms)
        np.add.at(local, batch.first, gap**2 / 2000)
        pull = (-4 * gap / 2000)[:, None] * r
        forces = np.zeros((batch.n_atoms, 3))
        np.add.at(forces, batch.first, pull)
        np.subtract.at(forces, batch.second, pull)
        return SimpleNamespace(
            energy=np.array([local.sum()]), local_energy=local, forces=forces, stress=np.full((1, 6), 0.25)
        )

    def predict(self, structures, *, uncertainty=True):
        self.predictions += 1
        n = len(structures[0])
        return SimpleNamespace(
            energy_std=np.array([0.5]),
            local_energy_std=[np.full(n, 0.1)],
            forces_std=[np.full((n, 3), 0.2)],
            stress_std=np.full((1, 6), 0.3),
        )


@pytest.fixture
def pair():
    return PairModel()


@pytest.fixture
def atoms(pair):
    crystal = bulk("Cu", "fcc", a=3.6, cubic=True)
    crystal.rattle(0.05, seed=1)
    crystal.calc = kp.Calculator(pair, skin=0.5)
    return crystal


@pytest.fixture(scope="module")
def fitted():
    soap = kp.SOAP(cutoff=4.0, n_max=4, l_max=3, sigma=0.6)
    noise = kp.Noise(energy=0.002, forces=0.05, stress=0.005)
    return kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=60, noise=noise).fit(label(structures(30, seed=5)))


def test_one_calculation_serves_every_mean_property(pair, atoms):
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energy(force_consistent=True) == energy
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    assert atoms.get_forces().shape == (4, 3)
    assert atoms.get_stress().shape == (6,)
    assert (pair.means, pair.predictions) == (1, 0)


def test_forces_never_pay_for_uncertainty(pair, atoms):
    atoms.get_forces()
    assert pair.predictions == 0
    assert atoms.calc.get_property("forces_std", atoms).shape == (4, 3)
    assert atoms.calc.get_property("energy_std", atoms) == 0.5
    assert atoms.calc.get_property("energies_std", atoms).shape == (4,)
    assert atoms.calc.get_property("stress_std", atoms).shape == (6,)
    assert (pair.means, pair.predictions) == (1, 1)
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert (pair.means, pair.predictions) == (2, 1)


def test_charges_and_moments_keep_the_results(pair, atoms):
    atoms.get_forces()
    atoms.set_initial_charges([1.0, 0.0, 0.0, -1.0])
    atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0, 0.0])
    atoms.get_forces()
    assert pair.means == 1


def test_pairs_are_reused_within_half_the_skin(pair, atoms):
    atoms.get_forces()
    atoms.positions[0] += [0.24, 0.0, 0.0]
    atoms.get_forces()
    assert pair.pairs[1] is pair.pairs[0]
    atoms.positions[0] += [0.02, 0.0, 0.0]
    atoms.get_forces()
    assert pair.pairs[2] is not pair.pairs[0]


@pytest.mark.parametrize("change", ["cell", "species", "pbc", "number", "wrapped"])
def test_what_changes_the_pairs_rebuilds_them(pair, atoms, change):
    atoms.get_forces()
    if change == "cell":
        atoms.set_cell(atoms.cell * 1.01)
    elif change == "species":
        atoms.symbols[0] = "Au"
    elif change == "pbc":
        atoms.pbc = (True, True, False)
    elif change == "number":
        del atoms[0]
    else:
        atoms.positions[1] += atoms.cell[0]
    atoms.get_forces()
    assert pair.pairs[1] is not pair.pairs[0]


def test_reused_pairs_give_the_same_numbers_as_fresh_ones(fitted):
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat(2)
    atoms.symbols[::3] = "Au"
    atoms.calc = kp.Calculator(fitted, skin=0.6)
    rng = np.random.default_rng(0)
    for _ in range(4):
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        fresh = atoms.copy()
        fresh.calc = kp.Calculator(fitted, skin=0.0)
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-10)
        np.testing.assert_allclose(atoms.get_stress(), fresh.get_stress(), atol=1e-12)


def test_agrees_with_predict(fitted):
    atoms = structures(12, seed=6)[8]
    prediction = fitted.predict([atoms])
    atoms.calc = kp.Calculator(fitted)
    assert atoms.get_potential_energy() == pytest.approx(prediction.energy[0], abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), prediction.forces[0], atol=1e-9)
    np.testing.assert_allclose(atoms.get_stress(), prediction.stress[0], atol=1e-11)
    np.testing.assert_allclose(atoms.get_potential_energies(), prediction.local_energy[0], atol=1e-9)
    np.testing.assert_allclose(atoms.calc.get_property("forces_std", atoms), prediction.forces_std[0])
    assert atoms.calc.get_property("energy_std", atoms) == pytest.approx(prediction.energy_std[0])


def test_without_a_cell_stress_is_not_implemented(fitted):
    cluster = Atoms("Cu2Au", positions=[[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0]])
    cluster.calc = kp.Calculator(fitted)
    assert np.isfinite(cluster.get_potential_energy())
    for name in ("stress", "stress_std"):
        with pytest.raises(PropertyNotImplementedError, match="stress needs a cell"):
            cluster.calc.get_property(name, cluster)
    assert cluster.calc.get_property("forces_std", cluster).shape == (3, 3)


def test_unseen_species_is_named(fitted):
    water = molecule("H2O")
    water.calc = kp.Calculator(fitted)
    with pytest.raises(SpeciesError, match="H"):
        water.get_forces()


def test_an_error_leaves_no_stale_results(fitted, atoms):
    calc = kp.Calculator(fitted)
    calc.calculate(atoms)
    with pytest.raises(SpeciesError):
        calc.calculate(molecule("H2O"))
    assert calc.results == {}


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_skin_is_checked(pair, skin):
    with pytest.raises(ParameterError, match="`skin` must be zero or positive"):
        kp.Calculator(pair, skin=skin)


def test_unknown_property_is_refused_by_ase(atoms):
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("dipole", atoms)


def test_results_are_written_by_ase_with_and_without_stds(fitted, tmp_path):
    atoms = bulk("Cu", "fcc", a=3.65, cubic=True)
    atoms.calc = kp.Calculator(fitted)
    atoms.get_forces()
    atoms.calc.get_property("forces_std", atoms)
    assert "forces_std" not in atoms.calc.export_properties()
    write(tmp_path / "out.xyz", atoms)
    assert read(tmp_path / "out.xyz").get_potential_energy() == pytest.approx(atoms.get_potential_energy())


def test_batch_moved_keeps_every_pair_within_the_cutoff():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    batch = Batch.from_structures([atoms], CUTOFF, skin=0.5)
    moved = atoms.positions + np.random.default_rng(0).uniform(-0.14, 0.14, size=(4, 3))
    fresh = Batch.from_structures([Atoms(atoms.numbers, positions=moved, cell=atoms.cell, pbc=True)], CUTOFF)
    reused = np.linalg.norm(batch.moved(moved).vectors, axis=1)
    np.testing.assert_allclose(
        np.sort(reused[reused <= CUTOFF]), np.sort(np.linalg.norm(fresh.vectors, axis=1)), atol=1e-12
    )


def test_constant_energy_in_molecular_dynamics(fitted):
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.symbols[0] = "Au"
    atoms = atoms.repeat((2, 2, 1))
    heat(atoms, 600, np.random.default_rng(1))
    atoms.calc = kp.Calculator(fitted)
    md = VelocityVerlet(atoms, timestep=2 * units.fs)
    totals = []
    for _ in range(20):
        totals.append(atoms.get_total_energy() / len(atoms))
        md.run(5)
    assert np.ptp(totals) < 2e-3
    assert np.ptp(totals) < 0.1 * atoms.get_kinetic_energy() / len(atoms)


def test_relaxation_lowers_the_energy(fitted):
    atoms = bulk("Cu", "fcc", a=3.65, cubic=True)
    atoms.rattle(0.05, seed=3)
    atoms.calc = kp.Calculator(fitted)
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.02, steps=60)
    assert atoms.get_potential_energy() < before

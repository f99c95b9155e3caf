"""Alchemical interpolation against the pure elements and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.alchemy import Alchemy
from kernelpot.elements import ElementalModes, ElementChannels
from kernelpot.errors import NotFittedError, ParameterError, SpeciesError
from kernelpot.potentials.sparse_gp import LinearModel
from tests.structures import four_metals, labelled

SIZE = {"cutoff": 4.0, "n_max": 2, "l_max": 2, "sigma": 0.5}
SOAP = kp.SOAP(**SIZE)
MODES = ElementalModes(2, "pca")


def mixed(channels):
    return kp.SOAP(**SIZE, channels=channels)


MODELS = {
    "identity": lambda: kp.SparseGP(SOAP, n_inducing=40, noise=kp.Noise(energy=0.01, forces=0.1)),
    "zeta 4": lambda: kp.SparseGP(SOAP, kp.DotProduct(4), n_inducing=40, noise=kp.Noise(energy=0.01, forces=0.1)),
    "modes": lambda: kp.SparseGP(mixed(MODES), n_inducing=40, noise=kp.Noise(energy=0.01, forces=0.1)),
    "weighted": lambda: LinearModel(
        mixed(ElementChannels.weighted({"Ag": 0.4})), noise=kp.Noise(energy=0.01, forces=0.1)
    ),
    "linear, unit": lambda: LinearModel(SOAP, normalise=True, noise=kp.Noise(energy=0.01, forces=0.1)),
    "symmetry functions": lambda: kp.SparseGP(
        kp.ACSF.spaced(4.0, n_radial=4, n_angular=1, channels=MODES).scaled([four_metals(seed) for seed in range(8)]),
        n_inducing=40,
        noise=kp.Noise(energy=0.01, forces=0.1),
    ),
    "sum": lambda: kp.SparseGP(
        [kp.TwoBody(cutoff=5.0), mixed(ElementChannels.modes(2)), kp.SOAP(cutoff=3.5, n_max=2, l_max=0)],
        n_inducing=40,
        noise=kp.Noise(energy=0.01, forces=0.1),
        baseline=kp.ZBL(),
    ),
}
CHANGE = {0: ("Ag", "Pd"), 2: ("Pd", "Au"), 3: ("Ag", "Pd")}


@pytest.fixture(scope="module")
def train():
    return labelled([four_metals(seed) for seed in range(8)])


@pytest.fixture(scope="module", params=MODELS)
def model(request, train):
    return MODELS[request.param]().fit(train)


@pytest.fixture(scope="module")
def fitted(train):
    return MODELS["modes"]().fit(train)


@pytest.fixture
def atoms():
    atoms = four_metals(20)
    atoms.symbols = ["Ag", "Cu", "Pd", "Ag"]
    return atoms


def ends(atoms):
    last = atoms.copy()
    for place, (_, after) in CHANGE.items():
        last.symbols[place] = after
    return atoms, last


def test_the_ends_are_the_pure_elements(model, atoms):
    alchemy = Alchemy(model, atoms, CHANGE)
    pure = model.predict(list(ends(atoms)), uncertainty=False)
    for k, lam in enumerate((0, 1)):
        point = alchemy.evaluate(lam)
        assert point.energy == pytest.approx(pure.energy[k], abs=1e-10)
        np.testing.assert_allclose(point.forces, pure.forces[k], atol=1e-10)
        np.testing.assert_allclose(point.stress, pure.stress[k], atol=1e-10)
        assert point.dE_dlambda is None


def slopes(function, steps=(1e-2, 1e-3, 1e-4)):
    """Central differences over several steps, Richardson's where round-off does not dominate."""
    return [(function(step) - function(-step)) / (2 * step) for step in steps]


def test_the_derivative_along_lambda_is_that_of_the_energy(model, atoms):
    alchemy = Alchemy(model, atoms, CHANGE)
    for lam in (0.2, 0.5, 0.9):
        exact = alchemy.dE_dlambda(lam)
        errors = np.abs([s - exact for s in slopes(lambda h, lam=lam: alchemy.energy(lam + h))])
        assert errors.min() < 1e-7 * max(1.0, abs(exact))
        # Of second order in the step, until round-off.
        assert errors[1] < 0.05 * errors[0] + 1e-9


def test_forces_are_the_gradient_between_the_ends(model, atoms):
    alchemy = Alchemy(model, atoms, CHANGE)
    forces = alchemy.forces(0.3)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)
    for place, axis in ((0, 0), (1, 1), (3, 2)):

        def energy(h: float, place: int = place, axis: int = axis) -> float:
            moved = atoms.copy()
            moved.positions[place, axis] += h
            return alchemy.evaluate(0.3, moved).energy

        errors = np.abs(np.array(slopes(energy)) + forces[place, axis])
        assert errors.min() < 2e-6


def test_the_derivative_integrates_to_the_difference_of_the_ends(model, atoms):
    alchemy = Alchemy(model, atoms, CHANGE)
    lams, weights = Alchemy.nodes(12)
    total = sum(w * alchemy.dE_dlambda(lam) for lam, w in zip(lams, weights, strict=True))
    assert total == pytest.approx(alchemy.energy(1) - alchemy.energy(0), abs=1e-5)


def test_vectors_are_polynomials_of_degree_two(fitted, atoms):
    alchemy = Alchemy(fitted, atoms, CHANGE)
    batch = kp_batch(alchemy, atoms)
    descriptor = alchemy._state.features.descriptor
    values = [alchemy._descriptor(descriptor, lam).values(batch) for lam in (0.0, 0.25, 0.5, 0.75)]
    third = values[3] - 3 * values[2] + 3 * values[1] - values[0]
    np.testing.assert_allclose(third, 0.0, atol=1e-10 * np.abs(values[0]).max())


def kp_batch(alchemy, atoms):
    from dataclasses import replace

    from kernelpot.data.batch import Batch

    return replace(Batch.from_structures([atoms], 4.0), numbers=alchemy._stand_in_numbers)


def test_atoms_that_end_alike_are_one_structure(fitted, atoms):
    """Backwards from the other end."""
    first, last = ends(atoms)
    there = Alchemy(fitted, first, CHANGE)
    back = Alchemy(fitted, last, {place: pair[::-1] for place, pair in CHANGE.items()})
    assert there.energy(0.3) == pytest.approx(back.energy(0.7), abs=1e-10)
    assert there.dE_dlambda(0.3) == pytest.approx(-back.dE_dlambda(0.7), abs=1e-9)


def test_dynamics_at_one_lambda_keep_the_energy(fitted, atoms):
    alchemy = Alchemy(fitted, atoms, {0: ("Ag", "Pd")})
    moving = atoms.copy()
    moving.calc = alchemy.calculator(0.4)
    moving.set_momenta(np.random.default_rng(0).normal(scale=1.0, size=(4, 3)))
    start = moving.get_total_energy()
    VelocityVerlet(moving, 1.0 * units.fs).run(10)
    assert moving.get_total_energy() == pytest.approx(start, abs=2e-3)
    assert moving.calc.dE_dlambda(moving) != alchemy.dE_dlambda(0.4)
    assert np.isfinite(moving.get_stress()).all()


@pytest.mark.parametrize("lam", [-0.1, 1.1, np.nan, True, "0.5", None])
def test_lambda_lies_between_the_ends(fitted, atoms, lam):
    alchemy = Alchemy(fitted, atoms, CHANGE)
    with pytest.raises(ParameterError, match="λ must be a number from 0 to 1, got"):
        alchemy.energy(lam)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ParameterError, "`change` must map numbers of atoms"),
        ([("Ag", "Pd")], ParameterError, "`change` must map numbers of atoms"),
        ({4: ("Ag", "Pd")}, ParameterError, "counted from 0 to 3 in this structure, got 4"),
        ({-1: ("Ag", "Pd")}, ParameterError, "got -1"),
        ({True: ("Cu", "Pd")}, ParameterError, "got True"),
        ({0: "Ag"}, ParameterError, "atom 0 needs two symbols"),
        ({0: 5}, ParameterError, "atom 0 needs two symbols"),
        ({0: ("Ag",)}, ParameterError, "atom 0 needs two symbols"),
        ({0: ("Ag", "Ag")}, ParameterError, "must become another element"),
        ({0: ("Cu", "Ag")}, ParameterError, "atom 0 is Ag, and .* begins with Cu"),
        ({0: ("Ag", "Xy")}, ParameterError, "'Xy' is no chemical symbol"),
        ({0: ("Ag", "Pt")}, SpeciesError, "Pt"),
    ],
)
def test_changes_that_cannot_be_are_refused(fitted, atoms, change, error, message):
    with pytest.raises(error, match=message):
        Alchemy(fitted, atoms, change)


def test_symmetry_functions_need_channels(train, atoms):
    plain = LinearModel(kp.ACSF.spaced(4.0, n_radial=2, n_angular=1), noise=kp.Noise(energy=0.01)).fit(train)
    with pytest.raises(ParameterError, match="need descriptors with element channels"):
        Alchemy(plain, atoms, CHANGE)


def test_what_cannot_be_is_refused(fitted, atoms):
    with pytest.raises(NotFittedError):
        Alchemy(MODELS["modes"](), atoms, CHANGE)
    with pytest.raises(ParameterError, match="`model` must be a fitted SparseGP or LinearModel, got EMT"):
        Alchemy(EMT(), atoms, CHANGE)
    with pytest.raises(ParameterError, match=r"`atoms` must be one ase.Atoms, got list"):
        Alchemy(fitted, [atoms], CHANGE)
    with pytest.raises(ParameterError, match="the atoms of λ = 0 at other positions"):
        Alchemy(fitted, atoms, CHANGE).evaluate(0.5, ends(atoms)[1])
    with pytest.raises(ParameterError, match="`n` must be a whole number, at least 1, got 0"):
        Alchemy.nodes(0)

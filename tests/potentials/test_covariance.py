"""Covariances of energies, of one atom's force and of a stress against dense algebra and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, NotFittedError, ParameterError, SpeciesError
from kernelpot.features import prior as priors
from kernelpot.features.feature_map import E0_PRIOR, dense_local_values
from kernelpot.features.prior import prior
from tests import potentials
from tests import structures as make
from tests.features.test_rows import described, feature_map
from tests.features.test_sum_map import sum_model
from tests.potentials.test_dense import composition, exact_covariance

MIXED = [
    make.copper_gold(70),
    make.slab(71),
    make.copper(72),
    make.isolated("Au"),
    make.copper_gold(73).repeat((2, 1, 1)),
]


@pytest.fixture(scope="module")
def alloy():
    return potentials.copper_gold()


@pytest.fixture(scope="module")
def summed():
    return sum_model().fit(make.labelled([make.copper_gold(k) for k in range(6)]))


def full_covariance(model, structures):
    """Posterior of the sparse model plus 1ᵀ(K - Q)1, from local features and kernels, atom by atom."""
    state, features = model.fitted_, model.fitted_.features
    d = features.describe(Batch.from_structures(structures, features.cutoff))
    phi = features.whiten(dense_local_values(features, d))
    e0 = E0_PRIOR * (d.species[:, None] == np.arange(len(features.species)))
    rows = np.concatenate([state.amplitude * phi, e0], axis=1)
    inverse = np.linalg.inv(state.posterior.factor.T @ state.posterior.factor)
    residual = np.zeros((len(phi), len(phi)))
    start = 0
    for term, scale, part in terms_of(features, d):
        own = phi[:, start : start + term.n_weights] / scale
        start += term.n_weights
        if hasattr(term, "inducing"):
            same = part.species[:, None] == part.species
            k = np.where(same, (part.x @ part.x.T) ** term.kernel.zeta, 0.0)
            residual += scale**2 * (k - own @ own.T)
    local = rows @ inverse @ rows.T + state.amplitude**2 * residual
    cuts = d.batch.offsets[:-1]
    return np.add.reduceat(np.add.reduceat(local, cuts, axis=0), cuts, axis=1)


def terms_of(features, d):
    if hasattr(features, "terms"):
        return list(zip(features.terms, features.scales, d.parts, strict=True))
    return [(features, 1.0, d)]


@pytest.mark.parametrize("name", ["alloy", "summed"])
def test_energies_covary_as_sums_over_pairs_of_atoms(name, request, monkeypatch):
    model = request.getfixturevalue(name)
    expected = full_covariance(model, MIXED)
    found = model.energy_covariance(MIXED, spread="latent")
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-6)
    monkeypatch.setattr("kernelpot.potentials.joint.chunks", lambda s: [(k, k + 1) for k in range(len(s))])
    np.testing.assert_allclose(model.energy_covariance(MIXED, spread="latent"), found, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_all_environments_inducing_equals_the_dense_gaussian_process(zeta):
    train = make.copper_gold_set(6, kinds=["energy"])
    test = [make.copper_gold(80), make.copper(81), make.slab(82), train[0]]
    model = kp.SparseGP(
        potentials.small_soap(), kp.DotProduct(zeta, 1.5), n_inducing=24, noise=kp.Noise(0.01, None), tolerance=1e-13
    ).fit(train)
    k = exact_covariance(model, train, train) + 0.01**2 * np.eye(len(train))
    cross = exact_covariance(model, test, train)
    expected = exact_covariance(model, test, test) - cross @ np.linalg.solve(k, cross.T)
    sizes = np.array([len(atoms) for atoms in test])
    found = model.energy_covariance(test, spread="latent") / np.outer(sizes, sizes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    # A difference of two test energies, in the same algebra.
    c = np.array([1.0, -1.0, 0.5, 0.0]) / sizes
    difference = model.energy_difference(test, c, spread="latent")
    w = c * sizes
    assert difference.std == pytest.approx(np.sqrt(w @ expected @ w), rel=1e-5)
    assert difference.independent_std == pytest.approx(np.sqrt(w**2 @ np.diag(expected)), rel=1e-5)
    energies = model.predict(test, uncertainty=False).energy
    assert difference.value == pytest.approx(c @ energies, abs=1e-8)
    assert "independent" in str(difference)


@pytest.mark.parametrize("name", ["alloy", "summed"])
def test_diagonals_are_the_variances_of_predict(name, request):
    model = request.getfixturevalue(name)
    p = model.predict(MIXED)
    for spread, energy, forces, stress in (
        ("latent", p.latent.energy_std, p.latent.forces_std, p.latent.stress_std),
        ("label", p.energy_std, p.forces_std, p.stress_std),
    ):
        found = np.diag(model.energy_covariance(MIXED, spread=spread))
        np.testing.assert_allclose(found, energy**2, rtol=1e-6)
        for s, atom in ((0, 0), (1, 2), (1, -1), (4, 3)):
            block = model.force_covariance(MIXED[s], atom, spread=spread)
            np.testing.assert_allclose(np.diag(block), forces[s][atom] ** 2, rtol=1e-6, atol=1e-12)
        for s in (0, 4):
            block = model.stress_covariance(MIXED[s], spread=spread)
            np.testing.assert_allclose(np.diag(block), stress[s] ** 2, rtol=1e-6, atol=1e-14)
    assert model.calibration_["energy"] != 1.0
    calibrated = model.energy_covariance(MIXED)
    latent = model.energy_covariance(MIXED, spread="latent")
    np.testing.assert_allclose(calibrated, model.calibration_["energy"] ** 2 * latent)


def moves(atoms, h, directions):
    """Structures with displacements ±h along several (atom, axis) or strains."""
    result = []
    for direction in directions:
        for sign in (1, -1):
            other = atoms.copy()
            if direction[0] == "strain":
                strain = np.zeros((3, 3))
                a, b = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[direction[1]]
                strain[a, b] += sign * h / 2
                strain[b, a] += sign * h / 2
                other.set_cell(other.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            else:
                other.positions[direction] += sign * h
            result.append(other)
    return result


@pytest.mark.parametrize("name", ["alloy", "summed"])
def test_force_and_stress_covariances_are_second_differences_of_the_energy_covariance(name, request):
    # Cov(F_a, F_b) = ∂²Cov(E, E')/∂r_a ∂r'_b: another route to posterior and residual together.
    model, atoms = request.getfixturevalue(name), make.slab(71)
    h = 2e-3
    c = np.kron(np.eye(3), [1.0, -1.0]) / (2 * h)
    for atom in (0, 5):
        structures = moves(atoms, h, [(atom, axis) for axis in range(3)])
        expected = c @ model.energy_covariance(structures, spread="latent") @ c.T
        found = model.force_covariance(atoms, atom, spread="latent")
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.trace(found))
    solid = make.copper_gold(4)
    structures = moves(solid, h, [("strain", v) for v in range(6)])
    c = np.kron(np.eye(6), [1.0, -1.0]) / (2 * h) / solid.get_volume()
    expected = c @ model.energy_covariance(structures, spread="latent") @ c.T
    found = model.stress_covariance(solid, spread="latent")
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.trace(found))


@pytest.mark.parametrize(
    "make_atoms", [lambda: make.copper_gold(1).repeat(3), lambda: make.slab(2), lambda: make.ethanol(1)]
)
def test_the_surroundings_of_an_atom_give_its_force_row(make_atoms):
    atoms = make_atoms()
    model = potentials.molecules() if not atoms.pbc.any() else potentials.copper_gold()
    features = model.fitted_.features
    whole = Batch.from_structures([atoms], features.cutoff)
    rows = features.rows(features.describe(whole), ("forces",)).forces
    for atom in (0, len(atoms) - 1):
        part, kept = whole.surroundings(np.array([atom]))
        assert kept[0] == atom
        assert part.n_atoms <= whole.n_atoms
        near = features.rows(features.describe(part), ("forces",)).forces
        np.testing.assert_allclose(near[:3], rows[3 * atom : 3 * atom + 3], atol=1e-12)


def test_many_atoms_take_second_moments_and_agree(monkeypatch):
    atoms = [make.copper(1).repeat((3, 3, 3)), make.copper(3).repeat((4, 3, 3)), make.isolated("Cu")]
    features = feature_map([make.copper(1), make.copper(2)])
    d = described(features, atoms)
    moments = priors.energy_covariance(features.kernel, d, d)
    monkeypatch.setattr(priors, "GRAM_BYTES", 0)
    direct = priors.energy_covariance(features.kernel, d, d)
    assert not np.array_equal(moments, direct)  # two paths, not one
    np.testing.assert_allclose(moments, direct, rtol=1e-11)
    np.testing.assert_allclose(np.diag(direct), prior(features.kernel, d, "energy"), rtol=1e-11)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 5))
def test_covariances_are_symmetric_positive_and_know_no_order_of_atoms(seed, n):
    model, rng = potentials.copper_gold(), np.random.default_rng(seed)
    structures = [make.copper_gold(int(k)) if k % 3 else make.slab(int(k)) for k in rng.integers(0, 50, size=n)]
    found = model.energy_covariance(structures)
    np.testing.assert_array_equal(found, found.T)
    assert np.linalg.eigvalsh(found)[0] > -1e-9 * np.trace(found)
    shuffled, order = [], []
    for atoms in structures:
        order.append(rng.permutation(len(atoms)))
        shuffled.append(atoms[order[-1]])
    turn = rng.permutation(n)
    again = model.energy_covariance([shuffled[k] for k in turn])
    np.testing.assert_allclose(again, found[np.ix_(turn, turn)], rtol=1e-6, atol=1e-9 * np.trace(found))
    matrix = make.rotation(seed)
    block = model.force_covariance(structures[0], int(order[0][0]))
    np.testing.assert_array_equal(block, block.T)
    assert np.linalg.eigvalsh(block)[0] > -1e-12
    turned = model.force_covariance(make.turned(shuffled[0], matrix), 0)
    np.testing.assert_allclose(turned, matrix @ block @ matrix.T, atol=1e-7 * np.trace(block) + 1e-12)


def test_errors_that_structures_share_cancel_in_a_difference():
    model = potentials.copper()
    crystal = make.copper(3).repeat((3, 3, 3))
    crystal.set_cell(crystal.cell.array * 0.9, scale_atoms=True)  # far from training: errors of all atoms go together
    vacancy = crystal.copy()
    del vacancy[0]
    n = len(crystal)
    found = model.energy_difference([vacancy, crystal], [1.0, -(n - 1) / n])
    assert found.std < 0.5 * found.independent_std
    same = model.energy_difference([crystal, crystal], [1.0, -1.0])
    assert (same.value, same.std) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-4))


def test_a_baseline_moves_values_and_no_spread():
    zbl = kp.SparseGP(potentials.small_soap(2.4), n_inducing=12, noise=potentials.NOISE, baseline=kp.ZBL())
    model = zbl.fit(make.labelled([make.copper(k) for k in range(4)]))
    near = make.copper(5)
    near.set_cell(near.cell.array * 0.6, scale_atoms=True)
    structures = [near, make.copper(6)]
    energy = model.predict(structures, uncertainty=False).energy
    zbl_energy = model.fitted_.baseline.evaluate(Batch.from_structures(structures, model.cutoff_)).energy
    assert zbl_energy[0] > 1.0
    found = model.energy_difference(structures, [1.0, -1.0])
    assert found.value == pytest.approx(energy[0] - energy[1], abs=1e-8)
    values, std = kp.goals.energy_difference(model, *structures[::-1]).predict(model, spread="calibrated")
    assert (values[0], std[0]) == (pytest.approx(found.value, abs=1e-8), pytest.approx(found.std, rel=1e-6))
    latent = model.predict(structures).latent
    np.testing.assert_allclose(
        np.diag(model.energy_covariance(structures, spread="latent")), latent.energy_std**2, rtol=1e-6
    )
    np.testing.assert_allclose(
        np.diag(model.force_covariance(near, 2, spread="latent")), latent.forces_std[0][2] ** 2, rtol=1e-6
    )
    still = model.sample(1, scale=0.0)[0]
    np.testing.assert_allclose(still.predict(structures).energy, energy, rtol=1e-8)
    near.calc = kp.Calculator(still)
    assert near.get_potential_energy() == pytest.approx(energy[0], rel=1e-8)


def test_wrong_arguments_are_named(alloy):
    with pytest.raises(NotFittedError, match="never fitted"):
        potentials.model().energy_covariance(MIXED)
    with pytest.raises(ParameterError, match="spread"):
        alloy.energy_covariance(MIXED, spread="bare")
    with pytest.raises(ParameterError, match="coefficients"):
        alloy.energy_difference(MIXED, [1.0, -1.0])
    with pytest.raises(ParameterError, match="coefficients"):
        alloy.energy_difference(MIXED[:1], [np.nan])
    with pytest.raises(ParameterError, match="list"):
        alloy.energy_covariance(MIXED[0])
    with pytest.raises(SpeciesError, match="Si"):
        alloy.force_covariance(make.silicon(1), 0)
    for atom in (4, -5, 1.5, True):
        with pytest.raises(ParameterError, match="atom"):
            alloy.force_covariance(MIXED[0], atom)
    with pytest.raises(DataError, match="cell"):
        alloy.stress_covariance(make.isolated("Cu"))
    assert composition(MIXED, alloy.species_).shape == (5, 2)

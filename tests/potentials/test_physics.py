"""Fitted models as potentials: derivatives by finite differences, and symmetries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import potentials
from tests import structures as make
from tests.features.test_rows import moved, strained

CASES = {
    "silicon": (potentials.silicon, make.silicon),
    "copper": (potentials.copper, make.copper),
    "one-atom cell": (potentials.copper, make.tiny_cell),
    "alloy": (potentials.copper_gold, make.copper_gold),
    "slab": (potentials.copper_gold, make.slab),
    "molecule": (potentials.molecules, make.ethanol),
    "four metals": (potentials.four_metals, make.four_metals),
    "four metals in two channels": (potentials.mixed_metals, make.four_metals),
    "symmetry functions, Gaussian": (potentials.symmetric_metals, make.four_metals),
    "symmetry functions, slab": (potentials.symmetric_alloy, make.slab),
}
STEPS = (0.02, 0.01, 0.005)

few = settings(deadline=None, max_examples=8)


def energies(model, structures) -> np.ndarray:
    return model.predict(structures, uncertainty=False).energy


def errors_of_differences(model, analytic, changes, size=1.0) -> list[float]:
    """Largest error of central differences at each step; all changes in one call."""
    result = []
    for h in (*STEPS, 5e-4):
        energy = energies(model, [change(sign * h) for change in changes for sign in (1, -1)]).reshape(-1, 2)
        result.append(float(np.abs((energy[:, 0] - energy[:, 1]) / (2 * h) / size - analytic).max()))
    return result


def check_second_order(errors, scale):
    """The error falls with h² until round-off, and ends far below the quantity itself."""
    for coarse, fine in itertools.pairwise(errors[:3]):
        assert fine < 0.35 * coarse + 1e-9 * scale
    assert errors[-1] < 2e-4 * scale


@pytest.mark.parametrize("case", CASES)
def test_forces_are_minus_the_gradient(case):
    make_model, make_structure = CASES[case]
    model, atoms = make_model(), make_structure(41)
    if len(atoms) == 1:
        # The force on an atom that is its own neighbour vanishes by symmetry: two of them, one displaced.
        atoms = moved(atoms.repeat((2, 1, 1)), 0, 1, 0.2)
    forces = model.predict([atoms], uncertainty=False).forces[0]
    chosen = [(i, x) for i in {0, len(atoms) // 2, len(atoms) - 1} for x in range(3)]
    changes = [lambda h, i=i, x=x: moved(atoms, i, x, h) for i, x in chosen]
    errors = errors_of_differences(model, np.array([-forces[i, x] for i, x in chosen]), changes)
    assert np.abs(forces).max() > 0.01
    check_second_order(errors, np.abs(forces).max())


@pytest.mark.parametrize("case", [name for name in CASES if name != "molecule"])
def test_stress_is_the_strain_derivative_over_the_volume(case):
    make_model, make_structure = CASES[case]
    model, atoms = make_model(), make_structure(42)
    stress = model.predict([atoms], uncertainty=False).stress[0]
    changes = [lambda h, v=v: strained(atoms, v, h) for v in range(6)]
    errors = errors_of_differences(model, stress, changes, atoms.get_volume())
    check_second_order(errors, np.abs(stress).max())


@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_forces_and_stress_for_other_powers(zeta):
    model, atoms = potentials.copper_gold(zeta), make.copper_gold(43)
    prediction = model.predict([atoms], uncertainty=False)
    changes = [lambda h, i=i: moved(atoms, i, 0, h) for i in range(4)]
    errors = errors_of_differences(model, -prediction.forces[0][:, 0], changes)
    check_second_order(errors, np.abs(prediction.forces[0]).max())
    changes = [lambda h, v=v: strained(atoms, v, h) for v in range(6)]
    errors = errors_of_differences(model, prediction.stress[0], changes, atoms.get_volume())
    check_second_order(errors, np.abs(prediction.stress[0]).max())


@pytest.mark.parametrize("case", CASES)
def test_forces_sum_to_zero(case):
    make_model, make_structure = CASES[case]
    forces = make_model().predict([make_structure(44)], uncertainty=False).forces[0]
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-10)


def test_no_torque_on_a_molecule():
    atoms = make.ethanol(45)
    forces = potentials.molecules().predict([atoms], uncertainty=False).forces[0]
    np.testing.assert_allclose(np.cross(atoms.positions, forces).sum(axis=0), 0.0, atol=1e-10)


def voigt_to_matrix(v):
    return np.array([[v[0], v[5], v[4]], [v[5], v[1], v[3]], [v[4], v[3], v[2]]])


@few
@given(case=st.sampled_from(sorted(CASES)), seed=st.integers(0, 10_000))
def test_rotation_turns_forces_and_stress_with_the_structure(case, seed):
    make_model, make_structure = CASES[case]
    model, atoms, matrix = make_model(), make_structure(seed % 50), make.rotation(seed)
    before, after = model.predict([atoms]), model.predict([make.turned(atoms, matrix)])
    np.testing.assert_allclose(after.energy, before.energy, atol=1e-9)
    np.testing.assert_allclose(after.forces[0], before.forces[0] @ matrix.T, atol=1e-8)
    np.testing.assert_allclose(after.local_energy_std[0], before.local_energy_std[0], atol=1e-6)
    np.testing.assert_allclose(after.energy_std, before.energy_std, rtol=1e-5)
    if np.isfinite(before.stress).all():
        turned = matrix @ voigt_to_matrix(before.stress[0]) @ matrix.T
        np.testing.assert_allclose(voigt_to_matrix(after.stress[0]), turned, atol=1e-9)


@few
@given(
    case=st.sampled_from(sorted(CASES)),
    seed=st.integers(0, 10_000),
    shift=st.tuples(*[st.floats(-20, 20) for _ in range(3)]),
)
def test_translation_and_order_of_atoms_change_nothing(case, seed, shift):
    make_model, make_structure = CASES[case]
    model, atoms = make_model(), make_structure(seed % 50)
    order = np.random.default_rng(seed).permutation(len(atoms))
    other = atoms[order]
    other.positions += shift
    if atoms.pbc.all():
        other.wrap()
    before, after = model.predict([atoms]), model.predict([other])
    np.testing.assert_allclose(after.energy, before.energy, atol=1e-9)
    np.testing.assert_allclose(after.forces[0], before.forces[0][order], atol=1e-8)
    np.testing.assert_allclose(after.stress, before.stress, atol=1e-9)
    np.testing.assert_allclose(after.local_energy[0], before.local_energy[0][order], atol=1e-9)
    np.testing.assert_allclose(after.energy_std, before.energy_std, rtol=1e-5)
    np.testing.assert_allclose(after.forces_std[0], before.forces_std[0][order], rtol=1e-4)


@few
@given(
    case=st.sampled_from(["copper", "one-atom cell", "alloy", "four metals", "silicon"]),
    repeat=st.tuples(*[st.integers(1, 2) for _ in range(3)]),
)
def test_supercell_has_the_same_local_energies_forces_and_stress(case, repeat):
    make_model, make_structure = CASES[case]
    model, atoms, n = make_model(), make_structure(46), int(np.prod(repeat))
    small, large = (model.predict([a], uncertainty=False) for a in (atoms, atoms.repeat(repeat)))
    assert large.energy[0] == pytest.approx(n * small.energy[0], abs=1e-9)
    np.testing.assert_allclose(large.local_energy[0], np.tile(small.local_energy[0], n), atol=1e-9)
    np.testing.assert_allclose(large.forces[0], np.tile(small.forces[0], (n, 1)), atol=1e-8)
    np.testing.assert_allclose(large.stress, small.stress, atol=1e-10)


def test_separate_molecules_add_up():
    model, one, two = potentials.molecules(), make.ethanol(47), make.ethanol(48)
    far = two.copy()
    far.positions += [50.0, 0, 0]
    apart, together = model.predict([one, two]), model.predict([one + far])
    assert together.energy[0] == pytest.approx(apart.energy.sum(), abs=1e-9)
    np.testing.assert_allclose(together.forces[0], np.concatenate(apart.forces), atol=1e-9)


def test_isolated_atoms_have_no_forces():
    prediction = potentials.copper_gold().predict([make.isolated("Cu"), make.isolated("Au")])
    for forces in prediction.forces:
        np.testing.assert_array_equal(forces, 0.0)
    assert np.isfinite(prediction.energy).all()
    assert np.isfinite(prediction.energy_std).all()


def test_energy_and_forces_are_continuous_where_a_neighbour_enters():
    model, cutoff = potentials.copper(), 3.6
    distances = cutoff + np.array([-2e-4, -1e-4, -1e-6, 0.0, 1e-6, 1e-4])
    dimers = [Atoms("Cu2", positions=[[0, 0, 0], [d, 0, 0]]) for d in distances]
    prediction = model.predict([*dimers, make.isolated("Cu")], uncertainty=False)
    np.testing.assert_allclose(prediction.energy[:-1], 2 * prediction.energy[-1], atol=1e-9)
    np.testing.assert_allclose([f[0, 0] for f in prediction.forces[:-1]], 0.0, atol=1e-6)

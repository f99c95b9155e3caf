from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import voigt_6_to_full_3x3_stress
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.labels import resolve
from kernelpot.data.sources import ranked, to_voigt
from kernelpot.errors import LabelError, ParameterError

STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])


def copper(**info):
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(info)
    return atoms


def computed(**results):
    atoms = copper()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def some_forces(n=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3))


def test_calculator_results_are_read():
    labels = resolve([computed(energy=-3.0, forces=some_forces(), stress=STRESS)])
    assert labels.energy[0] == -3.0
    np.testing.assert_array_equal(labels.forces[0], some_forces())
    np.testing.assert_array_equal(labels.stress[0], STRESS)
    assert labels.sources["energy"] == {"calculator `energy`": 1}


@pytest.mark.parametrize(
    "name",
    [
        "energy",
        "REF_energy",
        "ref_energy",
        "dft_energy",
        "DFT_energy",
        "energy_dft",
        "Energy",
        "total_energy",
    ],
)
def test_usual_names_of_energies(name):
    assert resolve([copper(**{name: -3.0})]).energy[0] == -3.0


@pytest.mark.parametrize("name", ["forces", "REF_forces", "dft_force", "force", "DFT_forces", "forces_ref"])
def test_usual_names_of_forces(name):
    atoms = copper()
    atoms.arrays[name] = some_forces()
    np.testing.assert_array_equal(resolve([atoms]).forces[0], some_forces())


@pytest.mark.parametrize("name", ["stress", "REF_stress", "dft_stress"])
@pytest.mark.parametrize("shape", ["voigt", "nine", "matrix"])
def test_stress_in_every_shape(name, shape):
    full = voigt_6_to_full_3x3_stress(STRESS)
    value = {"voigt": STRESS, "nine": full.ravel().tolist(), "matrix": full}[shape]
    np.testing.assert_allclose(resolve([copper(**{name: value})]).stress[0], STRESS)


@pytest.mark.parametrize("name", ["virial", "virials", "dft_virial", "REF_virials"])
def test_virials_are_divided_by_minus_the_volume(name):
    atoms = copper()
    atoms.info[name] = -atoms.get_volume() * voigt_6_to_full_3x3_stress(STRESS)
    np.testing.assert_allclose(resolve([atoms]).stress[0], STRESS)


@pytest.mark.parametrize(
    "name", ["mace_energy", "energy_per_atom", "E", "kinetic_energy", "energies", 7, "spring_force"]
)
def test_other_names_mean_nothing(name):
    assert ranked(name) is None


def test_free_energy_counts_only_without_a_plain_energy():
    assert resolve([computed(energy=-3.0, free_energy=-3.5)]).energy[0] == -3.0
    labels = resolve([computed(free_energy=-3.5), copper(dft_free_energy=-4.0)])
    np.testing.assert_array_equal(labels.energy, [-3.5, -4.0])
    assert labels.sources["energy"] == {"calculator `free_energy`": 1, "info `dft_free_energy`": 1}
    both = computed(free_energy=-3.5)
    both.info["REF_energy"] = -3.0
    assert resolve([both]).energy[0] == -3.0


def test_two_sources_that_agree_are_fine():
    atoms = computed(energy=-3.0, stress=STRESS)
    atoms.info.update(dft_energy=-3.0 + 1e-7, virial=-atoms.get_volume() * voigt_6_to_full_3x3_stress(STRESS))
    assert resolve([atoms]).energy[0] == -3.0


def test_two_sources_that_disagree_are_refused_by_name():
    atoms = computed(energy=-3.0)
    atoms.info["dft_energy"] = -3.1
    with pytest.raises(LabelError, match=r"calculator `energy` and info `dft_energy` differ by 0.1 eV"):
        resolve([atoms])
    assert resolve([atoms], {"energy": "dft_energy"}).energy[0] == -3.1
    assert resolve([atoms], {"energy": "energy"}).energy[0] == -3.0


def test_a_virial_of_the_wrong_sign_is_found_out_by_the_stress():
    atoms = copper(stress=STRESS)
    atoms.info["virial"] = atoms.get_volume() * voigt_6_to_full_3x3_stress(STRESS)
    with pytest.raises(LabelError, match="sources of the stress must agree"):
        resolve([atoms])


def test_keys_name_the_labels():
    atoms = copper(mine=-3.0, my_virial=np.eye(3) * 2.0)
    atoms.arrays["pull"] = some_forces()
    labels = resolve([atoms], {"energy": "mine", "forces": "pull", "virial": "my_virial"})
    assert labels.energy[0] == -3.0
    np.testing.assert_array_equal(labels.forces[0], some_forces())
    np.testing.assert_allclose(labels.stress[0, :3], -2.0 / atoms.get_volume())


def test_keys_of_none_ignore_a_kind():
    labels = resolve([computed(energy=-3.0, stress=STRESS)], {"stress": None})
    assert labels.present("energy").all()
    assert not labels.present("stress").any()


def test_keys_that_no_structure_has_are_refused():
    with pytest.raises(LabelError, match=r"`mine` must hold the energy, found in none of 1 structures.*info yours"):
        resolve([copper(yours=1.0)], {"energy": "mine"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"energie": "x"}, "energy, forces, stress, virial to names, got 'energie'"),
        ({"energy": 3}, "must be a name or None, got 3"),
        ({"stress": "a", "virial": "b"}, "the stress or the virial, got both"),
    ],
)
def test_keys_break_their_rule(keys, message):
    with pytest.raises(ParameterError, match=message):
        resolve([copper()], keys)


def test_required_kinds_must_be_complete():
    structures = [computed(energy=-3.0), copper(my_energy=-3.0)]
    with pytest.raises(LabelError, match=r"pool: all structures must have energy, 1 of 2 have none, first in pool@1"):
        resolve(structures, require=("energy",), source="pool")
    with pytest.raises(LabelError, match="info my_energy"):
        resolve(structures, require=["energy"])
    assert resolve(structures[:1], require=("energy",)).present("energy").all()


@pytest.mark.parametrize("require", ["energy", ("energies",)])
def test_require_lists_kinds(require):
    with pytest.raises(ParameterError, match="`require` must list some of"):
        resolve([copper()], require=require)


def broken_forces(row):
    forces = some_forces()
    forces[row] = np.nan
    return forces


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (computed(energy=np.nan), "energy .* must be finite"),
        (copper(REF_energy=np.inf), "info `REF_energy`. must be finite"),
        (copper(energy="three"), "must be one number in eV, found 'three'"),
        (copper(energy=True), "must be one number"),
        (copper(energy=[1.0, 2.0]), r"found shape \(2,\)"),
        (copper(energy=1e9), "must be below 1e\\+06 eV/atom"),
        (computed(forces=broken_forces(2)), "3 of 12 numbers are not"),
        (computed(forces=some_forces(3)), r"must be \(4, 3\) in eV/Å: found shape \(3, 3\)"),
        (copper(forces=[[1.0], [2.0, 3.0]]), r"must be \(4, 3\)"),
        (computed(forces=some_forces() * 1e5), "check the units"),
        (computed(stress=STRESS * 1e5), "1 GPa is 0.00624"),
        (copper(stress=np.arange(9.0)), "must be symmetric"),
        (copper(virial=np.zeros(5)), "shape must be"),
    ],
)
def test_broken_labels_are_refused_with_their_structure(atoms, message):
    with pytest.raises(LabelError, match=message) as caught:
        resolve([copper(), atoms], source="train.xyz")
    assert str(caught.value).startswith("train.xyz@1: ")


def test_stress_without_a_cell_is_left_out_with_a_note():
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0, stress=np.zeros(6))
    labels = resolve([water])
    assert not labels.present("stress").any()
    assert "stress left out, for want of a cell (in 1 structures)" in labels.summary()


def test_labels_of_moved_atoms_are_refused():
    atoms = computed(energy=-3.0)
    atoms.positions[0] += 0.1
    with pytest.raises(LabelError, match="changed since they were computed"):
        resolve([atoms])


def test_a_box_given_to_a_molecule_afterwards_keeps_its_labels():
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    water.set_cell([10, 10, 10])
    water.pbc = True
    assert resolve([water]).energy[0] == -1.0


def test_live_calculators_are_not_run_but_their_results_count():
    atoms = copper()
    atoms.calc = EMT()
    with pytest.raises(LabelError, match="calculators not run for these positions: EMT"):
        resolve([atoms], require=("energy",))
    energy = atoms.get_potential_energy()
    assert resolve([atoms]).energy[0] == energy
    atoms.positions[0] += 0.1
    assert not resolve([atoms]).present("energy").any()


def test_constraints_do_not_change_forces():
    atoms = computed(forces=some_forces())
    atoms.set_constraint(FixAtoms([0, 1]))
    np.testing.assert_array_equal(resolve([atoms]).forces[0], some_forces())


def test_forces_hidden_by_a_constraint_are_noted():
    forces = some_forces()
    forces[:2] = 0.0
    atoms = computed(forces=forces)
    atoms.set_constraint(FixAtoms([0, 1]))
    assert "forces on constrained atoms are exactly zero" in resolve([atoms]).summary()


def test_forces_that_are_all_zero_are_noted():
    assert "all forces are exactly zero" in resolve([computed(forces=np.zeros((4, 3)))]).summary()
    assert "exactly zero" not in resolve([computed(forces=some_forces())]).summary()


def test_labels_are_read_only_and_copied():
    forces = some_forces()
    atoms = computed(energy=-1.0, forces=forces, stress=STRESS)
    labels = resolve([atoms])
    for array in (labels.energy, labels.forces[0], labels.stress):
        assert not array.flags.writeable
    atoms.calc.results["forces"][0] = 5.0
    np.testing.assert_array_equal(labels.forces[0], forces)


def test_nothing_at_all_gives_empty_labels():
    labels = resolve([])
    assert len(labels) == 0
    assert labels.stress.shape == (0, 6)
    assert resolve([Atoms("H")]).summary().count("none") == 3


def test_summary_says_what_was_found_where():
    labels = resolve([computed(energy=-4.0, forces=np.ones((4, 3))), copper(dft_energy=-8.0)])
    lines = labels.summary().splitlines()
    assert lines == [
        "  energy  2 of 2 from calculator `energy` (1), info `dft_energy` (1); -2.0000 to -1.0000 eV/atom",
        "  forces  1 of 2 from calculator `forces`; rms 1, largest 1 eV/Å",
        "  stress  none",
    ]


def test_present_knows_three_kinds():
    with pytest.raises(ParameterError, match="must be one of energy, forces, stress"):
        resolve([]).present("virial")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6), st.data())
def test_take_keeps_each_structure_with_its_labels(flags, data):
    structures = []
    for number, (energy, forces, stress) in enumerate(flags):
        results = {"energy": -1.0 * number} if energy else {}
        results |= {"forces": some_forces(seed=number)} if forces else {}
        results |= {"stress": STRESS * number} if stress else {}
        structures.append(computed(**results))
    chosen = data.draw(st.lists(st.integers(0, len(flags) - 1), max_size=6))
    labels = resolve(structures)
    taken, expected = labels.take(chosen), resolve([structures[k] for k in chosen])
    np.testing.assert_array_equal(taken.energy, expected.energy)
    np.testing.assert_array_equal(taken.stress, expected.stress)
    assert taken.sources == expected.sources
    for kind, column in zip(("energy", "forces", "stress"), np.array(flags).T, strict=True):
        np.testing.assert_array_equal(labels.present(kind), column)
        np.testing.assert_array_equal(taken.present(kind), column[chosen])


@given(st.integers(0, 10**6))
def test_voigt_of_a_stress_label_survives_the_virial(seed):
    rng = np.random.default_rng(seed)
    atoms = copper()
    atoms.set_cell(np.eye(3) * 4 + rng.uniform(-1, 1, (3, 3)))
    stress = rng.standard_normal(6)
    atoms.info["virial"] = (-atoms.get_volume() * voigt_6_to_full_3x3_stress(stress)).ravel()
    np.testing.assert_allclose(resolve([atoms]).stress[0], to_voigt(voigt_6_to_full_3x3_stress(stress)), rtol=1e-12)

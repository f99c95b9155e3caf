"""Default cutoffs: shells of known crystals, and whoever has no neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.geometry import LONELY, LONGEST, MOST_NEIGHBOURS, SHORTEST, SPACINGS, element_cutoffs
from kernelpot.errors import DataError, ParameterError
from tests import structures as make
from tests.datasets import dataset


def neighbours(atoms, cutoff):
    """Count an atom's neighbours by a supercell."""
    from ase.neighborlist import neighbor_list

    return np.bincount(neighbor_list("i", atoms, cutoff), minlength=len(atoms))


def test_diamond_takes_so_many_spacings():
    bond = 5.43 * np.sqrt(3) / 4
    assert kp.potentials.default_cutoff([bulk("Si", "diamond", a=5.43)]) == pytest.approx(SPACINGS * bond, abs=0.025)


@pytest.mark.parametrize(
    ("crystal", "shell"),
    # The shell of fcc that holds the 40th neighbour is the third, at √(3/2) a; of bcc the fourth, at √11/2 a.
    [(bulk("Cu", "fcc", a=3.61), np.sqrt(1.5) * 3.61), (bulk("Fe", "bcc", a=2.87), np.sqrt(11) / 2 * 2.87)],
)
def test_close_packing_takes_the_shell_of_the_fortieth_neighbour(crystal, shell):
    cutoff = kp.potentials.default_cutoff([crystal])
    assert cutoff == pytest.approx(shell, abs=0.025)
    assert cutoff < SPACINGS * shell / 1.7
    assert neighbours(crystal, shell - 0.05)[0] < MOST_NEIGHBOURS <= neighbours(crystal, shell + 0.05)[0]


def test_hydrogen_says_nothing_about_the_spacing_of_molecules():
    ice = molecule("H2O")
    ice.center(vacuum=0.0)
    ice.set_cell([2.8, 20.0, 20.0])
    ice.pbc = True
    cutoffs = element_cutoffs([ice])
    assert cutoffs["O"] == pytest.approx(SPACINGS * 2.8, abs=0.025)
    assert cutoffs["H"] == SHORTEST
    assert kp.potentials.default_cutoff([ice]) == cutoffs["O"]
    assert kp.potentials.default_cutoff([molecule("CH3CH2OH")]) == SHORTEST
    hydrogen = Atoms("H", cell=[2.5, 2.5, 2.5], pbc=True)
    assert kp.potentials.default_cutoff([hydrogen]) == pytest.approx(SPACINGS * 2.5, abs=0.026)


def test_each_element_has_its_own_and_soap_the_largest():
    silicon, copper = bulk("Si", "diamond", a=5.43), bulk("Cu", "fcc", a=3.61)
    both = element_cutoffs([silicon, copper])
    assert both == element_cutoffs([silicon]) | element_cutoffs([copper])
    assert kp.potentials.default_cutoff([copper, silicon]) == max(both.values())


def test_atoms_without_neighbours_do_not_count():
    silicon = bulk("Si", "diamond", a=5.43)
    lonely = make.isolated("Si")
    assert kp.potentials.default_cutoff([silicon, lonely]) == kp.potentials.default_cutoff([silicon])
    assert kp.potentials.default_cutoff([lonely]) == LONELY
    caesium = bulk("Cs", "bcc", a=6.14)
    assert kp.potentials.default_cutoff([caesium]) == LONGEST


@given(scale=st.floats(0.5, 2.0), seed=st.integers(0, 50))
def test_cutoffs_scale_with_the_structure_between_their_limits(scale, seed):
    atoms = make.silicon(seed)
    small = atoms.copy()
    small.set_cell(atoms.cell.array * scale, scale_atoms=True)
    free = kp.potentials.default_cutoff([atoms])
    assert SHORTEST < free < LONGEST
    assert kp.potentials.default_cutoff([small]) == pytest.approx(np.clip(free * scale, SHORTEST, LONGEST), abs=0.08)


@given(st.integers(0, 50))
def test_turning_and_order_change_nothing(seed):
    crystals = [make.copper_gold(seed), make.copper_gold(seed + 1)]
    turned = [make.turned(atoms, make.rotation(seed)) for atoms in reversed(crystals)]
    assert element_cutoffs(crystals) == element_cutoffs(turned)


def test_no_structure_and_broken_ones_are_refused():
    with pytest.raises(ParameterError, match="list of at least one"):
        kp.potentials.default_cutoff([])
    with pytest.raises(ParameterError, match="list of at least one"):
        kp.potentials.default_cutoff(make.silicon())
    with pytest.raises(DataError, match="structure 1"):
        kp.potentials.default_cutoff([make.silicon(), Atoms("Si", positions=[[np.nan, 0, 0]])])


@pytest.mark.slow
@pytest.mark.parametrize(("element", "cutoff"), [("Si", 5.0), ("Ge", 5.4), ("Li", 5.5), ("Ni", 4.2)])
def test_real_training_sets_come_close_to_their_best_cutoffs(element, cutoff):
    train = kp.read(dataset(f"mlearn/{element}_train.xyz.xz"), verbose=False)
    assert kp.potentials.default_cutoff(train) == pytest.approx(cutoff, abs=0.3)

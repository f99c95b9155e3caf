"""What every descriptor must do, run on each of them."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.radial import GTO, PowerGaussian, SphericalBessel
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ElementChannels
from kernelpot.errors import ParameterError, SpeciesError
from tests import structures as make

CUTOFF, FADE = 4.0, 0.8
SIZE = {"cutoff": CUTOFF, "n_max": 4, "l_max": 3, "sigma": 0.5, "fade": FADE}
PLAIN = SIZE | {"channels": None}
DESCRIPTORS = {
    "power": SOAP(basis=PowerGaussian(), **PLAIN),
    "gto": SOAP(basis=GTO(), **PLAIN),
    "gto, shorter radius": SOAP(basis=GTO(radius=3.0), **PLAIN),
    "bessel": SOAP(basis=SphericalBessel(), **PLAIN),
    "scaled": SOAP(basis=PowerGaussian(), scaling=(2.0, 3.0), **PLAIN),
    "compressed": SOAP(**PLAIN | {"n_max": 7}).compressed(4),
    "one channel": SOAP(channels=ElementChannels.random(1, 5), **SIZE),
    "symmetry functions": ACSF(CUTOFF, g2=[[0.5, 0.0], [4.0, 2.0]], g4=[[0.05, 1, 1], [0.3, 4, -1]]),
    "symmetry functions, one channel": ACSF(
        CUTOFF, g2=[[1.0, 1.5]], g3=[1.2], g5=[[0.1, 2.5, 1]], channels=ElementChannels.random(1, 5)
    ),
    "radial functions alone": ACSF(CUTOFF, g2=[[0.5, 0.0]]),
    "smallest": SOAP(**PLAIN | {"n_max": 1, "l_max": 0, "fade": None}),
}
SYSTEMS = {
    "one species": make.silicon,
    "two species": make.copper_gold,
    "four species": make.four_metals,
    "molecule": make.ethanol,
    "slab": make.slab,
    "cell below the cutoff": make.tiny_cell,
    "isolated": lambda seed: make.isolated(),
}
few = settings(deadline=None, max_examples=4)
seeds = st.integers(0, 2**16)

pytestmark = pytest.mark.parametrize("descriptor", DESCRIPTORS.values(), ids=DESCRIPTORS.keys())
on_systems = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


@cache
def knowing(descriptor, species):
    """Keep the radial tables, which take longer than all else here."""
    return descriptor.with_species(species)


def describe(descriptor, atoms, skin=0.0):
    fitted = knowing(descriptor, tuple(sorted(set(atoms.numbers.tolist()))))
    return fitted.environments(Batch.from_structures([atoms], descriptor.cutoff, skin=skin))


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * np.abs(b).max())


def length(descriptor, channels: int) -> int:
    if isinstance(descriptor, SOAP):
        size = channels * descriptor.n_max
        return (descriptor.l_max + 1) * size * (size + 1) // 2
    pairs = channels * (channels + 1) // 2
    angular = len(descriptor.g4) + len(descriptor.g5)
    return 1 + channels * (1 + len(descriptor.g2) + len(descriptor.g3)) + pairs * angular


def dimer(distance: float) -> Atoms:
    return Atoms("Si2", positions=[[0, 0, 0], distance * np.array([2, 3, 6]) / 7])


@on_systems
@few
@given(seed=seeds, sign=st.sampled_from((1, -1)))
def test_rotation_and_reflection_change_nothing(descriptor, system, seed, sign):
    atoms = system(seed)
    turned = make.turned(atoms, sign * make.rotation(seed))
    same(describe(descriptor, turned).vectors, describe(descriptor, atoms).vectors)


@on_systems
@few
@given(seed=seeds, shift=st.tuples(*3 * [st.floats(-20, 20)]))
def test_translation_changes_nothing(descriptor, system, seed, shift):
    atoms = system(seed)
    moved = atoms.copy()
    moved.positions += shift
    same(describe(descriptor, moved).vectors, describe(descriptor, atoms).vectors)


@on_systems
@few
@given(seed=seeds)
def test_permutation_permutes_the_vectors(descriptor, system, seed):
    atoms = system(seed)
    order = np.random.default_rng(seed).permutation(len(atoms))
    same(describe(descriptor, atoms[order]).vectors, describe(descriptor, atoms).vectors[order])


@on_systems
@few
@given(seed=seeds, copies=st.tuples(*3 * [st.integers(1, 2)]))
def test_supercell_repeats_the_vectors(descriptor, system, seed, copies):
    atoms = system(seed)
    copies = np.where(atoms.pbc, copies, 1)
    same(
        describe(descriptor, atoms.repeat(copies)).vectors,
        np.tile(describe(descriptor, atoms).vectors, (copies.prod(), 1)),
    )


@on_systems
def test_batch_gives_what_each_structure_gives(descriptor, system):
    structures = [system(1), system(2)]
    fitted = knowing(descriptor, tuple(sorted({z for atoms in structures for z in atoms.numbers.tolist()})))
    together = fitted.values(Batch.from_structures(structures, CUTOFF))
    apart = [fitted.values(Batch.from_structures([atoms], CUTOFF)) for atoms in structures]
    np.testing.assert_array_equal(together, np.concatenate(apart))


@on_systems
def test_shapes(descriptor, system):
    atoms = system(0)
    found = describe(descriptor, atoms)
    channels = 1 if descriptor.channels else len(set(atoms.numbers))
    assert found.vectors.shape == (len(atoms), length(descriptor, channels))
    assert knowing(descriptor, tuple(sorted(set(atoms.numbers.tolist())))).n_features == found.vectors.shape[1]
    assert np.isfinite(found.vectors).all()


@on_systems
def test_pairs_in_the_skin_weigh_nothing(descriptor, system):
    atoms = system(0)
    near, far = describe(descriptor, atoms), describe(descriptor, atoms, skin=0.9)
    same(far.vectors, near.vectors)
    beyond = np.linalg.norm(far.batch.vectors, axis=1) >= CUTOFF
    assert (far.vjp(np.ones_like(far.vectors))[beyond] == 0.0).all()
    moved = far.displacements(0, len(atoms))
    for centre in range(len(atoms)):
        mine = far.batch.first == centre
        outside = set(far.batch.second[mine & beyond]) - set(far.batch.second[mine & ~beyond]) - {centre}
        assert (moved.rows[(moved.centre == centre) & np.isin(moved.target, list(outside))] == 0.0).all()


def test_neighbour_at_the_cutoff_and_beyond_weighs_exactly_nothing(descriptor):
    alone = describe(descriptor, make.isolated("Si")).vectors[0]
    for distance in (np.nextafter(CUTOFF, 5.0), CUTOFF + 1e-6, CUTOFF + 0.3):
        np.testing.assert_array_equal(describe(descriptor, dimer(distance), skin=0.5).vectors, [alone, alone])
    same(describe(descriptor, dimer(CUTOFF), skin=0.5).vectors[0], alone)


def test_isolated_atom_is_well_defined(descriptor):
    alone = describe(descriptor, make.isolated())
    assert np.linalg.norm(alone.vectors) > 1e-3
    assert alone.vjp(alone.vectors).shape == (0, 3)
    moved = alone.displacements(0, 1)
    assert moved.rows.shape == (1, 3, alone.vectors.shape[1])
    assert not moved.rows.any()
    assert not moved.virial.any()


def test_smooth_at_the_cutoff(descriptor):
    """Value, first and second difference across the cutoff vanish as h³, h² and h: C²."""
    alone = describe(descriptor, make.isolated("Si")).vectors[0]
    steps = np.array([0.08, 0.04, 0.02, 0.01])
    inside = [np.abs(describe(descriptor, dimer(CUTOFF - h)).vectors[0] - alone).max() for h in steps]
    differences = np.array(inside) / steps ** np.arange(3)[:, None]
    shrink = differences[:, 1:] / differences[:, :-1]
    assert (shrink < np.array([[0.16], [0.32], [0.62]])).all(), shrink


def test_smooth_where_the_fade_begins(descriptor):
    """The jump of value, slope and curvature shrinks with the step: one-sided differences meet."""
    if isinstance(descriptor, ACSF):
        pytest.skip("symmetry functions fade from the centre on")
    jumps = []
    for h in (0.04, 0.02, 0.01):
        r = CUTOFF - descriptor.fade_width + h * np.arange(-3, 4)
        f = np.array([describe(descriptor, dimer(d)).vectors[0] for d in r])
        left, right = (f[1] - 2 * f[2] + f[3]) / h**2, (f[3] - 2 * f[4] + f[5]) / h**2
        jumps.append([np.abs((f[4] - f[3]) - (f[3] - f[2])).max() / h, np.abs(right - left).max()])
    jumps = np.array(jumps)
    assert (jumps[1:] < 0.65 * jumps[:-1]).all(), jumps


def test_periodic_images_need_a_periodic_direction(descriptor):
    """A slab's vectors do not depend on the cell along the direction that is not periodic."""
    atoms = make.slab()
    taller = atoms.copy()
    taller.set_cell(atoms.cell.array * np.array([[1], [1], [3]]), scale_atoms=False)
    same(describe(descriptor, taller).vectors, describe(descriptor, atoms).vectors)


def test_unknown_species_is_named(descriptor):
    batch = Batch.from_structures([make.copper_gold()], CUTOFF)
    with pytest.raises(SpeciesError, match=r"element Au was never seen by this model \(it knows Si, Cu\)"):
        descriptor.with_species((29, 14)).environments(batch)


def test_species_are_needed(descriptor):
    with pytest.raises(ParameterError, match="no `species` yet"):
        descriptor.environments(Batch.from_structures([make.copper()], CUTOFF))


def test_batch_must_reach_the_cutoff(descriptor):
    batch = Batch.from_structures([make.copper()], CUTOFF - 0.5)
    with pytest.raises(ParameterError, match=r"lists pairs up to 3\.5 Å but the (SOAP|ACSF) cutoff is 4\.0 Å"):
        descriptor.with_species((29,)).environments(batch)


def test_settings_make_the_same_descriptor(descriptor):
    for one in (descriptor, descriptor.with_species((79, 29))):
        again = type(descriptor).from_settings(json.loads(json.dumps(one.settings())))
        assert again == one
    assert again.species == (29, 79)
    batch = Batch.from_structures([make.copper_gold()], CUTOFF)
    np.testing.assert_array_equal(again.values(batch), one.values(batch))

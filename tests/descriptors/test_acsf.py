"""Symmetry functions against DScribe, plain PyTorch, closed forms and the rules of their arguments."""

from __future__ import annotations

import io
import json
import lzma
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from dscribe import descriptors as dscribe
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.functions import LEAST, cutoff_series
from kernelpot.descriptors.acsf.torch import AcsfEngine
from kernelpot.descriptors.grid import DeviceBatch
from kernelpot.elements import ElementChannels
from kernelpot.errors import ParameterError
from tests import structures as make
from tests.datasets import dataset
from tests.descriptors.references import AcsfTorch, triples
from tests.descriptors.test_derivatives import position_gradient
from tests.devices import DEVICES

CUTOFF = 4.5
G2 = ((1.0, 2.0), (0.3, 0.0), (2.5, 1.2))
G3 = (1.0, 2.3)
G4 = ((0.01, 1.0, 1.0), (0.1, 4.0, -1.0), (0.1, 2.5, 1.0), (1.0, 16.0, -1.0))
G5 = ((0.01, 2.0, -1.0), (0.3, 7.0, 0.5))
SYSTEMS = {
    "crystal": make.silicon,
    "two species": make.copper_gold,
    "four species": make.four_metals,
    "molecule": make.ethanol,
    "slab": make.slab,
    "cell below the cutoff": make.tiny_cell,
}
on_systems = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


def species_of(atoms):
    return tuple(sorted(set(atoms.numbers.tolist())))


def batch_of(*structures, cutoff=CUTOFF):
    return Batch.from_structures(list(structures), cutoff)


def compare(atoms, cutoff=CUTOFF, **functions):
    """Values beside those of DScribe, to round-off."""
    species = species_of(atoms)
    theirs = dscribe.ACSF(
        r_cut=cutoff, species=species, periodic=bool(atoms.pbc.any()),
        **{f"{name}_params": rows for name, rows in functions.items()},
    ).create(atoms)  # fmt: skip
    ours = kp.ACSF(cutoff, **functions, species=species, cutoff_function="cosine").values(
        batch_of(atoms, cutoff=cutoff)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    np.testing.assert_allclose(ours, theirs, atol=1e-11 * np.abs(theirs).max())


@on_systems
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_values_are_those_of_dscribe_in_its_order(system, cutoff):
    compare(system(3), cutoff, g2=G2, g3=G3, g4=G4, g5=G5)


@pytest.mark.parametrize("only", [{"g2": G2}, {"g3": G3}, {"g4": G4}, {"g5": G5}, {"g2": G2, "g5": G5}])
def test_any_kind_may_be_left_out(only):
    compare(make.copper_gold(1), **only)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**16),
    eta=st.floats(0.0, 20.0),
    zeta=st.floats(1.0, 70.0),
    weight=st.floats(-1.0, 1.0),
    cutoff=st.floats(2.0, 6.0),
)
def test_any_parameters_agree_with_dscribe(seed, eta, zeta, weight, cutoff):
    compare(make.slab(seed), cutoff, g2=[[eta, 1.0]], g4=[[eta, zeta, weight]], g5=[[eta, zeta, weight]])


@pytest.mark.parametrize(
    ("name", "frame"),
    [("mlearn/Si_train.xyz.xz", 3), ("agpd/AgPd_bulk_master.xyz.xz", 20), ("rmd17/ethanol_train.xyz.xz", 5)],
)
def test_values_of_real_frames_are_those_of_dscribe(name, frame):
    with lzma.open(dataset(name), "rt") as file:
        text = file.read()
    atoms = read(io.StringIO(text), index=frame, format="extxyz")
    compare(atoms, 5.0, g2=G2, g4=G4)


def every_kind(species, channels=None, name="polynomial", structures=()):
    acsf = kp.ACSF(CUTOFF, G2, G4, G5, G3, species, channels, name)
    return acsf.scaled(structures) if structures else acsf


CHANNELS = {
    "identity": None,
    "random": ElementChannels.random(2, 1),
    "modes": ElementChannels.modes(1),
}


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("scaled", [False, True], ids=["bare", "scaled"])
def test_vectors_forces_and_strains_are_those_of_plain_pytorch(channels, name, scaled):
    structures = [make.copper_gold(1), make.slab(3), make.tiny_cell(2), make.isolated("Au")]
    batch = Batch.from_structures(structures, CUTOFF, skin=0.4)
    acsf = every_kind((29, 79), channels, name, structures if scaled else ())
    found = acsf.environments(batch)
    gradient = np.random.default_rng(0).normal(size=found.vectors.shape)
    positions = torch.tensor(batch.positions, requires_grad=True)
    strain = torch.zeros(len(batch), 3, 3, dtype=torch.float64, requires_grad=True)
    vectors = AcsfTorch(acsf).vectors(batch, positions, strain)
    np.testing.assert_allclose(vectors.detach().numpy(), found.vectors, atol=1e-11 * np.abs(found.vectors).max())
    energy = (vectors * torch.as_tensor(gradient)).sum()
    forces, virial = torch.autograd.grad(energy, [positions, strain])
    expected = position_gradient(batch, found.vjp(gradient))
    np.testing.assert_allclose(forces.numpy(), expected, atol=1e-10 * np.abs(expected).max())
    by_rows = np.einsum("ivf,if->iv", found.displacements(0, batch.n_atoms).virial, gradient)
    by_rows = np.stack([batch.sum_per_structure(by_rows[:, v]) for v in range(6)], axis=1)
    voigt = virial.numpy()[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(by_rows, voigt, atol=1e-10 * np.abs(voigt).max())


def test_second_derivatives_exist():
    batch = batch_of(make.copper_gold(1))
    reference = AcsfTorch(every_kind((29, 79)))
    shape = reference.vectors(batch).shape
    weights = torch.as_tensor(np.random.default_rng(0).normal(size=shape))
    positions = torch.tensor(batch.positions, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: (reference.vectors(batch, x) * weights).sum(), (positions,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["polynomial", "cosine"])
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
def test_engine_for_devices_is_the_compiled_loops(channels, name, device):
    structures = [make.copper_gold(1), make.slab(3), make.tiny_cell(2), make.isolated("Au")]
    batch = Batch.from_structures(structures, CUTOFF, skin=0.4)
    acsf = every_kind((29, 79), channels, name, structures)
    found = acsf.environments(batch)
    gradient = np.random.default_rng(0).normal(size=found.vectors.shape)
    engine = AcsfEngine(acsf, device, torch.float64)
    there = DeviceBatch(batch, device, found.species)
    grid = engine.grid(there, 0, batch.n_atoms)
    vectors, c = engine.describe(grid, there.elements)
    np.testing.assert_allclose(vectors.cpu().numpy(), found.vectors, atol=1e-11 * np.abs(found.vectors).max())
    expected = found.vjp(gradient)
    weights = torch.as_tensor(gradient, device=device)
    ways = {
        "pull": engine.pull(grid, c, weights),
        "changes": torch.einsum("nxsf,nf->nsx", engine.changes(grid, c, None), weights).reshape(-1, 3)[grid.place],
    }
    for rows in ways.values():
        full = np.zeros_like(expected)
        full[grid.pair.cpu().numpy()] = rows.cpu().numpy()
        np.testing.assert_allclose(full, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
def test_derivatives_of_the_neighbours_by_the_centre(device):
    """Σ_j g_j·∂v_j/∂r_i over the neighbours' slots is what the transposed product gives the pairs back to i."""
    batch = batch_of(make.copper_gold(1), make.slab(3))
    acsf = every_kind((29, 79))
    found = acsf.environments(batch)
    gradient = np.random.default_rng(0).normal(size=found.vectors.shape)
    engine = AcsfEngine(acsf, device, torch.float64)
    there = DeviceBatch(batch, device, found.species)
    start, stop = 2, 7
    grid = engine.grid(there, start, stop)
    back = engine.backwards(grid, there, torch.as_tensor(found.species, device=device)[:, None])
    target = grid.target.view(grid.n_atoms, grid.slots)
    weights = torch.as_tensor(gradient, device=device)[target]
    pushed = torch.einsum("nxsf,nsf->nx", back, weights).cpu().numpy()
    pairs = found.vjp(gradient)
    expected = np.zeros((batch.n_atoms, 3))
    np.add.at(expected, batch.second, pairs)
    np.testing.assert_allclose(pushed, expected[start:stop], atol=1e-11 * np.abs(expected).max())


def test_pairs_lead_back():
    batch = Batch.from_structures([make.tiny_cell(1), make.copper_gold(2)], CUTOFF)
    back = DeviceBatch(batch, "cpu", np.zeros(batch.n_atoms, dtype=np.int64)).reverse.numpy()
    np.testing.assert_array_equal(batch.first[back], batch.second)
    np.testing.assert_array_equal(batch.vectors[back], -batch.vectors)
    np.testing.assert_array_equal(back[back], np.arange(len(back)))


def test_triples_are_all_pairs_of_neighbours_once():
    j, k = triples(np.array([0, 0, 0, 2, 3, 3]))
    assert list(zip(j.tolist(), k.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (4, 5)]


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
def test_cutoff_functions_fall_from_one_to_zero_with_their_slopes(name):
    s = np.linspace(0.0, CUTOFF**2, 400)
    f, slope, curvature = cutoff_series(CUTOFF, name, s)
    assert f[0] == pytest.approx(1.0)
    assert f[-1] == pytest.approx(0.0, abs=1e-15)
    assert slope[-1] == pytest.approx(0.0, abs=1e-15)
    h = s[1] - s[0]
    np.testing.assert_allclose(np.gradient(f, h)[1:-1], slope[1:-1], atol=1e-5)
    np.testing.assert_allclose(np.gradient(slope, h)[1:-1], curvature[1:-1], atol=1e-5)


def second_difference(acsf, r, h=1e-3):
    f = [acsf.values(batch_of(Atoms("Si2", positions=[[0, 0, 0], [0, 0, x]])))[0] for x in (r - h, r, r + h)]
    return (f[0] - 2.0 * f[1] + f[2]) / h**2


def test_polynomial_cutoff_has_two_continuous_derivatives_and_the_cosine_has_one():
    batch = {name: kp.ACSF(CUTOFF, g2=G2, species=(14,), cutoff_function=name) for name in ("polynomial", "cosine")}
    jumps = {name: np.abs(second_difference(acsf, CUTOFF - 2e-3)).max() for name, acsf in batch.items()}
    assert jumps["polynomial"] < 0.01
    assert jumps["cosine"] > 0.1


def test_second_derivative_of_a_triple_is_continuous_where_the_third_side_reaches_the_cutoff():
    """The distance of two neighbours crosses the cutoff while both stay inside."""
    acsf = kp.ACSF(CUTOFF, g4=G4, species=(14,))
    side = 0.5 * CUTOFF / np.sin(np.radians(50.0))

    def value(x):
        far = CUTOFF + x
        height = np.sqrt(side**2 - 0.25 * far**2)
        positions = [[0, 0, 0], [-0.5 * far, height, 0], [0.5 * far, height, 0]]
        return acsf.values(batch_of(Atoms("Si3", positions=positions)))[0, 1:]

    h = np.array([8e-2, 4e-2, 2e-2])
    inside = np.array([np.abs(value(-x) - value(0.0)).max() for x in h])
    assert (value(0.1) == 0.0).all()
    np.testing.assert_allclose(inside[1:] / inside[:-1], 0.125, atol=0.03)


def test_one_hot_channels_with_permuted_labels_give_the_values_of_the_identity():
    """Channels that are the elements in another order permute blocks; unlike pairs of elements have none."""
    atoms = make.four_metals(1)
    species = species_of(atoms)
    plain = kp.ACSF(CUTOFF, g2=G2, g4=G4, species=species)
    names = ("Cu", "Pd", "Ag", "Au")
    order = (2, 0, 3, 1)
    table = {name: np.eye(4)[k].tolist() for name, k in zip(names, order, strict=True)}
    mixed = replace(plain, channels=ElementChannels.given(table))
    batch = batch_of(atoms)
    ours, expected = mixed.values(batch), plain.values(batch)
    radial, angular = 1 + len(G2), len(G4)
    for a, channel in enumerate(order):
        np.testing.assert_allclose(
            ours[:, channel * radial : (channel + 1) * radial], expected[:, a * radial : (a + 1) * radial], atol=1e-13
        )
        same = 4 * radial + (a * (a + 1) // 2 + a) * angular
        here = 4 * radial + channel * angular
        np.testing.assert_allclose(ours[:, here : here + angular], expected[:, same : same + angular], atol=1e-13)


def test_renamed_elements_permute_blocks_of_the_identity():
    atoms = make.copper_gold(1)
    swapped = atoms.copy()
    swapped.numbers = np.where(atoms.numbers == 29, 79, 29)
    acsf = kp.ACSF(CUTOFF, g2=G2, g4=G4, species=(29, 79))
    one, two = acsf.values(batch_of(atoms)), acsf.values(batch_of(swapped))
    radial, angular = 1 + len(G2), len(G4)
    blocks = np.concatenate([np.arange(radial, 2 * radial), np.arange(radial)])
    pairs = [2, 1, 0]
    blocks = np.concatenate([blocks, *(2 * radial + p * angular + np.arange(angular) for p in pairs)])
    np.testing.assert_allclose(two, one[:, blocks], atol=1e-13)


@pytest.mark.parametrize("n", [1, 2])
def test_length_with_channels_does_not_depend_on_the_number_of_elements(n):
    acsf = kp.ACSF.spaced(CUTOFF, channels=ElementChannels.random(n))
    lengths = {acsf.with_species(tuple(range(20, 20 + k))).n_features for k in (2, 4, 40)}
    assert lengths == {1 + n * (9 + 12)}


def test_length_without_channels_grows_with_pairs_of_elements():
    acsf = kp.ACSF.spaced(CUTOFF)
    assert [acsf.with_species(tuple(range(20, 20 + k))).n_features for k in (1, 2, 4)] == [22, 55, 157]


def test_weights_multiply_in_pairs():
    """One channel of weights β: G2 = Σ_a β_a G2_a and G4 = Σ_ab β_a β_b G4_ab (Gastegger et al. (2018), eqs. 4, 5)."""
    atoms = make.copper_gold(1)
    plain = kp.ACSF(CUTOFF, g2=G2, g4=G4, species=(29, 79))
    mixed = replace(plain, channels=ElementChannels.given({"Cu": [0.7], "Au": [-1.3]}))
    batch = batch_of(atoms)
    radial, angular = np.split(plain.values(batch), [2 * (1 + len(G2))], axis=1)
    weights = np.array([0.7, -1.3])
    expected = [
        np.einsum("a,iaf->if", weights, radial.reshape(len(atoms), 2, -1)),
        np.einsum("p,ipf->if", [0.49, -0.91, 1.69], angular.reshape(len(atoms), 3, -1)),
    ]
    np.testing.assert_allclose(mixed.values(batch), np.concatenate(expected, axis=1), atol=1e-12)


def test_default_functions_are_those_of_spaced():
    assert kp.ACSF(5.0) == kp.ACSF.spaced(5.0)
    acsf = kp.ACSF.spaced(5.0, n_radial=5, n_angular=1)
    np.testing.assert_allclose(np.array(acsf.g2), [[0.5, r] for r in (0.5, 1.5, 2.5, 3.5, 4.5)])
    assert {row[0] for row in acsf.g4} == {0.02}
    assert len(acsf.g4) == 6


def test_scaled_vectors_have_mean_zero_and_unit_length():
    structures = [make.copper_gold(k) for k in range(6)]
    acsf = kp.ACSF.spaced(CUTOFF).scaled(structures)
    batch = batch_of(*structures)
    vectors = acsf.environments(batch).vectors
    np.testing.assert_array_equal(vectors[:, 0], 1.0)
    for number in (29, 79):
        mine = vectors[batch.numbers == number, 1:]
        np.testing.assert_allclose(mine.mean(axis=0), 0.0, atol=1e-12)
        spread = np.sqrt((mine**2).sum(axis=1).mean())
        assert 0.8 < spread <= 1.0 + 1e-12
    assert acsf.standard.scales.max() * LEAST <= acsf.standard.scales.min() * 1e6
    np.testing.assert_array_equal(acsf.values(batch), replace(acsf, standard=None).values(batch))


def test_equal_environments_are_not_blown_up():
    """Round-off is no spread."""
    crystal = make.bulk("Cu", "fcc", a=3.6, cubic=True)
    acsf = kp.ACSF.spaced(CUTOFF).scaled([crystal])
    assert np.abs(acsf.environments(batch_of(crystal)).vectors[:, 1:]).max() < 1e-10


def test_settings_hold_shift_and_scale():
    acsf = every_kind((29, 79), ElementChannels.modes(1), "cosine", [make.copper_gold(1), make.slab(2)])
    again = kp.ACSF.from_settings(json.loads(json.dumps(acsf.settings())))
    assert again == acsf
    batch = batch_of(make.copper_gold(3))
    np.testing.assert_array_equal(again.environments(batch).vectors, acsf.environments(batch).vectors)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cutoff": -1.0}, "`cutoff` must be positive"),
        ({"cutoff": 1e6}, "`cutoff` must lie between"),
        ({"g2": [[1.0]]}, r"`g2` must be a list of \[eta, Rs\]"),
        ({"g2": 3}, r"`g2` must be a list of \[eta, Rs\]"),
        ({"g2": [[-1.0, 0.0]]}, "eta must lie between 0"),
        ({"g2": [[np.nan, 0.0]]}, "finite numbers"),
        ({"g2": "wide"}, "`g2` must be a list"),
        ({"g2": [[10**400, 0.0]]}, "`g2` must be a list"),
        ({"g4": [[0.1, 1.0, 1.0], [0.1]]}, r"`g4` must be a list of \[eta, zeta, lambda\]"),
        ({"g2": [[True, 0.0]]}, "`g2` must be a list"),
        ({"g2": [[1.0, 0.0]] * 501}, "at most 500"),
        ({"g3": [[1.0, 2.0]]}, "`g3` must be a list of kappa"),
        ({"g4": [[0.1, 0.5, 1.0]]}, "zeta must be at least 1"),
        ({"g5": [[0.1, 2.0, 1.5]]}, "lambda must lie between -1 and 1"),
        ({"cutoff_function": "sine"}, "`cutoff_function` must be one of polynomial, cosine"),
        ({"cutoff_function": np.ones(2)}, "`cutoff_function` must be one of polynomial, cosine"),
        ({"centre": 0.0}, "`centre` must be positive"),
        ({"species": ()}, "`species` must be atomic numbers"),
        ({"channels": 2}, '`channels` must be "auto", ElementChannels'),
        ({"standard": 1.0}, "`standard` must be a Standard, got 1.0; `scaled` makes one"),
    ],
)
def test_parameters_are_checked(settings, text):
    with pytest.raises(ParameterError, match=text):
        kp.ACSF(**settings)


def test_scaling_belongs_to_its_species():
    acsf = kp.ACSF.spaced(CUTOFF).scaled([make.copper(1)])
    with pytest.raises(ParameterError, match="call scaled again"):
        acsf.with_species((29, 79))
    with pytest.raises(ParameterError, match=r"scaled for the species \(29,\), not for \(79,\)"):
        acsf.with_species((79,))
    assert acsf.with_species((29,)) == acsf
    for wrong in ([], None, 5, "abc", [None], [make.copper(1), "x"], {1: 2}, make.copper(1)):
        with pytest.raises(ParameterError, match="at least one"):
            kp.ACSF().scaled(wrong)


@pytest.mark.parametrize("name", ["n_radial", "n_angular"])
@pytest.mark.parametrize("value", [0, 1.5, True, 65])
def test_numbers_of_spaced_functions_are_checked(name, value):
    with pytest.raises(ParameterError, match=f"`{name}` must be a whole number from 1 to 64"):
        kp.ACSF.spaced(**{name: value})

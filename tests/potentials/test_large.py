"""Structures on disk, fits by several processes, many atoms: the same answers as from a list, at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from ase.db import connect
from ase.io import write

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.data.labels import resolve
from kernelpot.data.noise import Noise
from kernelpot.elements import ElementChannels
from kernelpot.errors import DataError, ParameterError
from kernelpot.features import prior
from kernelpot.potentials import extrapolation, training
from tests import potentials
from tests import structures as make
from tests.potentials import NOISE, small_soap, symmetry_functions

TRAIN = [*make.copper_gold_set(24), *make.labelled([make.slab(k) for k in range(3)])]
TEST = make.slab(9)


def spec(noise: Noise | str = NOISE) -> kp.SparseGP:
    return kp.SparseGP([small_soap(), kp.TwoBody(4.0)], n_inducing=12, noise=noise)


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "a.xyz", TRAIN[:11], format="extxyz")
    write(tmp_path / "b.extxyz", TRAIN[11:20], format="extxyz")
    with connect(tmp_path / "c.db") as database:
        for atoms in TRAIN[20:]:
            database.write(atoms)
    return [tmp_path / name for name in ("a.xyz", "b.extxyz", "c.db")]


def test_a_stream_is_a_list(files):
    stream = kp.pools.stream(files)
    assert len(stream) == len(TRAIN)
    np.testing.assert_array_equal(stream.sizes, [len(atoms) for atoms in TRAIN])
    for k in (0, 10, 11, 19, 20, -1):
        np.testing.assert_allclose(stream[k].positions, TRAIN[k].positions, atol=1e-7)
        assert stream[k].get_potential_energy() == pytest.approx(TRAIN[k].get_potential_energy())
    assert [len(atoms) for atoms in stream] == [len(atoms) for atoms in TRAIN]
    assert [len(atoms) for atoms in stream[9:22:3]] == [len(atoms) for atoms in TRAIN[9:22:3]]
    assert [len(atoms) for atoms in stream.take([26, 1, 15])] == [len(TRAIN[k]) for k in (26, 1, 15)]
    assert "b.extxyz" in repr(stream)
    with pytest.raises(IndexError):
        _ = stream[len(TRAIN)]


def test_labels_in_the_keys_and_data_of_a_database_are_found(tmp_path):
    path = tmp_path / "keys.db"
    with connect(path) as database:
        for atoms in TRAIN[:4]:
            bare = atoms.copy()
            database.write(bare, my_energy=atoms.get_potential_energy(), data={"my_forces": atoms.get_forces()})
    keys = {"energy": "my_energy", "forces": "my_forces"}
    labels = resolve(kp.pools.stream(path), keys)
    whole = resolve(kp.read(path, keys=keys, verbose=False))
    np.testing.assert_array_equal(labels.energy, whole.energy)
    for one, two in zip(labels.forces, whole.forces, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("noise", [NOISE, "cv"], ids=["given", "cv"])
def test_a_fit_to_a_stream_is_that_to_its_list(files, noise):
    stream = kp.pools.stream(files)
    one, two = spec(noise).fit(stream), spec(noise).fit(list(stream))
    a, b = one.predict([TEST]), two.predict([TEST])
    np.testing.assert_array_equal(a.energy, b.energy)
    np.testing.assert_array_equal(a.forces_std[0], b.forces_std[0])
    more = two.condition(kp.pools.stream(files[1]))
    same = two.condition(list(kp.pools.stream(files[1])))
    np.testing.assert_array_equal(more.predict([TEST]).energy, same.predict([TEST]).energy)
    assert one.predict(stream).energy.shape == (len(TRAIN),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "ends within|number of atoms"),
        (lambda text: "stray words\n" + text, "line 1 must be a structure's number of atoms"),
        (lambda text: "", "must hold structures"),
    ],
)
def test_broken_files_are_named(tmp_path, change, message):
    write(tmp_path / "a.xyz", TRAIN[:3], format="extxyz")
    (tmp_path / "a.xyz").write_text(change((tmp_path / "a.xyz").read_text()))
    with pytest.raises(DataError, match=message):
        kp.pools.stream(tmp_path / "a.xyz")


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.xyz"
    write(path, TRAIN[:4], format="extxyz")
    stream = kp.pools.stream(path)
    write(path, [atoms.repeat((2, 1, 1)) for atoms in TRAIN[:3]], format="extxyz")
    with pytest.raises(DataError, match=r"a\.xyz"):
        list(stream)


def test_what_cannot_be_streamed_is_refused(tmp_path):
    with pytest.raises(DataError, match="must exist"):
        kp.pools.stream(tmp_path / "none.xyz")
    with pytest.raises(ParameterError, match="at least one file"):
        kp.pools.stream([])
    (tmp_path / "a.cif").write_text("data")
    with pytest.raises(ParameterError, match="unpack or convert"):
        kp.pools.stream(tmp_path / "a.cif")
    (tmp_path / "a.db").write_text("no database at all")
    with pytest.raises(DataError, match="ASE database"):
        kp.pools.stream(tmp_path / "a.db")


def test_factors_by_tasks_equal_those_of_one_pass(monkeypatch):
    # Small tasks, so that triangles are merged over several rounds; the workers' code runs here.
    monkeypatch.setattr(training, "ATOMS_PER_TASK", 8)
    monkeypatch.setattr(training, "spread", lambda work, items, **_: map(work, items))
    one, two = spec("cv").fit(TRAIN), spec("cv").fit(TRAIN, workers=2)
    a, b = one.predict([TEST]), two.predict([TEST])
    np.testing.assert_allclose(b.energy, a.energy, rtol=1e-8)
    np.testing.assert_allclose(b.forces[0], a.forces[0], atol=1e-8)
    np.testing.assert_allclose(b.forces_std[0], a.forces_std[0], rtol=1e-6)
    assert two.fitted_.n_labels == one.fitted_.n_labels
    assert two.cross_validation_ == pytest.approx(one.cross_validation_, rel=1e-6)


@pytest.mark.slow
def test_two_processes_agree_with_one(files):
    pytest.importorskip("distributed")
    stream = kp.pools.stream(files)
    one, two = spec().fit(stream), spec().fit(stream, workers=2)
    a, b = one.predict([TEST]), two.predict([TEST])
    np.testing.assert_allclose(b.energy, a.energy, rtol=1e-8)
    np.testing.assert_allclose(b.forces[0], a.forces[0], atol=1e-8)


def test_workers_are_checked():
    with pytest.raises(ParameterError, match="`workers`"):
        spec().fit(TRAIN, workers=-1)
    with pytest.raises(ParameterError, match="`scheduler`"):
        spec().fit(TRAIN, scheduler="here")


@pytest.mark.parametrize("make_model", [potentials.copper_gold, potentials.four_metals, potentials.silicon])
def test_a_few_centres_at_a_time_give_what_all_at_once_give(make_model):
    """Species in every order, blocks that end within a structure, an isolated atom, one atom."""
    model = make_model()
    species = model.species_
    rng = np.random.default_rng(0)
    large = make.copper(1).repeat((4, 4, 3))
    large.numbers = rng.choice(species, size=len(large))
    alone = make.isolated("Cu")
    alone.numbers[:] = species[0]
    structures = [large, alone, large[:7], make.copper(2)]
    structures[3].numbers[:] = species[-1]
    batch = Batch.from_structures(structures, model.cutoff_, skin=0.3)
    blocks, whole = model.state.mean(batch), model.state.mean_described(model.state.features.describe(batch))
    for name in ("energy", "local_energy", "forces", "stress"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=1e-9, atol=1e-10)


def test_memory_of_a_prediction_is_that_of_its_pairs():
    """Vectors of all atoms of 20,000 would be 20 MB here; those of a block are 60 KB."""
    model = potentials.copper_gold()
    batch = Batch.from_structures([make.copper(1).repeat((10, 10, 10))], model.cutoff_)
    model.mean(batch)
    tracemalloc.start()
    model.mean(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pairs = 8 * 3 * len(batch.first)
    assert peak < 4 * pairs + 8 * 20 * batch.n_atoms


@pytest.mark.parametrize("gram", [prior.GRAM_BYTES, 0], ids=["moments", "blocks"])
@pytest.mark.parametrize(
    "terms",
    [
        [small_soap(), kp.TwoBody(4.0)],
        [symmetry_functions(), kp.TwoBody(4.0)],
        kp.Term(small_soap(), kp.DotProduct(2, centres=ElementChannels.modes(2))),
        kp.Term(small_soap(), kp.DotProduct(3)),
    ],
    ids=["SOAP and pairs", "ACSF and pairs", "coupled", "zeta 3"],
)
def test_standard_deviations_of_a_large_structure_come_piece_by_piece(terms, gram, monkeypatch):
    model = kp.SparseGP(terms, n_inducing=12, noise=NOISE).fit(TRAIN[:20])
    for atoms in (TRAIN[1].repeat((4, 2, 2)), TEST):
        whole = model.predict([atoms])
        with monkeypatch.context() as small:
            small.setattr(extrapolation, "PART", 7)
            small.setattr(prior, "WHOLE", 20)
            small.setattr(prior, "CENTRES", 16)
            small.setattr(prior, "GRAM_BYTES", gram)
            pieces = model.predict([atoms])
        for name in ("energy_std", "forces_std", "stress_std", "local_energy_std"):
            one, two = np.array(getattr(whole.latent, name)), np.array(getattr(pieces.latent, name))
            np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(pieces.extrapolation[0], whole.extrapolation[0], rtol=1e-8)


def test_standard_deviations_take_memory_that_hardly_grows_with_the_atoms(monkeypatch):
    model = spec().fit(TRAIN[:20])
    monkeypatch.setattr(extrapolation, "PART", 16)
    monkeypatch.setattr(prior, "WHOLE", 64)
    peaks = []
    for n in (4, 8):
        atoms = TRAIN[1].repeat((n, 4, 4))
        model.predict([atoms])
        tracemalloc.start()
        model.predict([atoms])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (4 * 16 * len(TRAIN[1])) < 10_000, peaks

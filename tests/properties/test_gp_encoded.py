"""Gaussian processes and classifiers of structures that were described once."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from sklearn.model_selection import GridSearchCV, cross_val_predict

import kernelpot as kp
from kernelpot.archive import read_archive, write_archive
from kernelpot.errors import DataError, ModelFileError, SpeciesError
from kernelpot.structures import structure_kernel
from tests import structures as make
from tests.numbers import same

SOAP = kp.SOAP(cutoff=3.5, n_max=2, l_max=1)
ONE = kp.StructureKernel(SOAP, kp.Gaussian(0.5))
TWO = kp.StructureKernel(SOAP, combine="average", normalise=True)
OTHER = kp.StructureKernel(kp.SOAP(cutoff=3.0, n_max=2, l_max=1), kp.Gaussian(0.5))
CRYSTALS = make.copper_gold_set(16, kinds=("energy",))
ENERGIES = np.array([atoms.get_potential_energy() for atoms in CRYSTALS])
GOLD = np.array([np.mean(atoms.numbers == 79) > 0.4 for atoms in CRYSTALS])
TRAIN, TEST = np.arange(12), np.arange(12, 16)
KERNELS = {"one": ONE, "sum": ONE + 0.3 * TWO, "pair": ONE + OTHER, "list": [ONE, TWO]}


def encoded_by(kernel, structures):
    return (kernel[0] if isinstance(kernel, list) else kernel).encode(structures)


def some(structures, chosen):
    return [structures[k] for k in chosen]


@pytest.fixture
def described(monkeypatch):
    """Count the calls that describe structures."""
    calls = []
    whole = structure_kernel.encode
    monkeypatch.setattr(structure_kernel, "encode", lambda *given: calls.append(len(given[1])) or whole(*given))
    return calls


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("inducing", [None, 6])
def test_a_process_of_them_is_that_of_the_structures(name, inducing, tmp_path, described):
    kernel = KERNELS[name]
    settings = {"mean": "composition", "search": {"starts": 1}, "n_inducing": inducing}
    plain = kp.GP(kernel, **settings).fit(some(CRYSTALS, TRAIN), ENERGIES[TRAIN])
    encoded, test = encoded_by(kernel, CRYSTALS), some(CRYSTALS, TEST)
    described.clear()
    model = kp.GP(kernel, **settings).fit(encoded[TRAIN], ENERGIES[TRAIN])
    results = model.predict(encoded[TEST]), model.std(encoded[TEST]), model.sample(encoded[TEST], 2)
    space = model.prepare(encoded)
    rows = space.information(encoded[TEST]).rows
    assert described == []
    for result, expected in zip(results, (plain.predict(test), plain.std(test), plain.sample(test, 2)), strict=True):
        same(result, expected, tolerance=1e-6)
    same(rows @ rows.T, (other := plain.prepare(CRYSTALS).information(test).rows) @ other.T, tolerance=1e-6)
    same(model.predict(test), results[0], tolerance=1e-9)
    model.save(tmp_path / "gp.kp")
    again = kp.load(tmp_path / "gp.kp")
    same(again.predict(test), results[0], tolerance=1e-9)
    same(again.std(encoded[TEST]), results[1], tolerance=1e-9)


@pytest.mark.parametrize("name", ["one", "pair"])
def test_a_classifier_of_them_is_that_of_the_structures(name, tmp_path, described):
    kernel = KERNELS[name]
    plain = kp.Classifier(kernel, search={"starts": 1}).fit(some(CRYSTALS, TRAIN), GOLD[TRAIN])
    encoded = encoded_by(kernel, CRYSTALS)
    described.clear()
    model = kp.Classifier(kernel, search={"starts": 1}, reject=0.8).fit(encoded[TRAIN], GOLD[TRAIN])
    found = model.predict_proba(encoded[TEST])
    rows = model.prepare(encoded).information(encoded[TEST]).rows
    assert described == []
    same(found, plain.predict_proba(some(CRYSTALS, TEST)), tolerance=1e-6)
    same(rows @ rows.T, (other := plain.prepare(CRYSTALS).information(some(CRYSTALS, TEST)).rows) @ other.T, 1e-6)
    model.save(tmp_path / "m.kp")
    again = kp.load(tmp_path / "m.kp")
    np.testing.assert_allclose(again.predict_proba(some(CRYSTALS, TEST)), found, atol=1e-9)
    again.save(tmp_path / "n.kp")
    assert (tmp_path / "n.kp").read_bytes() == (tmp_path / "m.kp").read_bytes()


def test_a_pool_without_labels(described):
    encoded = ONE.encode(CRYSTALS)
    described.clear()
    for model in (kp.GP(ONE), kp.Classifier(ONE)):
        rows = model.prepare(encoded, n_inducing=8).information(encoded).rows
        assert described == []
        other = model.prepare(CRYSTALS, n_inducing=8).information(CRYSTALS).rows
        described.clear()
        same(rows @ rows.T, other @ other.T, tolerance=1e-6)


def test_a_search_describes_structures_once(described):
    grid = {"kernel__kernel__length": [0.3, 0.8]}
    encoded = ONE.encode(CRYSTALS)
    searches = [
        GridSearchCV(kp.GP(ONE, search={"starts": 1}, mean="composition"), grid, cv=3).fit(encoded, ENERGIES),
        GridSearchCV(kp.Classifier(ONE, search={"starts": 1}), grid, cv=3, scoring="neg_log_loss").fit(encoded, GOLD),
    ]
    assert described == [16]
    plain = GridSearchCV(kp.GP(ONE, search={"starts": 1}, mean="composition"), grid, cv=3).fit(CRYSTALS, ENERGIES)
    same(searches[0].cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], tolerance=1e-6)
    model = kp.Classifier(ONE, search={"starts": 1})
    one, other = (cross_val_predict(model, x, GOLD, cv=3, method="predict_proba") for x in (encoded, CRYSTALS))
    same(one, other, tolerance=1e-6)


def test_what_does_not_fit_is_refused():
    encoded = ONE.encode(CRYSTALS)
    with pytest.raises(DataError, match="encoded with another descriptor"):
        kp.GP(OTHER).fit(encoded, ENERGIES)
    with pytest.raises(DataError, match="encoded with another descriptor"):
        kp.GP([ONE, OTHER]).fit(encoded, ENERGIES)
    with pytest.raises(DataError, match="encoded by a sum or product of kernels"):
        kp.GP(ONE).fit((ONE + OTHER).encode(CRYSTALS), ENERGIES)
    with pytest.raises(DataError, match="at least 2"):
        kp.GP(ONE).fit(encoded[:1], ENERGIES[:1])
    with pytest.raises(DataError, match="inconsistent"):
        kp.GP(ONE).fit(encoded, ENERGIES[:-1])
    mixed = ONE.encode([*(bulk("Cu", a=a, cubic=True) for a in (3.5, 3.6, 3.7)), CRYSTALS[0]])
    model = kp.GP(ONE, mean="composition", search=False).fit(mixed[:3], [1.0, 0.5, 2.0])
    with pytest.raises(SpeciesError, match="structure 1 holds element 79"):
        model.predict(mixed[[0, 3]])


ALTERED = [
    lambda h, a: h.update(items="x"),
    lambda h, a: h.update(items="structures"),
    lambda h, a: h.update(items="pairs"),
    lambda h, a: h["parameters"].update(mean="zero"),
    lambda h, a: a["items_numbers"].fill(13),
    lambda h, a: a["items_vectors"].fill(np.nan),
    lambda h, a: a["items_offsets"].fill(0),
    lambda h, a: a.update(items_offsets=a["items_offsets"][[0, *range(2, 13)]]),
]


@pytest.mark.parametrize("number", range(len(ALTERED)))
def test_altered_files_are_refused(number, tmp_path):
    kp.GP(ONE, search=False).fit(ONE.encode(CRYSTALS)[TRAIN], ENERGIES[TRAIN]).save(tmp_path / "gp.kp")
    archive = read_archive(tmp_path / "gp.kp")
    header = {k: v for k, v in archive.header.items() if k not in ("format", "version")}
    arrays = {name: array.copy() for name, array in archive.arrays.items()}
    ALTERED[number](header, arrays)
    write_archive(tmp_path / "other.kp", "kernelpot-gp", 1, header, arrays)
    with pytest.raises(ModelFileError):
        kp.load(tmp_path / "other.kp")

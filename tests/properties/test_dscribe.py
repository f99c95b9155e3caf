"""The adapter: every descriptor of DScribe, in pipelines and in structure kernels; its errors as ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, ParameterError
from tests import structures as make

dscribe = pytest.importorskip("dscribe.descriptors")

SPECIES = ["C", "H", "O"]
MBTR = {
    "geometry": {"function": "inverse_distance"},
    "grid": {"min": 0.0, "max": 1.0, "n": 20, "sigma": 0.05},
    "weighting": {"function": "exp", "scale": 0.5, "threshold": 1e-3},
    "species": SPECIES,
}
SETTINGS = {
    "CoulombMatrix": {"n_atoms_max": 10},
    "SineMatrix": {"n_atoms_max": 10},
    "EwaldSumMatrix": {"n_atoms_max": 10},
    "MBTR": MBTR,
    "periodic MBTR": {**MBTR, "periodic": True},
    "LMBTR": MBTR,
    "ValleOganov": {"species": SPECIES, "function": "distance", "n": 20, "sigma": 0.1, "r_cut": 4.0},
    "SOAP": {"r_cut": 4.0, "n_max": 3, "l_max": 2, "species": SPECIES},
    "averaged SOAP": {"r_cut": 4.0, "n_max": 3, "l_max": 2, "species": SPECIES, "average": "inner"},
    "ACSF": {"r_cut": 4.0, "species": SPECIES, "g2_params": [[1.0, 0.0]], "g4_params": [[1.0, 1.0, 1.0]]},
}
LOCAL = ("LMBTR", "SOAP", "ACSF")
Y = np.arange(6.0)


def adapter(name):
    return kp.properties.DScribe(getattr(dscribe, name.split()[-1])(**SETTINGS[name]))


@pytest.fixture(scope="module")
def molecules():
    result = [make.ethanol(k) for k in range(6)]
    for atoms in result:
        atoms.set_cell([8.0, 8.0, 8.0])
        atoms.pbc = True
    return result


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_make_the_same_descriptor(name, molecules):
    first = adapter(name)
    second = kp.properties.DScribe.from_settings(json.loads(json.dumps(first.settings())))
    assert second.settings() == first.settings()
    assert second.n_features == first.n_features
    a, b = (kp.StructureKernel(d, kp.properties.VectorKernel("rbf")).matrix(molecules) for d in (first, second))
    np.testing.assert_array_equal(a, b)
    assert np.linalg.eigvalsh(a)[0] > -1e-12


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in LOCAL])
def test_descriptors_of_structures_are_features(name, molecules):
    features = clone(adapter(name)).fit_transform(molecules)
    assert features.shape == (6, adapter(name).n_features)
    if name in ("CoulombMatrix", "averaged SOAP"):
        expected = adapter(name).descriptor.create(molecules)
        np.testing.assert_allclose(features, expected)
    kernel = kp.StructureKernel(adapter(name), kp.properties.VectorKernel("laplacian", length=2.0), combine="average")
    np.testing.assert_allclose(
        kernel.matrix(molecules), kp.properties.VectorKernel("laplacian", length=2.0).matrix(features), rtol=1e-12
    )
    with pytest.raises(ParameterError, match="describes whole structures"):
        adapter(name).environments(Batch.from_structures(molecules, 4.0))


@pytest.mark.parametrize("name", ["SOAP", "ACSF"])
def test_descriptors_of_environments_are_vectors(name, molecules):
    descriptor = adapter(name)
    assert (descriptor.species, descriptor.cutoff) == ((1, 6, 8), 4.0)
    found = descriptor.environments(Batch.from_structures(molecules, 4.0)).vectors
    expected = np.concatenate(descriptor.descriptor.create(molecules))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(ParameterError, match="describes environments; give it to a StructureKernel"):
        descriptor.transform(molecules)
    with pytest.raises(ParameterError, match="no derivatives"):
        descriptor.environments(Batch.from_structures(molecules, 4.0)).displacements(0, 1)
    with pytest.raises(ParameterError, match="no derivatives"):
        descriptor.environments(Batch.from_structures(molecules, 4.0)).vjp(found)


def test_one_vector_counts_as_one_environment_and_atoms_stay_known(molecules):
    kernel = kp.StructureKernel(adapter("CoulombMatrix"), kp.properties.VectorKernel("rbf"))
    encoded = kernel.encode([*molecules, make.isolated("O")])
    np.testing.assert_array_equal(encoded.n_atoms, [9] * 6 + [1])
    np.testing.assert_array_equal(encoded[[6, 0]].counts((6, 8)), [[0, 1], [2, 1]])
    model = kp.KernelRidge(kernel, mean="composition").fit(encoded, np.arange(7.0))
    np.testing.assert_array_equal(model.prepare(encoded).information(encoded).n_atoms, encoded.n_atoms)
    np.testing.assert_array_equal(model.prepare(encoded).information(encoded).means, encoded.vectors)


def test_pipelines_and_searches_take_lists_of_structures(molecules):
    model = make_pipeline(adapter("CoulombMatrix"), StandardScaler(), kp.KernelRidge("laplacian", alpha=1e-10))
    np.testing.assert_allclose(model.fit(molecules, Y).predict(molecules), Y, atol=1e-6)
    grid = {"kernelridge__alpha": [1e-8, 1.0], "dscribe": [adapter("CoulombMatrix"), adapter("averaged SOAP")]}
    assert GridSearchCV(model, grid, cv=3).fit(molecules, Y).predict(molecules).shape == (6,)


def test_errors_of_dscribe_are_ours(molecules):
    with pytest.raises(DataError, match=r"structure 1 \(from 0\): DScribe's CoulombMatrix refuses it"):
        kp.properties.DScribe(dscribe.CoulombMatrix(n_atoms_max=3)).transform([make.isolated("O"), molecules[0]])
    with pytest.raises(DataError, match="DScribe's SOAP refuses it"):
        kp.StructureKernel(adapter("SOAP")).matrix([make.copper(0)])
    with pytest.raises(ParameterError, match="`descriptor` must be an object of one of DScribe's"):
        kp.properties.DScribe(kp.SOAP()).fit(molecules)
    with pytest.raises(ParameterError, match="`descriptor` must be dense"):
        kp.properties.DScribe(dscribe.SOAP(**SETTINGS["SOAP"], sparse=True)).fit(molecules)
    with pytest.raises(DataError, match="put it into a list"):
        adapter("CoulombMatrix").transform(molecules[0])
    with pytest.raises(ParameterError, match="made for elements"):
        adapter("SOAP").with_species((29,))
    broken = molecules[0].copy()
    broken.positions[0] = np.nan
    with pytest.raises(DataError, match="must be finite"):
        adapter("CoulombMatrix").transform([broken])
    with pytest.raises(ValueError, match="no descriptor of the name"):
        kp.properties.DScribe.from_settings({"class": "System", "arguments": {}})

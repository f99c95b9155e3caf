"""Means and sums of environment vectors as features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import NotFittedError, ParameterError, SpeciesError
from tests import structures as make

SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2)
CRYSTALS = [*(make.copper_gold(k) for k in range(4)), make.copper(1), make.slab(2)]


@pytest.mark.parametrize("combine", ["average", "sum"])
@pytest.mark.parametrize("by_element", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_rows_are_means_or_sums_over_atoms(combine, by_element, unit):
    features = kp.properties.StructureFeatures(SOAP, combine=combine, by_element=by_element, unit=unit)
    found = features.fit_transform(CRYSTALS)
    batch = Batch.from_structures(CRYSTALS, 3.5)
    x = SOAP.with_species((29, 79)).values(batch)
    x = x / np.linalg.norm(x, axis=1)[:, None] if unit else x
    for s in range(len(batch)):
        blocks = []
        for z in (29, 79) if by_element else (None,):
            mine = x[(batch.structure == s) & ((batch.numbers == z) | (z is None))]
            blocks.append(mine.sum(0) / (max(len(mine), 1) if combine == "average" else 1))
        np.testing.assert_allclose(found[s], np.concatenate(blocks), atol=1e-12)
    encoded = kp.StructureKernel(SOAP).encode(CRYSTALS)
    np.testing.assert_allclose(features.fit(encoded).transform(encoded), found, atol=1e-14)


def test_pipelines():
    y = np.array([atoms.get_volume() for atoms in CRYSTALS])
    model = make_pipeline(kp.properties.StructureFeatures(SOAP), StandardScaler(), kp.KernelRidge("rbf", alpha=1e-9))
    model.set_params(structurefeatures__descriptor__cutoff=4.0)
    np.testing.assert_allclose(model.fit(CRYSTALS, y).predict(CRYSTALS), y, rtol=1e-5)
    with pytest.raises(SpeciesError, match="never seen"):
        model.predict([make.silicon(0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combine": "max"}, "`combine` must be one of"),
        ({"by_element": 1}, "`by_element` must be True or False"),
        ({"unit": "yes"}, "`unit` must be True or False"),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ParameterError, match=message):
        kp.properties.StructureFeatures(SOAP, **settings).fit(CRYSTALS)


def test_bad_use_is_named():
    with pytest.raises(NotFittedError, match="StructureFeatures is not fitted yet"):
        kp.properties.StructureFeatures(SOAP).transform(CRYSTALS)
    with pytest.raises(ParameterError, match="at least one structure"):
        kp.properties.StructureFeatures(SOAP).fit([])
    dscribe = pytest.importorskip("dscribe.descriptors")
    with pytest.raises(ParameterError, match="must describe environments"):
        kp.properties.StructureFeatures(kp.properties.DScribe(dscribe.CoulombMatrix(n_atoms_max=9))).fit(CRYSTALS)

"""Maps without some inducing environments: the same kernel as maps made without them."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.features.sum_map import owners, without_fold
from tests import potentials
from tests import structures as make

TRAIN = [make.copper_gold(k) for k in range(6)]
PLACES = [(s, i) for s in range(6) for i in (0, 1, 3)]


def features(places, several: bool = False):
    terms = [kp.TwoBody(cutoff=4.0), potentials.small_soap()] if several else potentials.small_soap()
    spec = kp.SparseGP(terms, kp.DotProduct(2), n_inducing=20, noise=potentials.NOISE)
    return spec.prepare(TRAIN, environments=places).features_


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("fold", [0, 1])
def test_a_thinned_map_has_the_kernel_of_a_map_made_without(fold, several):
    folds = np.array([0, 1, 0, 1, 0, 1])
    whole = features(PLACES, several)
    thin, basis = without_fold(whole, owners(whole, TRAIN, folds), fold)
    exact = features([place for place in PLACES if folds[place[0]] != fold], several)
    batch = Batch.from_structures([make.copper_gold(20), make.copper_gold(21)], whole.cutoff)
    gram = {}
    for name, one in (("whole", whole), ("thin", thin), ("exact", exact)):
        described = one.describe(batch)
        rows = one.whiten(one.rows(described, ("forces",)).forces)
        gram[name] = rows @ rows.T
        if name == "whole":
            assert rows @ basis == pytest.approx(
                thin.whiten(thin.rows(thin.describe(batch), ("forces",)).forces), abs=1e-8
            )
    assert gram["thin"] == pytest.approx(gram["exact"], abs=1e-7 * np.abs(gram["exact"]).max())
    assert not np.allclose(gram["whole"], gram["exact"], rtol=1e-4)
    assert basis.T @ basis == pytest.approx(np.eye(basis.shape[1]), abs=1e-10)


def test_environments_that_other_folds_hold_too_stay():
    twice = [*TRAIN[:3], make.turned(TRAIN[0], make.rotation(2))]
    spec = potentials.model(20).prepare(twice, environments=[(0, i) for i in range(4)])
    own = owners(spec.features_, twice, np.array([0, 1, 1, 2]))
    assert all(mine[:, [0, 2]].all() for mine in own[0])
    thin, basis = without_fold(spec.features_, own, 0)
    assert thin.n_weights == spec.features_.n_weights
    assert basis == pytest.approx(np.eye(thin.n_weights))

"""The bootstrap committee: members equal fits to what they drew."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.potentials.resampling import Bootstrap, draws
from kernelpot.potentials.sparse_gp import LinearModel
from tests import structures as make
from tests.potentials import NOISE, model, small_soap

TRAIN = make.copper_gold_set(7)


@pytest.fixture(scope="module")
def committee() -> Bootstrap:
    return Bootstrap(model(12), n_members=6, seed=3).fit([*TRAIN, make.labelled([make.slab(2)])[0]])


def test_a_member_is_a_fit_to_what_it_drew(committee):
    structures = [*TRAIN, make.labelled([make.slab(2)])[0]]
    weights = draws(np.arange(len(structures)), 6, 3)
    state = committee.model.fitted_
    for member, weight in list(zip(committee.members_, weights, strict=True))[:2]:
        repeated = [atoms for atoms, n in zip(structures, weight, strict=True) for _ in range(int(n))]
        again = model(12).prepare(structures)
        again.features_ = state.features
        again.fit(repeated)
        # The least-squares energy constants of the draw differ; the prior is centred on those of all structures.
        test = make.copper_gold(50)
        forces = again.predict([test], uncertainty=False).forces[0]
        committee_forces = member.mean(_batch(member, test)).forces
        np.testing.assert_allclose(committee_forces, forces, atol=5e-3 * np.abs(forces).max())


def _batch(state, atoms):
    from kernelpot.data.batch import Batch

    return Batch.from_structures([atoms], state.features.cutoff)


def test_the_spread_is_that_of_the_members(committee):
    test = [make.copper_gold(51), make.ethanol(0)][:1]
    prediction = committee.predict(test)
    energies = [member.mean(_batch(member, test[0])).energy[0] for member in committee.members_]
    assert prediction.latent.energy_std[0] == pytest.approx(np.std(energies, ddof=1))
    assert prediction.energy[0] == committee.model.predict(test).energy[0]
    noise = committee.model.fitted_.calibration.noise["energy"] * len(test[0])
    assert prediction.energy_std[0] == pytest.approx(np.hypot(np.std(energies, ddof=1), noise))
    scores = kp.evaluate(committee, make.labelled(test))
    assert 0.0 <= scores.overall["forces"].coverage_95 <= 1.0


def test_far_structures_spread_more(committee):
    near = committee.predict(TRAIN[:3]).latent
    far = [atoms.copy() for atoms in TRAIN[:3]]
    for atoms in far:
        atoms.set_cell(0.85 * atoms.cell.array, scale_atoms=True)
    assert (committee.predict(far).latent.energy_std > near.energy_std).all()


def test_equal_structures_are_drawn_together():
    weights = draws(np.array([0, 0, 1, 2, 2, 2]), 50, 1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert weights[:, [0, 2, 3]].sum(axis=1) == pytest.approx(3.0)


def test_draws_repeat_with_the_seed():
    one = Bootstrap(model(8), n_members=2, seed=1).fit(TRAIN).predict(TRAIN[:1]).energy_std
    two = Bootstrap(model(8), n_members=2, seed=1).fit(TRAIN).predict(TRAIN[:1]).energy_std
    other = Bootstrap(model(8), n_members=2, seed=2).fit(TRAIN).predict(TRAIN[:1]).energy_std
    assert one[0] == two[0] != other[0]


def test_a_linear_model_and_molecules_make_a_committee_too():
    train = make.labelled([make.ethanol(k) for k in range(6)])
    found = Bootstrap(LinearModel(small_soap(), noise=NOISE), n_members=3).fit(train).predict(train[:2])
    assert np.isnan(found.stress_std).all()
    assert (found.forces_std[0] > 0).all()


def test_bad_input():
    with pytest.raises(ParameterError, match="`n_members`"):
        Bootstrap(model(8), n_members=1)
    with pytest.raises(ParameterError, match="`model`"):
        Bootstrap(3)
    with pytest.raises(NotFittedError, match="never fitted"):
        Bootstrap(model(8)).predict(TRAIN)

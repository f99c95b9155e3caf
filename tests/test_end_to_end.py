"""From files to chosen structures, a potential, its scores and a moving atom."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.io import write
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from tests import potentials
from tests import structures as make


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train.xyz", make.copper_gold_set(16))
    write(folder / "test.xyz", make.copper_gold_set(5, seed=1))
    return folder


def test_read_choose_fit_evaluate_save_and_move(files, tmp_path):
    pool, test = (kp.read(files / name, verbose=False) for name in ("train.xyz", "test.xyz"))
    spec = potentials.model(30, noise=kp.Noise(0.002, 0.05))

    # Choosing sees no labels.
    space = spec.prepare(pool)
    started, rest = pool[:2], pool[2:]
    known = space.information(started, labels="present")
    choice = kp.design.select(space.information(rest), n=6, existing=known)
    assert len(choice.curve) == 7
    assert np.all(np.diff(choice.curve) < 0)
    train = started + [rest[k] for k in choice.indices]
    assert len({id(atoms) for atoms in train}) == 8

    # Labels come in; the prepared set stays.
    model = space.fit(train)
    scores = kp.evaluate(model, test).overall
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in test])
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in test])
    assert scores["energy"].rmse < energies.std()
    assert scores["forces"].rmse < 0.5 * forces.std()
    assert scores["forces"].coverage_95 > 0.7

    model.save(tmp_path / "model.kp")
    loaded = kp.load(tmp_path / "model.kp")
    atoms = pool[3].repeat((2, 1, 1))
    atoms.calc = kp.Calculator(loaded)
    assert atoms.get_potential_energy() == pytest.approx(model.predict([atoms]).energy[0], abs=1e-9)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=1 * units.fs).run(10)
    assert atoms.get_total_energy() == pytest.approx(before, abs=0.02)


def test_more_labels_make_the_potential_better_and_surer(files):
    pool, test = (kp.read(files / name, verbose=False) for name in ("train.xyz", "test.xyz"))
    space = potentials.model(60).prepare(pool)
    few = space.fit(pool[:4])
    few_scores, few_std = kp.evaluate(few, test).overall, few.predict(test).latent.energy_std
    many = few.condition(pool[4:])
    assert kp.evaluate(many, test).overall["forces"].rmse < few_scores["forces"].rmse
    assert (many.predict(test).latent.energy_std < few_std).all()


def test_the_order_of_training_structures_does_not_matter(files):
    pool = kp.read(files / "train.xyz", verbose=False)
    space = potentials.model(24).prepare(pool)
    one = space.fit(pool).predict(pool[:2], uncertainty=False)
    other = space.fit(pool[::-1]).predict(pool[:2], uncertainty=False)
    np.testing.assert_allclose(one.energy, other.energy, atol=1e-8)
    np.testing.assert_allclose(one.forces[0], other.forces[0], atol=1e-8)

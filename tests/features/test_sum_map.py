"""Sums of terms: rows, energies and residuals are those of the terms, scaled."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.descriptors.pairs import PairFunctions, grid_of
from kernelpot.features.feature_map import dense_local_values
from kernelpot.features.two_body_map import TwoBodyMap
from tests import structures as make
from tests.potentials import NOISE, small_soap

PAIRS = kp.TwoBody(cutoff=4.5, length=0.8, amplitude=0.7)
CASES = {
    "alloy": [make.copper_gold(k) for k in range(4)] + [make.slab(1)],
    "molecule": [make.ethanol(k) for k in range(3)],
    "crystal": [make.silicon(0), make.tiny_cell(1)][:1],
}


def sum_model(n_inducing: int = 16, **settings: object) -> kp.SparseGP:
    terms = [
        PAIRS,
        kp.Term(small_soap(), kp.DotProduct(2, 0.5)),
        kp.Term(small_soap(), kp.DotProduct(3, 2.0), n_inducing=6),
        kp.Term(small_soap(2.9)),
    ]
    return kp.SparseGP(terms, n_inducing=n_inducing, **{"noise": NOISE, **settings})


@pytest.fixture(scope="module")
def alloy() -> kp.SparseGP:
    return sum_model().fit(make.labelled([make.copper_gold(k) for k in range(6)]))


@pytest.mark.parametrize("name", CASES)
def test_two_body_energy_is_the_sum_over_pairs(name):
    structures = CASES[name]
    species = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
    features = TwoBodyMap(PAIRS.with_species(species))
    weights = np.random.default_rng(0).normal(size=features.n_columns)
    blocks = {
        pair: weights[k * features.n_functions : (k + 1) * features.n_functions]
        for k, pair in enumerate((a, b) for i, a in enumerate(species) for b in species[i:])
    }
    batch = Batch.from_structures(structures, PAIRS.cutoff)
    described = features.describe(batch)
    rows = features.rows(described, ("forces", "stress"))
    size = {"cutoff": PAIRS.cutoff, "n_max": features.n_functions, "l_max": 0, "sigma": PAIRS.length}
    for s, atoms in enumerate(structures):
        total = 0.0
        reach = [np.arange(-4, 5) if p else [0] for p in atoms.pbc]
        for shift in np.stack(np.meshgrid(*reach), -1).reshape(-1, 3) @ atoms.cell.array:
            for i, z in enumerate(atoms.numbers):
                d = np.linalg.norm(atoms.positions + shift - atoms.positions[i], axis=1)
                for j in np.flatnonzero((d > 1e-9) & (d < PAIRS.cutoff)):
                    pair = tuple(sorted((int(z), int(atoms.numbers[j]))))
                    total += 0.5 * (PairFunctions().values(d[[j]], **size)[0, 0] @ blocks[pair])
        assert rows.energy[s] @ weights == pytest.approx(total, abs=1e-7 * np.abs(rows.energy[s]).sum())
    local, pairs = features.form(weights).local_and_pairs(described)
    np.testing.assert_allclose(batch.sum_per_structure(local), rows.energy @ weights, rtol=1e-10, atol=1e-12)
    forces = np.zeros((batch.n_atoms, 3))
    np.add.at(forces, batch.first, pairs)
    np.subtract.at(forces, batch.second, pairs)
    np.testing.assert_allclose(forces.ravel(), rows.forces @ weights, atol=1e-10 * np.abs(forces).max())
    values = dense_local_values(features, described)
    np.testing.assert_allclose(values @ weights, local, atol=1e-10 * np.abs(local).max())


def test_pair_prior_is_the_squared_exponential_that_fades():
    # φ(r)·φ(r') = f f' exp(-(r - r')²/2ℓ²): the grid leaves nothing out.
    n = grid_of(PAIRS.cutoff, PAIRS.length)[1].shape[1]
    r = np.linspace(0.1, PAIRS.cutoff, 37)
    phi = PairFunctions().values(r, cutoff=PAIRS.cutoff, n_max=n, l_max=0, sigma=PAIRS.length)[:, 0]
    x = r / PAIRS.cutoff
    f = 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5
    expected = f[:, None] * f * np.exp(-0.5 * ((r[:, None] - r) / PAIRS.length) ** 2)
    np.testing.assert_allclose(phi @ phi.T, expected, atol=2e-4)


def test_pairs_of_a_dimer_vanish_at_the_cutoff_with_two_derivatives():
    features = TwoBodyMap(PAIRS.with_species((29,)))
    form = features.form(np.random.default_rng(1).normal(size=features.n_columns))
    for gap, power in ((1e-2, 3), (5e-3, 3)):
        atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, PAIRS.cutoff - gap]])
        local, _ = form.local_and_pairs(features.describe(Batch.from_structures([atoms], 6.0)))
        assert abs(local.sum()) < 1e3 * gap**power


def test_rows_of_a_sum_are_those_of_its_terms_scaled(alloy):
    features = alloy.fitted_.features
    batch = Batch.from_structures([make.copper_gold(9), make.slab(2)], features.cutoff)
    described = features.describe(batch)
    rows = features.rows(described, ("forces", "stress"))
    white = features.whiten(rows.forces)
    start = 0
    for term, scale, width in zip(features.terms, features.scales, features.widths, strict=True):
        own = term.whiten(term.rows(term.describe(batch), ("forces",)).forces)
        np.testing.assert_allclose(white[:, start : start + width], scale * own, atol=1e-10 * np.abs(own).max())
        start += width
    assert features.n_weights == start
    w = np.random.default_rng(0).normal(size=features.n_weights)
    np.testing.assert_allclose(rows.energy @ features.unwhiten(w), features.whiten(rows.energy) @ w, rtol=1e-9)


def test_amplitudes_are_those_that_were_given(alloy):
    np.testing.assert_allclose(alloy.amplitudes_, (0.7, 0.5, 2.0, 1.0))
    assert alloy.n_inducing_ <= 16
    assert [term.n_inducing for term in alloy.fitted_.features.terms] == [0, 5, 6, 5]


@pytest.mark.parametrize("step", [1e-2, 3e-3, 1e-3])
def test_forces_and_stress_of_a_sum_are_derivatives(alloy, step):
    atoms = make.copper_gold(11)
    prediction = alloy.predict([atoms], uncertainty=False)

    def energy(moved: Atoms) -> float:
        return float(alloy.predict([moved], uncertainty=False).energy[0])

    def along(change) -> float:
        return (8 * (change(step / 2) - change(-step / 2)) - (change(step) - change(-step))) / (6 * step)

    for i, c in ((0, 0), (3, 2)):

        def shifted(h, i=i, c=c) -> float:
            moved = atoms.copy()
            moved.positions[i, c] += h
            return energy(moved)

        assert -along(shifted) == pytest.approx(prediction.forces[0][i, c], abs=2e-5)
    for v, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):

        def strained(h, a=a, b=b) -> float:
            moved = atoms.copy()
            strain = np.zeros((3, 3))
            strain[a, b] += h / 2
            strain[b, a] += h / 2
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            return energy(moved)

        assert along(strained) / atoms.get_volume() == pytest.approx(prediction.stress[0, v], abs=2e-5)


def test_posterior_of_a_sum_equals_the_textbook_gaussian_process(alloy):
    # Every environment inducing would make it exact; here the dense covariance is that of all features.
    state = alloy.fitted_
    features, train = state.features, make.labelled([make.copper_gold(k) for k in range(6)])
    test = [make.copper_gold(20), make.copper_gold(21)]

    def rows(structures):
        batch = Batch.from_structures(structures, features.cutoff)
        found = features.rows(features.describe(batch), ("forces", "stress"))
        e0 = state.e0_std * batch.counts(features.species)
        none = np.zeros((len(found.forces), e0.shape[1])), np.zeros((len(found.stress), e0.shape[1]))
        a = state.amplitude
        return (
            np.hstack([a * features.whiten(found.energy), e0]),
            np.hstack([a * features.whiten(found.forces), none[0]]),
            np.hstack([a * features.whiten(found.stress), none[1]]),
        ), batch

    (e, f, s), batch = rows(train)
    B = np.vstack([e, f, s])
    noise = np.concatenate([NOISE.energy * batch.sizes, np.full(len(f), NOISE.forces), np.full(len(s), NOISE.stress)])
    y = np.concatenate(
        [
            [
                a.get_potential_energy() - sum(state.e0_centre[features.species.index(z)] for z in a.numbers)
                for a in train
            ],
            np.concatenate([a.get_forces().ravel() for a in train]),
            np.concatenate([a.get_stress() for a in train]),
        ]
    )
    K = B @ B.T + np.diag(noise**2)
    (te, tf, _), _ = rows(test)
    prediction = alloy.predict(test)
    gain = np.linalg.solve(K, B)
    np.testing.assert_allclose(
        tf @ (gain.T @ y), np.concatenate(prediction.forces).ravel(), atol=1e-6 * np.abs(y).max()
    )
    C = te @ te.T - te @ gain.T @ B @ te.T
    batch = Batch.from_structures(test, features.cutoff)
    white = features.whiten(features.rows(features.describe(batch), ()).energy)
    extra = state.amplitude**2 * features.residual(features.describe(batch), "energy", white)
    np.testing.assert_allclose(np.sqrt(np.diag(C) + extra), prediction.latent.energy_std, rtol=1e-5)


def test_cross_validation_sets_the_amplitudes():
    train = make.labelled([make.copper_gold(k) for k in range(12)])
    found = sum_model(noise="cv").fit(train)
    alone = kp.SparseGP(small_soap(), n_inducing=8, noise="cv").fit(train)
    assert len(set(np.round(found.amplitudes_, 6))) == 4
    loss = sum(np.log(v) for v in found.cross_validation_.values())
    assert loss < sum(np.log(v) for v in alone.cross_validation_.values())


def test_a_sum_survives_its_file_and_conditions_like_a_refit(alloy, tmp_path):
    path = tmp_path / "sum.kp"
    alloy.save(path)
    again = kp.load(path)
    test = [make.copper_gold(30), make.slab(3)]
    one, two = alloy.predict(test), again.predict(test)
    np.testing.assert_array_equal(one.energy, two.energy)
    np.testing.assert_array_equal(one.forces_std[1], two.forces_std[1])
    assert repr(again.terms) == repr(alloy.terms)
    more = make.labelled([make.copper_gold(k) for k in range(6, 9)])
    prepared = sum_model().prepare([make.copper_gold(k) for k in range(6)])
    first = prepared.fit(make.labelled([make.copper_gold(k) for k in range(6)])).condition(more)
    whole = sum_model().prepare([make.copper_gold(k) for k in range(6)])
    whole.fit(make.labelled([make.copper_gold(k) for k in range(9)]))
    np.testing.assert_allclose(first.predict(test).energy, whole.predict(test).energy, rtol=1e-9)


@given(seed=st.integers(0, 2**16))
def test_a_sum_is_invariant(alloy, seed):
    rng = np.random.default_rng(seed)
    atoms = make.copper_gold(int(rng.integers(100)))
    turned = atoms[rng.permutation(len(atoms))]
    turn = Rotation.random(random_state=seed).as_matrix()
    turned.set_cell(turned.cell.array @ turn.T, scale_atoms=True)
    turned.positions += rng.normal(size=3)
    one, two = alloy.predict([atoms]), alloy.predict([turned])
    assert one.energy[0] == pytest.approx(two.energy[0], abs=1e-8)
    assert one.energy_std[0] == pytest.approx(two.energy_std[0], rel=1e-6)
    supercell = alloy.predict([atoms.repeat((2, 1, 1))], uncertainty=False)
    assert supercell.energy[0] == pytest.approx(2 * one.energy[0], abs=1e-8)


def test_pairs_alone_are_a_model():
    train = make.labelled([make.copper(k) for k in range(8)])
    model = kp.SparseGP(kp.TwoBody(cutoff=5.0), n_inducing=1, noise=NOISE).fit(train)
    atoms = make.labelled([make.copper(30)])[0]
    prediction = model.predict([atoms])
    assert np.abs(prediction.forces[0] - atoms.get_forces()).mean() < 0.3 * np.abs(atoms.get_forces()).mean()
    assert "functions of the distance" in model.summary()


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: kp.SparseGP([], n_inducing=5), "empty list"),
        (lambda: kp.SparseGP([3], n_inducing=5), "needs a descriptor"),
        (lambda: kp.Term(kp.TwoBody(), kp.DotProduct(2)), "takes no kernel"),
        (lambda: kp.Term(kp.SOAP(), 2), "`kernel` must be"),
        (lambda: kp.Term(kp.SOAP(), n_inducing=0), "`n_inducing`"),
        (lambda: kp.TwoBody(cutoff=-1.0), "`cutoff`"),
        (lambda: kp.TwoBody(cutoff="6"), "`cutoff`"),
        (lambda: kp.TwoBody(length=0.01), "`length`"),
        (lambda: sum_model(7).prepare([make.copper_gold(0)]), "at least one inducing"),
    ],
)
def test_bad_terms_are_named(make_it, message):
    with pytest.raises(kp.errors.ParameterError, match=message):
        make_it()

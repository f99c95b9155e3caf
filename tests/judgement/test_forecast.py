"""The forecast from a pilot, against refits and closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.design import expected_errors
from kernelpot.errors import LabelError, NotFittedError, ParameterError, SpeciesError
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.inference.left_out import LeftOut
from kernelpot.judgement.pilot import KindEvidence, Pilot, read_blocks, without_baseline
from kernelpot.judgement.unlabelled import coverage
from kernelpot.linalg.factor import Posterior
from tests.structures import copper, copper_gold, labelled, silicon

NOISE = kp.Noise(energy=0.005, forces=0.1, stress=0.01)
SPEC = kp.SparseGP(kp.SOAP(cutoff=4.0, n_max=3, l_max=2, sigma=0.6, channels=None), n_inducing=30, noise=NOISE)


@pytest.fixture(scope="module")
def structures():
    return labelled([copper_gold(seed) for seed in range(24)])


@pytest.fixture(scope="module")
def space(structures):
    return SPEC.prepare(structures)


def pilot_of(space, structures, groups=None):
    features, noise, amplitude = space.plan()
    blocks = read_blocks(features, structures, resolve(structures), noise.kinds, noise, amplitude)
    blocks = without_baseline(blocks, features.n_weights)
    groups = np.arange(len(blocks)) if groups is None else np.array(groups)
    return blocks, Pilot.of(blocks, groups, features.n_weights, noise)


def test_left_out_errors_equal_refits_and_the_closed_form(space, structures):
    blocks, found = pilot_of(space, structures[:6])
    width = blocks[0]["energy"].shape[1]
    prior = Posterior.prior(width - 1)
    whole = prior.condition([rows for block in blocks for rows in block.values()])
    for s in range(6):
        rest = prior.condition([rows for k in range(6) if k != s for rows in blocks[k].values()])
        stacked = np.concatenate(list(blocks[s].values()))
        B, y = stacked[:, :-1], stacked[:, -1]
        T = whole.project(B)
        closed = np.linalg.solve(np.eye(len(B)) - T @ T.T, y - B @ whole.mean)
        assert np.allclose(closed, y - B @ rest.mean, rtol=1e-4, atol=1e-4 * np.abs(closed).max())
        for kind in NOISE.kinds:
            rows = blocks[s][kind]
            sigma = NOISE.sigma(kind)
            refit = np.mean((rows[:, :-1] @ rest.mean - rows[:, -1]) ** 2)
            assert found.kinds[kind].left_out.squared[s] == pytest.approx(sigma**2 * refit, rel=1e-6)
            assert found.kinds[kind].left_out.variance[s] == pytest.approx(
                sigma**2 * rest.variance(rows[:, :-1]).mean(), rel=1e-6
            )


def test_duplicates_are_left_out_together(space, structures):
    doubled = [*structures[:5], structures[0]]
    together = pilot_of(space, doubled, [0, 1, 2, 3, 4, 0])[1].kinds["forces"].left_out
    alone = pilot_of(space, structures[:5])[1].kinds["forces"].left_out
    assert together.variance[0] == pytest.approx(alone.variance[0], rel=1e-6)
    assert pilot_of(space, doubled)[1].kinds["forces"].left_out.variance[0] < 0.8 * together.variance[0]


def test_expected_errors_are_the_latent_std_of_predictions(space, structures, monkeypatch):
    """Apart from the residual that no inducing environment sees, which predictions add."""
    # Plans count on no energy, so that constants are unknown to 10 eV; a fit knows their least squares.
    monkeypatch.setattr("kernelpot.potentials.fitting.e0_spread", lambda *_: E0_PRIOR)
    train, target = structures[:8], structures[8:14]
    curve = expected_errors(
        space.information(train, truncate=0.0), range(8), target=space.information(target, truncate=0.0), at=[8]
    )
    model = SPEC.prepare(structures).fit(train)
    state = model.fitted_
    features = state.features
    squares = {"energy": [], "forces": [], "stress": []}
    blocks = read_blocks(features, target, resolve(target), NOISE.kinds, NOISE, state.amplitude)
    for block in blocks:
        for kind, rows in block.items():
            squares[kind].append(NOISE.sigma(kind) ** 2 * state.posterior.variance(rows[:, :-1]))
    for kind, found in squares.items():
        assert curve.errors[kind][0] == pytest.approx(np.sqrt(np.mean(np.concatenate(found))), rel=1e-6)
    latent = model.predict(target).latent.energy_std / np.array([len(atoms) for atoms in target])
    assert curve.energy[0] <= np.sqrt(np.mean(latent**2)) * (1 + 1e-6)


def test_scales_are_found_where_errors_follow_the_model():
    """Errors drawn from the model itself, many of them, give back its scale and floor."""
    rng = np.random.default_rng(0)
    n = 3000
    kinds = {}
    for kind, noise in (("forces", 0.1), ("energy", 0.002)):
        variance = noise**2 * 10 ** rng.uniform(-2, 2, n)
        expected = 3.0**2 * variance + (0.5 * noise) ** 2
        squared = expected * rng.standard_normal(n) ** 2
        found = LeftOut.one_by_one(np.sqrt(squared), variance, noisy=False)
        kinds[kind] = KindEvidence(found, np.ones(n), (0.5 * noise) ** 2 * n, 0.0, noise)
    found = Pilot(kinds).scales({"forces": 1.0, "energy": 1.0})
    for kind, noise in (("forces", 0.1), ("energy", 0.002)):
        assert found.scale[kind] == pytest.approx(3.0, rel=0.1)
        assert found.floor[kind] == pytest.approx(0.5 * noise, rel=0.1)


def test_silent_structures_change_nothing():
    """Forces of perfect crystals: neither error nor variance."""

    def evidence(silent):
        squared, variance, signal = (
            np.append(np.full(8, value), np.full(silent, tiny))
            for value, tiny in ((0.04, 1e-20), (0.01, 1e-24), (1.0, 1e-22))
        )
        found = LeftOut(np.sqrt(squared), variance, np.arange(8 + silent), np.full(8 + silent, 12), noisy=False)
        return KindEvidence(found, signal, 1.0, 20.0, 0.1)

    bare = Pilot({"forces": evidence(0)}).scales({"forces": 1.0})
    more = Pilot({"forces": evidence(1)}).scales({"forces": 1.0})
    assert more.scale["forces"] == pytest.approx(bare.scale["forces"], rel=0.1)


def test_forecast_falls_and_never_below_its_floor(space, structures):
    found = kp.forecast(space, structures[:5], pool=structures[5:], n=[5, 8, 15])
    assert found.n.tolist() == [5, 8, 15]
    for kind in ("energy", "forces", "stress"):
        values = getattr(found, kind)
        assert (values >= found.floor[kind]).all()
        assert np.allclose(values**2, (found.scale[kind] * found.predicted[kind]) ** 2 + found.floor[kind] ** 2)
    assert (np.diff(found.forces) < 0).all()
    assert "pilot of 5" in str(found)
    choice = kp.design.select(space.information(structures[5:]), 2, existing=space.information(structures[:5]))
    assert found.path == f"{choice.method} {choice.criterion}" == "greedy balanced"
    assert json.loads(json.dumps(found.as_dict()))["n"] == [5, 8, 15]


def test_figures_come_with_a_range(space, structures):
    found = kp.forecast(space, structures[:5], pool=structures[5:], n=[5])
    value = 1e3 * float(found.errors["forces"][0])
    assert f"{value:.3g} ({value / 1.5:.2g} to {value * 1.5:.2g})" in str(found)
    assert "an eighth, where" in str(found)


def test_paths_and_targets(space, structures):
    pilot, pool = structures[:5], structures[5:]
    given = kp.forecast(space, pilot, pool=pool, n=[5, 8], path=[3, 1, 0], target=structures[-4:])
    again = kp.forecast(space, pilot, pool=pool, n=[5, 8], path=[3, 1, 0], target=structures[-4:])
    assert np.array_equal(given.forces, again.forces)
    exact = expected_errors(
        space.information(pool), [3, 1, 0], target=space.information(structures[-4:], truncate=0.0),
        existing=space.information(pilot, labels="present", truncate=0.0), at=[0, 3],
    )  # fmt: skip
    assert np.allclose(given.predicted["forces"], exact.forces, rtol=1e-6)
    random = kp.forecast(space, pilot, pool=pool, n=[5, 8], path="random", seed=1)
    assert (random.forces > 0).all()
    # All of the pool labelled: nothing unlabelled is left, so that the pool itself is what is predicted.
    assert np.isfinite(kp.forecast(space, pilot, pool=pool[:2], n=[7]).forces).all()


def test_numbers_of_labels_by_default_start_at_the_pilot_and_end_with_the_pool(space, structures):
    for n_pilot, n_pool, wanted in [(11, 13, [11, 20]), (4, 3, [4]), (10, 10, [10, 20]), (12, 5, [12])]:
        found = kp.forecast(space, structures[:n_pilot], pool=structures[n_pilot : n_pilot + n_pool])
        assert found.n.tolist() == wanted
    short = kp.forecast(space, structures[:5], pool=structures[5:], path=[2, 0, 1, 3, 4])
    assert short.n.tolist() == [5, 10]


def test_groups_that_the_pilot_lacks_are_named(space, structures):
    named = [atoms.copy() for atoms in structures]
    for k, atoms in enumerate(named):
        atoms.calc = structures[k].calc
        atoms.info["config_type"] = "crystal" if k < 12 else ("melt", "vacancy", "")[k % 3]
    found = kp.forecast(space, named[:5], pool=named[5:])
    assert found.missing == ("melt", "vacancy")
    assert "the pilot holds no melt, vacancy: there the forecast is a guess" in str(found)
    assert found.as_dict()["missing_groups"] == ["melt", "vacancy"]
    for pilot, target in [(named[:5], named[5:10]), (structures[:5], named)]:  # all held; no group named at all
        quiet = kp.forecast(space, pilot, pool=named[5:], target=target)
        assert quiet.missing == ()
        assert "holds no" not in str(quiet)


def test_labels_of_the_pool_are_not_looked_at(space, structures):
    bare = [atoms.copy() for atoms in structures[5:]]
    one = kp.forecast(space, structures[:5], pool=structures[5:], n=[7])
    other = kp.forecast(space, structures[:5], pool=bare, n=[7])
    assert np.array_equal(one.energy, other.energy)


def test_forecast_refuses_what_it_cannot_use(space, structures):
    pool = structures[5:]
    with pytest.raises(LabelError, match="at least 3 different structures, found 1"):
        kp.forecast(space, [structures[0]] * 4, pool=pool, n=[5])
    with pytest.raises(LabelError):
        kp.forecast(space, [atoms.copy() for atoms in structures[:5]], pool=pool, n=[5])
    with pytest.raises(ParameterError, match="`n` must lie between"):
        kp.forecast(space, structures[:5], pool=pool, n=[4])
    with pytest.raises(ParameterError, match="`path` must be"):
        kp.forecast(space, structures[:5], pool=pool, n=[6], path="best")
    with pytest.raises(ParameterError, match="different structures of the pool"):
        kp.forecast(space, structures[:5], pool=pool, n=[7], path=[1, 1])
    with pytest.raises(ParameterError, match="indices into the pool"):
        kp.forecast(space, structures[:5], pool=pool, n=[6], path=[99])
    with pytest.raises(SpeciesError):
        kp.forecast(space, structures[:5], pool=[silicon()], n=[5])
    with pytest.raises(NotFittedError):
        kp.forecast(SPEC, structures[:5], pool=pool, n=[5])


# elements and environments


def test_a_missing_element_is_wholly_unknown(structures):
    train = labelled([copper(seed) for seed in range(6)])
    space = SPEC.prepare([*structures, *train])
    found = coverage(space, train, structures, space.information(train))
    known = {one.number: one for one in found.species}
    assert known[79].in_train == 0
    assert known[79].share > 0.9
    assert (found.compositions, found.needed) == (1, 2)
    everything = coverage(space, structures, structures, space.information(structures))
    assert all(one.share < 0.6 for one in everything.species)
    assert everything.compositions == everything.needed == 2


def test_coverage_by_the_plain_formula(space, structures):
    train, pool = structures[:4], structures[4:8]
    info = space.information(train, truncate=0.0)
    found = coverage(space, train, pool, info, worst=2)
    features, _, amplitude = space.plan()
    from kernelpot.data.batch import Batch

    described = features.describe(Batch.from_structures(pool, features.descriptor.cutoff))
    C = np.linalg.inv(np.eye(info.d) + info.rows.T @ info.rows)[: features.n_weights, : features.n_weights]
    kernel = np.zeros((16, features.n_inducing))
    for a, (atoms, dots) in enumerate(features.dots(described)):
        kernel[atoms, features.slices[a]] = features.kernel.value(dots)
    phi = features.whiten(kernel)
    std = np.zeros(16)
    for a, one in enumerate(found.species):
        mine = described.species == a
        contrast = amplitude * (phi[mine] - phi[mine].mean(axis=0))
        std[mine] = np.sqrt(np.einsum("ad,de,ae->a", contrast, C, contrast))
        assert one.share == pytest.approx(np.mean(std[mine] / np.linalg.norm(contrast, axis=1)), rel=1e-5)
    s, i = found.least_known[0]
    assert 4 * s + i == np.argmax(std)
    assert found.least_known_std[0] == pytest.approx(std.max(), rel=1e-5)
    assert len({int(s) for s, _ in found.least_known}) == 2
    with pytest.raises(ParameterError, match="information of `train`"):
        coverage(space, pool[:2], pool, info)

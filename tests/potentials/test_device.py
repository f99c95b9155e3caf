"""Models on devices of PyTorch: fitted, asked, conditioned, planned with and moved as those in compiled loops."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.errors import ParameterError
from kernelpot.features.torch import device_of, torch_map
from kernelpot.kernels import Linear
from kernelpot.potentials.resampling import Bootstrap
from kernelpot.potentials.sparse_gp import LinearModel
from tests import potentials
from tests import structures as make
from tests.devices import DEVICES

STDS = ("energy_std", "stress_std")
LISTS = ("forces", "forces_std", "local_energy", "local_energy_std")
TEST = [make.copper_gold(70), make.slab(3), make.isolated("Au")]


def specification(**settings) -> kp.SparseGP:
    terms = [kp.TwoBody(cutoff=4.5), potentials.small_soap()]
    return kp.SparseGP(terms, n_inducing=20, **{"noise": potentials.NOISE, "tolerance": 1e-8} | settings)


@pytest.fixture(scope="module")
def train():
    return [*make.copper_gold_set(6), *make.labelled([make.slab(1)])]


@pytest.fixture(scope="module")
def reference(train):
    return specification().fit(train)


def assert_same_predictions(found, expected, mean=1e-9, std=1e-7):
    np.testing.assert_allclose(found.energy, expected.energy, atol=mean)
    np.testing.assert_allclose(found.stress, expected.stress, atol=mean)
    for name in STDS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=std)
    for name in LISTS:
        for a, b in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(a, b, atol=std if name.endswith("std") else mean)


@pytest.mark.parametrize("device", DEVICES)
def test_fit_and_predict(train, reference, device):
    model = specification(device=device).fit(train)
    assert device_of(model.fitted_.features) == device
    assert_same_predictions(model.predict(TEST), reference.predict(TEST))
    bare = model.predict(TEST, uncertainty=False)
    np.testing.assert_allclose(bare.energy, reference.predict(TEST).energy, atol=1e-9)
    assert bare.label is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernels", ["two kernels and pairs", "linear", "one kernel"])
def test_standard_deviations_of_every_sort_of_term(train, kernels, device, monkeypatch):
    soap = potentials.small_soap()
    terms = {
        "two kernels and pairs": [kp.Term(soap, kp.DotProduct(1, 2.0)), kp.TwoBody(cutoff=4.5), kp.Term(soap)],
        "linear": [kp.Term(soap, Linear(0.5, normalise=False)), kp.Term(soap, kp.DotProduct(3, 0.3))],
        "one kernel": [kp.Term(soap, kp.DotProduct(2, 0.7))],
    }[kernels]
    model = kp.SparseGP(terms, n_inducing=16, noise=potentials.NOISE, tolerance=1e-8).fit(train)
    expected = model.predict(TEST)
    assert_same_predictions(model.to(device).predict(TEST), expected)
    monkeypatch.setattr(torch_map, "working_bytes", lambda device, n=1: 5_000)
    assert_same_predictions(model.to(device).predict(TEST), expected)
    # Nothing of the label variances is computed from densities in float32.
    for precision in ("mixed", "float32"):
        rough = model.to(device, precision=precision).predict(TEST)
        np.testing.assert_allclose(rough.energy_std, expected.energy_std, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_a_fit_to_rows_in_single_precision(train, reference, device):
    found = specification(device=device, precision="float32").fit(train).predict(TEST[:2])
    expected = reference.predict(TEST[:2])
    assert_same_predictions(found, expected, mean=2e-4, std=2e-4)
    assert np.abs(found.energy - expected.energy).max() > 1e-9


@pytest.mark.parametrize("device", DEVICES)
def test_a_difference_from_a_baseline(train, device, tmp_path):
    ours, theirs = (specification(baseline=kp.ZBL(), device=where).fit(train) for where in (device, None))
    assert_same_predictions(ours.predict(TEST), theirs.predict(TEST))
    ours.save(tmp_path / "model.kp")
    assert_same_predictions(kp.load(tmp_path / "model.kp", device=device).predict(TEST), theirs.predict(TEST))


@pytest.mark.parametrize("device", DEVICES)
def test_linear_models_and_committees(train, device):
    plain = LinearModel([kp.TwoBody(cutoff=4.5), potentials.small_soap()], noise=potentials.NOISE).fit(train)
    assert_same_predictions(plain.to(device).predict(TEST), plain.predict(TEST))
    ours, theirs = (Bootstrap(specification(device=where), n_members=3).fit(train) for where in (device, None))
    np.testing.assert_allclose(ours.predict(TEST).energy_std, theirs.predict(TEST).energy_std, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_covariances_draws_and_grades(reference, device):
    there = reference.to(device, precision="mixed")
    np.testing.assert_allclose(there.energy_covariance(TEST), reference.energy_covariance(TEST), rtol=1e-6, atol=1e-9)
    atoms = TEST[0]
    np.testing.assert_allclose(there.force_covariance(atoms, 1), reference.force_covariance(atoms, 1), rtol=1e-6)
    for a, b in zip(there.sample(3, seed=4), reference.sample(3, seed=4), strict=True):
        np.testing.assert_allclose(a.predict(TEST).energy, b.predict(TEST).energy, atol=1e-4)
    for a, b in zip(there.predict(TEST).extrapolation, reference.predict(TEST).extrapolation, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_cross_validation_finds_the_same_noises(train, device):
    ours, theirs = (specification(noise="cv", device=where).fit(train) for where in (device, None))
    for kind in ("energy", "forces", "stress"):
        assert ours.noise_.sigma(kind) == pytest.approx(theirs.noise_.sigma(kind), rel=1e-5)
    np.testing.assert_allclose(ours.amplitudes_, theirs.amplitudes_, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_prepared_maps_information_and_conditioning(train, device):
    space, plain = (specification(device=where).prepare(train) for where in (device, None))
    ours, theirs = space.information(train[:4]), plain.information(train[:4])
    choice = kp.design.select(ours, 2, criterion="D")
    assert choice.indices.tolist() == kp.design.select(theirs, 2, criterion="D").indices.tolist()
    for s in range(4):
        a, b = ours.block(s), theirs.block(s)
        np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-7 * np.abs(b.T @ b).max())
    grown = space.fit(train[:4]).condition(train[4:])
    assert grown.device == device
    assert device_of(grown.fitted_.features) == device
    assert_same_predictions(grown.predict(TEST), plain.fit(train[:4]).condition(train[4:]).predict(TEST))


@pytest.mark.parametrize("device", DEVICES)
def test_moving_keeps_the_model_and_leaves_the_first_one_alone(reference, device):
    there = reference.to(device)
    assert (reference.device, there.device) == (None, device)
    assert device_of(reference.fitted_.features) is None
    assert_same_predictions(there.predict(TEST), reference.predict(TEST))
    back = there.to(None)
    assert back.fitted_.features is reference.fitted_.features
    assert f"device='{device}', precision='float64'" in repr(there)
    assert "device" not in repr(back)


def test_moving_a_prepared_and_fitted_model_holds_its_map_once(train):
    model = specification().prepare(train)
    there = model.to("cpu")
    assert there.fitted_ is None
    assert device_of(there.features_) == "cpu"
    fitted = there.fit(train).to("cpu", precision="mixed")
    assert fitted.fitted_.features.precision == "mixed"
    assert fitted.features_.precision == "mixed"


@pytest.mark.parametrize("device", DEVICES)
def test_files_do_not_store_the_device(reference, device, tmp_path):
    reference.save(tmp_path / "plain.kp")
    reference.to(device, precision="mixed").save(tmp_path / "there.kp")
    assert (tmp_path / "plain.kp").read_bytes() == (tmp_path / "there.kp").read_bytes()
    assert kp.load(tmp_path / "there.kp").device is None
    loaded = kp.load(tmp_path / "plain.kp", device=device, precision="mixed")
    assert (loaded.device, loaded.precision) == (device, "mixed")
    assert loaded.fitted_.features.precision == "mixed"
    with pytest.raises(ParameterError, match="`device` must be None"):
        kp.load(tmp_path / "plain.kp", device="gpu")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "energy", "forces"), [("float64", 1e-11, 1e-10), ("mixed", 3e-6, 1e-5)])
def test_calculator_in_dynamics(reference, device, precision, energy, forces):
    atoms = make.copper_gold(71)
    atoms.set_momenta(0.3 * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    atoms.calc = kp.Calculator(reference.to(device, precision=precision))
    VelocityVerlet(atoms, 2.0 * units.fs).run(5)
    there = atoms.copy()
    there.calc = kp.Calculator(reference)
    assert atoms.get_potential_energy() == pytest.approx(there.get_potential_energy(), abs=energy * len(atoms))
    np.testing.assert_allclose(atoms.get_forces(), there.get_forces(), atol=forces)
    np.testing.assert_allclose(atoms.get_stress(), there.get_stress(), atol=forces)
    expected = there.calc.get_property("energies_std", there)
    np.testing.assert_allclose(atoms.calc.get_property("energies_std", atoms), expected, rtol=1e-6, atol=1e-9)


def test_a_device_that_is_not_there_is_refused_at_once():
    with pytest.raises(ParameterError, match="`device` must be None"):
        specification(device="gpu")
    with pytest.raises(ParameterError, match="`precision` must be"):
        specification(precision="mixed")
    with pytest.raises(ParameterError, match="`precision` must be"):
        specification().to("cpu", precision="half")


def test_models_in_compiled_loops_do_not_import_pytorch():
    code = (
        "import sys, kernelpot as kp; from tests import potentials, structures as make\n"
        "potentials.model(4).fit(make.labelled([make.copper(k) for k in range(2)])).predict([make.copper(5)])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")

"""Models of symmetry functions wherever models of SOAP may be: files, devices, plans, pools, sums."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import write

import kernelpot as kp
from kernelpot.descriptors.acsf import torch as acsf_device
from kernelpot.errors import ModelFileError, ParameterError
from kernelpot.features.torch import described as torch_environments
from kernelpot.features.torch import torch_map
from kernelpot.pools import load_space, sample, save_space, select_chunks, write_blocks
from kernelpot.record import record_of
from tests import potentials
from tests import structures as make
from tests.devices import DEVICES

MODELS = {"dot product": potentials.symmetric_alloy, "Gaussian in channels": potentials.symmetric_metals}
TEST = {
    "dot product": [make.copper_gold(70), make.slab(3), make.isolated("Au")],
    "Gaussian in channels": [make.four_metals(70), make.copper_gold(3), make.isolated("Ag")],
}
on_models = pytest.mark.parametrize("name", MODELS)


def assert_same(found, expected, mean=1e-9, std=1e-7):
    for kind, tolerance in (("energy", mean), ("stress", mean), ("energy_std", std), ("stress_std", std)):
        np.testing.assert_allclose(getattr(found, kind), getattr(expected, kind), atol=tolerance)
    for kind, tolerance in (("forces", mean), ("forces_std", std)):
        for a, b in zip(getattr(found, kind), getattr(expected, kind), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance)


@on_models
def test_saved_model_predicts_the_same(name, tmp_path):
    model = MODELS[name]()
    model.save(tmp_path / "model.kp")
    again = kp.load(tmp_path / "model.kp")
    assert again.terms == model.terms
    assert_same(again.predict(TEST[name]), model.predict(TEST[name]), 0.0, 0.0)


@on_models
@pytest.mark.parametrize("device", DEVICES)
def test_model_moved_to_a_device_predicts_the_same(name, device):
    model = MODELS[name]()
    assert_same(model.to(device).predict(TEST[name]), model.predict(TEST[name]))


@on_models
@pytest.mark.parametrize("device", DEVICES)
def test_small_pieces_on_a_device_change_nothing(name, device, monkeypatch):
    model = MODELS[name]()
    there = model.to(device)
    for module in (torch_environments, torch_map, acsf_device):
        monkeypatch.setattr(module, "working_bytes", lambda device, n=1: 300_000)
    assert_same(there.predict(TEST[name]), model.predict(TEST[name]))


@on_models
@pytest.mark.parametrize("precision", ["mixed", "float32"])
def test_lower_precision_changes_little(name, precision):
    model = MODELS[name]()
    assert_same(model.to("cpu", precision=precision).predict(TEST[name]), model.predict(TEST[name]), 1e-4, 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_model_fitted_on_a_device_is_the_same(device):
    train = make.copper_gold_set(5)
    models = [
        kp.SparseGP(
            potentials.symmetry_functions(), kp.Gaussian(0.3), n_inducing=12, noise=potentials.NOISE, device=where,
            tolerance=1e-8,
        ).fit(train)
        for where in (None, device)
    ]  # fmt: skip
    ours, theirs = (model.predict(TEST["dot product"]) for model in models)
    assert_same(theirs, ours, 1e-7, 1e-6)


@on_models
def test_isolated_atom_has_its_own_energy_and_no_force(name):
    found = MODELS[name]().predict([make.isolated("Au")])
    assert np.isfinite(found.energy).all()
    assert np.abs(found.forces[0]).max() == 0.0
    assert np.isfinite(found.energy_std).all()


@on_models
def test_standard_deviation_grows_away_from_the_data(name):
    model = MODELS[name]()
    far = make.copper_gold(1)
    far.set_cell(far.cell * 0.75, scale_atoms=True)
    near, strange = model.predict([make.copper_gold(1)]), model.predict([far])
    assert strange.latent.energy_std[0] > near.latent.energy_std[0]


def test_linear_model_of_symmetry_functions():
    train = make.copper_gold_set(8)
    model = kp.potentials.LinearModel(potentials.symmetry_functions().scaled(train), noise=potentials.NOISE).fit(train)
    found = model.predict(train)
    truth = np.array([atoms.get_potential_energy() for atoms in train])
    assert np.abs(found.energy - truth).max() < 0.2 * truth.std()
    assert found.forces[0].shape == (4, 3)


def test_noise_by_cross_validation_and_a_sum_of_terms():
    train = make.copper_gold_set(10)
    terms = [kp.TwoBody(cutoff=4.0), kp.Term(potentials.symmetry_functions(), kp.Gaussian(0.5))]
    model = kp.SparseGP(terms, n_inducing=12, noise="cv").fit(train)
    assert kp.Term.from_settings(json.loads(json.dumps(model.terms[1].settings()))) == model.terms[1]
    assert np.isfinite(model.predict(train[:2]).energy).all()


def test_choosing_among_structures():
    pool = [make.copper_gold(k) for k in range(10)]
    space = kp.SparseGP(
        potentials.symmetry_functions(), kp.Gaussian(0.5), n_inducing=10, noise=potentials.NOISE
    ).prepare(pool)
    choice = kp.design.select(space.information(pool), n=4)
    assert len(set(choice.indices)) == 4


def test_pool_in_chunks(tmp_path):
    pool = tmp_path / "pool.xyz"
    write(pool, [make.copper_gold(k) for k in range(12)], format="extxyz")
    spec = kp.SparseGP(potentials.symmetry_functions(), kp.Gaussian(0.5), n_inducing=10, noise=potentials.NOISE)
    space = spec.prepare(sample([str(pool)], 6, seed=0))
    save_space(space, tmp_path / "space.kp")
    again = load_space(tmp_path / "space.kp")
    assert again.terms[0].kernel == kp.Gaussian(0.5)
    store = write_blocks(again, [str(pool)], tmp_path / "blocks", chunk=5)
    assert len(select_chunks(store, 3).indices) == 3


def test_kernels_of_other_names_are_refused():
    with pytest.raises(ParameterError, match="`kernel` must be a kernel"):
        kp.Term(kp.ACSF(), 2)
    with pytest.raises(ValueError, match="there is no descriptor of the name 'Other'"):
        record_of("descriptor", {"name": "Other"})


@pytest.mark.parametrize(
    ("change", "value"),
    [("g2", [[1.0]]), ("cutoff_function", "sine"), ("standard", {"shift": [[0.0]], "scale": [[1.0]]})],
)
def test_altered_file_is_refused(tmp_path, change, value):
    from safetensors.numpy import load, save

    path = tmp_path / "model.kp"
    potentials.symmetric_alloy().save(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    outer = json.loads(raw[8 : 8 + length])
    (key,) = outer["__metadata__"]
    header = json.loads(outer["__metadata__"][key])
    text = json.dumps(header)
    features = find(header, "KernelMap")
    features["descriptor"][change] = value
    assert json.dumps(header) != text
    path.write_bytes(save(load(raw), metadata={key: json.dumps(header)}))
    with pytest.raises(ModelFileError):
        kp.load(path)


def find(node, name):
    """Return the first part of settings with this name."""
    if isinstance(node, dict):
        if node.get("name") == name:
            return node
        node = list(node.values())
    for part in node if isinstance(node, list) else []:
        found = find(part, name)
        if found is not None:
            return found
    return None

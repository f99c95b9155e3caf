"""Files of property models: what is read equals what was written; altered files are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.errors import ModelFileError, ParameterError
from tests import structures as make
from tests.numbers import same

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.sin(X).sum(axis=1)
CRYSTALS = make.copper_gold_set(8, kinds=("energy",))
ENERGIES = np.array([atoms.get_potential_energy() for atoms in CRYSTALS])
SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2)
ONE = kp.StructureKernel(SOAP, kp.Gaussian(0.5))
TWO = kp.StructureKernel(SOAP, kp.properties.VectorKernel("rbf", length=1.0), combine="average", normalise=True)
OTHER = kp.StructureKernel(kp.SOAP(cutoff=3.0, n_max=2, l_max=1), combine="rematch", between="all elements")

CASES = {
    "structures": (kp.KernelRidge(ONE, mean="composition", alpha=1e-4), CRYSTALS, ENERGIES),
    "inducing": (kp.KernelRidge(TWO, n_inducing=5, alpha=1e-4), CRYSTALS, ENERGIES),
    "shared": (kp.KernelRidge(0.3 * ONE + TWO * ONE, alpha=1e-4), CRYSTALS, ENERGIES),
    "apart": (kp.KernelRidge(ONE + OTHER, alpha=1e-4, mean="zero"), CRYSTALS, np.stack([ENERGIES, -ENERGIES], 1)),
    "features": (kp.KernelRidge("matern52"), X, Y),
    "alphas": (kp.KernelRidge("matern52", alpha=[1e-6, 1e-2]), X, Y),
    "lengths": (kp.KernelRidge(kp.properties.VectorKernel("polynomial", length=[1.0, 2.0, 3.0], degree=2)), X, Y),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_equals_what_was_written(name, tmp_path):
    model, items, y = CASES[name]
    model.fit(items, y).save(tmp_path / "m.kp")
    again = kp.load(tmp_path / "m.kp")
    same(again.predict(items), model.predict(items))
    same(again.std(items), model.std(items))
    same(again.left_out().error, model.left_out().error)
    assert (again.jitter_, again.alpha_) == (model.jitter_, model.alpha_)
    again.save(tmp_path / "n.kp")
    assert (tmp_path / "n.kp").read_bytes() == (tmp_path / "m.kp").read_bytes()
    np.testing.assert_allclose(again.fit(items, y).predict(items), model.predict(items), rtol=1e-9)


def test_a_precomputed_kernel(tmp_path):
    kernel = kp.properties.VectorKernel(length=1.0).matrix(X)
    model = kp.KernelRidge("precomputed", n_inducing=7).fit(kernel, Y)
    model.save(tmp_path / "m.kp")
    same(kp.load(tmp_path / "m.kp").predict(kernel), model.predict(kernel))


def test_symmetry_functions(tmp_path):
    kernel = kp.StructureKernel(kp.ACSF(cutoff=4.0), kp.Gaussian(0.5))
    model = kp.KernelRidge(kernel).fit(CRYSTALS, ENERGIES)
    model.save(tmp_path / "m.kp")
    same(kp.load(tmp_path / "m.kp").predict(CRYSTALS), model.predict(CRYSTALS))


def test_a_descriptor_of_dscribe(tmp_path):
    dscribe = pytest.importorskip("dscribe.descriptors")
    descriptor = kp.properties.DScribe(dscribe.ACSF(r_cut=4.0, species=[29, 79], g2_params=[[1.0, 2.0]]))
    model = kp.KernelRidge(kp.StructureKernel(descriptor)).fit(CRYSTALS, ENERGIES)
    model.save(tmp_path / "m.kp")
    same(kp.load(tmp_path / "m.kp").predict(CRYSTALS), model.predict(CRYSTALS))


def altered(path, change):
    with safe_open(str(path), framework="numpy") as file:
        header = {k: v for k, v in json.loads(file.metadata()["kernelpot"]).items() if k != "digest"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, arrays)
    save_file(arrays, str(path), metadata={"kernelpot": json.dumps(header)})


def _narrow(array):
    return np.ascontiguousarray(array[:, :-1])


CHANGES = {
    "vectors of another length": lambda h, a: a.update(items_vectors=_narrow(a["items_vectors"])),
    "a descriptor of another length": lambda h, a: h["kernel"]["descriptor"].update(l_max=1),
    "no species": lambda h, a: h["kernel"]["descriptor"].update(species=None),
    "a dual with three axes": lambda h, a: a.update(state_dual=a["state_dual"][..., None]),
    "a huge dual": lambda h, a: a["state_dual"].fill(1e300),
    "no jitter": lambda h, a: h["fit"].update(jitter=float("nan")),
    "a basis without end": lambda h, a: h["kernel"]["descriptor"]["basis"].update(radius=1e300),
    "a kernel of another name": lambda h, a: h["kernel"].update(name="os.system"),
    "a kernel of environments of another name": lambda h, a: h["kernel"]["kernel"].update(name="Linear"),
    "a descriptor of another name": lambda h, a: h["kernel"]["descriptor"].update(name="os"),
    "another descriptor": lambda h, a: h["kernel"]["descriptor"].update(cutoff=-1.0),
    "combine": lambda h, a: h["kernel"].update(combine="max"),
    "a baseline": lambda h, a: h["model"].update(baseline="mean"),
    "no state": lambda h, a: h["fit"].pop("state"),
    "items": lambda h, a: h["fit"].update(n_items=3),
    "an array is gone": lambda h, a: a.pop("state_dual"),
    "a dual of another length": lambda h, a: a.update(state_dual=a["state_dual"][:-1]),
    "numbers that are none": lambda h, a: a["state_dual"].fill(np.nan),
    "vectors that are none": lambda h, a: a["items_vectors"].fill(np.inf),
    "a singular factor": lambda h, a: a["state_factor"].fill(0.0),
    "single precision": lambda h, a: a.update(baseline=a["baseline"].astype(np.float32)),
    "offsets": lambda h, a: a["items_offsets"].fill(0),
    "elements that the descriptor does not know": lambda h, a: a["items_numbers"].fill(13),
    "species of other elements": lambda h, a: h["kernel"]["descriptor"].update(species=[13, 14]),
    "unknown settings": lambda h, a: h["model"].update(code="1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_altered_files_are_refused(name, tmp_path):
    model, items, y = CASES["structures"]
    model.fit(items, y).save(tmp_path / "m.kp")
    altered(tmp_path / "m.kp", CHANGES[name])
    with pytest.raises(ModelFileError, match="damaged or was altered"):
        kp.load(tmp_path / "m.kp")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("features", lambda h, a: h["fit"].update(n_features=7)),
        ("features", lambda h, a: a.update(items_rows=_narrow(a["items_rows"]))),
        ("lengths", lambda h, a: h["kernel"].update(length=[1.0, 2.0])),
        ("features", lambda h, a: h["kernel"].update(length=None)),
        ("inducing", lambda h, a: h["kernel"]["kernel"].update(length=None)),
        ("inducing", lambda h, a: a["state_variance_left"].fill(-1.0)),
        ("inducing", lambda h, a: a.update(state_spill=_narrow(a["state_spill"]))),
        ("inducing", lambda h, a: a["state_spill"].fill(np.inf)),
        ("inducing", lambda h, a: a["calibrating"].fill(0)),
        ("inducing", lambda h, a: a["calibrating"].fill(2)),
        ("inducing", lambda h, a: a.update(calibrating=a["calibrating"][:-1])),
        ("apart", lambda h, a: [a.pop(k) for k in list(a) if k.startswith("items_first_")]),
    ],
)
def test_altered_files_of_other_models_are_refused(name, change, tmp_path):
    model, items, y = CASES[name]
    model.fit(items, y).save(tmp_path / "m.kp")
    altered(tmp_path / "m.kp", change)
    with pytest.raises(ModelFileError, match="damaged or was altered"):
        kp.load(tmp_path / "m.kp")


@pytest.mark.parametrize("path", [None, 3, "a\0b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ModelFileError, match="`path` must be the name of a file"):
        kp.load(path)
    with pytest.raises(ModelFileError, match="`path` must be the name of a file"):
        kp.KernelRidge().fit(X, Y).save(path)


def test_other_versions_and_settings_are_refused(tmp_path):
    model, items, y = CASES["features"]
    model.fit(items, y).save(tmp_path / "m.kp")
    with pytest.raises(ParameterError, match="takes no `baseline`, `device`"):
        kp.load(tmp_path / "m.kp", device="cuda")
    altered(tmp_path / "m.kp", lambda h, a: h.update(version=99))
    with pytest.raises(ModelFileError, match="version 99"):
        kp.load(tmp_path / "m.kp")
    model, items, y = CASES["inducing"]
    model.fit(items, y).save(tmp_path / "m.kp")
    altered(tmp_path / "m.kp", lambda h, a: h.update(version=1))
    with pytest.raises(
        ModelFileError, match=r"reads kernelpot-kernel-ridge version 2, found .* version 1; .* fit again"
    ):
        kp.load(tmp_path / "m.kp")
    with pytest.raises(ModelFileError, match="cannot be written"):
        model.save(tmp_path / "none" / "m.kp")


def test_the_command_line_takes_no_models_of_features(tmp_path, capsys):
    from ase.io import write

    model, items, y = CASES["features"]
    model.fit(items, y).save(tmp_path / "m.kp")
    write(tmp_path / "x.xyz", CRYSTALS)
    assert main(["evaluate", str(tmp_path / "m.kp"), str(tmp_path / "x.xyz")]) == 2
    assert "is a model of features or of several kernels, which is for Python alone" in capsys.readouterr().err

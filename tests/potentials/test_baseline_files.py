"""Models on a baseline: their files, what they say of themselves, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import write
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.data.labels import resolve
from kernelpot.errors import ModelFileError, ParameterError
from kernelpot.potentials.prediction import Mean
from tests import potentials
from tests import structures as make
from tests.potentials.test_baselines import PAIRS, TEST, TRAIN
from tests.potentials.test_sparse_gp import flat

# ---- files


def test_a_zbl_is_in_the_file(tmp_path):
    model = potentials.model(20, baseline=kp.ZBL(pairs=PAIRS)).fit(TRAIN)
    model.save(tmp_path / "one.kp")
    again = kp.load(tmp_path / "one.kp")
    np.testing.assert_array_equal(flat(again.predict(TEST)), flat(model.predict(TEST)))
    assert repr(again) == repr(model)
    assert again.summary() == model.summary()
    assert "baseline            ZBL, fading over Cu-Cu 1.00 to 3.00 Å" in model.summary()
    again.save(tmp_path / "two.kp")
    assert (tmp_path / "two.kp").read_bytes() == (tmp_path / "one.kp").read_bytes()
    np.testing.assert_array_equal(
        flat(again.condition(TRAIN[:2]).predict(TEST)), flat(model.condition(TRAIN[:2]).predict(TEST))
    )
    kp.load(tmp_path / "one.kp", baseline=kp.ZBL(pairs=PAIRS))
    with pytest.raises(ParameterError, match=r"with the baseline ZBL\(.*leave `baseline` out"):
        kp.load(tmp_path / "one.kp", baseline=kp.ZBL())


def test_a_calculator_is_given_again(tmp_path):
    model = potentials.model(20, baseline=EMT()).fit(TRAIN)
    path = tmp_path / "delta.kp"
    model.save(path)
    assert "the calculator EMT" in model.summary()
    with pytest.raises(ModelFileError, match=r"difference from the baseline 'EMT', which no file .*baseline=\.\.\."):
        kp.load(path)
    with pytest.raises(ModelFileError, match=r"the baseline 'EMT', got CalculatorBaseline\(LennardJones\)"):
        kp.load(path, baseline=LennardJones())
    with pytest.raises(ModelFileError, match="the baseline 'EMT', got ZBL"):
        kp.load(path, baseline=kp.ZBL())
    with pytest.raises(ParameterError, match="`baseline` must be None"):
        kp.load(path, baseline="EMT")
    for again in (kp.load(path, baseline=EMT()), kp.load(path, baseline=kp.potentials.CalculatorBaseline(EMT()))):
        np.testing.assert_array_equal(flat(again.predict(TEST)), flat(model.predict(TEST)))
        assert again.baseline.name == "EMT"


def test_a_file_without_baseline_takes_none(tmp_path):
    potentials.copper_gold().save(tmp_path / "plain.kp")
    with pytest.raises(ParameterError, match="fitted without a baseline; leave `baseline` out"):
        kp.load(tmp_path / "plain.kp", baseline=EMT())
    assert kp.load(tmp_path / "plain.kp", baseline=None).baseline is None


def rewritten(path, change):
    from safetensors import safe_open
    from safetensors.numpy import save as to_bytes

    with safe_open(str(path), framework="numpy") as file:
        header = {k: v for k, v in json.loads(file.metadata()["kernelpot"]).items() if k != "digest"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header)
    path.write_bytes(to_bytes(arrays, metadata={"kernelpot": json.dumps(header)}))


@pytest.mark.parametrize(
    "value",
    [
        {"name": "ZBL"},
        {"name": "ZBL", "inner": 3.0, "outer": 1.0, "pairs": []},
        {"name": "ZBL", "inner": None, "outer": None, "pairs": [["Cu", "Xx", 1.0, 2.0]]},
        {"name": "ZBL", "inner": None, "outer": None, "pairs": [["Cu"]]},
        {"name": "ZBL", "inner": None, "outer": None, "pairs": None},
        {"name": 3},
        {},
        [],
        "os.system",
    ],
)
def test_altered_baselines_are_named(tmp_path, value):
    path = tmp_path / "altered.kp"
    potentials.copper_gold().save(path)
    rewritten(path, lambda header: header["model"].__setitem__("baseline", value))
    with pytest.raises(ModelFileError, match=r"damaged|altered"):
        kp.load(path)


class Own:
    """A baseline of the user's: a constant for each atom."""

    def reach(self, species):
        return 0.0

    def evaluate(self, batch, *, names=None):
        zero = np.zeros((batch.n_atoms, 3))
        local = np.full(batch.n_atoms, 7.0)
        stress = np.where(np.isfinite(batch.volumes)[:, None], np.zeros((len(batch), 6)), np.nan)
        return Mean(batch.sum_per_structure(local), local, zero, stress)

    def describe(self, species):
        return "seven"

    def settings(self):
        return {"name": "seven", "value": (7, 0)}


def test_a_baseline_of_ones_own(tmp_path):
    model, plain = potentials.model(20, baseline=Own()).fit(TRAIN), potentials.model(20).fit(TRAIN)
    np.testing.assert_allclose(model.predict(TEST).energy, plain.predict(TEST).energy, atol=1e-7)
    assert model.e0_["Cu"] == pytest.approx(plain.e0_["Cu"] - 7.0, abs=1e-7)
    model.save(tmp_path / "own.kp")
    with pytest.raises(ModelFileError, match="the baseline 'seven'"):
        kp.load(tmp_path / "own.kp")
    again = kp.load(tmp_path / "own.kp", baseline=Own())
    np.testing.assert_array_equal(flat(again.predict(TEST)), flat(model.predict(TEST)))


def test_what_a_model_says_of_itself():
    spec = potentials.model(20, baseline=kp.ZBL(0.7, 1.4))
    assert "baseline=ZBL(inner=0.7, outer=1.4" in repr(spec)
    assert spec.settings()["baseline"] == {"name": "ZBL", "inner": 0.7, "outer": 1.4, "pairs": []}
    assert potentials.model(20).settings()["baseline"] is None
    assert spec.prepare([make.copper(0)]).baseline is spec.baseline
    assert spec.cutoff_ == spec.descriptor.cutoff


@pytest.mark.slow
def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.xyz", make.copper_gold_set(12))
    page = Path(__file__).parents[2] / "docs" / "baselines.md"
    (example,) = Document.parse(str(page), PythonCodeBlockParser())
    example.evaluate()
    made = example.namespace
    assert made["model"].baseline == kp.ZBL()
    assert made["delta"].baseline.name == "EMT"


# ---- command line


def test_fit_with_zbl_on_the_command_line(tmp_path, capsys):
    write(tmp_path / "train.xyz", TRAIN[:8])
    small = ["--cutoff", "3.6", "--n-max", "4", "--l-max", "2", "--sigma", "0.6", "--n-inducing", "20"]
    args = ["fit", str(tmp_path / "train.xyz"), "--out", str(tmp_path / "m.kp"), "--quiet", *small]
    assert main([*args, "--zbl", "--noise", "0.002,0.05", "--json", str(tmp_path / "fit.json")]) == 0
    assert "baseline            ZBL, fading over" in capsys.readouterr().out
    said = json.loads((tmp_path / "fit.json").read_text())
    assert said["baseline_potential"] == {"name": "ZBL", "inner": None, "outer": None, "pairs": []}
    model = kp.load(tmp_path / "m.kp")
    assert model.baseline == kp.ZBL()
    squeezed = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.9]])
    write(tmp_path / "squeezed.xyz", squeezed)
    done = main(["predict", str(tmp_path / "m.kp"), str(tmp_path / "squeezed.xyz"), "--out", str(tmp_path / "p.xyz")])
    assert done == 0
    labels = resolve(kp.read(tmp_path / "p.xyz", verbose=False))
    assert labels.forces[0][1, 2] > 100
    assert main(["evaluate", str(tmp_path / "m.kp"), str(tmp_path / "train.xyz"), "--quiet"]) == 0

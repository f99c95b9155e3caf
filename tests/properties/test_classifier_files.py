"""Files of classifiers: what is read answers as what was written; altered files are refused."""

from __future__ import annotations

import json

import gpytorch
import numpy as np
import pytest
from ase.io import read, write
from sklearn.exceptions import NotFittedError

import kernelpot as kp
from kernelpot.archive import read_archive, write_archive
from kernelpot.cli import main
from kernelpot.errors import ModelFileError, ParameterError
from kernelpot.properties.files import CLASSIFIER as FORMAT
from tests import structures as make

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2))
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
CLASSES = {
    "text": np.array(["narrow", "middle", "wide"])[THREE],
    "objects": np.array(["narrow", "middle", "wide"], dtype=object)[THREE],
    "whole": THREE.astype(np.int32) - 1,
    "floating": 2.0 * THREE,
    "switch": THREE > 0,
}
NEW = RNG.normal(size=(15, 2))
CRYSTALS = make.copper_gold_set(12, kinds=("energy",))
GOLD = np.array([np.mean(atoms.numbers == 79) > 0.4 for atoms in CRYSTALS])
KERNEL = kp.StructureKernel(kp.SOAP(cutoff=3.5, n_max=2, l_max=1), combine="average")


def loaded(model, tmp_path, **given):
    """Return a model from its file; saved again it gives the same file."""
    model.save(tmp_path / "m.kp")
    again = kp.load(tmp_path / "m.kp", **given)
    again.save(tmp_path / "n.kp")
    assert (tmp_path / "n.kp").read_bytes() == (tmp_path / "m.kp").read_bytes()
    return again


def alike(again, model, items):
    np.testing.assert_allclose(again.predict_proba(items), model.predict_proba(items), atol=1e-9)
    np.testing.assert_array_equal(again.rejected(items), model.rejected(items))
    np.testing.assert_array_equal(again.predict(items), model.predict(items))
    assert again.classes_.dtype == model.classes_.dtype
    assert again.get_params(deep=False).keys() == model.get_params(deep=False).keys()
    assert again.log_marginal_likelihood_ == pytest.approx(model.log_marginal_likelihood_, abs=1e-7)


@pytest.mark.parametrize("classes", CLASSES)
def test_a_file_gives_the_classifier_back(classes, tmp_path):
    model = kp.Classifier("rbf + linear", reject=0.8, search={"starts": 1}, seed=np.int64(3)).fit(X, CLASSES[classes])
    again = loaded(model, tmp_path)
    alike(again, model, NEW)
    assert (again.reject, again.n_evaluations_, again.n_features_in_) == (0.8, model.n_evaluations_, 2)
    alike(again.fit(X, CLASSES[classes]), model, NEW)
    for mode, other in zip(again.posterior_.modes, model.posterior_.modes, strict=True):
        np.testing.assert_allclose(mode.third, other.third, atol=1e-9)


def test_structures_travel_with_their_classes(tmp_path):
    model = kp.Classifier(KERNEL, reject=0.7, mean="composition", search={"starts": 1}).fit(CRYSTALS[:9], GOLD[:9])
    alike(loaded(model, tmp_path), model, CRYSTALS)


def test_a_kernel_without_a_name_is_given_again(tmp_path):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.PeriodicKernel())
    model = kp.Classifier(kernel, reject=0.8, search=False).fit(X, THREE)
    alike(loaded(model, tmp_path, kernel=kernel), model, NEW)
    with pytest.raises(ModelFileError, match="give that kernel"):
        kp.load(tmp_path / "m.kp")


def test_sure_answers_survive(tmp_path):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.outputscale = 1e6
    model = kp.Classifier(kernel, reject=0.99, search=False).fit(X, THREE > 0)
    alike(loaded(model, tmp_path, kernel=kernel), model, NEW)


def _cut(name):
    return lambda h, a: a.update({name: np.ascontiguousarray(a[name][:-1])})


def _class(**changes):
    return lambda h, a: h["classes"].update(changes)


ALTERED = {
    "slopes of another latent function": lambda h, a: a.update(slopes=0.9 * a["slopes"]),
    "slopes of other classes": lambda h, a: a.update(slopes=-a["slopes"]),
    "slopes in another order": lambda h, a: a.update(slopes=np.ascontiguousarray(a["slopes"][::-1])),
    "slopes that are none": lambda h, a: a["slopes"].fill(np.nan),
    "slopes of one class too many": lambda h, a: a.update(slopes=np.hstack([a["slopes"], a["slopes"][:, :1]])),
    "single precision": lambda h, a: a.update(slopes=a["slopes"].astype(np.float32)),
    "no slopes": lambda h, a: a.pop("slopes"),
    "hyper-parameters": lambda h, a: a.update(raw=a["raw"] + 0.5),
    "hyper-parameters that are none": lambda h, a: a["raw"].fill(np.inf),
    "features": lambda h, a: a.update(x=a["x"][::-1].copy()),
    "huge features": lambda h, a: a["x"].fill(1e200),
    "spread": lambda h, a: a["spread"].fill(0.0),
    "one class": _class(values=["narrow"]),
    "classes twice": _class(values=["narrow", "narrow", "wide"]),
    "classes in another order": _class(values=["wide", "narrow", "middle"]),
    "classes of two kinds": _class(values=["a", "b", 3]),
    "classes that are lists": _class(values=[["a"], ["b"], ["c"]]),
    "classes of another type": _class(dtype="int64"),
    "classes that are objects": _class(dtype="datetime64"),
    "another theta": lambda h, a: h["parameters"].update(reject=1.5),
    "another seed": lambda h, a: h["parameters"].update(seed="x"),
    "unknown settings": lambda h, a: h["parameters"].update(code="1"),
    "a mean": lambda h, a: h["trend"].update(kind="x"),
    "a mean that was not fitted": lambda h, a: h["parameters"].update(mean="zero"),
    "a kernel": lambda h, a: h.update(kernel="os.system"),
    "evaluations": lambda h, a: h.update(n_evaluations=-1),
    "a label": lambda h, a: h.update(label=3),
    "no label": lambda h, a: h.pop("label"),
} | {f"{name}, one less": _cut(name) for name in ("x", "slopes", "item_trend", "centre", "spread", "sizes", "raw")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "m.kp"
    kp.Classifier(search=False).fit(X, CLASSES["text"]).save(path)
    return path


@pytest.mark.parametrize("name", ALTERED)
def test_altered_files_are_refused(name, written, tmp_path):
    archive = read_archive(written)
    header = {k: v for k, v in archive.header.items() if k not in ("format", "version")}
    arrays = {key: array.copy() for key, array in archive.arrays.items()}
    ALTERED[name](header, arrays)
    write_archive(tmp_path / "other.kp", FORMAT, 1, header, arrays)
    with pytest.raises(ModelFileError, match=r"other\.kp"):
        kp.load(tmp_path / "other.kp")


def test_truncated_and_later_files_are_refused(written, tmp_path):
    content = written.read_bytes()
    for end in (0, 5, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.kp").write_bytes(content[:end])
        with pytest.raises(ModelFileError, match="not a complete kernelpot model file"):
            kp.load(tmp_path / "cut.kp")
    archive = read_archive(written)
    header = {k: v for k, v in archive.header.items() if k not in ("format", "version")}
    write_archive(tmp_path / "later.kp", FORMAT, 99, header, archive.arrays)
    with pytest.raises(ModelFileError, match="version 99"):
        kp.load(tmp_path / "later.kp")


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        kp.Classifier().save(tmp_path / "m.kp")
    model = kp.Classifier(search=False).fit(X, THREE)
    with pytest.raises(ParameterError, match="`label` must be the name of the property, got 3"):
        model.save(tmp_path / "m.kp", label=3)
    model.classes_ = np.array([b"a", b"b", b"c"])
    with pytest.raises(ModelFileError, match="classes must be text, numbers, or True and False"):
        model.save(tmp_path / "m.kp")


def test_the_command_line_writes_classes_with_their_probabilities(tmp_path, capsys):
    model = kp.Classifier(KERNEL, search=False).fit(CRYSTALS, np.where(GOLD, "rich", "poor"))
    model.save(tmp_path / "m.kp", label="gold")
    write(tmp_path / "x.xyz", CRYSTALS)
    files = [str(tmp_path / name) for name in ("m.kp", "x.xyz", "out.xyz")]
    assert main(["predict", *files[:2], "--out", files[2]]) == 0
    assert "probability" in capsys.readouterr().out
    found = read(files[2], ":")
    assert [atoms.info["gold_predicted"] for atoms in found] == model.predict(CRYSTALS).tolist()
    np.testing.assert_allclose(
        [atoms.info["gold_probability"] for atoms in found], model.predict_proba(CRYSTALS).max(axis=1), atol=1e-7
    )
    assert main(["evaluate", *files[:2]]) == 2
    assert "`evaluate` scores numbers; `kernelpot predict` writes its classes" in capsys.readouterr().err


def test_the_command_line_says_which_answers_are_refused(tmp_path, capsys):
    model = kp.Classifier(KERNEL, search=False).fit(CRYSTALS, np.where(GOLD, "rich", "poor"))
    least = float(np.median(model.predict_proba(CRYSTALS).max(axis=1)))
    model.set_params(reject=least).save(tmp_path / "m.kp", label="gold")
    write(tmp_path / "x.xyz", CRYSTALS)
    files = [str(tmp_path / name) for name in ("m.kp", "x.xyz", "out.xyz", "out.json")]
    assert main(["predict", *files[:2], "--out", files[2], "--json", files[3]]) == 0
    expected = model.rejected(CRYSTALS).tolist()
    assert 0 < sum(expected) < len(expected)
    assert f"{sum(expected)} refused: probability below {least:g}" in capsys.readouterr().out
    assert [bool(atoms.info["gold_refused"]) for atoms in read(files[2], ":")] == expected
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["reject"] == least
    assert [one["refused"] for one in written["structures"]] == expected


@pytest.mark.parametrize("other", ["", "T", "17", "1 2 3", "two\nlines", "a\\b", 'a "b" c', "a=b"])
def test_classes_come_back_from_the_file_as_the_text_they_are(other, tmp_path):
    model = kp.Classifier(KERNEL, search=False).fit(CRYSTALS, np.where(GOLD, "rich", other))
    model.save(tmp_path / "m.kp", label="gold")
    write(tmp_path / "x.xyz", CRYSTALS)
    assert (
        main(["predict", *(str(tmp_path / name) for name in ("m.kp", "x.xyz")), "--out", str(tmp_path / "o.xyz")]) == 0
    )
    found = [atoms.info for atoms in read(tmp_path / "o.xyz", ":")]
    assert [info["gold_predicted"] for info in found] == model.predict(CRYSTALS).tolist()
    assert all(info["gold_probability"] >= 0.5 for info in found)


@pytest.mark.parametrize(
    ("model", "items", "label", "says"),
    [
        (kp.Classifier(search=False), X[:12], "gold", "is a model of features"),
        (kp.Classifier(KERNEL, search=False), CRYSTALS, None, "does not name its property; save with"),
    ],
)
def test_the_command_line_refuses_others(model, items, label, says, tmp_path, capsys):
    model.fit(items, GOLD).save(tmp_path / "m.kp", label=label)
    write(tmp_path / "x.xyz", CRYSTALS)
    assert main(["predict", str(tmp_path / "m.kp"), str(tmp_path / "x.xyz"), "--out", str(tmp_path / "o.xyz")]) == 2
    assert says in capsys.readouterr().err

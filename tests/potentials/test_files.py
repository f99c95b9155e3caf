"""Model files: the same model back, and a clear error for everything else."""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

import kernelpot as kp
from kernelpot.errors import ModelFileError, NotFittedError
from tests import potentials
from tests import structures as make
from tests.potentials.test_sparse_gp import TEST, flat


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.kp"
    potentials.copper_gold().save(path)
    return path


def test_a_flipped_bit_is_seen(path):
    """Wherever it stands, in header or arrays: the file is refused."""
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=60).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :])
        with pytest.raises(ModelFileError):
            kp.load(path)


def test_files_of_before_are_read_with_a_word(path):
    header, arrays = parts(path)
    path.write_bytes(to_bytes(arrays, metadata={"kernelpot": json.dumps(header)}))
    with pytest.warns(UserWarning, match="have no digest"):
        kp.load(path)


def parts(path):
    with safe_open(str(path), framework="numpy") as file:
        header = {k: v for k, v in json.loads(file.metadata()["kernelpot"]).items() if k != "digest"}
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewrite(path, header, arrays):
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(to_bytes(arrays, metadata={"kernelpot": text}))


@pytest.mark.parametrize(
    "make_model",
    [
        potentials.copper_gold,
        potentials.copper,
        lambda: potentials.copper_gold(3),
        lambda: potentials.model(12, noise="cv", seed=7, inducing="cur").fit(make.copper_gold_set(6)),
        lambda: potentials.model(6).prepare([make.copper_gold(1)]).fit(make.copper_gold_set(3)),
        lambda: potentials.model(6, noise=kp.Noise(None, 0.1)).fit(make.copper_gold_set(3)),
        lambda: kp.SparseGP(potentials.mixed_soap(), n_inducing=6, noise=potentials.NOISE).fit(make.copper_gold_set(3)),
    ],
)
def test_a_loaded_model_is_the_same_bit_for_bit(make_model, tmp_path):
    model = make_model()
    model.save(tmp_path / "one.kp")
    again = kp.load(str(tmp_path / "one.kp"))
    test = TEST if len(model.species_) == 2 else TEST[2:]
    np.testing.assert_array_equal(flat(again.predict(test)), flat(model.predict(test)))
    assert repr(again) == repr(model)
    assert again.summary() == model.summary()
    assert (again.noise_, again.amplitude_, again.e0_) == (model.noise_, model.amplitude_, model.e0_)
    assert (again.features_ is None) == (model.features_ is None)
    again.save(tmp_path / "two.kp")
    assert (tmp_path / "two.kp").read_bytes() == (tmp_path / "one.kp").read_bytes()


def test_a_loaded_model_goes_on(path):
    more = make.copper_gold_set(2, seed=3)
    one, two = potentials.copper_gold().condition(more), kp.load(path).condition(more)
    np.testing.assert_array_equal(flat(one.predict(TEST)), flat(two.predict(TEST)))
    info = kp.load(path).information(more)
    np.testing.assert_array_equal(info.rows, potentials.copper_gold().information(more).rows)


def test_only_fitted_models_are_saved(tmp_path):
    for model in (potentials.model(), potentials.model().prepare([make.copper(0)])):
        with pytest.raises(NotFittedError, match=r"never fitted|fitted model"):
            model.save(tmp_path / "none.kp")
    assert list(tmp_path.iterdir()) == []


# ---- writing


@pytest.mark.parametrize("where", ["missing/model.kp", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path, where):
    with pytest.raises(ModelFileError, match="cannot be written"):
        potentials.copper_gold().save(tmp_path / where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_failing_save_leaves_the_old_file(path, monkeypatch, failure, step):
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ModelFileError if isinstance(failure, OSError) else KeyboardInterrupt):
        potentials.copper().save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_saving_replaces_the_old_file(path):
    potentials.copper().save(path)
    assert kp.load(path).species_ == (29,)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- reading what is no model


def test_no_file_or_a_folder(tmp_path):
    for place in (tmp_path / "absent.kp", tmp_path):
        with pytest.raises(ModelFileError, match="no such model file"):
            kp.load(place)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9, 0.9999])
def test_truncated_files(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match="not a complete kernelpot model file"):
        kp.load(path)


class Attack:
    """What a pickle would run."""

    ran = False

    def __reduce__(self):
        return (setattr, (Attack, "ran", True))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"\xff" * 64,
        b"PK\x03\x04" + b"\x00" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"[[[[",
        b'3\nLattice="1 0 0 0 1 0 0 0 1"\nCu 0 0 0\n',
        struct.pack("<Q", 66) + b'{"a":{"dtype":"F64","shape":[99999999999],"data_offsets":[0,8]}}  ' + b"\x00" * 8,
    ],
)
def test_foreign_bytes(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"not a complete kernelpot model file|not one of kernelpot's"):
        kp.load(path)


def test_a_pickle_is_never_run(path):
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ModelFileError):
        kp.load(path)
    assert not Attack.ran


def test_safetensors_from_elsewhere(path):
    path.write_bytes(to_bytes({"weight": np.zeros((3, 3))}))
    with pytest.raises(ModelFileError, match="not one of kernelpot's"):
        kp.load(path)
    path.write_bytes(to_bytes({"weight": np.zeros((3, 3))}, metadata={"format": "pt"}))
    with pytest.raises(ModelFileError, match="not one of kernelpot's"):
        kp.load(path)


@pytest.mark.parametrize("change", [{"version": 1}, {"version": 0}, {"format": "kernelpot-linear"}])
def test_other_versions_are_named(path, change):
    header, arrays = parts(path)
    rewrite(path, {**header, **change}, arrays)
    with pytest.raises(ModelFileError, match="this kernelpot reads kernelpot-sparse-gp version 2, found"):
        kp.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "7", "[" * 200_000, '{"format": 1}', "9" * 5000])
def test_damaged_headers(path, text):
    _, arrays = parts(path)
    rewrite(path, text, arrays)
    with pytest.raises(ModelFileError, match="header is damaged"):
        kp.load(path)


NAMES = ("factor", "target", "baseline", "e0_factor", "inducing_0", "inducing_1", "whitening_0", "whitening_1")


WAYS = ("nan", "float32", "integers", "row more", "flat", "scalar", "empty", "gone")


def spoilt(how, array):
    if how == "nan":
        return np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array)
    return {
        "float32": array.astype(np.float32),
        "integers": array.astype(np.int64),
        "row more": np.concatenate([array, array[:1]]),
        "flat": array.ravel() if array.ndim > 1 else array[:, None],
        "scalar": np.array(1.0),
        "empty": array[:0],
    }[how]


@pytest.mark.parametrize(
    ("name", "how"),
    # Any number of rows is a factor of E0 rows.
    [(name, how) for name in NAMES for how in WAYS if not (name == "e0_factor" and how in ("row more", "empty"))],
)
def test_arrays_that_do_not_belong(path, name, how):
    header, arrays = parts(path)
    if how == "gone":
        del arrays[name]
    else:
        arrays[name] = np.ascontiguousarray(spoilt(how, arrays[name]))
    rewrite(path, header, arrays)
    with pytest.raises(ModelFileError, match="damaged or was altered"):
        kp.load(path)


def test_a_singular_factor_is_refused(path):
    header, arrays = parts(path)
    arrays["factor"] = arrays["factor"].copy()
    arrays["factor"][3, 3] = 0.0
    rewrite(path, header, arrays)
    with pytest.raises(ModelFileError, match="singular"):
        kp.load(path)


def section_of(header: dict, section: str) -> dict:
    parts = {"features": lambda: header["fit"]["features"], "term": lambda: header["model"]["terms"][0]}
    return parts.get(section, lambda: header[section])()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("fit", "amplitude", float("nan")),
        ("fit", "amplitude", 0.0),
        ("fit", "amplitude", -1.0),
        ("fit", "amplitude", 10**400),
        ("fit", "amplitude", "much"),
        ("fit", "misfit", float("inf")),
        ("fit", "misfit", None),
        ("fit", "factor", {"energy": float("nan")}),
        ("fit", "factor", {"dipole": 1.0}),
        ("fit", "factor", [1.0]),
        ("fit", "label_noise", {"energy": -0.1}),
        ("fit", "noise", {"energy": -1.0}),
        ("fit", "noise", {"dipole": 1.0}),
        ("fit", "noise", {}),
        ("fit", "n_labels", {"energy": "many"}),
        ("fit", "cross_validation", 3),
        ("term", "kernel", {"name": "DotProduct", "zeta": 99, "amplitude": 1.0}),
        ("term", "kernel", {"zeta": 10**400, "amplitude": 1.0}),
        ("term", "n_inducing", -1),
        ("term", "descriptor", {"name": "os"}),
        ("features", "name", "SumMap"),
        ("features", "name", "eval"),
        ("features", "zeta", "two"),
        ("model", "n_inducing", 0),
        ("model", "n_inducing", "os.system"),
        ("model", "noise", "guess"),
        ("model", "noise", 3),
        ("model", "seed", None),
        ("model", "inducing", "__import__"),
        ("model", "tolerance", 2.0),
        ("term", "descriptor", {"name": "SOAP"}),
        ("model", "terms", []),
        ("model", "terms", 3),
    ],
)
def test_altered_settings(path, section, name, value):
    header, arrays = parts(path)
    part = section_of(header, section)
    part[name] = value
    if value == {}:
        del part[name]
    rewrite(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"damaged|altered"):
        kp.load(path)


WRONG_SETTINGS = [
    ("species", "Cu"),
    ("n_max", 10**9),
    ("cutoff", float("nan")),
    ("basis", {"name": "eval"}),
    ("basis", {"name": "GTO", "code": "1"}),
    ("basis", None),
]
WRONG_FIT = [
    *WRONG_SETTINGS,
    ("n_max", 5),
    *[("species", value) for value in ([29], [79, 29], [29, 29], [0, 29], [29, 500], [])],
]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("features", *case) for case in WRONG_FIT] + [("term", *case) for case in WRONG_SETTINGS],
)
def test_altered_descriptors(path, section, name, value):
    header, arrays = parts(path)
    section_of(header, section)["descriptor"][name] = value
    rewrite(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"damaged|altered"):
        kp.load(path)


@pytest.fixture(scope="module")
def sum_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sums") / "sum.kp"
    spec = kp.SparseGP([kp.TwoBody(cutoff=4.0), potentials.mixed_soap()], n_inducing=6, noise=potentials.NOISE)
    spec.fit(make.copper_gold_set(6)).save(path)
    return path


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *[(("features", "terms", 1, "descriptor", "basis", "basis", "radius"), v) for v in ("x", 0, [], {}, 1e308)],
        *[(("features", "terms", 1, "descriptor", "basis", "matrix", 0, 0, 0), v) for v in (None, float("nan"))],
        (("features", "terms", 1, "descriptor", "basis", "matrix"), []),
        *[(("features", "scales", 0), v) for v in (1e308, 0.0, -1.0)],
        (("amplitude",), 1e308),
        (("factor",), {}),
        (("label_noise",), {}),
    ],
)
def test_altered_sums_are_refused_when_they_are_read(sum_file, tmp_path, keys, value):
    header, arrays = parts(sum_file)
    place = header["fit"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    rewrite(tmp_path / "altered.kp", header, arrays)
    with pytest.raises(ModelFileError, match="altered"):
        kp.load(tmp_path / "altered.kp")

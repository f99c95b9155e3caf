"""Gaussian processes of structures by kernels between them, and files of all kinds of processes."""

import gpytorch
import numpy as np
import pytest
from ase.build import bulk
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.model_selection import cross_val_score

import kernelpot as kp
from kernelpot.archive import read_archive, write_archive
from kernelpot.errors import DataError, ModelFileError, ParameterError, SpeciesError
from kernelpot.properties.classifier import Classifier
from kernelpot.properties.files import PROCESS as FORMAT
from kernelpot.properties.files import read_property
from kernelpot.properties.gp import GP


class Volumes:
    """A kernel of the volume for each atom: exp(-(v - v')²/2l²), times the numbers of atoms if extensive."""

    def __init__(self, length=2.0, *, extensive=False):
        self.length, self.extensive = length, extensive
        self.calls = 0

    def matrix(self, a, b=None):
        self.calls += 1
        (v, n), (w, m) = self._sizes(a), self._sizes(a if b is None else b)
        shape = np.exp(-0.5 * ((v[:, None] - w) / self.length) ** 2)
        return shape * np.outer(n, m) if self.extensive else shape

    def diagonal(self, a):
        return self._sizes(a)[1] ** 2

    def settings(self):
        return {"name": "Volumes", "length": self.length, "extensive": self.extensive}

    def _sizes(self, items):
        n = np.array([len(atoms) for atoms in items], dtype=float)
        v = np.array([atoms.get_volume() for atoms in items]) / n
        return v, n if self.extensive else np.ones_like(n)


def crystals(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        bulk(element, "fcc", a=a).repeat(int(k))
        for element, a, k in zip(
            rng.choice(["Cu", "Ag"], n), rng.uniform(3.4, 4.4, n), rng.integers(1, 3, n), strict=True
        )
    ]


def energies(structures):
    v = np.array([atoms.get_volume() / len(atoms) for atoms in structures])
    n = np.array([len(atoms) for atoms in structures])
    silver = np.array([atoms.symbols[0] == "Ag" for atoms in structures])
    return n * (0.05 * (v - 15.0) ** 2 - 3.0 - 0.5 * silver)


TRAIN, TEST = crystals(40), crystals(15, seed=1)


def test_one_kernel_at_given_hyper_parameters_equals_scikit_learn():
    v = np.array([[atoms.get_volume() / len(atoms)] for atoms in TRAIN])
    w = np.array([[atoms.get_volume() / len(atoms)] for atoms in TEST])
    y = energies(TRAIN) / [len(atoms) for atoms in TRAIN]
    model = GP(Volumes(), noise=0.1, mean="zero", normalise=False, search=False).fit(TRAIN, y)
    # Without a search the kernel's variance is that of the targets.
    scale = model.kernel_[0][0]
    rival = GaussianProcessRegressor(ConstantKernel(scale) * RBF(2.0), alpha=0.01, optimizer=None).fit(v, y)
    mean, std = rival.predict(w, return_std=True)
    np.testing.assert_allclose(model.predict(TEST), mean, atol=1e-8)
    np.testing.assert_allclose(model.latent_std(TEST), std, atol=1e-8)


def test_kernel_matrices_are_computed_once_in_a_search():
    kernel = Volumes()
    GP(kernel).fit(TRAIN, energies(TRAIN))
    assert kernel.calls == 1


def test_a_sum_finds_the_kernel_that_matters():
    rng = np.random.default_rng(0)
    y = 5.0 * rng.standard_normal(8) @ np.exp(-0.5 * (np.linspace(10, 21, 8)[:, None] - _volumes(TRAIN)) ** 2)
    model = GP([Volumes(1.0), Volumes(0.02)]).fit(TRAIN, y)
    smooth, rough = (variance for variance, _ in model.kernel_)
    assert smooth > 30.0 * rough


def _volumes(structures):
    return np.array([atoms.get_volume() / len(atoms) for atoms in structures])


def test_compositions_take_the_linear_part():
    y = energies(TRAIN)
    model = GP(Volumes(extensive=True), mean="composition").fit(TRAIN, y)
    error = np.abs(model.predict(TEST) - energies(TEST))
    assert error.max() < 0.05 * np.ptp(y)
    with pytest.raises(SpeciesError, match="element 79"):
        model.predict([bulk("Au")])
    with pytest.raises(DataError, match="item 1 must be a structure"):
        model.predict([TEST[0], "x"])


def test_inducing_structures_and_cross_validation():
    y = energies(TRAIN)
    exact = GP(Volumes(extensive=True), mean="composition").fit(TRAIN, y)
    model = GP(Volumes(extensive=True), mean="composition", n_inducing=20).fit(TRAIN, y)
    np.testing.assert_allclose(model.predict(TEST), exact.predict(TEST), atol=0.02 * np.ptp(y))
    assert cross_val_score(GP(Volumes(extensive=True), mean="composition"), TRAIN, y, cv=3).min() > 0.95


def test_classes_of_structures():
    y = np.where(_volumes(TRAIN) > 14.0, "wide", "narrow")
    model = Classifier(Volumes()).fit(TRAIN, y)
    assert model.score(TRAIN, y) > 0.9
    np.testing.assert_allclose(model.predict_proba(TEST).sum(axis=1), 1.0)


@pytest.mark.parametrize("x", [TRAIN[0], 5, []])
def test_what_is_no_list_of_structures_is_refused(x):
    with pytest.raises(DataError, match="structure"):
        GP(Volumes()).fit(x, [1.0])


# ---- files

X = np.random.default_rng(0).normal(size=(50, 3))
Y = np.c_[np.sin(X[:, 0]) + 0.1 * X[:, 1], X[:, 2] ** 2] + 0.1 * np.random.default_rng(1).normal(size=(50, 2))
NEW = np.random.default_rng(2).normal(size=(9, 3))


@pytest.mark.parametrize(
    "way", [{}, {"n_inducing": 20}, {"solver": "cg", "search": False}, {"kernel": "rbf + linear", "mean": "zero"}]
)
def test_a_file_gives_the_process_back(tmp_path, way):
    model = GP(**({"search": {"starts": 1}} | way)).fit(X, Y)
    model.save(tmp_path / "gp.kp")
    again = read_property(GP, read_archive(tmp_path / "gp.kp"))
    np.testing.assert_allclose(again.predict(NEW), model.predict(NEW), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again.std(NEW), model.std(NEW), rtol=1e-9)
    np.testing.assert_array_equal(again.noise_, model.noise_)
    assert again.log_marginal_likelihood_ == model.log_marginal_likelihood_
    assert again.n_evaluations_ == model.n_evaluations_


def test_a_kernel_without_a_name_is_given_again(tmp_path):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.PeriodicKernel())
    model = GP(kernel, search={"starts": 1}).fit(X, Y[:, 0])
    model.save(tmp_path / "gp.kp")
    archive = read_archive(tmp_path / "gp.kp")
    again = read_property(GP, archive, kernel=kernel)
    np.testing.assert_allclose(again.predict(NEW), model.predict(NEW), rtol=1e-9, atol=1e-9)
    with pytest.raises(ModelFileError, match="give that kernel"):
        read_property(GP, archive)
    with pytest.raises(ModelFileError, match="not those of the kernel"):
        read_property(GP, archive, kernel=gpytorch.kernels.RBFKernel())


@pytest.mark.parametrize("way", [{}, {"n_inducing": 20}])
def test_structures_travel_with_the_process(tmp_path, way):
    model = GP(Volumes(extensive=True), mean="composition", **way).fit(TRAIN, energies(TRAIN))
    model.save(tmp_path / "gp.kp")
    archive = read_archive(tmp_path / "gp.kp")
    again = read_property(GP, archive, kernel=Volumes(extensive=True))
    np.testing.assert_allclose(again.predict(TEST), model.predict(TEST), rtol=1e-7)
    np.testing.assert_allclose(again.std(TEST), model.std(TEST), rtol=1e-5)
    with pytest.raises(ModelFileError, match="must be the one that was fitted"):
        read_property(GP, archive, kernel=Volumes(3.0, extensive=True))


def test_damaged_files_are_refused(tmp_path):
    GP(search=False).fit(X, Y).save(tmp_path / "gp.kp")
    archive = read_archive(tmp_path / "gp.kp")
    header = {k: v for k, v in archive.header.items() if k not in ("format", "version")}
    write_archive(tmp_path / "less.kp", FORMAT, 1, header, {k: v for k, v in archive.arrays.items() if k != "raw"})
    with pytest.raises(ModelFileError, match="damaged"):
        read_property(GP, read_archive(tmp_path / "less.kp"))
    write_archive(tmp_path / "later.kp", FORMAT, 99, header, archive.arrays)
    with pytest.raises(ModelFileError, match="version 99"):
        read_property(GP, read_archive(tmp_path / "later.kp"))
    with pytest.raises(ModelFileError, match="leave `kernel` out"):
        read_property(GP, archive, kernel="rbf")


def _cut(name):
    return lambda h, a: a.update({name: np.ascontiguousarray(a[name][:-1])})


FEATURES = ("x", "targets", "weights", "item_trend", "centre", "spread", "scale", "coefficients", "raw")
ALTERED = {
    "features": [
        lambda h, a: h["trend"].update(kind="x"),
        lambda h, a: h.update(noise=float("nan")),
        lambda h, a: h.update(noise=-1.0),
        lambda h, a: h.update(freedom=float("inf")),
        lambda h, a: h.update(single="x"),
        lambda h, a: h["parameters"].update(solver="magic"),
        lambda h, a: a["coefficients"].fill(np.nan),
        lambda h, a: a["spread"].fill(0.0),
        lambda h, a: a["raw"].fill(np.nan),
        lambda h, a: a["x"].fill(1e200),
        lambda h, a: a.update(weights=a["weights"].astype(np.float32)),
        *map(_cut, FEATURES),
    ],
    "inducing": [lambda h, a: a["lower"].fill(0.0), lambda h, a: a["inner"].fill(np.nan), _cut("inner")],
    "structures": [
        lambda h, a: a["numbers"].fill(0),
        lambda h, a: a["counts"].fill(0),
        lambda h, a: a["cells"].fill(np.nan),
        lambda h, a: a["periodic"].fill(3),
        lambda h, a: a["units"].fill(0.0),
        lambda h, a: a["sizes"].fill(0.0),
        lambda h, a: h["trend"].update(species=["x"]),
        _cut("counts"),
        _cut("positions"),
    ],
}


@pytest.mark.parametrize(("kind", "number"), [(kind, k) for kind, made in ALTERED.items() for k in range(len(made))])
def test_altered_files_are_refused(tmp_path, kind, number):
    kernel = Volumes(extensive=True) if kind == "structures" else None
    if kernel is None:
        model = GP(search=False, n_inducing=5 if kind == "inducing" else None).fit(X, Y)
    else:
        model = GP(kernel, mean="composition", search=False).fit(TRAIN, energies(TRAIN))
    model.save(tmp_path / "gp.kp")
    archive = read_archive(tmp_path / "gp.kp")
    header = {k: v for k, v in archive.header.items() if k not in ("format", "version")}
    arrays = {name: array.copy() for name, array in archive.arrays.items()}
    ALTERED[kind][number](header, arrays)
    write_archive(tmp_path / "other.kp", FORMAT, 1, header, arrays)
    with pytest.raises(ModelFileError):
        read_property(GP, read_archive(tmp_path / "other.kp"), kernel=kernel)


def test_only_structures_and_features_are_written(tmp_path):
    class Numbers(Volumes):
        def _sizes(self, items):
            return np.asarray(items, dtype=float), np.ones(len(items))

    model = GP(Numbers()).fit(list(range(10)), np.arange(10.0))
    with pytest.raises(ModelFileError, match="only structures"):
        model.save(tmp_path / "gp.kp")


@pytest.mark.parametrize("estimator", [GP, Classifier, kp.KernelRidge])
def test_structures_features_and_descriptors_are_not_mixed_up(estimator):
    y = [0, 1, 0, 1]
    objects = np.empty(4, dtype=object)
    objects[:] = crystals(4)
    for rows in (crystals(4), objects):
        with pytest.raises((DataError, ParameterError), match="holds structures; give a StructureKernel"):
            estimator("rbf").fit(rows, y)
    with pytest.raises(ParameterError, match="got the descriptor SOAP; put it into a StructureKernel"):
        estimator(kp.SOAP()).fit(crystals(4), y)


def test_what_another_kernel_encoded_is_refused():
    encoded = kp.StructureKernel(kp.SOAP(cutoff=3.0, n_max=2, l_max=1)).encode(crystals(4))
    for estimator in (GP, Classifier):
        with pytest.raises(
            DataError, match=r"Volumes takes structures as a list of ase\.Atoms, got what another kernel"
        ):
            estimator(Volumes()).fit(encoded, [0, 1, 0, 1])
        with pytest.raises(DataError, match="holds structures; give a StructureKernel"):
            estimator("rbf").fit(encoded, [0, 1, 0, 1])


def test_a_list_may_not_mix_kinds_of_kernels():
    with pytest.raises(ParameterError, match="between structures alone"):
        GP([Volumes(), gpytorch.kernels.RBFKernel()]).fit(TRAIN, energies(TRAIN))

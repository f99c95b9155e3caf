"""Kernel ridge regression: scikit-learn's own, its checks, refits, baselines, inducing items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError as SklearnNotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kernelpot as kp
from kernelpot.errors import DataError, LabelError, NotFittedError, ParameterError, SpeciesError
from kernelpot.properties import VectorKernel
from tests import structures as make
from tests.numbers import same

RNG = np.random.default_rng(0)
X, TEST = RNG.normal(size=(40, 3)), RNG.normal(size=(9, 3))
Y = np.sin(X).sum(axis=1)
BOTH = np.column_stack([Y, X[:, 0] ** 2])
RBF_KERNEL = VectorKernel("rbf", length=1.5)
ALPHA = 1e-3
SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2)
CRYSTALS = make.copper_gold_set(16, kinds=("energy",))
ENERGIES = np.array([atoms.get_potential_energy() for atoms in CRYSTALS])


def ridge(**settings):
    return kp.KernelRidge(RBF_KERNEL, **({"alpha": ALPHA, "mean": "zero"} | settings))


def cannot_apply(estimator):
    if estimator.kernel == "precomputed":
        why = "the check's matrix is not positive semidefinite"
        return {"check_positive_only_tag_during_fit": why, "check_estimators_dtypes": why}
    return {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        kp.KernelRidge(),
        kp.KernelRidge("matern52", alpha=1e-3, n_inducing=100),
        kp.KernelRidge("precomputed", alpha=1e-2),
    ],
    expected_failed_checks=cannot_apply,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("y", [Y, BOTH])
@pytest.mark.parametrize("weights", [None, RNG.uniform(0.2, 3.0, 40)])
def test_predictions_are_those_of_scikit_learn(y, weights):
    theirs = SklearnKernelRidge(kernel="rbf", gamma=1 / (2 * 1.5**2), alpha=ALPHA).fit(X, y, weights)
    ours = ridge().fit(X, y, weights)
    np.testing.assert_allclose(ours.predict(TEST), theirs.predict(TEST), atol=1e-10)
    assert ours.predict(TEST).shape == theirs.predict(TEST).shape
    assert ours.jitter_ == 0.0


def test_stds_are_those_of_a_gaussian_process_times_one_amplitude():
    theirs = GaussianProcessRegressor(RBF(1.5), alpha=ALPHA, optimizer=None).fit(X, Y)
    mean, std = theirs.predict(TEST, return_std=True)
    ours = ridge().fit(X, Y)
    np.testing.assert_allclose(ours.predict(TEST), mean, atol=1e-8)
    np.testing.assert_allclose(ours.std(TEST), ours.amplitude() * np.sqrt(std**2 + ALPHA), rtol=1e-6)
    errors = ours.left_out().error
    stds = []
    for i in range(len(X)):
        kept = np.delete(np.arange(len(X)), i)
        part = GaussianProcessRegressor(RBF(1.5), alpha=ALPHA, optimizer=None).fit(X[kept], Y[kept])
        stds.append(part.predict(X[[i]], return_std=True)[1][0])
    z = errors / (ours.amplitude() * np.sqrt(np.square(stds) + ALPHA))
    assert np.mean(z**2) == pytest.approx(1.0, rel=1e-6)
    assert ridge().fit(X, BOTH).std(TEST).shape == (9, 2)


@pytest.mark.parametrize("y", [Y, BOTH])
@pytest.mark.parametrize("weights", [None, RNG.uniform(0.2, 3.0, 40)])
def test_left_out_errors_are_those_of_refits(y, weights):
    model = ridge().fit(X, y, weights)
    folds = np.arange(40) % 7
    one, many = np.empty_like(y), np.empty_like(y)
    for i in range(40):
        kept = np.arange(40) != i
        one[i] = y[i] - ridge().fit(X[kept], y[kept], None if weights is None else weights[kept]).predict(X[[i]])[0]
    for f in range(7):
        kept = folds != f
        part = ridge().fit(X[kept], y[kept], None if weights is None else weights[kept])
        many[~kept] = y[~kept] - part.predict(X[~kept])
    np.testing.assert_allclose(model.left_out().error, one, atol=1e-9)
    np.testing.assert_allclose(model.left_out(folds).error, many, atol=1e-9)


def spread_with_inducing_items(k_mm, k_nm, k_xm, own, noise):
    """Variance of predictions at x where what inducing items do not see is noise, written out; and that unseen part."""
    unseen, new = (np.maximum(1.0 - np.sum(k * np.linalg.solve(k_mm, k.T).T, axis=1), 0.0) for k in (k_nm, k_xm))
    precision = k_mm + (k_nm.T / noise) @ k_nm
    known = np.sum(k_xm * np.linalg.solve(precision, k_xm.T).T, axis=1)
    weights = np.linalg.solve(precision, k_nm.T / noise).T @ k_xm.T
    return own - 1.0 + new + known + unseen @ weights**2


@pytest.mark.parametrize("n_inducing", [12, 25])
@pytest.mark.parametrize("weighted", [False, True])
def test_left_out_errors_with_inducing_items_are_those_of_refits(n_inducing, weighted):
    weights = RNG.uniform(0.5, 2.0, 40) if weighted else np.ones(40)
    model = ridge(n_inducing=n_inducing, mean="zero").fit(X, Y, weights)
    z, noise = model.items_, ALPHA / weights
    k_mm, k_nm = RBF_KERNEL.matrix(z), RBF_KERNEL.matrix(X, z)
    expected, stds = [], []
    for i in range(40):
        kept = np.delete(np.arange(40), i)
        precision = k_mm + (k_nm[kept].T / noise[kept]) @ k_nm[kept]
        expected.append(Y[i] - k_nm[i] @ np.linalg.solve(precision, k_nm[kept].T @ (Y[kept] / noise[kept])))
        variance = spread_with_inducing_items(k_mm, k_nm[kept], k_nm[[i]], 1.0, noise[kept])[0]
        stds.append(np.sqrt(variance + noise[i]))
    np.testing.assert_allclose(model.left_out().error, expected, atol=1e-6)
    np.testing.assert_allclose(model.posterior_.variance_left, np.square(stds), rtol=1e-5)
    # Of 15 items beside 25 inducing ones all are used, of 28 beside 12 those alone.
    inducing = (X[:, None] == z).all(axis=2).any(axis=1)
    used = ~inducing if n_inducing == 12 else np.ones(40, dtype=bool)
    z_scores = np.divide(expected, stds)[used]
    assert model.amplitude() == pytest.approx(np.sqrt(np.mean(z_scores**2)), rel=1e-5)
    variance = spread_with_inducing_items(k_mm, k_nm, RBF_KERNEL.matrix(TEST, z), 1.0, noise)
    np.testing.assert_allclose(model.std(TEST), model.amplitude() * np.sqrt(variance + ALPHA), rtol=1e-5)


@pytest.mark.parametrize(("n_inducing", "alpha"), [(20, 1e-8), (60, 1e-8), (60, 1e-4), (200, 1e-8)])
@pytest.mark.parametrize("inducing", ["random", "fps"])
def test_stds_with_few_inducing_items_are_as_large_as_the_errors(n_inducing, alpha, inducing):
    rng = np.random.default_rng(5)
    x = rng.uniform(-2.0, 2.0, size=(900, 3))
    y = np.sin(2.0 * x[:, 0]) * np.cos(x[:, 1]) + 0.5 * np.sin(3.0 * x[:, 2]) + 1e-3 * rng.normal(size=900)
    kernel = VectorKernel("matern52", length=1.0)
    model = kp.KernelRidge(kernel, alpha=alpha, n_inducing=n_inducing, inducing=inducing).fit(x[:500], y[:500])
    z = (model.predict(x[500:]) - y[500:]) / model.std(x[500:])
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.25
    assert 0.6 < np.mean(np.abs(z) < 1.0) < 0.9
    assert 0.9 < np.mean(np.abs(z) < 1.96) < 0.99


def test_what_inducing_items_do_not_see_widens_stds_where_they_are():
    """At an inducing item nothing is unseen, and yet its prediction is wrong by what was unseen of its neighbours."""
    x = np.linspace(-3.0, 3.0, 200)[:, None]
    model = ridge(n_inducing=5, alpha=1e-8, seed=1).fit(x, np.sin(4.0 * x[:, 0]))
    errors = np.abs(model.predict(model.items_) - np.sin(4.0 * model.items_[:, 0]))
    stds = model.std(model.items_)
    assert (stds > 0.1 * errors).all()
    assert (stds < 10.0 * np.abs(model.left_out().error).max()).all()


def test_all_items_inducing_is_exact(monkeypatch):
    exact = ridge().fit(X, BOTH)
    monkeypatch.setattr("kernelpot.properties.ridge.whole", lambda *_, **__: -1)
    nystroem = ridge(n_inducing=40).fit(X, BOTH)
    assert type(nystroem.posterior_) is not type(exact.posterior_)
    np.testing.assert_allclose(nystroem.predict(TEST), exact.predict(TEST), atol=1e-7)
    np.testing.assert_allclose(nystroem.std(TEST), exact.std(TEST), rtol=1e-5)
    np.testing.assert_allclose(nystroem.left_out().error, exact.left_out().error, atol=1e-6)


@pytest.mark.parametrize("inducing", ["random", "fps", "kmeans"])
def test_inducing_items_are_the_subset_of_regressors(inducing, monkeypatch):
    model = ridge(n_inducing=15, inducing=inducing, seed=3).fit(X, Y)
    z = model.items_
    assert len(z) == 15
    k_mm, k_nm, k_tm = RBF_KERNEL.matrix(z), RBF_KERNEL.matrix(X, z), RBF_KERNEL.matrix(TEST, z)
    expected = k_tm @ np.linalg.solve(k_nm.T @ k_nm + ALPHA * k_mm, k_nm.T @ Y)
    np.testing.assert_allclose(model.predict(TEST), expected, atol=1e-6)
    same(model.predict(TEST), clone(model).fit(X, Y).predict(TEST))
    monkeypatch.setattr("kernelpot.inference.exact.ENTRIES", 50)
    np.testing.assert_allclose(clone(model).fit(X, Y).predict(TEST), expected, atol=1e-6)
    assert (model.std(TEST) > np.sqrt(ALPHA) * model.amplitude() * 0.999).all()


def test_more_inducing_items_than_there_are_is_the_exact_fit():
    same(ridge(n_inducing=40).fit(X, Y).predict(TEST), ridge().fit(X, Y).predict(TEST))


@given(st.integers(0, 10**6), st.integers(2, 30))
def test_stds_do_not_grow_with_more_items(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 1, 2))
    model, more = ridge().fit(x[:n], x[:n, 0]), ridge().fit(x, x[:, 0])
    before, after = (m.std(TEST[:, :2]) / m.amplitude() for m in (model, more))
    assert (after <= before * (1 + 1e-9)).all()


@pytest.mark.parametrize("settings", [{}, {"n_inducing": 20}])
def test_the_best_of_several_alphas_is_that_of_left_out_errors(settings):
    y = Y + 0.3 * np.random.default_rng(1).normal(size=40)
    alphas = np.geomspace(1e-6, 10.0, 8)
    weights = RNG.uniform(0.5, 2.0, 40)
    each = [ridge(alpha=a, **settings).fit(X, y, weights) for a in alphas]
    best = each[int(np.argmin([np.average(m.left_out().error ** 2, weights=weights) for m in each]))]
    model = ridge(alpha=alphas, **settings).fit(X, y, weights)
    assert model.alpha_ == best.alpha_
    np.testing.assert_allclose(model.predict(TEST), best.predict(TEST), rtol=1e-9)
    assert model.prepare(X).noise == pytest.approx(np.sqrt(model.alpha_))


def test_alphas_that_are_too_small_drop_out():
    indefinite = np.diag(np.r_[-0.5, np.ones(9)])
    assert kp.KernelRidge("precomputed", alpha=[1e-6, 1.0]).fit(indefinite, np.arange(10.0)).alpha_ == 1.0
    with pytest.raises(ParameterError, match="positive semidefinite"):
        kp.KernelRidge("precomputed", alpha=[1e-6, 1e-3]).fit(indefinite, np.arange(10.0))
    with pytest.raises(ParameterError, match="one number before a fit"):
        ridge(alpha=[1e-6, 1.0]).prepare(X)


def test_weights_of_zero_leave_items_out():
    weights = np.ones(40)
    weights[[3, 7]] = 0.0
    kept = weights > 0
    np.testing.assert_allclose(ridge().fit(X, Y, weights).predict(TEST), ridge().fit(X[kept], Y[kept]).predict(TEST))


def test_a_mean_is_subtracted_and_added():
    weights = RNG.uniform(0.5, 2.0, 40)
    shifted = ridge(mean="constant").fit(X, Y + 100.0, weights)
    mean = np.average(Y, weights=weights)
    plain = ridge().fit(X, Y - mean, weights)
    np.testing.assert_allclose(shifted.predict(TEST), plain.predict(TEST) + 100.0 + mean, atol=1e-9)
    far = np.full((1, 3), 100.0)
    np.testing.assert_allclose(shifted.predict(far), 100.0 + mean)


def test_a_composition_is_a_least_squares_fit_on_counts_of_elements():
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2))
    model = kp.KernelRidge(kernel, alpha=1e-3, mean="composition").fit(CRYSTALS, ENERGIES)
    counts = np.array([[(atoms.numbers == z).sum() for z in (29, 79)] for atoms in CRYSTALS])
    values = np.linalg.lstsq(counts, ENERGIES, rcond=None)[0]
    plain = kp.KernelRidge(kernel, alpha=1e-3, mean="zero").fit(CRYSTALS, ENERGIES - counts @ values)
    np.testing.assert_allclose(model.predict(CRYSTALS), plain.predict(CRYSTALS) + counts @ values, atol=1e-9)
    strange = kernel.prepared([*CRYSTALS, make.four_metals(0)])
    model = kp.KernelRidge(strange, mean="composition").fit(CRYSTALS, ENERGIES)
    with pytest.raises(SpeciesError, match=r"holds element \d+, which no training structure has"):
        model.predict([make.four_metals(0)])


def test_sums_are_extensive():
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2))
    model = kp.KernelRidge(kernel, alpha=1e-6, mean="composition").fit(CRYSTALS, ENERGIES)
    larger = [atoms.repeat((2, 1, 1)) for atoms in CRYSTALS[:3]]
    np.testing.assert_allclose(model.predict(larger), 2 * model.predict(CRYSTALS[:3]), rtol=1e-7)


def test_cross_validation_and_searches_work_on_lists_of_structures():
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.5))
    model = kp.KernelRidge(kernel, alpha=1e-6, mean="composition")
    folds = KFold(4)
    grid = {"alpha": [1e-8, 1.0], "kernel__kernel__length": [0.3, 1.0], "kernel__combine": ["sum", "average"]}
    search = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_absolute_error").fit(CRYSTALS, ENERGIES)
    assert search.best_params_["alpha"] == 1e-8
    encoded = kernel.encode(CRYSTALS)
    again = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_absolute_error").fit(encoded, ENERGIES)
    np.testing.assert_allclose(again.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"], rtol=1e-6)
    scores = cross_val_score(model, CRYSTALS, ENERGIES, cv=folds, scoring="neg_mean_absolute_error")
    assert scores.mean() > -0.5 * ENERGIES.std()


def test_cross_validation_and_searches_work_on_arrays():
    model = make_pipeline(StandardScaler(), kp.KernelRidge("rbf", mean="zero"))
    search = GridSearchCV(model, {"kernelridge__alpha": [1e-6, 10.0], "kernelridge__kernel": ["rbf", "matern32"]}, cv=4)
    assert search.fit(X, Y).best_params_["kernelridge__alpha"] == 1e-6
    folds = np.arange(40) % 5
    splits = [(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(5)]
    np.testing.assert_allclose(
        Y - cross_val_predict(ridge(), X, Y, cv=splits), ridge().fit(X, Y).left_out(folds).error, atol=1e-9
    )


def test_precomputed_kernels():
    own, cross = RBF_KERNEL.matrix(X), RBF_KERNEL.matrix(TEST, X)
    for settings in ({}, {"n_inducing": 20}):
        model = kp.KernelRidge("precomputed", alpha=ALPHA, **settings).fit(own, Y)
        expected = kp.KernelRidge(RBF_KERNEL, alpha=ALPHA, **settings).fit(X, Y)
        np.testing.assert_allclose(model.predict(cross), expected.predict(TEST), atol=1e-9)
        np.testing.assert_allclose(model.left_out().error, expected.left_out().error, atol=1e-7)
    weights = np.ones(40)
    weights[5] = 0.0
    model = kp.KernelRidge("precomputed", alpha=ALPHA).fit(own, Y, weights)
    expected = kp.KernelRidge(RBF_KERNEL, alpha=ALPHA).fit(X, Y, weights)
    np.testing.assert_allclose(model.predict(cross), expected.predict(TEST), atol=1e-9)
    scores = [
        cross_val_score(kp.KernelRidge(kernel, alpha=ALPHA), x, Y, cv=4)
        for kernel, x in (("precomputed", own), (RBF_KERNEL, X))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-7)
    with pytest.raises(ParameterError, match="needs k"):
        model.std(cross)
    with pytest.raises(DataError, match="must be symmetric"):
        model.fit(own + np.triu(np.ones((40, 40)), 1), Y)
    with pytest.raises(DataError, match="must be a square matrix"):
        model.fit(cross, Y[:9])
    with pytest.raises(ParameterError, match=r"positive semidefinite, its smallest eigenvalue is -1"):
        model.fit(np.diag(np.r_[-1.0, np.ones(39)]), Y)


def test_a_kernel_that_is_singular_to_round_off_gets_a_stated_jitter():
    x = np.repeat(X[:10], 4, axis=0)
    y = np.repeat(Y[:10], 4)
    model = ridge(alpha=1e-18).fit(x, y)
    assert 0.0 < model.jitter_ < 1e-9
    np.testing.assert_allclose(model.predict(x), y, atol=1e-4)


def test_features_too_large_for_a_kernel_are_refused():
    for settings in ({}, {"n_inducing": 10}):
        with pytest.raises(DataError, match="not finite"):
            kp.KernelRidge(VectorKernel("polynomial", length=1.0), **settings).fit(1e120 * X, Y)


def test_sums_and_products_of_kernels_of_features():
    one, two = VectorKernel("linear", length=1.0), VectorKernel("rbf", length=2.0)
    kernel = 0.1 * one + one * two
    expected = kp.KernelRidge("precomputed", alpha=ALPHA).fit(kernel.matrix(X), Y).predict(kernel.matrix(TEST, X))
    model = kp.KernelRidge(kernel, alpha=ALPHA)
    np.testing.assert_allclose(model.fit(X, Y).predict(TEST), expected, atol=1e-9)
    assert np.isfinite(model.set_params(n_inducing=9, inducing="fps").fit(X, Y).std(TEST)).all()
    with pytest.raises(DataError, match="X has 2 features"):
        model.predict(TEST[:, :2])
    own, cross = np.diag(kernel.matrix(X)), kernel.matrix(X, TEST)
    squares = own[:, None] + np.diag(kernel.matrix(TEST)) - 2 * cross
    np.testing.assert_allclose(kernel.distance(X, TEST), np.sqrt(squares), atol=1e-6)


def test_a_model_keeps_its_items_whatever_becomes_of_the_array():
    x = X.copy()
    model = ridge().fit(x, Y)
    expected = model.predict(TEST)
    x[:] = 0.0
    same(model.predict(TEST), expected)


def test_one_structure_is_enough():
    model = kp.KernelRidge(kp.StructureKernel(SOAP)).fit(CRYSTALS[:1], ENERGIES[:1])
    np.testing.assert_allclose(model.predict(CRYSTALS[:1]), ENERGIES[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "`alpha`"),
        ({"alpha": True}, "`alpha`"),
        ({"alpha": np.nan}, "`alpha`"),
        ({"alpha": []}, "`alpha` must hold at least one"),
        ({"alpha": [1.0, -1.0]}, "`alpha`"),
        ({"alpha": "1"}, "`alpha`"),
        ({"alpha": [[1.0], [1.0, 2.0]]}, "`alpha`"),
        (
            {"kernel": VectorKernel(length=[[1.0], [1.0, 2.0]])},
            "`length` must hold parts of equal lengths",
        ),
        ({"kernel": VectorKernel(length=1e-320)}, "`length`"),
        ({"mean": np.ones(3)}, "`mean` must be one of"),
        ({"seed": -1, "n_inducing": 3}, "`seed`"),
        ({"seed": None}, "`seed`"),
        ({"seed": "x"}, "`seed`"),
        ({"kernel": "cubic"}, "`kernel` must be a StructureKernel"),
        ({"kernel": kp.DotProduct(2)}, "`kernel` must be a StructureKernel"),
        ({"mean": "median"}, "`mean` must be one of"),
        ({"mean": "composition"}, "counts the elements of structures"),
        ({"n_inducing": 0}, "`n_inducing`"),
        ({"n_inducing": 2.5}, "`n_inducing`"),
        ({"n_inducing": 5, "inducing": "cur"}, "`inducing` must be one of"),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ParameterError, match=message):
        kp.KernelRidge(**settings).fit(X, Y)


@pytest.mark.parametrize(
    ("x", "y", "weights", "message"),
    [
        (X, Y[:-1], None, "`y` cannot be used"),
        (X, np.r_[Y[:-1], np.nan], None, "`y` cannot be used: Input y contains NaN"),
        (X, ["a"] * 40, None, "`y` cannot be used"),
        (X, np.zeros((40, 2, 2)), None, "`y` cannot be used"),
        (X, None, None, "target y is None"),
        (X, Y, -np.ones(40), "`sample_weight` must be finite and not negative"),
        (X, Y, np.zeros(40), "every weight is zero"),
        (X, Y, np.ones(3), "`sample_weight` must hold a number for each of 40 items"),
        (X, Y, ["a"] * 40, "`sample_weight` must hold a number"),
        (X, Y, np.ones(40) + 1j, "`sample_weight` must hold a number"),
        (X, Y, np.full(40, 1e-320), "`sample_weight` must be at most 1e300"),
        (X, 1e200 * Y, None, "`y` must hold numbers up to"),
        (X * np.inf, Y, None, "`X` cannot be used"),
        (X[:, 0], Y, None, "`X` cannot be used"),
        (CRYSTALS, ENERGIES, None, "this kernel compares rows of features"),
    ],
)
def test_bad_data_is_named(x, y, weights, message):
    error = DataError if weights is None else ParameterError
    with pytest.raises(error, match=message), np.errstate(invalid="ignore"):
        kp.KernelRidge().fit(x, y, weights)


def test_structures_and_features_are_told_apart():
    with pytest.raises(DataError, match=r"must be ase\.Atoms"):
        kp.KernelRidge(kp.StructureKernel(SOAP)).fit(X, Y)
    with pytest.raises(LabelError, match="`y` cannot be used"):
        kp.KernelRidge(kp.StructureKernel(SOAP)).fit(CRYSTALS, ENERGIES[:3])


def test_a_model_that_is_not_fitted_says_so(tmp_path):
    model = ridge()
    for call in (model.predict, model.std, model.left_out):
        with pytest.raises(NotFittedError, match="KernelRidge is not fitted yet"):
            call(X)
    for call in (model.left_out, lambda: model.save(tmp_path / "m.kp")):
        with pytest.raises(SklearnNotFittedError):
            call()


@pytest.mark.parametrize("kind", ["matern32", "matern52", "polynomial"])
def test_features_too_large_for_the_kernel_are_refused(kind):
    model = kp.KernelRidge(kind).fit(X, Y)
    for call in (model.predict, model.std):
        with pytest.raises(DataError, match="`X` must hold numbers up to"):
            call(1e200 * X)
    model = kp.KernelRidge("polynomial").fit(X, Y)
    for call in (model.predict, model.std):
        with pytest.raises(DataError, match="the kernel with `X` is not finite"):
            call(1e120 * X)


def test_folds_must_fit():
    model = ridge().fit(X, Y)
    for folds in (np.r_[np.nan, np.zeros(39)], [None] * 40, [[1], [2, 3]] * 20):
        with pytest.raises(ParameterError, match="`folds` must hold a number"):
            model.left_out(folds)
    names = np.array(["a", "b"] * 20, dtype=object)
    same(model.left_out(names).error, model.left_out([0, 1] * 20).error)
    with pytest.raises(ParameterError, match="`folds` must hold a number for each of 40 items"):
        model.left_out([1, 2])
    with pytest.raises(ParameterError, match="factor of an exact process"):
        ridge(n_inducing=5).fit(X, Y).left_out(np.zeros(40))


def test_the_mean_is_composition_where_the_kernel_is_a_plain_sum():
    crystals = make.copper_gold_set(8, kinds=("energy",))
    y = np.array([atoms.get_potential_energy() for atoms in crystals])
    soap = kp.SOAP(cutoff=3.5, n_max=3, l_max=2)
    plain = kp.StructureKernel(soap, kp.Gaussian(0.5))
    average = kp.StructureKernel(soap, kp.Gaussian(0.5), combine="average")
    relative = kp.StructureKernel(soap, kp.Gaussian(0.5), normalise=True)
    for kernel, kind in (
        (plain, "composition"), (0.5 * plain + plain * plain, "composition"), (average, "constant"),
        (relative, "constant"), (plain + average, "constant"),
    ):  # fmt: skip
        model = kp.KernelRidge(kernel, alpha=1e-3).fit(crystals, y)
        assert (model.mean, model.mean_.trend.kind) == ("auto", kind)
        same(
            model.predict(crystals),
            kp.KernelRidge(kernel, alpha=1e-3, mean=kind).fit(crystals, y).predict(crystals),
        )
    assert kp.KernelRidge("rbf").fit(X, Y).mean_.trend.kind == "constant"
    process = kp.GP([plain, plain], search=False).fit(crystals, y)
    same(
        process.predict(crystals),
        kp.GP([plain] * 2, search=False, mean="composition").fit(crystals, y).predict(crystals),
    )
    mixed = kp.GP([plain, average], search=False).fit(crystals, y)
    same(
        mixed.predict(crystals),
        kp.GP([plain, average], search=False, mean="constant").fit(crystals, y).predict(crystals),
    )

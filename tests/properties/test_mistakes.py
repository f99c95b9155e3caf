"""A mistake has one class of error in all models of properties; old names say the new ones."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

import kernelpot as kp
from kernelpot.errors import DataError, LabelError, NotFittedError, ParameterError
from tests import structures as make
from tests.numbers import same

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(24, 2)), RNG.normal(size=(5, 2))
Y = X[:, 0] > 0.0
CRYSTALS = make.copper_gold_set(6, kinds=("energy",))
SOAP = kp.SOAP(cutoff=3.5, n_max=2, l_max=1)
ESTIMATORS = {"ridge": kp.KernelRidge, "gp": kp.GP, "classifier": kp.Classifier}
PARTS = {"ridge": {}, "gp": {"search": False}, "classifier": {"search": False}}

MISTAKES = {
    "a kernel without name": (ParameterError, {"kernel": "cubic"}, X, Y),
    "a descriptor for a kernel": (ParameterError, {"kernel": SOAP}, X, Y),
    "a mean of no kind": (ParameterError, {"mean": "median"}, X, Y),
    "elements of features": (ParameterError, {"mean": "composition"}, X, Y),
    "a seed below zero": (ParameterError, {"seed": -1}, X, Y),
    "structures as rows": (DataError, {}, CRYSTALS, np.arange(6) > 2),
    "rows as structures": (DataError, {"kernel": kp.StructureKernel(SOAP)}, X, Y),
    "no rows": (DataError, {}, X[:0], Y[:0]),
    "a single structure": (DataError, {"kernel": kp.StructureKernel(SOAP)}, CRYSTALS[0], Y),
    "rows that are text": (DataError, {}, np.full((24, 2), "a"), Y),
    "a row that is not finite": (DataError, {}, np.where(X > 1.5, np.nan, X), Y),
    "a vector for rows": (DataError, {}, X[:, 0], Y),
    "huge features": (DataError, {}, 1e200 * X, Y),
    "no labels": (LabelError, {}, X, None),
    "labels of others": (LabelError, {}, X, Y[:-1]),
    "labels in three dimensions": (LabelError, {}, X, np.zeros((24, 2, 2))),
    "labels that are not finite": (LabelError, {}, X, np.where(Y, np.nan, 1.0)),
}


def fitted(name, **settings):
    return ESTIMATORS[name](**PARTS[name], **settings).fit(X, Y)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_mistake_has_one_class(name, mistake):
    error, settings, x, y = MISTAKES[mistake]
    with pytest.raises(error) as found:
        ESTIMATORS[name](**{**PARTS[name], **settings}).fit(x, y)
    assert found.type is error or (error is DataError and issubclass(found.type, TypeError))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_not_fitted_or_of_another_width_says_so(name):
    ask = "predict_proba" if name == "classifier" else "std"
    with pytest.raises(NotFittedError):
        getattr(ESTIMATORS[name](), ask)(X)
    model = fitted(name)
    with pytest.raises(DataError):
        getattr(model, ask)(X[:, :1])
    with pytest.raises(ParameterError):
        model.save("m.kp", label="")


def test_old_names_work_and_say_the_new_ones():
    with pytest.warns(DeprecationWarning, match="`baseline` is now `mean`"):
        ridge = kp.KernelRidge(baseline="mean", alpha=0.1)
    assert ridge.mean == "constant"
    with pytest.warns(DeprecationWarning, match="`baseline` is now `mean`"):
        ridge.set_params(baseline=None)
    assert clone(ridge).mean == "zero"
    ridge.fit(X, Y)
    folds = np.arange(24) % 3
    for old, value in (("state_", ridge.posterior_), ("baseline_", ridge.mean_)):
        with pytest.warns(DeprecationWarning, match=f"`{old}` is now"):
            assert getattr(ridge, old) is value
    with pytest.warns(DeprecationWarning, match="`leave_one_out` is now `left_out`"):
        same(ridge.leave_one_out(), ridge.left_out().error)
    with pytest.warns(DeprecationWarning, match="`leave_out` is now `left_out`"):
        same(ridge.leave_out(folds), ridge.left_out(folds).error)


def test_old_ways_to_search_work_and_say_the_new_one():
    with pytest.warns(DeprecationWarning, match="is now `search`") as said:
        process = kp.GP("rbf", starts=1, n_warm=10, full_steps=2)
    assert [str(one.message).split("`")[1] for one in said] == ["starts", "n_warm", "full_steps"]
    assert {one.filename for one in said} == {__file__}
    assert process.search == {"starts": 1, "n_warm": 10, "full_steps": 2}
    with pytest.warns(DeprecationWarning, match="`n_warm` is now `search`"):
        assert process.n_warm == 10
    with pytest.warns(DeprecationWarning, match="`optimise` is now `search`"):
        process.set_params(optimise=False, seed=3)
    assert (process.search, process.seed) == (False, 3)
    process.fit(X, X[:, 1])
    left = process.left_out()
    with pytest.warns(DeprecationWarning, match="`loo` is now `left_out`"):
        mean, std = process.loo()
    np.testing.assert_allclose(mean, X[:, 1] - left.error, atol=1e-12)
    np.testing.assert_allclose(std**2, left.variance, rtol=1e-12)
    with pytest.warns(DeprecationWarning, match="`optimise` is now `search`"):
        assert kp.Classifier(optimise=False).search is False
    with pytest.raises(TypeError, match="unexpected keyword argument 'noise'"):
        kp.Classifier(noise=1.0)


def test_left_out_errors_are_alike_in_all_models():
    y = np.stack([X[:, 0], 3.0 * X[:, 1]], axis=1)
    folds = np.repeat(["a", "b", "c"], 8)
    for model in (kp.KernelRidge(alpha=0.1), kp.GP(search=False)):
        for labels in (y, y[:, 0]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                left = model.fit(X, labels).left_out(folds)
            assert left.error.shape == left.variance.shape == labels.shape
            assert left.witness.tolist() == np.repeat([0, 1, 2], 8).tolist()
            assert left.pooled().rows.tolist() == [8, 8, 8]

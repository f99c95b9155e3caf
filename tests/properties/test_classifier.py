"""Classification against scikit-learn's, finite differences and what probabilities must be."""

import gpytorch
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from kernelpot.errors import DataError, NotFittedError, ParameterError
from kernelpot.inference.laplace import LaplaceEvidence, averaged
from kernelpot.properties.classifier import Classifier
from tests.numbers import same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3))
Y = np.where(np.sin(2.0 * X[:, 0]) + X[:, 1] + 0.3 * RNG.normal(size=80) > 0, "wide", "narrow")
NEW = RNG.normal(size=(40, 3))


def rbf(length=1.5, variance=9.0):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = length, variance
    return kernel


def plain(**settings):
    return Classifier(rbf(), search=False, mean="zero", normalise=False, **settings)


def test_given_hyper_parameters_equal_scikit_learn():
    rival = GaussianProcessClassifier(ConstantKernel(9.0) * RBF(1.5), optimizer=None).fit(X, Y)
    model = plain().fit(X, Y)
    assert model.log_marginal_likelihood_ == pytest.approx(rival.log_marginal_likelihood_value_, abs=1e-8)
    mean, variance = (values[:, 0] for values in model.posterior_.moments(model._new(NEW)[0]))
    theirs = rival.base_estimator_.latent_mean_and_variance(NEW)
    np.testing.assert_allclose(mean, theirs[0], atol=1e-6)
    np.testing.assert_allclose(variance, theirs[1], atol=1e-6)
    # Its average of the sigmoid is a fit by five error functions, good to 4e-4.
    np.testing.assert_allclose(model.predict_proba(NEW), rival.predict_proba(NEW), atol=5e-4)


@pytest.mark.parametrize("variance", [1e-8, 0.3, 10.0, 400.0])
def test_the_average_of_the_sigmoid_is_its_integral(variance):
    for mean in (-30.0, -2.0, 0.0, 0.7, 9.0):
        value, _ = quad(
            lambda t, m=mean: expit(m + np.sqrt(variance) * t) * np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi),
            -9.0, 9.0, epsabs=1e-12, limit=500,
        )  # fmt: skip
        assert averaged(np.array([mean]), np.array([variance]))[0] == pytest.approx(value, abs=1e-7)


def test_gradient_of_the_evidence_is_a_finite_difference():
    model = Classifier("matern52", ard=True, search=False).fit(X, np.digitize(X[:, 0], [-0.5, 0.5]))
    labels = (np.digitize(X[:, 0], [-0.5, 0.5])[:, None] == np.arange(3)).astype(float)
    objective = LaplaceEvidence(model._prior, labels)
    theta = objective.parameters.values() + 0.2
    _, gradient = objective(theta)
    errors = []
    for step in (1e-3, 1e-4, 1e-5):
        moves = step * np.eye(len(theta))
        found = [(objective(theta + d)[0] - objective(theta - d)[0]) / (2.0 * step) for d in moves]
        errors.append(np.abs(found - gradient).max())
    assert min(errors) < 1e-6 * np.abs(gradient).max()


def test_it_separates_what_a_line_cannot():
    radius = np.linalg.norm(X[:, :2], axis=1) > 1.2
    model = Classifier().fit(X[:60], radius[:60])
    line = LogisticRegression().fit(X[:60], radius[:60])
    assert model.score(X[60:], radius[60:]) > line.score(X[60:], radius[60:]) + 0.1


def test_a_linear_kernel_decides_as_logistic_regression():
    y = X @ [1.0, -2.0, 0.0] + 0.5 * RNG.normal(size=80) > 0
    model = Classifier("linear").fit(X, y)
    line = LogisticRegression().fit(X, y)
    assert np.mean(model.predict(NEW) == line.predict(NEW)) > 0.94


@given(st.integers(2, 4), st.integers(0, 10_000))
def test_probabilities_sum_to_one_and_rejection_is_monotone(classes, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(25, 2)) * np.exp(rng.normal(size=2))
    y = rng.permutation(np.arange(25) % classes)
    model = Classifier(search=False).fit(x, y)
    new = 5.0 * rng.normal(size=(20, 2))
    probability = model.predict_proba(new)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0, atol=1e-12)
    assert (probability >= 0.0).all()
    before = np.zeros(20, dtype=bool)
    for theta in np.linspace(0.0, 1.0, 9):
        now = model.rejected(new, theta)
        assert (now | ~before).all()
        before = now
    assert not model.rejected(new, 0.0).any()
    assert not model.rejected(new, 1.0 / classes - 1e-9).any()


def test_rejected_answers_are_masked_and_predict_always_answers():
    model = Classifier(reject=0.9).fit(X, Y)
    answers = model.predict_or_reject(NEW)
    np.testing.assert_array_equal(answers.mask, model.rejected(NEW))
    np.testing.assert_array_equal(answers.mask, model.predict_proba(NEW).max(axis=1) < 0.9)
    np.testing.assert_array_equal(answers.data, model.predict(NEW))
    assert model.predict_or_reject(NEW, 0.0).mask.sum() == 0


def test_accuracy_by_coverage():
    model = Classifier().fit(X[:60], Y[:60])
    curve = model.risk_coverage(X[60:], Y[60:])
    assert curve.coverage[-1] == 1.0
    assert curve.accuracy[-1] == pytest.approx(model.score(X[60:], Y[60:]))
    assert curve.refusing(0.0) == curve.accuracy[-1]
    assert repr(curve).startswith(f"RiskCoverage({len(X) - 60} answers, accuracy {curve.accuracy[-1]:.3g} of all, ")
    assert (np.diff(curve.theta) <= 0).all()
    kept = ~model.rejected(X[60:], curve.theta[14])
    assert curve.refusing(0.25) == pytest.approx(np.mean(model.predict(X[60:])[kept] == Y[60:][kept]))
    for share in (1.0, "x", None, True):
        with pytest.raises(ParameterError, match="`share`"):
            curve.refusing(share)
    with pytest.raises(DataError, match="one class for each"):
        model.risk_coverage(X[60:], Y)


def test_a_subset_settles_the_hyper_parameters_and_seeds_repeat():
    models = [Classifier(search={"n_warm": 50}, seed=3).fit(X, Y) for _ in range(2)]
    same(models[0].predict_proba(NEW), models[1].predict_proba(NEW), tolerance=1e-6)


def test_ard_takes_an_irrelevant_feature_out():
    lengths = Classifier("rbf", ard=True).fit(X, Y).kernel_.base_kernel.lengthscale.detach().numpy()[0]
    assert lengths[2] > 2.0 * lengths[0]


def test_it_is_an_estimator_of_scikit_learn():
    search = GridSearchCV(Classifier(search={"starts": 1}), {"kernel": ["rbf", "linear"]}, cv=3).fit(X, Y)
    assert set(search.classes_) == {"wide", "narrow"}


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.where(X > 2, np.nan, X), Y, "contains NaN"),
        (X, Y[:-1], "inconsistent"),
        (X, np.full(80, "wide"), "two classes"),
        (X, RNG.normal(size=80), "Unknown label type"),
        (X, None, "needed"),
        (X[:1], Y[:1], "minimum of 2"),
    ],
)
def test_bad_data_is_refused(x, y, says):
    with pytest.raises(DataError, match=says):
        Classifier().fit(x, y)


@pytest.mark.parametrize("reject", [-0.1, 1.1, True, "0.9", float("nan")])
def test_a_theta_is_a_probability(reject):
    with pytest.raises(ParameterError, match="`reject` must be a probability"):
        Classifier(reject=reject).fit(X, Y)


def test_switches_and_sizes_are_checked():
    with pytest.raises(ParameterError, match="`search` must be True, False, or a dict with some of starts, n_warm"):
        Classifier(search={"full_steps": 3}).fit(X, Y)
    with pytest.raises(DataError, match="numbers up to"):
        plain().fit(X, Y).predict_proba(1e200 * NEW)


def test_without_theta_or_fit_there_is_no_answer():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        Classifier().predict(X)
    with pytest.raises(ParameterError, match="`reject`"):
        plain().fit(X, Y).rejected(NEW)

"""Exact Gaussian processes against scikit-learn's, closed forms, refits and finite differences."""

import gpytorch
import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, RationalQuadratic
from sklearn.model_selection import GridSearchCV, cross_val_score

import kernelpot as kp
from kernelpot.errors import DataError, NotFittedError, ParameterError
from kernelpot.inference.evidence import Bound, Evidence, NoiseModel
from kernelpot.properties.gp import GP
from tests.devices import DEVICES
from tests.numbers import same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.sin(2.0 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * RNG.normal(size=60)
NEW = RNG.normal(size=(20, 3))
LENGTHS = [1.0, 2.0, 3.0]


def settled(kernel, **values):
    """Give a kernel its values, in double precision."""
    kernel = kernel.double()
    for name, value in values.items():
        setattr(kernel, name, torch.as_tensor(value, dtype=torch.float64))
    return kernel


def scaled(kernel, variance=2.5):
    return settled(gpytorch.kernels.ScaleKernel(kernel), outputscale=variance)


def matern(nu):
    return settled(gpytorch.kernels.MaternKernel(nu=nu, ard_num_dims=3), lengthscale=LENGTHS)


PAIRS = {
    "rbf": (lambda: scaled(settled(gpytorch.kernels.RBFKernel(ard_num_dims=3), lengthscale=LENGTHS)),
            ConstantKernel(2.5) * RBF(LENGTHS)),
    "matern12": (lambda: scaled(matern(0.5)), ConstantKernel(2.5) * Matern(LENGTHS, nu=0.5)),
    "matern32": (lambda: scaled(matern(1.5)), ConstantKernel(2.5) * Matern(LENGTHS, nu=1.5)),
    "matern52": (lambda: scaled(matern(2.5)), ConstantKernel(2.5) * Matern(LENGTHS, nu=2.5)),
    "rq": (lambda: scaled(settled(gpytorch.kernels.RQKernel(), lengthscale=1.5, alpha=0.7)),
           ConstantKernel(2.5) * RationalQuadratic(1.5, 0.7)),
    "sum": (lambda: scaled(matern(2.5)) + settled(gpytorch.kernels.LinearKernel(), variance=0.3),
            ConstantKernel(2.5) * Matern(LENGTHS, nu=2.5) + ConstantKernel(0.3) * DotProduct(0.0, "fixed")),
    "product": (lambda: scaled(matern(2.5) * settled(gpytorch.kernels.RBFKernel(), lengthscale=2.0)),
                ConstantKernel(2.5) * Matern(LENGTHS, nu=2.5) * RBF(2.0)),
}  # fmt: skip


def plain(kernel, **settings):
    """A process with given hyper-parameters of bare features and targets."""
    return GP(kernel, noise=0.1, mean="zero", normalise=False, search=False, **settings)


@pytest.mark.parametrize("name", PAIRS)
def test_given_hyper_parameters_equal_scikit_learn(name):
    make, theirs = PAIRS[name]
    rival = GaussianProcessRegressor(theirs, alpha=0.01, optimizer=None).fit(X, Y)
    mean, std = rival.predict(NEW, return_std=True)
    model = plain(make()).fit(X, Y)
    np.testing.assert_allclose(model.predict(NEW), mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.latent_std(NEW), std, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.std(NEW), np.sqrt(std**2 + 0.01), rtol=0, atol=1e-8)
    assert model.log_marginal_likelihood_ == pytest.approx(rival.log_marginal_likelihood_value_, rel=1e-10)


def test_draws_have_the_posterior_mean_and_covariance():
    rival = GaussianProcessRegressor(PAIRS["rbf"][1], alpha=0.01, optimizer=None).fit(X, Y)
    mean, covariance = rival.predict(NEW[:4], return_cov=True)
    drawn = plain(PAIRS["rbf"][0]()).fit(X, Y).sample(NEW[:4], 20_000, seed=1)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.03)


@pytest.mark.parametrize("kernel", ["rbf", "matern52 + linear", "rq"])
@pytest.mark.parametrize("fixed", [None, 0.01])
def test_gradient_of_the_marginal_likelihood_is_a_finite_difference(kernel, fixed):
    model = GP(kernel, search=False).fit(X, np.c_[Y, X[:, 2]])
    objective = Evidence(model.posterior_.prior, torch.as_tensor(model._z), NoiseModel(fixed))
    theta = np.append(objective.parameters.values() + 0.3, [] if fixed else [-3.0])
    _, gradient = objective(theta)
    errors = [np.abs(differences(objective, theta, step) - gradient).max() for step in (1e-3, 1e-4, 1e-5)]
    assert min(errors) < 1e-6 * np.abs(gradient).max()
    assert errors[0] > 10 * errors[1]  # the second order of central differences


def test_gradient_of_the_bound_is_a_finite_difference():
    model = GP(search=False).fit(X, Y)
    prior = model.posterior_.prior
    objective = Bound(prior, prior.panel(np.arange(0, 60, 4)), torch.as_tensor(model._z), NoiseModel())
    theta = np.append(prior.parameters.values(), -3.0)
    _, gradient = objective(theta)
    np.testing.assert_allclose(differences(objective, theta, 1e-4), gradient, rtol=1e-5, atol=1e-5)


def differences(objective, theta, step):
    moves = step * np.eye(len(theta))
    return np.array([(objective(theta + d)[0] - objective(theta - d)[0]) / (2.0 * step) for d in moves])


def test_leaving_one_out_equals_refits():
    model = plain(PAIRS["matern52"][0]()).fit(X, Y)
    left = model.left_out()
    for k in (0, 7, 59):
        rest = np.arange(60) != k
        again = plain(PAIRS["matern52"][0]()).fit(X[rest], Y[rest])
        assert left.error[k] == pytest.approx(Y[k] - again.predict(X[[k]])[0], abs=1e-8)
        assert np.sqrt(left.variance[k]) == pytest.approx(again.std(X[[k]])[0], abs=1e-8)


def test_leaving_one_out_leaves_the_factor_alone():
    model = plain(PAIRS["matern52"][0]()).fit(X, Y)
    before = model.std(NEW)
    model.left_out()
    same(model.std(NEW), before)


def test_known_lengths_and_noise_are_recovered():
    rng = np.random.default_rng(3)
    x = rng.uniform(-2.0, 2.0, size=(300, 2))
    kernel = 4.0 * RBF([0.5, 2.0])
    y = rng.multivariate_normal(np.zeros(300), kernel(x)) + 0.1 * rng.normal(size=300)
    model = GP("rbf", normalise=False, mean="zero").fit(x, y)
    lengths = model.kernel_.base_kernel.lengthscale.detach().numpy()[0]
    np.testing.assert_allclose(lengths, [0.5, 2.0], rtol=0.2)
    assert model.noise_ == pytest.approx(0.1, rel=0.15)


def test_ard_takes_an_irrelevant_feature_out():
    lengths = GP("rbf").fit(X, Y).kernel_.base_kernel.lengthscale.detach().numpy()[0]
    assert lengths[2] > 5.0 * lengths[:2].max()


def test_several_outputs_equal_single_ones_at_the_same_hyper_parameters():
    both = np.c_[Y, 3.0 + 10.0 * X[:, 2]]
    model = GP(mean="constant").fit(X, both)
    assert model.predict(NEW).shape == model.std(NEW).shape == (20, 2)
    assert model.sample(NEW, 3).shape == (3, 20, 2)
    total = 0.0
    for t in range(2):
        alone = GP(model.kernel_, noise=float(model.noise_[t]), search=False).fit(
            (X - X.mean(axis=0)) / X.std(axis=0), both[:, t]
        )
        total += alone.log_marginal_likelihood_
        new = (NEW - X.mean(axis=0)) / X.std(axis=0)
        np.testing.assert_allclose(model.predict(NEW)[:, t], alone.predict(new), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(model.std(NEW)[:, t], alone.std(new), rtol=1e-7)
    assert model.log_marginal_likelihood_ == pytest.approx(total, abs=1e-6)


def test_all_items_inducing_equals_the_exact_process():
    exact = plain(PAIRS["matern52"][0]()).fit(X, Y)
    model = plain(PAIRS["matern52"][0](), n_inducing=60).fit(X, Y)
    np.testing.assert_allclose(model.predict(NEW), exact.predict(NEW), atol=1e-6)
    np.testing.assert_allclose(model.std(NEW), exact.std(NEW), atol=1e-6)
    assert model.log_marginal_likelihood_ == pytest.approx(exact.log_marginal_likelihood_, abs=1e-5)


def test_the_bound_lies_below_and_rises_with_inducing_items():
    exact = plain(PAIRS["rbf"][0]()).fit(X, Y).log_marginal_likelihood_
    bounds = [plain(PAIRS["rbf"][0](), n_inducing=m).fit(X, Y).log_marginal_likelihood_ for m in (10, 25, 45)]
    assert bounds == sorted(bounds)
    assert bounds[-1] <= exact + 1e-6


def test_conjugate_gradients_equal_the_factor():
    exact = plain(PAIRS["matern52"][0]()).fit(X, Y)
    model = plain(PAIRS["matern52"][0](), solver="cg").fit(X, Y)
    np.testing.assert_allclose(model.predict(NEW), exact.predict(NEW), atol=1e-6)
    np.testing.assert_allclose(model.std(NEW), exact.std(NEW), atol=1e-5)
    assert model.log_marginal_likelihood_ == pytest.approx(exact.log_marginal_likelihood_, abs=0.5)
    with pytest.raises(ParameterError, match="exact process"):
        model.left_out()


def test_seeds_repeat_and_a_subset_starts_the_search():
    models = [GP(search={"n_warm": 40, "full_steps": 4}, seed=5).fit(X, Y) for _ in range(2)]
    same(models[0].predict(NEW), models[1].predict(NEW), tolerance=1e-6)
    subset, whole = models[0].n_evaluations_
    assert subset > 0
    assert 0 < whole <= 6
    untouched = GP(search={"n_warm": 40, "full_steps": 0}, seed=5).fit(X, Y)
    assert untouched.n_evaluations_[1] == 0
    assert models[0].log_marginal_likelihood_ >= untouched.log_marginal_likelihood_ - 1.0


def test_a_users_kernel_stays_as_it_is():
    kernel = gpytorch.kernels.RBFKernel()
    before = kernel.lengthscale.item()
    model = GP(kernel).fit(X, Y)
    assert kernel.lengthscale.item() == before
    assert kernel.lengthscale.dtype == torch.float32
    assert isinstance(model.kernel_, gpytorch.kernels.ScaleKernel)


def test_active_dimensions_are_all_that_a_kernel_sees():
    model = GP(gpytorch.kernels.RBFKernel(active_dims=[0, 1])).fit(X, Y)
    moved = NEW + np.array([0.0, 0.0, 5.0])
    np.testing.assert_allclose(model.predict(moved), model.predict(NEW), atol=1e-8)


def test_it_is_an_estimator_of_scikit_learn():
    search = GridSearchCV(GP(search={"starts": 1}), {"kernel": ["rbf", "linear"]}, cv=3).fit(X, Y)
    assert search.best_params_ == {"kernel": "rbf"}
    assert cross_val_score(GP(search={"starts": 1}), X, Y, cv=3).min() > 0.5


def test_constant_targets_and_constant_features_are_no_trouble():
    model = GP().fit(np.c_[X, np.ones(60)], np.full(60, 7.0))
    np.testing.assert_allclose(model.predict(np.c_[NEW, np.ones(20)]), 7.0, atol=1e-6)
    assert np.isfinite(model.std(np.c_[NEW, np.ones(20)])).all()


@pytest.mark.parametrize("rows", [2, 3])
def test_two_rows_do_not_run_away(rows):
    model = GP().fit(X[:rows], Y[:rows])
    assert np.isfinite(model.predict(NEW)).all()
    assert (model.std(NEW) > 0).all()


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.where(X > 2, np.nan, X), Y, "contains NaN"),
        (X, np.where(Y > 2, np.inf, Y), "contains infinity"),
        (X[:1], Y[:1], "minimum of 2"),
        (X[:0], Y[:0], "0 sample"),
        (X, Y[:-1], "inconsistent"),
        (X[:, 0], Y, "Expected 2D array"),
        (X, np.zeros((60, 2, 2)), "dim 3"),
        (X, None, "needed"),
        (1e200 * X, Y, "`X` must hold numbers up to 1e\\+150"),
        (X, 1e200 * Y, "`y` must hold numbers up to 1e\\+150"),
    ],
)
def test_bad_data_is_refused(x, y, says):
    with pytest.raises(DataError, match=says):
        GP().fit(x, y)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kernel": "gauss"}, "`kernel` must be made of"),
        ({"kernel": gpytorch.kernels.RBFKernel(ard_num_dims=5)}, "does not fit rows of 3 features"),
        ({"kernel": gpytorch.kernels.RBFKernel(batch_shape=torch.Size([2]))}, "batch shape"),
        ({"kernel": []}, "a list of kernels"),
        ({"kernel": None}, "`kernel` must be made of"),
        ({"kernel": kp.DotProduct(2)}, "`kernel` must be made of"),
        ({"kernel": kp.properties.VectorKernel}, "`kernel` must be made of"),
        ({"mean": np.ones(2)}, "`mean` must be one of"),
        ({"solver": np.ones(2)}, "`solver` must be one of"),
        ({"search": "no"}, "`search` must be True, False, or a dict"),
        ({"ard": 1}, "`ard` must be True or False"),
        ({"normalise": None}, "`normalise` must be True or False"),
        ({"seed": 2**70}, "`seed`"),
        ({"noise": 10**400}, "`noise` must be"),
        ({"mean": "composition"}, "counts the elements"),
        ({"mean": "linear"}, "`mean` must be one of"),
        ({"solver": "lu"}, "`solver` must be one of"),
        ({"solver": "cg", "n_inducing": 5}, "need no iterations"),
        ({"n_inducing": 0}, "`n_inducing` must be"),
        ({"n_inducing": True}, "`n_inducing` must be"),
        ({"search": {"starts": 0}}, "`starts` must be"),
        ({"search": {"steps": 3}}, "some of starts, n_warm, full_steps"),
        ({"noise": -1.0}, "`noise` must be"),
        ({"noise": True}, "`noise` must be"),
        ({"device": "tpu"}, "`device` must be"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ParameterError, match=says):
        GP(**settings).fit(X, Y)


def test_given_noise_is_of_one_unit():
    with pytest.raises(ParameterError, match="different spread"):
        GP(noise=0.1).fit(X, np.c_[Y, 10.0 * Y])


def test_another_width_and_no_fit_are_refused():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        GP().predict(X)
    with pytest.raises(DataError, match="expecting 3 features"):
        GP(search=False).fit(X, Y).predict(X[:, :2])
    with pytest.raises(ParameterError, match="`n` must be"):
        GP(search=False).fit(X, Y).sample(NEW, 0)
    with pytest.raises(ParameterError, match="`seed`"):
        GP(search=False).fit(X, Y).sample(NEW, seed=-1)
    with pytest.raises(DataError, match="numbers up to"):
        GP(search=False).fit(X, Y).predict(1e200 * NEW)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [{}, {"n_inducing": 30}, {"solver": "cg"}])
def test_devices_agree(device, way):
    first = GP(PAIRS["matern52"][0](), noise=0.1, search=False, **way).fit(X, Y)
    there = GP(PAIRS["matern52"][0](), noise=0.1, search=False, device=device, **way).fit(X, Y)
    np.testing.assert_allclose(there.predict(NEW), first.predict(NEW), atol=1e-6)
    np.testing.assert_allclose(there.std(NEW), first.std(NEW), atol=1e-6)
    learned = GP(search={"starts": 1}, device=device).fit(X, Y)
    assert np.isfinite(learned.predict(NEW)).all()

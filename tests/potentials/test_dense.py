"""The sparse model against textbook formulas in dense algebra."""

from __future__ import annotations

import gpytorch
import mpmath
import numpy as np
import pytest
import torch

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.features.feature_map import E0_ABOUT, E0_PRIOR
from kernelpot.features.prior import prior
from tests import potentials
from tests import structures as make
from tests.features.test_rows import described

KINDS = ("energy", "forces", "stress")


def composition(structures, species):
    return np.array([[np.count_nonzero(atoms.numbers == z) for z in species] for atoms in structures], float)


def rows_and_prior(features, structures, amplitude):
    """Rows over [kernel values | E0] of all labels, with each label's prior variance; not per atom, not whitened."""
    d = described(features, structures)
    made = features.rows(d, KINDS)
    counts = composition(structures, features.species)
    rows, priors = {}, {}
    for kind in ("energy", "forces", "stress"):
        block = getattr(made, kind)
        e0 = counts if kind == "energy" else np.zeros((len(block), counts.shape[1]))
        rows[kind] = np.concatenate([amplitude**2 * block, (E0_ABOUT * amplitude) ** 2 * e0], axis=1)
        priors[kind] = amplitude**2 * prior(features.kernel, d, kind) + (E0_ABOUT * amplitude) ** 2 * (e0**2).sum(
            axis=1
        )
    return rows, priors


def prior_covariance(features, amplitude):
    """K_uu over inducing environments of all species, and E0."""
    size = features.n_inducing + len(features.species)
    k = np.zeros((size, size))
    for a, z in enumerate(features.inducing):
        here = features.slices[a]
        k[here, here] = amplitude**2 * (z @ z.T) ** features.kernel.zeta
    k[features.n_inducing :, features.n_inducing :] = (E0_ABOUT * amplitude) ** 2 * np.eye(len(features.species))
    return k


def sparse_posterior(k_uu, k_fu, noise, y, k_su, prior):
    """Mean and variance of Q-projected labels: K_su (K_uu + K_uf Σ⁻¹ K_fu)⁻¹ K_uf Σ⁻¹ y, to fifty digits.

    Quiñonero-Candela and Rasmussen, JMLR 6, 1939 (2005), eq. 20b and 24b (deterministic training conditional).
    """
    with mpmath.workdps(50):
        k_uu, k_su = mpmath.matrix(k_uu.tolist()), mpmath.matrix(k_su.tolist())
        scaled = mpmath.matrix((k_fu / noise[:, None]).tolist())
        precision = k_uu + scaled.T * scaled
        rhs = scaled.T * mpmath.matrix((y / noise).tolist())
        mean = k_su * mpmath.lu_solve(precision, rhs)
        less = mpmath.inverse(k_uu) - mpmath.inverse(precision)
        seen = k_su * less
        n = k_su.rows
        variance = [prior[s] - sum(seen[s, u] * k_su[s, u] for u in range(k_su.cols)) for s in range(n)]
        return np.array([float(v) for v in mean]), np.array([float(v) for v in variance])


@pytest.mark.parametrize(("zeta", "amplitude"), [(2, 1.0), (1, 0.3), (3, 2.0)])
def test_energies_forces_and_stresses_equal_the_textbook_sparse_posterior(zeta, amplitude):
    noise = kp.Noise(energy=0.003, forces=0.08, stress=0.004)
    train, test = make.copper_gold_set(3), [make.copper_gold(70), make.copper(71)]
    model = kp.SparseGP(
        potentials.small_soap(), kp.DotProduct(zeta, amplitude), n_inducing=8, noise=noise, tolerance=1e-14
    ).fit(train)
    features = model.fitted_.features
    assert features.n_weights == features.n_inducing == 8
    rows, _ = rows_and_prior(features, train, amplitude)
    labels, n = resolve(train), np.array([len(atoms) for atoms in train])
    y = np.concatenate([
        labels.energy - composition(train, features.species) @ model.fitted_.e0_centre,
        np.concatenate([f.ravel() for f in labels.forces]),
        labels.stress.ravel(),
    ])  # fmt: skip
    sigma = np.concatenate([
        noise.energy * n, np.full(3 * n.sum(), noise.forces), np.full(6 * len(train), noise.stress)
    ])  # fmt: skip
    k_fu = np.concatenate([rows[kind] for kind in KINDS])
    new, prior = rows_and_prior(features, test, amplitude)
    k_uu = prior_covariance(features, amplitude)
    prediction = model.predict(test)
    found = {
        "energy": prediction.energy - composition(test, features.species) @ model.fitted_.e0_centre,
        "forces": np.concatenate(prediction.forces).ravel(),
        "stress": prediction.stress.ravel(),
    }
    found_std = {
        "energy": prediction.latent.energy_std,
        "forces": np.concatenate(prediction.latent.forces_std).ravel(),
        "stress": prediction.latent.stress_std.ravel(),
    }
    for kind in KINDS:
        mean, variance = sparse_posterior(k_uu, k_fu, sigma, y, new[kind], prior[kind])
        scale = np.abs(mean).max()
        np.testing.assert_allclose(found[kind], mean, rtol=1e-7, atol=1e-7 * scale)
        np.testing.assert_allclose(found_std[kind], np.sqrt(variance), rtol=1e-6, atol=1e-9)


def exact_covariance(model, left, right):
    """Covariance of energies per atom of two lists, E0 included."""
    features = model.fitted_.features
    a, b = described(features, left), described(features, right)
    k = np.where(a.species[:, None] == b.species, (a.x @ b.x.T) ** features.kernel.zeta, 0.0) * model.amplitude_**2
    total = np.add.reduceat(np.add.reduceat(k, a.batch.offsets[:-1], axis=0), b.batch.offsets[:-1], axis=1)
    total += model.fitted_.e0_std**2 * composition(left, features.species) @ composition(right, features.species).T
    return total / a.batch.sizes[:, None] / b.batch.sizes


@pytest.fixture(scope="module", params=[1, 2, 3])
def exact(request):
    """Energies only, every environment inducing: the sparse model is the exact Gaussian process."""
    train = make.copper_gold_set(6, kinds=["energy"])
    test = [make.copper_gold(80), make.copper(81), make.slab(82), make.isolated("Au"), *train[:2]]
    model = kp.SparseGP(
        potentials.small_soap(), kp.DotProduct(request.param, 1.5), n_inducing=24, noise=kp.Noise(0.01, None),
        tolerance=1e-13,
    ).fit(train)  # fmt: skip
    assert model.n_inducing_ == 24
    y = np.array([atoms.get_potential_energy() / len(atoms) for atoms in train])
    y -= composition(train, model.species_) @ model.fitted_.e0_centre / 4
    return model, train, test, y


def check_exact(model, test, mean, variance):
    n = np.array([len(atoms) for atoms in test])
    prediction = model.predict(test)
    offset = composition(test, model.species_) @ model.fitted_.e0_centre / n
    np.testing.assert_allclose(prediction.energy / n - offset, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.latent.energy_std / n, np.sqrt(variance), rtol=1e-5, atol=1e-6)


def test_all_environments_inducing_equals_the_dense_gaussian_process(exact):
    model, train, test, y = exact
    k = exact_covariance(model, train, train) + 0.01**2 * np.eye(len(train))
    cross = exact_covariance(model, test, train)
    mean = cross @ np.linalg.solve(k, y)
    variance = np.diag(exact_covariance(model, test, test) - cross @ np.linalg.solve(k, cross.T))
    check_exact(model, test, mean, variance)


class Table(gpytorch.kernels.Kernel):
    """Covariances looked up by structure number."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, x1, x2, diag=False, **params):
        i, j = x1.squeeze(-1).long(), x2.squeeze(-1).long()
        return self.table[i, j] if diag else self.table[i][:, j]


class Exact(gpytorch.models.ExactGP):
    """Zero mean, tabulated covariance."""

    def __init__(self, x, y, likelihood, table):
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), Table(table)

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def test_all_environments_inducing_equals_gpytorch(exact):
    model, train, test, y = exact
    table = torch.as_tensor(exact_covariance(model, [*train, *test], [*train, *test]))
    numbers = torch.arange(len(train) + len(test), dtype=torch.float64)[:, None]
    n = len(train)
    noise = torch.full((n,), 0.01**2, dtype=torch.float64)
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=noise)
    reference = Exact(numbers[:n], torch.as_tensor(y), likelihood, table).double().eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        posterior = reference(numbers[n:])
        check_exact(model, test, posterior.mean.numpy(), posterior.variance.numpy())


def test_energy_std_of_a_strange_crystal_grows_with_its_size():
    # Far from every inducing environment N equal atoms err together: the std is proportional to N, not to √N.
    model = potentials.model(6).fit(make.labelled([make.copper(k) for k in range(4)]))
    dense = make.tiny_cell(5)
    dense.set_cell(dense.cell * 0.75, scale_atoms=True)
    repeats = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (3, 3, 2)]
    spread = model.predict([dense.repeat(r) for r in repeats]).latent.energy_std
    sizes = np.array([np.prod(r) for r in repeats])
    np.testing.assert_allclose(spread / sizes, spread[0], rtol=1e-6)
    assert spread[0] > 5 * model.predict([make.copper(1)]).latent.energy_std[0] / 4


def test_local_energy_variance_is_prior_less_what_was_learnt():
    model = potentials.copper_gold()
    features, atoms = model.fitted_.features, make.slab(9)
    d = described(features, [atoms])
    posterior = model.fitted_.posterior
    whitened = np.zeros((len(atoms), features.n_inducing))
    e0 = np.zeros((len(atoms), 2))
    for a, (here, dots) in enumerate(features.dots(d)):
        whitened[here, features.slices[a]] = features.kernel.value(dots)
        e0[here, a] = E0_PRIOR
    white = features.whiten(whitened)
    inverse = np.linalg.inv(posterior.factor.T @ posterior.factor)
    rows = np.concatenate([model.amplitude_ * white, e0], axis=1)
    expected = np.einsum("id,de,ie->i", rows, inverse, rows) + model.amplitude_**2 * (1 - (white**2).sum(axis=1))
    np.testing.assert_allclose(model.predict([atoms]).latent.local_energy_std[0] ** 2, expected, rtol=1e-6, atol=1e-9)

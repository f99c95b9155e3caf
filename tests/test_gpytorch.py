"""Kernels for GPyTorch: their values, their composition, and an exact Gaussian process with them."""

from __future__ import annotations

import gpytorch
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import dense_local_values
from kernelpot.features.prior import prior
from tests import potentials
from tests import structures as make
from tests.devices import DEVICES
from tests.features.test_rows import feature_map

StructureKernel, DotProductKernel = kp.gpytorch.StructureKernel, kp.gpytorch.DotProductKernel


@pytest.fixture(scope="module")
def soap():
    return potentials.small_soap().with_species((29, 79))


@pytest.fixture(scope="module")
def structures():
    return [*(make.copper_gold(k) for k in range(5)), make.slab(1), make.isolated("Au"), make.copper(2)]


def brute_force(descriptor, structures, k) -> np.ndarray:
    """Σ_ij of atoms of one element, pair by pair."""
    batch = Batch.from_structures(structures, descriptor.cutoff)
    x = descriptor.values(batch)
    result = np.zeros((len(batch), len(batch)))
    for i in range(batch.n_atoms):
        for j in range(batch.n_atoms):
            if batch.numbers[i] == batch.numbers[j]:
                result[batch.structure[i], batch.structure[j]] += k(x[i], x[j])
    return result


def dot_product(zeta):
    return lambda a, b: (a @ b / np.sqrt((a @ a) * (b @ b))) ** zeta


def radial(length):
    result = gpytorch.kernels.RBFKernel().double()
    # A plain number would be rounded to float32 on the way.
    result.lengthscale = torch.tensor(length, dtype=torch.float64)
    return result


def scaled(kernel, outputscale):
    result = gpytorch.kernels.ScaleKernel(kernel).double()
    result.outputscale = outputscale
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_environments_have_the_values_of_the_feature_map(structures, zeta, device):
    features = feature_map(structures, zeta=zeta)
    described = features.describe(Batch.from_structures(structures, features.cutoff))
    expected = dense_local_values(features, described)
    for normalise, vectors in ((False, described.x), (True, described.environments.vectors)):
        kernel = DotProductKernel(zeta, normalise=normalise).to(device)
        x = torch.as_tensor(vectors, device=device)
        for a, z in enumerate(features.inducing):
            mine = torch.as_tensor(np.flatnonzero(described.species == a), device=device)
            found = kernel(x[mine], torch.as_tensor(z, device=device)).to_dense().cpu().numpy()
            columns = features.slices[a]
            np.testing.assert_allclose(found, expected[mine.cpu().numpy(), columns], atol=1e-12)
            np.testing.assert_allclose(
                found, kp.DotProduct(zeta).value(described.x[mine.cpu().numpy()] @ z.T), atol=1e-12
            )
        np.testing.assert_allclose(kernel(x, diag=True).cpu(), 1.0, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("zeta", [1, 2])
def test_structures_have_the_sums_over_their_atoms(soap, structures, zeta, device):
    x = kp.gpytorch.encode(structures, soap, n_atoms=8, device=device)
    kernel = StructureKernel(DotProductKernel(zeta), soap.n_features).to(device)
    expected = brute_force(soap, structures, dot_product(zeta))
    np.testing.assert_allclose(kernel(x).to_dense().cpu(), expected, atol=1e-11)
    np.testing.assert_allclose(kernel(x[:3], x[2:]).to_dense().cpu(), expected[:3, 2:], atol=1e-11)
    np.testing.assert_allclose(kernel(x, diag=True).cpu(), np.diag(expected), atol=1e-11)
    features = feature_map(structures, zeta=zeta)
    described = features.describe(Batch.from_structures(structures, features.cutoff))
    np.testing.assert_allclose(np.diag(expected), prior(features.kernel, described, "energy"), rtol=1e-10)


@pytest.mark.parametrize("scale", ["per_atom", "cosine"])
def test_intensive_scales(soap, structures, scale):
    x = kp.gpytorch.encode(structures, soap)
    kernel = StructureKernel(DotProductKernel(2), soap.n_features, scale=scale)
    total = brute_force(soap, structures, dot_product(2))
    size = np.array([len(atoms) for atoms in structures]) if scale == "per_atom" else np.sqrt(np.diag(total))
    np.testing.assert_allclose(kernel(x).to_dense(), total / np.outer(size, size), atol=1e-12)
    np.testing.assert_allclose(kernel(x, diag=True), np.diag(total) / size**2, atol=1e-12)


def test_any_kernel_of_gpytorch_serves_for_environments(soap, structures):
    x = kp.gpytorch.encode(structures, soap)
    found = StructureKernel(radial(0.3), soap.n_features)(x).to_dense().detach()

    def k(a, b):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return np.exp(-0.5 * np.sum((a - b) ** 2) / 0.3**2)

    np.testing.assert_allclose(found, brute_force(soap, structures, k), atol=1e-10)


def test_pieces_give_the_same(soap, structures, monkeypatch):
    x = kp.gpytorch.encode(structures, soap)
    kernel = StructureKernel(DotProductKernel(2), soap.n_features)
    whole = kernel(x).to_dense()
    monkeypatch.setattr("kernelpot.gpytorch.ENTRIES", 1)
    np.testing.assert_allclose(kernel(x).to_dense(), whole, rtol=1e-13)


def test_batches_of_parameters_and_of_inputs(soap, structures):
    x = kp.gpytorch.encode(structures[:4], soap)
    several = gpytorch.kernels.RBFKernel(batch_shape=torch.Size([2])).double()
    several.lengthscale = torch.tensor([0.2, 0.5], dtype=torch.float64).view(2, 1, 1)
    kernel = StructureKernel(several, soap.n_features, batch_shape=torch.Size([2]), scale="cosine")
    found = kernel(x.expand(2, *x.shape)).to_dense().detach()
    for b, length in enumerate((0.2, 0.5)):
        expected = StructureKernel(radial(length), soap.n_features, scale="cosine")(x).to_dense().detach()
        np.testing.assert_allclose(found[b], expected, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["total", "per_atom", "cosine"]))
def test_positive_definite(seed, zeta, scale):
    rng = np.random.default_rng(seed)
    n, room, size = 6, 4, 5
    x = rng.normal(size=(n, room, size + 1))
    x[..., 0] = rng.choice([0.0, 29.0, 79.0], size=(n, room))
    x[:, 0, 0] = 29.0
    x[x[..., 0] == 0.0] = 0.0
    kernel = StructureKernel(DotProductKernel(zeta), size, scale=scale)
    k = kernel(torch.as_tensor(x.reshape(n, -1))).to_dense().numpy()
    np.testing.assert_allclose(k, k.T, atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(k)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
    environments = torch.as_tensor(rng.normal(size=(8, size)))
    eigenvalues = np.linalg.eigvalsh(DotProductKernel(zeta)(environments).to_dense().numpy())
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


class Energies(gpytorch.models.ExactGP):
    """A user's own model: a sum of two structure kernels with amplitudes of their own."""

    def __init__(self, x, y, likelihood, n_features):
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = scaled(StructureKernel(DotProductKernel(2), n_features), 2.0) + scaled(
            StructureKernel(radial(0.4), n_features), 0.5
        )

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@pytest.fixture
def exact(soap):
    train = make.copper_gold_set(6)
    y = torch.tensor([atoms.get_potential_energy() for atoms in train], dtype=torch.float64)
    test = [make.copper_gold(70), make.copper(71)]
    x = kp.gpytorch.encode(train, soap)
    noise = torch.full((len(train),), 0.01**2, dtype=torch.float64)
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=noise)
    return Energies(x, y, likelihood, soap.n_features), likelihood, train, test, y.numpy()


def test_an_exact_gaussian_process_of_energies_is_the_dense_formula(soap, exact):
    model, likelihood, train, test, y = exact
    model.eval()
    likelihood.eval()
    x_test = kp.gpytorch.encode(test, soap, n_atoms=4)
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        found = model(x_test)

    def k(a, b):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return 2.0 * (a @ b) ** 2 + 0.5 * np.exp(-0.5 * np.sum((a - b) ** 2) / 0.4**2)

    full = brute_force(soap, [*train, *test], k)
    n = len(train)
    solved = np.linalg.solve(full[:n, :n] + 0.01**2 * np.eye(n), np.column_stack([y, full[:n, n:]]))
    np.testing.assert_allclose(found.mean, full[n:, :n] @ solved[:, 0], atol=1e-8)
    variance = np.diag(full[n:, n:] - full[n:, :n] @ solved[:, 1:])
    np.testing.assert_allclose(found.variance, variance, atol=1e-8)


def test_gradients_reach_amplitudes_and_length_scales(exact):
    model, likelihood, *_ = exact
    model.train()
    likelihood.train()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == 3

    def value():
        with gpytorch.settings.fast_computations(False, False, False):
            return marginal(model(*model.train_inputs), model.train_targets)

    exact_gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, exact_gradients, strict=True):
        errors = []
        for h in (1e-3, 1e-4, 1e-5):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter += sign * h
                    ends.append(float(value()))
                    parameter -= sign * h
            errors.append(abs((ends[0] - ends[1]) / (2 * h) - float(gradient)))
        assert min(errors) < 1e-6 * max(1.0, abs(float(gradient))), errors


def test_gradients_reach_the_environments(soap, structures):
    x = kp.gpytorch.encode(structures[:2], soap).requires_grad_()
    kernel = StructureKernel(DotProductKernel(2), soap.n_features)
    gradient = torch.autograd.grad(kernel(x).to_dense().sum(), x)[0]
    assert gradient.abs().max() > 0
    assert torch.isfinite(gradient).all()


def test_bad_input_is_named(soap, structures):
    with pytest.raises(ParameterError, match="needs its species"):
        kp.gpytorch.encode(structures, potentials.small_soap())
    with pytest.raises(ParameterError, match=r"`n_atoms` must be at least .* \(6\), got 3"):
        kp.gpytorch.encode(structures, soap, n_atoms=3)
    with pytest.raises(ParameterError, match="at least one structure"):
        kp.gpytorch.encode([], soap)
    with pytest.raises(ParameterError, match="`scale` must be one of"):
        StructureKernel(DotProductKernel(2), soap.n_features, scale="mean")
    with pytest.raises(ParameterError, match="`zeta` must be a whole number"):
        DotProductKernel(1.5)
    x = kp.gpytorch.encode(structures, soap)
    with pytest.raises(ParameterError, match="got rows of length"):
        StructureKernel(DotProductKernel(2), soap.n_features + 1)(x).to_dense()

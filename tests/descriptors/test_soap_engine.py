"""The engine for devices against the compiled loops and against automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelpot.data.batch import Batch
from kernelpot.descriptors.grid import DeviceBatch, Harmonics, ladder_of
from kernelpot.descriptors.loops import recurrence
from kernelpot.descriptors.protocol import places
from kernelpot.descriptors.radial import hermite, hermite_slope
from kernelpot.descriptors.soap.torch import SoapEngine
from kernelpot.elements.channels import ElementChannels
from tests import structures as make
from tests.descriptors.references import SoapTorch, solid_harmonics
from tests.descriptors.test_expansion_torch import CUTOFF, soap
from tests.devices import DEVICES

SETTINGS = {
    "plain": {},
    "sharp cut": {"fade": 0.0},
    "scaled": {"scaling": (2.0, 4.0)},
    "mixed channels": {"channels": ElementChannels.random(3)},
    "smallest": {"n_max": 1, "l_max": 0},
    "one degree": {"n_max": 2, "l_max": 1},
}


@pytest.fixture(scope="module")
def batch():
    structures = [
        make.copper_gold(),
        make.four_metals(),
        make.slab(),
        make.ethanol(),
        make.tiny_cell(),
        make.isolated(),
    ]
    return Batch.from_structures(structures, CUTOFF, skin=0.5)


def prepared(batch, device="cpu", dtype=torch.float64, **settings):
    """The compiled engine's environments, with the same on a device: engine, grid of all atoms, coefficients."""
    environments = soap(batch, **settings).environments(batch)
    engine = SoapEngine(environments.soap, device, dtype)
    there = DeviceBatch(batch, device, environments.species)
    grid = engine.grid(there, 0, batch.n_atoms)
    return environments, engine, grid, engine.coefficients(grid, there.elements)


def spread(batch, grid, rows):
    """Rows of the pairs within the cutoff, among all pairs."""
    result = np.zeros((len(batch.first), *rows.shape[1:]))
    result[grid.pair.cpu().numpy()] = rows.cpu().numpy()
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_spectra_and_their_transposes_are_those_of_compiled_loops(batch, settings, device):
    environments, engine, grid, c = prepared(batch, device, **settings)
    found = engine.spectrum(c).cpu().numpy()
    np.testing.assert_allclose(found, environments.vectors, rtol=1e-11, atol=1e-12 * np.abs(found).max())

    gradient = np.random.default_rng(0).normal(size=found.shape)
    expected = environments.vjp(gradient)
    there = torch.as_tensor(gradient, device=device)
    by_transpose = spread(batch, grid, engine.vjp(grid, engine.spectrum_vjp(c, there)))
    np.testing.assert_allclose(by_transpose, expected, atol=1e-12 * np.abs(expected).max())
    rows = torch.einsum("nxsf,nf->xns", engine.jacobian(grid, c), there).flatten(1)[:, grid.place].T
    np.testing.assert_allclose(spread(batch, grid, rows), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
def test_part_of_the_atoms_has_the_same_rows(batch, device):
    _, engine, grid, c = prepared(batch, device)
    there = DeviceBatch(batch, device, places(soap(batch), batch))
    start, stop = 5, 11
    part = engine.grid(there, start, stop)
    own = engine.coefficients(part, there.elements[start:stop])
    np.testing.assert_allclose(own.cpu(), c[start:stop].cpu(), atol=1e-14)
    whole = engine.jacobian(grid, c).transpose(1, 2).flatten(0, 1)[grid.place]
    mine = torch.isin(grid.pair, part.pair)
    found = engine.jacobian(part, own).transpose(1, 2).flatten(0, 1)[part.place]
    np.testing.assert_allclose(found.cpu(), whole[mine].cpu(), atol=1e-12 * float(whole.abs().max()))


def test_slots_that_nobody_fills_have_no_weight(batch):
    _, engine, grid, c = prepared(batch)
    empty = torch.ones(len(grid.r), dtype=torch.bool)
    empty[grid.place] = False
    assert empty.any()
    rows = engine.jacobian(grid, c).transpose(1, 2).flatten(0, 1)
    assert not rows[empty].any()
    assert rows[~empty].any()


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_keeps_six_digits(batch, device):
    environments, engine, grid, c = prepared(batch, device, torch.float32)
    found = engine.spectrum(c)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu(), environments.vectors, atol=2e-6 * np.abs(environments.vectors).max())
    gradient = np.random.default_rng(0).normal(size=found.shape)
    expected = environments.vjp(gradient)
    there = torch.as_tensor(gradient, device=device, dtype=torch.float32)
    pairs = spread(batch, grid, engine.vjp(grid, engine.spectrum_vjp(c, there)))
    np.testing.assert_allclose(pairs, expected, atol=5e-6 * np.abs(expected).max())


def test_forces_are_those_of_automatic_differentiation(batch):
    environments, engine, grid, c = prepared(batch)
    reference = SoapTorch(environments.soap)
    vectors = reference.pair_vectors(batch).requires_grad_()
    gradient = torch.as_tensor(np.random.default_rng(1).normal(size=environments.vectors.shape))
    energy = (reference.power_spectrum(reference.coefficients(batch, vectors)) * gradient).sum()
    expected = torch.autograd.grad(energy, vectors)[0].numpy()
    found = spread(batch, grid, engine.vjp(grid, engine.spectrum_vjp(c, gradient)))
    np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("l_max", [0, 1, 2, 6, 16])
def test_harmonics_and_gradients_are_those_of_the_recurrences(l_max):
    vectors = torch.as_tensor(np.random.default_rng(l_max).normal(size=(20, 3))).requires_grad_()
    r = torch.linalg.vector_norm(vectors, dim=1)
    expected = solid_harmonics(vectors / r[:, None], torch.as_tensor(recurrence(l_max)), l_max).T
    harmonics = Harmonics.make(l_max, "cpu", torch.float64)
    u = (vectors / r[:, None]).T.detach()
    y = harmonics.values(u)
    np.testing.assert_allclose(y, expected.detach(), atol=1e-13)
    weights = torch.as_tensor(np.random.default_rng(1).normal(size=y.shape))
    gradient = torch.zeros(20, 3, dtype=torch.float64)
    if l_max:
        gradient = torch.autograd.grad((expected * weights).sum(), vectors)[0]
    scale = max(1.0, float(gradient.abs().max()))
    written_out = (harmonics.gradients(u, r.detach(), y) * weights).sum(1).T
    np.testing.assert_allclose(written_out, gradient, atol=1e-13 * scale)
    np.testing.assert_allclose(harmonics.contracted(u, r.detach(), y, weights).T, gradient, atol=1e-13 * scale)


def test_ladder_lowers_the_degree_by_one_and_is_sparse():
    ladder = ladder_of(4)
    degree = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    _, upper, lower = np.nonzero(ladder)
    assert (degree[upper] == degree[lower] + 1).all()
    # At most two neighbours in m for x and y, one for z.
    assert (np.count_nonzero(ladder, axis=2).max(axis=1) <= [2, 2, 1]).all()


def test_hermite_slopes_are_derivatives():
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64).requires_grad_()
    expected = torch.stack([torch.autograd.grad(hermite(t)[k].sum(), t)[0] for k in range(6)])
    np.testing.assert_allclose(torch.stack(hermite_slope(t.detach())), expected, atol=1e-14)

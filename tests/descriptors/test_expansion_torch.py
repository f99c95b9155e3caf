"""The PyTorch engine against the Numba engine, and its higher derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from kernelpot.data.batch import Batch
from kernelpot.descriptors.radial import GTO, PowerGaussian, SphericalBessel
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ElementChannels
from kernelpot.errors import ParameterError, SpeciesError
from tests import structures as make
from tests.descriptors.test_derivatives import position_gradient, strain_gradient

torch = pytest.importorskip("torch")
from tests.descriptors.references import SoapTorch  # noqa: E402
from tests.devices import DEVICES  # noqa: E402

CUTOFF = 4.0
BASES = {
    "power": PowerGaussian(),
    "gto": GTO(),
    "bessel": SphericalBessel(),
    "compressed": SOAP(CUTOFF, 6, 3, 0.5, fade=0.8).compressed(4).basis,
}


@pytest.fixture(scope="module")
def batch():
    structures = [
        make.silicon(), make.copper_gold(), make.four_metals(), make.slab(), make.ethanol(), make.tiny_cell(),
        make.isolated(),
    ]  # fmt: skip
    return Batch.from_structures(structures, CUTOFF, skin=0.5)


@pytest.fixture(scope="module")
def small():
    return Batch.from_structures([make.copper_gold(1)], 3.0)


def soap(batch, basis="power", **settings):
    return SOAP(
        **{"cutoff": CUTOFF, "n_max": 4, "l_max": 3, "sigma": 0.5, "basis": BASES[basis], "fade": 0.8, "channels": None}
        | settings,
        species=tuple(np.unique(batch.numbers).tolist()),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("basis", "channels"),
    [*((basis, None) for basis in BASES), ("power", ElementChannels.random(3)), ("power", ElementChannels.modes(2))],
)
def test_values_forces_and_stress_are_those_of_numba(batch, basis, channels, device):
    numba = soap(batch, basis, channels=channels).environments(batch)
    gradient = np.random.default_rng(0).normal(size=numba.vectors.shape)
    pairs = numba.vjp(gradient)
    positions = torch.tensor(batch.positions, device=device, requires_grad=True)
    strain = torch.zeros(len(batch), 3, 3, device=device, dtype=torch.float64, requires_grad=True)
    vectors = SoapTorch(numba.soap, device).vectors(batch, positions, strain)
    energy = (vectors * torch.as_tensor(gradient, device=device)).sum()
    forces, stress = (g.cpu().numpy() for g in torch.autograd.grad(energy, [positions, strain]))

    found = vectors.detach().cpu().numpy()
    np.testing.assert_allclose(found, numba.vectors, rtol=1e-10, atol=1e-10 * np.abs(numba.vectors).max())
    expected = position_gradient(batch, pairs)
    np.testing.assert_allclose(forces, expected, atol=1e-10 * np.abs(expected).max())
    for s in range(len(batch)):
        a, b = batch.pair_offsets[batch.offsets[s]], batch.pair_offsets[batch.offsets[s + 1]]
        expected = strain_gradient(batch.take(s, s + 1), pairs[a:b])
        voigt = stress[s][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        np.testing.assert_allclose(voigt, expected, atol=1e-10 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_keeps_six_digits(batch, device):
    numba = soap(batch).values(batch)
    found = SoapTorch(soap(batch), device, torch.float32).vectors(batch)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu().numpy(), numba, atol=2e-6 * np.abs(numba).max())


@pytest.mark.parametrize("scaling", [None, (2.0, 4.0)])
def test_closed_form_is_the_table(batch, scaling):
    descriptor = soap(batch, "gto", scaling=scaling)
    table, formula = (SoapTorch(descriptor, closed_form=choice).vectors(batch).numpy() for choice in (False, True))
    np.testing.assert_allclose(formula, table, atol=1e-9 * np.abs(table).max())


@pytest.mark.parametrize("fade", [0.0, 0.8])
@pytest.mark.parametrize(("n_max", "l_max"), [(1, 0), (4, 5)])
@pytest.mark.parametrize("scaling", [None, (2.0, 4.0)])
def test_other_sizes_are_those_of_numba(batch, n_max, l_max, fade, scaling):
    descriptor = soap(batch, n_max=n_max, l_max=l_max, fade=fade, scaling=scaling)
    expected = descriptor.values(batch)
    found = SoapTorch(descriptor).vectors(batch).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(("basis", "closed_form"), [("power", False), ("gto", False), ("gto", True)])
def test_second_derivatives_are_differences_of_the_first(small, basis, closed_form):
    engine = SoapTorch(soap(small, basis, cutoff=3.0, l_max=2), closed_form=closed_form)
    rng = np.random.default_rng(0)
    direction = torch.as_tensor(rng.normal(size=small.positions.shape))
    weights = torch.as_tensor(rng.normal(size=(small.n_atoms, engine.soap.n_features)))

    def gradient(positions):
        energy = (engine.vectors(small, positions) * weights).sum()
        return torch.autograd.grad(energy, positions, create_graph=True)[0]

    start = torch.tensor(small.positions, requires_grad=True)
    exact = torch.autograd.grad((gradient(start) * direction).sum(), start)[0]
    errors = []
    for h in (1e-3, 3e-4, 1e-4):
        ahead, behind = (gradient((start + sign * h * direction).detach().requires_grad_()) for sign in (1, -1))
        errors.append(float((((ahead - behind) / (2 * h)).detach() - exact).abs().max() / exact.abs().max()))
    assert min(errors) < 1e-6, errors


def test_batch_must_reach_the_cutoff(small):
    with pytest.raises(ParameterError, match=r"lists pairs up to 3\.0 Å but the SOAP cutoff is 4\.0 Å"):
        soap(small).environments(small)


def test_unknown_species_is_named(small):
    with pytest.raises(SpeciesError, match="Au was never seen"):
        soap(small, cutoff=3.0).with_species((29,)).environments(small)

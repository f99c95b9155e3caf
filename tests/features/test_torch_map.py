"""Feature maps on devices of PyTorch against the compiled loops, and against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.descriptors.grid import DeviceBatch
from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.features.feature_map import dense_local_values
from kernelpot.features.inducing import choose_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.prior import prior
from kernelpot.features.sum_map import SumMap
from kernelpot.features.torch import described as torch_environments
from kernelpot.features.torch import device_of, on_device, term_engines
from kernelpot.features.two_body_map import TwoBodyMap
from kernelpot.linalg.devices import computing
from tests import potentials
from tests import structures as make
from tests.devices import DEVICES
from tests.features.test_rows import CASES, KINDS, feature_map, moved


def three_terms(structures, zeta=2) -> SumMap:
    """Pairs, a kernel, and a second kernel of the same descriptor: what is described once serves both."""
    first = feature_map(structures, zeta=zeta)
    pairs = TwoBodyMap(kp.TwoBody(cutoff=4.5).with_species(first.species))
    second = KernelMap.from_inducing(first.descriptor, kp.DotProduct(1), first.inducing)
    return SumMap((pairs, first, second), (1.0, 0.5, 0.3))


def mixed_channels(structures) -> KernelMap:
    soap = potentials.mixed_soap().with_species(tuple(np.unique(structures[0].numbers).tolist()))
    inducing = choose_inducing(soap, structures, 4 * len(soap.species), method="random", seed=0)
    return KernelMap.from_inducing(soap, kp.DotProduct(2), inducing)


def of_symmetry_functions(structures) -> SumMap:
    """A Gaussian, a power and a linear term of one ACSF, scaled."""
    species = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
    acsf = potentials.symmetry_functions(species=species).scaled(structures)
    inducing = choose_inducing(acsf, structures, 4 * len(species), method="random", seed=0)
    return SumMap(
        (
            KernelMap.from_inducing(acsf, kp.Gaussian(0.5), inducing),
            KernelMap.from_inducing(acsf, kp.DotProduct(3), inducing),
            LinearMap.from_structures(acsf, structures, normalise=False),
        ),
        (1.0, 0.5, 0.3),
    )


def batch_of(features, structures, skin=0.3) -> Batch:
    return Batch.from_structures(structures, features.cutoff, skin=skin)


def assert_same_rows(found, expected, tolerance=1e-12):
    for kind in KINDS:
        a, b = getattr(found, kind), getattr(expected, kind)
        assert (a is None) == (b is None)
        if b is None:
            continue
        assert a.dtype == np.float64
        finite = b[np.isfinite(b)]
        scale = np.abs(finite).max() if finite.size else 1.0
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


def assert_same_energies(found, expected, energy=1e-11, pairs=1e-11):
    np.testing.assert_allclose(found[0], expected[0], atol=energy * max(1.0, np.abs(expected[0]).max()))
    np.testing.assert_allclose(found[1], expected[1], atol=pairs * np.abs(expected[1]).max(initial=1e-300))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("zeta", [1, 2, 3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_energies_and_kernel_values_are_those_of_compiled_loops(case, zeta, device):
    structures = case()
    host = three_terms(structures, zeta)
    there = on_device(host, device)
    batch = batch_of(host, structures)
    ours, theirs = there.describe(batch), host.describe(batch)
    assert_same_rows(there.rows(ours, KINDS), host.rows(theirs, KINDS))
    np.testing.assert_allclose(dense_local_values(there, ours), dense_local_values(host, theirs), atol=1e-12)
    np.testing.assert_allclose(there.local_prior(ours), host.local_prior(theirs), atol=1e-13)
    weights = np.random.default_rng(zeta).normal(size=host.n_columns)
    for collapse in (True, False):
        form, expected = there.form(weights, collapse=collapse), host.form(weights, collapse=collapse)
        assert form.paths == expected.paths
        assert_same_energies(form.local_and_pairs(ours), expected.local_and_pairs(theirs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_terms_of_symmetry_functions_are_those_of_compiled_loops(case, device):
    structures = case()
    host = of_symmetry_functions(structures)
    there = on_device(host, device)
    batch = batch_of(host, structures)
    ours, theirs = there.describe(batch), host.describe(batch)
    assert_same_rows(there.rows(ours, KINDS), host.rows(theirs, KINDS))
    np.testing.assert_allclose(dense_local_values(there, ours), dense_local_values(host, theirs), atol=1e-12)
    weights = np.random.default_rng(0).normal(size=host.n_columns)
    assert_same_energies(there.form(weights).local_and_pairs(ours), host.form(weights).local_and_pairs(theirs))


@pytest.mark.parametrize("device", DEVICES)
def test_mixed_element_channels(device):
    structures = [make.four_metals(k) for k in range(2)]
    host = mixed_channels(structures)
    there = on_device(host, device)
    batch = batch_of(host, structures)
    ours, theirs = there.describe(batch), host.describe(batch)
    assert_same_rows(there.rows(ours, KINDS), host.rows(theirs, KINDS))
    weights = np.random.default_rng(0).normal(size=host.n_columns)
    assert_same_energies(there.form(weights).local_and_pairs(ours), host.form(weights).local_and_pairs(theirs))


@given(st.integers(0, 10**6), st.sampled_from([make.copper_gold, make.slab]))
def test_rows_do_not_change_under_rotation_and_forces_turn_along(seed, kind):
    atoms, matrix = kind(seed), make.rotation(seed)
    there = on_device(three_terms([make.copper_gold(1)]), "cpu")
    first, second = (
        there.rows(there.describe(batch_of(there, [a])), KINDS) for a in (atoms, make.turned(atoms, matrix))
    )
    np.testing.assert_allclose(second.energy, first.energy, atol=1e-9)
    turned = np.einsum("xy,iym->ixm", matrix, first.forces.reshape(-1, 3, there.n_columns))
    np.testing.assert_allclose(second.forces.reshape(turned.shape), turned, atol=1e-9)
    np.testing.assert_allclose(second.forces.reshape(turned.shape).sum(0), 0.0, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalise", [True, False])
def test_linear_terms(normalise, device):
    structures = [make.copper_gold(1), make.slab(3), make.isolated("Au")]
    soap = potentials.small_soap().with_species((29, 79))
    linear = LinearMap.from_structures(soap, structures, normalise=normalise)
    host = SumMap((linear, feature_map(structures)), (1.0, 0.5))
    there = on_device(host, device)
    batch = batch_of(host, structures)
    ours, theirs = there.describe(batch), host.describe(batch)
    assert ours.parts[0] is ours.parts[1]
    assert_same_rows(there.rows(ours, KINDS), host.rows(theirs, KINDS))
    np.testing.assert_allclose(
        dense_local_values(there, ours), dense_local_values(host, theirs), rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(there.local_prior(ours), host.local_prior(theirs), rtol=1e-12)
    weights = np.random.default_rng(0).normal(size=host.n_columns)
    assert there.form(weights).paths == host.form(weights).paths
    assert_same_energies(there.form(weights).local_and_pairs(ours), host.form(weights).local_and_pairs(theirs))


@pytest.mark.parametrize("device", DEVICES)
def test_force_rows_are_differences_of_energy_rows(device):
    structures = [make.copper_gold(1)]
    there = on_device(three_terms(structures), device)

    def energy(atoms):
        return there.rows(there.describe(batch_of(there, [atoms])), ("energy",)).energy[0]

    rows = there.rows(there.describe(batch_of(there, structures)), ("forces",))
    assert rows.stress is None
    forces = rows.forces.reshape(-1, 3, there.n_columns)
    errors = []
    for h in (1e-2, 3e-3, 1e-3, 3e-4):
        ahead, behind = (energy(moved(structures[0], 2, 1, sign * h)) for sign in (1, -1))
        errors.append(np.abs((ahead - behind) / (2 * h) + forces[2, 1]).max() / np.abs(forces).max())
    assert min(errors) < 1e-7, errors
    # The error of a central difference falls as h² before round-off.
    assert 5.0 < errors[0] / errors[1] < 20.0, errors


@pytest.mark.parametrize("device", DEVICES)
def test_pieces_of_any_size_give_the_same(device, monkeypatch):
    structures = [make.copper_gold(1), make.slab(3), make.isolated("Au"), make.tiny_cell()]
    there = on_device(three_terms(structures), device)
    batch = batch_of(there, structures)
    whole = there.describe(batch)
    rows, weights = there.rows(whole, KINDS), np.random.default_rng(0).normal(size=there.n_columns)
    energies = there.form(weights).local_and_pairs(whole)
    for size in (20_000, 500_000):
        for module in (torch_environments, term_engines):
            monkeypatch.setattr(module, "working_bytes", lambda device, n=1, size=size: size)
        cut = there.describe(batch)
        assert cut.parts[1].grid is None
        assert_same_rows(there.rows(cut, KINDS), rows)
        assert_same_energies(there.form(weights).local_and_pairs(cut), energies)


@pytest.mark.parametrize("device", DEVICES)
def test_mixed_precision_keeps_rows_and_blurs_energies_in_the_seventh_digit(device):
    structures = [make.copper_gold(5), make.slab(2)]
    host = three_terms([make.copper_gold(1), make.copper_gold(2)])
    there = on_device(host, device, "mixed")
    batch = batch_of(host, structures)
    ours, theirs = there.describe(batch), host.describe(batch)
    assert_same_rows(there.rows(ours, KINDS), host.rows(theirs, KINDS))
    weights = np.random.default_rng(0).normal(size=host.n_columns)
    found, expected = there.form(weights).local_and_pairs(ours), host.form(weights).local_and_pairs(theirs)
    assert_same_energies(found, expected, energy=3e-6, pairs=1e-5)
    assert np.abs(found[0] - expected[0]).max() > 1e-10
    assert found[0].dtype == found[1].dtype == np.float64


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_blurs_rows_in_the_seventh_digit_too(device):
    structures = [make.copper_gold(5), make.slab(2)]
    host = three_terms([make.copper_gold(1), make.copper_gold(2)])
    there = on_device(host, device, "float32")
    batch = batch_of(host, structures)
    ours, expected = there.rows(there.describe(batch), KINDS), host.rows(host.describe(batch), KINDS)
    assert_same_rows(ours, expected, 3e-6)
    assert np.abs(ours.forces - expected.forces).max() > 1e-10 * np.abs(expected.forces).max()


@pytest.mark.parametrize("device", DEVICES)
def test_other_scales_share_what_is_on_the_device(device):
    structures = [make.copper_gold(1)]
    there = on_device(three_terms(structures), device)
    other = there.rescaled((1.0, 2.0, 4.0))
    assert other.scales == (1.0, 2.0, 4.0)
    assert there.scales == (1.0, 0.5, 0.3)
    assert other.engines is there.engines
    rows = there.rows(there.describe(batch_of(there, structures)), ("energy",)).energy
    np.testing.assert_allclose(other.whiten(rows), there.host.rescaled((1.0, 2.0, 4.0)).whiten(rows))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("zeta", [1, 2, 3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_prior_variances_are_those_of_compiled_loops(case, zeta, device, monkeypatch):
    structures = case()
    host = feature_map(structures, zeta=zeta)
    engine = on_device(host, device).engines[0].environments
    batch = batch_of(host, structures)
    expected = {kind: prior(host.kernel, host.describe(batch), kind) for kind in KINDS}
    for in_pieces in (False, True):
        if in_pieces:
            monkeypatch.setattr(torch_environments, "working_bytes", lambda device, n=1: 300_000)
        with computing(device):
            state = engine.describe(DeviceBatch(batch, device, host.describe(batch).species))
            energy = engine.energy_prior(state, kp.DotProduct(zeta)).cpu().numpy()
            forces = engine.forces_prior(state, kp.DotProduct(zeta)).T.cpu().numpy().ravel()
            stress = engine.stress_prior(state, kp.DotProduct(zeta)).cpu().numpy() / batch.volumes[:, None] ** 2
        np.testing.assert_allclose(energy, expected["energy"], rtol=1e-12)
        np.testing.assert_allclose(forces, expected["forces"], atol=1e-12 * expected["forces"].max())
        np.testing.assert_allclose(stress.ravel(), expected["stress"], rtol=1e-11)


def test_derivatives_backwards_with_mixed_channels():
    host = mixed_channels([make.four_metals(k) for k in range(2)])
    batch = batch_of(host, [make.four_metals(3)])
    expected = prior(host.kernel, host.describe(batch), "forces")
    there = on_device(host, "cpu")
    with computing("cpu"):
        found = there.engines[0].environments.forces_prior(there.describe(batch).parts[0], kp.DotProduct(2))
    np.testing.assert_allclose(found.T.numpy().ravel(), expected, atol=1e-12 * expected.max())


def test_maps_move_to_a_device_and_back():
    host = feature_map([make.copper_gold(1)])
    there = on_device(host, "cpu")
    assert device_of(host) is None
    assert device_of(there) == "cpu"
    assert on_device(there, None) is host
    assert on_device(host, None) is host
    assert on_device(there, "cpu", "mixed").host is host
    assert there.settings() == host.settings()
    assert there.shares() == host.shares()
    np.testing.assert_array_equal(there.weights_of(29), host.weights_of(29))
    assert there.arrays().keys() == host.arrays().keys()
    assert (there.n_columns, there.n_weights, there.widths) == (host.n_columns, host.n_weights, host.widths)


def test_an_element_that_the_map_has_not_seen_is_named():
    there = on_device(feature_map([make.copper(1)]), "cpu")
    with pytest.raises(SpeciesError, match="Au was never seen"):
        there.describe(batch_of(there, [make.copper_gold(1)]))


def test_a_batch_must_reach_the_cutoff():
    there = on_device(feature_map([make.copper(1)]), "cpu")
    with pytest.raises(ParameterError, match=r"lists pairs up to 3\.0 Å"):
        there.describe(Batch.from_structures([make.copper(1)], 3.0))


def test_a_term_without_an_engine_is_named():
    class Other:
        species, cutoff = (29,), 3.0

    strange = replace(feature_map([make.copper(1)]), descriptor=Other())
    with pytest.raises(ParameterError, match="a term of Other has no engine for PyTorch"):
        on_device(strange, "cpu")


def test_gradients_of_pytorch_are_neither_needed_nor_left_on():
    structures = [make.copper(1)]
    there = on_device(feature_map(structures), "cpu")
    described = there.describe(batch_of(there, structures))
    assert not described.parts[0].x.requires_grad
    assert torch.is_grad_enabled()

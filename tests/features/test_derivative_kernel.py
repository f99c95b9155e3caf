"""The kernel of energies and forces against finite differences and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.batch import Batch
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.features import label_kernel
from kernelpot.features.force_kernel import DerivativeMap, block, reductions
from kernelpot.features.label_kernel import Layout, fill_lower, group_by_composition
from kernelpot.kernels import DotProduct, Gaussian
from kernelpot.linalg.dense import Triangle
from tests.structures import copper_gold, ethanol

SMALL = SOAP(cutoff=3.0, n_max=3, l_max=2, sigma=0.5, species=(1, 6, 8))
KERNELS = [DotProduct(1), DotProduct(2), DotProduct(4), Gaussian(0.4)]


def a_map(kernel, structures, descriptor=SMALL, tolerance=0.0):
    return DerivativeMap.from_structures(descriptor, kernel, structures, tolerance)


def energy_kernel(term, left, right):
    """⟨E, E'⟩ of two structures by a plain double loop over projected unit vectors."""
    described = []
    for atoms in (left, right):
        batch = Batch.from_structures([atoms], term.descriptor.cutoff)
        unit = term.describe(batch).x
        columns = dict(zip(term.species, term.columns, strict=True))
        described.append([(z, x @ columns[z]) for z, x in zip(batch.numbers, unit, strict=True)])
    return sum(float(term.kernel.value(np.array(x @ y))) for z, x in described[0] for w, y in described[1] if z == w)


def moved(atoms, coordinate, step):
    copy = atoms.copy()
    copy.positions[coordinate // 3, coordinate % 3] += step
    return copy


def differences(f, exact, steps=(1e-2, 3e-3, 1e-3)):
    """Errors of central differences over several steps: they must fall as the square of the step."""
    return [abs(f(h) - exact) for h in steps]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_derivatives_are_those_of_the_energy_kernel(kernel, tolerance):
    left, right = ethanol(1), ethanol(2)
    term = a_map(kernel, [left, right], tolerance=tolerance)
    found = block(kernel, term.frames([left], [0]), term.frames([right], [1]))
    assert found.value[0] == pytest.approx(energy_kernel(term, left, right), rel=1e-12)
    for a, b in [(0, 5), (13, 2), (26, 26)]:
        one = [
            (energy_kernel(term, moved(left, a, h), right) - energy_kernel(term, moved(left, a, -h), right)) / (2 * h)
            for h in (1e-3, 3e-4)
        ]
        other = [
            (energy_kernel(term, left, moved(right, b, h)) - energy_kernel(term, left, moved(right, b, -h))) / (2 * h)
            for h in (1e-3, 3e-4)
        ]
        scale = np.abs(found.d_value).max() + 1e-6
        assert np.abs(np.array(one) - found.d_value[a, 0]).max() < 1e-4 * scale
        assert np.abs(np.array(other) - found.value_d[0, b]).max() < 1e-4 * scale

        def mixed(h, a=a, b=b):
            corners = [
                s * t * energy_kernel(term, moved(left, a, s * h), moved(right, b, t * h))
                for s in (1, -1)
                for t in (1, -1)
            ]
            return sum(corners) / (4 * h * h)

        errors = differences(mixed, found.d_d[a, 0, b])
        assert errors[-1] < 1e-4 * np.abs(found.d_d).max()
        assert errors[-1] < 0.3 * errors[0] or errors[0] < 1e-6 * np.abs(found.d_d).max()


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_blocks_of_many_are_those_of_one(kernel):
    structures = [ethanol(k) for k in range(4)]
    term = a_map(kernel, structures)
    frames = term.frames(structures, range(4))
    many = block(kernel, frames.take(slice(0, 1)), frames)
    for t in range(4):
        one = block(kernel, frames.take(slice(0, 1)), frames.take(slice(t, t + 1)))
        np.testing.assert_allclose(many.d_d[:, t], one.d_d[:, 0], atol=1e-12)
        np.testing.assert_allclose(many.value_d[t], one.value_d[0], atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_tensors_give_the_same_blocks(kernel):
    structures = [ethanol(k) for k in range(3)]
    frames = a_map(kernel, structures).frames(structures, range(3))
    there = frames.on("cpu")
    here, found = block(kernel, frames.take(slice(0, 1)), frames), block(kernel, there.take(slice(0, 1)), there)
    for name in ("value", "value_d", "d_value", "d_d"):
        np.testing.assert_allclose(getattr(found, name).numpy(), getattr(here, name), atol=1e-12)


def full_matrix(kernel, structures, descriptor=SMALL):
    term = a_map(kernel, structures, descriptor)
    groups = group_by_composition([a.numbers for a in structures], term.species)
    everything = np.ones(len(structures), dtype=bool)
    layout = Layout.of(
        np.concatenate(groups), everything, everything, np.array([3 * len(atoms) for atoms in structures])
    )
    square = np.zeros((layout.n_rows, layout.n_rows))
    # One run of all rows: views of the square.
    fill_lower(Triangle([square]), [(term, [term.frames([structures[k] for k in g], g) for g in groups])], layout)
    return np.tril(square) + np.tril(square, -1).T, layout


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(KERNELS))
def test_the_matrix_of_labels_is_positive_semidefinite(seed, kernel):
    matrix, _ = full_matrix(kernel, [ethanol(seed), ethanol(seed + 1)])
    values = np.linalg.eigvalsh(matrix)
    assert values[0] > -1e-10 * values[-1]


def test_the_matrix_of_labels_is_that_of_its_blocks_in_any_mix_of_crystals(monkeypatch):
    structures = [copper_gold(0), copper_gold(1), copper_gold(2), copper_gold(3)]
    descriptor = SOAP(cutoff=3.5, n_max=3, l_max=2, species=(29, 79))
    whole, layout = full_matrix(Gaussian(0.5), structures, descriptor)
    monkeypatch.setattr(label_kernel, "CHUNK_BYTES", 1)
    pieces, _ = full_matrix(Gaussian(0.5), structures, descriptor)
    np.testing.assert_allclose(pieces, whole, atol=1e-13)
    term = a_map(Gaussian(0.5), structures, descriptor)
    frames = [term.frames([atoms], [k]) for k, atoms in enumerate(structures)]
    for s in range(4):
        for t in range(4):
            found = block(term.kernel, frames[s], frames[t])
            rows, columns = layout.force_rows(s), layout.force_rows(t)
            np.testing.assert_allclose(whole[rows, columns], found.d_d[:, 0], atol=1e-12)
            np.testing.assert_allclose(whole[layout.energy[s], columns], -found.value_d[0], atol=1e-12)
            assert whole[layout.energy[s], layout.energy[t]] == pytest.approx(found.value[0])


def test_what_a_reduction_loses_is_what_was_asked_for():
    structures = [ethanol(k) for k in range(5)]
    batch = Batch.from_structures(structures, SMALL.cutoff)
    sizes = []
    for tolerance in (0.0, 1e-6, 1e-3):
        columns = reductions(SMALL, structures, tolerance)
        sizes.append([c.shape[1] for c in columns])
        for c in columns:
            np.testing.assert_allclose(c.T @ c, np.eye(c.shape[1]), atol=1e-10)
        term = DerivativeMap(SMALL, DotProduct(2), columns)
        unit = term.describe(batch).x
        for z, c in zip(term.species, columns, strict=True):
            x = unit[batch.numbers == z]
            # Values and derivatives have the same share in what decides.
            assert ((x - x @ c @ c.T) ** 2).sum() <= 2.0 * max(tolerance, 1e-12) * (x**2).sum()
    assert all(few <= more for few, more in zip(sizes[2], sizes[0], strict=True))
    assert sum(sizes[2]) < sum(sizes[0])

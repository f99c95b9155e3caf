"""Whitened features and energies of environments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.errors import SpeciesError
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.vectors import gather_pairs, unit, unit_jacobian, unit_vjp
from tests import structures as make
from tests.features.test_rows import described, feature_map


@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_features_give_back_the_kernel_with_inducing_environments(zeta):
    structures = [make.copper_gold(1), make.copper_gold(2)]
    features = feature_map(structures, zeta=zeta, n=3)
    d = described(features, structures)
    k = np.zeros((len(d.x), features.n_inducing))
    gram = np.zeros((features.n_inducing, features.n_inducing))
    for a, (atoms, dots) in enumerate(features.dots(d)):
        columns = features.slices[a]
        k[atoms, columns] = dots**zeta
        gram[columns, columns] = (features.inducing[a] @ features.inducing[a].T) ** zeta
    phi, phi_z = features.whiten(k), features.whiten(gram)
    np.testing.assert_allclose(phi @ phi_z.T, k, atol=1e-8)
    # Where environments are inducing, the whitened kernel is the kernel itself; elsewhere it is never larger.
    np.testing.assert_allclose(phi_z @ phi_z.T, gram, atol=1e-8)
    assert (np.sum(phi**2, axis=1) <= 1 + 1e-8).all()


def test_weights_of_both_bases_give_the_same_values():
    features = feature_map([make.copper_gold(1)], n=2)
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(5, features.n_inducing)), rng.normal(size=features.n_weights)
    np.testing.assert_allclose(features.whiten(rows) @ weights, rows @ features.unwhiten(weights), rtol=1e-9)


def test_weak_directions_are_dropped():
    features = feature_map([make.copper(1)], n=3)
    twice = (np.concatenate([features.inducing[0], features.inducing[0]]),)
    again = KernelMap.from_inducing(features.descriptor, features.kernel, twice)
    assert again.n_inducing == 2 * features.n_inducing
    assert again.n_weights == features.n_weights
    coarse = KernelMap.from_inducing(features.descriptor, features.kernel, twice, tolerance=0.5)
    assert coarse.n_weights == 1


def test_unseen_species_is_named():
    features = feature_map([make.copper(1)])
    with pytest.raises(SpeciesError, match="element Au was never seen by this model \\(it knows Cu\\)"):
        described(features, [make.copper_gold(1)])


def test_counts_per_species():
    features = feature_map([make.copper_gold(1)])
    d = described(features, [make.copper(0), make.isolated("Au"), make.copper_gold(1)])
    np.testing.assert_array_equal(d.batch.counts(features.species), [[4, 0], [0, 1], [2, 2]])


@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_collapsed_path_equals_the_path_over_inducing_environments(zeta):
    structures = [make.copper_gold(1), make.slab(1), make.isolated("Au")]
    features = feature_map([make.copper_gold(k) for k in range(2, 20)], zeta=zeta, n=36)
    weights = np.random.default_rng(1).normal(size=features.n_inducing)
    if zeta < 3:
        # Force the collapse, which these few inducing environments would not choose.
        z = features.inducing
        wide = tuple(np.concatenate([block] * (block.shape[1] // (2 * len(block)) + 1)) for block in z)
        features = KernelMap(features.descriptor, features.kernel, wide, features.whitening)
        weights = np.random.default_rng(1).normal(size=features.n_inducing)
    d = described(features, structures)
    chosen, direct = (features.form(weights, collapse=c) for c in (True, False))
    assert direct.paths == ("inducing", "inducing")
    assert chosen.paths == (("collapsed",) * 2 if zeta < 3 else ("inducing",) * 2)
    energy, gradient = chosen.evaluate(d)
    other_energy, other_gradient = direct.evaluate(d)
    scale = np.abs(other_energy).max()
    np.testing.assert_allclose(energy, other_energy, atol=1e-11 * scale)
    np.testing.assert_allclose(gradient, other_gradient, atol=1e-11 * np.abs(other_gradient).max())
    forces, stress = gather_pairs(d.batch, chosen.local_and_pairs(d)[1])
    other_forces, other_stress = gather_pairs(d.batch, direct.local_and_pairs(d)[1])
    np.testing.assert_allclose(forces, other_forces, atol=1e-10 * scale)
    np.testing.assert_allclose(stress, other_stress, atol=1e-11 * scale)


def test_path_is_the_cheaper_one():
    # F < 2M collapses; F = 30 for one species at n_max 4, l_max 2.
    features = feature_map([make.copper(k) for k in range(8)], n=16)
    assert features.inducing[0].shape == (16, 30)
    assert features.form(np.ones(16)).paths == ("collapsed",)
    few = feature_map([make.copper(k) for k in range(8)], n=15)
    assert few.form(np.ones(15)).paths == ("inducing",)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), f=st.integers(2, 7))
def test_unit_vectors_and_their_derivatives(seed, n, f):
    rng = np.random.default_rng(seed)
    p, change, gradient = rng.normal(size=(n, f)), rng.normal(size=(n, f)), rng.normal(size=(n, f))
    x, norm = unit(p)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0)
    h = 1e-6
    slope = (unit(p + h * change)[0] - unit(p - h * change)[0]) / (2 * h)
    rows = change[:, None, :].copy()
    unit_jacobian(rows, np.arange(n), x, norm)
    scale = (np.abs(change).max() + 1) / norm.min() ** 2 + 1
    np.testing.assert_allclose(rows[:, 0], slope, atol=1e-7 * scale)
    pulled = unit_vjp(gradient, x, norm)
    np.testing.assert_allclose((pulled * change).sum(axis=1), (gradient * rows[:, 0]).sum(axis=1), atol=1e-9 * scale)


def test_amplitude_is_not_in_the_features():
    structures = [make.copper(1)]
    small, large = (
        kp.SparseGP(feature_map(structures).descriptor, kp.DotProduct(2, a), n_inducing=3).prepare(structures).features_
        for a in (0.1, 10.0)
    )
    np.testing.assert_array_equal(small.whitening[0], large.whitening[0])

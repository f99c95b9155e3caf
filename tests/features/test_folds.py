"""Duplicates, and folds that keep them together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.features.inducing import mean_vectors
from kernelpot.linalg.subsets import alike, equal_vectors, folds
from tests import structures as make
from tests.potentials import small_soap


def groups_of(structures):
    soap = small_soap().with_species((29, 79))
    sizes = np.array([len(atoms) for atoms in structures])
    return equal_vectors(mean_vectors(soap, structures), sizes)


def test_rotated_permuted_and_shifted_copies_are_found():
    atoms = make.copper_gold(1)
    shifted = atoms[[2, 0, 3, 1]]
    shifted.positions += [0.3, -2.0, 5.0]
    shifted.wrap()
    structures = [atoms, make.copper_gold(3), make.turned(atoms, make.rotation(5)), shifted, make.copper(1)]
    np.testing.assert_array_equal(groups_of(structures), [0, 1, 0, 0, 2])


def test_a_mirror_image_counts_as_the_same():
    atoms = make.copper_gold(1)
    np.testing.assert_array_equal(groups_of([atoms, make.turned(atoms, np.diag([1.0, 1.0, -1.0]))]), [0, 0])


def test_supercells_have_other_sizes_and_stay_apart():
    atoms = make.copper_gold(1)
    np.testing.assert_array_equal(groups_of([atoms, atoms.repeat((2, 1, 1))]), [0, 1])
    equal = [atoms.repeat((2, 1, 1)), atoms.repeat((1, 2, 1))]
    np.testing.assert_array_equal(groups_of(equal), [0, 0])


def test_groups_are_connected_components_numbered_by_first_member():
    means = np.array([[5.0], [1.0], [1.0 + 0.9e-6], [1.0 + 1.8e-6], [5.0], [9.0]])
    np.testing.assert_array_equal(equal_vectors(means, np.full(6, 2)), [0, 1, 1, 1, 0, 2])
    np.testing.assert_array_equal(equal_vectors(means, np.array([1, 2, 2, 2, 3, 2])), [0, 1, 1, 1, 2, 3])


def renumbered(draws):
    """Number group draws by first member."""
    seen = {}
    return np.array([seen.setdefault(g, len(seen)) for g in draws])


@settings(deadline=None, max_examples=60)
@given(
    draws=st.lists(st.integers(0, 30), min_size=2, max_size=120),
    n_folds=st.integers(2, 8),
    seed=st.integers(0, 5),
)
def test_folds_never_split_duplicates_and_are_never_empty(draws, n_folds, seed):
    groups = renumbered(draws)
    n_folds = min(n_folds, len(np.unique(groups)))
    fold = folds(groups, n_folds, seed=seed)
    assert set(fold) == set(range(n_folds))
    for g in np.unique(groups):
        assert len(np.unique(fold[groups == g])) == 1
    np.testing.assert_array_equal(fold, folds(groups, n_folds, seed=seed))


def test_what_resembles_each_other_stays_together_and_folds_balance():
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(200, 3)), 2, axis=0) + 1e-4 * rng.normal(size=(400, 3))
    blocks = alike(vectors, np.arange(400), 8)
    fold = folds(blocks, 8, seed=0)
    assert np.bincount(fold).tolist() == [50] * 8
    assert np.mean(blocks[::2] == blocks[1::2]) > 0.9
    assert (fold != folds(blocks, 8, seed=1)).any()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 60), flat=st.booleans())
def test_what_stays_together_depends_on_the_set_alone(seed, n, flat):
    """Also of vectors that lie at zero along most lines, as of frames without a common element."""
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.normal(size=(n, 5))) * (rng.random((n, 5)) < 0.4 if flat else 1.0)
    groups = equal_vectors(vectors, np.ones(n, dtype=int))
    order = rng.permutation(n)
    there = alike(vectors[order], equal_vectors(vectors[order], np.ones(n, dtype=int)), 2)
    np.testing.assert_array_equal(alike(vectors, groups, 2)[order], there)
    for group in np.unique(groups):
        assert len(np.unique(there[groups[order] == group])) == 1

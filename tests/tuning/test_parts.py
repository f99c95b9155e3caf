"""Parts of a training set: nested, of whole units, with every family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.errors import ParameterError
from kernelpot.tuning.scoring import Parts, joining
from tests import structures as make
from tests.potentials import small_soap


@st.composite
def sets(draw):
    """Units of one to four structures, in up to three families."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=4, max_size=30))
    families = [draw(st.integers(0, 2)) for _ in sizes]
    unit, family = np.repeat(np.arange(len(sizes)), sizes), np.repeat(families, sizes)
    family = np.unique(family, return_inverse=True)[1]
    seed = draw(st.integers(0, 9))
    return Parts(unit, family, tuple(map(str, range(family.max() + 1))), joining(unit, family, seed))


@given(sets())
def test_parts_are_nested_whole_and_large_enough(parts):
    n = len(parts.unit)
    below = set()
    for size in (1, n // 4, n // 2, n):
        members = parts.members(size)
        assert size <= len(members) < max(1, size) + 4
        assert below <= set(members)
        assert list(members) == sorted(members)
        whole = np.isin(parts.unit, parts.unit[members])
        assert whole.sum() == len(members)
        below = set(members)
    assert len(parts.members(n)) == n


@given(sets())
def test_every_family_joins_before_any_joins_twice(parts):
    first = np.unique(parts.unit, return_index=True)[1]
    family = parts.family[first][parts.order]
    assert set(family[: len(parts.families)]) == set(range(len(parts.families)))
    # Half of the units hold half of each family, to one unit.
    half = family[: len(family) // 2]
    for f in range(len(parts.families)):
        assert abs(np.sum(half == f) - np.sum(family == f) / 2) <= len(parts.families)


@given(sets(), st.integers(2, 5))
def test_folds_never_part_a_unit(parts, n_folds):
    members = parts.members(len(parts.unit) // 2 + 1)
    fold = parts.folds(members, n_folds, seed=1)
    for unit in np.unique(parts.unit[members]):
        assert len(set(fold[parts.unit[members] == unit])) == 1
    n_units = len(np.unique(parts.unit[members]))
    np.testing.assert_array_equal(np.unique(fold), np.arange(min(n_folds, n_units)))


def test_duplicates_are_units_and_families_are_named():
    crystals = [make.copper(k // 2) for k in range(8)]
    for k, atoms in enumerate(crystals):
        atoms.info["config_type"] = "a" if k < 4 else "b"
    parts = Parts.of(crystals, small_soap(), n_folds=2, seed=0)
    np.testing.assert_array_equal(parts.unit[::2], parts.unit[1::2])
    assert sorted(parts.unit[::2]) == [0, 1, 2, 3]
    assert parts.families == ("a", "b")
    assert len(parts.members(3)) == 4
    members = parts.members(4)
    np.testing.assert_array_equal(parts.families_out(members), parts.family[members])


def test_leaving_out_the_only_family_is_refused():
    parts = Parts.of([make.copper(k) for k in range(3)], small_soap(), n_folds=2, seed=0)
    with pytest.raises(ParameterError, match=r"at least two groups .*config_type.*; use \"cv\""):
        parts.families_out(parts.members(3))

"""Tabulated properties, and the rule that fills their gaps."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from kernelpot.elements.table import COLUMNS, LAST, UNBOUND, ElementTable, element_table, ridge, row_of
from kernelpot.errors import ParameterError

TABLE = element_table()


def test_every_value_is_there():
    assert TABLE.names == tuple(COLUMNS)
    assert TABLE.values.shape == (LAST, len(COLUMNS))
    assert np.isfinite(TABLE.values).all()
    assert TABLE.symbols[0] == "H"
    assert TABLE.symbols[-1] == "Cm"


@pytest.mark.parametrize(
    ("symbol", "name", "value", "within"),
    [
        # From textbooks: radii of Cordero et al., CRC Handbook.
        ("Fe", "period", 4, 0),
        ("Fe", "d electrons", 6, 0),
        ("U", "f electrons", 4, 0),
        ("C", "covalent radius", 0.73, 0.05),
        ("F", "Pauling electronegativity", 3.98, 0.01),
        ("H", "ionisation energy", 13.598, 0.001),
        ("Cl", "electron affinity", 3.613, 0.001),
        ("Au", "polarizability", 36.0, 2.0),
        ("Cu", "atomic volume", 7.1, 0.1),
    ],
)
def test_known_values(symbol, name, value, within):
    assert TABLE.only([name])[row_of(symbol), 0] == pytest.approx(value, abs=within)


def test_measured_values_stay_and_filled_ones_are_told():
    kept = ~TABLE.filled
    np.testing.assert_array_equal(TABLE.values[kept], TABLE.measured[kept])
    told = TABLE.filled_in()
    assert "He" in told["Pauling electronegativity"]
    assert "Ne" in told["atomic volume"]
    assert sum(map(len, told.values())) == TABLE.filled.sum() > 0
    assert "covalent radius" not in told


def test_gaps_are_filled_by_ridge_regression_on_the_complete_columns_within_the_measured_range():
    complete = ~TABLE.filled.any(axis=0)
    known = TABLE.measured[:, complete]
    known = (known - known.mean(axis=0)) / known.std(axis=0)
    for column in np.flatnonzero(~complete):
        gap = TABLE.filled[:, column]
        have = TABLE.measured[~gap, column]
        told = Ridge(alpha=1.0).fit(known[~gap], have).predict(known[gap])
        np.testing.assert_allclose(TABLE.values[gap, column], np.clip(told, have.min(), have.max()), rtol=1e-9)


def test_filling_is_better_than_the_mean_where_it_can_be_checked():
    """Each measured value left out and filled again: the error against the spread over the elements."""
    complete = ~TABLE.filled.any(axis=0)
    known = TABLE.measured[:, complete]
    known = (known - known.mean(axis=0)) / known.std(axis=0)
    for name in ("van der Waals radius", "Pauling electronegativity", "Allen electronegativity", "atomic volume"):
        column = TABLE.names.index(name)
        have = np.flatnonzero(~TABLE.filled[:, column])
        y = TABLE.measured[have, column]
        left = [ridge(np.delete(known[have], k, 0), np.delete(y, k), known[have[k : k + 1]])[0] for k in range(len(y))]
        assert np.sqrt(((left - y) ** 2).mean()) < 0.62 * y.std(), name


def test_elements_without_a_negative_ion_have_no_affinity():
    affinity = TABLE.only(["electron affinity"])[:, 0]
    np.testing.assert_array_equal(affinity[np.array(UNBOUND) - 1], 0.0)
    assert (affinity[[0, 7, 8, 16]] > 0.5).all()


def test_a_table_of_ones_own_is_filled_alike():
    measured = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0], [4.0, 40.0]])
    table = ElementTable(("a", "b"), measured)
    assert 10.0 < table.values[1, 1] < 30.0
    assert table.filled_in() == {"b": ("He",)}


def test_what_is_not_there_is_refused():
    with pytest.raises(ParameterError, match="elemental properties reach to Cm, got Bk"):
        row_of("Bk")
    with pytest.raises(ParameterError, match="'Xy' is no chemical symbol"):
        row_of("Xy")
    with pytest.raises(ParameterError, match=r"`properties` must be different ones of period.* got 'mass'"):
        TABLE.only("mass")

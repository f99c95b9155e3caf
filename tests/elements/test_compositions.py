"""Compositions as rows of numbers, against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.formula import Formula
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from kernelpot.elements.compositions import CompositionFeatures, amounts_of
from kernelpot.elements.modes import ElementalModes
from kernelpot.errors import DataError, NotFittedError, ParameterError

MODES = ElementalModes(3)
SITES = ("a_1", "b_1", "a_2", "b_2")
PAIRS = (("a_1", "a_2"), ("b_1", "b_2"))
ROWS = [("Ag", "Nb", "La", "Al"), ("Ba", "Ti", "Sr", "Zr"), ("K", "Ta", "K", "Nb")]


def test_sites_stand_side_by_side():
    features = CompositionFeatures(SITES, MODES)
    x = features.fit_transform(ROWS)
    np.testing.assert_array_equal(x[1], np.concatenate([MODES.vector(symbol) for symbol in ROWS[1]]))
    assert features.feature_names_[:4] == ("a_1: mode 1", "a_1: mode 2", "a_1: mode 3", "b_1: mode 1")
    assert list(features.get_feature_names_out()) == list(features.feature_names_)
    assert features.elements_ == ("Al", "K", "Ti", "Sr", "Zr", "Nb", "Ag", "Ba", "La", "Ta")


def test_sites_that_may_be_exchanged_are_described_without_their_order():
    features = CompositionFeatures(SITES, MODES, PAIRS).fit(ROWS)
    swapped = [(c, b, a, d) for a, b, c, d in ROWS], [(a, d, c, b) for a, b, c, d in ROWS]
    x = features.transform(ROWS)
    for rows in swapped:
        np.testing.assert_allclose(features.transform(rows), x, atol=1e-15)
    ag, la = MODES.vector("Ag"), MODES.vector("La")
    np.testing.assert_allclose(x[0, :6], np.concatenate([(ag + la) / 2, np.abs(ag - la) / 2]), atol=1e-15)
    assert features.feature_names_[3] == "a_1, a_2: spread of mode 1"
    assert x.shape == (3, 12)


def test_labels_of_elements():
    x = CompositionFeatures(SITES, "onehot").fit_transform(ROWS)
    assert x.shape == (3, 4 * 10)
    np.testing.assert_array_equal(x.sum(axis=1), 4.0)
    assert set(np.unique(x)) == {0.0, 1.0}


def test_permuting_the_labels_of_elements_permutes_columns():
    """With one label for each element no element is more alike to another than a third."""
    rename = {"Ag": "Nb", "Nb": "La", "La": "Al", "Al": "Ag"}
    elements = CompositionFeatures(SITES, "onehot").fit([tuple(rename)])
    rows = [("Ag", "Nb", "La", "Al"), ("Nb", "Nb", "Al", "Ag"), ("La", "Al", "Ag", "Ag")]
    x = elements.transform(rows)
    y = elements.transform([tuple(rename[s] for s in row) for row in rows])
    np.testing.assert_array_equal(x @ x.T, y @ y.T)


def test_formulas_and_structures_are_summarised_by_amounts():
    lumo = {"Ag": -0.5, "Nb": 1.5, "O": 2.0, "Cu": 3.0}
    features = CompositionFeatures(elements=lumo)
    x = features.fit_transform(["AgNbO3", bulk("Cu")])
    amounts, values = np.array([1, 1, 3]), np.array([-0.5, 1.5, 2.0])
    mean = np.average(values, weights=amounts)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=amounts))
    np.testing.assert_allclose(x, [[mean, -0.5, 2.0, spread], [3.0, 3.0, 3.0, 0.0]], atol=1e-12)
    assert features.feature_names_ == ("mean of 1", "least of 1", "greatest of 1", "spread of 1")
    np.testing.assert_array_equal(features.transform(["NbAgO3", "Ag2Nb2O6"]), x[[0, 0]])


def test_numbers_of_atoms_on_sites_add_the_summary_of_the_formula():
    rows = [("Al", "Na", "K", "F"), ("Ca", "Cs", "O", "Cl")]
    by_site = CompositionFeatures({"A": 1, "B": 1, "C": 2, "D": 6}, MODES)
    plain = CompositionFeatures(("A", "B", "C", "D"), MODES)
    formula = CompositionFeatures(elements=MODES)
    x = by_site.fit_transform(rows)
    np.testing.assert_array_equal(x[:, :12], plain.fit_transform(rows))
    np.testing.assert_allclose(x[:, 12:], formula.fit_transform(["AlNaK2F6", "CaCsO2Cl6"]), atol=1e-14)
    assert by_site.feature_names_[12] == "all: mean of mode 1"


def test_several_descriptions_stand_side_by_side():
    features = CompositionFeatures(("A",), [MODES, "properties", lambda symbol: [len(symbol), 1.0]])
    x = features.fit_transform([["Ag"], ["K"]])
    assert x.shape == (2, 3 + 15 + 2)
    np.testing.assert_array_equal(x[:, -2:], [[2.0, 1.0], [1.0, 1.0]])
    assert features.feature_names_[-1] == "A: 3.2"


@given(st.permutations(["Ag", "Nb", "La", "Al", "O", "O", "O"]))
def test_the_order_of_a_formula_does_not_matter(order):
    features = CompositionFeatures(elements=MODES).fit(["AgNbLaAlO3"])
    np.testing.assert_allclose(features.transform(["".join(order)]), features.transform(["AgNbLaAlO3"]), atol=1e-14)


@pytest.mark.parametrize("formula", ["AgNbO3", "Ca(OH)2", "2H2O", "Al2(Si(O2)2)3", "CuSO4+5H2O"])
def test_whole_formulas_are_counted_as_ase_does(formula):
    assert amounts_of(formula) == Formula(formula).count()


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("Cu0.5Au0.5", {"Cu": 0.5, "Au": 0.5}),
        ("Ba0.6Sr0.4TiO3", {"Ba": 0.6, "Sr": 0.4, "Ti": 1.0, "O": 3.0}),
        ("(Ba.5Sr.5)2Ti2.O6", {"Ba": 1.0, "Sr": 1.0, "Ti": 2.0, "O": 6.0}),
        ("0.5Cu2O", {"Cu": 1.0, "O": 0.5}),
        ("Ba1.0Sr0.0TiO3", {"Ba": 1.0, "Ti": 1.0, "O": 3.0}),
    ],
)
def test_formulas_may_be_fractional(formula, amounts):
    assert amounts_of(formula) == amounts


def test_only_the_ratios_of_amounts_matter():
    features = CompositionFeatures(elements=[MODES, "onehot"])
    x = features.fit_transform(
        ["Cu0.5Au0.5", "CuAu", "Cu2Au2", "Ba0.6Sr0.4TiO3", "Ba3Sr2Ti5O15", "BaSr0.0TiO3", "BaTiO3"]
    )
    for one, others in ((x[0], x[1:3]), (x[3], x[4:5]), (x[5], x[6:])):
        np.testing.assert_allclose(others, np.broadcast_to(one, others.shape), atol=1e-14)
    shares = {"Ba": 0.12, "Sr": 0.08, "Ti": 0.2, "O": 0.6}
    mean = sum(share * MODES.vector(symbol) for symbol, share in shares.items())
    np.testing.assert_allclose(x[3, :3], mean, atol=1e-14)
    assert CompositionFeatures(elements="onehot").fit(["BaSr0.0TiO3"]).elements_ == ("O", "Ti", "Ba")


def test_a_search_over_the_number_of_modes():
    rows = ["AgNbO3", "BaTiO3", "KTaO3", "SrTiO3", "CaZrO3", "LaAlO3", "Ba0.6Sr0.4TiO3", "NaNbO3", "K0.5Na0.5NbO3"]
    y = CompositionFeatures(elements=ElementalModes(3)).fit_transform(rows)[:, 2]
    model = make_pipeline(CompositionFeatures(elements=ElementalModes(1)), Ridge(1e-6))
    grid = {"compositionfeatures__elements__n": [1, 2, 3], "compositionfeatures__elements__method": ["pca"]}
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(rows, y)
    assert search.best_params_["compositionfeatures__elements__n"] == 3
    best = search.best_estimator_[0]
    assert best.elements == ElementalModes(3)
    assert (best.get_params()["elements__n"], best.get_params()["elements__seed"]) == (3, 0)
    assert len(best.feature_names_) == 4 * 3
    assert model[0].elements == ElementalModes(1)
    with pytest.raises(ParameterError, match=r"`n` must be .*; it is the number of elemental modes"):
        best.set_params(elements__n=0)
    with pytest.raises(ParameterError, match="there is no parameter elements__n"):
        CompositionFeatures(elements="onehot").set_params(elements__n=2)


def test_it_is_a_transformer_of_scikit_learn():
    features = CompositionFeatures(SITES, MODES, PAIRS)
    assert clone(features).get_params() == features.get_params()
    model = make_pipeline(CompositionFeatures(SITES, ElementalModes(1)), Ridge(1e-6))
    rows = ROWS * 2 + [("Ag", "Nb", "K", "Al"), ("Ba", "Zr", "Sr", "Zr")]
    y = np.array([MODES.vector(row[0])[1] for row in rows])
    grid = {"compositionfeatures__elements": [ElementalModes(1), MODES]}
    search = GridSearchCV(model, grid, cv=2).fit(rows, y)
    assert search.best_params_["compositionfeatures__elements"] == MODES
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=list(SITES))
    np.testing.assert_array_equal(features.fit_transform(frame), features.fit_transform(ROWS))
    assert list(features.set_output(transform="pandas").fit_transform(ROWS).columns) == list(features.feature_names_)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CompositionFeatures("AB").fit(ROWS), ParameterError, "`sites` must be names such as"),
        (lambda: CompositionFeatures(("A", "A")).fit(ROWS), ParameterError, "`sites` must be different names"),
        (
            lambda: CompositionFeatures({"A": 0}).fit(["Ag"]),
            ParameterError,
            r"`sites\['A'\]` must be a whole number, at least 1, got 0",
        ),
        (lambda: CompositionFeatures({"A": True}).fit(["Ag"]), ParameterError, "at least 1, got True"),
        (
            lambda: CompositionFeatures(SITES, symmetric=(("a_1", "c"),)).fit(ROWS),
            ParameterError,
            "`symmetric` must be",
        ),
        (lambda: CompositionFeatures(SITES, symmetric="ab").fit(ROWS), ParameterError, "`symmetric` must be"),
        (lambda: CompositionFeatures(SITES, symmetric=("a_1",)).fit(ROWS), ParameterError, "two or more different"),
        (
            lambda: CompositionFeatures({"A": 1, "B": 2}, symmetric=(("A", "B"),)).fit([("Ag", "Au")]),
            ParameterError,
            "sites of one group must have as many atoms",
        ),
        (lambda: CompositionFeatures(SITES, "modes").fit(ROWS), ParameterError, "`elements` must be .* got 'modes'"),
        (lambda: CompositionFeatures(SITES, []).fit(ROWS), ParameterError, "got an empty list"),
        (lambda: CompositionFeatures(SITES, {"Ag": 1.0}).fit(ROWS), ParameterError, "has no row for Al"),
        (lambda: CompositionFeatures(("A",), str).fit([["Ag"]]), ParameterError, "`elements` must be"),
        (
            lambda: CompositionFeatures(("A",), lambda s: s).fit([["Ag"]]),
            ParameterError,
            "numbers for Ag, and gave none",
        ),
        (
            lambda: CompositionFeatures(("A",), {"Ag": [1.0], "Au": [np.nan]}).fit_transform([["Ag"], ["Au"]]),
            ParameterError,
            r"1 finite number\(s\) for each element, got \[nan\] for Au",
        ),
        (
            lambda: CompositionFeatures(("A",), "onehot").fit([["Ag"]]).transform([["Au"]]),
            ParameterError,
            "Au was not among the elements that `fit` saw",
        ),
        (
            lambda: CompositionFeatures(SITES).fit([("Ag", "Nb")]),
            DataError,
            "one chemical symbol for each of the sites",
        ),
        (lambda: CompositionFeatures(SITES).fit(["AgNb"]), DataError, "composition 0 .* one chemical symbol for each"),
        (lambda: CompositionFeatures(SITES).fit([]), ParameterError, "at least one, got none"),
        (lambda: CompositionFeatures().fit("AgNb"), DataError, "must come as a list"),
        (
            lambda: CompositionFeatures().fit(["Ag?"]),
            DataError,
            r"must be a formula such as 'AgNbO3' or 'Ba0.6Sr0.4TiO3', got 'Ag\?': no symbol, number or parenthesis",
        ),
        (lambda: CompositionFeatures().fit([("Ag", "Nb")]), DataError, "elements by site need `sites`"),
        (lambda: CompositionFeatures().fit(["AgNbO3", "Ag(Nb"]), DataError, "composition 1 .* is not closed"),
        (lambda: CompositionFeatures().fit(["Ag)"]), DataError, "at character 2 of 'Ag"),
        (lambda: CompositionFeatures().fit(["Ag" + "9" * 400]), DataError, "amounts must be finite"),
        (lambda: CompositionFeatures().fit([""]), DataError, "holds no atoms"),
        (lambda: CompositionFeatures().fit(["Ag0.0"]), DataError, "holds no atoms"),
        (lambda: CompositionFeatures(("A",)).fit([["Xy"]]), ParameterError, "'Xy' is no chemical symbol"),
        (lambda: CompositionFeatures().transform(["Ag"]), NotFittedError, "call fit first"),
        (lambda: CompositionFeatures().get_feature_names_out(), NotFittedError, "call fit first"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()

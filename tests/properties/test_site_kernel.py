"""The kernel between compositions by site, against products written out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import kernelpot as kp
from kernelpot.errors import ModelFileError, ParameterError
from kernelpot.inference.feature_kernels import SiteKernel
from kernelpot.properties.gp import GP

ROWS = [("Ag", "Nb", "La", "Al"), ("Ba", "Ti", "Sr", "Zr"), ("K", "Ta", "K", "Nb"), ("Na", "Sn", "Ca", "Ti")]
MODES = kp.elements.ElementalModes(3)
SITES = ("a", "b", "c", "d")


def matrix(kernel: SiteKernel, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    with torch.no_grad():
        return kernel(torch.as_tensor(x), torch.as_tensor(x if y is None else y)).to_dense().numpy()


def varied(kernel: SiteKernel) -> SiteKernel:
    """Give every kind of site parameters of its own."""
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        for part in (kernel.raw_length, kernel.raw_theta):
            part.add_(torch.randn(part.shape, generator=rng, dtype=torch.float64))
    return kernel


def test_it_is_the_mean_of_products_over_orders():
    x = kp.elements.CompositionFeatures(SITES, MODES).fit_transform(ROWS)
    kernel = varied(SiteKernel(4, 3, ((0, 2, 3),)))
    lengths, theta = kernel.lengths.detach().numpy(), kernel.thetas.detach().numpy()
    kind = (0, 1, 0, 0)
    sites = x.reshape(4, 4, 3)
    expected = np.zeros((4, 4))
    for order in permutations((0, 2, 3)):
        places = [order[0], 1, order[1], order[2]]
        part = np.ones((4, 4))
        for s, g in enumerate(places):
            difference = (sites[:, None, s] - sites[None, :, g]) / lengths[kind[s]]
            part *= 1.0 + theta[kind[s]] * np.exp(-0.5 * (difference**2).sum(axis=-1))
        expected += part / 6.0
    np.testing.assert_allclose(matrix(kernel, x), expected, rtol=1e-10)
    with torch.no_grad():
        diagonal = kernel(torch.as_tensor(x), torch.as_tensor(x), diag=True).numpy()
    np.testing.assert_allclose(diagonal, np.diag(expected), rtol=1e-10)


@given(st.lists(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6), min_size=2, max_size=8))
def test_it_is_positive_semidefinite_and_does_not_see_the_order(rows):
    x = np.array(rows)
    kernel = varied(SiteKernel(3, 2, ((0, 2),)))
    k = matrix(kernel, x)
    assert np.linalg.eigvalsh(k).min() > -1e-9 * k.max()
    swapped = x[:, [4, 5, 2, 3, 0, 1]]
    np.testing.assert_allclose(matrix(kernel, swapped, x), k, rtol=1e-9)


def test_a_gaussian_process_learns_what_sites_share():
    rng = np.random.default_rng(0)
    names = ["Li", "Na", "K", "Mg", "Ca", "Al", "Ga", "Ti", "Zr", "O", "S", "F"]
    rows = rng.choice(names, size=(160, 3))
    charge = {name: MODES.vector(name) for name in names}
    y = np.array([charge[a] @ charge[b] + 3.0 * charge[c][0] for a, b, c in rows])
    x = kp.elements.CompositionFeatures(SITES[:3], MODES).fit_transform(rows)
    swapped = x[:, [3, 4, 5, 0, 1, 2, 6, 7, 8]]
    model = GP(SiteKernel(3, 3, ((0, 1),)), search={"starts": 1}).fit(x[:120], y[:120])
    found = model.predict(x[120:])
    assert np.abs(found - y[120:]).mean() < 0.03 * y.std()
    np.testing.assert_allclose(model.predict(swapped[120:]), found, atol=0.02 * y.std())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "`n_sites` must be a whole number, at least 1, got 0"),
        ((4, True), "`width` must be a whole number, at least 1, got True"),
        ((4, 3, ((0, 4),)), "`symmetric` must be groups of two to five different sites from 0 to 3"),
        ((4, 3, ((0, 1), (1, 2))), "each in one group"),
        ((4, 3, ((0,),)), "two to five"),
        ((4, 3, 2), "`symmetric` must be"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        SiteKernel(*arguments)


def test_rows_of_another_length_are_refused():
    with pytest.raises(ParameterError, match="`kernel` does not fit rows of 5 features"):
        GP(SiteKernel(2, 3)).fit(np.zeros((4, 5)), np.arange(4.0))


def test_the_width_is_that_of_the_rows_where_none_is_given():
    x, y = kp.elements.CompositionFeatures(SITES, MODES).fit_transform(ROWS), np.arange(4.0)
    settings = {"noise": 0.1, "search": False}
    found, expected = (GP(k, **settings).fit(x, y) for k in (SiteKernel(4), SiteKernel(4, 3)))
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))
    assert found.kernel.width is None
    assert repr(found.kernel) == "SiteKernel(4, width=None, symmetric=())"
    with pytest.raises(ParameterError, match="compares 5 sites of equally many numbers, got rows of 12 features"):
        GP(SiteKernel(5), **settings).fit(x, y)
    with pytest.raises(RuntimeError, match="not known before a fit"):
        matrix(SiteKernel(4), x)


def test_the_number_of_modes_can_be_searched():
    pipe = make_pipeline(kp.elements.CompositionFeatures(SITES, MODES), GP(SiteKernel(4), noise=0.1, search=False))
    search = GridSearchCV(pipe, {"compositionfeatures__elements__n": [2, 3, 5]}, cv=2, error_score="raise")
    search.fit(ROWS, np.arange(4.0))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_files_hold_the_kernel(tmp_path):
    x, y = kp.elements.CompositionFeatures(SITES, MODES).fit_transform(ROWS), np.array([0.0, 1.0, 1.0, 0.0])
    for model in (kp.GP(SiteKernel(4, symmetric=((0, 1),))), kp.Classifier(SiteKernel(4, 3, ((0, 1),)))):
        model.fit(x, y).save(tmp_path / "m.kp")
        again = kp.load(tmp_path / "m.kp")
        np.testing.assert_allclose(again.predict(x), model.predict(x), rtol=1e-9)
        assert repr(again.kernel) == repr(model.kernel)
        with pytest.raises(ModelFileError, match="holds its kernel, SiteKernel"):
            kp.load(tmp_path / "m.kp", kernel=SiteKernel(4, 3))

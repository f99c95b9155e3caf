"""Pages and plots, on made-up numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from kernelpot.report import Fact, Figure, Page, Section, Table, plots, render
from kernelpot.report.plots import svg


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def page(*figures: Figure) -> Page:
    table = Table("Errors, meV", [("", 1), ("Energy", 1)], ["by", "MAE"], [["a < b", "1.0"]], marked=[0])
    section = Section("Numbers & plots", "Text.", [*figures, table], details=[("seed", "0")])
    return Page("kicker", "Title", "Lead.", [Fact("1.0", "eV", "label", "note")], [section], "footer")


class Checker(HTMLParser):
    """Collect ids and the stack of open tags."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use", "rect", "image"})

    def __init__(self):
        super().__init__()
        self.ids, self.open, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        self.references += [value for name, value in attrs if name in ("href", "xlink:href", "src") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def parity_plot(rows, title, alt):
    return svg(lambda figure: plots.parity(figure.subplots(), rows, title, "eV", bars=True), alt)


def test_page_is_self_contained_and_ids_are_unique(rng):
    rows = np.abs(rng.normal(size=(3, 30)))
    figures = [Figure(parity_plot(rows, "t", alt), alt, "caption") for alt in ("first plot", "second plot")]
    text = render(page(*figures))
    checker = check(text)
    assert len(set(checker.ids)) == len(checker.ids)
    targets = {reference[1:] for reference in checker.references if reference.startswith("#")}
    assert targets <= set(checker.ids)
    assert all(reference.startswith(("#", "data:")) for reference in checker.references)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(checker.ids)
    assert "<script" not in text
    assert "@import" not in text
    assert text.count('role="img" aria-label="') == 2


def test_page_escapes_text():
    text = render(page())
    assert "a &lt; b" in text
    assert "Numbers &amp; plots" in text


def test_same_numbers_give_the_same_plot(rng):
    rows = np.abs(rng.normal(size=(3, 10)))
    assert parity_plot(rows, "t", "alt") == parity_plot(rows, "t", "alt")


def test_principal_plane_recovers_a_plane(rng):
    plane, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    inside = rng.normal(size=(50, 2)) * [3.0, 1.0]
    coordinates, shares = plots.principal_plane(inside @ plane.T)
    assert shares.sum() == pytest.approx(1.0)
    before, after = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (inside, coordinates))
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_principal_plane_of_equal_points():
    coordinates, shares = plots.principal_plane(np.ones((4, 3)))
    assert np.all(coordinates == 0.0)
    assert np.all(shares == 0.0)


def test_every_plot_draws(rng):
    rows = np.abs(rng.normal(size=(3, 700))) + 0.1
    curves = {
        "main": np.geomspace(9, 1, 6),
        "rival": np.geomspace(9, 2, 6),
        "random 1": np.geomspace(9, 3, 6),
    }
    values = {name: float(curve[-1]) for name, curve in curves.items()}
    times = np.linspace(0, 1, 20)
    drawings = {
        "map": lambda f: plots.pool_map(f.subplots(), rows[:2].T, ["a", "b"] * 350, np.array([1, 2]), np.ones(2)),
        "curves": lambda f: plots.information_curves(f.subplots(), curves, "main"),
        "strips": lambda f: plots.strips(f.subplots(), values, "main", "title", "eV"),
        "parity": lambda f: plots.parity(f.subplots(), rows, "title", "eV", bars=False),
        "honesty": lambda f: plots.honesty(f.subplots(), rows, "title", "eV", n_bins=5),
        "drift": lambda f: plots.drift(f.subplots(2, 1), times, 0.01 * times, np.sin(times)),
    }
    for name, draw in drawings.items():
        text = svg(draw, name)
        check(text)
        assert f'aria-label="{name}"' in text
        assert len(text) < 400_000


def test_text_as_paths_needs_no_font(rng):
    rows = np.abs(rng.normal(size=(3, 10)))
    text = svg(lambda f: plots.parity(f.subplots(), rows, "t", "eV", bars=True), "alt", text_as_paths=True)
    assert "<text" not in text

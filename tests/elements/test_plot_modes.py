"""The picture of elemental modes."""

from __future__ import annotations

import pytest

import kernelpot as kp
from kernelpot.errors import ParameterError
from kernelpot.report.model_plots import place_of


@pytest.mark.parametrize(
    ("number", "place"),
    [(1, (1, 1)), (2, (1, 18)), (5, (2, 13)), (26, (4, 8)), (57, (6, 3)), (58, (8, 4)), (71, (8, 17))],
)
def test_elements_stand_where_they_do_in_the_table(number, place):
    assert place_of(number) == place


def test_no_two_elements_share_a_place():
    places = [place_of(number) for number in range(1, 97)]
    assert len(set(places)) == 96


def test_every_mode_is_drawn_with_every_element(tmp_path):
    modes = kp.elements.ElementalModes(3)
    figure = kp.report.plot_modes(modes, title="three modes")
    panels = [axes for axes in figure.axes if axes.get_title(loc="left") or axes.texts]
    assert [len(axes.texts) for axes in panels] == [96] * 3
    figure.savefig(tmp_path / "modes.png", dpi=40)
    assert (tmp_path / "modes.png").stat().st_size > 1000


def test_a_single_mode_is_drawn_alone():
    assert len(kp.report.plot_modes(kp.elements.ElementalModes(1)).axes) == 2


def test_what_is_no_modes_is_refused():
    with pytest.raises(ParameterError, match="`modes` must be ElementalModes, got int"):
        kp.report.plot_modes(4)

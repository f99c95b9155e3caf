"""Plots of what models hold: elemental modes over the periodic table, and reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernelpot.elements.modes import ElementalModes
from kernelpot.elements.table import group, period
from kernelpot.errors import ParameterError
from kernelpot.judgement.intervals import KindReliability, Reliability
from kernelpot.report.plots import ACCENT, HAIR, INK, PAPER, QUIET, SECOND, light_grid, picture, plain_log
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = {58: 8, 90: 9}
"""First element of each series below the table, with its row."""
DARK = 0.55
"""Below this value a cell is dark, and its symbol white."""
COLOURS = {"energy": SECOND, "forces": ACCENT, "stress": QUIET}


def plot_modes(modes: ElementalModes, *, title: str | None = None) -> Figure:
    """Plot every mode over the periodic table.

    Parameters
    ----------
    modes
        To draw.
    title
        Above the plots.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``savefig(path)`` writes PNG, SVG or PDF.

    Raises
    ------
    ParameterError
        These are no elemental modes.
    """
    if not isinstance(modes, ElementalModes):
        raise ParameterError(f"`modes` must be ElementalModes, got {type(modes).__name__}; ElementalModes(4) is one.")
    from matplotlib import colormaps
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    places = [place_of(number) for number in range(1, len(modes.symbols) + 1)]
    columns = min(int(modes.n), 2)
    rows = -(-int(modes.n) // columns)
    with picture((5.4 * columns + 0.6, 2.9 * rows), title) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for k, axes in enumerate(panels[: int(modes.n)]):
            values = modes.vectors[:, k]
            cells = [Rectangle((column + 0.03, _down(row) + 0.03), 0.94, 0.94) for row, column in places]
            drawn = PatchCollection(cells, cmap=colormaps["viridis"], edgecolor=PAPER, linewidth=0.3)
            drawn.set_array(values)
            drawn.set_clim(0.0, 1.0)
            axes.add_collection(drawn)
            for (row, column), symbol, value in zip(places, modes.symbols, values, strict=True):
                colour = "white" if value < DARK else INK
                axes.text(column + 0.5, _down(row) + 0.52, symbol, ha="center", va="center", fontsize=6.5, color=colour)
            axes.set(xlim=(0.8, 19.2), ylim=(_down(9) + 1.1, 0.8), title=f"mode {k + 1}")
            axes.set_aspect("equal")
        figure.colorbar(drawn, ax=list(panels), shrink=0.7, aspect=30, pad=0.01, ticks=[0.0, 0.5, 1.0])
    return figure


def place_of(number: int) -> tuple[int, int]:
    """Return an element's row and column in the drawing; lanthanides and actinides stand below the table."""
    for first, row in SERIES.items():
        if first <= number < first + 14:
            return row, 4 + number - first
    return period(number), group(number)


def _down(row: int) -> float:
    """Leave half a row above the two series."""
    return row + (0.4 if row > 7 else 0.0)


def plot_reliability(found: Reliability, *, title: str | None = None) -> Figure:
    """Plot observed against expected coverage, and the error against the standard deviation, kind by kind.

    Parameters
    ----------
    found
        What `kernelpot.reliability` returned.
    title
        Above the plots.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``savefig(path)`` writes PNG, SVG or PDF.

    Raises
    ------
    ParameterError
        There is nothing to plot.
    """
    if not found.overall:
        raise ParameterError("`found` must hold at least one kind of label, got none; give what reliability returned.")
    kinds = dict(found.overall)
    with picture((4.0 * (1 + len(kinds)), 4.1), title) as figure:
        first, *rest = figure.subplots(1, 1 + len(kinds), squeeze=False)[0]
        light_grid(first)
        first.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for kind, known in kinds.items():
            expected = 100.0 * np.array(known.expected)
            observed, error = (
                100.0 * np.array([getattr(m, name) for m in known.observed]) for name in ("value", "error")
            )
            colour = COLOURS[kind]
            first.fill_between(
                expected, observed - 2 * error, observed + 2 * error, color=colour, alpha=0.15, linewidth=0
            )
            first.plot(
                expected, observed, "o-", color=colour, markersize=4, linewidth=1.4, label=f"{kind}, n = {known.n:,}"
            )
        first.set(xlim=(0, 101), ylim=(0, 101), xlabel="interval, %", ylabel="labels inside, %", title="Coverage")
        first.set_box_aspect(1)
        first.legend(loc="best", title="band: two standard errors", title_fontsize=8.5, alignment="left")
        for panel, (kind, known) in zip(rest, kinds.items(), strict=True):
            _growth(panel, kind, known)
    return figure


def _growth(axes: Axes, kind: str, known: KindReliability) -> None:
    unit, scale = MILLI[kind], 1e3
    title = kind.capitalize()
    if np.isfinite(known.rank):
        title += f": rank {known.rank:.2f}, ceiling {known.ceiling:.2f}"
    std = scale * np.array(known.bin_std)
    rmse, error = (scale * np.array([getattr(m, name) for m in known.bin_rmse]) for name in ("value", "error"))
    shown = (std > 0.0) & (rmse > 0.0)
    std, rmse, error = std[shown], rmse[shown], np.nan_to_num(error[shown])
    bars = np.array([np.minimum(2 * error, 0.9 * rmse), 2 * error])
    axes.errorbar(std, rmse, bars, fmt="o", color=COLOURS[kind], markersize=5, linewidth=1.2, zorder=3)
    if len(std):
        low, high = 0.8 * min(std.min(), (rmse - bars[0]).min()), 1.25 * max(std.max(), (rmse + bars[1]).max())
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.set(xlim=(low, high), ylim=(low, high))
    plain_log(axes, "x")
    plain_log(axes, "y")
    axes.set_box_aspect(1)
    axes.tick_params(length=0)
    axes.grid(visible=True, color=HAIR)
    axes.set(xlabel=f"predicted std, {unit}", ylabel=f"RMSE of a tenth of the labels, {unit}", title=title)

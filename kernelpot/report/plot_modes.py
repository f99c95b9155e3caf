"""Elemental modes drawn over the periodic table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelpot.elements.modes import ElementalModes
from kernelpot.elements.table import group, period
from kernelpot.errors import ParameterError
from kernelpot.report.plots import INK, PAPER, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure

SERIES = {58: 8, 90: 9}
"""First element of each series below the table, with its row."""
DARK = 0.55
"""Below this value a cell is dark, and its symbol white."""


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
    columns = min(int(modes.n), 2)
    rows = -(-int(modes.n) // columns)
    with picture((5.4 * columns + 0.6, 2.9 * rows), title) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for k, axes in enumerate(panels):
            axes.set_axis_off()
            if k < modes.n:
                drawn = _table(axes, modes, k)
        figure.colorbar(drawn, ax=list(panels), shrink=0.7, aspect=30, pad=0.01, ticks=[0.0, 0.5, 1.0])
    return figure


def place_of(number: int) -> tuple[int, int]:
    """Return an element's row and column in the drawing; lanthanides and actinides stand below the table."""
    for first, row in SERIES.items():
        if first <= number < first + 14:
            return row, 4 + number - first
    return period(number), group(number)


def _table(axes: Axes, modes: ElementalModes, k: int) -> PatchCollection:
    from matplotlib import colormaps
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    values = modes.vectors[:, k]
    places = [place_of(number) for number in range(1, len(values) + 1)]
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
    return drawn


def _down(row: int) -> float:
    """Leave half a row above the two series."""
    return row + (0.4 if row > 7 else 0.0)

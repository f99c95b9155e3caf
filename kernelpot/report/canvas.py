"""Matplotlib set up for plots that sit inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

INK = "#1d2329"
QUIET = "#69737d"
HAIR = "#d9d6cf"
ACCENT = "#c8451b"
RIVAL = "#8c96a0"
SECOND = "#2b6a99"
THIRD = "#7a5195"
PAPER = "#fffefb"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handletextpad": 0.4,
    "grid.color": HAIR,
    "grid.linewidth": 0.6,
}

Draw = Callable[["MatplotlibFigure"], None]


def svg(draw: Draw, alt: str, *, size: tuple[float, float] = (5.4, 4.0), text_as_paths: bool = False) -> str:
    """Draw on a fresh figure and return an ``<svg>`` element.

    Parameters
    ----------
    draw
        Puts axes and marks on the figure it is given.
    alt
        What the plot shows, in words, for readers who do not see it.
    size
        Width and height, inches at 72 per inch.
    text_as_paths
        True draws letters as shapes, for files that leave the page; False leaves text to the page's font.

    Returns
    -------
    str
        One element without prolog; its ids are derived from `alt`, so several fit on one page.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MatplotlibFigure

    style = STYLE | {"svg.fonttype": "path" if text_as_paths else "none", "svg.hashsalt": alt}
    with mpl.rc_context(style):
        figure = MatplotlibFigure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", dpi=120 if text_as_paths else 220, metadata={"Date": None, "Creator": None}
        )
    return _inline(buffer.getvalue(), alt, prefix=None if text_as_paths else f"p{abs(_checksum(alt))}-")


def light_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Put a hairline grid behind the marks."""
    axes.grid(visible=True, axis=axis)
    axes.tick_params(length=0)


def plain_log(axes: Axes, axis: str) -> None:
    """Make one axis logarithmic, with plain numbers at its ticks: 1, 2, 5 of a decade where few decades show.

    Parameters
    ----------
    axes
        With all data drawn, as the ticks depend on the range.
    axis
        ``"x"`` or ``"y"``.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    line = axes.xaxis if axis == "x" else axes.yaxis
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    line.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 60 * low else (1.0,)))
    line.set_minor_locator(NullLocator())
    line.set_major_formatter(FuncFormatter(lambda value, _: _power_or_plain(value)))


def _power_or_plain(value: float) -> str:
    """Write 0.0001 to 5000 as they are, and what lies beyond as a power of ten."""
    if 9e-5 < value < 9e3:
        return f"{value:g}"
    digits, _, power = f"{value:.0e}".partition("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


def _checksum(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())


def _inline(text: str, alt: str, prefix: str | None) -> str:
    """Cut the prolog, name the picture for screen readers, and make ids unique on the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", _page_font, text)
    if prefix is None:
        return text
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    rest = re.sub(r'\bid="', f'id="{prefix}', rest)
    rest = re.sub(r'"#', f'"#{prefix}', rest).replace("url(#", f"url(#{prefix}")
    return f'{head} role="img" aria-label="{escape(alt, quote=True)}">{rest}'


def _page_font(match: re.Match[str]) -> str:
    family, before = match.group(1) or "", match.group(2)
    return f"font{family}: {before}system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

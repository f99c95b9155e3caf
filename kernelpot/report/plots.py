"""The plots of a design-and-fit job, from plain arrays, in one style, with Matplotlib set up for a page."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

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
    """Draw on a fresh figure and return an ``<svg>`` element."""
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
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    fonts = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
    text = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", rf"font\1: \2{fonts}", text)
    if text_as_paths:
        return text
    # Ids are unique on the page, and the picture is named for screen readers.
    prefix = f"p{zlib.crc32(alt.encode())}-"
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    rest = re.sub(r'\bid="', f'id="{prefix}', rest)
    rest = re.sub(r'"#', f'"#{prefix}', rest).replace("url(#", f"url(#{prefix}")
    return f'{head} role="img" aria-label="{escape(alt, quote=True)}">{rest}'


@contextmanager
def picture(size: tuple[float, float], title: str | None) -> Iterator[MatplotlibFigure]:
    """Give an empty figure that stands for itself, and set its title when it is drawn."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    with mpl.rc_context(STYLE | {"figure.facecolor": "white"}):
        figure = MatplotlibFigure(figsize=(size[0], size[1] + (0.4 if title else 0.0)), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")


def light_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Put a hairline grid behind the marks."""
    axes.grid(visible=True, axis=axis)
    axes.tick_params(length=0)


def plain_log(axes: Axes, axis: str) -> None:
    """Make one axis logarithmic, with plain numbers at its ticks: 1, 2, 5 of a decade where few decades show."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    def power_or_plain(value: float, _: object) -> str:
        if 9e-5 < value < 9e3:
            return f"{value:g}"
        digits, _, power = f"{value:.0e}".partition("e")
        raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"

    line = axes.xaxis if axis == "x" else axes.yaxis
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    line.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 60 * low else (1.0,)))
    line.set_minor_locator(NullLocator())
    line.set_major_formatter(FuncFormatter(power_or_plain))


KIND_COLOURS = ("#5b8db8", "#8fb3a3", "#d0a85c", "#a98bb5", "#77805f", "#b58a83", "#6f7f9c", "#b0a99a")
KIND_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def principal_plane(
    means: Float[np.ndarray, "structures components"],
) -> tuple[Float[np.ndarray, "structures 2"], Float[np.ndarray, 2]]:
    """Project vectors on their two principal axes."""
    centred = means - means.mean(axis=0)
    U, scale, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = U[:, :2] * scale[:2]
    coordinates *= np.sign(coordinates[np.abs(coordinates).argmax(axis=0), [0, 1]])
    return coordinates, scale[:2] ** 2 / max(float((scale**2).sum()), np.finfo(float).tiny)


def pool_map(
    axes: Axes,
    coordinates: Float[np.ndarray, "structures 2"],
    kinds: Sequence[str],
    chosen: Int[np.ndarray, " chosen"],
    shares: Float[np.ndarray, 2],
    *,
    legend_below: bool = False,
) -> None:
    """Scatter the pool by kind and ring the chosen structures."""
    names = list(dict.fromkeys(kinds))
    for k, name in enumerate(names):
        here = np.array([kind == name for kind in kinds])
        x, y = coordinates[here].T
        colour, marker = KIND_COLOURS[k % 8], KIND_MARKERS[k % 8]
        axes.scatter(x, y, s=24, alpha=0.8, linewidths=0, label=name, color=colour, marker=marker)
    x, y = coordinates[chosen].T
    axes.scatter(x, y, s=90, facecolors="none", edgecolors=ACCENT, linewidths=1.7, label="chosen", zorder=3)
    axes.set_xlabel(f"first principal axis ({100 * shares[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second ({100 * shares[1]:.0f} %)")
    axes.set_xticks([])
    axes.set_yticks([])
    if legend_below:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=(len(names) + 2) // 2, columnspacing=1.1)
    else:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names) + 1, columnspacing=1.1)


def information_curves(axes: Axes, curves: Mapping[str, Float[np.ndarray, " picks"]], main: str) -> None:
    """Draw a criterion, smaller is better, against the number of picks: `main` stands out, chance is grey."""
    ends: list[tuple[float, str, str]] = []
    grey_ends = []
    rivals = iter((SECOND, THIRD, "#3d7a5a"))
    for name, curve in curves.items():
        is_random = name.startswith("random")
        colour = ACCENT if name == main else RIVAL if is_random else next(rivals)
        width = 2.4 if name == main else 0.9 if is_random else 1.4
        axes.plot(np.arange(len(curve)), curve, color=colour, linewidth=width, zorder=3 if name == main else 2)
        if is_random:
            grey_ends.append(float(curve[-1]))
        else:
            ends.append((float(curve[-1]), name, colour))
    if grey_ends:
        ends.append((float(np.median(grey_ends)), f"random ({len(grey_ends)})", RIVAL))
    plain_log(axes, "y")
    light_grid(axes)
    axes.set_xlim(0, None)
    axes.set_xlabel("structures chosen")
    axes.set_ylabel("predicted std / noise of a label")
    # Each curve is named at its right end, far enough apart to read.
    low, high = np.log10(axes.get_ylim())
    apart = 0.06 * (high - low)
    at = -np.inf
    for value, name, colour in sorted(ends):
        at = max(float(np.log10(value)), at + apart)
        axes.annotate(
            name,
            (1.0, 10**at),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def strips(axes: Axes, values: Mapping[str, float], main: str, title: str, unit: str) -> None:
    """Put one error per arm on a line: `main` stands out, rivals are named, chance is dots and a median."""
    randoms = np.array([value for name, value in values.items() if name.startswith("random")])
    named = [(name, value) for name, value in values.items() if not name.startswith("random")]
    rows = [name for name, _ in named] + (["random"] if len(randoms) else [])
    rivals = iter((SECOND, THIRD, "#3d7a5a"))
    for row, (name, value) in enumerate(named):
        colour = ACCENT if name == main else next(rivals)
        axes.hlines(row, 0, value, color=colour, linewidth=2.2 if name == main else 1.2)
        axes.scatter([value], [row], s=52, color=colour, zorder=3)
        axes.annotate(
            f"{value:.3g}",
            (value, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold" if name == main else "normal",
        )
    if len(randoms):
        row, median = len(named), float(np.median(randoms))
        axes.hlines(row, 0, median, color=RIVAL, linewidth=1.2)
        axes.scatter(randoms, np.full(len(randoms), row), s=26, color=RIVAL, alpha=0.7, linewidths=0, zorder=3)
        axes.scatter([median], [row], s=150, marker="|", color=INK, linewidths=1.6, zorder=4)
        axes.annotate(
            f"median {median:.3g}",
            (randoms.max(), row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=QUIET,
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.28 * max(values.values()))
    light_grid(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.set_title(title)
    axes.set_xlabel(unit)


def parity(axes: Axes, rows: Float[np.ndarray, "3 labels"], title: str, unit: str, *, bars: bool) -> None:
    """Draw predicted against reference values, with 95 % bars where there are few enough to read."""
    reference, predicted, std = rows
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    margin = 0.04 * (high - low)
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=INK, linewidth=0.8, zorder=1)
    if bars:
        axes.errorbar(reference, predicted, 1.96 * std, fmt="none", ecolor=ACCENT, alpha=0.35, linewidth=0.9)
        axes.scatter(reference, predicted, s=16, color=ACCENT, linewidths=0, zorder=3)
    else:
        axes.scatter(reference, predicted, s=5, color=ACCENT, alpha=0.35, linewidths=0, rasterized=True)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_aspect("equal")
    light_grid(axes)
    axes.set_title(title)
    axes.set_xlabel(f"EMT, {unit}")
    axes.set_ylabel(f"predicted, {unit}")


def honesty(axes: Axes, rows: Float[np.ndarray, "3 labels"], title: str, unit: str, *, n_bins: int) -> None:
    """Draw |error| against predicted std, with the root mean square error of equally full bins."""
    reference, predicted, std = rows
    error = np.abs(predicted - reference)
    floor = float(np.quantile(error, 0.01)) or float(std.min()) / 100
    many = len(error) > 600
    axes.scatter(
        std,
        np.maximum(error, floor),
        s=5 if many else 15,
        color=RIVAL,
        alpha=0.3 if many else 0.6,
        linewidths=0,
        rasterized=many,
    )
    order = np.argsort(std, kind="stable")
    bins = np.array_split(order, n_bins)
    axes.plot(
        [np.sqrt((std[b] ** 2).mean()) for b in bins],
        [np.sqrt((error[b] ** 2).mean()) for b in bins],
        "o",
        color=ACCENT,
        markersize=6,
        markeredgecolor=PAPER,
        label="rms error of a bin",
    )
    line = np.array([std.min(), std.max()])
    axes.plot(line, line, color=INK, linewidth=0.9, label="rms error = std")
    axes.plot(line, 1.96 * line, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="95 % lie below")
    axes.set_ylim(0.9 * floor, 1.3 * max(float(error.max()), 2 * float(std.max())))
    plain_log(axes, "x")
    plain_log(axes, "y")
    light_grid(axes)
    axes.set_title(title)
    axes.set_xlabel(f"predicted std, {unit}")
    axes.set_ylabel(f"|error|, {unit}")
    axes.legend(loc="lower right", handlelength=1.6)


def drift(
    axes: Sequence[Axes],
    times: Float[np.ndarray, " frames"],
    total: Float[np.ndarray, " frames"],
    potential: Float[np.ndarray, " frames"],
) -> None:
    """Draw potential and total energy of a run, then the total alone under a lens."""
    above, below = axes
    above.plot(times, potential, color=RIVAL, linewidth=1.0, label="potential energy")
    above.plot(times, total, color=ACCENT, linewidth=1.8, label="total energy")
    above.set_ylabel("meV/atom")
    above.set_title("Energies since the start")
    above.legend(loc="lower right", ncols=2)
    above.tick_params(labelbottom=False)
    below.axhline(0.0, color=HAIR, linewidth=0.8)
    below.plot(times, total, color=ACCENT, linewidth=1.2)
    below.plot(times, np.polyval(np.polyfit(times, total, 1), times), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    below.set_title("Total energy under a lens; dashed: its straight line")
    below.set_ylabel("meV/atom")
    below.set_xlabel("time, ps")
    for part in axes:
        light_grid(part)
        part.set_xlim(times[0], times[-1])

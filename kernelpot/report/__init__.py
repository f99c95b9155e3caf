"""Plots, and self-contained HTML reports with them inline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelpot.doors import door
from kernelpot.report.page import Fact, Figure, Page, Section, Table, render

if TYPE_CHECKING:
    from kernelpot.report.model_plots import plot_modes as plot_modes
    from kernelpot.report.model_plots import plot_reliability as plot_reliability

_HOMES = {"plot_modes": "kernelpot.report.model_plots", "plot_reliability": "kernelpot.report.model_plots"}

__all__ = ["Fact", "Figure", "Page", "Section", "Table", "plot_modes", "plot_reliability", "render"]

__getattr__, __dir__ = door(__name__, _HOMES)

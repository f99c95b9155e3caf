"""Self-contained HTML reports with inline SVG plots."""

from __future__ import annotations

from kernelpot.report.page import Fact, Figure, Page, Section, Table, render

__all__ = ["Fact", "Figure", "Page", "Section", "Table", "render"]

"""Choose structures by what their labels would tell."""

from __future__ import annotations

from kernelpot.design.information import Information

__all__ = ["Information"]

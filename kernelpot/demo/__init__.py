"""The whole job in miniature, on Cu-Au structures labelled by ASE's EMT potential."""

from __future__ import annotations

from kernelpot.demo.outcome import DemoPlan, Outcome, run
from kernelpot.demo.pool import label, structures

__all__ = ["DemoPlan", "Outcome", "label", "run", "structures"]

"""Files of kernel fits to energies and forces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernelpot.archive import write_archive
from kernelpot.data.noise import KINDS
from kernelpot.models.force_state import ForceState

FORMAT = "kernelpot-force-ridge"
VERSION = 1


def write_forces(path: str | Path, settings: dict[str, Any], state: ForceState) -> None:
    """Write a model's settings with its fitted state; the file appears whole or not at all.

    Raises
    ------
    ModelFileError
        The file cannot be written.
    """
    facts = {
        "species": [int(z) for z in state.species],
        "terms": [form.map.settings() for form in state.forms],
        "noise": {kind: getattr(state.noise, kind) for kind in KINDS},
        "n_labels": dict(state.n_labels),
    }
    arrays = {"e0": state.e0}
    for t, form in enumerate(state.forms):
        parts = zip(form.map.columns, form.points, form.weights, form.directions, strict=True)
        for a, (columns, points, weights, directions) in enumerate(parts):
            arrays[f"columns_{t}_{a}"], arrays[f"points_{t}_{a}"] = columns, points
            arrays[f"weights_{t}_{a}"], arrays[f"directions_{t}_{a}"] = weights, directions
    write_archive(path, FORMAT, VERSION, {"model": settings, "fit": facts}, arrays)

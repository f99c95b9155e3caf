"""Files of kernel fits to energies and forces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import DAMAGE, Archive, arrays_of, check_numbers, damaged, read_arrays, write_archive
from kernelpot.data.noise import KINDS, Noise
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.features.force_kernel import DerivativeMap
from kernelpot.features.label_kernel import TrainingForm
from kernelpot.kernels import Linear
from kernelpot.potentials.force.force_system import ForceState
from kernelpot.record import record_of

FORMAT, VERSION = "kernelpot-force-ridge", 1


def write_forces(path: str | Path, settings: dict[str, Any], state: ForceState) -> None:
    """Write a model's settings with its fitted state; the file appears whole or not at all."""
    facts = {
        "species": [int(z) for z in state.species],
        "terms": [form.map.settings() for form in state.forms],
        "noise": state.noise.settings(),
        "n_labels": dict(state.n_labels),
    }
    arrays = {"e0": state.e0}
    for t, form in enumerate(state.forms):
        arrays |= arrays_of(form.map, suffix=f"_{t}") | arrays_of(form, suffix=f"_{t}")
    write_archive(path, FORMAT, VERSION, {"model": settings, "fit": facts}, arrays)


def read_forces(archive: Archive, device: str | None = None) -> tuple[dict[str, Any], ForceState]:
    """Return the arguments and the fitted state of a file, computing on a device, or refuse it."""
    archive.require(FORMAT, VERSION)
    try:
        settings = archive.header["model"]
        found = {
            "descriptor": [record_of("descriptor", one) for one in settings["descriptors"]],
            "kernel": [record_of("kernel", one) for one in settings["kernels"]],
            "noise": settings["noise"] if settings["noise"] == "cv" else Noise.from_settings(settings["noise"]),
            "reduction": float(settings["reduction"]),
            "memory_gb": float(settings["memory_gb"]),
        }
        return found, _forces(archive.header["fit"], archive.arrays, device)
    except DAMAGE as error:
        raise damaged(archive.path, error) from None


def _forces(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], device: str | None) -> ForceState:
    species = tuple(facts["species"])
    forms = []
    for t, term in enumerate(facts["terms"]):
        descriptor, kernel = record_of("descriptor", term["descriptor"]), record_of("kernel", term["kernel"])
        if isinstance(descriptor, TwoBody) or isinstance(kernel, Linear):
            raise ValueError("the terms must be of unit vectors")
        if not species or descriptor.species != species:
            raise ValueError(f"the terms must have the species {species}, found {descriptor.species}")
        columns = read_arrays(DerivativeMap, arrays, suffix=f"_{t}", f=descriptor.n_features)["columns"]
        parts = read_arrays(TrainingForm, arrays, suffix=f"_{t}")
        widths = [points.shape[1] for points in parts["points"]]
        if widths != [c.shape[1] for c in columns] or len(widths) != len(species):
            raise ValueError("the training environments have other components than the map, or other species")
        forms.append(TrainingForm(DerivativeMap(descriptor, kernel, columns), **parts, device=device))
    if not forms:
        raise ValueError("the model has no term")
    check_numbers("e0", arrays["e0"], (len(species),))
    n_labels = {kind: int(n) for kind, n in facts["n_labels"].items() if kind in KINDS}
    return ForceState(tuple(forms), species, arrays["e0"], Noise.from_settings(facts["noise"]), n_labels)

"""Property models as headers with arrays, with nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import write_archive
from kernelpot.inference.dense import Exact
from kernelpot.properties.inputs import KernelRows, Precomputed
from kernelpot.structures.composites import EncodedPair, Product, Scaled, Sum
from kernelpot.structures.encoded import Encoded
from kernelpot.structures.structure_kernel import StructureKernel

FORMAT = "kernelpot-kernel-ridge"
VERSIONS = {"exact": 1, "inducing": 2}
"""By the name of the state, as the second says more of what inducing items do not see than the first did."""

STATES = {
    "exact": ("factor", "dual"),
    "inducing": ("whitening", "factor", "weights", "spill", "residual", "variance_left"),
}
"""Which arrays a process of each name has."""


def write_ridge(path: str | Path, model: Any, label: str | None) -> None:
    """Write a fitted `KernelRidge` with the name of its property; the file appears whole or not at all."""
    state: Any = model.state_
    name = "exact" if isinstance(state, Exact) else "inducing"
    header = {
        "model": {
            "alpha": model.alpha_ if np.ndim(model.alpha) == 0 else [float(value) for value in model.alpha],
            "baseline": model.baseline,
            "n_inducing": None if model.n_inducing is None else int(model.n_inducing),
            "inducing": model.inducing,
            "seed": int(model.seed),
        },
        "kernel": model.kernel_.settings(),
        "fit": {
            "state": name,
            "alpha": model.alpha_,
            "jitter": model.jitter_,
            "single": model._single,
            "baseline": model.baseline_.kind,
            "species": model.baseline_.species,
            "n_features": getattr(model, "n_features_in_", None),
            "n_items": len(model.items_),
            "label": label,
        },
    }
    if name == "exact":
        arrays = {"state_factor": state.system.lower, "state_dual": state.dual}
    else:
        arrays = {f"state_{part}": getattr(state, part) for part in STATES[name]}
        arrays["calibrating"] = model._calibrating.astype(np.uint8)
    arrays |= {"baseline": model.baseline_.values, **item_arrays(model.items_, "items_")}
    write_archive(path, FORMAT, VERSIONS[name], header, arrays)


def item_arrays(items: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of what a kernel encoded, by name."""
    if isinstance(items, EncodedPair):
        first = item_arrays(items.first, f"{prefix}first_")
        # What both kernels share is written once.
        return first if items.second is items.first else first | item_arrays(items.second, f"{prefix}second_")
    if isinstance(items, Encoded):
        return {f"{prefix}{name}": array for name, array in items.arrays().items()}
    if isinstance(items, KernelRows):
        return {f"{prefix}places": items.places}
    return {f"{prefix}rows": np.asarray(items)}


def items_from(kernel: Any, arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """Return the items that `item_arrays` wrote for this kernel."""
    if isinstance(kernel, Scaled):
        return items_from(kernel.kernel, arrays, prefix)
    if isinstance(kernel, Sum | Product):
        first = items_from(kernel.first, arrays, f"{prefix}first_")
        shared = not any(name.startswith(f"{prefix}second_") for name in arrays)
        return EncodedPair(first, first if shared else items_from(kernel.second, arrays, f"{prefix}second_"))
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if isinstance(kernel, StructureKernel):
        return Encoded.from_arrays(kernel.descriptor, own)
    if isinstance(kernel, Precomputed):
        places = own["places"]
        if places.dtype != np.int64 or places.ndim != 1 or (places < 0).any():
            raise ValueError("the columns of a precomputed kernel are not numbers of items")
        return KernelRows(np.empty((0, 0)), places)
    return kernel.encode(own["rows"])

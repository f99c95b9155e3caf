"""Files of kernel ridge regressions: settings as a header, arrays as arrays, nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import DAMAGE, Archive, damaged, write_archive
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import KernelpotError
from kernelpot.properties.baseline import KINDS, Baseline
from kernelpot.properties.composites import EncodedPair, Product, Scaled, Sum
from kernelpot.properties.encoded import Encoded
from kernelpot.properties.inputs import KernelRows, Precomputed
from kernelpot.properties.ridge import KernelRidge
from kernelpot.properties.solvers import Exact, Inducing
from kernelpot.properties.structure_kernel import StructureKernel, kernel_of_environments
from kernelpot.properties.vector_kernel import VectorKernel

FORMAT = "kernelpot-kernel-ridge"
VERSION = 1

_DESCRIPTORS = {
    "ACSF": "kernelpot.descriptors.acsf",
    "DScribe": "kernelpot.properties.dscribe",
    "SOAP": "kernelpot.descriptors.soap",
    "TwoBody": "kernelpot.descriptors.two_body",
}
_STATES = {
    "exact": (Exact, ("factor", "dual")),
    "inducing": (Inducing, ("whitening", "factor", "weights", "residual", "variance_left")),
}
"""What is a state of each name, and which arrays it has."""


def write_ridge(path: str | Path, model: KernelRidge) -> None:
    """Write a fitted model; the file appears whole or not at all.

    Raises
    ------
    ModelFileError
        The file cannot be written.
    """
    name = "exact" if isinstance(model.state_, Exact) else "inducing"
    header = {
        "model": {
            "alpha": float(model.alpha),
            "baseline": model.baseline,
            "n_inducing": None if model.n_inducing is None else int(model.n_inducing),
            "inducing": model.inducing,
            "seed": int(model.seed),
        },
        "kernel": model.kernel_.settings(),
        "fit": {
            "state": name,
            "jitter": model.jitter_,
            "single": model._single,
            "species": model.baseline_.species,
            "n_features": getattr(model, "n_features_in_", None),
            "n_items": len(model.items_),
        },
    }
    arrays = {f"state_{part}": getattr(model.state_, part) for part in _STATES[name][1]}
    arrays |= {"baseline": model.baseline_.values, **_item_arrays(model.items_, "items_")}
    write_archive(path, FORMAT, VERSION, header, arrays)


def read_ridge(archive: Archive) -> KernelRidge:
    """Return the fitted model of a file.

    Raises
    ------
    ModelFileError
        It is damaged, altered, or of a version that this kernelpot cannot read.
    """
    archive.require(FORMAT, VERSION)
    try:
        return _rebuilt(archive.header, archive.arrays)
    except (*DAMAGE, KernelpotError) as error:
        raise damaged(archive.path, error) from None


def kernel_of(settings: Mapping[str, Any]) -> Any:
    """Make the kernel that `settings` describes, out of a closed list of classes.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is none of this name, or its settings are wrong.
    """
    name = settings["name"]
    if name == "VectorKernel":
        return VectorKernel.from_settings(settings)
    if name == "Precomputed":
        return Precomputed()
    if name == "Scaled":
        return Scaled(kernel_of(settings["kernel"]), float(settings["factor"]))
    if name in ("Sum", "Product"):
        pair = kernel_of(settings["first"]), kernel_of(settings["second"])
        return Sum(*pair) if name == "Sum" else Product(*pair)
    if name != "StructureKernel":
        raise ValueError(f"there is no kernel of the name {name!r}")
    kernel = StructureKernel(
        descriptor_of(settings["descriptor"]),
        kernel_of_environments(settings["kernel"]),
        combine=settings["combine"],
        normalise=settings["normalise"],
        gamma=float(settings["gamma"]),
        between=settings["between"],
    )
    kernel.check()
    return kernel


def descriptor_of(settings: Mapping[str, Any]) -> Descriptor:
    """Make the descriptor that `settings` describes, out of a closed list of classes.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is none of this name, or its settings are wrong.
    """
    name = settings["name"]
    made: Descriptor = getattr(import_module(_DESCRIPTORS[name]), name).from_settings(settings)
    return made


def _item_arrays(items: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of what a kernel encoded, by name."""
    if isinstance(items, EncodedPair):
        first = _item_arrays(items.first, f"{prefix}first_")
        # What both kernels share is written once.
        return first if items.second is items.first else first | _item_arrays(items.second, f"{prefix}second_")
    if isinstance(items, Encoded):
        return {f"{prefix}{name}": array for name, array in items.arrays().items()}
    if isinstance(items, KernelRows):
        return {f"{prefix}places": items.places}
    return {f"{prefix}rows": np.asarray(items)}


def _items_of(kernel: Any, arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """Return the items that `_item_arrays` wrote for this kernel."""
    if isinstance(kernel, Scaled):
        return _items_of(kernel.kernel, arrays, prefix)
    if isinstance(kernel, Sum | Product):
        first = _items_of(kernel.first, arrays, f"{prefix}first_")
        shared = not any(name.startswith(f"{prefix}second_") for name in arrays)
        return EncodedPair(first, first if shared else _items_of(kernel.second, arrays, f"{prefix}second_"))
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if isinstance(kernel, StructureKernel):
        return Encoded.from_arrays(kernel.descriptor, own)
    if isinstance(kernel, Precomputed):
        places = own["places"]
        if places.dtype != np.int64 or places.ndim != 1 or (places < 0).any():
            raise ValueError("the columns of a precomputed kernel are not numbers of items")
        return KernelRows(np.empty((0, 0)), places)
    return kernel.encode(own["rows"])


def _rebuilt(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> KernelRidge:
    settings, facts = header["model"], header["fit"]
    kernel = kernel_of(header["kernel"])
    model = KernelRidge("precomputed" if isinstance(kernel, Precomputed) else kernel, **dict(settings))
    items = _items_of(kernel, arrays, "items_")
    made, names = _STATES[facts["state"]]
    parts = {name: arrays[f"state_{name}"] for name in names}
    baseline = arrays["baseline"]
    for name, array in {**parts, "baseline": baseline}.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite numbers in float64")
    outputs = _check_shapes(facts, parts, len(items))
    species = tuple(int(z) for z in facts["species"])
    terms = {"composition": len(species), "mean": 1, None: 0}[settings["baseline"]]
    if settings["baseline"] not in KINDS or baseline.shape != (terms, outputs):
        raise ValueError("the baseline does not fit the outputs")
    if made is Exact:
        parts["jitter"] = float(facts["jitter"])  # type: ignore[assignment]
    model.kernel_, model.items_, model.state_ = kernel, items, made(**parts)
    model.baseline_ = Baseline(settings["baseline"], baseline, species)
    model.jitter_, model._single = float(facts["jitter"]), bool(facts["single"])
    if facts["n_features"] is not None:
        model.n_features_in_ = int(facts["n_features"])
    return model


def _check_shapes(facts: Mapping[str, Any], parts: Mapping[str, np.ndarray], n: int) -> int:
    """Return the number of outputs, or refuse arrays that do not belong together."""
    if facts["state"] == "exact":
        shapes = {"factor": (n, n), "dual": (n, *parts["dual"].shape[1:])}
        outputs = parts["dual"].shape[1]
    else:
        d, outputs = parts["weights"].shape
        m = len(parts["variance_left"])
        shapes = {
            "whitening": (n, d), "factor": (d, d), "weights": (d, outputs), "residual": (m, outputs),
            "variance_left": (m,),
        }  # fmt: skip
    for name, shape in shapes.items():
        if parts[name].shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, found {parts[name].shape}")
    if int(facts["n_items"]) != n or (facts["single"] and outputs != 1):
        raise ValueError("the items or outputs are not as many as the header says")
    if not (np.diag(parts["factor"]) > 0.0).all():
        raise ValueError("the factor is singular")
    return int(outputs)

"""What files of property models share: their kernels, their items, prior covariances with the columns of the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernelpot.archive import DAMAGE, Archive, arrays_of, check_numbers, damaged, read_numbers
from kernelpot.data.check import HEAVIEST
from kernelpot.errors import KernelpotError, ModelFileError
from kernelpot.inference.feature_kernels import SiteKernel
from kernelpot.inference.priors import Covariance, Items, MatrixCovariance, covariance_of
from kernelpot.inference.targets import Trend
from kernelpot.properties.inputs import KernelRows, Precomputed, Scaling, structure_kernels
from kernelpot.record import HOMES, record_of
from kernelpot.structures.composites import EncodedPair, Product, Scaled, Sum
from kernelpot.structures.encoded import Encoded
from kernelpot.structures.structure_kernel import StructureKernel


@dataclass(frozen=True, eq=False)
class StoredPrior:
    """A prior covariance with what turns new items into what it takes."""

    covariance: Covariance  # Of the items
    trend: Trend  # Columns of the mean
    scaling: Scaling | None  # Of features; None for structures


def prior_parts(
    model: Any, covariance: Covariance, items: Items, trend: Trend, scaling: Scaling | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return header and arrays of an estimator's parameters, its prior and the items that it keeps."""
    kernels = structure_kernels(model.kernel)
    header = {
        "parameters": model._file_parameters(),
        "kernel": _kernel_name(model.kernel),
        "structure_kernels": [kernel.settings() for kernel in getattr(covariance, "kernels", kernels)],
        "hyper_parameters": covariance.parameters.names,
        "trend": {"kind": trend.kind, "species": list(trend.species)},
        "items": _form(items.values),
    }
    arrays = {
        "raw": covariance.parameters.raw(),
        "item_trend": items.trend.cpu().numpy(),
        "sizes": np.array(trend.sizes, dtype=float),
    }
    if header["items"] == "structures":
        arrays |= _structures(items.values)
    else:
        arrays |= {"x": items.values.cpu().numpy()} if scaling is not None else item_arrays(items.values, "items_")
    if scaling is not None:
        arrays |= {"centre": scaling.centre, "spread": scaling.spread}
    if isinstance(covariance, MatrixCovariance):
        arrays["units"] = covariance.units
    return header, arrays


def rebuilt(archive: Archive, kernel: Any, make: Callable[[Any], Any]) -> Any:
    """Return what `make` makes of a file with its kernel."""
    try:
        return make(kernel_from(archive, kernel))
    # PyTorch refuses with a RuntimeError what does not fit together.
    except (*DAMAGE, RuntimeError) as error:
        if isinstance(error, KernelpotError):
            raise ModelFileError(f"{archive.path}: {error}") from None
        raise damaged(archive.path, error) from None


def kernel_from(archive: Archive, given: Any) -> Any:
    """Return the kernel of a file: by name, made of its settings, or the one given."""
    named, wanted = archive.header["kernel"], archive.header["structure_kernels"]
    if named is not None:
        own = SiteKernel(**named) if isinstance(named, dict) else str(named)
        if given is not None:
            raise ModelFileError(f"the file holds its kernel, {own!r}; leave `kernel` out.")
        return own
    if given is None and wanted and all(settings["name"] in HOMES["structure kernel"] for settings in wanted):
        return [record_of("structure kernel", settings) for settings in wanted]
    if given is None:
        raise ModelFileError(
            "the file holds the hyper-parameters of a kernel without a name; give that kernel as `kernel`."
        )
    found = [kernel.settings() for kernel in structure_kernels(given)]
    if found != wanted:
        raise ModelFileError(f"`kernel` must be the one that was fitted, {wanted}, got {found}.")
    return given


def _kernel_name(kernel: Any) -> str | dict[str, Any] | None:
    """Return what the kernel of a file is made again from; None where it has to be given."""
    if isinstance(kernel, SiteKernel):
        return kernel.settings()
    return kernel if isinstance(kernel, str) else None


def prior_from(archive: Archive, kernel: Any, *, ard: bool) -> StoredPrior:
    """Return the prior of a file, with this kernel."""
    header, arrays = archive.header, archive.arrays
    kernels = structure_kernels(kernel)
    trend = _trend(header, arrays)
    scaling = None if kernels else Scaling(arrays["centre"], arrays["spread"])
    values = _structured(archive, kernels) if kernels else _features(arrays)
    check_numbers("item_trend", arrays["item_trend"], (len(values), _width(trend)))
    items = Items(values, torch.as_tensor(arrays["item_trend"]))
    prior = covariance_of(kernel, kernels, items, ard=ard, device="cpu", unit=1.0)
    if prior.parameters.names != header["hyper_parameters"] or len(arrays["raw"]) != len(prior.parameters.values()):
        raise ModelFileError("the hyper-parameters are not those of the kernel; give the one that was fitted.")
    check_numbers("raw", arrays["raw"], prior.parameters.values().shape)
    prior.parameters.assign_raw(arrays["raw"])
    if isinstance(prior, MatrixCovariance):
        check_numbers("units", arrays["units"], (len(kernels),), positive=True)
        prior.units = arrays["units"]
    elif not bool(torch.isfinite(prior.own(items).detach()).all()):
        raise ValueError("the variances of the items are not finite")
    return StoredPrior(prior, trend, scaling)


def _trend(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trend:
    """Return the columns of the mean, checked."""
    kind, species = header["trend"]["kind"], header["trend"]["species"]
    if header["parameters"]["mean"] not in (kind, "auto"):
        raise ValueError(f"the mean is {kind!r}, the settings say {header['parameters']['mean']!r}")
    trend = Trend(kind, tuple(species), tuple(arrays["sizes"].tolist()))
    if kind == "composition" and not all(isinstance(z, int) and 0 < z <= HEAVIEST for z in species):
        raise ValueError(f"the mean counts atomic numbers, found {species}")
    check_numbers("sizes", arrays["sizes"], (_width(trend),), positive=True)
    return trend


def _width(trend: Trend) -> int:
    """Return the number of columns of the mean."""
    return {"zero": 0, "constant": 1, "composition": len(trend.species)}[trend.kind]


def _form(values: Any) -> str:
    """Return how items are written."""
    if isinstance(values, Encoded):
        return "encoded"
    if isinstance(values, EncodedPair):
        return "pairs"
    return "features" if isinstance(values, torch.Tensor) else "structures"


def _features(arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Return rows of features, or refuse arrays that are none."""
    found = read_numbers(arrays, {"x": "n f", "centre": "f", "spread": "f"})
    if not len(found["x"]) or not (found["spread"] > 0.0).all():
        raise ValueError("there must be at least one item, and spreads must be positive")
    return torch.as_tensor(found["x"])


def _structured(archive: Archive, kernels: Sequence[Any]) -> Any:
    """Return structures, or what a kernel encoded, or refuse arrays that are neither."""
    # Files of earlier versions hold structures, and do not say so.
    form, arrays = archive.header.get("items", "structures"), archive.arrays
    if form == "structures":
        return _atoms(arrays)
    first = kernels[0]
    while form == "encoded" and not isinstance(first, StructureKernel):
        first = first.kernel if isinstance(first, Scaled) else first.first
    values = items_from(first, arrays, "items_")
    if _form(values) != form:
        raise ValueError(f"items are not of the form {form!r}")
    if isinstance(values, EncodedPair) and len(values.first) != len(values.second):
        raise ValueError("the two kernels of a pair must have the same items")
    return values


def _atoms(arrays: dict[str, np.ndarray]) -> list[Any]:
    """Return structures, or refuse arrays that are none."""
    from ase import Atoms

    counts, numbers, periodic = arrays["counts"], arrays["numbers"], arrays["periodic"]
    whole = counts.dtype == numbers.dtype == np.int64 and periodic.dtype == np.uint8
    if not whole or counts.ndim != 1 or len(counts) < 1 or (counts < 1).any() or numbers.shape != (counts.sum(),):
        raise ValueError("the atoms are not as many as the structures have")
    if not ((numbers > 0) & (numbers <= HEAVIEST)).all() or periodic.shape != (len(counts), 3) or (periodic > 1).any():
        raise ValueError("the structures have elements or periodic directions that there are not")
    read_numbers(arrays, {"positions": "atoms 3", "cells": "n 3 3"}, atoms=len(numbers), n=len(counts))
    ends = np.cumsum(counts)[:-1]
    parts = zip(
        np.split(numbers, ends), np.split(arrays["positions"], ends), arrays["cells"], periodic,
        strict=True,
    )  # fmt: skip
    return [Atoms(numbers, positions, cell=cell, pbc=pbc.astype(bool)) for numbers, positions, cell, pbc in parts]


def _structures(values: list[Any]) -> dict[str, np.ndarray]:
    """Return structures as arrays; items that are none are refused."""
    if not all(hasattr(item, "numbers") for item in values):
        raise ModelFileError("only structures and rows of features can be written; this kernel compares other items.")
    return {
        "numbers": np.concatenate([item.numbers for item in values]).astype(np.int64),
        "positions": np.concatenate([item.positions for item in values]),
        "counts": np.array([len(item) for item in values], dtype=np.int64),
        "cells": np.array([item.cell.array for item in values]),
        "periodic": np.array([item.pbc for item in values], dtype=np.uint8),
    }


def item_arrays(items: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of what a kernel encoded, by name."""
    if isinstance(items, EncodedPair):
        first = item_arrays(items.first, f"{prefix}first_")
        # What both kernels share is written once.
        return first if items.second is items.first else first | item_arrays(items.second, f"{prefix}second_")
    if isinstance(items, Encoded):
        return arrays_of(items, prefix)
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

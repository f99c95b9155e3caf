"""Kernel ridge regressions back from their files, checked before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kernelpot.archive import DAMAGE, Archive, check_numbers, damaged
from kernelpot.errors import KernelpotError
from kernelpot.inference.dense import Exact, Factor, KernelPrior
from kernelpot.inference.inducing import Inducing
from kernelpot.inference.means import Baseline
from kernelpot.properties.inputs import KernelRows, Precomputed, means_of, takes_rows
from kernelpot.properties.records import FORMAT, STATES, VERSIONS, items_from
from kernelpot.properties.ridge import KernelRidge
from kernelpot.record import record_of
from kernelpot.rules import real, whole
from kernelpot.structures.composites import EncodedPair


def read_ridge(archive: Archive) -> KernelRidge:
    """Return the fitted model of a file."""
    fit = archive.header.get("fit")
    inducing = isinstance(fit, dict) and fit.get("state") == "inducing"
    archive.require(FORMAT, VERSIONS["inducing" if inducing else "exact"])
    try:
        return _rebuilt(archive.header, archive.arrays)
    except (*DAMAGE, KernelpotError) as error:
        raise damaged(archive.path, error) from None


def _rebuilt(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> KernelRidge:
    settings, facts = header["model"], header["fit"]
    kernel = record_of("structure kernel", header["kernel"])
    model = KernelRidge("precomputed" if isinstance(kernel, Precomputed) else kernel, **dict(settings))
    items = items_from(kernel, arrays, "items_")
    parts = {name: arrays[f"state_{name}"] for name in STATES[facts["state"]]}
    baseline = arrays["baseline"]
    for name, array in {**parts, "baseline": baseline}.items():
        check_numbers(name, array, array.shape, positive=name == "variance_left")
    outputs = _check_shapes(facts, parts, len(items))
    _check_items(kernel, items, facts["n_features"])
    species = tuple(int(z) for z in facts["species"])
    # Files of earlier versions have no "auto", and no second place for what it became.
    kind = facts.get("baseline", settings["baseline"])
    terms = {"composition": len(species), "mean": 1, None: 0}[kind]
    if settings["baseline"] not in (kind, "auto") or baseline.shape != (terms, outputs):
        raise ValueError("the baseline does not fit the outputs")
    jitter = real(facts["jitter"], "jitter")
    prior = KernelPrior(kernel, items)
    if facts["state"] == "exact":
        model.state_ = Exact(prior, Factor(parts["factor"], jitter), dual=parts["dual"])
        model._calibrating = slice(None)
    else:
        whitening, factor, weights, spill, residual, variance = parts.values()
        model.state_ = Inducing(prior, whitening, factor, weights, spill, residual, variance)
        model._calibrating = _calibrating(arrays["calibrating"], len(parts["variance_left"]))
    model.kernel_, model.items_ = kernel, items
    model.baseline_ = Baseline(kind, baseline, species)
    model.alpha_ = real(facts["alpha"], "alpha", above=True)
    model.jitter_, model._single = jitter, bool(facts["single"])
    label = facts.get("label")
    if label is not None and not isinstance(label, str):
        raise ValueError("the name of the property is no text")
    model.label_ = label
    if facts["n_features"] is not None:
        model.n_features_in_ = int(facts["n_features"])
    return model


def _check_items(kernel: Any, items: Any, n_features: Any) -> None:
    """Refuse items that the kernel cannot compare, or that have other features than the header says."""
    if isinstance(items, EncodedPair) and len(items.first) != len(items.second):
        raise ValueError("the two kernels of a pair must have the same items")
    if isinstance(items, KernelRows):
        if whole(n_features, "n_features", least=1) <= items.places.max():
            raise ValueError("the kernel matrix has fewer columns than the items are numbered")
        return
    if takes_rows(kernel):
        wide = means_of(items).shape[1]
        if whole(n_features, "n_features") != wide:
            raise ValueError(f"the items have {wide} features, the header says {n_features}")
    if not np.isfinite(kernel.matrix(items[:1], items[:1])).all():
        raise ValueError("the kernel of the items is not finite")


def _check_shapes(facts: Mapping[str, Any], parts: Mapping[str, np.ndarray], n: int) -> int:
    """Return the number of outputs, or refuse arrays that do not belong together."""
    if facts["state"] == "exact":
        outputs = parts["dual"].shape[1]
        shapes: dict[str, tuple[int, ...]] = {"factor": (n, n), "dual": (n, outputs)}
    else:
        d, outputs = parts["weights"].shape
        m = len(parts["variance_left"])
        shapes = {
            "whitening": (n, d), "factor": (d, d), "weights": (d, outputs), "residual": (m, outputs),
            "variance_left": (m,), "spill": (min(m, d), d),
        }  # fmt: skip
    for name, shape in shapes.items():
        if parts[name].shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, found {parts[name].shape}")
    if int(facts["n_items"]) != n or (facts["single"] and outputs != 1):
        raise ValueError("the items or outputs are not as many as the header says")
    if not (np.diag(parts["factor"]) > 0.0).all():
        raise ValueError("the factor is singular")
    return int(outputs)


def _calibrating(marks: np.ndarray, n: int) -> np.ndarray:
    """Return which items tell the amplitude, or refuse marks that tell of none."""
    if marks.dtype != np.uint8 or marks.shape != (n,) or (marks > 1).any() or not marks.any():
        raise ValueError(f"calibrating must mark some of {n} items by 1, the others by 0")
    return marks.astype(bool)

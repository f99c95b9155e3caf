"""Files of property models: what fitted ones are as headers with arrays, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernelpot.archive import DAMAGE, LARGEST, Archive, check_numbers, damaged, read_numbers, write_archive
from kernelpot.errors import KernelpotError, ModelFileError
from kernelpot.inference.evidence import inducing
from kernelpot.inference.exact import Conditioned, Exact, Factor, KernelPrior, host
from kernelpot.inference.laplace import Laplace, matrix, mode_of
from kernelpot.inference.regressors import Inducing
from kernelpot.inference.targets import MEANS, Targets, Trend
from kernelpot.properties.inputs import KernelRows, Precomputed, checked_label, structure_kernels, takes_rows
from kernelpot.properties.property_rows import means_of
from kernelpot.properties.records import item_arrays, items_from, prior_from, prior_parts, rebuilt
from kernelpot.record import record_of
from kernelpot.rules import real, whole
from kernelpot.structures.composites import EncodedPair

RIDGE, PROCESS, CLASSIFIER = "kernelpot-kernel-ridge", "kernelpot-gp", "kernelpot-classifier"
"""Names of formats; all but the first have version 1."""


def read_property(kind: Any, archive: Archive, kernel: Any = None) -> Any:
    """Return the fitted model of a file, made by `kind`, its class; or refuse the file with a ModelFileError."""
    if archive.format == RIDGE:
        return read_ridge(kind, archive)
    archive.require(archive.format, 1)
    return rebuilt(archive, kernel, partial(_process if archive.format == PROCESS else _classifier, kind, archive))


# ---- kernel ridge regressions


VERSIONS = {"exact": 1, "inducing": 2}
"""By the name of the state, as the second says more of what inducing items do not see than the first did."""

BASELINES = {"constant": "mean", "zero": None}
"""What files call kinds of mean, where they have another word."""

STATES = {
    "exact": {"state_factor": "n n", "state_dual": "n outputs"},
    "inducing": {
        "state_whitening": "n d", "state_factor": "d d", "state_weights": "d outputs", "state_spill": "rank d",
        "state_residual": "labels outputs", "state_variance_left": "labels",
    },
}  # fmt: skip
"""Which arrays a process of each name has."""


def write_ridge(path: str | Path, model: Any, label: str | None) -> None:
    """Write a fitted `KernelRidge` with the name of its property; the file appears whole or not at all."""
    state: Any = model.posterior_
    trend = model.mean_.trend
    name = "exact" if isinstance(state, Exact) else "inducing"
    header = {
        "model": {
            "alpha": model.alpha_ if np.ndim(model.alpha) == 0 else [float(value) for value in model.alpha],
            "baseline": BASELINES.get(model.mean, model.mean),
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
            "baseline": BASELINES.get(trend.kind, trend.kind),
            "species": trend.species,
            "n_features": getattr(model, "n_features_in_", None),
            "n_items": len(model.items_),
            "label": label,
        },
    }
    if name == "exact":
        arrays = {"state_factor": state.system.lower, "state_dual": state.dual}
    else:
        arrays = {part: getattr(state, part.removeprefix("state_")) for part in STATES[name]}
        arrays["calibrating"] = model._calibrating.astype(np.uint8)
    arrays |= {"baseline": model.mean_.coefficients, **item_arrays(model.items_, "items_")}
    write_archive(path, RIDGE, VERSIONS[name], header, arrays)


def read_ridge(kind: Any, archive: Archive) -> Any:
    """Return the fitted model of a file, made by `kind`."""
    fit = archive.header.get("fit")
    inducing = isinstance(fit, dict) and fit.get("state") == "inducing"
    archive.require(RIDGE, VERSIONS["inducing" if inducing else "exact"])
    try:
        return _ridge(kind, archive.header, archive.arrays)
    except (*DAMAGE, KernelpotError) as error:
        raise damaged(archive.path, error) from None


def _ridge(made: Any, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    settings, facts = header["model"], header["fit"]
    kernel = record_of("structure kernel", header["kernel"])
    means = {BASELINES.get(kind, kind): kind for kind in ("auto", *MEANS)}
    given = {"mean" if name == "baseline" else name: value for name, value in settings.items()}
    given["mean"] = means[given["mean"]]
    model = made("precomputed" if isinstance(kernel, Precomputed) else kernel, **given)
    items = items_from(kernel, arrays, "items_")
    parts: list[Any] = list(read_numbers(arrays, STATES[facts["state"]], n=len(items)).values())
    outputs = _outputs(facts, arrays, len(items))
    _check_items(kernel, items, facts["n_features"])
    species = tuple(int(z) for z in facts["species"])
    # Files of earlier versions have no "auto", and no second place for what it became.
    kind = facts.get("baseline", settings["baseline"])
    terms = {"composition": len(species), "mean": 1, None: 0}[kind]
    baseline = read_numbers(arrays, {"baseline": "terms outputs"}, terms=terms, outputs=outputs)["baseline"]
    if settings["baseline"] not in (kind, "auto"):
        raise ValueError("the baseline is not the one of the settings")
    jitter = real(facts["jitter"], "jitter")
    prior = KernelPrior(kernel, items)
    if facts["state"] == "exact":
        model.posterior_ = Exact(prior, Factor(parts[0], jitter), dual=parts[1])
        model._calibrating = slice(None)
    else:
        model.posterior_ = Inducing(prior, *parts)
        model._calibrating = _calibrating(arrays["calibrating"], len(parts[-1]))
    model.kernel_, model.items_ = kernel, items
    trend = Trend(means[kind], species, (1.0,) * terms)
    model.mean_ = Targets(trend, baseline, np.ones(outputs))
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


def _outputs(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], n: int) -> int:
    """Return the number of outputs, or refuse arrays that do not belong together."""
    outputs = arrays["state_dual" if facts["state"] == "exact" else "state_weights"].shape[1]
    if int(facts["n_items"]) != n or (facts["single"] and outputs != 1):
        raise ValueError("the items or outputs are not as many as the header says")
    if not (np.diag(arrays["state_factor"]) > 0.0).all():
        raise ValueError("the factor is singular")
    if facts["state"] == "inducing":
        variance, (rank, d) = arrays["state_variance_left"], arrays["state_spill"].shape
        if not (variance > 0.0).all() or rank != min(len(variance), d):
            raise ValueError("variances must be positive, and what inducing items do not see of as many rows as it has")
    return int(outputs)


def _calibrating(marks: np.ndarray, n: int) -> np.ndarray:
    """Return which items tell the amplitude, or refuse marks that tell of none."""
    if marks.dtype != np.uint8 or marks.shape != (n,) or (marks > 1).any() or not marks.any():
        raise ValueError(f"calibrating must mark some of {n} items by 1, the others by 0")
    return marks.astype(bool)


# ---- Gaussian processes


def write_gp(model: Any, path: str | Path, label: str | None) -> None:
    """Write a fitted `kernelpot.GP`."""
    posterior = model.posterior_
    header, arrays = prior_parts(model, model._prior, model._prior.items, model._targets.trend, model._scaling)
    header |= {
        "label": label,
        "noise": model._noise,
        "freedom": model._freedom,
        "single": model._single,
        "n_evaluations": list(model.n_evaluations_),
        "log_marginal_likelihood": model.log_marginal_likelihood_,
    }
    arrays |= {
        "columns": model._columns,
        "coefficients": model._targets.coefficients,
        "scale": model._targets.scale,
    }
    if isinstance(posterior, Inducing):
        weights = posterior.factor @ posterior.weights
        arrays |= {"lower": host(posterior.whitening), "inner": host(posterior.factor.T), "weights": host(weights)}
    else:
        arrays |= {"targets": model._z, "weights": host(posterior.dual)}
    write_archive(path, PROCESS, 1, header, arrays)


def _process(kind: Any, archive: Archive, kernel: Any) -> Any:
    header, arrays = archive.header, archive.arrays
    model = kind._from_file_parameters(kernel, header["parameters"])
    model._training()
    prior = prior_from(archive, kernel, ard=model.ard)
    _check(header, arrays, prior.covariance.items.trend.shape, inducing=model.n_inducing is not None)
    model._trend, model.label_ = prior.trend, checked_label(header.get("label"))
    model._targets = Targets(prior.trend, arrays["coefficients"], arrays["scale"])
    model._freedom, model._single = float(header["freedom"]), bool(header["single"])
    model._columns, model._evidence = arrays["columns"], float(header["log_marginal_likelihood"])
    model._scaling = prior.scaling
    if prior.scaling is not None:
        model.n_features_in_ = len(prior.scaling.centre)
    model._prior, model._noise, model._z = prior.covariance, float(header["noise"]), arrays.get("targets")
    model.posterior_ = _posterior(model, archive)
    model.n_evaluations_ = tuple(header["n_evaluations"])
    return model


def _check(header: dict[str, Any], arrays: dict[str, np.ndarray], columns: tuple[int, ...], *, inducing: bool) -> None:
    """Refuse numbers that are none, and arrays that do not belong together; `columns` is the shape of the mean's."""
    for name, least in (("noise", True), ("freedom", False)):
        value = header[name]
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0.0 <= value <= LARGEST or (least and value == 0.0):
            raise ValueError(f"{name} must be a positive number, found {value!r}")
    (n, q), outputs = columns, len(arrays["scale"])
    if outputs < 1 or not isinstance(header["single"], bool) or (header["single"] and outputs != 1):
        raise ValueError("the outputs are not as many as the header says")
    dims = {"coefficients": "q outputs", "scale": "outputs", "weights": "n outputs", "columns": "labels q"}
    dims |= {"lower": "n n", "inner": "n n"} if inducing else {"targets": "n outputs"}
    if not (read_numbers(arrays, dims, n=n, q=q, outputs=outputs)["scale"] > 0.0).all():
        raise ValueError("scales must be positive")
    if inducing and not all((np.diag(arrays[name]) > 0.0).all() for name in ("lower", "inner")):
        raise ValueError("a factor is singular")


def _posterior(model: Any, archive: Archive) -> Conditioned:
    there = {name: torch.as_tensor(archive.arrays[name]) for name in ("weights", "targets", "lower", "inner")
             if name in archive.arrays}  # fmt: skip
    if model.n_inducing is not None:
        # What the bound was is in the model's own units already.
        return inducing(model._prior, there["lower"], there["inner"], there["weights"], np.nan)
    dual = None if model.solver == "cg" else there["weights"]
    system = model._training().system(model._prior, model._noise)
    return Exact(model._prior, system, labels=there["targets"], dual=dual)


# ---- classifiers


CLASSES = {"b": bool, "i": int, "u": int, "f": float, "U": str, "O": str}
"""What classes are, by the kind of their array."""


def write_classifier(model: Any, path: str | Path, label: str | None) -> None:
    """Write a fitted `kernelpot.Classifier` with the name of its property; the file appears whole or not at all."""
    header, arrays = prior_parts(model, model._prior, model._prior.items, model._trend, model._scaling)
    classes = model.classes_.tolist()
    made = CLASSES.get(model.classes_.dtype.kind)
    if made is None or not all(isinstance(one, made) for one in classes):
        raise ModelFileError(f"{path}: classes must be text, numbers, or True and False, found {classes}; rename them.")
    header |= {
        "classes": {
            "dtype": "str" if model.classes_.dtype.kind == "U" else model.classes_.dtype.name,
            "values": classes,
        },
        "n_evaluations": int(model.n_evaluations_),
        "label": label,
    }
    arrays["slopes"] = np.stack([mode.slope for mode in model.posterior_.modes], axis=1)
    write_archive(path, CLASSIFIER, 1, header, arrays)


def _classifier(kind: Any, archive: Archive, kernel: Any) -> Any:
    header, slopes = archive.header, archive.arrays["slopes"]
    model = kind._from_file_parameters(kernel, header["parameters"])
    model._check()
    model.classes_ = _classes(header["classes"])
    prior = prior_from(archive, kernel, ard=model.ard)
    count = len(model.classes_)
    check_numbers("slopes", slopes, (len(prior.covariance), 1 if count == 2 else count))
    # Only the slope of an item's own class is positive.
    if ((slopes > 0.0).sum(axis=1) > 1).any():
        raise ValueError("an item has several classes")
    model._trend, model._scaling, model._prior = prior.trend, prior.scaling, prior.covariance
    if not structure_kernels(kernel):
        model.n_features_in_ = archive.arrays["x"].shape[1]
    values = matrix(prior.covariance)
    model.posterior_ = Laplace(prior.covariance, [mode_of(values, slope) for slope in slopes.T])
    model.n_evaluations_ = whole(header["n_evaluations"], "n_evaluations")
    model.label_ = checked_label(header["label"])
    return model


def _classes(stored: dict[str, Any]) -> np.ndarray:
    """Return the classes, sorted, or refuse what are none."""
    values, dtype = stored["values"], np.dtype(stored["dtype"])
    made = CLASSES[dtype.kind]
    if not isinstance(values, list) or not all(type(one) is made for one in values):
        raise ValueError(f"classes must be of {made.__name__} alone, found {values}")
    found = np.array(values) if dtype.kind == "U" else np.array(values, dtype=dtype)
    if len(found) < 2 or found.tolist() != values or not (found[:-1] < found[1:]).all():
        raise ValueError(f"classes must be two or more, different and sorted, found {values}")
    return found

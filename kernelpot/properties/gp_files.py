"""Files of Gaussian processes: what a fitted one is as a header with arrays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernelpot.archive import LARGEST, Archive, check_numbers, write_archive
from kernelpot.inference.dense import Conditioned, Exact, host
from kernelpot.inference.inducing import Inducing
from kernelpot.inference.means import Targets
from kernelpot.inference.nystrom import inducing
from kernelpot.properties.inputs import checked_label
from kernelpot.properties.prior_files import prior_from, prior_parts, rebuilt

FORMAT = "kernelpot-gp"
VERSION = 1


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
    write_archive(path, FORMAT, VERSION, header, arrays)


def read_gp(kind: Any, archive: Archive, kernel: Any) -> Any:
    """Return the process of a file, made by `kind`, the class of processes."""
    archive.require(FORMAT, VERSION)
    return rebuilt(archive, kernel, partial(_made, kind, archive))


def _made(kind: Any, archive: Archive, kernel: Any) -> Any:
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
    shapes: dict[str, tuple[int, ...]] = {
        "coefficients": (q, outputs), "scale": (outputs,), "weights": (n, outputs),
        "columns": (len(arrays["columns"]), q),
    }  # fmt: skip
    shapes |= {"lower": (n, n), "inner": (n, n)} if inducing else {"targets": (n, outputs)}
    for name, shape in shapes.items():
        check_numbers(name, arrays[name], shape, positive=name == "scale")
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

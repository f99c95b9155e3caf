"""Files of Gaussian processes: what a fitted one is as a header with arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernelpot.archive import DAMAGE, LARGEST, Archive, check_numbers, damaged, write_archive
from kernelpot.data.check import HEAVIEST
from kernelpot.errors import KernelpotError, ModelFileError
from kernelpot.properties.files import KERNELS, kernel_of
from kernelpot.properties.gp_cg import IterativePosterior
from kernelpot.properties.gp_covariance import Covariance, Items, MatrixCovariance, covariance_of
from kernelpot.properties.gp_inducing import InducingPosterior
from kernelpot.properties.gp_inputs import structure_kernels
from kernelpot.properties.gp_posterior import ExactPosterior, Posterior
from kernelpot.properties.gp_scaling import Scaling
from kernelpot.properties.gp_targets import Targets, Trend

FORMAT = "kernelpot-gp"
VERSION = 1


def write_gp(model: Any, path: str | Path) -> None:
    """Write a fitted `kernelpot.GP`."""
    posterior: Posterior = model.posterior_
    items = posterior.inducing if isinstance(posterior, InducingPosterior) else posterior.prior.items
    kernels = structure_kernels(model.kernel)
    parameters = {k: v for k, v in model.get_params(deep=False).items() if k not in ("kernel", "device")}
    header = {
        "parameters": parameters,
        "kernel": model.kernel if isinstance(model.kernel, str) else None,
        "structure_kernels": [kernel.settings() for kernel in getattr(posterior.prior, "kernels", kernels)],
        "hyper_parameters": posterior.prior.parameters.names,
        "trend": {"kind": model._targets.trend.kind, "species": list(model._targets.trend.species)},
        "noise": posterior.noise,
        "freedom": model._freedom,
        "single": model._single,
        "n_evaluations": list(model.n_evaluations_),
        "log_marginal_likelihood": model.log_marginal_likelihood_,
    }
    arrays = {
        "raw": posterior.prior.parameters.raw(),
        "columns": model._columns,
        "item_trend": items.trend.cpu().numpy(),
        "sizes": np.array(model._targets.trend.sizes, dtype=float),
        "coefficients": model._targets.coefficients,
        "scale": model._targets.scale,
        "weights": posterior.weights.cpu().numpy(),
    }
    arrays |= _structures(items.values) if kernels else {"x": items.values.cpu().numpy()}
    if model._scaling is not None:
        arrays |= {"centre": model._scaling.centre, "spread": model._scaling.spread}
    if isinstance(posterior.prior, MatrixCovariance):
        arrays["units"] = posterior.prior.units
    if isinstance(posterior, InducingPosterior):
        arrays |= {"lower": posterior.lower.cpu().numpy(), "inner": posterior.inner.cpu().numpy()}
    elif isinstance(posterior, ExactPosterior | IterativePosterior):
        arrays["targets"] = posterior.targets.cpu().numpy()
    write_archive(path, FORMAT, VERSION, header, arrays)


def read_gp(kind: Callable[..., Any], archive: Archive, kernel: Any) -> Any:
    """Return the process of a file, made by `kind`, the class of processes.

    Raises
    ------
    ModelFileError
        It is damaged, foreign, of a version that this kernelpot cannot read; or its kernel is not a named one and was
        not given, or another was.
    """
    archive.require(FORMAT, VERSION)
    try:
        return _rebuilt(kind, archive, _kernel(archive, kernel))
    # PyTorch refuses with a RuntimeError what does not fit together.
    except (*DAMAGE, RuntimeError) as error:
        if isinstance(error, KernelpotError):
            raise ModelFileError(f"{archive.path}: {error}") from None
        raise damaged(archive.path, error) from None


def _kernel(archive: Archive, given: Any) -> Any:
    named, wanted = archive.header["kernel"], archive.header["structure_kernels"]
    if named is not None:
        if given is not None:
            raise ModelFileError(f"the file holds its kernel, {named!r}; leave `kernel` out.")
        return str(named)
    if given is None and wanted and all(settings["name"] in KERNELS for settings in wanted):
        return [kernel_of(settings) for settings in wanted]
    if given is None:
        raise ModelFileError(
            "the file holds the hyper-parameters of a kernel without a name; give that kernel as `kernel`."
        )
    found = [kernel.settings() for kernel in structure_kernels(given)]
    if found != wanted:
        raise ModelFileError(f"`kernel` must be the one that was fitted, {wanted}, got {found}.")
    return given


def _rebuilt(kind: Callable[..., Any], archive: Archive, kernel: Any) -> Any:
    header, arrays = archive.header, archive.arrays
    model = kind(kernel, **header["parameters"])
    kernels = structure_kernels(kernel)
    model._plan()
    trend = Trend(header["trend"]["kind"], tuple(header["trend"]["species"]), tuple(arrays["sizes"].tolist()))
    _check(header, arrays, trend, structures=bool(kernels), inducing=model.n_inducing is not None)
    model._targets = Targets(trend, arrays["coefficients"], arrays["scale"])
    model._freedom, model._single = float(header["freedom"]), bool(header["single"])
    model._columns, model._evidence = arrays["columns"], float(header["log_marginal_likelihood"])
    model._scaling = None if kernels else Scaling(arrays["centre"], arrays["spread"])
    if not kernels:
        model.n_features_in_ = arrays["x"].shape[1]
    values = _atoms(arrays) if kernels else torch.as_tensor(arrays["x"])
    items = Items(values, torch.as_tensor(arrays["item_trend"]))
    prior = covariance_of(kernel, kernels, items, ard=model.ard, device="cpu", unit=1.0)
    if prior.parameters.names != header["hyper_parameters"] or len(arrays["raw"]) != len(prior.parameters.values()):
        raise ModelFileError("the hyper-parameters are not those of the kernel; give the one that was fitted.")
    check_numbers("raw", arrays["raw"], prior.parameters.values().shape)
    prior.parameters.assign_raw(arrays["raw"])
    if isinstance(prior, MatrixCovariance):
        check_numbers("units", arrays["units"], (len(kernels),), positive=True)
        prior.units = arrays["units"]
    elif not bool(torch.isfinite(prior.own(items).detach()).all()):
        raise ValueError("the variances of the items are not finite")
    model.posterior_ = _posterior(model, prior, archive)
    model.n_evaluations_ = tuple(header["n_evaluations"])
    return model


def _check(
    header: dict[str, Any], arrays: dict[str, np.ndarray], trend: Trend, *, structures: bool, inducing: bool
) -> None:
    """Refuse numbers that are none, and arrays that do not belong together.

    Raises
    ------
    KeyError, TypeError, ValueError
        There are such.
    """
    for name, least in (("noise", True), ("freedom", False)):
        value = header[name]
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0.0 <= value <= LARGEST or (least and value == 0.0):
            raise ValueError(f"{name} must be a positive number, found {value!r}")
    q = {"zero": 0, "constant": 1, "composition": len(trend.species)}[trend.kind]
    if trend.kind == "composition" and not all(isinstance(z, int) and 0 < z <= HEAVIEST for z in trend.species):
        raise ValueError(f"the mean counts atomic numbers, found {trend.species}")
    n = _check_structures(arrays) if structures else len(arrays["x"])
    outputs = len(arrays["scale"])
    if n < 1 or outputs < 1 or not isinstance(header["single"], bool) or (header["single"] and outputs != 1):
        raise ValueError("the items or outputs are not as many as the header says")
    shapes: dict[str, tuple[int, ...]] = {
        "sizes": (q,), "coefficients": (q, outputs), "scale": (outputs,), "item_trend": (n, q), "weights": (n, outputs),
        "columns": (len(arrays["columns"]), q),
    }  # fmt: skip
    if not structures:
        f = arrays["x"].shape[1]
        shapes |= {"x": (n, f), "centre": (f,), "spread": (f,)}
    shapes |= {"lower": (n, n), "inner": (n, n)} if inducing else {"targets": (n, outputs)}
    for name, shape in shapes.items():
        check_numbers(name, arrays[name], shape, positive=name in ("sizes", "scale", "spread"))
    if inducing and not all((np.diag(arrays[name]) > 0.0).all() for name in ("lower", "inner")):
        raise ValueError("a factor is singular")


def _check_structures(arrays: dict[str, np.ndarray]) -> int:
    """Return the number of structures, or refuse arrays that are none."""
    counts, numbers, periodic = arrays["counts"], arrays["numbers"], arrays["periodic"]
    whole = counts.dtype == numbers.dtype == np.int64 and periodic.dtype == np.uint8
    if not whole or counts.ndim != 1 or (counts < 1).any() or numbers.shape != (counts.sum(),):
        raise ValueError("the atoms are not as many as the structures have")
    if not ((numbers > 0) & (numbers <= HEAVIEST)).all() or periodic.shape != (len(counts), 3) or (periodic > 1).any():
        raise ValueError("the structures have elements or periodic directions that there are not")
    check_numbers("positions", arrays["positions"], (len(numbers), 3))
    check_numbers("cells", arrays["cells"], (len(counts), 3, 3))
    return len(counts)


def _posterior(model: Any, prior: Covariance, archive: Archive) -> Posterior:
    there = {name: torch.as_tensor(archive.arrays[name]) for name in ("weights", "targets", "lower", "inner")
             if name in archive.arrays}  # fmt: skip
    noise = float(archive.header["noise"])
    if model.n_inducing is not None:
        # What the bound was is in the model's own units already.
        return InducingPosterior(prior, prior.items, there["lower"], there["inner"], there["weights"], noise, np.nan)
    if model.solver == "cg":
        return IterativePosterior(prior, there["targets"], noise, model.seed)
    return ExactPosterior(prior, there["targets"], noise, there["weights"])


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


def _atoms(arrays: dict[str, np.ndarray]) -> list[Any]:
    from ase import Atoms

    ends = np.cumsum(arrays["counts"])[:-1]
    parts = zip(
        np.split(arrays["numbers"], ends), np.split(arrays["positions"], ends), arrays["cells"], arrays["periodic"],
        strict=True,
    )  # fmt: skip
    return [Atoms(numbers, positions, cell=cell, pbc=pbc.astype(bool)) for numbers, positions, cell, pbc in parts]

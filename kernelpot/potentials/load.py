"""Models back from their files."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from kernelpot.archive import Archive, damaged, read_archive
from kernelpot.errors import ModelFileError, ParameterError
from kernelpot.linalg.devices import check_device
from kernelpot.potentials.baselines.given import matched, recorded
from kernelpot.potentials.files import read_model
from kernelpot.potentials.force.force_files import FORMAT, read_forces
from kernelpot.potentials.force.force_ridge import ForceRidge
from kernelpot.potentials.sparse_gp import SparseGP

_PROPERTIES = {
    "kernelpot-kernel-ridge": ("kernelpot.properties.ridge", "KernelRidge"),
    "kernelpot-gp": ("kernelpot.properties.gp", "GP"),
    "kernelpot-classifier": ("kernelpot.properties.classifier", "Classifier"),
}
"""Classes of property models by the format of their files."""

_TAKE_KERNELS = ("kernelpot-gp", "kernelpot-classifier")
"""Formats of models whose kernel may be none that a file can make."""


def load(
    path: str | Path,
    *,
    baseline: object = None,
    kernel: object = None,
    device: str | None = None,
    precision: str = "float64",
) -> Any:
    """Read a model that its `save` wrote, of whichever class; nothing in the file is ever run as code.

    Parameters
    ----------
    path
        Of the file.
    baseline
        Calculator (or `CalculatorBaseline`) that a `SparseGP` was fitted to the difference from: a file holds its name
        only. A `ZBL` is in the file.
    kernel
        Of a `GP` or `Classifier` whose kernel the file cannot make: one of GPyTorch's, or of your own.
    device, precision
        Where a potential shall compute, as in `SparseGP.to`; the file does not say.

    Raises
    ------
    ModelFileError
        There is no such file; it is damaged, foreign, or of a version that this kernelpot cannot read; or its baseline
        was not given, or one of another name.
    ParameterError
        A baseline, device or precision was given that the model has no use for, or there is no such device or
        precision.
    """
    archive = read_archive(path)
    if kernel is not None and archive.format not in _TAKE_KERNELS:
        raise ParameterError(f"{path}: only a GP or a Classifier takes a `kernel`; leave it out.")
    if archive.format not in _PROPERTIES:
        return _potential(archive, baseline, device, precision)
    if baseline is not None or device is not None or precision != "float64":
        raise ParameterError(f"{path}: a property model takes no `baseline`, `device` or `precision`; leave them out.")
    # Here, as it loads PyTorch.
    from kernelpot.properties.files import read_property

    home, name = _PROPERTIES[archive.format]
    return read_property(getattr(import_module(home), name), archive, kernel)


def _potential(archive: Archive, baseline: object, device: str | None, precision: str) -> SparseGP | ForceRidge:
    path = archive.path
    if archive.format == FORMAT:
        return _forces(archive, baseline, device, precision)
    settings, state = read_model(archive)
    try:
        model = SparseGP.from_settings(settings)
        prepared = bool(settings["prepared"])
        found = recorded(settings["baseline"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"{path}: the model's settings were altered ({type(error).__name__}: {error}); fit again."
        ) from None
    model.baseline = matched(found, baseline, path)
    state = replace(state, baseline=model.baseline)
    model.fitted_ = state
    model.features_ = state.features if prepared else None
    return model if device is None and precision == "float64" else model.to(device, precision=precision)


def _forces(archive: Archive, baseline: object, device: str | None, precision: str) -> ForceRidge:
    check_device(device, precision)
    if baseline is not None or precision != "float64":
        raise ParameterError(
            f"{archive.path} holds a ForceRidge, which takes no `baseline` and computes in float64; leave them out."
        )
    settings, state = read_forces(archive, device)
    try:
        model = ForceRidge(**settings, device=device)
    except ParameterError as error:
        raise damaged(archive.path, error) from None
    model.fitted_ = state
    return model

"""Files of classifiers: kernel, items and the slopes of the modes, of which all else follows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import Archive, check_numbers, write_archive
from kernelpot.errors import ModelFileError
from kernelpot.inference.laplace import Laplace, matrix, mode_of
from kernelpot.properties.inputs import checked_label, structure_kernels
from kernelpot.properties.prior_files import prior_from, prior_parts, rebuilt
from kernelpot.rules import whole

FORMAT = "kernelpot-classifier"
VERSION = 1

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
    write_archive(path, FORMAT, VERSION, header, arrays)


def read_classes(kind: Any, archive: Archive, kernel: Any) -> Any:
    """Return the classifier of a file, made by `kind`, the class of classifiers."""
    archive.require(FORMAT, VERSION)
    return rebuilt(archive, kernel, partial(_made, kind, archive))


def _made(kind: Any, archive: Archive, kernel: Any) -> Any:
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

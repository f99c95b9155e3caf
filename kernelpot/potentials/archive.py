"""Files of sparse models: what a fitted state is as a header with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import DAMAGE, LARGEST, Archive, arrays_of, check_numbers, damaged, read_arrays, write_archive
from kernelpot.data.noise import KINDS, Noise
from kernelpot.linalg.factor import Posterior
from kernelpot.potentials.calibration import Calibration, Shape
from kernelpot.potentials.extrapolation import Seen
from kernelpot.potentials.fitted import Fitted
from kernelpot.record import record_of

FORMAT = "kernelpot-sparse-gp"
VERSION = 2


def write_model(path: str | Path, settings: dict[str, Any], state: Fitted) -> None:
    """Write a model's settings with its fitted state; the file appears whole or not at all.

    Raises
    ------
    ModelFileError
        The file cannot be written.
    """
    write_archive(path, FORMAT, VERSION, {"model": settings, "fit": _facts(state)}, _arrays(state))


def read_model(archive: Archive) -> tuple[dict[str, Any], Fitted]:
    """Return the settings and the fitted state of a model file.

    Raises
    ------
    ModelFileError
        It is damaged, foreign, or of a version that this kernelpot cannot read.
    """
    archive.require(FORMAT, VERSION)
    try:
        return _rebuild(archive.header, archive.arrays)
    except DAMAGE as error:
        raise damaged(archive.path, error) from None


def _facts(state: Fitted) -> dict[str, Any]:
    return {
        "features": state.features.settings(),
        "noise": {k: getattr(state.noise, k) for k in KINDS},
        "amplitude": state.amplitude,
        "misfit": state.posterior.misfit,
        "factor": dict(state.calibration.factor),
        "label_noise": dict(state.calibration.noise),
        "shape": {kind: shape.settings() for kind, shape in state.calibration.shape.items()},
        "cross_validation": dict(state.cross_validation),
        "n_labels": dict(state.n_labels),
        "seen_noise": None if state.seen is None else state.seen.noise,
    }


def _arrays(state: Fitted) -> dict[str, np.ndarray]:
    arrays = {
        "factor": state.posterior.factor,
        "target": state.posterior.target,
        "baseline": state.e0_centre,
        "e0_factor": state.e0_factor,
    }
    seen = {} if state.seen is None else arrays_of(state.seen, "seen_")
    return arrays | seen | state.features.arrays()


def _rebuild(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], Fitted]:
    settings, facts = dict(header["model"]), header["fit"]
    features = record_of("feature map", facts["features"], arrays)
    n, d = len(features.species), features.n_weights
    posterior = Posterior(**read_arrays(Posterior, arrays, d=d + n), misfit=_number("misfit", facts["misfit"]))
    check_numbers("baseline", arrays["baseline"], (n,))
    check_numbers("e0_factor", arrays["e0_factor"], (len(arrays["e0_factor"]), n + 1))
    if not (np.diag(posterior.factor) > 0).all():
        raise ValueError("the posterior's factor is singular")
    seen = None
    # Files of before there was a record of training environments have none.
    if facts.get("seen_noise") is not None:
        noise = _number("seen_noise", facts["seen_noise"], positive=True)
        seen = Seen(**read_arrays(Seen, arrays, "seen_", d=d, species=n), noise=noise)
        if not (np.diag(seen.factor) > 0).all() or not (seen.reference > 0).all():
            raise ValueError("the record of training environments is not one")
    calibration = Calibration(_numbers(facts["factor"]), _numbers(facts["label_noise"]), _shapes(facts["shape"]))
    if set(calibration.factor) != set(calibration.noise):
        raise ValueError("factors and noises of labels must be of the same kinds")
    n_labels = {kind: int(v) for kind, v in _numbers(facts["n_labels"]).items()}
    state = Fitted(
        features,
        posterior,
        Noise(**facts["noise"]),
        _number("amplitude", facts["amplitude"], positive=True),
        arrays["baseline"],
        arrays["e0_factor"],
        calibration,
        _numbers(facts["cross_validation"]),
        n_labels,
        seen=seen,
    )
    return settings, state


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    if not set(table) <= set(KINDS):
        raise ValueError(f"the header names kinds of labels other than {', '.join(KINDS)}")
    return {kind: _number(kind, v) for kind, v in table.items()}


def _shapes(table: Mapping[str, Any]) -> dict[str, Shape]:
    if not set(table) <= set(KINDS):
        raise ValueError(f"the header names kinds of labels other than {', '.join(KINDS)}")
    return {kind: Shape.from_settings(settings) for kind, settings in table.items()}


def _number(name: str, value: Any, *, positive: bool = False) -> float:
    result = float(value)
    # A square of it must still be a number.
    if not 0.0 <= result <= LARGEST or (positive and result == 0.0):
        raise ValueError(f"{name} in the header must be finite, not negative and not huge, found {result}")
    return result

"""Files of sparse processes: what a fitted state is as a header with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import (
    DAMAGE,
    LARGEST,
    Archive,
    arrays_of,
    check_numbers,
    damaged,
    read_arrays,
    write_archive,
)
from kernelpot.data.noise import KINDS, Noise
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.linalg.factor import Posterior
from kernelpot.potentials.calibration import Calibration, Shape
from kernelpot.potentials.extrapolation import Seen
from kernelpot.potentials.fitted import Fitted
from kernelpot.record import record_of
from kernelpot.rules import real

FORMAT, VERSION = "kernelpot-sparse-gp", 2


def write_model(path: str | Path, settings: dict[str, Any], state: Fitted) -> None:
    """Write a model's settings with its fitted state; the file appears whole or not at all."""
    facts = {
        "features": state.features.settings(),
        "noise": state.noise.settings(),
        "amplitude": state.amplitude,
        "misfit": state.posterior.misfit,
        "factor": dict(state.calibration.factor),
        "label_noise": dict(state.calibration.noise),
        "shape": {kind: shape.settings() for kind, shape in state.calibration.shape.items()},
        "cross_validation": dict(state.cross_validation),
        "n_labels": dict(state.n_labels),
        "e0_std": state.e0_std,
        "seen_noise": None if state.seen is None else state.seen.noise,
    }
    arrays = {**arrays_of(state.posterior), "baseline": state.e0_centre, "e0_factor": state.e0_factor}
    seen = {} if state.seen is None else arrays_of(state.seen, "seen_")
    write_archive(path, FORMAT, VERSION, {"model": settings, "fit": facts}, arrays | seen | state.features.arrays())


def read_model(archive: Archive) -> tuple[dict[str, Any], Fitted]:
    """Return the settings and the fitted state of a file, or refuse it."""
    archive.require(FORMAT, VERSION)
    try:
        return dict(archive.header["model"]), _fitted(archive.header["fit"], archive.arrays)
    except DAMAGE as error:
        raise damaged(archive.path, error) from None


def _fitted(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Fitted:
    features = record_of("feature map", facts["features"], arrays)
    n, d = len(features.species), features.n_weights
    posterior = Posterior(**read_arrays(Posterior, arrays, d=d + n), misfit=_number(facts, "misfit"))
    check_numbers("baseline", arrays["baseline"], (n,))
    check_numbers("e0_factor", arrays["e0_factor"], (len(arrays["e0_factor"]), n + 1))
    if not (np.diag(posterior.factor) > 0).all():
        raise ValueError("the posterior's factor is singular")
    calibration = Calibration(
        _numbers(facts["factor"]),
        _numbers(facts["label_noise"]),
        {kind: Shape.from_settings(settings) for kind, settings in _by_kind(facts["shape"]).items()},
    )
    if set(calibration.factor) != set(calibration.noise):
        raise ValueError("factors and noises of labels must be of the same kinds")
    return Fitted(
        features,
        posterior,
        Noise.from_settings(facts["noise"]),
        _number(facts, "amplitude", above=True),
        arrays["baseline"],
        arrays["e0_factor"],
        calibration,
        _numbers(facts["cross_validation"]),
        {kind: int(count) for kind, count in _numbers(facts["n_labels"]).items()},
        e0_std=_number(facts, "e0_std", above=True) if "e0_std" in facts else E0_PRIOR,
        seen=_seen(facts, arrays, d, n),
    )


def _seen(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], d: int, n: int) -> Seen | None:
    """Return the record of training environments; files of before there was one have none."""
    if facts.get("seen_noise") is None:
        return None
    parts = read_arrays(Seen, arrays, "seen_", d=d, species=n)
    seen = Seen(**parts, noise=_number(facts, "seen_noise", above=True))
    if not (np.diag(seen.factor) > 0).all() or not (seen.reference > 0).all():
        raise ValueError("the record of training environments is not one")
    return seen


def _number(table: Mapping[str, Any], name: str, *, above: bool = False) -> float:
    """Return a number that is not negative and whose square is a number as well."""
    return real(table[name], name, most=LARGEST, above=above)


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {kind: _number(table, kind) for kind in _by_kind(table)}


def _by_kind(table: Mapping[str, Any]) -> Mapping[str, Any]:
    if not set(table) <= set(KINDS):
        raise ValueError(f"the header names kinds of labels other than {', '.join(KINDS)}")
    return table

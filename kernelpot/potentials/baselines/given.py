"""Baselines as users and model files give them, and labels less what a baseline says."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelpot.data.batch import Batch
from kernelpot.data.check import place
from kernelpot.data.labels import Labels
from kernelpot.data.stream import sizes_of
from kernelpot.errors import LabelError, ModelFileError, ParameterError
from kernelpot.features.inducing import chunks, species_of
from kernelpot.potentials.baselines.calculator import CalculatorBaseline
from kernelpot.potentials.baselines.protocol import Baseline, Contribution
from kernelpot.potentials.baselines.zbl import ZBL
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

METHODS = ("reach", "evaluate", "describe", "settings")

LEAST_REACH = 0.1
"""Å; a list of neighbours needs some cutoff where a baseline needs none."""


def as_baseline(given: object) -> Baseline | None:
    """Return a baseline, or None; an ASE calculator is made one.

    Raises
    ------
    ParameterError
        It is neither.
    """
    if given is None:
        return None
    if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in METHODS):
        if not isinstance(given, type) and hasattr(given, "get_property"):
            return CalculatorBaseline(given)
        raise ParameterError(
            "`baseline` must be None, a ZBL(), a CalculatorBaseline(calculator) or another object with the methods "
            f"{', '.join(METHODS)}; got {given!r}."
        )
    return given  # type: ignore[return-value]


def recorded(settings: Mapping[str, Any] | None) -> ZBL | str | None:
    """Read what a model file says of its baseline: a ZBL whole, of any other only its settings as text.

    Raises
    ------
    KeyError, TypeError, ValueError
        The file was altered.
    """
    if settings is None:
        return None
    return ZBL.from_settings(settings) if settings["name"] == "ZBL" else _text(settings)


def matched(found: ZBL | str | None, given: object, path: object) -> Baseline | None:
    """Return the baseline of a model that was read from a file.

    Parameters
    ----------
    found
        From `recorded`.
    given
        What the user gave to stand for a baseline that a file cannot hold.
    path
        Of the file, for messages.

    Raises
    ------
    ModelFileError
        The file needs a baseline that was not given, or another one.
    ParameterError
        A baseline was given that the file has no use for.
    """
    baseline = as_baseline(given)
    if not isinstance(found, str):
        if baseline is not None and baseline != found:
            what = "without a baseline" if found is None else f"with the baseline {found!r}"
            raise ParameterError(f"{path}: this model was fitted {what}; leave `baseline` out, got {given!r}.")
        return found
    said = json.loads(found)
    name = said.get("calculator", said["name"])
    if baseline is None:
        raise ModelFileError(
            f"{path}: this model was fitted to the difference from the baseline {name!r}, which no file can hold; "
            "give it with kernelpot.load(path, baseline=...)."
        )
    if _text(baseline.settings()) != found:
        raise ModelFileError(
            f"{path}: this model was fitted to the difference from the baseline {name!r}, got {baseline!r}; give the "
            "same one, with the same name."
        )
    return baseline


def _text(settings: Mapping[str, Any]) -> str:
    if not isinstance(settings["name"], str):
        raise TypeError(f"the name of a baseline must be a word, found {settings['name']!r}")
    return json.dumps(dict(settings), sort_keys=True)


def evaluated(baseline: Baseline | None, structures: Sequence[Atoms]) -> Contribution:
    """Return what a baseline says of structures; zeros where there is none.

    Raises
    ------
    DataError
        A structure is unusable, or the baseline failed.
    """
    if baseline is None:
        n, n_atoms = len(structures), int(sizes_of(structures).sum())
        return Contribution(np.zeros(n), np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((n, 6)))
    cutoff = max(baseline.reach(species_of(structures)), LEAST_REACH)
    parts = []
    for start, stop in track(list(chunks(structures)), "baseline"):
        some = structures[start:stop]
        batch = Batch.from_structures(some, cutoff, start=start)
        parts.append(baseline.evaluate(batch, names=[place(atoms, k) for k, atoms in enumerate(some, start)]))
    names = ("energy", "local_energy", "forces", "stress")
    return Contribution(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def less_baseline(
    baseline: Baseline | None, structures: Sequence[Atoms], labels: Labels, kinds: Collection[str]
) -> Labels:
    """Return labels less what a baseline says; the labels themselves where there is none.

    Parameters
    ----------
    baseline
        What is taken off.
    structures, labels
        In one order.
    kinds
        Of labels that will be used.

    Raises
    ------
    DataError
        A structure is unusable, or the baseline failed.
    LabelError
        There are stresses to be used, and the baseline has none.
    """
    if baseline is None:
        return labels
    part = evaluated(baseline, structures)
    energy, stress = labels.energy - part.energy, labels.stress - part.stress
    lost = [k for k, there in enumerate(labels.present("stress")) if there and structures[k].cell.rank == 3]
    if "stress" in kinds and not np.isfinite(stress[lost]).all():
        raise LabelError(
            f"the baseline {baseline!r} has no stress where there are stress labels; leave them out with "
            "keys={'stress': None} or a Noise without stress."
        )
    shares = np.split(part.forces, np.cumsum(labels.n_atoms)[:-1])
    forces = tuple(None if f is None else f - share for f, share in zip(labels.forces, shares, strict=True))
    for array in (energy, stress):
        array.setflags(write=False)
    return replace(labels, energy=energy, forces=forces, stress=stress)

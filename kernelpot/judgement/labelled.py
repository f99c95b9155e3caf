"""Labels judged by each other, or by a fitted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.data.geometry import default_cutoff
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.stream import structure_list
from kernelpot.data.suspects import Judged, LabelCheck, explained, rms
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import LabelError
from kernelpot.potentials.fitting import by_others
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.suspects.judge import FEWEST, FINAL

if TYPE_CHECKING:
    from ase import Atoms

INDUCING = 300
"""Inducing environments of the model that labels are judged by where none is given."""


def check_labels(
    structures: Sequence[Atoms],
    model: SparseGP | None = None,
    *,
    keys: Mapping[str, str | None] | None = None,
) -> LabelCheck:
    """Find labels that do not fit the others, each with the likeliest reason: a unit, a sign, another structure's.

    Every energy, force and stress is predicted by a model that did not see its structure (eight folds; duplicates
    together), and its error compared with the usual one, by robust statistics: see docs/checking.md. `fit` does the
    same on the way. At least 20 different structures are needed, and at least nine labels of ten should be right.

    Parameters
    ----------
    structures
        With labels.
    model
        A `SparseGP` whose descriptor and number of inducing environments are taken. None: `SOAP` with the cutoff of
        `kernelpot.potentials.default_cutoff`, 300 inducing environments. A fitted one judges all labels by its own
        predictions and standard deviations instead: for labels that it was not fitted to.
    keys
        Names of labels, as in `kernelpot.read`.

    Returns
    -------
    LabelCheck
        `suspects` names the labels, `kept` the structures without any; ``print`` shows the worst.

    Raises
    ------
    LabelError
        No energy and no force is there, or labels are broken, or there are too few structures.
    SpeciesError
        A fitted model does not know one of the elements.
    """
    structures = structure_list(structures)
    labels = resolve(structures, keys)
    if model is not None and model.fitted_ is not None:
        return by_model(model, structures, labels)
    if model is None:
        model = SparseGP(SOAP(cutoff=default_cutoff(structures)), n_inducing=INDUCING, noise="cv")
    check = by_others(model, structures, labels)
    if check is None:
        raise LabelError(
            f"a check of labels by each other needs at least {FEWEST} different structures, found fewer among "
            f"{len(structures)}; give a fitted model that judges them."
        )
    return check


def by_model(model: SparseGP, structures: Sequence[Atoms], labels: Labels) -> LabelCheck:
    """Judge labels by a fitted model that did not see them."""
    found, n = model.predict(structures), labels.n_atoms
    label = found.require_spread()
    std = {
        "energy": label.energy_std / n,
        "forces": np.array([rms(one) for one in label.forces_std]),
        "stress": np.array([rms(one) for one in label.stress_std]),
    }
    on_atoms = [np.linalg.norm(one, axis=1) for one in label.forces_std]
    missed = [
        np.full_like(one, np.nan) if mine is None else mine - one
        for one, mine in zip(found.forces, labels.forces, strict=True)
    ]
    times = {
        "energy": np.abs(labels.energy - found.energy) / n / std["energy"],
        "forces": np.array([rms(one / by) for one, by in zip(missed, label.forces_std, strict=True)]),
        "stress": np.array([rms(one) for one in (labels.stress - found.stress) / label.stress_std]),
    }
    times = {kind: values for kind, values in times.items() if labels.present(kind).any()}
    worst = np.array([
        np.nanmax(np.linalg.norm(one, axis=1) / by) if np.isfinite(one).any() else np.nan
        for one, by in zip(missed, on_atoms, strict=True)
    ])  # fmt: skip
    judged = Judged(found.energy, found.forces, found.stress, std, on_atoms, times, worst, np.arange(len(n)))
    out = {kind: values > FINAL[kind] for kind, values in times.items()}
    if "forces" in out:
        out["forces"] |= worst > FINAL["atom"]
    return explained(structures, labels, judged, out)

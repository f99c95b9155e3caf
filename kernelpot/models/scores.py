"""Errors of a model on labelled structures, with a check of its standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.check import place
from kernelpot.data.labels import Labels, resolve
from kernelpot.errors import LabelError
from kernelpot.models.arguments import structure_list
from kernelpot.models.prediction import Prediction, Predictor
from kernelpot.models.summary import UNITS

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class KindScore:
    """Errors of one kind of label; energies per atom, forces and stresses per component.

    Attributes
    ----------
    n
        Labels compared.
    mae, rmse, worst
        eV/atom, eV/Å or eV/Å³.
    coverage_68, coverage_95
        Share of labels inside ±1.00 and ±1.96 predicted standard deviations (68.3 % and 95.0 % if Gaussian); NaN
        without them.
    log_score
        Mean log predictive density of a label in nats; larger is better; NaN without standard deviations.
    """

    n: int
    mae: float
    rmse: float
    worst: float
    coverage_68: float
    coverage_95: float
    log_score: float


@dataclass(frozen=True)
class Scores:
    """Scores of each kind over all structures, then over each group of structures (`config_type`).

    Attributes
    ----------
    overall
        Scores of each kind.
    groups
        Scores of each kind in each group; empty where there are fewer than two groups.
    n_structures
        Structures compared.
    worst_at
        Structure with the largest error of each kind: its file and number where known, else its number.
    """

    overall: Mapping[str, KindScore]
    groups: Mapping[str, Mapping[str, KindScore]]
    n_structures: int
    worst_at: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; NaN becomes None."""
        return {
            "n_structures": self.n_structures,
            "worst_at": dict(self.worst_at),
            "overall": {kind: _plain(score) for kind, score in self.overall.items()},
            "groups": {g: {kind: _plain(s) for kind, s in kinds.items()} for g, kinds in self.groups.items()},
        }

    def __str__(self) -> str:
        """Return a table for people, in meV."""
        head = f"{'':<16}{'kind':<8}{'n':>8}{'MAE':>10}{'RMSE':>10}{'worst':>10}  {'unit':<9}{'in 68%':>8}{'in 95%':>8}"
        lines = [head]
        for name, kinds in [("all", self.overall), *self.groups.items()]:
            for kind, s in kinds.items():
                unit, scale = UNITS[kind]
                numbers = "".join(f"{scale * v:>10.2f}" for v in (s.mae, s.rmse, s.worst))
                inside = "".join(
                    "        " if np.isnan(v) else f"{100 * v:>7.1f}%" for v in (s.coverage_68, s.coverage_95)
                )
                lines.append(f"{name[:15]:<16}{kind:<8}{s.n:>8}{numbers}  {unit:<9}{inside}")
        lines += [f"worst {kind}: {where}" for kind, where in self.worst_at.items()]
        if any(not np.isnan(s.coverage_68) for s in self.overall.values()):
            lines.append("in 68%, in 95%: labels within 1 and 1.96 predicted std; more is cautious, less is bold")
        return "\n".join(lines)


def evaluate(
    model: Predictor,
    structures: Sequence[Atoms],
    *,
    keys: Mapping[str, str | None] | None = None,
    uncertainty: bool = True,
) -> Scores:
    """Compare a model's predictions with labels.

    Parameters
    ----------
    model
        A fitted model.
    structures
        With labels of at least one kind.
    keys
        Names of labels, as in `kernelpot.read`.
    uncertainty
        False leaves coverage and log score out, which is much faster.

    Raises
    ------
    LabelError
        There is no label to compare with, or labels are broken.
    ParameterError
        The structures are no list, or there is none.
    """
    structures = structure_list(structures)
    labels = resolve(structures, keys)
    if not any(labels.present(kind).any() for kind in UNITS):
        raise LabelError("evaluate needs labels, found none; name them with keys={'energy': ..., 'forces': ...}.")
    names = [place(atoms, number) for number, atoms in enumerate(structures)]
    return score(model.predict(structures, uncertainty=uncertainty), labels, _groups(structures), names)


def score(prediction: Prediction, labels: Labels, groups: Sequence[str], names: Sequence[str] | None = None) -> Scores:
    """Compare predictions with labels; `groups` names each structure's group, "" for none, and `names` itself."""
    names = [f"structure {s} (from 0)" for s in range(len(labels))] if names is None else names
    residuals = {kind: _residuals(kind, prediction, labels) for kind in UNITS}
    overall = {k: _score(*_joined(r, range(len(labels)))) for k, r in residuals.items() if r}
    named = {}
    for group in sorted({g for g in groups if g}):
        members = [s for s, g in enumerate(groups) if g == group]
        here = {k: _joined(r, members) for k, r in residuals.items() if r}
        named[group] = {k: _score(*pair) for k, pair in here.items() if len(pair[0])}
    worst = {k: names[max(r, key=lambda s: float(np.abs(r[s][0]).max()))] for k, r in residuals.items() if r}
    return Scores(overall, named if len(named) > 1 else {}, len(labels), worst)


Pair = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]


def _residuals(kind: str, prediction: Prediction, labels: Labels) -> dict[int, Pair]:
    """Return residuals and standard deviations of every structure that has this kind of label."""
    result = {}
    for s in np.flatnonzero(labels.present(kind)):
        n = labels.n_atoms[s]
        if kind == "energy":
            error = np.array([(prediction.energy[s] - labels.energy[s]) / n])
            std = None if prediction.label is None else np.array([prediction.label.energy_std[s] / n])
        elif kind == "forces":
            error = (prediction.forces[s] - labels.forces[s]).ravel()
            std = None if prediction.label is None else prediction.label.forces_std[s].ravel()
        else:
            error = prediction.stress[s] - labels.stress[s]
            std = None if prediction.label is None else prediction.label.stress_std[s]
        result[int(s)] = (error, np.full(len(error), np.nan) if std is None else std)
    return result


def _joined(residuals: Mapping[int, Pair], members: Sequence[int] | range) -> Pair:
    parts = [residuals[s] for s in members if s in residuals]
    if not parts:
        return np.empty(0), np.empty(0)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _score(error: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> KindScore:
    size = np.abs(error)
    known = bool(np.isfinite(std).all() and (std > 0).all())
    z = size / std if known else np.full(len(size), np.nan)
    return KindScore(
        n=len(error),
        mae=float(size.mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        worst=float(size.max()),
        coverage_68=float(np.mean(z <= 1.0)) if known else float("nan"),
        coverage_95=float(np.mean(z <= 1.959964)) if known else float("nan"),
        log_score=float(np.mean(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi))) if known else float("nan"),
    )


def _groups(structures: Sequence[Atoms]) -> list[str]:
    return [str(atoms.info.get("config_type", "")) for atoms in structures]


def _plain(score: KindScore) -> dict[str, float | int | None]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(score).items()}

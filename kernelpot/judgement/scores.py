"""Errors of a model on labelled structures, with a check of its standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from kernelpot.data.check import place
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.stream import structure_list
from kernelpot.errors import LabelError
from kernelpot.judgement.reliability import names_of, rank_and_ceiling
from kernelpot.potentials.calibration import NORMAL, ONE, Residuals, Shape
from kernelpot.potentials.prediction import Prediction, Predictor, require_potential, residuals_of
from kernelpot.units import MILLI

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
        Share of labels inside the intervals for 68.27 % and 95 %: ±1.00 and ±1.96 predicted standard deviations, or
        conformal quantiles after `SparseGP.calibrate`; NaN without them. Labels that are zero by symmetry, which the
        model knows for certain, do not count here or below.
    log_score
        Mean log predictive density of a label in nats; larger is better; NaN without standard deviations.
    rank, ceiling
        Spearman correlation of standard deviation and absolute error, and what it would be if the errors were drawn
        from the predicted normal distributions; NaN without standard deviations.
    """

    n: int
    mae: float
    rmse: float
    worst: float
    coverage_68: float
    coverage_95: float
    log_score: float
    rank: float = float("nan")
    ceiling: float = float("nan")


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
        head = f"{'':<16}{'kind':<8}{'n':>8}{'MAE':>10}{'RMSE':>10}{'worst':>10}  {'unit':<9}"
        known = any(not np.isnan(s.coverage_68) for s in self.overall.values())
        head += f"{'in 68%':>8}{'in 95%':>8}{'log score':>11}{'rank':>7}{'ceiling':>9}" if known else ""
        lines = [head.rstrip()]
        for name, kinds in [("all", self.overall), *self.groups.items()]:
            for kind, s in kinds.items():
                unit, scale = MILLI[kind], 1e3
                numbers = "".join(f"{scale * v:>10.2f}" for v in (s.mae, s.rmse, s.worst))
                inside = "".join(
                    "        " if np.isnan(v) else f"{100 * v:>7.1f}%" for v in (s.coverage_68, s.coverage_95)
                )
                rest = "" if np.isnan(s.log_score) else f"{s.log_score:>11.3f}"
                rest += "" if np.isnan(s.rank) else f"{s.rank:>7.2f}{s.ceiling:>9.2f}"
                lines.append(f"{name[:15]:<16}{kind:<8}{s.n:>8}{numbers}  {unit:<9}{inside}{rest}".rstrip())
        lines += [f"worst {kind}: {where}" for kind, where in self.worst_at.items()]
        if known:
            lines.append("in 68%, in 95%: labels inside those intervals; more is cautious, less is bold")
            lines.append("rank: Spearman correlation of std and |error|; ceiling: were the errors drawn from the stds")
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
        The structures are no list, or there is none; or the model is no potential.
    """
    require_potential(model)
    structures = structure_list(structures)
    labels = resolve(structures, keys)
    if not any(labels.present(kind).any() for kind in MILLI):
        raise LabelError("evaluate needs labels, found none; name them with keys={'energy': ..., 'forces': ...}.")
    names = [place(atoms, number) for number, atoms in enumerate(structures)]
    return score(model.predict(structures, uncertainty=uncertainty), labels, names_of(structures), names)


def score(prediction: Prediction, labels: Labels, groups: Sequence[str], names: Sequence[str] | None = None) -> Scores:
    """Compare predictions with labels; `groups` names each structure's group, "" for none, and `names` itself."""
    names = [f"structure {s} (from 0)" for s in range(len(labels))] if names is None else names
    residuals = residuals_of(prediction, labels)
    silent = {kind: r.silent for kind, r in residuals.items()}
    shapes = {kind: prediction.shape.get(kind, NORMAL) for kind in residuals}
    overall = {kind: _score(r, silent[kind], shapes[kind]) for kind, r in residuals.items()}
    named = {}
    for group in sorted({g for g in groups if g}):
        member = np.array([g == group for g in groups])
        here = {kind: member[r.witness] for kind, r in residuals.items()}
        named[group] = {
            kind: _score(r.take(here[kind]), silent[kind][here[kind]], shapes[kind])
            for kind, r in residuals.items()
            if here[kind].any()
        }
    worst = {kind: names[int(r.witness[np.abs(r.error).argmax()])] for kind, r in residuals.items()}
    return Scores(overall, named if len(named) > 1 else {}, len(labels), worst)


def _score(r: Residuals, silent: Bool[np.ndarray, " n"], shape: Shape) -> KindScore:
    size = np.abs(r.error)
    told = r.take(~silent)
    known = bool(len(told.error) and np.isfinite(told.std).all() and (told.std > 0).all())
    inside_68 = inside_95 = log_score = rank = ceiling = float("nan")
    if known:
        z = np.abs(told.error) / told.std
        inside_68, inside_95 = (float(np.mean(z <= shape.quantile(level))) for level in (ONE, 0.95))
        log_score = float(np.mean(shape.log_density(told.error, told.std)))
        rank, ceiling = rank_and_ceiling(told.error, told.std)
    return KindScore(
        n=len(size),
        mae=float(size.mean()),
        rmse=float(np.sqrt(np.mean(r.error**2))),
        worst=float(size.max()),
        coverage_68=inside_68,
        coverage_95=inside_95,
        log_score=log_score,
        rank=rank,
        ceiling=ceiling,
    )


def _plain(score: KindScore) -> dict[str, float | int | None]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(score).items()}

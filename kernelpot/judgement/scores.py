"""What a model is worth on labelled structures: its errors, and how far its standard deviations can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from kernelpot.data.check import place
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.stream import species_of, structure_list
from kernelpot.errors import LabelError
from kernelpot.potentials.calibration import NORMAL, ONE, Residuals, Shape
from kernelpot.potentials.prediction import Prediction, Predictor, require_potential, residuals_of
from kernelpot.potentials.training import composition_of, e0_rows, least_squares_e0
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from ase import Atoms


Judged = TypeVar("Judged")

DRAWS = 10
"""Sets of errors that the ceiling of the rank correlation is averaged over."""

RANKED = 10
"""Labels from which on tables show shares and a rank correlation: of two it is 1 or -1, whatever they are."""

MARGIN = 0.8
"""Error over that without any model from which a model is said to have learned nothing that helps."""

NO_MODEL = {"energy": "composition alone", "forces": "forces of zero", "stress": "stresses of zero"}


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
    no_model_mae, no_model_rmse
        Errors without any model: energies that depend on the composition alone, by least squares of these very labels;
        forces and stresses of zero. NaN for energies where there are hardly more than elements.
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
    no_model_mae: float = float("nan")
    no_model_rmse: float = float("nan")

    @property
    def poor(self) -> bool:
        """Whether the model is hardly better than none."""
        return self.n >= RANKED and self.rmse > MARGIN * self.no_model_rmse

    @classmethod
    def of(cls, r: Residuals, silent: Bool[np.ndarray, " n"], shape: Shape) -> KindScore:
        """Judge one kind; labels that are `silent` count in errors alone."""
        size = np.abs(r.error)
        told = r.take(~silent)
        known = bool(len(told.error) and np.isfinite(told.std).all() and (told.std > 0).all())
        inside_68 = inside_95 = log_score = rank = ceiling = float("nan")
        if known:
            z = np.abs(told.error) / told.std
            inside_68, inside_95 = (float(np.mean(z <= shape.quantile(level))) for level in (ONE, 0.95))
            log_score = float(np.mean(shape.log_density(told.error, told.std)))
            rank, ceiling = rank_and_ceiling(told.error, told.std)
        return cls(
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


@dataclass(frozen=True)
class Scores:
    """Scores of each kind over all structures, then in each group (`config_type`) where there are two or more.

    `worst_at` names the structure with the largest error of each kind: its file and number where known. `worst` holds
    that label, its prediction and standard deviation (energies per atom; one component of a force or stress).
    """

    overall: Mapping[str, KindScore]
    groups: Mapping[str, Mapping[str, KindScore]]
    n_structures: int
    worst_at: Mapping[str, str]
    worst: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on kinds that the model is no good for."""
        return tuple(
            f"{kind}: RMSE {1e3 * s.rmse:.3g} {MILLI[kind]}, where {NO_MODEL[kind]} would give "
            f"{1e3 * s.no_model_rmse:.3g}: for these structures the model is hardly better than none"
            for kind, s in self.overall.items()
            if s.poor
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; NaN becomes None."""
        return {
            "n_structures": self.n_structures,
            "worst_at": dict(self.worst_at),
            "worst": {kind: dict(found) for kind, found in self.worst.items()},
            "warnings": list(self.warnings),
            "overall": {kind: _plain(score) for kind, score in self.overall.items()},
            "groups": {g: {kind: _plain(s) for kind, s in kinds.items()} for g, kinds in self.groups.items()},
        }

    def __str__(self) -> str:
        """Return a table for people, in meV."""
        head = f"{'':<16}{'kind':<8}{'n':>8}{'MAE':>10}{'RMSE':>10}{'no model':>10}{'worst':>10}  {'unit':<9}"
        known = any(not np.isnan(s.coverage_68) for s in self.overall.values())
        head += f"{'in 68%':>8}{'in 95%':>8}{'log score':>11}{'rank':>7}{'ceiling':>9}" if known else ""
        lines = [head.rstrip()]
        for name, kinds in [("all", self.overall), *self.groups.items()]:
            for kind, s in kinds.items():
                unit, scale = MILLI[kind], 1e3
                values = (s.mae, s.rmse, s.no_model_rmse, s.worst)
                numbers = "".join(f"{'-':>10}" if np.isnan(v) else f"{scale * v:>10.2f}" for v in values)
                inside = "".join(share_of(v, s.n) for v in (s.coverage_68, s.coverage_95))
                rest = "" if np.isnan(s.log_score) else f"{s.log_score:>11.3f}"
                if not np.isnan(s.rank):
                    rest += f"{s.rank:>7.2f}{s.ceiling:>9.2f}" if s.n >= RANKED else f"{'-':>7}{'-':>9}"
                lines.append(f"{name[:15]:<16}{kind:<8}{s.n:>8}{numbers}  {unit:<9}{inside}{rest}".rstrip())
        for kind, where in self.worst_at.items():
            one, unit = self.worst.get(kind, {}), "meV/atom" if kind == "energy" else MILLI[kind]
            std = "" if np.isnan(one.get("std", np.nan)) else f" ± {1e3 * one['std']:.3g}"
            told = (
                f"; predicted {1e3 * one['predicted']:.2f}{std}, label {1e3 * one['label']:.2f} {unit}" if one else ""
            )
            lines.append(f"worst {kind}: {where}{told}")
        lines.append("no model: RMSE of energies that depend on the composition alone, of forces and stresses of zero")
        lines += [f"warning: {text}" for text in self.warnings]
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
    structures, labels = labelled(model, structures, keys, "evaluate")
    names = [place(atoms, number) for number, atoms in enumerate(structures)]
    composition = composition_of(structures, species_of(structures))
    return score(model.predict(structures, uncertainty=uncertainty), labels, names_of(structures), names, composition)


def score(
    prediction: Prediction,
    labels: Labels,
    groups: Sequence[str],
    names: Sequence[str] | None = None,
    composition: Float[np.ndarray, "structures species"] | None = None,
) -> Scores:
    """Compare predictions with labels; `groups` names each structure's group, "" for none, and `names` itself."""
    names = [f"structure {s} (from 0)" for s in range(len(labels))] if names is None else names
    residuals = residuals_of(prediction, labels)
    overall, named = compared(
        residuals, groups, lambda kind, r, silent: KindScore.of(r, silent, prediction.shape.get(kind, NORMAL))
    )
    none = residuals_of(no_model(prediction, labels, composition), labels)

    def errors(_: str, r: Residuals, __: Bool[np.ndarray, " n"]) -> tuple[float, float]:
        size = np.abs(r.error)
        return float(size.mean()), float(np.sqrt(np.mean(size**2)))

    def beside(found: dict[str, KindScore], without: Mapping[str, tuple[float, float]]) -> dict[str, KindScore]:
        unknown = (float("nan"), float("nan"))
        mae, rmse = ({kind: without.get(kind, unknown)[k] for kind in found} for k in (0, 1))
        return {kind: replace(one, no_model_mae=mae[kind], no_model_rmse=rmse[kind]) for kind, one in found.items()}

    whole, parts = compared(none, groups, errors)
    overall = beside(overall, whole)
    named = {name: beside(kinds, parts[name]) for name, kinds in named.items()}
    worst_at, worst = {}, {}
    for kind, r in residuals.items():
        k = int(np.abs(r.error).argmax())
        s = int(r.witness[k])
        label = float(labels.energy[s] / labels.n_atoms[s]) if kind == "energy" else float(none[kind].error[k])
        worst_at[kind] = names[s]
        worst[kind] = {"label": label, "predicted": label - float(r.error[k]), "std": float(r.std[k])}
    return Scores(overall, named if len(named) > 1 else {}, len(labels), worst_at, worst)


def no_model(
    prediction: Prediction, labels: Labels, composition: Float[np.ndarray, "structures species"] | None
) -> Prediction:
    """Return what is predicted without a model: energies by composition, NaN where these cannot tell, else zero."""
    energy = np.full(len(labels), np.nan)
    if composition is not None and labels.present("energy").sum() > 2 * composition.shape[1]:
        energy = composition @ least_squares_e0(e0_rows(labels, composition))
    forces = [np.zeros_like(one) for one in prediction.forces]
    return Prediction(energy, forces, 0.0 * prediction.stress, [np.zeros(len(one)) for one in forces])


def share_of(value: float, n: int) -> str:
    """Set a share of labels, or how many they are where they are few."""
    if np.isnan(value):
        return "        "
    return f"{100 * value:>7.1f}%" if n >= RANKED else f"{f'{round(value * n)}/{n}':>8}"


def compared(
    residuals: Mapping[str, Residuals],
    names: Sequence[str],
    judge: Callable[[str, Residuals, Bool[np.ndarray, " n"]], Judged | None],
) -> tuple[dict[str, Judged], dict[str, dict[str, Judged]]]:
    """Judge each kind over all structures, then in each group that has a name; None is left out.

    Which labels are silent, zero by symmetry, is settled over all structures.
    """
    silent = {kind: r.silent for kind, r in residuals.items()}

    def of(members: Bool[np.ndarray, " structures"]) -> dict[str, Judged]:
        here = {kind: members[r.witness] for kind, r in residuals.items()}
        found = {
            kind: judge(kind, r.take(here[kind]), silent[kind][here[kind]])
            for kind, r in residuals.items()
            if here[kind].any()
        }
        return {kind: judged for kind, judged in found.items() if judged is not None}

    every = np.array(names)
    return of(np.ones(len(every), dtype=bool)), {name: of(every == name) for name in sorted({n for n in names if n})}


def _plain(score: KindScore) -> dict[str, float | int | None]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(score).items()}


def labelled(
    model: object, structures: Sequence[Atoms], keys: Mapping[str, str | None] | None, what: str
) -> tuple[list[Atoms], Labels]:
    """Return structures and their labels, for a potential."""
    require_potential(model)
    structures = structure_list(structures)
    labels = resolve(structures, keys)
    if not any(labels.present(kind).any() for kind in MILLI):
        raise LabelError(f"{what} needs labels, found none; name them with keys={{'energy': ..., 'forces': ...}}.")
    return structures, labels


def names_of(structures: Sequence[Atoms]) -> list[str]:
    """Return each structure's group; "" for none."""
    return [str(atoms.info.get("config_type", "")) for atoms in structures]


def rank_and_ceiling(
    error: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"], *, seed: int = 0
) -> tuple[float, float]:
    """Return the Spearman correlation of std and |error|, and its mean where the errors are drawn from the stds.

    NaN where the standard deviations are all equal.
    """
    if len(error) < 2 or not np.ptp(std) > 0.0:
        return float("nan"), float("nan")
    of_std = _standard_ranks(std)

    def correlation(sizes: Float[np.ndarray, " n"]) -> float:
        return float(np.mean(of_std * _standard_ranks(sizes))) if np.ptp(sizes) > 0.0 else float("nan")

    rng = np.random.default_rng(seed)
    drawn = [correlation(std * np.abs(rng.standard_normal(len(std)))) for _ in range(DRAWS)]
    return correlation(np.abs(error)), float(np.mean(drawn))


def _standard_ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[place]  # ties share their mean rank
    spread = ranks.std()
    result: np.ndarray = (ranks - ranks.mean()) / (spread if spread > 0.0 else 1.0)
    return result

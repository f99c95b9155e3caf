"""What a model is worth on labelled structures: its errors, and how far its standard deviations can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

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

    from kernelpot.potentials.sparse_gp import SparseGP


Judged = TypeVar("Judged")

EXPECTED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, ONE, 0.8, 0.9, 0.95, 0.99)
"""Levels of the reliability curve."""

RESAMPLES = 200
"""Resamples of the structures."""

DRAWS = 10
"""Sets of errors that the ceiling of the rank correlation is averaged over."""

RANKED = 10
"""Labels from which on tables show shares and a rank correlation: of two it is 1 or -1, whatever they are."""

MARGIN = 0.8
"""Error over that without any model from which a model is said to have learned nothing that helps."""

NO_MODEL = {"energy": "composition alone", "forces": "forces of zero", "stress": "stresses of zero"}

BINS = 10
"""Bins of equally many labels, by standard deviation."""


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
                inside = "".join(_share(v, s.n) for v in (s.coverage_68, s.coverage_95))
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
    structures, labels = _labelled(model, structures, keys, "evaluate")
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
    overall, named = _compared(
        residuals, groups, lambda kind, r, silent: KindScore.of(r, silent, prediction.shape.get(kind, NORMAL))
    )
    none = residuals_of(_no_model(prediction, labels, composition), labels)

    def errors(_: str, r: Residuals, __: Bool[np.ndarray, " n"]) -> tuple[float, float]:
        size = np.abs(r.error)
        return float(size.mean()), float(np.sqrt(np.mean(size**2)))

    def beside(found: dict[str, KindScore], without: Mapping[str, tuple[float, float]]) -> dict[str, KindScore]:
        unknown = (float("nan"), float("nan"))
        mae, rmse = ({kind: without.get(kind, unknown)[k] for kind in found} for k in (0, 1))
        return {kind: replace(one, no_model_mae=mae[kind], no_model_rmse=rmse[kind]) for kind, one in found.items()}

    whole, parts = _compared(none, groups, errors)
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


def _no_model(
    prediction: Prediction, labels: Labels, composition: Float[np.ndarray, "structures species"] | None
) -> Prediction:
    """Return what is predicted without a model: energies by composition, NaN where these cannot tell, else zero."""
    energy = np.full(len(labels), np.nan)
    if composition is not None and labels.present("energy").sum() > 2 * composition.shape[1]:
        energy = composition @ least_squares_e0(e0_rows(labels, composition))
    forces = [np.zeros_like(one) for one in prediction.forces]
    return Prediction(energy, forces, 0.0 * prediction.stress, [np.zeros(len(one)) for one in forces])


def _share(value: float, n: int) -> str:
    """Set a share of labels, or how many they are where they are few."""
    if np.isnan(value):
        return "        "
    return f"{100 * value:>7.1f}%" if n >= RANKED else f"{f'{round(value * n)}/{n}':>8}"


def _compared(
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


@dataclass(frozen=True)
class Measured:
    """A figure with its standard error over structures: their resampling; NaN for fewer than two."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.2g}"

    @classmethod
    def mean(
        cls,
        values: Float[np.ndarray, " n"],
        structure: Int[np.ndarray, " n"],
        resamples: Int[np.ndarray, "resamples structures"],
    ) -> Measured:
        """Return a mean over labels, which belong to structures that each resample holds so many times."""
        n = resamples.shape[1]
        sums, counts = np.bincount(structure, values, n), np.bincount(structure, minlength=n)
        drawn = resamples @ counts
        kept = drawn > 0
        means = (resamples @ sums)[kept] / drawn[kept]
        return cls(float(np.mean(values)), float(np.std(means)) if len(means) > 1 else float("nan"))

    @property
    def root(self) -> Measured:
        """Its square root."""
        root = float(np.sqrt(self.value))
        return Measured(root, self.error / (2.0 * root) if root > 0.0 else 0.0)


@dataclass(frozen=True)
class KindReliability:
    """Reliability of one kind of label; labels that are zero by symmetry are left out of everything but `silent`.

    Attributes
    ----------
    n, n_structures
        Labels, and structures that they belong to.
    silent
        Share of the labels that are zero by symmetry, which the model knows for certain.
    expected, observed
        Levels of intervals, and the share of labels that lie inside.
    coverage_68, coverage_95
        Share of labels inside the intervals for 68.27 % and 95 %.
    log_score
        Mean log predictive density of a label, nats: normal, or Student's t after a conformal calibration.
    rank
        Spearman correlation of standard deviation and absolute error.
    ceiling
        What `rank` would be if the errors were drawn from the predicted normal distributions.
    bin_std, bin_rmse
        Root mean squares of standard deviations and of errors in bins by standard deviation, eV/atom, eV/Å, eV/Å³.
    """

    n: int
    n_structures: int
    silent: float
    expected: tuple[float, ...]
    observed: tuple[Measured, ...]
    coverage_68: Measured
    coverage_95: Measured
    log_score: Measured
    rank: float
    ceiling: float
    bin_std: tuple[float, ...]
    bin_rmse: tuple[Measured, ...]

    @classmethod
    def of(cls, whole: Residuals, silent: Bool[np.ndarray, " n"], shape: Shape, seed: int) -> KindReliability:
        """Judge one kind by its labels that are not `silent`, of which there must be any."""
        r = whole.take(~silent)
        members, structure = np.unique(r.witness, return_inverse=True)
        # How often each structure is drawn in each resample.
        resamples = np.zeros((0, 1), dtype=np.int64)
        if len(members) > 1:
            shares = np.full(len(members), 1.0 / len(members))
            resamples = np.random.default_rng(seed).multinomial(len(members), shares, size=RESAMPLES)
        z = np.abs(r.error) / np.maximum(r.std, 1e-300)

        def mean(values: np.ndarray) -> Measured:
            return Measured.mean(values, structure, resamples)

        observed = tuple(mean((z <= shape.quantile(level)).astype(float)) for level in EXPECTED)
        order = np.array_split(np.argsort(r.std, kind="stable"), min(BINS, len(z)))
        squared = r.error**2
        rank, ceiling = rank_and_ceiling(r.error, r.std, seed=seed)
        return cls(
            n=len(z),
            n_structures=len(members),
            silent=float(silent.mean()),
            expected=EXPECTED,
            observed=observed,
            coverage_68=observed[EXPECTED.index(ONE)],
            coverage_95=observed[EXPECTED.index(0.95)],
            log_score=mean(shape.log_density(r.error, np.maximum(r.std, 1e-300))),
            rank=rank,
            ceiling=ceiling,
            bin_std=tuple(float(np.sqrt(np.mean(r.std[bin_] ** 2))) for bin_ in order),
            bin_rmse=tuple(Measured.mean(squared[bin_], structure[bin_], resamples).root for bin_ in order),
        )


@dataclass(frozen=True)
class Reliability:
    """Reliability of each kind over all structures, then in each group (`config_type`) where there are two or more."""

    overall: Mapping[str, KindReliability]
    groups: Mapping[str, Mapping[str, KindReliability]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "overall": {kind: asdict(found) for kind, found in self.overall.items()},
            "groups": {g: {kind: asdict(found) for kind, found in kinds.items()} for g, kinds in self.groups.items()},
        }

    def __str__(self) -> str:
        """Return a table for people."""
        head = f"{'':<16}{'kind':<8}{'n':>8}{'in 68%':>14}{'in 95%':>14}{'log score':>14}{'rank':>8}{'ceiling':>9}"
        lines = [head]
        for name, kinds in [("all", self.overall), *self.groups.items()]:
            for kind, r in kinds.items():
                inside = "".join(
                    f"{_with_error(100 * m.value, 100 * m.error, 1, 1):>14}" for m in (r.coverage_68, r.coverage_95)
                )
                score = _with_error(r.log_score.value, r.log_score.error, 3, 2)
                ranks = f"{'-':>8}{'-':>9}"
                if r.n >= RANKED:
                    ranks = "".join(f"{x:>{w}.2f}" if x == x else " " * w for x, w in ((r.rank, 8), (r.ceiling, 9)))
                lines.append(f"{name[:15]:<16}{kind:<8}{r.n:>8}{inside}{score:>14}{ranks}".rstrip())
        lines.append("n leaves out labels that are zero by symmetry; ± is the standard error over structures")
        lines.append("rank: Spearman correlation of std and |error|; ceiling: were the errors drawn from the stds")
        return "\n".join(lines)


def _with_error(value: float, error: float, digits: int, error_digits: int) -> str:
    """Return "value ± error", without an error where a single structure has none."""
    return f"{value:.{digits}f}" + (f" ± {error:.{error_digits}f}" if np.isfinite(error) else "")


def reliability(
    model: SparseGP,
    structures: Sequence[Atoms] | None = None,
    *,
    folds: int = 16,
    groups: bool = False,
    keys: Mapping[str, str | None] | None = None,
    seed: int = 0,
) -> Reliability:
    """Compare standard deviations and intervals with the errors on labels that the model did not see.

    Parameters
    ----------
    model
        A fitted model.
    structures
        With labels, not seen by the model. None: its training structures, each predicted without its fold.
    folds, groups
        As in `SparseGP.calibrate`, where no structures are given.
    keys
        Names of labels, as in `kernelpot.read`.
    seed
        Of resamples and draws.

    Raises
    ------
    LabelError
        There is no label.
    NotFittedError
        The model was never fitted, or holds no training structures.
    ParameterError
        The model is no potential.
    """
    if structures is None:
        prediction, train = model.left_out(folds=folds, groups=groups)
        return reliability_of(prediction, train.labels, names_of(train.structures), seed=seed)
    structures, labels = _labelled(model, structures, keys, "reliability")
    return reliability_of(model.predict(structures), labels, names_of(structures), seed=seed)


def _labelled(
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


def reliability_of(prediction: Prediction, labels: Labels, names: Sequence[str], *, seed: int = 0) -> Reliability:
    """Return the reliability of predictions; `names` are the structures' groups, "" for none."""
    prediction.require_spread()
    overall, groups = _compared(
        residuals_of(prediction, labels),
        names,
        lambda kind, r, silent: (
            None if silent.all() else KindReliability.of(r, silent, prediction.shape.get(kind, NORMAL), seed)
        ),
    )
    groups = {name: kinds for name, kinds in groups.items() if kinds}
    return Reliability(overall, groups if len(groups) > 1 else {})


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

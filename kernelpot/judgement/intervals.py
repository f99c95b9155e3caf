"""How far standard deviations and intervals can be believed, on labels that a model did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.labels import Labels
from kernelpot.judgement.scores import RANKED, compared, labelled, names_of, rank_and_ceiling
from kernelpot.potentials.calibration import NORMAL, ONE, Residuals, Shape
from kernelpot.potentials.prediction import Prediction, residuals_of

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

EXPECTED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, ONE, 0.8, 0.9, 0.95, 0.99)
"""Levels of the reliability curve."""

RESAMPLES = 200
"""Resamples of the structures."""

BINS = 10
"""Bins of equally many labels, by standard deviation."""


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
    structures, labels = labelled(model, structures, keys, "reliability")
    return reliability_of(model.predict(structures), labels, names_of(structures), seed=seed)


def reliability_of(prediction: Prediction, labels: Labels, names: Sequence[str], *, seed: int = 0) -> Reliability:
    """Return the reliability of predictions; `names` are the structures' groups, "" for none."""
    prediction.require_spread()
    overall, groups = compared(
        residuals_of(prediction, labels),
        names,
        lambda kind, r, silent: (
            None if silent.all() else KindReliability.of(r, silent, prediction.shape.get(kind, NORMAL), seed)
        ),
    )
    groups = {name: kinds for name, kinds in groups.items() if kinds}
    return Reliability(overall, groups if len(groups) > 1 else {})

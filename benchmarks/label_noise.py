"""Noises from an arm's own labels: the library's cross-validation on sums of small matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from benchmarks.label_rows import KINDS, Rows
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.subsets import alike, equal_vectors, folds
from kernelpot.potentials.noise_search import ROUNDING, FoldErrors
from kernelpot.potentials.training import FoldFactors

N_FOLDS = 8


class GramErrors(FoldErrors):
    """Leave-out errors from Gram matrices of [B | y], one for each fold and kind.

    Squared errors are quadratic forms, so that no row is needed; searches and their prior are the library's.

    Parameters
    ----------
    rows
        Rows of the split.
    chosen
        Labelled structures of the pool.
    """

    def __init__(self, rows: Rows, chosen: Sequence[int] | np.ndarray) -> None:
        chosen = np.asarray(chosen)
        self.gone = {}
        baseline = rows.baseline(chosen)
        groups = equal_vectors(rows.means[chosen], rows.n_atoms[chosen])
        n_folds = max(2, min(N_FOLDS, len(np.unique(groups))))
        blocks = alike(rows.means[chosen], groups, n_folds)
        fold = folds(blocks, n_folds, seed=0)
        self.independent = len(np.unique(blocks))
        self._own = {kind: [rows.gram(kind, chosen[fold == f], baseline) for f in range(n_folds)] for kind in KINDS}
        self._all = {kind: np.sum(grams, axis=0) for kind, grams in self._own.items()}
        self._without = {kind: [self._all[kind] - g for g in grams] for kind, grams in self._own.items()}
        count = {"energy": np.ones(len(chosen)), "forces": 3.0 * rows.n_atoms[chosen]}
        n_rows = {kind: np.bincount(fold, count[kind], n_folds).astype(np.int64) for kind in KINDS}
        self.data = FoldFactors({kind: [] for kind in KINDS}, n_rows, (rows.d - rows.n_e0,), rows.roots)
        self.scales = (1.0,)

    def left_out(self, ratio: Mapping[str, float], *, variance: bool = False) -> dict[str, LeftOut]:  # noqa: ARG002
        """Fit without each fold in turn, and score it on that fold; no witnesses are kept."""
        total = dict.fromkeys(KINDS, 0.0)
        for f in range(self.data.n_folds):
            gram = np.sum([self._without[kind][f] * ratio[kind] ** -2.0 for kind in KINDS], axis=0)
            precision = gram[:-1, :-1]
            precision[np.diag_indices_from(precision)] += self._roots**2
            factor = cholesky(precision, check_finite=False)
            known = gram[:-1, -1] + self._roots**2 * self._centre(f)
            target = solve_triangular(factor, known, trans="T", check_finite=False)
            errors = np.append(solve_triangular(factor, target, check_finite=False), -1.0)
            for kind in KINDS:
                total[kind] += max(float(errors @ self._own[kind][f] @ errors), 0.0)
        rows = {kind: int(self.data.n_rows[kind].sum()) for kind in KINDS}
        rmse = {kind: np.sqrt(total[kind] / rows[kind] + ROUNDING**2) for kind in KINDS}
        none = np.full(1, np.nan)
        return {k: LeftOut(np.array([rmse[k]]), none, np.zeros(1, int), np.array([rows[k]])) for k in KINDS}


def found_ratio(rows: Rows, chosen: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Return noise over amplitude of each kind as `noise="cv"` finds it on these labels.

    Parameters
    ----------
    rows
        Rows of the split.
    chosen
        Labelled structures of the pool.
    """
    errors = GramErrors(rows, chosen)
    return errors.search("cv", independent=errors.independent)[0]

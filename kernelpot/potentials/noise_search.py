"""Noises and amplitude from leave-out errors, or from the evidence, of fold factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import minimize

from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.errors import LabelError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.factor import triangle
from kernelpot.potentials.calibration import Calibration, calibrated, common_scale
from kernelpot.potentials.training import (
    FoldFactors,
    Rows,
    composition_of,
    e0_rows,
    fold_factors,
    least_squares_e0,
    scale_columns,
)
from kernelpot.progress import say
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

START = {"energy": 0.002, "forces": 0.1, "stress": 0.005}
"""Where the search begins, as noise over amplitude: eV/atom, eV/Å, eV/Å³ at amplitude 1 eV."""

SEARCHED = (1e-5, 10.0)
"""Range of noise over amplitude."""

STRESS_SAY = 1 / 3
"""What the log RMSE of stresses counts beside those of energies and forces, where these are settled."""

ROUNDING = 1e-10
"""Round-off of a label, in its unit. Left-out errors never count as smaller, so that their logarithms stay finite."""

SILENT = 1e-14
"""Mean square of a kind's rows (amplitude 1) below which its labels say nothing, as forces on perfect crystals do."""


class Settled(NamedTuple):
    """What a fit weighs its labels with, and what left-out folds say of it."""

    noise: Noise
    amplitude: float
    scales: tuple[float, ...]
    calibration: Calibration
    rmse: dict[str, float]


class FoldErrors:
    """Leave-out errors and evidence as functions of noise over amplitude.

    Predictions depend on the ratios alone (the E0 prior aside, which is wide). The search works with Gram matrices of
    the whitened factors: their condition is bounded by 1 + |B|²/σ², about 1e11, because the prior is I, so that a
    Cholesky solution carries about 1e-5 relative error, enough to rank settings. Whatever fails there is done again by
    QR of the stacked factors, and the final fit is always by QR.
    """

    def __init__(self, data: FoldFactors) -> None:
        self.data = data
        self.scales = (1.0,) * len(data.widths)
        self.gone: Mapping[str, Sequence[Rows]] = {}
        self._all: dict[str, Float[np.ndarray, "columns columns"]] = {}
        self._without: dict[str, list[Float[np.ndarray, "columns columns"]]] = {}
        for kind in data.kinds:
            grams = list(ordered(lambda f: f.T @ f, data.factors[kind]))
            self._all[kind] = np.sum(grams, axis=0)
            for gram in grams:
                np.subtract(self._all[kind], gram, out=gram)
            self._without[kind] = grams

    def at(self, scales: Sequence[float]) -> FoldErrors:
        """Return the errors of terms with these prior standard deviations, in units of the amplitude."""
        result = copy(self)
        result.scales = tuple(scales)
        return result

    def only(self, kinds: Sequence[str]) -> FoldErrors:
        """Return the errors of a fit to these kinds of labels alone."""
        data, result = self.data, copy(self)
        result.data = replace(
            data, factors={k: data.factors[k] for k in kinds}, n_rows={k: data.n_rows[k] for k in kinds}
        )
        return result

    def less(self, rows: Mapping[str, Sequence[Rows]]) -> FoldErrors:
        """Return the errors without these rows [B | y], for each kind those of each fold, or their triangle."""
        result = copy(self)
        result.gone = rows
        return result

    def _gram(self, kind: str, fold: int | None) -> Float[np.ndarray, "columns columns"]:
        """Return [B | y]ᵀ[B | y] of one kind and all folds but one, less what is gone."""
        gram = self._all[kind] if fold is None else self._without[kind][fold]
        for f, block in enumerate(self.gone.get(kind, ())):
            if f != fold and len(block):
                gram = gram - block.T @ block
        return gram

    @cached_property
    def _n_columns(self) -> int:
        return len(next(iter(self._all.values())))

    @property
    def _columns(self) -> Float[np.ndarray, " columns"]:
        """What the scales multiply each column by."""
        return scale_columns(self.data.widths, self.scales, self._n_columns)

    @property
    def _roots(self) -> Float[np.ndarray, " d"]:
        """Inverse standard deviations of the prior."""
        return np.ones(self._n_columns - 1) if self.data.roots is None else self.data.roots

    @property
    def telling(self) -> tuple[str, ...]:
        """Kinds whose labels depend on the weights at all; zeros by symmetry would rule the search with their RMSE."""
        data = self.data
        rows = {kind: max(1, int(data.n_rows[kind].sum())) for kind in data.kinds}
        sizes = {kind: np.trace(self._all[kind][:-1, :-1]) / rows[kind] for kind in data.kinds}
        return tuple(kind for kind, size in sizes.items() if size > SILENT) or data.kinds

    @property
    def leading(self) -> tuple[str, ...]:
        """The telling kinds but stresses, which follow; those alone where nothing else tells."""
        return tuple(kind for kind in self.telling if kind != "stress") or self.telling

    def left_out(self, ratio: Mapping[str, float], *, variance: bool = False) -> dict[str, LeftOut]:
        """Fit without each fold in turn, and score it on that fold.

        Entries are single labels where a fold's factor still holds its rows one by one (energies), else folds; their
        variances are those of the posterior at amplitude 1, without noise.
        """
        data, columns = self.data, self._columns[:-1]
        single = {kind for kind in data.kinds if list(map(len, data.factors[kind])) == data.n_rows[kind].tolist()}

        def score(fold: int) -> dict[str, LeftOut]:
            factor, weights = self.solved_without(fold, ratio)
            found = {}
            for kind in data.kinds:
                block, n = data.factors[kind][fold], int(data.n_rows[kind][fold])
                squared = _squares(block, columns * weights) + ROUNDING**2 * n / max(1, len(block))
                spread = variances_of(block, factor, columns) if variance else np.full(len(block), np.nan)
                rows = np.ones(len(block), dtype=np.int64)
                if kind not in single and n > 0:
                    squared, spread, rows = np.array([squared.sum() / n]), np.array([spread.sum() / n]), np.array([n])
                found[kind] = LeftOut(np.sqrt(squared), spread, np.full(len(rows), fold), rows, noisy=False)
            return found

        folds = list(ordered(score, range(data.n_folds)))
        return {kind: LeftOut.joined([fold[kind] for fold in folds]) for kind in data.kinds}

    def settle(self, noise: Noise | str, amplitude: float, *, independent: int) -> Settled:
        """Find the noises, the amplitude and the terms' scales where they are to be found, and calibrate."""
        data = self.data
        if data.n_folds < 2:
            if isinstance(noise, str):
                raise LabelError(
                    f'noise="{noise}" needs at least two different structures, got one; give a Noise(...).'
                )
            given = {kind: noise.sigma(kind) for kind in data.kinds}
            return Settled(noise, amplitude, self.scales, Calibration(dict.fromkeys(given, 1.0), given), {})
        if isinstance(noise, Noise):
            errors, ratio = self, {kind: noise.sigma(kind) / amplitude for kind in data.kinds}
            left = errors.left_out(ratio, variance=True)
            of_label = {kind: noise.sigma(kind) for kind in data.kinds}
        else:
            ratio, scales = self.search(noise, independent=independent)
            errors = self.at(scales)
            left = errors.left_out(ratio, variance=True)
            if noise == "cv":
                amplitude = common_scale(ratio, left, errors.leading)
            else:
                amplitude = errors.log_evidence(ratio, errors.powers if noise == "tempered" else None)[1]
            of_label = errors.residual_noise(ratio)
            noise = Noise(**{kind: ratio[kind] * amplitude if kind in ratio else None for kind in KINDS})
        left = {kind: replace(one, variance=amplitude**2 * one.variance) for kind, one in left.items() if len(one)}
        # A posterior far below the weight of the labels (forces on perfect crystals) says nothing about its factor.
        told = {
            kind: one for kind, one in left.items() if one.variance.mean() > SILENT * (ratio[kind] * amplitude) ** 2
        }
        calibration = calibrated(Calibration(dict.fromkeys(of_label, 1.0), of_label), told, "factor")
        scores = {kind: float(one.rmse) for kind, one in left.items()}
        return Settled(noise, amplitude, errors.scales, calibration, scores)

    def residual_noise(self, ratio: Mapping[str, float]) -> dict[str, float]:
        """Return what a fit to all labels leaves of each kind: √(RSS / (n - degrees of freedom spent on the kind)).

        The degrees of freedom are tr(Λ⁻¹ B_kᵀB_k/r_k²), Hastie and Tibshirani (1990), section 3.5; at least a twentieth
        of the labels counts as left over. Units of the kind.
        """
        data, columns = self.data, self._columns[:-1]
        factor, weights = self.solved_without(None, ratio)

        def spent(block: Float[np.ndarray, "rank columns"]) -> tuple[float, float]:
            misfits = _squares(block, columns * weights)
            return float(np.sum(misfits)), float(np.sum(variances_of(block, factor, columns)))

        found = {}
        for kind in data.kinds:
            misfits, freedom = np.sum(list(ordered(spent, data.factors[kind])), axis=0)
            n = max(1, int(data.n_rows[kind].sum()))
            found[kind] = float(np.sqrt(misfits / max(n - freedom / ratio[kind] ** 2, 0.05 * n)))
        return found

    def _centre(self, fold: int | None) -> Float[np.ndarray, " d"]:
        """Centre of the prior without a fold: E0 by least squares of the energies that are left, from Gram matrices."""
        centre, first = np.zeros(self._n_columns - 1), self.data.n_weights
        if fold is not None and "energy" in self.data.kinds and self.data.roots is not None:
            gram = self._gram("energy", fold)[first:, first:]
            centre[first:] = np.linalg.pinv(gram[:-1, :-1], rcond=1e-10, hermitian=True) @ gram[:-1, -1]
        return centre

    def solved_without(
        self, fold: int | None, ratio: Mapping[str, float]
    ) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
        """Return the upper factor of the precision, with the mean weights, given all folds but one."""
        grams = {kind: self._gram(kind, fold) for kind in self.data.kinds}
        gram = np.sum([g * ratio[kind] ** -2.0 for kind, g in grams.items()], axis=0)
        if any(scale != 1.0 for scale in self.scales):
            gram *= np.outer(self._columns, self._columns)
        precision = gram[:-1, :-1]
        precision[np.diag_indices_from(precision)] += self._roots**2
        try:
            factor = cholesky(precision, check_finite=False)
        except LinAlgError:
            return self._solve_by_qr(fold, ratio)
        target = solve_triangular(factor, gram[:-1, -1] + self._roots**2 * self._centre(fold), trans="T")
        return factor, solve_triangular(factor, target)

    def _solve_by_qr(
        self, fold: int | None, ratio: Mapping[str, float]
    ) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
        data = self.data.rescaled(self.scales)
        d = self._n_columns - 1
        blocks = [data.scaled(k, f, ratio[k], 1.0) for k in data.kinds for f in range(data.n_folds) if f != fold]
        known = np.column_stack([np.diag(self._roots), self._roots * self._centre(fold)])
        r = triangle(np.concatenate([known, *blocks]))
        return r[:d, :d], solve_triangular(r[:d, :d], r[:d, d])

    def log_evidence(self, ratio: Mapping[str, float], power: Mapping[str, float] | None = None) -> tuple[float, float]:
        """Return the log marginal likelihood at the best amplitude for these ratios, and that amplitude, eV.

        With Λ = P + BᵀB, P the prior's precision, and misfit ρ², log p = -n/2 log(2π e ρ²/n) - ½ log det P⁻¹Λ -
        Σ n_k log r_k (Rasmussen and Williams (2006), eq. 2.30, maximised over a common scale). Where the likelihood of
        kind k is raised to the power η_k (`power`, 1 where absent), r_k is the ratio that weights its rows, that of its
        labels is √η_k r_k, and n_k becomes η_k n_k throughout.
        """
        power = power or {}
        data, columns = self.data, self._columns[:-1]
        factor, weights = self.solved_without(None, ratio)
        misfit = float(np.sum((self._roots * weights) ** 2))
        n, log_ratio = 0.0, 0.0
        for kind in self.telling:
            rows = int(data.n_rows[kind].sum())
            eta = power.get(kind, 1.0)
            n += eta * rows
            log_ratio += eta * rows * float(np.log(np.sqrt(eta) * ratio[kind]))
            for block in data.factors[kind]:
                misfit += float(np.sum(_squares(block, columns * weights))) / ratio[kind] ** 2
            misfit += rows * (ROUNDING / ratio[kind]) ** 2
        log_determinant = 2.0 * float(np.sum(np.log(np.diag(factor)) - np.log(self._roots)))
        value = -0.5 * n * (np.log(2.0 * np.pi * np.e) + np.log(misfit / n)) - 0.5 * log_determinant - log_ratio
        return float(value), float(np.sqrt(misfit / n))

    @cached_property
    def powers(self) -> dict[str, float]:
        """Power η_k ≤ 1 of each kind's likelihood, from how much its misfits agree within a fold; 1 for energies.

        A composite likelihood overstates what its labels know by tr(H⁻¹J_k)/tr(H⁻¹H_k): H_k = B_kᵀB_k/σ² is the
        information, J_k = Σ_f u_f u_fᵀ with u_f = B_fᵀe_f/σ² the variance of the score over folds, whose labels may
        depend on each other as they like (Pauli, Racugno and Ventura (2011); Ribatet, Cooley and Davison (2012), the
        magnitude adjustment). Here e_f are the left-out misfits, H the precision at `START`, σ² from `residual_noise`.
        """
        data, columns = self.data, self._columns[:-1]
        ratio = {kind: START[kind] for kind in data.kinds}
        factor, noise = self.solved_without(None, ratio)[0], self.residual_noise(ratio)
        weights = [self.solved_without(fold, ratio)[1] for fold in range(data.n_folds)]
        found = dict.fromkeys(data.kinds, 1.0)
        for kind in set(self.telling) - {"energy"}:
            information = score = 0.0
            for block, w in zip(data.factors[kind], weights, strict=True):
                gradient = columns * (block[:, :-1].T @ (block[:, :-1] @ (columns * w) - block[:, -1]))
                score += float(np.sum(solve_triangular(factor, gradient, trans="T") ** 2))
                information += float(np.sum(variances_of(block, factor, columns)))
            found[kind] = min(1.0, noise[kind] ** 2 * information / score) if score > 0.0 else 1.0
        return found

    def search(self, how: str, *, independent: int) -> tuple[dict[str, float], tuple[float, ...]]:
        """Return the ratios, and the scales of the terms.

        They minimise Σ_kind log RMSE of left-out folds ("cv"), or maximise the "evidence" ("tempered": with `powers`).
        With "cv", energies and forces are settled as if there were no stress labels, then the ratio of these alone,
        their log RMSE counted for `STRESS_SAY`: given a third of the say from the start, stresses buy their own errors
        with those of the energies (docs/noise.md).
        """
        kinds = self.leading if how == "cv" else self.telling
        follows = len(kinds) < len(self.telling)
        errors = self.only([kind for kind in self.data.kinds if kind != "stress"]) if follows else self
        ratio, scales = errors._descend(how, kinds, {}, independent)
        if follows:
            ratio = self.at(scales)._descend(how, ("stress",), ratio, independent)[0]
        found = ", ".join(f"{k} {v:.3g}" for k, v in ratio.items())
        terms = f"; amplitudes of the terms {', '.join(f'{s:.3g}' for s in scales)}" if len(scales) > 1 else ""
        say(f"{how}: noise over amplitude {found}{terms}")
        return ratio, scales

    def _descend(
        self, how: str, kinds: Sequence[str], settled: Mapping[str, float], independent: int
    ) -> tuple[dict[str, float], tuple[float, ...]]:
        """Find the best ratios of some kinds, and the scales where nothing is settled yet.

        A log RMSE is itself a draw from as many independent witnesses as there are blocks of structures: to "cv" is
        added what a log-normal prior one decade wide about `START` would, Σ (Δ log10 ratio)²/2n for n blocks. It
        settles what few structures, or a flat valley, leave open. The same holds for the scales of a sum's further
        terms, about where they stand; the first term's is the unit.
        """
        power = self.powers if how == "tempered" else None
        weight = {kind: 1.0 for kind in self.telling if kind in kinds or kind in settled}
        if settled:
            weight["stress"] = STRESS_SAY
        start = {kind: START[kind] for kind in self.data.kinds} | dict(settled)
        given = self.scales if settled else tuple(scale / self.scales[0] for scale in self.scales)
        centre = np.log10([*(START[kind] for kind in kinds), *(() if settled else given[1:])])

        def setting(x: Float[np.ndarray, " unknowns"]) -> tuple[dict[str, float], tuple[float, ...]]:
            found = [10.0 ** float(v) for v in x]
            return start | dict(zip(kinds, found, strict=False)), given if settled else (1.0, *found[len(kinds) :])

        def loss(x: Float[np.ndarray, " unknowns"]) -> float:
            ratio, scales = setting(x)
            errors = self.at(scales)
            if how != "cv":
                return -errors.log_evidence(ratio, power)[0]
            left = errors.left_out(ratio)
            prior = float(np.sum((x - centre) ** 2)) / (2 * independent)
            return float(sum(w * np.log(left[kind].rmse) for kind, w in weight.items())) + prior

        low, high = np.log10(SEARCHED)
        simplex = np.vstack([centre, centre + np.eye(len(centre)) * 0.8])
        best = minimize(
            loss, centre, method="Nelder-Mead", bounds=[(low, high)] * len(centre),
            options={"initial_simplex": np.clip(simplex, low, high), "xatol": 0.05 if how == "cv" else 0.02,
                     "fatol": 1e-3, "maxfev": 60 * len(centre)},
        ).x  # fmt: skip
        return setting(best)


def left_out_in(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    ways: Sequence[Int[np.ndarray, " structures"]],
    *,
    kinds: Sequence[str],
) -> list[FoldErrors]:
    """Return the errors of folds for several ways to lay them, from one pass over the data."""
    cells, cell = np.unique(np.stack(list(ways)), axis=1, return_inverse=True)
    e0 = least_squares_e0(e0_rows(labels, composition_of(structures, features.species)))
    plain = features.rescaled((1.0,) * len(features.widths))
    data = fold_factors(plain, structures, labels, cell.ravel(), kinds=kinds, e0=e0)
    return [FoldErrors(data.merged(way)).at(features.scales) for way in cells]


def _squares(block: Float[np.ndarray, "rank columns"], weights: Float[np.ndarray, " d"]) -> Float[np.ndarray, " rank"]:
    """Squared misfits of rows [B | y]."""
    result: np.ndarray = (block[:, :-1] @ weights - block[:, -1]) ** 2
    return result


def variances_of(
    block: Float[np.ndarray, "rank columns"], factor: Float[np.ndarray, "d d"], columns: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " rank"]:
    """Posterior variances of the values of rows [B | y] in scaled columns, from the upper factor of the precision."""
    scaled = (block[:, :-1] * columns).T
    result: np.ndarray = np.sum(solve_triangular(factor, scaled, trans="T") ** 2, axis=0)
    return result

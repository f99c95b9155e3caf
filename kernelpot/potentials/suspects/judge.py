"""Left-out errors of single labels, from the folds of a fit, with what stands out left out of the folds in turn.

A label is predicted by the posterior given all folds but its own, at usual noises. An energy's error is compared with
the posterior's own standard deviation of it, a force's with the sizes of the forces that are predicted; both relations
are fitted to all errors by Student's t, and scaled to the median error, so that no tail rules them. What stands out at
a low threshold is taken off the folds' matrices and all is judged again (concentration steps of least trimmed squares,
Rousseeuw and Van Driessen (2006), with whole structures for points); only then the high threshold counts. A few wrong
labels can hide neither themselves nor each other that way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.data.stream import taken
from kernelpot.data.suspects import Judged, LabelCheck, explained, rms
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap
from kernelpot.features.vectors import gather_pairs
from kernelpot.linalg.factor import RowSink
from kernelpot.potentials.calibration import Residuals, Spreading
from kernelpot.potentials.noise_search import START, FoldErrors, variances_of
from kernelpot.potentials.training import (
    Rows,
    composition_of,
    labelled_rows,
    pieces_of_folds,
    scale_columns,
    whiten_columns,
)
from kernelpot.progress import say, track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ROUNDS = 5
"""Times that all labels are judged, at most."""

FEW = 0.02
"""Share of the labels that may still change sides when the last round ends."""

FEWEST = 20
"""Structures below which too little is known of the usual error."""

TRIM = {"energy": 3.5, "forces": 3.0, "atom": 8.0, "stress": 4.0}
FINAL = {"energy": 6.0, "forces": 5.0, "atom": 10.0, "stress": 8.0}
"""Errors over their usual size beyond which labels are left out meanwhile, and beyond which they stand out."""

SOFT = {**START, "energy": 50 * START["energy"]}
"""Noises of the first look: an energy in other units, tens of eV away, must not bend the whole model to itself."""

STIFF = 10.0
"""What stands out must do so with noises that are so much smaller, too: some sets need them, and are smooth there."""

WORSE = 2.0
"""The same for forces (stresses) that are predicted worse than by zero."""

FAR = 0.03
"""Usual error of an energy per atom, as a share of its distance from what its composition usually has: equations of
state under great compression are missed by so much."""

GOOD = 0.5
"""Usual error over size up to which a model is good enough for that to mean something."""

CAP = 10.0
"""Largest posterior standard deviation of an energy that counts, over the median: what little is known of a rare
composition must not excuse any error of its labels."""

QUIET = {"forces": 0.3, "atom": 0.5, "stress": 0.3}
"""Share of the usual size of predicted forces that errors scale with at least: crystals at rest."""

MEDIAN = 0.6745
"""Median of the absolute value of a standard normal distribution."""

DEVIATIONS = 30
"""Rounds of weighted least squares that stand for least absolute deviations."""

ATOMS_PER_PIECE = 512


@dataclass(frozen=True, eq=False)
class _Judges:
    """Labelled structures with the folds that a fit has laid."""

    features: FeatureMap
    structures: Sequence[Atoms]
    labels: Labels
    fold: Int[np.ndarray, " structures"]
    e0: Float[np.ndarray, " species"]
    groups: Int[np.ndarray, " structures"]

    def judge(self, errors: FoldErrors, ratio: Mapping[str, float] = START) -> Judged:
        """Predict every label by the folds that do not hold it, and say how large its error is beside the usual."""
        n, d = len(self.structures), self.features.n_weights
        columns = scale_columns(errors.data.widths, errors.scales, d + len(self.features.species))
        energy, stress, latent = np.zeros(n), np.full((n, 6), np.nan), np.zeros(n)
        forces: list[np.ndarray] = [np.zeros((0, 3))] * n
        solved = [errors.solved_without(f, ratio) for f in range(errors.data.n_folds)]
        weights = [columns * mean for _, mean in solved]
        forms = [self.features.form(self.features.unwhiten(w[:d])) for w in weights]
        pieces = pieces_of_folds(self.structures, self.fold, ATOMS_PER_PIECE)

        def part(piece: tuple[int, list[int]]) -> tuple[np.ndarray, ...]:
            f, members = piece
            batch = Batch.from_structures(taken(self.structures, members), self.features.cutoff)
            described = self.features.describe(batch)
            local, pairs = self.features.energies_and_pairs(forms[f], batch, described)
            e0 = self.e0 + E0_PRIOR * weights[f][d:]
            local = local + e0[np.searchsorted(self.features.species, batch.numbers)]
            per_atom = self.features.rows(described, ["energy"]).energy / batch.sizes[:, None]
            counts = batch.counts(self.features.species) / batch.sizes[:, None]
            rows = whiten_columns(self.features, np.column_stack([per_atom, counts, np.zeros(len(batch))]))
            variance = variances_of(rows, solved[f][0], columns)
            return batch.sum_per_structure(local), *gather_pairs(batch, pairs), variance, batch.offsets[1:-1]

        for (_, members), found in zip(track(pieces, "labels"), ordered(part, pieces), strict=True):
            energy[members], stress[members], latent[members] = found[0], found[2], np.sqrt(found[3])
            for k, one in zip(members, np.split(found[1], found[4]), strict=True):
                forces[k] = one
        return self._compared(energy, forces, stress, latent)

    def _compared(
        self,
        energy: Float[np.ndarray, " structures"],
        forces: list[Float[np.ndarray, "atoms 3"]],
        stress: Float[np.ndarray, "structures 6"],
        latent: Float[np.ndarray, " structures"],
    ) -> Judged:
        labels, n = self.labels, self.labels.n_atoms
        std, times = {}, {}
        owner = np.repeat(np.arange(len(n)), n)
        size = np.array([rms(one) for one in forces])
        per_atom = energy / n
        if labels.present("energy").any():
            error = (labels.energy - energy) / n
            shares = composition_of(self.structures, self.features.species) / n[:, None]
            off = _common(error, shares)
            energy, error = energy + n * off, error - off
            far = FAR * np.abs(per_atom - _common(per_atom, shares))
            capped = np.minimum(latent, CAP * np.median(latent))
            std["energy"] = np.hypot(_usual(error, capped, 0.0), far)
            times["energy"] = np.abs(error) / std["energy"] / labels.factor("energy")
        on_atoms, worst = [np.ones(k) for k in n], np.full(len(n), np.nan)
        if labels.present("forces").any():
            missed = [
                np.full_like(one, np.nan) if label is None else label - one
                for label, one in zip(labels.forces, forces, strict=True)
            ]
            whole = _whole(size)
            error = np.array([rms(one) for one in missed])
            std["forces"] = _usual(error, np.hypot(size, QUIET["forces"] * whole), QUIET["forces"] * whole)
            times["forces"] = error / std["forces"] / labels.factor("forces")
            each, apart = (np.linalg.norm(np.concatenate(some), axis=1) for some in (forces, missed))
            around = np.hypot(np.hypot(each, size[owner]), QUIET["atom"] * whole)
            usual = _usual(apart, around, QUIET["atom"] * whole)
            on_atoms = np.split(usual, np.cumsum(n)[:-1])
            worst = np.full(len(n), -1.0)
            np.fmax.at(worst, owner, apart / usual / labels.factor("forces")[owner])
            worst[worst < 0.0] = np.nan
        if labels.present("stress").any():
            sizes = np.array([rms(one) for one in stress])
            whole = _whole(sizes)
            error = np.array([rms(one) for one in labels.stress - stress])
            std["stress"] = _usual(error, np.hypot(sizes, QUIET["stress"] * whole), QUIET["stress"] * whole)
            times["stress"] = error / std["stress"] / labels.factor("stress")
        return Judged(energy, forces, stress, std, on_atoms, times, worst, self.groups)

    def beyond(self, judged: Judged, limits: Mapping[str, float]) -> dict[str, Bool[np.ndarray, " structures"]]:
        """Tell which labels stand out at these limits."""
        found = {kind: times > limits[kind] for kind, times in judged.times.items()}
        for kind in set(found) - {"energy"}:
            label = self.labels.forces if kind == "forces" else self.labels.stress
            size = np.array([np.nan if one is None else rms(one) for one in label])
            error = judged.times[kind] * judged.std[kind]
            large = size > QUIET[kind] * _whole(size)
            if large.any() and np.nanmedian(error[large] / size[large]) < GOOD:
                found[kind] |= large & (error > size) & (judged.times[kind] > WORSE)
        if "forces" in found:
            found["forces"] |= judged.worst > limits["atom"]
        return found

    def rows(self, out: Mapping[str, Bool[np.ndarray, " structures"]], n_folds: int) -> dict[str, list[Rows]]:
        """Return the rows [B | y] of labels that stand out, fold by fold."""
        width = self.features.n_weights + len(self.features.species) + 1
        gone: dict[str, list[Rows]] = {}
        for kind, here in out.items():
            sinks = [RowSink(width) for _ in range(n_folds)]
            for k in np.flatnonzero(here).tolist():
                made = labelled_rows(
                    self.features, taken(self.structures, [k]), self.labels.take([k]), kinds=(kind,), e0=self.e0
                )
                if kind in made:
                    sinks[self.fold[k]].append(whiten_columns(self.features, made[kind]))
            gone[kind] = [sink.compact() for sink in sinks]
        return gone


def check_folds(
    errors: FoldErrors,
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    fold: Int[np.ndarray, " structures"],
    *,
    e0: Float[np.ndarray, " species"],
    groups: Int[np.ndarray, " structures"],
    known: Labels,
) -> LabelCheck | None:
    """Return the labels that stand out; None where there are too few structures to tell.

    `labels` are what was fitted, `known` the same before a baseline was taken off.
    """
    if len(np.unique(groups)) < FEWEST or errors.data.n_folds < 2:
        return None
    here = _Judges(features, structures, labels, fold, e0, groups)
    out = {kind: np.zeros(len(fold), dtype=bool) for kind in errors.data.kinds}
    for turn in range(ROUNDS):
        judged = here.judge(errors, START if turn else SOFT)
        new, final = (
            {kind: found for kind, found in here.beyond(judged, limits).items() if kind in out}
            for limits in (TRIM, FINAL)
        )
        moved = sum(int(np.sum(new[kind] != out[kind])) for kind in out)
        if moved <= FEW * len(fold) and not any((final[kind] & ~out[kind]).any() for kind in out):
            break
        out = new
        errors = errors.less(here.rows(out, errors.data.n_folds))
    if any(found.any() for found in final.values()):
        stiff = here.judge(errors, {kind: noise / STIFF for kind, noise in START.items()})
        still = here.beyond(stiff, FINAL)
        final = {kind: found & still[kind] for kind, found in final.items()}
    if known is not labels:
        judged = judged.about(known, labels)
    check = explained(structures, known, judged, final)
    say(f"labels: {check.headline()}")
    return check


def _common(error: Float[np.ndarray, " n"], shares: Float[np.ndarray, "n species"]) -> Float[np.ndarray, " n"]:
    """Return what constants of the elements explain of errors: least absolute deviations, by weighted least squares.

    A few labels that are tens of eV off shift the constants of a fit, and with them all that holds the same elements.
    """
    told = np.isfinite(error)
    if told.sum() < 4 * shares.shape[1]:
        return np.zeros(len(error))
    x, y, constants = shares[told], error[told], np.zeros(shares.shape[1])
    for _ in range(DEVIATIONS):
        rest = np.abs(y - x @ constants)
        weight = 1.0 / np.sqrt(np.maximum(rest, 1e-9 + 1e-3 * np.median(rest)))
        constants = np.linalg.lstsq(weight[:, None] * x, weight * y, rcond=1e-8)[0]
    result: np.ndarray = shares @ constants
    return result


def _whole(sizes: Float[np.ndarray, " n"]) -> float:
    """Return the root mean square of sizes, the largest of them cut."""
    finite = sizes[np.isfinite(sizes)]
    return max(rms(np.minimum(finite, np.quantile(finite, 0.95))), 1e-9) if len(finite) else 1e-9


def _usual(error: Float[np.ndarray, " n"], expected: Float[np.ndarray, " n"], quiet: float) -> Float[np.ndarray, " n"]:
    """Return the usual size of each error: √((factor · expected)² + floor²), as a normal's standard deviation.

    Labels of which neither error nor expectation is above `quiet` do not count: zeros by symmetry.
    """
    size = np.abs(error)
    told = np.isfinite(size) & np.isfinite(expected)
    loud = told & (np.maximum(size, expected) > 1.01 * quiet)
    told = loud if loud.sum() >= FEWEST else told
    size = size[told]
    residuals = Residuals(
        size, expected[told] ** 2, np.arange(len(size)), np.ones(len(size), dtype=np.int64),
        std=np.full(len(size), np.nan),
    )  # fmt: skip
    lowest = max(1e-6, 1e-3 * float(np.median(size)))
    found = Spreading.likeliest(residuals, "conformal", lowest, len(size))
    ratio = max(float(np.median(size / found.std(residuals))) / MEDIAN, 1e-3)
    result: np.ndarray = ratio * np.hypot(found.factor * np.nan_to_num(expected), found.floor)
    return result

"""From labelled structures to triangular factors, one for each kind of label and fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch, cell_volumes
from kernelpot.data.labels import Labels
from kernelpot.data.stream import sizes_of, taken
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap, counts
from kernelpot.features.inducing import runs_of
from kernelpot.features.placing import device_of
from kernelpot.linalg.factor import RowSink
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_BATCH = 512


@dataclass(frozen=True, eq=False)
class FoldFactors:
    """Factors of [B | y] in whitened features at amplitude 1, energies per atom, nothing divided by noise.

    A factor is triangular, or the rows themselves where they are few: then each row is still one label.

    The columns are d whitened features, one E0 column per species (times its prior standard deviation), then the
    labels.

    Attributes
    ----------
    factors
        For each kind, one factor per fold; a fold without such labels has none of its rows.
    n_rows
        For each kind, labels behind each fold's factor.
    widths
        Whitened features of each term; their sum d is the number of columns that an amplitude scales.
    """

    factors: dict[str, list[Float[np.ndarray, "rank columns"]]]
    n_rows: dict[str, Int[np.ndarray, " folds"]]
    widths: tuple[int, ...]

    @property
    def n_weights(self) -> int:
        """Whitened features d."""
        return sum(self.widths)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that have any label."""
        return tuple(self.factors)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(next(iter(self.n_rows.values())))

    def rescaled(self, scales: Sequence[float]) -> FoldFactors:
        """Return the factors of terms with these prior standard deviations, in units of the amplitude."""
        if all(scale == 1.0 for scale in scales):
            return self
        columns = scale_columns(self.widths, scales, next(iter(self.factors.values()))[0].shape[1])
        factors = {kind: [block * columns for block in blocks] for kind, blocks in self.factors.items()}
        return FoldFactors(factors, self.n_rows, self.widths)

    def scaled(self, kind: str, fold: int, sigma: float, amplitude: float) -> Float[np.ndarray, "rank columns"]:
        """Return one factor at this amplitude, divided by this noise."""
        return scale_rows(self.factors[kind][fold], self.n_weights, sigma, amplitude)


def scale_columns(widths: Sequence[int], scales: Sequence[float], n_columns: int) -> Float[np.ndarray, " columns"]:
    """Return what each column of [B | y] is multiplied by: its term's scale; 1 for E0 columns and labels."""
    parts = [np.full(width, scale) for width, scale in zip(widths, scales, strict=True)]
    return np.concatenate([*parts, np.ones(n_columns - sum(widths))])


def scale_rows(
    rows: Float[np.ndarray, "rows columns"], n_weights: int, sigma: float, amplitude: float
) -> Float[np.ndarray, "rows columns"]:
    """Take rows [B | y] at amplitude 1 to an amplitude, which scales the first `n_weights` columns, and a noise."""
    scaled = rows / sigma
    scaled[:, :n_weights] *= amplitude
    return scaled


def composition_of(structures: Sequence[Atoms], species: Sequence[int]) -> Float[np.ndarray, "structures species"]:
    """Count the atoms of each species in each structure."""
    return np.array([[np.count_nonzero(atoms.numbers == z) for z in species] for atoms in structures], dtype=float)


def e0_rows(
    labels: Labels, composition: Float[np.ndarray, "structures species"]
) -> Float[np.ndarray, "energies species_plus_1"]:
    """Return [share of each species | energy per atom] of the structures that have an energy."""
    here = labels.present("energy")
    return np.column_stack([composition, labels.energy])[here] / labels.n_atoms[here, None]


def least_squares_e0(rows: Float[np.ndarray, "rows species_plus_1"]) -> Float[np.ndarray, " species"]:
    """Estimate the energy of each species from `e0_rows` or their factor (least norm where it is not unique)."""
    result: np.ndarray = np.linalg.lstsq(rows[:, :-1], rows[:, -1], rcond=1e-8)[0]
    return result


def fold_factors(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    fold: Int[np.ndarray, " structures"],
    *,
    kinds: Sequence[str],
    baseline: Float[np.ndarray, " species"],
) -> FoldFactors:
    """Stream the structures fold by fold and keep only triangles.

    Memory: folds · kinds · M² for the triangles, 4 M² for the buffers of one fold, one batch of rows. Work: dominated
    by the derivative rows (`make_rows`), then 2 M² per row for Householder QR.
    """
    factors: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    n_rows: dict[str, list[int]] = {kind: [] for kind in kinds}
    columns = features.n_columns + len(features.species) + 1
    work = pieces_of_folds(structures, fold, ATOMS_PER_BATCH)

    def rows_of(piece: tuple[int, list[int]]) -> dict[str, Float[np.ndarray, "rows m_plus"]]:
        members = piece[1]
        return labelled_rows(features, taken(structures, members), labels.take(members), kinds=kinds, baseline=baseline)

    sinks: dict[str, RowSink] = {}
    current = -1
    for (f, _), blocks in zip(track(work, "rows"), ordered(rows_of, work), strict=True):
        if f != current:
            _close(features, sinks, factors, n_rows)
            sinks = {kind: RowSink(columns, _height(kind, columns), device_of(features)) for kind in kinds}
            current = f
        for kind, block in blocks.items():
            sinks[kind].append(block)
    _close(features, sinks, factors, n_rows)
    return FoldFactors(factors, {kind: np.array(n) for kind, n in n_rows.items()}, features.widths)


def pieces_of_folds(
    structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"], n_atoms: int
) -> list[tuple[int, list[int]]]:
    """Cut every fold into lists of structures of about n_atoms atoms each."""
    sizes = sizes_of(structures)
    members = [(f, np.flatnonzero(fold == f)) for f in range(int(fold.max()) + 1)]
    return [(f, mine[a:b].tolist()) for f, mine in members for a, b in runs_of(sizes[mine], n_atoms)]


def _height(kind: str, columns: int) -> int:
    return 2 * columns if kind == "forces" else columns


def _close(
    features: FeatureMap,
    sinks: dict[str, RowSink],
    factors: dict[str, list[np.ndarray]],
    n_rows: dict[str, list[int]],
) -> None:
    # [K | y] = QR makes [K W | y] = Q (R W): whitening the triangle whitens all rows at once.
    for kind, sink in sinks.items():
        factors[kind].append(whiten_columns(features, sink.compact()))
        n_rows[kind].append(sink.n_rows)


def whiten_columns(features: FeatureMap, rows: Float[np.ndarray, "rows m_plus"]) -> Float[np.ndarray, "rows d_plus"]:
    """Whiten the kernel columns of [K | counts | y] and scale its E0 columns to unit prior."""
    m = features.n_columns
    rest = rows[:, m:].copy()
    rest[:, : len(features.species)] *= E0_PRIOR
    return np.concatenate([features.whiten(rows[:, :m]), rest], axis=1)


def labelled_rows(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    *,
    kinds: Sequence[str],
    baseline: Float[np.ndarray, " species"],
) -> dict[str, Float[np.ndarray, "rows m_plus"]]:
    """Return [K | counts | y] of the labels that are there: energies per atom less the baseline, forces, stresses."""
    batch = Batch.from_structures(structures, features.cutoff)
    described = features.describe(batch)
    needed = [kind for kind in kinds if labels.present(kind).any()]
    rows = features.rows(described, needed)
    composition = counts(batch, features.species)
    n = batch.sizes.astype(float)
    n_species = len(features.species)
    result = {}
    if "energy" in needed:
        y = (labels.energy - composition @ baseline) / n
        block = np.concatenate([rows.energy / n[:, None], composition / n[:, None], y[:, None]], axis=1)
        result["energy"] = block[labels.present("energy")]
    if "forces" in needed and rows.forces is not None:
        here = np.repeat(labels.present("forces"), 3 * batch.sizes)
        y = np.concatenate([f.ravel() for f in labels.forces if f is not None])
        result["forces"] = _without_e0(rows.forces[here], y, n_species)
    if "stress" in needed and rows.stress is not None:
        y = labels.stress.ravel()
        here = np.isfinite(y) & np.repeat(np.isfinite(batch.volumes), 6)
        result["stress"] = _without_e0(rows.stress[here], y[here], n_species)
    return result


def owners(structures: Sequence[Atoms], labels: Labels, kind: str) -> Int[np.ndarray, " rows"]:
    """Return the structure, counted from 0, that each row of `labelled_rows` belongs to."""
    every = np.arange(len(structures))
    if kind == "energy":
        return every[labels.present("energy")]
    if kind == "forces":
        here = labels.present("forces")
        return np.repeat(every[here], 3 * labels.n_atoms[here])
    solid = np.isfinite(cell_volumes(np.stack([atoms.cell.array for atoms in structures])))
    here = np.isfinite(labels.stress).ravel() & np.repeat(solid, 6)
    return np.repeat(every, 6)[here]


def _without_e0(
    rows: Float[np.ndarray, "rows m"], y: Float[np.ndarray, " rows"], n_species: int
) -> Float[np.ndarray, "rows m_plus"]:
    return np.concatenate([rows, np.zeros((len(rows), n_species)), y[:, None]], axis=1)

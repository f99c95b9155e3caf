"""From labelled structures to triangular factors, one for each kind of label and fold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch, cell_volumes
from kernelpot.data.check import place
from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.data.stream import chunks, runs_of, sizes_of, taken
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import E0_ABOUT, E0_PRIOR, FeatureMap
from kernelpot.features.torch import device_of, on_device
from kernelpot.linalg.factor import RowSink, triangle
from kernelpot.linalg.workers import spread
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_BATCH = 512

ATOMS_PER_TASK = 4096
"""Atoms whose rows a worker turns into one triangle for each kind."""

RANK = 1e-8
"""Singular values of the labelled compositions, over the largest, that tell nothing."""

Rows = Float[np.ndarray, "rows columns"]
"""[B | y], or in raw columns [K | counts | y]."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a model was fitted to, with the labels as they were read then, in one order."""

    structures: Sequence[Atoms]
    labels: Labels

    def __len__(self) -> int:
        return len(self.structures)

    def require(self, n_labels: Mapping[str, int], kinds: Sequence[str]) -> None:
        """Refuse to stand for the training set of a model with so many labels of these kinds, if it is another."""
        count = {
            "energy": int(self.labels.present("energy").sum()),
            "forces": int(np.isfinite(self.labels.all_forces).sum()),
            "stress": int(np.isfinite(self.labels.stress).sum()),
        }
        expected = {kind: n for kind, n in n_labels.items() if n}
        found = {kind: n for kind, n in count.items() if kind in kinds and n}
        if expected != found:
            raise ParameterError(
                f"`training` must be the structures that the model was fitted to, whose labels are {expected}; found "
                f"{found}. Structures that it has not seen go into `held_out`."
            )

    def refuse_members(self, held_out: Sequence[Atoms]) -> None:
        """Refuse held-out structures that are the very objects of this set."""
        known = set(map(id, self.structures))
        seen = [k for k, atoms in enumerate(held_out) if id(atoms) in known]
        if seen:
            raise ParameterError(
                f"`held_out` must be structures that the model has not seen, but structure {seen[0]} (from 0) is one "
                f"that it was fitted to ({len(seen)} in all); call calibrate() to leave training structures out by "
                "folds."
            )

    def refuse_strangers(self, structures: Sequence[Atoms]) -> None:
        """Refuse structures that equal none of this set."""

        def mark(atoms: Atoms) -> tuple[bytes, bytes, bytes]:
            return atoms.numbers.tobytes(), atoms.positions.tobytes(), np.asarray(atoms.cell.array).tobytes()

        known = set(map(mark, self.structures))
        for number, atoms in enumerate(structures):
            if mark(atoms) not in known:
                raise ParameterError(
                    f"{place(atoms, number)} cannot be removed: it is none of the structures that the model was fitted "
                    "to."
                )


@dataclass(frozen=True, eq=False)
class FoldFactors:
    """Factors of [B | y] in whitened features at amplitude 1, energies per atom, nothing divided by noise.

    The columns are d whitened features, one E0 column per species (times its prior standard deviation), then the
    labels.
    """

    # For each kind, one per fold: triangular, or the rows themselves where they are few, each then one label
    factors: dict[str, list[Rows]]
    n_rows: dict[str, Int[np.ndarray, " folds"]]  # For each kind, labels behind each fold's factor
    # Whitened features of each term; their sum d is the number of columns that an amplitude scales
    widths: tuple[int, ...]
    # Inverse standard deviations of the prior, of features and E0 columns; None: 1
    roots: Float[np.ndarray, " d_plus_species"] | None = None

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

    @classmethod
    def of(
        cls, features: FeatureMap, kinds: Sequence[str], folds: Iterable[Mapping[str, tuple[Rows, int]]]
    ) -> FoldFactors:
        """Whiten the triangles of [K | y], with their numbers of labels, fold by fold.

        [K | y] = QR makes [K W | y] = Q (R W): whitening the triangle whitens all rows at once.
        """
        factors: dict[str, list[Rows]] = {kind: [] for kind in kinds}
        n_rows: dict[str, list[int]] = {kind: [] for kind in kinds}
        for fold in folds:
            for kind, (block, n) in fold.items():
                factors[kind].append(whiten_columns(features, block))
                n_rows[kind].append(n)
        roots = prior_roots(features, e0_spread(features, 1.0))
        return cls(factors, {kind: np.array(n) for kind, n in n_rows.items()}, features.widths, roots)

    def rescaled(self, scales: Sequence[float]) -> FoldFactors:
        """Return the factors of terms with these prior standard deviations, in units of the amplitude."""
        if all(scale == 1.0 for scale in scales):
            return self
        columns = scale_columns(self.widths, scales, next(iter(self.factors.values()))[0].shape[1])
        factors = {kind: [block * columns for block in blocks] for kind, blocks in self.factors.items()}
        return replace(self, factors=factors)

    def merged(self, fold: Int[np.ndarray, " folds"]) -> FoldFactors:
        """Return the factors of larger folds: `fold` says which of these each of the present ones belongs to."""
        members = [np.flatnonzero(fold == f).tolist() for f in range(int(fold.max()) + 1)]
        factors = {
            kind: [np.concatenate([blocks[k] for k in mine]) for mine in members]
            for kind, blocks in self.factors.items()
        }
        n_rows = {kind: np.array([n[mine].sum() for mine in members]) for kind, n in self.n_rows.items()}
        return replace(self, factors=factors, n_rows=n_rows)

    def scaled(self, kind: str, fold: int, sigma: float, amplitude: float) -> Float[np.ndarray, "rank columns"]:
        """Return one factor at this amplitude, divided by this noise."""
        return scale_rows(self.factors[kind][fold], self.n_weights, sigma, amplitude)


def scale_columns(widths: Sequence[int], scales: Sequence[float], n_columns: int) -> Float[np.ndarray, " columns"]:
    """Return what each column of [B | y] is multiplied by: its term's scale; 1 for E0 columns and labels."""
    parts = [np.full(width, scale) for width, scale in zip(widths, scales, strict=True)]
    return np.concatenate([*parts, np.ones(n_columns - sum(widths))])


def scale_rows(rows: Rows, n_weights: int, sigma: float, amplitude: float) -> Rows:
    """Take rows [B | y] at amplitude 1 to an amplitude, which scales the first `n_weights` columns, and a noise."""
    scaled = rows / sigma
    scaled[:, :n_weights] *= amplitude
    return scaled


def e0_spread(features: FeatureMap, amplitude: float) -> float:
    """Return how far energy constants may move about the least squares of the energies, eV.

    `E0_ABOUT` of the amplitude where a kernel carries a constant of its own, as then what no environment explains is
    left to the composition; else E0_PRIOR: pair energies and linear terms have no other constant.
    """
    return min(E0_ABOUT * amplitude, E0_PRIOR) if features.has_constant else E0_PRIOR


def prior_roots(features: FeatureMap, e0_std: float) -> Float[np.ndarray, " d_plus_species"]:
    """Return the inverse standard deviations of the prior of [features | E0 columns] that labels are fitted under.

    E0 is E0_PRIOR times its column's weight.
    """
    return np.concatenate([np.ones(features.n_weights), np.full(len(features.species), E0_PRIOR / e0_std)])


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
    result: np.ndarray = np.linalg.lstsq(rows[:, :-1], rows[:, -1], rcond=RANK)[0]
    return result


def unknown_constants(shares: Float[np.ndarray, "energies species"], e0_std: float) -> Float[np.ndarray, "species k"]:
    """Return N with |composition · N|² the variance, eV², of energy constants that no labelled energy tells apart.

    The prior of E0 is narrow about a least-squares estimate, which is none along compositions that were never seen:
    there E0_PRIOR holds.  `shares` may be the triangular factor of all labelled structures' compositions.
    """
    _, sizes, directions = np.linalg.svd(shares, full_matrices=True)
    seen = int((sizes > RANK * max(sizes, default=0.0)).sum())
    result: np.ndarray = np.sqrt(E0_PRIOR**2 - e0_std**2) * directions[seen:].T
    return result


def fold_factors(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    fold: Int[np.ndarray, " structures"],
    *,
    kinds: Sequence[str],
    e0: Float[np.ndarray, " species"],
) -> FoldFactors:
    """Stream the structures fold by fold and keep only triangles.

    Memory: folds · kinds · M² for the triangles, 4 M² for the buffers of one fold, one batch of rows. Work: dominated
    by the derivative rows, then 2 M² per row for Householder QR.
    """
    columns = features.n_columns + len(features.species) + 1
    work = pieces_of_folds(structures, fold, ATOMS_PER_BATCH)

    def rows_of(piece: tuple[int, list[int]]) -> dict[str, Rows]:
        members = piece[1]
        return labelled_rows(features, taken(structures, members), labels.take(members), kinds=kinds, e0=e0)

    def triangles() -> Iterator[dict[str, tuple[Rows, int]]]:
        done = zip(track(work, "rows"), ordered(rows_of, work), strict=True)
        for _, pieces in groupby(done, key=lambda piece: piece[0][0]):
            heights = {kind: 2 * columns if kind == "forces" else columns for kind in kinds}
            sinks = {kind: RowSink(columns, heights[kind], device_of(features)) for kind in kinds}
            for _, blocks in pieces:
                for kind, block in blocks.items():
                    sinks[kind].append(block)
            yield {kind: (sink.compact(), sink.n_rows) for kind, sink in sinks.items()}

    return FoldFactors.of(features, kinds, triangles())


def pieces_of_folds(
    structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"], n_atoms: int
) -> list[tuple[int, list[int]]]:
    """Cut every fold into lists of structures of about n_atoms atoms each."""
    sizes = sizes_of(structures)
    members = [(f, np.flatnonzero(fold == f)) for f in range(int(fold.max()) + 1)]
    return [(f, mine[a:b].tolist()) for f, mine in members for a, b in runs_of(sizes[mine], n_atoms)]


def whiten_columns(features: FeatureMap, rows: Rows) -> Rows:
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
    e0: Float[np.ndarray, " species"],
) -> dict[str, Rows]:
    """Return [K | counts | y] of the labels that are there: energies per atom less E0, forces, stresses.

    Those of a structure whose noise is multiplied by a factor are divided by it.
    """
    batch = Batch.from_structures(structures, features.cutoff)
    described = features.describe(batch)
    needed = [kind for kind in kinds if labels.present(kind).any()]
    rows = features.rows(described, needed)
    composition = batch.counts(features.species)
    n = batch.sizes.astype(float)

    def without_e0(rows: Rows, y: Float[np.ndarray, " rows"]) -> Rows:
        return np.concatenate([rows, np.zeros((len(rows), len(features.species))), y[:, None]], axis=1)

    result = {}
    if "energy" in needed:
        y = (labels.energy - composition @ e0) / n
        block = np.concatenate([rows.energy / n[:, None], composition / n[:, None], y[:, None]], axis=1)
        result["energy"] = block[labels.present("energy")]
    if "forces" in needed and rows.forces is not None:
        y = np.concatenate(
            [
                np.full(3 * n, np.nan) if f is None else f.ravel()
                for f, n in zip(labels.forces, batch.sizes, strict=True)
            ]
        )
        here = np.isfinite(y)
        result["forces"] = without_e0(rows.forces[here], y[here])
    if "stress" in needed and rows.stress is not None:
        y = labels.stress.ravel()
        here = np.isfinite(y) & np.repeat(np.isfinite(batch.volumes), 6)
        result["stress"] = without_e0(rows.stress[here], y[here])
    for kind in set(result) & set(labels.factors):
        result[kind] = result[kind] / labels.factor(kind)[row_owners(structures, labels, kind), None]
    return result


def weighed_rows(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    noise: Noise,
    amplitude: float,
    e0: Float[np.ndarray, " species"],
) -> dict[str, Rows]:
    """Return [B | y] of the labels that are there and have a noise: whitened, at an amplitude, divided by noise."""
    rows = labelled_rows(features, structures, labels, kinds=noise.kinds, e0=e0)
    return {
        kind: scale_rows(whiten_columns(features, block), features.n_weights, noise.sigma(kind), amplitude)
        for kind, block in rows.items()
    }


def row_owners(structures: Sequence[Atoms], labels: Labels, kind: str) -> Int[np.ndarray, " rows"]:
    """Return the structure, counted from 0, that each row of `labelled_rows` belongs to."""
    every = np.arange(len(structures))
    if kind == "energy":
        return every[labels.present("energy")]
    if kind == "forces":
        told = [0 if f is None else int(np.isfinite(f).sum()) for f in labels.forces]
        return np.repeat(every, told)
    solid = np.isfinite(cell_volumes(np.stack([atoms.cell.array for atoms in structures])))
    here = np.isfinite(labels.stress).ravel() & np.repeat(solid, 6)
    return np.repeat(every, 6)[here]


# ---- by several processes


@dataclass(frozen=True, eq=False)
class Workers:
    """Processes that a fit is spread over: local ones of one thread each, or the address of a running Dask cluster."""

    number: int = 0
    scheduler: str | None = None


@dataclass(frozen=True, eq=False)
class _Task:
    """Structures of one fold, with all that their rows need."""

    place: int
    fold: int
    features: FeatureMap
    structures: list[Atoms]
    labels: Labels
    kinds: tuple[str, ...]
    e0: Float[np.ndarray, " species"]

    def triangles(self) -> list[_Triangle]:
        """Turn the rows into one triangle for each kind."""
        columns = self.features.n_columns + len(self.features.species) + 1
        sinks = {kind: RowSink(columns) for kind in self.kinds}
        for start, stop in chunks(self.structures, ATOMS_PER_BATCH):
            part = self.labels.take(list(range(start, stop)))
            rows = labelled_rows(self.features, self.structures[start:stop], part, kinds=self.kinds, e0=self.e0)
            for kind, block in rows.items():
                sinks[kind].append(block)
        return [
            _Triangle(self.place, self.fold, kind, sink.n_rows, sink.compact())
            for kind, sink in sinks.items()
            if sink.n_rows
        ]


@dataclass(frozen=True, eq=False)
class _Triangle:
    """Rows [K | counts | y] of some labels of one kind and fold, or their triangle where they are many."""

    place: int
    fold: int
    kind: str
    n_rows: int
    block: Rows

    @staticmethod
    def merged(pair: tuple[_Triangle, _Triangle]) -> _Triangle:
        """Put two together; rows stay rows while they are no more than the columns."""
        one, two = pair
        n_rows, block = one.n_rows + two.n_rows, np.concatenate([one.block, two.block])
        if n_rows > block.shape[1]:
            block = triangle(block)
        return _Triangle(one.place, one.fold, one.kind, n_rows, block)


def distributed_factors(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    fold: Int[np.ndarray, " structures"],
    *,
    kinds: Sequence[str],
    e0: Float[np.ndarray, " species"],
    workers: Workers,
) -> FoldFactors:
    """Return what `fold_factors` does, to round-off: R of a QR with positive diagonal does not depend on the order.

    A worker turns the rows of about 4,096 atoms into triangles; triangles of one kind and fold are merged in pairs, on
    workers, until one is left: log2 of their number rounds (communication-avoiding QR: Demmel et al., SIAM J. Sci.
    Comput. 34, A206 (2012)).
    """
    host = on_device(features, None)
    pieces = pieces_of_folds(structures, fold, ATOMS_PER_TASK)
    tasks = (
        _Task(place, f, host, taken(structures, members), labels.take(members), tuple(kinds), e0)
        for place, (f, members) in enumerate(pieces)
    )
    address = {"workers": workers.number, "scheduler": workers.scheduler}
    done = spread(_Task.triangles, tasks, **address)  # type: ignore[arg-type]
    parts = [part for some in track(done, "rows", total=len(pieces)) for part in some]
    while pairs := _paired(parts):
        merged = list(spread(_Triangle.merged, pairs, **address))  # type: ignore[arg-type]
        busy = {id(part) for pair in pairs for part in pair}
        parts = [part for part in parts if id(part) not in busy] + merged
    table = {(part.kind, part.fold): (part.block, part.n_rows) for part in parts}
    nothing = np.zeros((0, host.n_columns + len(host.species) + 1)), 0
    folds = ({kind: table.get((kind, f), nothing) for kind in kinds} for f in range(int(fold.max()) + 1))
    return FoldFactors.of(host, kinds, folds)


def _paired(parts: Sequence[_Triangle]) -> list[tuple[_Triangle, _Triangle]]:
    """Pair up the parts of each kind and fold, neighbours in the order of the structures."""
    groups: dict[tuple[str, int], list[_Triangle]] = {}
    for part in sorted(parts, key=lambda part: part.place):
        groups.setdefault((part.kind, part.fold), []).append(part)
    return [(some[k], some[k + 1]) for some in groups.values() for k in range(0, len(some) - 1, 2)]

"""Triangular factors of a fit made by several processes: rows to triangles on workers, then triangles pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.labels import Labels
from kernelpot.data.stream import taken
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import chunks
from kernelpot.features.placing import on_device
from kernelpot.linalg.factor import RowSink, triangle
from kernelpot.linalg.workers import spread
from kernelpot.potentials.training import (
    ATOMS_PER_BATCH,
    FoldFactors,
    labelled_rows,
    pieces_of_folds,
    whiten_columns,
)
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_TASK = 4096
"""Atoms whose rows a worker turns into one triangle for each kind."""


@dataclass(frozen=True, eq=False)
class Workers:
    """Processes that a fit is spread over.

    Attributes
    ----------
    number
        Local processes of one thread each; 0 where a scheduler is given.
    scheduler
        Address of a running Dask cluster, such as tcp://host:8786.
    """

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
    baseline: Float[np.ndarray, " species"]


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows [K | counts | y] of some labels of one kind and fold, or their triangle where they are many."""

    place: int
    fold: int
    kind: str
    n_rows: int
    block: Float[np.ndarray, "rank columns"]


def distributed_factors(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    fold: Int[np.ndarray, " structures"],
    *,
    kinds: Sequence[str],
    baseline: Float[np.ndarray, " species"],
    workers: Workers,
) -> FoldFactors:
    """Return what `fold_factors` does, to round-off: R of a QR with positive diagonal does not depend on the order.

    A worker turns the rows of about 4,096 atoms into triangles; triangles of one kind and fold are merged in pairs, on
    workers, until one is left: log2 of their number rounds (communication-avoiding QR: Demmel et al., SIAM J. Sci.
    Comput. 34, A206 (2012)).

    Raises
    ------
    ParameterError
        Dask is not installed.
    StoreError
        A worker died, or the cluster cannot be reached.
    """
    host = on_device(features, None)
    pieces = pieces_of_folds(structures, fold, ATOMS_PER_TASK)
    tasks = (
        _Task(place, f, host, taken(structures, members), labels.take(members), tuple(kinds), baseline)
        for place, (f, members) in enumerate(pieces)
    )
    address = {"workers": workers.number, "scheduler": workers.scheduler}
    found = spread(_triangles, tasks, **address)  # type: ignore[arg-type]
    parts = [part for some in track(found, "rows", total=len(pieces)) for part in some]
    while pairs := _paired(parts):
        merged = list(spread(_merge, pairs, **address))  # type: ignore[arg-type]
        busy = {id(part) for pair in pairs for part in pair}
        parts = [part for part in parts if id(part) not in busy] + merged
    return _assembled(host, parts, tuple(kinds), int(fold.max()) + 1)


def _assembled(features: FeatureMap, parts: Sequence[_Part], kinds: tuple[str, ...], n_folds: int) -> FoldFactors:
    columns = features.n_columns + len(features.species) + 1
    table = {(part.kind, part.fold): part for part in parts}
    empty = np.zeros((0, columns))
    factors: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    n_rows: dict[str, list[int]] = {kind: [] for kind in kinds}
    for kind in kinds:
        for f in range(n_folds):
            part = table.get((kind, f))
            factors[kind].append(whiten_columns(features, empty if part is None else part.block))
            n_rows[kind].append(0 if part is None else part.n_rows)
    return FoldFactors(factors, {kind: np.array(n) for kind, n in n_rows.items()}, features.widths)


def _triangles(task: _Task) -> list[_Part]:
    """Turn the rows of a task into one part for each kind."""
    columns = task.features.n_columns + len(task.features.species) + 1
    sinks = {kind: RowSink(columns) for kind in task.kinds}
    for start, stop in chunks(task.structures, ATOMS_PER_BATCH):
        rows = labelled_rows(
            task.features, task.structures[start:stop], task.labels.take(list(range(start, stop))),
            kinds=task.kinds, baseline=task.baseline,
        )  # fmt: skip
        for kind, block in rows.items():
            sinks[kind].append(block)
    return [
        _Part(task.place, task.fold, kind, sink.n_rows, sink.compact()) for kind, sink in sinks.items() if sink.n_rows
    ]


def _paired(parts: Sequence[_Part]) -> list[tuple[_Part, _Part]]:
    """Pair up the parts of each kind and fold, neighbours in the order of the structures."""
    groups: dict[tuple[str, int], list[_Part]] = {}
    for part in sorted(parts, key=lambda part: part.place):
        groups.setdefault((part.kind, part.fold), []).append(part)
    return [(some[k], some[k + 1]) for some in groups.values() for k in range(0, len(some) - 1, 2)]


def _merge(pair: tuple[_Part, _Part]) -> _Part:
    """Put two parts together; rows stay rows while they are no more than the columns."""
    one, two = pair
    n_rows, block = one.n_rows + two.n_rows, np.concatenate([one.block, two.block])
    if n_rows > block.shape[1]:
        block = triangle(block)
    return _Part(one.place, one.fold, one.kind, n_rows, block)

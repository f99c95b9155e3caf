"""What is to be predicted, summed over all chunks: the second moment of the pool's labels as a triangular factor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import KINDS
from kernelpot.errors import ParameterError, StoreError
from kernelpot.linalg.factor import RowSink, stack
from kernelpot.linalg.store import ChunkStore, digest
from kernelpot.linalg.workers import spread
from kernelpot.pools.block_store import BlockStore
from kernelpot.progress import track

GROUPS = 16
"""Runs of chunks whose factors are kept: a run that is killed repeats one of them at most."""


def target_root(
    store: BlockStore,
    *,
    weights: Mapping[str, float] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
) -> Float[np.ndarray, "d q"]:
    """Return L with ``L Lᵀ = Σ_kind ω_kind · mean over the true rows of that kind of rowᵀ row``, equal structures once.

    Each run of chunks is reduced to a triangle by QR, and triangles are joined in pairs (tall and skinny QR, Demmel
    et al. 2012): no sum of squares is formed, and the order is fixed, so that the result is.

    Parameters
    ----------
    store
        A complete store.
    weights
        ω of each kind by name, 1 where not given.
    workers, scheduler
        As in `spread`.

    Raises
    ------
    ParameterError
        A name is unknown or a weight is negative or not finite.
    """
    omega = np.ones(len(KINDS))
    for kind, weight in (weights or {}).items():
        if kind not in KINDS or not (np.isfinite(weight) and weight >= 0):
            raise ParameterError(f"`weights` must be numbers >= 0 for {', '.join(KINDS)}, got {kind!r}: {weight!r}")
        omega[KINDS.index(kind)] = weight
    heads = store.catalogue.heads
    factor = np.sqrt(omega / np.maximum(store.catalogue.counts[heads].sum(axis=0), 1))
    numbers = np.unique(store.catalogue.chunk[heads])
    runs = np.array_split(numbers, min(GROUPS, len(numbers)))
    folder = store.folder / "rounds" / f"target-{digest(store.fingerprint(), factor)}"
    results = ChunkStore(folder)
    items = [(str(store.folder), str(folder), g, run, factor) for g, run in enumerate(runs) if not results.intact(g)]
    for _ in track(spread(_reduce, items, workers=workers, scheduler=scheduler), "target", total=len(items)):
        pass
    triangles = [results.read(g)["triangle"] for g in range(len(runs))]
    while len(triangles) > 1:
        triangles = [stack(triangles[k : k + 2]) for k in range(0, len(triangles), 2)]
    return np.ascontiguousarray(triangles[0].T)


def _reduce(item: tuple[str, str, int, Int[np.ndarray, " run"], Float[np.ndarray, " kinds"]]) -> None:
    """Reduce one run of chunks to a triangle."""
    folder, results, g, run, factor = item
    store = opened(folder)
    heads = store.catalogue.heads
    sink = RowSink(store.d)
    for k in run:
        part = store.chunks.read(int(k), ("rows", "kinds", "offsets"))
        mine = np.zeros(len(part["offsets"]) - 1, dtype=bool)
        mine[store.catalogue.place[heads[store.catalogue.chunk[heads] == k]]] = True
        keep = np.repeat(mine, np.diff(part["offsets"]))
        sink.append(part["rows"][keep] * factor[part["kinds"][keep], None])
    ChunkStore(results).write(g, {"triangle": sink.factor()})


_opened: dict[str, tuple[str, BlockStore]] = {}


def keep_open(store: BlockStore) -> None:
    """Let `opened` find a store, so that this process has one catalogue of it."""
    _opened.clear()
    _opened[str(store.folder)] = (store.fingerprint(), store)


def opened(folder: str) -> BlockStore:
    """Open a complete store once in a process, as its catalogue is long to read."""
    store = BlockStore(folder)
    if not store.complete:
        raise StoreError(f"{folder}: this worker must see the complete store, and does not")
    mark = store.fingerprint()
    if _opened.get(folder, ("",))[0] != mark:
        _opened.clear()
        _opened[folder] = (mark, store)
    return _opened[folder][1]

"""How a pool is divided so that each part, with what a search needs, fits in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernelpot.errors import ParameterError
from kernelpot.pools.block_store import BlockStore
from kernelpot.pools.write import BASE_GIB

MIXES = ("structures", "chunks")
MOST_PASSES = 16
"""Parts beyond which whole chunks are shared out by default, since every part would read nearly all chunks."""

_GIB = 2.0**30


@dataclass(frozen=True)
class Room:
    """Memory for one part.

    Attributes
    ----------
    memory
        What all processes may use together, GiB.
    processes
        Processes that work on parts at the same time.
    part
        Bytes that the blocks of one part may take, with what a search keeps for each.
    """

    memory: float
    processes: int
    part: float


def weights(store: BlockStore) -> Float[np.ndarray, " structures"]:
    """Bytes that every structure takes in a search: its rows in float64, small matrices G and H, and bookkeeping."""
    h = store.catalogue.heights.astype(np.float64)
    padded = np.where(h <= 4, 4, np.ceil(h / 8) * 8)
    return h * (8.0 * store.d + 40.0) + 24.0 * padded**2 + 300.0


def room(store: BlockStore, memory: float, processes: int) -> Room:
    """Say how much of the memory is left for the blocks of a part.

    Parameters
    ----------
    store
        The blocks.
    memory
        GiB for all processes together.
    processes
        Worker processes; 0 for this one alone.

    Raises
    ------
    ParameterError
        Not even one block would fit; the message says what is needed.
    """
    if not (np.isfinite(memory) and memory > 0):
        raise ParameterError(f"`memory` must be a positive number of GiB, got {memory}")
    catalogue, d = store.catalogue, store.d
    rows = np.bincount(catalogue.chunk, weights=catalogue.heights)
    item = 4 if store.manifest["settings"]["dtype"] == "float32" else 8
    reading = rows.max() * (d * 2.0 * item + 32.0)
    # Factors, C and its updates, columns of past picks (twice while they grow), and one chunk of products.
    fixed = 8.0 * (16.0 * d * d + 3 * 8192.0 * d)
    everywhere = len(catalogue) * 450.0 + BASE_GIB * _GIB
    per_process = reading + fixed + everywhere
    n = max(processes, 1)
    left = memory * _GIB - n * per_process - (everywhere if processes else 0.0)
    least = float(weights(store).max())
    if left / n < least:
        needed = (n * (per_process + least) + (everywhere if processes else 0.0)) / _GIB
        raise ParameterError(
            f"`memory` must be at least {np.ceil(100 * needed) / 100:.2f} GiB for {n} process(es), got {memory:g}; "
            "give more, use fewer workers, or write smaller chunks"
        )
    return Room(memory, processes, left / n)


def divide(
    store: BlockStore, which: Int[np.ndarray, " some"], part: float, *, mix: str | None, seed: int, level: int
) -> tuple[list[Int[np.ndarray, " members"]], str]:
    """Divide candidates at random into as few parts as fit.

    Parameters
    ----------
    store
        The blocks.
    which
        Candidates, as positions in the catalogue, in rising order.
    part
        Bytes that a part may take.
    mix
        "structures" sends every structure to a part at random, and each part reads nearly all chunks; "chunks" sends
        whole chunks, and everything is read once. None takes the first while there are no more than 16 parts.
    seed, level
        Make the division repeatable, and different in every round.

    Returns
    -------
    parts, mix
        Members of every part, in rising order, and which mix it was.
    """
    if mix is not None and mix not in MIXES:
        raise ParameterError(f"`mix` must be one of {', '.join(MIXES)}, got {mix!r}")
    size = weights(store)[which]
    if size.sum() <= part:
        return [which], mix or MIXES[0]
    rng = np.random.default_rng([seed, level])
    m = int(np.ceil(size.sum() / part))
    if (mix or ("structures" if m <= MOST_PASSES else "chunks")) == "chunks":
        return _by_chunks(store.catalogue.chunk[which], which, size, part, rng), "chunks"
    order = rng.permutation(len(which))
    while True:
        owner = np.empty(len(which), dtype=np.int64)
        owner[order] = np.arange(len(which)) * m // len(which)
        if np.bincount(owner, weights=size, minlength=m).max() <= part or m >= len(which):
            return [which[owner == p] for p in range(m)], "structures"
        m += 1


def _by_chunks(
    chunk: Int[np.ndarray, " some"],
    which: Int[np.ndarray, " some"],
    size: Float[np.ndarray, " some"],
    part: float,
    rng: np.random.Generator,
) -> list[Int[np.ndarray, " members"]]:
    """Fill one part after another with chunks in random order; a chunk that is too large goes on in the next."""
    parts: list[list[int]] = [[]]
    filled = 0.0
    for k in rng.permutation(np.unique(chunk)):
        members = np.flatnonzero(chunk == k)
        total = size[members].sum()
        if filled and filled + total > part and total <= part:
            parts.append([])
            filled = 0.0
        for s in members:
            if filled and filled + size[s] > part:
                parts.append([])
                filled = 0.0
            parts[-1].append(int(s))
            filled += size[s]
    return [which[np.sort(np.array(members))] for members in parts]

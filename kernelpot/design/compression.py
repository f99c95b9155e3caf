"""Blocks of rows made shorter without losing more than a stated share of their information."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.errors import DataError
from kernelpot.rules import real


def compress(rows: Float[np.ndarray, "rows d"], share: float) -> tuple[Float[np.ndarray, "kept d"], float]:
    """Replace rows of one label kind by fewer rows with (almost) the same information ``rowsᵀ rows``.

    Rows are rotated onto their left singular vectors and the weakest are dropped, so what is dropped is
    positive semidefinite and its trace bounds what any criterion can lose.

    Parameters
    ----------
    rows
        Rows already divided by their noise.
    share
        Largest share of the trace of ``rowsᵀ rows`` that may be dropped, in [0, 1). With 0 nothing is dropped
        and only a block with more rows than columns changes, to its triangular factor.

    Returns
    -------
    rows, discarded
        At most ``min(rows, d)`` rows, and the trace that was dropped.

    Raises
    ------
    ParameterError
        If `share` is outside [0, 1).
    DataError
        If a row is not finite.
    """
    share = real(share, "share", most=1.0)
    rows = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise DataError(
            "a block holds rows that are not finite: find the structure they were made from and set it aside"
        )
    if len(rows) > rows.shape[1]:
        rows = np.asarray(np.linalg.qr(rows, mode="r"))
    if share == 0.0 or len(rows) < 2:
        return rows, 0.0
    # The Gram matrix squares the condition number, which only blurs the order of directions far below the
    # share: the rotation itself is orthogonal, and the norms are taken from the rotated rows.
    vectors = np.linalg.eigh(rows @ rows.T)[1]
    rotated = vectors.T @ rows  # weakest first
    dropped = np.cumsum(np.einsum("rd,rd->r", rotated, rotated))
    n_dropped = int(np.searchsorted(dropped, share * dropped[-1], side="right"))
    if n_dropped == 0:
        return rows, 0.0
    return np.ascontiguousarray(rotated[n_dropped:][::-1]), float(dropped[n_dropped - 1])


def compress_block(
    rows: Float[np.ndarray, "rows d"],
    kinds: Int[np.ndarray, " rows"],
    sigma: Float[np.ndarray, " rows"],
    share: float,
    n_kinds: int = 3,
) -> tuple[
    Float[np.ndarray, "kept d"],
    Int[np.ndarray, " kept"],
    Float[np.ndarray, " kept"],
    Float[np.ndarray, " kinds"],
]:
    """Compress one structure's block, each label kind (with equal noise) by itself.

    Parameters
    ----------
    rows, kinds, sigma
        The block, the label kind of every row, and the noise each row was divided by.
    share
        As in `compress`, of each kind's own trace.
    n_kinds
        Length of the returned traces.

    Returns
    -------
    rows, kinds, sigma, discarded
        The shorter block, sorted by kind, and the trace dropped from each kind.
    """
    parts, part_kinds, part_sigma = [np.empty((0, rows.shape[1]))], [], []
    discarded = np.zeros(n_kinds)
    for kind, noise in sorted(set(zip(kinds.tolist(), sigma.tolist(), strict=True))):
        kept, lost = compress(rows[(kinds == kind) & (sigma == noise)], share)
        parts.append(kept)
        part_kinds += [kind] * len(kept)
        part_sigma += [noise] * len(kept)
        discarded[kind] += lost
    return (
        np.concatenate(parts),
        np.array(part_kinds, dtype=np.int64),
        np.array(part_sigma, dtype=np.float64),
        discarded,
    )

"""What an Information is made of: blocks of rows, how they are checked and made shorter, and environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernelpot.errors import DataError, ParameterError
from kernelpot.rules import real, reals, shown, wholes

KINDS = ("energy", "forces", "stress")
"""Label kinds; a row's kind is stored as the position in this tuple."""

LARGEST = 1e12
"""Size of a row's number beyond which sums of squares lose the prior's 1 to round-off."""


def check_kinds(kinds: Int[np.ndarray, " rows"]) -> None:
    """Refuse kinds that have no name."""
    if ((kinds < 0) | (kinds >= len(KINDS))).any():
        raise ParameterError(f"`kinds` must be positions in {KINDS}, got {sorted(set(kinds.tolist()))}")


def check_block(
    s: int, block: object, d: int | None
) -> tuple[Float[np.ndarray, "rows d"], Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return ``(rows, kinds, sigma)`` of structure s, or refuse them; d is None for the first block."""
    if not isinstance(block, tuple | list) or len(block) != 3:
        raise ParameterError(f"`blocks` must hold (rows, kinds, sigma) of each structure, got {shown(block)} for {s}")
    rows, sigma = (reals(part, f"blocks[{s}]") for part in (block[0], block[2]))
    kinds = wholes(block[1], f"blocks[{s}]")
    if rows.ndim != 2 or d not in (None, rows.shape[1]):
        raise ParameterError(
            f"the rows of block {s} must have the shape (rows, {'d' if d is None else d}), got {rows.shape}"
        )
    if kinds.shape != (len(rows),) or sigma.shape != (len(rows),):
        raise ParameterError(
            f"block {s} must have one kind and one sigma for each of {len(rows)} rows, got shapes {kinds.shape} and "
            f"{sigma.shape}"
        )
    check_kinds(kinds)
    rows = rows.astype(np.float64, copy=False)
    _check_size(rows, np.full(len(rows), s))
    return rows, kinds, sigma.astype(np.float64)


def _check_size(rows: Float[np.ndarray, "rows d"], structure: Int[np.ndarray, " rows"]) -> None:
    """Refuse numbers that are not finite, or so large that they spoil sums of squares."""
    # Not a number makes both extremes so: two passes, no array of flags.
    if rows.min(initial=0.0) >= -LARGEST and rows.max(initial=0.0) <= LARGEST:
        return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise DataError(
            f"structure {structure[bad[0]]} has rows that are not finite "
            f"({len(bad)} such rows in all): check its geometry and set it aside"
        )
    bad = np.flatnonzero((np.abs(rows) > LARGEST).any(axis=1))
    raise DataError(
        f"structure {structure[bad[0]]} has rows of up to {np.abs(rows).max():.3g}, more than {LARGEST:g}: a label "
        f"would be known to {1 / LARGEST:g} of the prior; the noise is too small, or the amplitude too large "
        f"({len(bad)} such rows in all)"
    )


def check_shapes(arrays: Mapping[str, np.ndarray], n_groups: int) -> None:
    """Refuse arrays of an Information that do not agree with each other or with the number of groups' names."""
    rows, offsets, means = arrays["rows"], arrays["offsets"], arrays["means"]
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ParameterError(f"`rows` must have the shape (rows, d) with d >= 1, got {rows.shape}")
    if offsets.ndim != 1 or len(offsets) < 1:
        raise ParameterError(f"`offsets` must have one entry more than there are structures, got {offsets.shape}")
    n_rows, n = len(rows), len(offsets) - 1
    expected = {
        "kinds": (n_rows,),
        "sigma": (n_rows,),
        "counts": (n, len(KINDS)),
        "n_atoms": (n,),
        "discarded": (n, len(KINDS)),
        "means": (n, *means.shape[1:2]),
    }
    for name, shape in expected.items():
        found = arrays[name].shape
        if found != shape:
            raise ParameterError(f"`{name}` must have the shape {shape} of {n} structures, {n_rows} rows; got {found}")
    if means.ndim != 2:
        raise ParameterError(f"`means` must have the shape (structures, F), got {means.shape}")
    if n_groups != n:
        raise ParameterError(f"`groups` must name the group of each of {n} structures, got {n_groups} names")
    if offsets[0] != 0 or offsets[-1] != n_rows or (np.diff(offsets) < 0).any():
        raise ParameterError(
            f"`offsets` must rise from 0 to the number of rows, {n_rows}; got {offsets[0]} … {offsets[-1]}"
        )


def check_values(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse values that would spoil a choice silently."""
    rows, kinds, counts = arrays["rows"], arrays["kinds"], arrays["counts"]
    structure = np.repeat(np.arange(len(counts)), np.diff(arrays["offsets"]))
    _check_size(rows, structure)
    bad = np.flatnonzero(~np.isfinite(arrays["means"]).all(axis=1))
    if len(bad):
        raise DataError(f"structure {bad[0]} has a mean descriptor that is not finite: set it aside")
    check_kinds(kinds)
    if not (np.isfinite(arrays["sigma"]) & (arrays["sigma"] > 0)).all():
        raise ParameterError("`sigma` must be positive and finite in every row")
    if not (np.isfinite(arrays["discarded"]) & (arrays["discarded"] >= 0)).all():
        raise ParameterError("`discarded` must be finite and not negative")
    if (arrays["n_atoms"] < 1).any():
        raise ParameterError(f"`n_atoms` must be at least 1, got {arrays['n_atoms'].min()}")
    present = np.zeros(counts.shape, dtype=bool)
    present[structure, kinds] = True
    if (counts < present).any():
        s, kind = np.argwhere(counts < present)[0]
        raise ParameterError(f"`counts` says structure {s} has {counts[s, kind]} {KINDS[kind]} rows, but it has some")


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
) -> tuple[
    Float[np.ndarray, "kept d"],
    Int[np.ndarray, " kept"],
    Float[np.ndarray, " kept"],
    Float[np.ndarray, " kinds"],
]:
    """Compress a structure's block, each label kind of equal noise by itself, and return what each kind loses, too."""
    parts, part_kinds, part_sigma = [np.empty((0, rows.shape[1]))], [], []
    discarded = np.zeros(len(KINDS))
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


Vectors = tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " structures+1"]]
Environments = Callable[[], Vectors]
"""Makes ``(vectors, offsets)``; the environments of structure s are ``vectors[offsets[s]:offsets[s + 1]]``."""


@dataclass(frozen=True, eq=False)
class Subset:
    """The environments of some structures of a set, in the order given."""

    whole: Environments
    chosen: Int[np.ndarray, " chosen"]

    def __call__(self) -> Vectors:
        """Make the whole and keep the part."""
        vectors, offsets = self.whole()
        lengths = np.diff(offsets)[self.chosen]
        short = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(offsets[self.chosen] - short[:-1], lengths) + np.arange(short[-1])
        return vectors[picked], short


@dataclass(frozen=True, eq=False)
class Joined:
    """The environments of one set behind those of another."""

    first: Environments
    second: Environments

    def __call__(self) -> Vectors:
        """Make both."""
        one, ones = self.first()
        two, twos = self.second()
        return np.concatenate([one, two]), np.concatenate([ones, ones[-1] + twos[1:]])

"""The information of a set without each of its structures, one after another."""

from __future__ import annotations

from collections.abc import Iterator

from kernelpot.design.information import Information
from kernelpot.design.precision import Precision


def without_each(start: Precision, info: Information) -> Iterator[tuple[int, Precision]]:
    """Yield every structure with the information of all the others.

    Nothing is ever subtracted: to take a block out of a factor loses the directions that only this block knew. Halves
    of the set are added instead, over and over, so that all leave-one-out factors together cost ``log2 n`` times one
    factorisation of the set, and ``log2 n`` factors are held at a time.

    Parameters
    ----------
    start
        Information before the set: the prior.
    info
        The set.
    """
    stack = [(start, 0, len(info))] if len(info) else []
    while stack:
        outside, first, last = stack.pop()
        if last - first == 1:
            yield first, outside
            continue
        middle = (first + last) // 2
        stack.append((_with(outside, info, first, middle), middle, last))
        stack.append((_with(outside, info, middle, last), first, middle))


def _with(precision: Precision, info: Information, first: int, last: int) -> Precision:
    """Add the blocks of a run of structures."""
    rows = info.rows[info.offsets[first] : info.offsets[last]]
    return precision.with_rows(rows) if len(rows) else precision

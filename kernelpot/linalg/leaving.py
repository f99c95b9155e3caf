"""All leave-one-out states of something that can only be added to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

State = TypeVar("State")


def without_each(start: State, n: int, add: Callable[[State, int, int], State]) -> Iterator[tuple[int, State]]:
    """Yield every item with the state that holds all the others.

    Nothing is ever subtracted: to take a block out of a triangular factor loses the directions that only this block
    knew. Halves of the items are added instead, over and over, so that all states together cost ``log2 n`` times that
    of all items, and ``log2 n`` states are held at a time.

    Parameters
    ----------
    start
        State without any item.
    n
        Number of items.
    add
        ``add(state, first, last)`` returns the state with items first to last - 1 added.
    """
    stack = [(start, 0, n)] if n else []
    while stack:
        outside, first, last = stack.pop()
        if last - first == 1:
            yield first, outside
            continue
        middle = (first + last) // 2
        stack.append((add(outside, first, middle), middle, last))
        stack.append((add(outside, middle, last), first, middle))

"""What a feature map that is no sum answers about its terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self


class Single(ABC):
    """A map of one term, which is its own unit."""

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Features, d, without the E0 columns."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of the one term."""
        return (self.n_weights,)

    @property
    def scales(self) -> tuple[float, ...]:
        """A single term is the unit."""
        return (1.0,)

    def rescaled(self, scales: Sequence[float]) -> Self:
        """Return the map itself: it has no other to be scaled against.

        Raises
        ------
        ValueError
            The scale is not 1.
        """
        if tuple(scales) != (1.0,):
            raise ValueError(f"a single term has the scale 1, got {tuple(scales)}")
        return self

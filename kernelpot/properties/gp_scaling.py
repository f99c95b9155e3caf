"""Features in units of their own spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Scaling:
    """Centre and spread of every feature."""

    centre: Float[np.ndarray, " F"]  # What is taken off
    spread: Float[np.ndarray, " F"]  # What it is divided by; 1 for a feature that does not vary

    @classmethod
    def of(cls, x: Float[np.ndarray, "n F"], *, normalise: bool) -> Scaling:
        """Measure training features, or leave them as they are."""
        if not normalise:
            return cls(np.zeros(x.shape[1]), np.ones(x.shape[1]))
        spread = x.std(axis=0)
        # The spread of equal numbers is round-off.
        return cls(x.mean(axis=0), np.where(spread > 1e-12 * np.abs(x).max(axis=0), spread, 1.0))

    def apply(self, x: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
        """Return scaled features."""
        return (x - self.centre) / self.spread

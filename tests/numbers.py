"""Comparing results of the same calculation."""

from __future__ import annotations

import numpy as np


def same(one: np.ndarray, other: np.ndarray, tolerance: float = 1e-12) -> None:
    """Equal but for the order of sums, which in compiled loops depends on where in memory an array begins."""
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max(initial=0.0))

"""What a kernel between structures, or between vectors of features, has to offer."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float


class Kernel(Protocol):
    """A positive semidefinite function of two items; items are structures, or rows of a feature matrix."""

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j), symmetric to the last bit and at half the cost."""

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values, for model files and reports."""

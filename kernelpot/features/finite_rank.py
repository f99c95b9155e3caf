"""What maps share whose features are the whole prior: nothing is left out of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


class FiniteRank:
    """No residual covariance."""

    def energy_residual(
        self,
        left: Any,  # noqa: ARG002
        right: Any,  # noqa: ARG002
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros((len(white[0]), len(white[1])))

    def block_residual(
        self,
        described: Any,  # noqa: ARG002
        kind: str,  # noqa: ARG002
        number: int,  # noqa: ARG002
        white: Float[np.ndarray, "c d"],
    ) -> Float[np.ndarray, "c c"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros((len(white), len(white)))

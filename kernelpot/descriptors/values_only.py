"""Environment vectors of descriptors that have no derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kernelpot.descriptors.protocol import Displacements
from kernelpot.errors import ParameterError


@dataclass(frozen=True, eq=False)
class ValuesOnly:
    """Vectors that are compared, and never differentiated.

    Attributes
    ----------
    vectors
        One for each atom.
    why
        What to do instead, for whoever asks for derivatives.
    """

    vectors: Float[np.ndarray, "atoms f"]
    why: str

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(self.why)

    def displacements(self, start: int, stop: int) -> Displacements:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(self.why)

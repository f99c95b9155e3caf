"""What maps share whose features are the whole prior: nothing is left out of their rows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.features.feature_map import Form


class HasForm(Protocol):
    """A map with energies."""

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> Form:
        """Return the energy with these weights of raw columns, eV."""


class FiniteRank:
    """No residual covariance."""

    def drawn_form(
        self: HasForm,
        weights: Float[np.ndarray, " m"],
        rng: np.random.Generator,  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> Form:
        """Return the map's `form`: its features leave nothing to be drawn."""
        return self.form(weights)

    def residual(
        self,
        described: Any,  # noqa: ARG002
        kind: str,  # noqa: ARG002
        white: Float[np.ndarray, "rows d"],
    ) -> Float[np.ndarray, " rows"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros(len(white))

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

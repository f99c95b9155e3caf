"""Errors of labels that a posterior did not see, beside what it expected of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Errors of labels by a posterior that did not see them, beside what it expected: the evidence of all that judges.

    Attributes
    ----------
    error
        Label minus prediction; of entries that stand for several labels the root mean square.
    variance
        Expected square of the error, alike for all outputs or of each; NaN where it was not asked for.
    witness
        Number of the independent part of the data, a structure or a fold, that an entry belongs to.
    rows
        Labels that an entry stands for.
    noisy
        Whether `variance` holds the noise of a label, or is that of the function alone.
    """

    error: Float[np.ndarray, "n *outputs"]
    variance: Float[np.ndarray, "n *outputs"]
    witness: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    noisy: bool = True

    @classmethod
    def one_by_one(
        cls, error: Float[np.ndarray, "n *outputs"], variance: Float[np.ndarray, "n *outputs"], *, noisy: bool = True
    ) -> LeftOut:
        """Return single labels, each a witness of its own."""
        return cls(error, variance, np.arange(len(error)), np.ones(len(error), dtype=np.int64), noisy)

    @staticmethod
    def joined(parts: Sequence[LeftOut]) -> LeftOut:
        """Return the entries of several, one after another."""
        error, variance, witness, rows = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("error", "variance", "witness", "rows")
        )
        return LeftOut(error, variance, witness, rows, parts[0].noisy)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.rows)

    @property
    def squared(self) -> Float[np.ndarray, "n *outputs"]:
        """Squared errors."""
        return np.square(self.error)

    @property
    def rmse(self) -> Float[np.ndarray, "*outputs"]:
        """Root mean square error of all labels, of each output."""
        return np.sqrt(self.mean(self.squared))

    @property
    def ratio(self) -> Float[np.ndarray, "*outputs"]:
        """Mean over entries of the squared error by its expectation: 1 where variances are right."""
        found: np.ndarray = np.mean(self.squared / self._alike(self.variance), axis=0)
        return found

    def mean(self, values: Float[np.ndarray, "n *outputs"]) -> Float[np.ndarray, "*outputs"]:
        """Return the mean over labels of a figure that entries have."""
        found: np.ndarray = self.rows @ values / self.rows.sum()
        return found

    def take(self, index: Int[np.ndarray, " k"] | Bool[np.ndarray, " n"] | slice) -> Self:
        """Return some of the entries."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        some: dict[str, Any] = {name: v[index] for name, v in every.items() if isinstance(v, np.ndarray)}
        return replace(self, **some)

    def pooled(self) -> LeftOut:
        """Return one entry for each witness, in their order: the root mean square error and the mean variance."""
        witness, place = np.unique(self.witness, return_inverse=True)
        rows = np.bincount(place, weights=self.rows).astype(np.int64)

        def mean(values: Float[np.ndarray, "n *outputs"]) -> Float[np.ndarray, "k *outputs"]:
            total = np.zeros((len(rows), *values.shape[1:]))
            np.add.at(total, place, (self.rows * values.T).T)
            result: np.ndarray = (total.T / rows).T
            return result

        return LeftOut(np.sqrt(mean(self.squared)), mean(self.variance), witness, rows, self.noisy)

    def _alike(self, values: Float[np.ndarray, "n *outputs"]) -> Float[np.ndarray, "n *outputs"]:
        """Return values of all outputs as many as errors have."""
        return values[:, None] if values.ndim < self.error.ndim else values

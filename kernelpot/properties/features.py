"""Means or sums of environment vectors as features of structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.properties.inputs import UnfittedError
from kernelpot.record import Parameterised
from kernelpot.structures.encoded import Encoded, encode, settled, unit_or_zero
from kernelpot.structures.structure_kernel import as_structures

if TYPE_CHECKING:
    from ase import Atoms

COMBINE = ("average", "sum")


class StructureFeatures(TransformerMixin, Parameterised, BaseEstimator):
    """One row for each structure: the mean or the sum of its environment vectors, as a transformer of scikit-learn.

    Parameters
    ----------
    descriptor
        Of environments.
    combine
        "average" for intensive properties, "sum" for extensive ones.
    by_element
        A block of columns for each element of the centres, so that means and sums run over atoms of one element; the
        mean of an element that is absent is zero.
    unit
        Divide environment vectors by their lengths first.

    Raises
    ------
    ParameterError
        In `fit`: a parameter breaks its rule.

    Attributes
    ----------
    descriptor_
        With the species of the structures it was fitted to.
    species_
        Elements of the blocks.
    """

    def __init__(
        self, descriptor: Descriptor, *, combine: str = "average", by_element: bool = False, unit: bool = False
    ) -> None:
        self.descriptor = descriptor
        self.combine = combine
        self.by_element = by_element
        self.unit = unit

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is no array."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def fit(self, X: Sequence[Atoms] | Encoded, y: Any = None) -> Self:  # noqa: ARG002
        """Learn the elements.

        Parameters
        ----------
        X
            List of structures, or what `StructureKernel.encode` made of one.
        y
            Ignored.
        """
        if self.combine not in COMBINE:
            raise ParameterError(f"`combine` must be one of {', '.join(COMBINE)}, got {self.combine!r}.")
        for name in ("by_element", "unit"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        if getattr(self.descriptor, "per_structure", False):
            raise ParameterError(
                "`descriptor` must describe environments; one of whole structures is features already."
            )
        encoded = isinstance(X, Encoded)
        self.descriptor_ = X.descriptor if encoded else settled(self.descriptor, as_structures(X))  # type: ignore[union-attr]
        self.species_ = self.descriptor_.species or ()
        return self

    def transform(self, X: Sequence[Atoms] | Encoded) -> Float[np.ndarray, "structures f"]:
        """Return the rows.

        Parameters
        ----------
        X
            As in `fit`.

        Raises
        ------
        NotFittedError
            `fit` was not called.
        DataError, SpeciesError
            A structure is unusable, or holds an element that was not there in `fit`.
        """
        if not hasattr(self, "descriptor_"):
            raise UnfittedError("this StructureFeatures is not fitted yet; call fit first.")
        encoded = X if isinstance(X, Encoded) else encode(self.descriptor_, as_structures(X))
        vectors = unit_or_zero(encoded.vectors) if self.unit else encoded.vectors
        parts = []
        for z in self.species_ if self.by_element else (None,):
            mine = np.arange(len(vectors)) if z is None else np.flatnonzero(encoded.numbers == z)
            total = np.zeros((len(encoded), vectors.shape[1]))
            np.add.at(total, encoded.structure[mine], vectors[mine])
            if self.combine == "average":
                total /= np.maximum(np.bincount(encoded.structure[mine], minlength=len(encoded)), 1)[:, None]
            parts.append(total)
        return np.concatenate(parts, axis=1)

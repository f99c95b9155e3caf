"""Kernels between structures, made of kernels between their environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float

from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import DataError, ParameterError
from kernelpot.kernels import DotProduct, refuse_coupled
from kernelpot.linalg.dense import mirrored
from kernelpot.record import Named, OneOf, Positive, Record
from kernelpot.structures.composites import Composable, EncodedPair, Product, Scaled, Sum, distance
from kernelpot.structures.encoded import Encoded, EnvironmentKernel, OfUnitVectors, encode, own_sums, settled, sums
from kernelpot.structures.rematch import own_rematch, rematch
from kernelpot.structures.vector_kernel import VectorKernel

if TYPE_CHECKING:
    from ase import Atoms

COMBINE = ("sum", "average", "rematch")
BETWEEN = ("same element", "all elements")


@dataclass(eq=False, repr=False)
class StructureKernel(Composable, Record):
    """K(s, t), a sum, mean or best match of the kernel of environments over the atoms of two structures.

    Structures are lists of `ase.Atoms`, or what `encode` made of them, so that they are described only once.

    Parameters
    ----------
    descriptor
        Of environments: `SOAP`, or any other with the same methods, such as `DScribe`. One of whole structures (a
        Coulomb matrix, MBTR) counts as a single environment.
    kernel
        Of two environments. `DotProduct` and `Gaussian` take unit vectors; a `VectorKernel` takes them as they are.
    combine
        "sum": Σ_ij k(x_i, y_j), the covariance of extensive properties such as total energies. "average": the same
        divided by both numbers of atoms, for intensive ones. "rematch": Σ_ij P_ij k(x_i, y_j) with the best match P,
        smeared out by `gamma` (De et al., Phys. Chem. Chem. Phys. 18, 13754 (2016), eq. 13). A best match is not
        positive semidefinite for certain: what fits with it must shift eigenvalues, as `KernelRidge` does and says.
    normalise
        Divide by √(K(s, s) K(t, t)), so that K(s, s) = 1; the amplitude of `kernel` then cancels.
    gamma
        Entropy of "rematch", without unit: 0 would be the best match alone, large values approach the average.
    between
        "same element": environments of different centre elements have the kernel 0. "all elements": the vectors alone
        decide.

    Raises
    ------
    ParameterError
        When it is used: a parameter breaks its rule.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]
    kernel: Annotated[Any, Named("kernel of environments")] = DotProduct(2)  # noqa: RUF009
    _: KW_ONLY
    combine: Annotated[str, OneOf(COMBINE)] = "sum"
    normalise: bool = False
    gamma: Annotated[float, Positive(1e-4, 1e6)] = 0.1
    between: Annotated[str, OneOf(BETWEEN)] = "same element"

    @property
    def definite(self) -> bool:
        """Whether it is positive semidefinite for certain; a best match is not."""
        return self.combine != "rematch"

    def check(self) -> None:
        """Refuse parameters that break their rules."""
        if not hasattr(self.descriptor, "environments") or isinstance(self.descriptor, type):
            raise ParameterError(
                f"`descriptor` must describe environments, as kp.SOAP() does, got {self.descriptor!r}."
            )
        self.checked_values()
        vectors = isinstance(self.kernel, VectorKernel)
        if not vectors and (not hasattr(self.kernel, "value") or isinstance(self.kernel, type)):
            raise ParameterError(
                f"`kernel` must be a kernel of environments, such as kp.DotProduct(2), kp.Gaussian(0.5) or "
                f'kp.properties.VectorKernel("rbf", length=1.0), got {self.kernel!r}.'
            )
        refuse_coupled(self.kernel, "StructureKernel")
        if vectors:
            self.kernel.check()
            if self.combine == "rematch" and not self.kernel.stationary:
                raise ParameterError(
                    f'`combine` "rematch" needs k(x, x) = 1, which "{self.kernel.kind}" has not; take "rbf".'
                )

    def verify(self) -> None:
        """Refuse parameters that break their rules."""
        self.check()

    def encode(self, structures: Sequence[Atoms] | Encoded) -> Encoded:
        """Describe structures once, for any number of calls.

        Parameters
        ----------
        structures
            A list of structures. Without species of its own, the descriptor takes theirs.

        Raises
        ------
        DataError, SpeciesError
            They are no structures, one is unusable or holds an element that the descriptor does not know; or they were
            encoded with another descriptor.
        """
        self.check()
        if isinstance(structures, Encoded):
            if not self.reads(structures):
                raise DataError(
                    "these structures were encoded with another descriptor, "
                    f"{structures.descriptor!r}, than {self.descriptor!r}; encode them again."
                )
            return structures
        return encode(self.descriptor, as_structures(structures))

    def reads(self, encoded: Any) -> bool:
        """Tell whether structures were encoded with this descriptor."""
        if not isinstance(encoded, Encoded):
            return False
        its, own = encoded.descriptor, self.descriptor
        if own.species is None and its.species is not None:
            own = own.with_species(its.species)
        return its is own or its.settings() == own.settings()

    def prepared(self, structures: Sequence[Atoms] | Encoded) -> StructureKernel:
        """Return the kernel for the elements of these structures, which its descriptor knows from now on.

        Parameters
        ----------
        structures
            Those that a model is fitted to.
        """
        self.check()
        if isinstance(structures, Encoded):
            descriptor = self.encode(structures).descriptor
        else:
            descriptor = settled(self.descriptor, as_structures(structures))
        kernel = self.kernel
        if isinstance(kernel, VectorKernel) and kernel.length is None:
            kernel = kernel.prepared(self.encode(structures).vectors)
        return self._with(descriptor, kernel)

    def matrix(
        self, a: Sequence[Atoms] | Encoded, b: Sequence[Atoms] | Encoded | None = None
    ) -> Float[np.ndarray, "n m"]:
        """Return K(a_i, b_j); without `b` K(a_i, a_j), symmetric to the last bit and at half the cost.

        Parameters
        ----------
        a, b
            Structures or what `encode` made of them. A descriptor without species takes those of both.
        """
        kernel, x, y = self._encoded(a, b)
        result = kernel._raw(x, y)
        if not kernel.normalise:
            return result
        own = np.sqrt(np.diagonal(result).copy() if y is None else kernel._own(x))
        _divide(result, own, own if y is None else np.sqrt(kernel._own(y)))
        if y is None:
            # Two divisions in turn round differently on either side, and miss 1 by a bit.
            mirrored(result)
            np.fill_diagonal(result, np.where(own > 0.0, 1.0, 0.0))
        return result

    def diagonal(self, a: Sequence[Atoms] | Encoded) -> Float[np.ndarray, " n"]:
        """Return K(a_i, a_i).

        Parameters
        ----------
        a
            Structures or what `encode` made of them.
        """
        kernel, x, _ = self._encoded(a, None)
        own = kernel._own(x)
        return np.where(own > 0.0, 1.0, 0.0) if kernel.normalise else own

    def distance(
        self, a: Sequence[Atoms] | Encoded, b: Sequence[Atoms] | Encoded | None = None
    ) -> Float[np.ndarray, "n m"]:
        """Return √(K(a_i, a_i) + K(b_j, b_j) - 2K(a_i, b_j)).

        Parameters
        ----------
        a, b
            Structures or what `encode` made of them; without `b` distances within `a`.
        """
        kernel, x, y = self._encoded(a, b)
        return distance(kernel, x, y)

    def _with(self, descriptor: Descriptor, kernel: Any) -> StructureKernel:
        return StructureKernel(
            descriptor,
            kernel,
            combine=self.combine,
            normalise=self.normalise,
            gamma=self.gamma,
            between=self.between,
        )

    def _encoded(self, a: Any, b: Any | None) -> tuple[StructureKernel, Encoded, Encoded | None]:
        """Return the prepared kernel with both sets, described alike."""
        if isinstance(a, Encoded) or b is None:
            known = a
        else:
            known = b if isinstance(b, Encoded) else [*as_structures(a), *as_structures(b)]
        kernel = self.prepared(known)
        return kernel, kernel.encode(a), None if b is None else kernel.encode(b)

    @property
    def _environments(self) -> EnvironmentKernel:
        return self.kernel if isinstance(self.kernel, VectorKernel) else OfUnitVectors(self.kernel)

    @property
    def _variance(self) -> float:
        return float(getattr(self.kernel, "amplitude", 1.0)) ** 2

    def _raw(self, x: Encoded, y: Encoded | None) -> Float[np.ndarray, "n m"]:
        same = self.between == "same element"
        if self.combine == "rematch":
            result = rematch(self._environments, x, y, same_element=same, gamma=float(self.gamma))
        else:
            result = sums(self._environments, x, y, same_element=same)
        if self.combine == "average":
            _divide(result, x.sizes, (x if y is None else y).sizes)
        if self._variance != 1.0:
            result *= self._variance
        return result

    def _own(self, x: Encoded) -> Float[np.ndarray, " n"]:
        same = self.between == "same element"
        if self.combine == "rematch":
            return self._variance * own_rematch(self._environments, x, same_element=same, gamma=float(self.gamma))
        own = own_sums(self._environments, x, same_element=same)
        return self._variance * (own / x.sizes**2 if self.combine == "average" else own)


def as_structures(items: Any) -> list[Atoms]:
    """Return a list of structures."""
    from ase import Atoms

    if isinstance(items, Atoms):
        raise DataError("a list of structures is needed, got a single one; put it into a list.")
    if isinstance(items, EncodedPair):
        raise DataError(
            "these structures were encoded by a sum or product of kernels, and this kernel is a single one; encode "
            "them with it, or take their `first` or `second`."
        )
    try:
        found = list(items)
    except TypeError:
        found = [items]
    if not found:
        raise ParameterError("at least one structure is needed, got none; check the selection that made the list.")
    for number, item in enumerate(found):
        if not isinstance(item, Atoms):
            raise DataError(
                f"structures must be ase.Atoms, item {number} is a {type(item).__name__}; "
                "features go into a model with a VectorKernel."
            )
    return found


def _divide(values: Float[np.ndarray, "n m"], rows: np.ndarray, columns: np.ndarray) -> None:
    """Divide by both, in place; what has no length stays zero."""
    values /= np.where(rows > 0, rows, 1)[:, None]
    values /= np.where(columns > 0, columns, 1)


def extensive(kernel: Any) -> bool:
    """Tell whether a kernel grows with its structures, as that of a total energy: a plain sum over environments."""
    if isinstance(kernel, Scaled):
        return extensive(kernel.kernel)
    if isinstance(kernel, Sum | Product):
        return extensive(kernel.first) and extensive(kernel.second)
    return isinstance(kernel, StructureKernel) and kernel.combine == "sum" and not kernel.normalise

"""The terms that a model's local energy is the sum of, before and after they have seen structures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from kernelpot.data.stream import species_of
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import choose_inducing, given_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.sum_map import SumMap
from kernelpot.features.two_body_map import TwoBodyMap
from kernelpot.kernels import DotProduct, Gaussian, Linear
from kernelpot.record import Named, Record, Whole

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Term(Record):
    """One term of a local energy: a descriptor with a kernel, and its share of the inducing environments.

    Parameters
    ----------
    descriptor
        Such as `SOAP`, `ACSF`, or `TwoBody`, which is a term by itself.
    kernel
        Of two unit vectors; its amplitude is the term's prior standard deviation of a local energy, eV (of a pair
        energy for `TwoBody`, which carries its own and takes no kernel). None: `DotProduct(2)`. `Linear` makes the term
        linear in the descriptor, without inducing environments.
    n_inducing
        Inducing environments of this term; None: an equal share of what the model has left.

    Raises
    ------
    ParameterError
        A `TwoBody` was given a kernel or inducing environments, or a parameter breaks its rule.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]
    kernel: Annotated[DotProduct | Gaussian | Linear | None, Named("kernel")] = None
    n_inducing: Annotated[int | None, Whole(1)] = None

    def check(self) -> None:
        """Refuse a kernel or inducing environments that the descriptor has no use for."""
        if not hasattr(self.descriptor, "environments"):
            raise ParameterError(f"a term needs a descriptor such as SOAP() or TwoBody(), got {self.descriptor!r}.")
        if not isinstance(self.kernel, DotProduct | Gaussian | Linear | None):
            raise ParameterError(
                f"`kernel` must be a kernel such as DotProduct(2), Gaussian(0.5) or Linear(), got {self.kernel!r}."
            )
        if isinstance(self.descriptor, TwoBody):
            if self.kernel is not None or self.n_inducing is not None:
                raise ParameterError(
                    "TwoBody takes no kernel and no inducing environments; give it alone, TwoBody(amplitude=...)."
                )
        elif isinstance(self.kernel, Linear) and self.n_inducing is not None:
            raise ParameterError("a Linear term takes no inducing environments; leave `n_inducing` out.")
        elif self.kernel is None:
            object.__setattr__(self, "kernel", DotProduct(2))

    @property
    def amplitude(self) -> float:
        """Prior standard deviation, eV."""
        return self.descriptor.amplitude if isinstance(self.descriptor, TwoBody) else self._kernel.amplitude

    def with_amplitude(self, amplitude: float) -> Term:
        """Return the same term with another prior standard deviation, eV."""
        if isinstance(self.descriptor, TwoBody):
            return replace(self, descriptor=replace(self.descriptor, amplitude=amplitude))
        return replace(self, kernel=replace(self._kernel, amplitude=amplitude))

    @property
    def _kernel(self) -> DotProduct | Gaussian | Linear:
        return self.kernel or DotProduct(2)

    def features(
        self,
        structures: Sequence[Atoms],
        *,
        n_inducing: int,
        environments: Sequence[tuple[int, int]] | None,
        method: str,
        seed: int,
        tolerance: float,
    ) -> FeatureMap:
        """Return the feature map of this term, its inducing environments chosen from the structures."""
        descriptor = self.descriptor
        if descriptor.species is None:
            descriptor = descriptor.with_species(species_of(structures))
        if isinstance(descriptor, TwoBody):
            return TwoBodyMap(descriptor)
        if isinstance(self._kernel, Linear):
            return LinearMap.from_structures(descriptor, structures, normalise=self._kernel.normalise)
        if environments is not None:
            z = given_inducing(descriptor, structures, environments)
        else:
            z = choose_inducing(descriptor, structures, n_inducing, method=method, seed=seed)
        return KernelMap.from_inducing(descriptor, self._kernel, z, tolerance)


def terms_of(descriptor: Any, kernel: DotProduct | Gaussian | Linear | None) -> tuple[Term, ...]:
    """Return the terms that the first arguments of a model stand for."""
    if isinstance(descriptor, Term) or not isinstance(descriptor, Iterable):
        if isinstance(descriptor, Term) and kernel is not None:
            raise ParameterError("a Term has its own kernel; leave `kernel` out.")
        return (descriptor if isinstance(descriptor, Term) else Term(descriptor, kernel),)
    given = list(descriptor)
    if not given:
        raise ParameterError("a model needs at least one descriptor, got an empty list; SOAP() is usual.")
    result = []
    for item in given:
        if isinstance(item, Term):
            result.append(item)
        else:
            result.append(Term(item) if isinstance(item, TwoBody) else Term(item, kernel))
    return tuple(result)


def leading(terms: Sequence[Term]) -> Term:
    """Return the term that structures are compared by: the first with a kernel, else the first."""
    return next((term for term in terms if term.kernel is not None), terms[0])


def build(
    terms: Sequence[Term],
    structures: Sequence[Atoms],
    *,
    n_inducing: int,
    environments: Sequence[tuple[int, int]] | None,
    method: str,
    seed: int,
    tolerance: float,
) -> FeatureMap:
    """Return the feature map of all terms, on one set of species.

    Amplitudes are taken in units of the first term's, which is the model's.
    """
    rest = n_inducing - sum(term.n_inducing or 0 for term in terms)
    sharing = [term for term in terms if isinstance(term.kernel, DotProduct | Gaussian) and term.n_inducing is None]
    if sharing and rest < len(sharing):
        raise ParameterError(
            f"`n_inducing` must leave at least one inducing environment for each of {len(sharing)} terms, "
            f"got {n_inducing} in all; 500 to 2000 is usual."
        )
    share = {id(term): rest // len(sharing) + (k < rest % len(sharing)) for k, term in enumerate(sharing)}
    maps = [
        term.features(
            structures, n_inducing=term.n_inducing or share.get(id(term), 0), environments=environments,
            method=method, seed=seed, tolerance=tolerance,
        )
        for term in terms
    ]  # fmt: skip
    if len(maps) == 1:
        return maps[0]
    return SumMap(tuple(maps), tuple(term.amplitude / terms[0].amplitude for term in terms))

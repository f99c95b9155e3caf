"""A sum of feature maps: independent terms of the local energy, each with its own prior standard deviation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import block_diag

from kernelpot.archive import NO_ARRAYS
from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Descriptor, Environments
from kernelpot.features.feature_map import FeatureMap, Form, Rows
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.record import EachOf, Positive, Record, Rule, record_of

if TYPE_CHECKING:
    from ase import Atoms


LARGEST_SCALE = 1e60
"""Of a term's amplitude to the first one's; far beyond what searches reach, and its square is still a number."""


@dataclass(frozen=True, eq=False)
class SumDescribed:
    """A batch as every term of a sum describes it."""

    batch: Batch
    parts: tuple[Any, ...]
    species: Int[np.ndarray, " atoms"]


@dataclass(frozen=True, eq=False)
class SumForm:
    """The sum of the terms' energies."""

    forms: tuple[Form, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all terms."""
        return tuple(path for form in self.forms for path in form.paths)

    def local_and_pairs(
        self, described: SumDescribed
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        return _added(form.local_and_pairs(part) for form, part in zip(self.forms, described.parts, strict=True))


def _added(
    parts: Iterable[tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]],
) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
    """Add up the energies of terms, and their derivatives."""
    return reduce(lambda one, other: (one[0] + other[0], one[1] + other[1]), parts)


@dataclass(frozen=True, eq=False)
class SumMap(Record):
    """k = Σ_t s_t² k_t: features of the terms side by side, term t scaled by s_t.

    A sum of independent Gaussian processes is a Gaussian process whose kernel is the sum (Rasmussen and Williams
    (2006), section 4.2.4); each term keeps its own inducing environments, so that posterior and design stay rows over
    weights.
    """

    terms: Annotated[tuple[FeatureMap, ...], EachOf(Rule())]  # maps of the same species
    # prior standard deviation of each term, in units of the amplitude
    scales: Annotated[tuple[float, ...], EachOf(Positive(1.0 / LARGEST_SCALE, LARGEST_SCALE))]

    @cached_property
    def _leading(self) -> FeatureMap:
        """The term that structures are compared by: the first of a vector descriptor, else the first."""
        return next((term for term in self.terms if isinstance(term, KernelMap | LinearMap)), self.terms[0])

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return self.terms[0].species

    @property
    def cutoff(self) -> float:
        """The largest reach, Å."""
        return max(term.cutoff for term in self.terms)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that structures are compared by."""
        return self._leading.descriptor

    @property
    def n_columns(self) -> int:
        """Raw columns of all terms."""
        return sum(term.n_columns for term in self.terms)

    @property
    def n_inducing(self) -> int:
        """Inducing environments of all terms."""
        return sum(term.n_inducing for term in self.terms)

    @property
    def has_constant(self) -> bool:
        """Whether that of any term does."""
        return any(term.has_constant for term in self.terms)

    @property
    def n_weights(self) -> int:
        """Features of all terms."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each term."""
        return tuple(term.n_weights for term in self.terms)

    def rescaled(self, scales: Sequence[float]) -> SumMap:
        """Return the same terms with other prior standard deviations."""
        return replace(self, scales=tuple(float(s) for s in scales))

    def _columns(self) -> Iterator[tuple[FeatureMap, float, slice, slice]]:
        """Yield each term with its scale, its raw columns and its weights."""
        raw, white = 0, 0
        for term, scale in zip(self.terms, self.scales, strict=True):
            yield term, scale, slice(raw, raw + term.n_columns), slice(white, white + term.n_weights)
            raw, white = raw + term.n_columns, white + term.n_weights

    def describe(self, batch: Batch) -> SumDescribed:
        """Describe a batch; terms that share a descriptor share the work."""
        seen: list[tuple[Descriptor, Environments]] = []
        parts = []
        for term in self.terms:
            if not isinstance(term, KernelMap | LinearMap):
                parts.append(term.describe(batch))
                continue
            known = [environments for descriptor, environments in seen if descriptor == term.descriptor]
            environments = known[0] if known else term.descriptor.environments(batch)
            if not known:
                seen.append((term.descriptor, environments))
            parts.append(term.describe_again(batch, environments))
        return SumDescribed(batch, tuple(parts), np.searchsorted(self.species, batch.numbers))

    def thin(self, described: SumDescribed) -> bool:
        """Whether all terms are."""
        terms: Any = self.terms
        return all(term.thin(part) for term, part in zip(terms, described.parts, strict=True))

    def around(self, described: SumDescribed, atoms: Int[np.ndarray, " some"], *, thin: bool) -> SumDescribed:
        """Return what every term needs."""
        terms: Any = self.terms
        described_by = zip(terms, described.parts, strict=True)
        parts = tuple(term.around(part, atoms, thin=thin) for term, part in described_by)
        batch = parts[0].batch
        return SumDescribed(batch, parts, np.searchsorted(self.species, batch.numbers))

    def rows(self, described: SumDescribed, kinds: Collection[str]) -> Rows:
        """Return the rows of all terms side by side."""
        found = [term.rows(part, kinds) for term, part in zip(self.terms, described.parts, strict=True)]

        def beside(name: str) -> Float[np.ndarray, "rows m"] | None:
            parts = [getattr(rows, name) for rows in found]
            return None if parts[0] is None else np.concatenate(parts, axis=1)

        energy = np.concatenate([rows.energy for rows in found], axis=1)
        return Rows(energy, beside("forces"), beside("stress"))

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Turn rows over raw columns into rows over scaled features."""
        parts = [scale * term.whiten(rows[:, raw]) for term, scale, raw, _ in self._columns()]
        return np.concatenate(parts, axis=1)

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Turn weights of scaled features, or columns of them, into weights of raw columns."""
        return np.concatenate([scale * term.unwhiten(weights[white]) for term, scale, _, white in self._columns()])

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> SumForm:
        """Return the energy with these weights of raw columns."""
        return SumForm(tuple(term.form(weights[raw], collapse=collapse) for term, _, raw, _ in self._columns()))

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> SumForm:
        """Return the sum of the terms' drawn energies."""
        return SumForm(tuple(term.drawn_form(weights[raw], rng, scale * own) for term, own, raw, _ in self._columns()))

    def energies_and_pairs(
        self, form: SumForm, batch: Batch, described: SumDescribed | None = None
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Add up the terms; those that share a descriptor are described once."""
        kinds = [term.descriptor for term in self.terms if isinstance(term, KernelMap | LinearMap)]
        if any(one == other for k, one in enumerate(kinds) for other in kinds[:k]):
            return form.local_and_pairs(self.describe(batch) if described is None else described)
        known = [None] * len(self.terms) if described is None else described.parts
        terms = zip(self.terms, form.forms, known, strict=True)
        return _added(term.energies_and_pairs(own, batch, part) for term, own, part in terms)

    def local_values(
        self, described: SumDescribed
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield what the terms yield, at their own columns."""
        for (term, _, raw, _), part in zip(self._columns(), described.parts, strict=True):
            for atoms, columns, values in term.local_values(part):
                yield atoms, slice(raw.start + columns.start, raw.start + columns.stop), values

    def local_prior(self, described: SumDescribed) -> Float[np.ndarray, " atoms"]:
        """Variances of independent terms add up."""
        parts = zip(self.terms, self.scales, described.parts, strict=True)
        return np.sum([scale**2 * term.local_prior(part) for term, scale, part in parts], axis=0)

    def residual(
        self, described: SumDescribed, kind: str, white: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, " rows"]:
        """Residual variances of independent terms add up."""
        result = np.zeros(len(white))
        for (term, scale, _, columns), part in zip(self._columns(), described.parts, strict=True):
            result += scale**2 * term.residual(part, kind, white[:, columns] / scale)
        return result

    def energy_residual(
        self,
        left: SumDescribed,
        right: SumDescribed,
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Residual covariances of independent terms add up."""
        result = np.zeros((len(white[0]), len(white[1])))
        for (term, scale, _, own), one, two in zip(self._columns(), left.parts, right.parts, strict=True):
            pair = (white[0][:, own] / scale, white[1][:, own] / scale)
            result += scale**2 * term.energy_residual(one, two, pair)
        return result

    def block_residual(
        self, described: SumDescribed, kind: str, number: int, white: Float[np.ndarray, "c d"]
    ) -> Float[np.ndarray, "c c"]:
        """Residual covariances of independent terms add up."""
        result = np.zeros((len(white), len(white)))
        for (term, scale, _, own), part in zip(self._columns(), described.parts, strict=True):
            result += scale**2 * term.block_residual(part, kind, number, white[:, own] / scale)
        return result

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments of an element."""
        return np.concatenate([term.weights_of(number) for term in self.terms])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the terms' arrays, numbered."""
        return {f"term_{t}_{name}": a for t, term in enumerate(self.terms) for name, a in term.arrays().items()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = NO_ARRAYS) -> Self:
        """Make the sum that settings and arrays describe."""
        terms = []
        for t, term in enumerate(settings["terms"]):
            prefix = f"term_{t}_"
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            terms.append(record_of("feature map", term, own))
        if not terms or len(settings["scales"]) != len(terms) or len({term.species for term in terms}) != 1:
            raise ValueError("the terms of a sum must have one scale each and the same species")
        return cls(tuple(terms), settings["scales"])

    def shares(self) -> str:
        """Describe the terms' raw columns."""
        return "; ".join(term.shares() for term in self.terms)


Owners = list[list[Bool[np.ndarray, "m folds"]]]
"""For each term, for each species, which folds hold each inducing environment; no species for terms without any."""


def owners(features: FeatureMap, structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"]) -> Owners:
    """Find the folds that each inducing environment of a map comes from."""
    return [
        term.folds_of_inducing(structures, fold) if isinstance(term, KernelMap) else [] for term in _terms(features)
    ]


def without_fold(features: FeatureMap, own: Owners, fold: int) -> tuple[FeatureMap, Float[np.ndarray, "d e"]]:
    """Return the map without inducing environments that only this fold holds, and its features in the old ones.

    A kernel map without them is the old map projected on the span of what remains: φ(x)·φ(z) = k(x, z) for every
    inducing z, so that with an orthonormal basis V of the remaining φ(z), Vᵀφ are features of the smaller map.
    """
    maps: list[FeatureMap] = []
    bases: list[np.ndarray] = []
    for term, mine in zip(_terms(features), own, strict=True):
        smaller, basis = (
            term.without_fold(mine, fold) if isinstance(term, KernelMap) else (term, np.eye(term.n_weights))
        )
        maps.append(smaller)
        bases.append(basis)
    if isinstance(features, SumMap):
        return replace(features, terms=tuple(maps)), block_diag(*bases)
    return maps[0], bases[0]


def _terms(features: FeatureMap) -> Sequence[FeatureMap]:
    return features.terms if isinstance(features, SumMap) else (features,)

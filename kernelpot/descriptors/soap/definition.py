"""SOAP: the power spectrum of the neighbour density (Bartók, Kondor and Csányi, Phys. Rev. B 87, 184115 (2013))."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.loops import Pairs, Slots, recurrence
from kernelpot.descriptors.protocol import Displacements, Species, checked_scaling, places
from kernelpot.descriptors.radial import (
    Compressed,
    PowerGaussian,
    RadialBasis,
    RadialTable,
    coefficient_moments,
    principal_components,
    volume_moments,
)
from kernelpot.descriptors.soap.loops import (
    ATOMS_PER_TASK,
    Tables,
    displacement_rows,
    expand,
    expand_vjp,
    mix,
    normalise,
    normalise_vjp,
    spectrum,
    spectrum_vjp,
)
from kernelpot.descriptors.soap.rows import Wanted, add_products, costs, squares_of
from kernelpot.elements.channels import Channels, ElementChannels
from kernelpot.elements.modes import ElementalModes
from kernelpot.errors import ParameterError
from kernelpot.record import WHEN_GIVEN, Between, Named, Positive, Record, Rule, Whole
from kernelpot.rules import whole
from kernelpot.run import one_blas, share

if TYPE_CHECKING:
    from ase import Atoms

SHORT = 1500
"""Components of a vector up to which channels that are found may be more than two, for more than three species."""

BLOCK_CENTRES = 128
"""Centres whose energies and forces are computed together."""

CENTRES_PER_TASK = 8
"""Fewest centres worth a thread when derivatives are made."""


@dataclass(frozen=True)
class SOAP(Record):
    """Smooth overlap of atomic positions, power spectrum.

    Parameters
    ----------
    cutoff
        Reach of an environment, Å. Vectors and their first two derivatives are continuous there.
    n_max
        Number of radial functions.
    l_max
        Highest angular momentum.
    sigma
        Width of the atomic Gaussians, Å.
    basis
        Radial functions.
    fade
        Width, Å, over which a neighbour's weight falls to zero at the cutoff; 0 cuts sharply, None takes 0.4 · cutoff
        (chosen by cross-validation on the training sets of mlearn Si and Ge).
    species
        Atomic numbers to tell apart; None: those of the structures the model is given first.
    scaling
        (r0, m): a neighbour at distance r counts u(r) = 1/(1 + (r/r0)^m), r0 in Å, so that near neighbours decide; the
        centre's own density counts in full. None: all count alike up to the fade.
    channels
        What the densities of the elements are mixed into before the power spectrum: `ElementChannels`, or
        `ElementalModes` as such; None: one channel for each. "auto": `SparseGP.fit` finds them, and how much centres of
        different elements share, from left-out errors; where there are no labels, a similarity of the elements by
        tabulated properties (`ElementChannels.similar`), in as many channels as there are elements up to 3, and beyond
        in so many that vectors have about 1,500 components, at least 2.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    cutoff: Annotated[float, Positive(0.01, 50.0), "Å", "4 to 6 is usual"] = 5.0
    n_max: Annotated[int, Whole(1, 32), "", "8 is usual"] = 8
    l_max: Annotated[int, Whole(0, 16), "", "6 is usual"] = 6
    sigma: Annotated[float, Positive(), "Å", "0.3 to 0.7 is usual"] = 0.5
    basis: Annotated[RadialBasis, Named("radial basis")] = field(default_factory=PowerGaussian)
    fade: Annotated[float | None, Between(), "Å", "None takes 0.4 of the cutoff"] = None
    species: Annotated[tuple[int, ...] | None, Species()] = None
    scaling: Annotated[tuple[float, float] | None, Rule(), WHEN_GIVEN] = None
    channels: Annotated[
        ElementChannels | ElementalModes | str | None, Channels(), WHEN_GIVEN, "", "ElementChannels.modes(2) is one"
    ] = "auto"

    def check(self) -> None:
        """Refuse widths that the cutoff does not allow, and give channels their matrix where species are known."""
        if not self.cutoff / 500.0 <= self.sigma <= 100.0 * self.cutoff:
            raise ParameterError(
                f"`sigma` must lie between cutoff/500 and 100 · cutoff (cutoff {self.cutoff} Å), got {self.sigma}; "
                "0.3 to 0.7 is usual."
            )
        if not 0.0 <= self.fade_width <= self.cutoff:
            raise ParameterError(
                f"`fade` must lie between 0 and the cutoff ({self.cutoff} Å), got {self.fade}; "
                "None takes 0.4 of the cutoff."
            )
        if self.scaling is not None:
            object.__setattr__(self, "scaling", checked_scaling(self.scaling, self.cutoff))
        if self._channels is not None and self.species is not None:
            found = None if self.finds_channels and len(self.species) == 1 else self._channels
            if found is not None:
                found = found.for_species(self.species, self.most_channels(len(self.species)))
            object.__setattr__(self, "channels", found)

    def verify(self) -> None:
        """Refuse a radial basis that is not finite."""
        with np.errstate(all="ignore"):
            if self.species is not None and not np.isfinite(self.table.nodes).all():
                raise ValueError("the radial basis is not finite")

    @property
    def fade_width(self) -> float:
        """Width of the fade, Å."""
        return 0.4 * self.cutoff if self.fade is None else self.fade

    def with_species(self, species: tuple[int, ...]) -> SOAP:
        """Return the same descriptor for these atomic numbers, sorted."""
        return replace(self, species=tuple(species))

    def compressed(self, n_max: int, structures: Sequence[Atoms] | None = None) -> SOAP:
        """Return this descriptor with its radial functions combined into n_max principal components for each l.

        Vectors shrink by the square of the ratio; the loops over pairs see n_max functions only.

        Parameters
        ----------
        n_max
            Number of radial functions left.
        structures
            Structures whose density coefficients decide (Goscinski et al., J. Chem. Phys. 155, 104106 (2021)); None:
            one neighbour anywhere in the sphere with equal chance.

        Raises
        ------
        ParameterError
            `n_max` is not between 1 and the number of functions there are, or there are no structures.
        """
        n_max = whole(n_max, "n_max", least=1, most=self.n_max, usual="start from a descriptor with more functions")
        size = {"n_max": self.n_max, "l_max": self.l_max}
        if structures is None:
            moments = volume_moments(self.table, cutoff=self.cutoff, fade=self.fade_width, **size)
        elif len(structures) == 0:
            raise ParameterError("`structures` must hold at least one structure, got none; None takes no structures.")
        else:
            species = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
            plain = replace(self, species=species, channels=None)
            moments = np.zeros((self.l_max + 1, self.n_max, self.n_max))
            for k, atoms in enumerate(structures):
                batch = Batch.from_structures([atoms], self.cutoff, start=k)
                c = plain.coefficients(batch, places(plain, batch))
                moments += coefficient_moments(c, **size)
        basis = Compressed(self.basis, principal_components(moments, n_max))
        return replace(self, basis=basis, n_max=n_max)

    @property
    def finds_channels(self) -> bool:
        """Whether `channels` are to be found."""
        return self._channels is not None and self._channels.kind == "auto"

    def most_channels(self, n_species: int) -> int:
        """Return how many channels are taken where they are found: one for each of few species, else what is short."""
        if n_species <= 3:
            return n_species
        return max(k for k in range(2, n_species + 1) if k == 2 or self._length(k) <= SHORT)

    def _length(self, n_channels: int) -> int:
        size = n_channels * self.n_max
        return size * (size + 1) // 2 * (self.l_max + 1)

    @property
    def n_features(self) -> int:
        """Length of a vector: k(k+1)/2 · (l_max + 1), with k = channels · n_max."""
        return self._length(self.n_channels)

    @property
    def n_channels(self) -> int:
        """Number of element channels: one for each species, or what `channels` says."""
        mixed = 0 if self._channels is None else self._channels.n
        return mixed or len(self._known_species)

    @property
    def _channels(self) -> ElementChannels | None:
        """Channels, which `Channels` has made of elemental modes as well."""
        return self.channels if isinstance(self.channels, ElementChannels) else None

    @property
    def _known_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise ParameterError("this SOAP has no `species` yet; pass species=(14,) or call with_species first.")
        return self.species

    @cached_property
    def table(self) -> RadialTable:
        """The radial functions on nodes."""
        size = {"cutoff": self.cutoff, "n_max": self.n_max, "l_max": self.l_max, "sigma": self.sigma}
        return RadialTable.from_basis(self.basis, scaling=self.scaling, **size)

    @cached_property
    def tables(self) -> Tables:
        """What the loops take, for this n_max alone."""
        tag, inverse_step = (0,) * self.n_max, 1.0 / self.table.step
        nodes, angular = self.table.nodes, recurrence(self.l_max)
        return Tables(self.l_max, tag, self.cutoff, float(self.fade_width), inverse_step, nodes, angular)

    @cached_property
    def weights(self) -> Float[np.ndarray, "channels species"]:
        """U, the identity written out."""
        n = len(self._known_species)
        return np.eye(n) if self._channels is None else np.ascontiguousarray(self._channels.array)

    @cached_property
    def _transposed(self) -> Float[np.ndarray, "species channels"]:
        """Uᵀ."""
        return np.ascontiguousarray(self.weights.T)

    def coefficients(self, batch: Batch, species: Int[np.ndarray, " atoms"]) -> Float[np.ndarray, "atoms lm k"]:
        """Return c[i, lm, k·n_max + n] = Σ_j U_ka w(r_ij) R_nl(r_ij) Y_lm(r_ij) over neighbours j, of species a each.

        The centre's own Gaussian is included without a fade. Species are told apart in the loops over pairs and mixed
        by U afterwards, once for each atom: mixing inside would multiply the work by the number of channels.
        """
        pairs = Pairs.of(batch, species)
        c = np.empty((batch.n_atoms, (self.l_max + 1) ** 2, self.n_channels * self.n_max))

        def task(begin: int, end: int) -> None:
            apart = self._apart(min(end - begin, ATOMS_PER_TASK))
            for start in range(begin, end, ATOMS_PER_TASK):
                stop = min(start + ATOMS_PER_TASK, end)
                self._density(start, stop, pairs, c[start:stop], apart)

        share(task, batch.n_atoms, ATOMS_PER_TASK)
        return c

    def energies_and_pairs(
        self, batch: Batch, energy: Callable[[int, Float[np.ndarray, "n f"]], tuple[Any, Any]]
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy with the derivative of their sum by each pair vector, a few centres at a time.

        ``energy(a, x)`` gives the energies of environments of one species, with their gradients in the unit vectors.
        All that belongs to BLOCK_CENTRES centres stays in cache and is written over by the next: memory is that of the
        pairs, and threads share nothing.
        """
        species = places(self, batch)
        pairs = Pairs.of(batch, species)
        local, result = np.zeros(batch.n_atoms), np.zeros((len(batch.second), 3))

        def task(begin: int, end: int) -> None:
            size = min(BLOCK_CENTRES, end - begin)
            c = np.empty((size, (self.l_max + 1) ** 2, self.n_channels * self.n_max))
            inner, x, norm = np.empty_like(c), np.empty((size, self.n_features)), np.empty(size)
            gradient, apart = np.empty_like(x), self._apart(size)
            for start in range(begin, end, size):
                stop = min(start + size, end)
                n = stop - start
                self._density(start, stop, pairs, c[:n], apart)
                spectrum(0, n, self.l_max, c, x)
                normalise(x[:n], norm)
                here = species[start:stop]
                for a in np.unique(here):
                    mine = np.flatnonzero(here == a)
                    if len(mine) == n:
                        local[start:stop], gradient[:n] = energy(int(a), x[:n])
                    else:
                        local[start + mine], gradient[mine] = energy(int(a), x[mine])
                normalise_vjp(gradient[:n], x[:n], norm)
                spectrum_vjp(0, n, self.l_max, c, gradient, inner)
                self._density_vjp(start, stop, pairs, inner[:n], apart, result)

        with one_blas():
            share(task, batch.n_atoms, BLOCK_CENTRES)
        return local, result

    def _apart(self, n_atoms: int) -> Float[np.ndarray, "atoms lm a"] | None:
        """Room for coefficients of each species apart; None where they are not mixed."""
        if self._channels is None:
            return None
        return np.empty((n_atoms, (self.l_max + 1) ** 2, len(self._known_species) * self.n_max))

    def _density(
        self,
        start: int,
        stop: int,
        pairs: Pairs,
        c: Float[np.ndarray, "atoms lm k"],
        apart: Float[np.ndarray, "atoms lm a"] | None,
    ) -> None:
        """Write the coefficients of a few atoms to c, by way of room for them apart."""
        alone = c if apart is None else apart[: stop - start]
        alone[:] = 0.0
        expand(start, stop, self.tables, pairs, start, alone)
        if apart is not None:
            mix(self.weights, self.n_max, alone, c)

    def _density_vjp(
        self,
        start: int,
        stop: int,
        pairs: Pairs,
        gradient: Float[np.ndarray, "atoms lm k"],
        apart: Float[np.ndarray, "atoms lm a"] | None,
        result: Float[np.ndarray, "pairs 3"],
    ) -> None:
        """Add dE/d(pair vector) of a few atoms, given dE/dc, by way of room for it apart."""
        alone = gradient if apart is None else apart[: stop - start]
        if apart is not None:
            mix(self._transposed, self.n_max, gradient, alone)
        expand_vjp(start, stop, self.tables, pairs, start, alone, result)

    def products_pay(self, n_vectors: int, neighbours: float) -> bool:
        """Tell whether derivatives of dot products take less time by way of the density (`soap.rows`).

        Measured: derivatives of the power spectrum take as long as products with 70 vectors, and the products by way
        of the density, compiled for their few rows, 0.8 of the time of as many operations.
        """
        by_density = 0.8 * min(costs(self, neighbours)) * n_vectors
        return by_density < 3.0 * (neighbours + 1.0) * self.n_features * (n_vectors + 70)

    def squares(self, z: Float[np.ndarray, "m f"]) -> list[Float[np.ndarray, "groups l k w_times_m"]]:
        """Return vectors as `SoapEnvironments.add_products` takes them."""
        return squares_of(self, z)

    def values(self, batch: Batch) -> Float[np.ndarray, "atoms f"]:
        """Return the power spectrum of every atom, not normalised."""
        return self.environments(batch).vectors

    def environments(self, batch: Batch) -> SoapEnvironments:
        """Describe every atom; what comes back can be differentiated."""
        species = places(self, batch)
        coefficients = self.coefficients(batch, species)
        vectors = np.empty((batch.n_atoms, self.n_features))
        share(lambda a, b: spectrum(a, b, self.l_max, coefficients, vectors), batch.n_atoms, ATOMS_PER_TASK)
        return SoapEnvironments(self, batch, species, coefficients, vectors)


@dataclass(frozen=True, eq=False)
class SoapEnvironments:
    """Power spectra of a batch with the coefficients they came from."""

    soap: SOAP
    batch: Batch
    species: Int[np.ndarray, " atoms"]
    coefficients: Float[np.ndarray, "atoms lm k"]
    vectors: Float[np.ndarray, "atoms f"]

    def part(self, batch: Batch, kept: Int[np.ndarray, " some"]) -> SoapEnvironments:
        """Return those of some atoms, to be differentiated by the pairs of `batch`, which need not be all of them."""
        return SoapEnvironments(self.soap, batch, self.species[kept], self.coefficients[kept], self.vectors[kept])

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(power spectrum)."""
        soap, n_atoms, c = self.soap, self.batch.n_atoms, self.coefficients
        inner = np.empty_like(c)
        share(lambda a, b: spectrum_vjp(a, b, soap.l_max, c, gradient, inner), n_atoms, ATOMS_PER_TASK)
        result = np.zeros((len(self.batch.second), 3))

        def task(begin: int, end: int) -> None:
            apart = soap._apart(min(end - begin, ATOMS_PER_TASK))
            for start in range(begin, end, ATOMS_PER_TASK):
                stop = min(start + ATOMS_PER_TASK, end)
                soap._density_vjp(start, stop, self.pairs, inner[start:stop], apart, result)

        share(task, n_atoms, ATOMS_PER_TASK)
        return result

    @cached_property
    def slots(self) -> Slots:
        """The distinct atoms of every list."""
        return Slots.of(self.batch)

    @cached_property
    def pairs(self) -> Pairs:
        """What the loops read of the batch."""
        return Pairs.of(self.batch, self.species)

    def add_products(
        self,
        squares: Sequence[Float[np.ndarray, "groups l k w_times_m"]],
        wanted: Wanted,
        forces: Float[np.ndarray, "atoms_times_3 columns"] | None,
        virial: Float[np.ndarray, "structures_times_6 columns"] | None,
        first: int,
    ) -> None:
        """Subtract slope ∂(x·z)/∂r of some centres from forces and add slope ∂(x·z)/∂ε to virials, from a column on."""
        add_products(self, squares, wanted, forces, virial, first)

    def displacements(self, start: int, stop: int) -> Displacements:
        """Return the derivatives of the power spectra of atoms ``start:stop``."""
        c, slots, weights, pairs = self.coefficients, self.slots, self.soap.weights, self.pairs
        # A plain n_max: this loop is compiled once for all sizes.
        tables = self.soap.tables._replace(n_max=self.soap.n_max)

        def fill(begin: int, end: int, rows: np.ndarray, virial: np.ndarray) -> None:
            displacement_rows(begin, end, tables, weights, pairs, slots, start, c, rows, virial)

        return slots.displacements(start, stop, self.soap.n_features, fill, CENTRES_PER_TASK)

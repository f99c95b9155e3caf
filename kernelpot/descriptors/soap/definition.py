"""SOAP: the power spectrum of the neighbour density (Bartók, Kondor and Csányi, Phys. Rev. B 87, 184115 (2013))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.arguments import (
    check_reach,
    checked_scaling,
    positive,
    settled,
    sorted_species,
    species_places,
)
from kernelpot.descriptors.channels import ElementChannels
from kernelpot.descriptors.loops import Pairs, Slots
from kernelpot.descriptors.protocol import Displacements
from kernelpot.descriptors.radial import (
    Compressed,
    PowerGaussian,
    RadialBasis,
    RadialTable,
    basis_from_settings,
    basis_settings,
    coefficient_moments,
    principal_components,
    volume_moments,
)
from kernelpot.descriptors.soap.loops import ATOMS_PER_TASK, Expansion, displacement_rows, spectrum, spectrum_vjp
from kernelpot.elements.modes import ElementalModes
from kernelpot.errors import ParameterError
from kernelpot.run import share

if TYPE_CHECKING:
    from ase import Atoms

CENTRES_PER_TASK = 8
"""Fewest centres worth a thread when derivatives are made."""


@dataclass(frozen=True)
class SOAP:
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
        `ElementalModes` as such; None: one channel for each.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    cutoff: float = 5.0
    n_max: int = 8
    l_max: int = 6
    sigma: float = 0.5
    basis: RadialBasis = field(default_factory=PowerGaussian)
    fade: float | None = None
    species: tuple[int, ...] | None = None
    scaling: tuple[float, float] | None = None
    channels: ElementChannels | ElementalModes | None = None

    def __post_init__(self) -> None:
        positive("cutoff", self.cutoff, "Å; 4 to 6 is usual")
        positive("sigma", self.sigma, "Å; 0.3 to 0.7 is usual")
        if not 0.01 <= self.cutoff <= 100.0:
            raise ParameterError(f"`cutoff` must lie between 0.01 and 100 Å, got {self.cutoff}; 4 to 6 is usual.")
        if not self.cutoff / 500.0 <= self.sigma <= 100.0 * self.cutoff:
            raise ParameterError(
                f"`sigma` must lie between cutoff/500 and 100 · cutoff (cutoff {self.cutoff} Å), got {self.sigma}; "
                "0.3 to 0.7 is usual."
            )
        if self.species is not None:
            # `species_index` searches in rising order.
            object.__setattr__(self, "species", sorted_species(self.species))
        if not isinstance(self.n_max, int | np.integer) or not 1 <= self.n_max <= 32:
            raise ParameterError(f"`n_max` must be a whole number from 1 to 32, got {self.n_max!r}; 8 is usual.")
        if not isinstance(self.l_max, int | np.integer) or not 0 <= self.l_max <= 16:
            raise ParameterError(f"`l_max` must be a whole number from 0 to 16, got {self.l_max!r}; 6 is usual.")
        if not 0.0 <= self.fade_width <= self.cutoff:
            raise ParameterError(
                f"`fade` must lie between 0 and the cutoff ({self.cutoff} Å), got {self.fade}; "
                "None takes 0.4 of the cutoff."
            )
        if self.scaling is not None:
            object.__setattr__(self, "scaling", checked_scaling(self.scaling, self.cutoff))
        if self.channels is not None:
            object.__setattr__(self, "channels", settled(self.channels, self.species))

    @property
    def fade_width(self) -> float:
        """Width of the fade, Å."""
        return 0.4 * self.cutoff if self.fade is None else self.fade

    def with_species(self, species: tuple[int, ...]) -> SOAP:
        """Return the same descriptor for these atomic numbers, sorted."""
        return replace(self, species=tuple(species))

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        # NumPy's numbers are accepted as settings, yet JSON knows only Python's.
        settings: dict[str, Any] = {
            "name": "SOAP",
            "cutoff": float(self.cutoff),
            "n_max": int(self.n_max),
            "l_max": int(self.l_max),
            "sigma": float(self.sigma),
            "fade": None if self.fade is None else float(self.fade),
            "basis": basis_settings(self.basis),
            "species": self.species,
        }
        # Only where it is used, so that files and hashes of before stay as they are.
        if self.scaling is not None:
            settings["scaling"] = list(self.scaling)
        if self._channels is not None:
            settings["channels"] = self._channels.settings()
        return settings

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> SOAP:
        """Make the descriptor that `settings` describes."""
        species, scaling = settings["species"], settings.get("scaling")
        channels = settings.get("channels")
        return cls(
            cutoff=float(settings["cutoff"]),
            n_max=int(settings["n_max"]),
            l_max=int(settings["l_max"]),
            sigma=float(settings["sigma"]),
            fade=None if settings["fade"] is None else float(settings["fade"]),
            basis=basis_from_settings(settings["basis"]),
            species=None if species is None else tuple(int(z) for z in species),
            scaling=None if scaling is None else tuple(scaling),
            channels=None if channels is None else ElementChannels.from_settings(channels),
        )

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
        if not isinstance(n_max, int | np.integer) or not 1 <= n_max <= self.n_max:
            raise ParameterError(
                f"`n_max` of the compressed basis must be a whole number from 1 to {self.n_max}, got {n_max!r}; "
                "start from a descriptor with more functions."
            )
        size = {"n_max": self.n_max, "l_max": self.l_max}
        if structures is None:
            moments = volume_moments(self._table, cutoff=self.cutoff, fade=self.fade_width, **size)
        elif len(structures) == 0:
            raise ParameterError("`structures` must hold at least one structure, got none; None takes no structures.")
        else:
            species = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
            plain = replace(self, species=species, channels=None)
            moments = np.zeros((self.l_max + 1, self.n_max, self.n_max))
            for k, atoms in enumerate(structures):
                batch = Batch.from_structures([atoms], self.cutoff, start=k)
                c = plain.expansion.expand(batch, plain.species_index(batch.numbers))
                moments += coefficient_moments(c, **size)
        basis = Compressed(self.basis, principal_components(moments, int(n_max)))
        return replace(self, basis=basis, n_max=int(n_max))

    def is_finite(self) -> bool:
        """Tell whether the radial basis is finite, which settings from a file need not make it."""
        return bool(np.isfinite(self.expansion.table.nodes).all())

    @property
    def n_features(self) -> int:
        """Length of a vector: k(k+1)/2 · (l_max + 1), with k = channels · n_max."""
        size = self.n_channels * self.n_max
        return size * (size + 1) // 2 * (self.l_max + 1)

    @property
    def n_channels(self) -> int:
        """Number of element channels: one for each species, or what `channels` says."""
        mixed = 0 if self._channels is None else self._channels.n
        return mixed or len(self._known_species)

    @property
    def _channels(self) -> ElementChannels | None:
        """Channels, which `__post_init__` has made of elemental modes as well."""
        return self.channels if isinstance(self.channels, ElementChannels) else None

    @property
    def _known_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise ParameterError("this SOAP has no `species` yet; pass species=(14,) or call with_species first.")
        return self.species

    @property
    def _table(self) -> RadialTable:
        size = float(self.cutoff), int(self.n_max), int(self.l_max), float(self.sigma)
        return _tabulated(self.basis, *size, self.scaling)

    @cached_property
    def expansion(self) -> Expansion:
        """The engine with its radial table."""
        mixing = None if self._channels is None else self._channels.array
        n_species = len(self._known_species)
        return Expansion(self._table, self.l_max, self.n_max, n_species, self.cutoff, self.fade_width, mixing)

    def species_index(self, numbers: Int[np.ndarray, " atoms"]) -> Int[np.ndarray, " atoms"]:
        """Return each atom's place in `species`.

        Raises
        ------
        SpeciesError
            An atomic number is not among them.
        """
        return species_places(self.species, numbers, "SOAP")

    def check_reach(self, batch: Batch) -> None:
        """Refuse a batch without the pairs that the cutoff needs.

        Raises
        ------
        ParameterError
            Its cutoff is smaller than the descriptor's.
        """
        check_reach(batch, self.cutoff, "SOAP")

    def values(self, batch: Batch) -> Float[np.ndarray, "atoms f"]:
        """Return the power spectrum of every atom, not normalised."""
        return self.environments(batch).vectors

    def environments(self, batch: Batch) -> SoapEnvironments:
        """Describe every atom; what comes back can be differentiated."""
        self.check_reach(batch)
        species = self.species_index(batch.numbers)
        coefficients = self.expansion.expand(batch, species)
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

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(power spectrum)."""
        inner = np.empty_like(self.coefficients)
        share(
            lambda a, b: spectrum_vjp(a, b, self.soap.l_max, self.coefficients, gradient, inner),
            self.batch.n_atoms,
            ATOMS_PER_TASK,
        )
        return self.soap.expansion.vjp(self.batch, self.species, inner)

    @cached_property
    def _slots(self) -> Slots:
        return Slots.of(self.batch)

    def displacements(self, start: int, stop: int) -> Displacements:
        """Return the derivatives of the power spectra of atoms ``start:stop``."""
        expansion, c, slots = self.soap.expansion, self.coefficients, self._slots
        # A plain n_max: this loop is compiled once for all sizes.
        tables, weights = expansion.tables._replace(n_max=int(self.soap.n_max)), expansion.weights
        pairs = Pairs.of(self.batch, self.species)

        def fill(begin: int, end: int, rows: np.ndarray, virial: np.ndarray) -> None:
            displacement_rows(begin, end, tables, weights, pairs, slots, start, c, rows, virial)

        return slots.displacements(start, stop, self.soap.n_features, fill, CENTRES_PER_TASK)


@lru_cache(maxsize=16)
def _tabulated(
    basis: RadialBasis, cutoff: float, n_max: int, l_max: int, sigma: float, scaling: tuple[float, float] | None
) -> RadialTable:
    """Make a radial table once for all descriptors that share it; a basis is hashable."""
    return RadialTable.from_basis(basis, cutoff=cutoff, n_max=n_max, l_max=l_max, sigma=sigma, scaling=scaling)

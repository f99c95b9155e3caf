"""ACSF: atom-centred symmetry functions of distances and angles (Behler, J. Chem. Phys. 134, 074106 (2011))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.functions import (
    CUTOFF_FUNCTIONS,
    FunctionRows,
    Functions,
    Rows,
    Standard,
    SymmetryFunctions,
)
from kernelpot.descriptors.acsf.loops import symmetry_functions, symmetry_rows, symmetry_vjp
from kernelpot.descriptors.loops import Pairs, Slots
from kernelpot.descriptors.protocol import Displacements, Species, places
from kernelpot.elements.channels import Channels, ElementChannels
from kernelpot.elements.modes import ElementalModes
from kernelpot.errors import ParameterError
from kernelpot.record import WHEN_GIVEN, OneOf, Positive, Record, checked
from kernelpot.rules import whole
from kernelpot.run import share

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_TASK, CENTRES_PER_TASK = 16, 4
"""Fewest atoms worth a thread."""


@dataclass(frozen=True)
class ACSF(Record):
    """Atom-centred symmetry functions: sums over neighbours and over pairs of them, a vector for each atom.

    A vector is [centre, G1, G2 …, G3 … of each element or channel, then G4 …, G5 … of each pair of elements or of each
    channel]. Parameters and order of the functions are those of DScribe's ACSF; `values` returns them bare.

    Parameters
    ----------
    cutoff
        Reach of an environment, Å.
    g2
        [η in Å⁻², Rs in Å] of each function Σ_j exp(-η(r_ij - Rs)²) f(r_ij).
    g4
        [η in Å⁻², ζ, λ] of each function 2^(1-ζ) Σ_jk (1 + λ cos θ)^ζ exp(-η(r_ij² + r_ik² + r_jk²)) f f f.
    g5
        The same without the distance of the neighbours: exp(-η(r_ij² + r_ik²)) f f.
    g3
        κ in Å⁻¹ of each function Σ_j cos(κ r_ij) f(r_ij). Without any of g2 … g5 the functions are those of `spaced`.
    species
        Atomic numbers to tell apart; None: those of the structures the model is given first.
    channels
        None: functions of each element and of each pair of elements apart. With channels of weights β_ε, a neighbour
        counts β_ε(Z_j) in radial functions and two count β_ε(Z_j) β_ε(Z_k) in angular ones, for each channel ε, so the
        length does not depend on the number of elements (Gastegger et al., J. Chem. Phys. 148, 241709 (2018), eqs. 4
        and 5; Herr et al., J. Chem. Phys. 151, 084103 (2019)).
    cutoff_function
        "polynomial": (1 - (r/cutoff)²)³, with two continuous derivatives. "cosine": (1 + cos(π r/cutoff))/2, whose
        second derivative jumps at the cutoff.
    centre
        First component of every vector, so that an isolated atom has a direction.
    standard
        Shift and scale of every function; `scaled` takes them from structures. None: the functions as they are.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    cutoff: Annotated[float, Positive(0.01, 50.0), "Å", "4 to 8 is usual"] = 6.0
    g2: Annotated[Rows | None, FunctionRows(("eta", "Rs"))] = None
    g4: Annotated[Rows | None, FunctionRows(("eta", "zeta", "lambda"))] = None
    g5: Annotated[Rows | None, FunctionRows(("eta", "zeta", "lambda"))] = None
    g3: Annotated[Rows | Sequence[float] | None, FunctionRows(("kappa",))] = None
    species: Annotated[tuple[int, ...] | None, Species()] = None
    channels: Annotated[
        ElementChannels | ElementalModes | None, Channels(), WHEN_GIVEN, "", "ElementChannels.modes(2) is one"
    ] = None
    cutoff_function: Annotated[str, OneOf(CUTOFF_FUNCTIONS)] = "polynomial"
    centre: Annotated[float, Positive(1e-6, 1e6), "units of the functions", "1.0 is usual"] = 1.0
    standard: Annotated[Standard | None, WHEN_GIVEN, "", "`scaled` makes one"] = field(default=None, repr=False)

    def check(self) -> None:
        """Take the functions of `spaced` where there are none, and refuse what does not fit the species."""
        if self.g2 is None and self.g3 is None and self.g4 is None and self.g5 is None:
            radial, angular = spaced_parameters(self.cutoff, 8, 2)
            object.__setattr__(self, "g2", radial)
            object.__setattr__(self, "g4", angular)
        for name in ("g2", "g3", "g4", "g5"):
            object.__setattr__(self, name, getattr(self, name) or ())
        if self._channels is not None and self.species is not None:
            object.__setattr__(self, "channels", self._channels.for_species(self.species))
        standard = self.standard
        if standard is not None and (
            self.species is None or standard.shape != (len(self.species), self.n_features - 1)
        ):
            raise ParameterError(
                f"`standard` is for (species, functions) of shape {standard.shape}, which this ACSF does not have; "
                "call scaled again."
            )

    def verify(self) -> None:
        """Refuse tabulated functions that are not finite."""
        with np.errstate(all="ignore"):
            if not np.isfinite(self.functions.table[0]).all():
                raise ValueError("the radial basis is not finite")

    @classmethod
    def spaced(
        cls,
        cutoff: float = 6.0,
        *,
        n_radial: int = 8,
        n_angular: int = 2,
        channels: ElementChannels | None = None,
        cutoff_function: str = "polynomial",
        centre: float = 1.0,
    ) -> ACSF:
        """Return functions spread evenly over the environment.

        Radial: Gaussians on a grid from 0.5 Å to 0.5 Å short of the cutoff, each as wide as a step, η = 1/(2Δ²)
        (Gastegger et al., J. Chem. Phys. 148, 241709 (2018), section II C). Angular: G4 with ζ = 1, 4, 16 and λ = ±1
        (as in Imbalzano et al., J. Chem. Phys. 148, 241730 (2018)) for n_angular widths η = 1/(2R²), R in equal steps
        up to the cutoff.

        Parameters
        ----------
        cutoff
            Å, above 1.5.
        n_radial, n_angular
            Number of radial functions and of widths of angular ones.
        channels, cutoff_function, centre
            As of the class.

        Raises
        ------
        ParameterError
            A parameter breaks its rule.
        """
        n_radial = whole(n_radial, "n_radial", least=1, most=64, usual="8 is usual")
        n_angular = whole(n_angular, "n_angular", least=1, most=64, usual="2 is usual")
        cutoff = checked(cls, "cutoff", cutoff)
        radial, angular = spaced_parameters(cutoff, n_radial, n_angular)
        return cls(cutoff, g2=radial, g4=angular, channels=channels, cutoff_function=cutoff_function, centre=centre)

    @cached_property
    def functions(self) -> SymmetryFunctions:
        """The functions as arrays."""
        return SymmetryFunctions(
            self.cutoff, self.cutoff_function, self.g2 or (), self._g3, self.g4 or (), self.g5 or ()
        )

    @property
    def _g3(self) -> Rows:
        rows: Any = self.g3
        return rows or ()

    @property
    def _channels(self) -> ElementChannels | None:
        """Channels, which `Channels` has made of elemental modes as well."""
        return self.channels if isinstance(self.channels, ElementChannels) else None

    @property
    def n_channels(self) -> int:
        """Element channels: one for each species, or what `channels` says."""
        return (0 if self._channels is None else self._channels.n) or len(self._known_species)

    @property
    def _blocks(self) -> tuple[int, int]:
        """Blocks of radial and of angular functions."""
        n = self.n_channels
        return n, n * (n + 1) // 2 if self._channels is None else n

    @property
    def n_features(self) -> int:
        """Length of a vector: 1, then the radial functions and the angular ones."""
        radial, angular = self._blocks
        return 1 + radial * self.functions.n_radial + angular * self.functions.n_angular

    @property
    def _known_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise ParameterError("this ACSF has no `species` yet; pass species=(14,) or call with_species first.")
        return self.species

    @cached_property
    def weights(self) -> Float[np.ndarray, "channels species"]:
        """β, the identity written out."""
        n = len(self._known_species)
        return np.eye(n) if self._channels is None else np.ascontiguousarray(self._channels.array)

    @cached_property
    def engine(self) -> Functions:
        """What the loops take."""
        return self.functions.loops(self.weights, identity=self._channels is None)

    def with_species(self, species: tuple[int, ...]) -> ACSF:
        """Return the same descriptor for these atomic numbers, sorted.

        Raises
        ------
        ParameterError
            It was scaled for other species.
        """
        if self.standard is not None and tuple(sorted(set(species))) != self.species:
            raise ParameterError(
                f"this ACSF was scaled for the species {self.species}, not for {tuple(species)}; call scaled again."
            )
        return replace(self, species=tuple(species))

    def scaled(self, structures: Sequence[Atoms]) -> ACSF:
        """Return a copy whose functions have mean 0 and equal spread over the environments of structures.

        Every function is shifted by its mean and divided by its standard deviation and the square root of their number,
        for each centre species apart: vectors less their first component have the root mean square length 1. Standard
        deviations below `kernelpot.descriptors.acsf.functions.LEAST` of the species' largest count as that.

        Parameters
        ----------
        structures
            Such as a training set; labels are not looked at.

        Raises
        ------
        ParameterError
            There is no structure.
        """
        listed = isinstance(structures, Sequence) and all(hasattr(atoms, "positions") for atoms in structures)
        if hasattr(structures, "positions") or not listed or len(structures) == 0:
            raise ParameterError(
                "`structures` must be a list of at least one ase.Atoms; write [atoms] for a single one."
            )
        species = self.species or tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
        plain = replace(self, species=species, standard=None)
        values, species_of = [], []
        for k, atoms in enumerate(structures):
            batch = Batch.from_structures([atoms], self.cutoff, start=k)
            values.append(plain.values(batch))
            species_of.append(places(plain, batch))
        standard = Standard.of(np.concatenate(values), np.concatenate(species_of), len(species))
        return replace(plain, standard=standard)

    def values(self, batch: Batch) -> Float[np.ndarray, "atoms f_minus_1"]:
        """Return the bare functions of every atom: no centre, shift or scale."""
        return self._bare(batch, places(self, batch))[:, 1:]

    def _bare(self, batch: Batch, species: Int[np.ndarray, " atoms"]) -> Float[np.ndarray, "atoms f"]:
        result = np.zeros((batch.n_atoms, self.n_features))
        engine, pairs = self.engine, Pairs.of(batch, species)
        share(lambda a, b: symmetry_functions(a, b, engine, pairs, result), batch.n_atoms, ATOMS_PER_TASK)
        return result

    def environments(self, batch: Batch) -> AcsfEnvironments:
        """Describe every atom; what comes back can be differentiated."""
        species = places(self, batch)
        vectors = self._bare(batch, species)
        if self.standard is not None:
            vectors[:, 1:] -= self.standard.shifts[species]
            vectors[:, 1:] *= self.standard.scales[species]
        vectors[:, 0] = self.centre
        return AcsfEnvironments(self, batch, species, vectors)


def spaced_parameters(cutoff: float, n_radial: int, n_angular: int) -> tuple[Rows, Rows]:
    """Return [η, Rs] and [η, ζ, λ] of `ACSF.spaced`; the grid's ends move in where the cutoff is short."""
    margin = min(0.5, cutoff / 8.0)
    places = np.linspace(margin, cutoff - margin, n_radial)
    width = (cutoff - 2.0 * margin) / max(n_radial - 1, 1)
    radial = tuple((0.5 / width**2, float(r)) for r in places)
    reach = cutoff * np.arange(1, n_angular + 1) / n_angular
    etas = [float(0.5 / r**2) for r in reach]
    angular = tuple((eta, zeta, sign) for eta in etas for zeta in (1.0, 4.0, 16.0) for sign in (1.0, -1.0))
    return radial, angular


@dataclass(frozen=True, eq=False)
class AcsfEnvironments:
    """Symmetry functions of a batch, with what it takes to differentiate them."""

    acsf: ACSF
    batch: Batch
    species: Int[np.ndarray, " atoms"]
    vectors: Float[np.ndarray, "atoms f"]

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(vectors)."""
        standard = self.acsf.standard
        inner = gradient
        if standard is not None:
            inner = np.concatenate([gradient[:, :1], gradient[:, 1:] * standard.scales[self.species]], axis=1)
        result = np.zeros((len(self.batch.second), 3))
        engine, pairs = self.acsf.engine, Pairs.of(self.batch, self.species)
        share(lambda a, b: symmetry_vjp(a, b, engine, pairs, inner, result), self.batch.n_atoms, ATOMS_PER_TASK)
        return result

    @cached_property
    def _slots(self) -> Slots:
        return Slots.of(self.batch)

    def displacements(self, start: int, stop: int) -> Displacements:
        """Return the derivatives of the vectors of atoms ``start:stop``."""
        engine, pairs, slots = self.acsf.engine, Pairs.of(self.batch, self.species), self._slots

        def fill(begin: int, end: int, rows: np.ndarray, virial: np.ndarray) -> None:
            symmetry_rows(begin, end, engine, pairs, slots, start, rows, virial)

        moved = slots.displacements(start, stop, self.acsf.n_features, fill, CENTRES_PER_TASK)
        if self.acsf.standard is not None:
            scales = self.acsf.standard.scales[self.species[start:stop]]
            moved.rows[:, :, 1:] *= scales[moved.centre, None]
            moved.virial[:, :, 1:] *= scales[:, None]
        return moved

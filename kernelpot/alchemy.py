"""Alchemical interpolation: a fitted model while atoms turn from one element to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import HEAVIEST, check_species
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ElementChannels
from kernelpot.elements.table import symbols_to_numbers
from kernelpot.errors import ParameterError
from kernelpot.features.kernel_map import EnergyForm, KernelMap
from kernelpot.features.linear_map import LinearForm, LinearMap
from kernelpot.features.sum_map import SumForm, SumMap
from kernelpot.features.vectors import gather_pairs
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.rules import whole

if TYPE_CHECKING:
    from ase import Atoms

ENDS = (0.0, 0.5, 1.0)
"""λ at which vectors are made for their derivative: three points settle a polynomial of degree two."""


@dataclass(frozen=True, eq=False)
class AlchemicalPoint:
    """A structure at one λ.

    Attributes
    ----------
    energy
        eV.
    forces
        -∂E/∂r, eV/Å.
    stress
        eV/Å³, ASE's sign and Voigt order; NaN without a cell.
    dE_dlambda
        At fixed positions, eV; None where it was not asked for.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, " 6"]
    dE_dlambda: float | None  # noqa: N815


class Alchemy:
    """A structure some of whose atoms are of element i at λ = 0 and of element j at λ = 1.

    As a neighbour, such an atom counts in the element channels with the vector I(λ) = (1 - λ) I_i + λ I_j, where I_a
    is the column of U of element a (its unit vector without `channels`). As a centre, its energy is
    (1 - λ) E_i + λ E_j, the local energies of both elements in the environment it has. At λ = 0 and λ = 1 everything is
    what the model says of the pure elements. Terms without channels (`TwoBody`) and baselines are mixed as a whole:
    (1 - λ) E(0) + λ E(1).

    Vectors are linear or quadratic in the channels, hence polynomials of degree two in λ: dE/dλ is exact, from three
    points. A λ that is no number from 0 to 1 raises a ParameterError everywhere.

    Parameters
    ----------
    model
        Fitted.
    atoms
        The structure at λ = 0.
    change
        Number of an atom (from 0) -> its elements at λ = 0 and λ = 1, such as ``{3: ("Ag", "Pd")}``.

    Raises
    ------
    ParameterError
        There is no such atom, it is of another element, nothing changes, or a descriptor has no element channels.
    SpeciesError
        The model does not know an element.
    NotFittedError
        The model was never fitted.
    """

    def __init__(self, model: SparseGP, atoms: Atoms, change: Mapping[int, tuple[str, str]]) -> None:
        if not isinstance(model, SparseGP):
            raise ParameterError(f"`model` must be a fitted SparseGP or LinearModel, got {type(model).__name__}.")
        self._state = model.to(None).state
        if not hasattr(atoms, "positions"):
            raise ParameterError(f"`atoms` must be one ase.Atoms, got {type(atoms).__name__}.")
        self.atoms = atoms.copy()
        self.change = _checked(change, self.atoms)
        self._numbers = tuple(np.array(atoms.numbers, dtype=np.int64) for _ in range(2))
        for place, (_, after) in self.change.items():
            self._numbers[1][place] = after
        final = self.atoms.copy()
        final.numbers = self._numbers[1]
        check_species([self.atoms, final], self._state.features.species)
        for features, _ in self._terms:
            if isinstance(features, KernelMap | LinearMap):
                # Without channels, SOAP is that with U = I; ACSF keeps a block for every pair of elements, which U does
                # not give.
                descriptor = features.descriptor
                if not isinstance(descriptor, SOAP) and getattr(descriptor, "channels", None) is None:
                    raise ParameterError(
                        f"alchemical atoms need descriptors with element channels, such as SOAP, got {descriptor!r}."
                    )

    # ---- at one λ

    def energy(self, lam: float) -> float:
        """Return the energy at λ, eV."""
        return self.evaluate(lam).energy

    def forces(self, lam: float) -> Float[np.ndarray, "atoms 3"]:
        """Return the forces at λ, eV/Å."""
        return self.evaluate(lam).forces

    def dE_dlambda(self, lam: float) -> float:  # noqa: N802
        """Return dE/dλ at fixed positions, eV: what thermodynamic integration averages."""
        return float(self.evaluate(lam, derivative=True).dE_dlambda or 0.0)

    def evaluate(self, lam: float, atoms: Atoms | None = None, *, derivative: bool = False) -> AlchemicalPoint:
        """Return energy, forces and stress at λ.

        Parameters
        ----------
        lam
            λ, from 0 to 1.
        atoms
            The same atoms elsewhere, as in dynamics; None: those given at first.
        derivative
            Also dE/dλ, which takes the descriptor three times more.

        Raises
        ------
        ParameterError
            λ is not a number from 0 to 1, or the atoms are others.
        DataError
            The structure is unusable.
        """
        lam = _checked_lambda(lam)
        if atoms is None:
            atoms = self.atoms
        elif not hasattr(atoms, "numbers") or not np.array_equal(atoms.numbers, self.atoms.numbers):
            raise ParameterError(
                "`atoms` must be the atoms of λ = 0 at other positions, got other elements or numbers."
            )
        at = _Point(self, Batch.from_structures([atoms], self._state.reach), lam, derivative)
        species = self._state.features.species
        constants = [self._state.e0[np.searchsorted(species, numbers)].sum() for numbers in self._numbers]
        energy, slope = (1.0 - lam) * constants[0] + lam * constants[1], constants[1] - constants[0]
        pairs = np.zeros((len(at.batch.second), 3))
        for features, form in self._terms:
            local, along, by_lambda = at.term(features, form)
            energy, pairs, slope = energy + local, pairs + along, slope + by_lambda
        forces, stress = gather_pairs(at.batch, pairs)
        if self._state.baseline is not None:
            first, last = (self._state.baseline.evaluate(batch) for batch in at.ends)
            energy += float((1.0 - lam) * first.energy[0] + lam * last.energy[0])
            forces = forces + (1.0 - lam) * first.forces + lam * last.forces
            stress = stress + (1.0 - lam) * first.stress + lam * last.stress
            slope += float(last.energy[0] - first.energy[0])
        return AlchemicalPoint(float(energy), forces, stress[0], float(slope) if derivative else None)

    # ---- along λ

    def calculator(self, lam: float) -> AlchemicalCalculator:
        """Return an ASE calculator at one λ, for dynamics."""
        return AlchemicalCalculator(self, lam)

    @staticmethod
    def nodes(n: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return λ and weights of Gauss-Legendre quadrature from 0 to 1: ΔF = Σ_k weight_k ⟨dE/dλ⟩ at λ_k."""
        x, w = np.polynomial.legendre.leggauss(whole(n, "n", least=1))
        return 0.5 * (x + 1.0), 0.5 * w

    # ---- inside

    @property
    def _terms(self) -> Sequence[tuple[Any, Any]]:
        """Feature maps with their energies at fixed weights."""
        features, form = self._state.features, self._state.form
        if isinstance(features, SumMap) and isinstance(form, SumForm):
            return list(zip(features.terms, form.forms, strict=True))
        return [(features, form)]

    @cached_property
    def _stand_ins(self) -> dict[tuple[int, int], int]:
        """An atomic number that no atom has for each pair of elements."""
        free = (z for z in range(1, HEAVIEST + 1) if z not in self._state.features.species)
        return dict(zip(sorted(set(self.change.values())), free, strict=False))

    @cached_property
    def _stand_in_numbers(self) -> Int[np.ndarray, " atoms"]:
        numbers = self._numbers[0].copy()
        for place, pair in self.change.items():
            numbers[place] = self._stand_ins[pair]
        return numbers

    @cached_property
    def _changing(self) -> Bool[np.ndarray, " atoms"]:
        changing = np.zeros(len(self.atoms), dtype=bool)
        changing[list(self.change)] = True
        return changing

    def _descriptor(self, descriptor: Any, lam: float, end: int = 0) -> Any:
        """Return a descriptor that knows the stand-ins as well, with I(λ) as their columns of U.

        Where vectors are standardised by the centre's species, the stand-ins have the standard of their element at
        λ = `end`.
        """
        known = list(descriptor.species)
        u = np.eye(len(known)) if descriptor.channels is None else descriptor.channels.array
        columns = dict(zip(known, u.T, strict=True))
        for (before, after), number in self._stand_ins.items():
            columns[number] = (1.0 - lam) * columns[before] + lam * columns[after]
        species = tuple(sorted(columns))
        matrix = tuple(tuple(row) for row in np.array([columns[z] for z in species]).T.tolist())
        channels = ElementChannels("given", len(u), species=species, matrix=matrix)
        standard = getattr(descriptor, "standard", None)
        if standard is None:
            return replace(descriptor, species=species, channels=channels)
        owners = {number: pair[end] for pair, number in self._stand_ins.items()}
        rows = [known.index(owners.get(z, z)) for z in species]
        tables = {name: tuple(getattr(standard, name)[row] for row in rows) for name in ("shift", "scale")}
        return replace(descriptor, species=species, channels=channels, standard=replace(standard, **tables))


@dataclass(frozen=True, eq=False)
class _Point:
    """A batch of one structure at one λ."""

    alchemy: Alchemy
    batch: Batch
    lam: float
    derivative: bool

    @cached_property
    def ends(self) -> tuple[Batch, Batch]:
        """The structure with the elements of λ = 0 and λ = 1."""
        first, last = (replace(self.batch, numbers=numbers) for numbers in self.alchemy._numbers)
        return first, last

    @cached_property
    def between(self) -> Batch:
        """The structure with stand-ins."""
        return replace(self.batch, numbers=self.alchemy._stand_in_numbers)

    def term(self, features: Any, form: Any) -> tuple[float, Float[np.ndarray, "pairs 3"], float]:
        """Return a term's energy, its derivative by every pair vector, and by λ (0 where it is not asked for)."""
        if isinstance(form, EnergyForm | LinearForm):
            return self._vectors(features, form)
        (first, start), (last, end) = (form.local_and_pairs(features.describe(batch)) for batch in self.ends)
        energy = (1.0 - self.lam) * first.sum() + self.lam * last.sum()
        return float(energy), (1.0 - self.lam) * start + self.lam * end, float(last.sum() - first.sum())

    def _vectors(
        self, features: KernelMap | LinearMap, form: EnergyForm | LinearForm
    ) -> tuple[float, Float[np.ndarray, "pairs 3"], float]:
        """Return the same for a function of vectors, one for each centre species."""
        changing = self.alchemy._changing
        share = np.where(changing, self.lam, 0.0)
        energy, slope, pairs = 0.0, 0.0, np.zeros((len(self.batch.second), 3))
        for end, weight in enumerate((1.0 - share, share)):
            environments = self._environments(features.descriptor, end)
            described = features.describe_again(self.ends[end], environments)
            local, gradient = form.evaluate(described)
            gradient = weight[:, None] * described.by_vectors(gradient)
            energy += float(weight @ local)
            pairs += environments.vjp(gradient)
            if self.derivative:
                sign = 1.0 if end else -1.0
                slope += float(sign * local[changing].sum() + (gradient * self._rate(features.descriptor, end)).sum())
        return energy, pairs, slope

    def _environments(self, descriptor: Any, end: int, lam: float | None = None) -> Any:
        """Describe the atoms between the ends."""
        return self.alchemy._descriptor(descriptor, self.lam if lam is None else lam, end).environments(self.between)

    def _rate(self, descriptor: Any, end: int) -> Float[np.ndarray, "atoms f"]:
        """Return the derivative of every vector by λ, from its values at λ = 0, ½ and 1."""
        first, middle, last = (self._environments(descriptor, end, lam).vectors for lam in ENDS)
        rate: np.ndarray = (4.0 * middle - 3.0 * first - last) + 4.0 * self.lam * (first - 2.0 * middle + last)
        return rate


class AlchemicalCalculator(AseCalculator):
    """ASE calculator of a structure at one λ; made by `Alchemy.calculator`.

    The atoms are those of λ = 0; their masses are the dynamics' own choice, and cancel in configurational averages.
    """

    implemented_properties: ClassVar[Sequence[str]] = ["energy", "free_energy", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(self, alchemy: Alchemy, lam: float) -> None:
        super().__init__()
        self.alchemy = alchemy
        self.lam = _checked_lambda(lam)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``."""
        if system_changes:
            self.results: dict[str, Any] = {}
        super().calculate(atoms, properties, system_changes)
        point = self.alchemy.evaluate(self.lam, self.atoms)
        self.results = {"energy": point.energy, "free_energy": point.energy, "forces": point.forces}
        if np.isfinite(point.stress).all():
            self.results["stress"] = point.stress

    def dE_dlambda(self, atoms: Atoms) -> float:  # noqa: N802
        """Return dE/dλ of the atoms where they are, eV."""
        return float(self.alchemy.evaluate(self.lam, atoms, derivative=True).dE_dlambda or 0.0)


def _checked_lambda(lam: float) -> float:
    if isinstance(lam, bool) or not isinstance(lam, int | float | np.number) or not 0.0 <= lam <= 1.0:
        raise ParameterError(f"λ must be a number from 0 to 1, got {lam!r}.")
    return float(lam)


def _checked(change: Mapping[int, tuple[str, str]], atoms: Atoms) -> dict[int, tuple[int, int]]:
    """Return the atomic numbers that atoms change between."""
    if not isinstance(change, Mapping) or not change:
        raise ParameterError(
            f'`change` must map numbers of atoms to pairs of symbols, such as {{3: ("Ag", "Pd")}}, got {change!r}.'
        )
    result = {}
    for place, pair in change.items():
        whole = isinstance(place, int | np.integer) and not isinstance(place, bool)
        if not whole or not 0 <= place < len(atoms):
            raise ParameterError(
                f"`change`: atoms are counted from 0 to {len(atoms) - 1} in this structure, got {place!r}."
            )
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(s, str) for s in pair):
            raise ParameterError(f'`change`: atom {place} needs two symbols such as ("Ag", "Pd"), got {pair!r}.')
        before, after = symbols_to_numbers(list(pair))
        if before == after:
            raise ParameterError(f"`change`: atom {place} must become another element, got {pair!r}.")
        if atoms.numbers[place] != before:
            raise ParameterError(
                f"`change`: atom {place} is {atoms.symbols[place]}, and {pair!r} begins with {pair[0]}; give the "
                "structure at λ = 0."
            )
        result[int(place)] = (before, after)
    return result

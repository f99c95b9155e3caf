"""Any ASE calculator as a baseline: the model learns the difference (Δ-learning)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, ParameterError
from kernelpot.potentials.baselines.protocol import Contribution

if TYPE_CHECKING:
    from ase import Atoms

_ONE_AT_A_TIME = RLock()
"""Calculators keep their last results, so that threads must not share one."""


@dataclass(frozen=True, eq=False)
class CalculatorBaseline:
    """An ASE calculator as a baseline (Δ-learning: Ramakrishnan et al., J. Chem. Theory Comput. 11, 2087 (2015)).

    It is given elements, positions, cell and periodicity; constraints, charges and magnetic moments are not passed on.
    Its energies and forces must belong together, as what it adds to the forces is not checked against its energies.

    Parameters
    ----------
    calculator
        Such as ``ase.calculators.emt.EMT()``, a tight-binding code, or a `kernelpot.Calculator` of another model.
    name
        What model files call it; they hold no code, so `kernelpot.load` has to be given it again. None: the name of
        the calculator's class.

    Raises
    ------
    ParameterError
        It is no calculator, or has no energies or forces.
    """

    calculator: Any
    name: str = ""

    def __post_init__(self) -> None:
        """Check that it is a calculator."""
        known = getattr(self.calculator, "implemented_properties", None)
        if not hasattr(self.calculator, "get_property") or isinstance(self.calculator, type) or known is None:
            raise ParameterError(
                f"`calculator` must be an ASE calculator such as EMT(), got {self.calculator!r}; a potential of your "
                "own that is none needs the methods of kernelpot.potentials.baselines.protocol.Baseline."
            )
        lacking = [kind for kind in ("energy", "forces") if kind not in known]
        if lacking:
            raise ParameterError(
                f"`calculator` must have energies and forces, {type(self.calculator).__name__} has no "
                f"{' and no '.join(lacking)}; choose another one."
            )
        if not isinstance(self.name, str):
            raise ParameterError(f"`name` must be a word, got {self.name!r}.")
        if not self.name:
            object.__setattr__(self, "name", type(self.calculator).__name__)

    def __repr__(self) -> str:
        """Return the calculator's name."""
        return f"CalculatorBaseline({self.name})"

    def reach(self, species: Sequence[int]) -> float:  # noqa: ARG002
        """Return 0: a calculator finds its own neighbours."""
        return 0.0

    def evaluate(self, batch: Batch, *, names: Sequence[str] | None = None) -> Contribution:
        """Run the calculator on every structure.

        Atoms share a total energy equally where the calculator has no energies of atoms.

        Raises
        ------
        DataError
            The calculator failed, or its results are not finite.
        """
        from ase import Atoms

        n = len(batch)
        energy, local = np.empty(n), np.empty(batch.n_atoms)
        forces, stress = np.empty((batch.n_atoms, 3)), np.full((n, 6), np.nan)
        for s in range(n):
            here = slice(batch.offsets[s], batch.offsets[s + 1])
            atoms = Atoms(batch.numbers[here], batch.positions[here], cell=batch.cells[s], pbc=batch.pbc[s])
            where = str(atoms.symbols) if names is None else f"{names[s]}, {atoms.symbols}"
            with _ONE_AT_A_TIME:
                atoms.calc = self.calculator
                energy[s], local[here], forces[here], found = self._one(atoms, where)
            if np.isfinite(batch.volumes[s]):
                stress[s] = found
        return Contribution(energy, local, forces, stress)

    def _one(
        self, atoms: Atoms, where: str
    ) -> tuple[float, Float[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, " 6"]]:
        from ase.calculators.calculator import PropertyNotImplementedError

        known = self.calculator.implemented_properties
        stress = np.full(6, np.nan)
        try:
            energy = float(atoms.get_potential_energy())
            forces = np.array(atoms.get_forces(apply_constraint=False), dtype=float)
            local = np.zeros(len(atoms))
            if "energies" in known:
                local = np.array(atoms.get_potential_energies(), dtype=float)
            if "stress" in known and atoms.cell.rank == 3:
                try:
                    stress = np.array(atoms.get_stress(), dtype=float)
                except PropertyNotImplementedError:
                    stress[:] = np.nan
        except Exception as error:
            raise DataError(
                f"{where}: the baseline {self.name} failed ({type(error).__name__}: {error}); it must handle every "
                "structure that the model is given."
            ) from error
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(local).all()):
            raise DataError(
                f"{where}: the baseline {self.name} gave an energy or forces that are not finite; it must handle every "
                "structure that the model is given."
            )
        return energy, local + (energy - local.sum()) / len(atoms), forces, stress

    def describe(self, species: Sequence[int]) -> str:  # noqa: ARG002
        """Name the calculator."""
        return f"the calculator {self.name}"

    def settings(self) -> dict[str, Any]:
        """Return what a model file may hold: the name."""
        return {"name": "calculator", "calculator": self.name}

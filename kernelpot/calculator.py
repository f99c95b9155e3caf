"""A fitted model as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs

from kernelpot.data.batch import Batch
from kernelpot.errors import ExtrapolationError, ParameterError
from kernelpot.potentials.joint import SampledModel
from kernelpot.potentials.prediction import require_potential

if TYPE_CHECKING:
    from ase.optimize.optimize import Dynamics

    from kernelpot.potentials.force.force_ridge import ForceRidge
    from kernelpot.potentials.sparse_gp import SparseGP

MEANS = ("energy", "free_energy", "energies", "forces", "stress")
"""Properties of the posterior mean."""

STDS = ("energy_std", "energies_std", "forces_std", "stress_std", "extrapolation")
"""Properties of the predictive distribution, made only when asked for: energies_std and extrapolation cost about twice
the mean each, the others some forty times as much."""


class Calculator(AseCalculator):
    """ASE calculator of a fitted model.

    ``atoms.get_potential_energy()``, ``get_forces()``, ``get_stress()`` and ``get_potential_energies()``
    never pay for uncertainties. Ask for those by name: ``calc.get_property("forces_std", atoms)``. The names
    are ``energy_std`` (eV), ``energies_std`` (eV, one per atom), ``forces_std`` (eV/Å) and ``stress_std``
    (eV/Å³); each is the standard deviation of a label around the prediction (posterior, calibrated, noise).
    ``"extrapolation"`` is every atom's grade: 1 is the edge of what training saw.

    The list of neighbour pairs reaches `skin` beyond the model's cutoff. It serves until an atom has moved by
    more than half the skin, or cell, species or periodicity change.

    Parameters
    ----------
    model
        A fitted :class:`kernelpot.SparseGP` or :class:`kernelpot.ForceRidge` (standard deviations where it keeps its
        factor), or a potential drawn from one (`SparseGP.sample`), which has no standard
        deviations.
    skin
        Extra reach of the neighbour list, Å; 0 rebuilds it at every step.

    Raises
    ------
    ParameterError
        `skin` is negative or not finite, or the model is no potential.
    """

    implemented_properties: ClassVar[Sequence[str]] = [*MEANS, *STDS]
    # The model knows neither charges nor magnetic moments, so a change of these keeps the results.
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(self, model: SparseGP | ForceRidge | SampledModel, *, skin: float = 0.5) -> None:
        require_potential(model)
        if not (np.isfinite(skin) and skin >= 0):
            raise ParameterError(
                f"`skin` must be zero or positive and in Å, got {skin!r}; 0.5 serves molecular dynamics"
            )
        super().__init__()
        self.model = model
        self.skin = float(skin)
        self._batch: Batch | None = None
        self._built_for: Atoms | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:  # noqa: ARG002
        """Return what changed since the last call, to the last bit; for small cells ASE's own comparison takes longer
        than the forces.
        """
        if self.atoms is None:
            return list(all_changes)
        known = self.atoms
        same = {
            "positions": np.array_equal(known.positions, atoms.positions),
            "numbers": np.array_equal(known.numbers, atoms.numbers),
            "cell": np.array_equal(known.cell.array, atoms.cell.array),
            "pbc": np.array_equal(known.pbc, atoms.pbc),
        }
        return [name for name, equal in same.items() if not equal]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``: the mean always, the standard deviations only where `properties` names one.

        Parameters
        ----------
        atoms
            The structure; None means the last one.
        properties
            Names out of ``implemented_properties``.
        system_changes
            What changed since the last call, as ASE found it.

        Raises
        ------
        SpeciesError
            An element that the model has not seen.
        PropertyNotImplementedError
            A stress was asked for, and the structure has no cell; or what this kind of model has not: a standard
            deviation of a potential drawn from a posterior, extrapolation grades of a ForceRidge.
        """
        if system_changes:
            # An error below must not leave the last structure's results behind.
            self.results: dict[str, Any] = {}
        super().calculate(atoms, properties, system_changes)
        stressed = not {"stress", "stress_std"}.isdisjoint(properties)
        if stressed and not np.isfinite(self._neighbours(self.atoms).volumes[0]):
            raise PropertyNotImplementedError(
                "stress needs a cell with three vectors; this structure has none: set `atoms.cell`"
            )
        if "energy" not in self.results:
            self.results = self._mean(self.atoms)
        wanted = set(STDS) & set(properties) - set(self.results)
        if wanted and isinstance(self.model, SampledModel):
            raise PropertyNotImplementedError(
                f"{', '.join(sorted(wanted))}: a potential drawn from a posterior has none; ask the model that it was "
                "drawn from"
            )
        if "extrapolation" in wanted and not hasattr(self.model, "extrapolation"):
            raise PropertyNotImplementedError(
                f"extrapolation: a {type(self.model).__name__} has no extrapolation grades; energies_std of one with "
                "keep_factor=True tells which atoms are strange"
            )
        for name, cheap in (("energies_std", "local_energy_std"), ("extrapolation", "extrapolation")):
            if name in wanted:
                self.results[name] = np.asarray(getattr(self.model, cheap)(self._neighbours(self.atoms)))
        if wanted - set(self.results):
            self.results |= self._stds(self.atoms)

    def export_properties(self) -> Properties:
        """Return the results as ASE's properties, which have no room for standard deviations."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _mean(self, atoms: Atoms) -> dict[str, Any]:
        mean = self.model.mean(self._neighbours(atoms))
        results: dict[str, Any] = {
            "energy": float(mean.energy[0]),
            "free_energy": float(mean.energy[0]),
            "energies": np.asarray(mean.local_energy),
            "forces": np.asarray(mean.forces),
        }
        return results | ({"stress": np.asarray(mean.stress[0])} if np.isfinite(mean.stress[0]).all() else {})

    def _stds(self, atoms: Atoms) -> dict[str, Any]:
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        prediction = self.model.predict([bare], uncertainty=True)
        results: dict[str, Any] = {
            "energy_std": float(prediction.energy_std[0]),
            "energies_std": np.asarray(prediction.local_energy_std[0]),
            "forces_std": np.asarray(prediction.forces_std[0]),
        }
        stress = np.asarray(prediction.stress_std[0])
        return results | ({"stress_std": stress} if np.isfinite(stress).all() else {})

    def _neighbours(self, atoms: Atoms) -> Batch:
        """Reuse the pairs of the last build while they must still hold every pair within the cutoff."""
        if self._batch is None or self._built_for is None or not self._still_serves(self._built_for, atoms):
            self._batch = Batch.from_structures([atoms], self.model.cutoff_, skin=self.skin)
            self._built_for = atoms.copy()
            return self._batch
        return self._batch.moved(atoms.positions)

    def _still_serves(self, built: Atoms, atoms: Atoms) -> bool:
        same = (
            len(built) == len(atoms)
            and np.array_equal(built.numbers, atoms.numbers)
            and np.array_equal(built.pbc, atoms.pbc)
            and np.array_equal(built.cell.array, atoms.cell.array)
        )
        # A jump across a periodic boundary counts in full.
        return same and bool(np.all(np.linalg.norm(atoms.positions - built.positions, axis=1) <= self.skin / 2))


class StopOnExtrapolation:
    """Observer that stops ASE dynamics where an atom's environment lies outside what training saw.

    ``dyn.attach(StopOnExtrapolation(dyn, threshold=2.0), interval=10)``; ``dyn.run`` then raises `ExtrapolationError`,
    which holds the structure, so that it can be labelled and learnt from.

    Parameters
    ----------
    dynamics
        ASE dynamics or optimiser whose atoms carry a `Calculator`.
    threshold
        Grade above which to stop: 1 is the 99th percentile of the training set's own environments, so that one atom
        in a hundred of what was seen exceeds it; 2 leaves few.
    keep
        Also collect structures above this grade in `met`, at most one per call; None keeps none.

    Attributes
    ----------
    met
        Structures above `keep`, each with its grades as ``atoms.arrays["extrapolation"]``.
    largest
        The largest grade so far.

    Raises
    ------
    ParameterError
        A threshold is not positive, or the atoms do not carry a `Calculator`.
    """

    def __init__(self, dynamics: Dynamics, *, threshold: float = 2.0, keep: float | None = None) -> None:
        for name, value in (("threshold", threshold), ("keep", keep)):
            if value is not None and not (isinstance(value, int | float | np.number) and value > 0):
                raise ParameterError(f"`{name}` must be a positive grade, got {value!r}; 2 is usual")
        found = getattr(getattr(dynamics, "atoms", None), "calc", None)
        model = getattr(found, "model", None)
        if not isinstance(found, Calculator) or isinstance(model, SampledModel) or not hasattr(model, "extrapolation"):
            raise ParameterError(
                "`dynamics` must move atoms that carry a kernelpot.Calculator of a fitted model with extrapolation "
                f"grades, such as SparseGP, found {type(found).__name__} of {type(model).__name__}; set `atoms.calc` "
                "first"
            )
        self.dynamics = dynamics
        self.threshold = float(threshold)
        self.keep = None if keep is None else float(keep)
        self.met: list[Atoms] = []
        self.largest = 0.0

    def __call__(self) -> None:
        """Grade the atoms as they are now."""
        atoms = self.dynamics.atoms
        grades = np.asarray(atoms.calc.get_property("extrapolation", atoms))
        # A structure that has blown up has grades that are not numbers.
        worst = int(np.argmax(np.where(np.isfinite(grades), grades, np.inf)))
        grade = float(grades[worst])
        beyond = not grade <= self.threshold
        self.largest = max(self.largest, grade)
        if not beyond and (self.keep is None or grade <= self.keep):
            return
        copy = atoms.copy()
        copy.arrays["extrapolation"] = grades
        if self.keep is not None:
            self.met.append(copy)
        if beyond:
            step = getattr(self.dynamics, "nsteps", None)
            raise ExtrapolationError(
                f"step {step}: atom {worst} ({atoms.symbols[worst]}) has an extrapolation grade of {grade:.2f}, above "
                f"{self.threshold:g}; label the structure (`error.atoms`) and fit with it",
                copy, grade, worst,
            )  # fmt: skip

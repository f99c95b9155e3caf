"""Baselines as users and model files give them, and labels less what a baseline says."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.check import place
from kernelpot.data.labels import Labels
from kernelpot.data.stream import chunks, sizes_of, species_of
from kernelpot.errors import DataError, LabelError, ModelFileError, ParameterError
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.zbl import ZBL
from kernelpot.potentials.prediction import Mean
from kernelpot.progress import track

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
                "own that is none needs the methods of kernelpot.potentials.baselines.Baseline."
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

    def evaluate(self, batch: Batch, *, names: Sequence[str] | None = None) -> Mean:
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
        return Mean(energy, local, forces, stress)

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


METHODS = ("reach", "evaluate", "describe", "settings")

LEAST_REACH = 0.1
"""Å; a list of neighbours needs some cutoff where a baseline needs none."""


def as_baseline(given: object) -> Baseline | None:
    """Return a baseline, or None; an ASE calculator is made one."""
    if given is None:
        return None
    if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in METHODS):
        if not isinstance(given, type) and hasattr(given, "get_property"):
            return CalculatorBaseline(given)
        raise ParameterError(
            "`baseline` must be None, a ZBL(), a CalculatorBaseline(calculator) or another object with the methods "
            f"{', '.join(METHODS)}; got {given!r}."
        )
    return given  # type: ignore[return-value]


def recorded(settings: Mapping[str, Any] | None) -> ZBL | str | None:
    """Read what a model file says of its baseline: a ZBL whole, of any other only its settings as text."""
    if settings is None:
        return None
    return ZBL.from_settings(settings) if settings["name"] == "ZBL" else _text(settings)


def matched(found: ZBL | str | None, given: object, path: object) -> Baseline | None:
    """Return the baseline of a model from a file: what `recorded` read, or what the user gave to stand for it."""
    baseline = as_baseline(given)
    if not isinstance(found, str):
        if baseline is not None and baseline != found:
            what = "without a baseline" if found is None else f"with the baseline {found!r}"
            raise ParameterError(f"{path}: this model was fitted {what}; leave `baseline` out, got {given!r}.")
        return found
    said = json.loads(found)
    name = said.get("calculator", said["name"])
    if baseline is None:
        raise ModelFileError(
            f"{path}: this model was fitted to the difference from the baseline {name!r}, which no file can hold; "
            "give it with kernelpot.load(path, baseline=...)."
        )
    if _text(baseline.settings()) != found:
        raise ModelFileError(
            f"{path}: this model was fitted to the difference from the baseline {name!r}, got {baseline!r}; give the "
            "same one, with the same name."
        )
    return baseline


def _text(settings: Mapping[str, Any]) -> str:
    if not isinstance(settings["name"], str):
        raise TypeError(f"the name of a baseline must be a word, found {settings['name']!r}")
    return json.dumps(dict(settings), sort_keys=True)


def evaluated(baseline: Baseline | None, structures: Sequence[Atoms]) -> Mean:
    """Return what a baseline says of structures; zeros where there is none."""
    if baseline is None:
        n, n_atoms = len(structures), int(sizes_of(structures).sum())
        return Mean(np.zeros(n), np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((n, 6)))
    cutoff = max(baseline.reach(species_of(structures)), LEAST_REACH)
    parts = []
    for start, stop in track(list(chunks(structures)), "baseline"):
        some = structures[start:stop]
        batch = Batch.from_structures(some, cutoff, start=start)
        parts.append(baseline.evaluate(batch, names=[place(atoms, k) for k, atoms in enumerate(some, start)]))
    names = ("energy", "local_energy", "forces", "stress")
    return Mean(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def less_baseline(
    baseline: Baseline | None, structures: Sequence[Atoms], labels: Labels, kinds: Collection[str]
) -> Labels:
    """Return labels less what a baseline says of the kinds that will be used; unchanged where there is none."""
    if baseline is None:
        return labels
    part = evaluated(baseline, structures)
    energy, stress = labels.energy - part.energy, labels.stress - part.stress
    lost = [k for k, there in enumerate(labels.present("stress")) if there and structures[k].cell.rank == 3]
    if "stress" in kinds and not np.isfinite(stress[lost]).all():
        raise LabelError(
            f"the baseline {baseline!r} has no stress where there are stress labels; leave them out with "
            "keys={'stress': None} or a Noise without stress."
        )
    shares = np.split(part.forces, np.cumsum(labels.n_atoms)[:-1])
    forces = tuple(None if f is None else f - share for f, share in zip(labels.forces, shares, strict=True))
    for array in (energy, stress):
        array.setflags(write=False)
    return replace(labels, energy=energy, forces=forces, stress=stress)

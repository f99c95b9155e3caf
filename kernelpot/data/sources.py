"""Search of one structure for its labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from kernelpot.data.noise import KINDS
from kernelpot.errors import LabelError, ParameterError
from kernelpot.units import GPA, VOIGT

if TYPE_CHECKING:
    from ase import Atoms

STEMS = {
    "energy": "energy",
    "total_energy": "energy",
    "potential_energy": "energy",
    "free_energy": "free_energy",
    "forces": "forces",
    "force": "forces",
    "stress": "stress",
    "virial": "virial",
    "virials": "virial",
}
"""Plain names and the quantity that each means."""

MARKS = ("ref", "reference", "dft", "qm", "target", "label")
"""Marks of a reference value: `REF_energy` and `energy_dft` are read like `energy`, `mace_energy` is not."""

ON_ATOMS = ("forces",)
"""Quantities looked for in `atoms.arrays` too."""


_NAMES = [
    *STEMS.items(),
    *(
        (name, quantity)
        for mark in MARKS
        for stem, quantity in STEMS.items()
        for name in (f"{mark}_{stem}", f"{stem}_{mark}")
    ),
]
_RANKED = {name: (rank, quantity) for rank, (name, quantity) in enumerate(_NAMES)}


def ranked(name: object) -> tuple[int, str] | None:
    """Look up a name, without regard to upper and lower case, hyphens and spaces."""
    if not isinstance(name, str):
        return None
    return _RANKED.get(name.lower().replace("-", "_").replace(" ", "_"))


_ROWS, _COLUMNS = np.array(VOIGT).T
_ASYMMETRY = 1e-3


def to_voigt(tensor: np.ndarray) -> Float[np.ndarray, " 6"]:
    """Bring a symmetric tensor to ASE's Voigt order."""
    if tensor.shape == (6,):
        return np.array(tensor, dtype=np.float64)
    if tensor.shape not in ((9,), (3, 3)):
        raise ValueError(f"shape must be (6,), (9,) or (3, 3), found {tensor.shape}")
    full = np.asarray(tensor, dtype=np.float64).reshape(3, 3)
    asymmetry = float(np.abs(full - full.T).max())
    if asymmetry > _ASYMMETRY * float(np.abs(full).max()) + 1e-6:
        raise ValueError(f"tensor must be symmetric, found a difference of {asymmetry:.3g} to its transpose")
    return (0.5 * (full + full.T))[_ROWS, _COLUMNS]


def stress_of_virial(virial: np.ndarray, volume: float) -> np.ndarray:
    """Convert a virial in eV to a stress in eV/Å³: stress = -virial / `volume`, as virial = -dE/dε."""
    return -virial / volume


RESOLVED = "kernelpot_resolved"
"""Attribute of a calculator whose results `kernelpot.read` has settled, so that nothing else is looked at."""

MOVED = 1e-6
"""Change of a position or cell in Å beyond which the labels of a structure no longer hold."""

LIMITS = {"energy": (1e6, "eV/atom"), "forces": (1e3, "eV/Å"), "stress": (100.0, "eV/Å³")}
"""Largest credible size of a structure's label (root mean square); beyond it the units must be wrong."""

MASKS = ("force_mask", "forces_mask")
"""Columns whose true atoms have forces that mean nothing, as gap_fit understands them."""

WEIGHTS = {
    "energy": (("energy_sigma",), ("energy_weight",)),
    "forces": (("force_sigma", "forces_sigma"), ("force_weight", "forces_weight")),
    "stress": (("stress_sigma", "virial_sigma"), ("stress_weight", "virial_weight")),
}
"""Names in `atoms.info` of a label's own noise, and of its weight."""

CONFIG_WEIGHT = "config_weight"

HUGE_STRESS = 1.0
"""Stress in eV/Å³ (160 GPa, half of what the Earth's centre has) beyond which its unit is asked for."""

EMPTY = 1e-8
"""Volume in Å³ of a cell that counts as none."""

_QUANTITIES = {"energy": ("energy", "free_energy"), "forces": ("forces",), "stress": ("stress", "virial")}
# Absolute differences below which two sources agree: what rounding in a text file does.
_AGREE = {"energy": 1e-5, "forces": 1e-4, "stress": 1e-5}
_SINGLE_PRECISION = 2.5e-7


@dataclass(frozen=True, eq=False)
class Candidate:
    """A label of one structure: where it was found, and its value in kernelpot's units, read-only.

    The value of an energy has shape (1,), of forces (atoms, 3), NaN where they are masked, of a stress (6,).
    """

    origin: str
    value: np.ndarray


def checked_keys(keys: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Check the argument `keys`: quantities to names, or to None for a kind to be ignored."""
    names = dict(keys or {})
    allowed = (*KINDS, "virial")
    for quantity, name in names.items():
        if quantity not in allowed:
            raise ParameterError(f"`keys` must map some of {', '.join(allowed)} to names, got {quantity!r}.")
        if name is not None and not isinstance(name, str):
            raise ParameterError(f"`keys['{quantity}']` must be a name or None, got {name!r}.")
    if "stress" in names and "virial" in names:
        raise ParameterError(f"`keys` must name the stress or the virial, got both: {names!r}.")
    return names


def factors_of(atoms: Atoms, where: str) -> tuple[dict[str, float], list[str]]:
    """Return what each kind's noise is multiplied by, or its own noise, and the names these were found under."""
    found, names = {}, []
    for kind, (sigmas, weights) in WEIGHTS.items():
        value = 1.0
        for name in (*sigmas, *weights, CONFIG_WEIGHT):
            if name not in atoms.info:
                continue
            number = atoms.info[name]
            plain = isinstance(number, int | float | np.number) and not isinstance(number, bool | np.bool_)
            if not plain or not 0.0 < float(number) < np.inf:
                raise LabelError(
                    f"{where}: info `{name}` must be a number above 0, found {number!r}; delete the key, or leave the "
                    f"{'structure' if name == CONFIG_WEIGHT else 'label'} out."
                )
            value *= float(number) if name in sigmas else float(number) ** -0.5
            names.append(name)
        found[kind] = value
    return found, sorted(set(names))


def masked_atoms(atoms: Atoms, where: str) -> Bool[np.ndarray, " atoms"]:
    """Return which atoms have forces that mean nothing, by a column `force_mask`."""
    result = np.zeros(len(atoms), dtype=bool)
    for mask in (np.asarray(atoms.arrays[name]) for name in MASKS if name in atoms.arrays):
        if mask.ndim != 1 or mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
            raise LabelError(
                f"{where}: column `force_mask` must be T or F for each atom, T where the force is left out, found "
                f"{mask.dtype} of shape {mask.shape}."
            )
        result |= mask.astype(bool)
    return result


_Raw = tuple[str, str, Any]  # quantity, origin, value as found


def _shaped(array: np.ndarray, shape: tuple[int, ...], *, allowed: bool) -> np.ndarray:
    if not allowed:
        raise ValueError(f"found shape {array.shape}")
    return array.reshape(shape)


@dataclass(frozen=True, eq=False)
class LabelSearch:
    """Search of one structure for its labels; `where` names it in messages."""

    atoms: Atoms
    where: str

    def find(self, names: Mapping[str, str | None]) -> tuple[dict[str, Candidate | None], list[str]]:
        """Return the label of each kind, and remarks on them."""
        atoms = self.atoms
        found: dict[str, Candidate | None] = {}
        remarks: list[str] = []
        for kind in KINDS:
            named = {quantity: names[quantity] for quantity in (kind, *_QUANTITIES[kind]) if quantity in names}
            if named:
                raw = [item for quantity, name in named.items() for item in self._named(quantity, name)]
            else:
                raw = self._usual(kind)
            if raw and kind == "stress" and self._volume < EMPTY:
                remarks.append("stress left out, for want of a cell")
                raw = []
            found[kind] = self._settle([self._read(kind, item) for item in raw], kind)
        if self._masked.any() and found["forces"] is not None:
            remarks.append("forces of masked atoms (`force_mask`) are left out")
            found["forces"] = None if self._masked.all() else found["forces"]
        stress = found["stress"]
        if stress is not None and float(np.sqrt(np.mean(stress.value**2))) > HUGE_STRESS:
            remarks.append(
                f"stresses beyond {HUGE_STRESS / GPA:.0f} GPa: are they in kbar or GPa? 1 GPa is {GPA:.6f} eV/Å³"
            )
        if atoms.info.get("predicted_by") == "kernelpot" and any(found.values()):
            remarks.append("these labels are predictions of `kernelpot predict`, not calculations")
        if found["forces"] is not None:
            forces = np.nan_to_num(found["forces"].value)
            fixed = [index for constraint in atoms.constraints for index in getattr(constraint, "index", ())]
            # A constraint seems to have been applied to the forces.
            if fixed and not forces[fixed].any() and forces.any():
                remarks.append("forces on constrained atoms are exactly zero: are these the true forces?")
            elif len(atoms) > 1 and not forces.any():
                remarks.append(
                    "all forces are exactly zero: perfect crystals, or placeholders (keys={'forces': None})?"
                )
            elif stress is not None and not stress.value.any() and forces.any():
                remarks.append(
                    "the stress is exactly zero where forces are not: a placeholder (keys={'stress': None})?"
                )
        if self.atoms.info.get("converged") is False and any(found.values()):
            remarks.append("`converged` is false: labels of a calculation that did not converge")
        return found, remarks

    @cached_property
    def _masked(self) -> Bool[np.ndarray, " atoms"]:
        return masked_atoms(self.atoms, self.where)

    @cached_property
    def _volume(self) -> float:
        return abs(float(np.linalg.det(np.asarray(self.atoms.cell))))

    @cached_property
    def _results(self) -> Mapping[str, Any]:
        """Results of the calculator, if they belong to these atoms."""
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms = self.atoms
        results: Mapping[str, Any] = getattr(atoms.calc, "results", None) or {}
        before = getattr(atoms.calc, "atoms", None)
        if not results or before is None:
            return results
        if len(before) == len(atoms) and np.array_equal(before.numbers, atoms.numbers):
            # Readers and users often give a molecule its box, or pbc, after the labels.
            cell = before.cell.any() and np.abs(np.asarray(before.cell - atoms.cell)).max() > MOVED
            if not (cell or (len(atoms) and np.abs(before.positions - atoms.positions).max() > MOVED)):
                return results
        if isinstance(atoms.calc, SinglePointCalculator):
            raise LabelError(
                f"{self.where}: labels must belong to the structure, found atoms or cell changed since they were "
                "computed; compute them anew, or, if they still hold, attach them again: "
                "atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)."
            )
        return {}

    def _named(self, quantity: str, name: str | None) -> list[_Raw]:
        if name is None:
            return []
        places = (("calculator", self._results), ("info", self.atoms.info), ("arrays", self.atoms.arrays))
        return [(quantity, f"{place} `{name}`", held[name]) for place, held in places if held.get(name) is not None]

    def _usual(self, kind: str) -> list[_Raw]:
        """Candidates by the usual names, the preferred first."""
        quantities, results, atoms = _QUANTITIES[kind], self._results, self.atoms
        raw: list[_Raw] = [
            (quantity, f"calculator `{quantity}`", results[quantity])
            for quantity in quantities
            if results.get(quantity) is not None
        ]
        if not getattr(atoms.calc, RESOLVED, False):
            places: list[tuple[str, Mapping[str, Any]]] = [("info", atoms.info)]
            if kind in ON_ATOMS:
                places.append(("arrays", atoms.arrays))
            hits = [
                (rank[0], (rank[1], f"{place} `{name}`", value))
                for place, held in places
                for name, value in held.items()
                if value is not None and (rank := ranked(name)) is not None and rank[1] in quantities
            ]
            raw += [item for _, item in sorted(hits, key=lambda hit: hit[0])]
        plain = [item for item in raw if item[0] != "free_energy"]
        return plain or raw

    def _read(self, kind: str, raw: _Raw) -> Candidate:
        """Bring a value as found to a checked array in kernelpot's units."""
        quantity, origin, found = raw
        what = f"{self.where}: {quantity} ({origin})"
        shape, convert = self._converter(quantity)
        try:
            numeric = np.asarray(found).dtype.kind in "iuf"
            array = np.array(found, dtype=np.float64) if numeric else None
        except (TypeError, ValueError):
            array = None
        if array is None:
            text = repr(found)
            text = text if len(text) < 60 else f"{text[:57]}..."
            raise LabelError(f"{what} must be {shape}, found {text}; repair it.")
        if kind == "forces" and array.shape == (len(self.atoms), 3):
            array[self._masked] = np.nan
            told = array[~self._masked]
        else:
            told = array
        if not np.isfinite(told).all():
            bad = int(np.sum(~np.isfinite(told)))
            raise LabelError(
                f"{what} must be finite, {bad} of {array.size} numbers are not; remove the label where there is none."
            )
        try:
            value = convert(array)
        except ValueError as error:
            raise LabelError(f"{what} must be {shape}: {error}; repair it.") from error
        self._check_size(value, kind, what)
        value.setflags(write=False)
        return Candidate(origin, value)

    def _converter(self, quantity: str) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
        """Say what shape a quantity must have, and return what brings it to ours."""
        if quantity in ("energy", "free_energy"):
            return "one number in eV", lambda array: _shaped(array, (1,), allowed=array.size == 1)
        if quantity == "forces":
            wanted = (len(self.atoms), 3)
            return f"{wanted} in eV/Å", lambda array: _shaped(array, wanted, allowed=array.shape == wanted)
        if quantity == "stress":
            return "3x3, 9 or 6 numbers in eV/Å³", to_voigt
        return "3x3, 9 or 6 numbers in eV", lambda array: stress_of_virial(to_voigt(array), self._volume)

    def _check_size(self, value: np.ndarray, kind: str, what: str) -> None:
        limit, unit = LIMITS[kind]
        told = value[np.isfinite(value)]
        largest = float(np.abs(told).max(initial=0.0))
        # Squares of the largest numbers there are would overflow.
        size = largest * float(np.sqrt(np.mean((told / largest) ** 2))) if largest else 0.0
        if kind == "energy":
            size /= max(len(self.atoms), 1)
        if size > limit:
            hint = f"; 1 GPa is {GPA:.6f} eV/Å³" if kind == "stress" else ""
            raise LabelError(f"{what} must be below {limit:g} {unit} (rms), found {size:.4g}; check the units{hint}.")

    def _settle(self, candidates: list[Candidate], kind: str) -> Candidate | None:
        """Take the preferred candidate, after the others have agreed with it."""
        if not candidates:
            return None
        first = candidates[0]
        scale = len(self.atoms) if kind == "energy" else 1
        for other in candidates[1:]:
            largest = float(np.abs(np.nan_to_num(first.value)).max())
            difference = float(np.abs(np.nan_to_num(first.value - other.value)).max())
            if difference > _AGREE[kind] * scale + _SINGLE_PRECISION * largest:
                unit = LIMITS[kind][1].removesuffix("/atom")
                raise LabelError(
                    f"{self.where}: sources of the {kind} must agree, {first.origin} and {other.origin} differ by "
                    f"{difference:.4g} {unit}; say which with keys={{'{kind}': ...}}."
                )
        return first

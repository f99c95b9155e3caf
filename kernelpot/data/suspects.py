"""Labels that stand out from what the other labels say of them, each with the likeliest reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.check import SOURCE, place
from kernelpot.data.geometry import GeometryLimits, why
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS
from kernelpot.units import GPA, KBAR, KCAL_PER_MOL, MILLI

if TYPE_CHECKING:
    from ase import Atoms

HARTREE, RYDBERG, BOHR, KJ_PER_MOL = 27.211386, 13.605693, 0.529177, KCAL_PER_MOL / 4.184
UNITS: Mapping[str, Mapping[str, float]] = {
    "energy": {"Hartree": HARTREE, "Rydberg": RYDBERG, "kcal/mol": KCAL_PER_MOL, "kJ/mol": KJ_PER_MOL, "meV": 1e-3,
               "eV but divided by 27.21 once more than they should be": 1 / HARTREE},
    "forces": {"Hartree/Bohr": HARTREE / BOHR, "Rydberg/Bohr": RYDBERG / BOHR, "Hartree/Å": HARTREE,
               "eV/Bohr": 1 / BOHR, "kcal/mol/Å": KCAL_PER_MOL, "kJ/mol/Å": KJ_PER_MOL, "meV/Å": 1e-3},
    "stress": {"GPa": GPA, "kbar": KBAR, "Hartree/Bohr³": HARTREE / BOHR**3, "Rydberg/Bohr³": RYDBERG / BOHR**3},
}  # fmt: skip
"""What a label in each unit is multiplied by to be one in eV and Å."""

MATCH = 0.3
"""Share of its error that may be left where a reason explains a label."""

SHARED = 0.8
"""Share of a group's structures that must stand out for the group to be the reason."""

FEWEST = 3
"""Members of a group that is worth naming."""

SPREAD = 0.25
"""Scatter, over the mean, below which errors of a group are one constant."""

HUGE = 30.0
"""Largest force, over the usual, of a geometry that has exploded."""

CAUSES = ("unit or sign", "labelled twice", "another's labels", "single atom", "source", "geometry", "unknown")
"""What may be wrong with a label, in the order in which it is looked for."""

SHOWN = 10
"""Suspects that the text names."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Labels beside what models that did not see them say: energies in eV, forces in eV/Å, stresses in eV/Å³.

    `std` holds the usual size of an error for each kind and structure (energies per atom; forces and stresses as root
    mean square over components), `on_atoms` that of each atom's force, `times` the errors in these units, NaN where
    there is no label, `worst` the same of the worst atom's force. `groups` numbers equal geometries.
    """

    energy: Float[np.ndarray, " structures"]
    forces: Sequence[Float[np.ndarray, "atoms 3"]]
    stress: Float[np.ndarray, "structures 6"]
    std: Mapping[str, Float[np.ndarray, " structures"]]
    on_atoms: Sequence[Float[np.ndarray, " atoms"]]
    times: Mapping[str, Float[np.ndarray, " structures"]]
    worst: Float[np.ndarray, " structures"]
    groups: Int[np.ndarray, " structures"]

    def of(self, kind: str, k: int) -> Float[np.ndarray, "..."]:
        """Return the prediction of one kind for one structure."""
        return {"energy": self.energy[k : k + 1], "forces": self.forces[k], "stress": self.stress[k]}[kind]

    def about(self, known: Labels, fitted: Labels) -> Judged:
        """Return predictions of the labels as they are known, of which a baseline was taken off before the fit."""
        forces = tuple(
            one if mine is None or theirs is None else one + np.nan_to_num(mine - theirs)
            for one, mine, theirs in zip(self.forces, known.forces, fitted.forces, strict=True)
        )
        energy, stress = (
            one + np.nan_to_num(mine - theirs)
            for one, mine, theirs in (
                (self.energy, known.energy, fitted.energy),
                (self.stress, known.stress, fitted.stress),
            )
        )
        return replace(self, energy=energy, forces=forces, stress=stress)


@dataclass(frozen=True)
class Suspect:
    """One label that stands out.

    Attributes
    ----------
    structure
        Number of the structure in the list, from 0.
    place
        The same for people: file and number, where it was read from one.
    kind
        "energy", "forces" or "stress".
    times
        Error over its usual size.
    label, predicted
        Energy, eV/atom; force on `atom`, eV/Å; stress, eV/Å³. The prediction comes from a model that did not see the
        structure.
    std
        Usual size of the error of such a prediction, in the same unit.
    atom
        The atom whose force is worst, from 0; None for other kinds.
    cause
        One of `CAUSES`.
    reason
        What explains the label best, for people.
    """

    structure: int
    place: str
    kind: str
    times: float
    label: tuple[float, ...]
    predicted: tuple[float, ...]
    std: float
    atom: int | None
    cause: str
    reason: str

    def __str__(self) -> str:
        """Return one line for people."""
        unit = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}[self.kind]
        what = "energy" if self.kind == "energy" else self.kind if self.atom is None else f"force on atom {self.atom}"
        label, predicted = (" ".join(f"{v:.4g}" for v in values) for values in (self.label, self.predicted))
        if self.kind == "energy":
            label, predicted = f"{self.label[0]:.4f}", f"{self.predicted[0]:.4f}"
        return (
            f"{self.place}: {what} {label}, predicted {predicted} ± {self.std:.2g} {unit} "
            f"({self.times:,.0f} times the usual error): {self.reason}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain numbers and lists."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """What the labels of a set say of each other.

    Attributes
    ----------
    suspects
        Labels that stand out, the worst first.
    n_structures
        Structures that were looked at.
    errors
        For each kind the left-out error of every structure: label minus prediction of energies, eV/atom; root mean
        square of forces, eV/Å, and of stresses, eV/Å³; NaN where there is no label.
    times
        The same over their usual size.
    """

    suspects: tuple[Suspect, ...]
    n_structures: int
    errors: Mapping[str, Float[np.ndarray, " structures"]] = field(default_factory=dict)
    times: Mapping[str, Float[np.ndarray, " structures"]] = field(default_factory=dict)

    @property
    def structures(self) -> tuple[int, ...]:
        """Numbers of the structures with a label that stands out, from 0, ascending."""
        return tuple(sorted({one.structure for one in self.suspects}))

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of all other structures."""
        return tuple(np.setdiff1d(np.arange(self.n_structures), self.structures).tolist())

    @property
    def causes(self) -> dict[str, int]:
        """How many labels each cause explains, the most first."""
        return dict(Counter(one.cause for one in self.suspects).most_common())

    def headline(self) -> str:
        """Return one sentence: how many, the worst, the reasons."""
        if not self.suspects:
            return f"no label of {self.n_structures} structures stands out"
        n = len(self.structures)
        return (
            f"labels of {n} of {self.n_structures} structures {'do' if n > 1 else 'does'} not fit the others; the "
            f"worst, {self.suspects[0]}"
        )

    def __str__(self) -> str:
        """Return text for people: the first suspects, one a line."""
        if not self.suspects:
            return f"{self.headline()}{self._usual()}"
        n = len(self.structures)
        lines = [f"labels of {n} of {self.n_structures} structures do not fit the others{self._usual()}"]
        if len(self.suspects) > 1:
            lines.append(f"  likely causes: {', '.join(f'{cause} ({n})' for cause, n in self.causes.items())}")
        lines += [f"  {one}" for one in self.suspects[:SHOWN]]
        if len(self.suspects) > SHOWN:
            lines.append(f"  … and {len(self.suspects) - SHOWN} more")
        return "\n".join(lines)

    def _usual(self) -> str:
        usual = [
            f"{kind} {1e3 * float(np.nanmedian(np.abs(values))):.3g} {MILLI[kind]}"
            for kind, values in self.errors.items()
            if np.isfinite(values).any()
        ]
        return f" (median left-out error: {', '.join(usual)})" if usual else ""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain numbers and lists."""
        return {
            "n_structures": self.n_structures,
            "structures": list(self.structures),
            "suspects": [one.as_dict() for one in self.suspects],
            "errors": {kind: values.tolist() for kind, values in self.errors.items()},
            "times": {kind: values.tolist() for kind, values in self.times.items()},
        }


def explained(
    structures: Sequence[Atoms], labels: Labels, judged: Judged, out: Mapping[str, Bool[np.ndarray, " structures"]]
) -> LabelCheck:
    """Return the labels that stand `out`, with their reasons."""
    reasons = _Reasons(structures, labels, judged, out)
    found = [reasons.suspect(kind, k) for kind in KINDS if kind in out for k in np.flatnonzero(out[kind]).tolist()]
    found.sort(key=lambda one: -one.times)
    errors = {"energy": reasons.energies}
    for kind in set(judged.times) - {"energy"}:
        errors[kind] = np.array([rms(_error(labels, judged, kind, k)) for k in range(len(labels))])
    errors = {kind: errors[kind] for kind in KINDS if kind in judged.times}
    return LabelCheck(tuple(found), len(structures), errors, judged.times)


def _label(labels: Labels, kind: str, k: int) -> Float[np.ndarray, "..."]:
    """Return one label, NaN where there is none."""
    if kind == "forces":
        forces = labels.forces[k]
        return np.full((int(labels.n_atoms[k]), 3), np.nan) if forces is None else forces
    return labels.energy[k : k + 1] if kind == "energy" else labels.stress[k]


def _error(labels: Labels, judged: Judged, kind: str, k: int) -> Float[np.ndarray, "..."]:
    """Return label minus prediction, energies per atom."""
    result: np.ndarray = (_label(labels, kind, k) - judged.of(kind, k)) / (labels.n_atoms[k] if kind == "energy" else 1)
    return result


def rms(values: Float[np.ndarray, "..."]) -> float:
    """Return the root mean square of what is finite, NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else np.nan


@dataclass(frozen=True, eq=False)
class _Reasons:
    """What could explain a label that stands out, the most telling first."""

    structures: Sequence[Atoms]
    labels: Labels
    judged: Judged
    out: Mapping[str, Bool[np.ndarray, " structures"]]

    @cached_property
    def energies(self) -> Float[np.ndarray, " structures"]:
        """Errors of energies per atom."""
        return np.array([_error(self.labels, self.judged, "energy", k)[0] for k in range(len(self.labels))])

    @cached_property
    def _ways(self) -> dict[str, Any]:
        """Names that structures share."""
        every = self.structures
        return {
            "file": np.array([str(atoms.info.get(SOURCE, "")).rpartition("@")[0] for atoms in every]),
            "group": np.array([str(atoms.info.get("config_type", "")) for atoms in every]),
            "composition": np.array([str(atoms.symbols.formula.reduce()[0]) for atoms in every]),
        }

    @cached_property
    def _usual_force(self) -> float:
        """Median over structures of the root mean square force."""
        return float(np.median([rms(forces) for forces in self.judged.forces]))

    def suspect(self, kind: str, k: int) -> Suspect:
        """Name one label with its reason."""
        labels, judged = self.labels, self.judged
        label, n = _label(labels, kind, k), int(labels.n_atoms[k])
        predicted, std, atom = judged.of(kind, k), float(judged.std[kind][k]), None
        times = float(judged.times[kind][k])
        if kind == "energy":
            label, predicted = label / n, predicted / n
        elif kind == "forces":
            sizes = np.linalg.norm(label - predicted, axis=1)
            atom = int(np.nanargmax(sizes / judged.on_atoms[k]))
            if judged.worst[k] > times:
                times, std = float(judged.worst[k]), float(judged.on_atoms[k][atom])
            label, predicted = label[atom], predicted[atom]
        tests = (self._unit, self._copy, self._another, self._atom, self._group, self._geometry)
        told = ((cause, text) for cause, test in zip(CAUSES, tests, strict=False) if (text := test(kind, k)))
        cause, reason = next(told, (CAUSES[-1], "nothing that is known explains it"))
        values = [tuple(map(float, np.ravel(one))) for one in (label, predicted)]
        return Suspect(k, place(self.structures[k], k), kind, times, values[0], values[1], std, atom, cause, reason)

    def _copy(self, kind: str, k: int) -> str | None:
        """Say whether the same geometry has another label elsewhere."""
        mine = _label(self.labels, kind, k)
        n = self.labels.n_atoms[k] if kind == "energy" else 1
        for other in np.flatnonzero(self.judged.groups == self.judged.groups[k]).tolist():
            theirs = _label(self.labels, kind, other)
            if other == k or not np.isfinite(theirs).any():
                continue
            apart = [np.sort(np.abs(one), axis=None) if kind == "forces" else one for one in (mine, theirs)]
            if rms(apart[0] - apart[1]) / n > self.judged.std[kind][k]:
                return f"the same geometry has another label in {place(self.structures[other], other)}"
        return None

    def _unit(self, kind: str, k: int) -> str | None:
        """Say whether the label times a known ratio is what is predicted."""
        label, predicted = _label(self.labels, kind, k), self.judged.of(kind, k)
        n = int(self.labels.n_atoms[k])
        ratios = {f"as if in {unit}": ratio for unit, ratio in UNITS[kind].items()}
        ratios["of the wrong sign"] = -1.0
        if kind == "energy":
            ratios["an energy per atom where the total is wanted"] = float(n) if n > 1 else np.nan
        before = rms(label - predicted)
        left = {text: rms(ratio * label - predicted) for text, ratio in ratios.items() if np.isfinite(ratio)}
        text = min(left, key=lambda one: left[one])
        # The energy must then be as near as others are; forces and stresses must not be zeros that any ratio explains.
        allowed = 6.0 * n * float(self.judged.std[kind][k]) if kind == "energy" else MATCH * rms(predicted)
        return f"it looks {text}" if left[text] < min(allowed, MATCH * before) else None

    def _another(self, kind: str, k: int) -> str | None:
        """Say whether the forces are what is predicted for another structure."""
        mine = _label(self.labels, "forces", k)
        if kind == "stress" or "forces" not in self.out or not self.out["forces"][k]:
            return None
        before = rms(mine - self.judged.forces[k])
        numbers = self.structures[k].numbers
        for other in np.flatnonzero(self.labels.n_atoms == len(numbers)).tolist():
            if other != k and rms(mine - self.judged.forces[other]) < MATCH * before:
                return f"its labels look like those of {place(self.structures[other], other)}"
        return None

    def _atom(self, kind: str, k: int) -> str | None:
        """Say whether a single atom's force is wrong."""
        if kind != "forces":
            return None
        sizes = np.linalg.norm(_error(self.labels, self.judged, kind, k), axis=1) / self.judged.on_atoms[k]
        order = np.argsort(np.where(np.isfinite(sizes), sizes, -1.0))
        if len(sizes) < 2 or sizes[order[-1]] < 4.0 * max(sizes[order[-2]], 1.0):
            return None
        return "the forces on its other atoms are as predicted, that on one is not"

    def _group(self, kind: str, k: int) -> str | None:
        """Say whether most of a file, a source of labels, a group or a composition stands out, and by one constant."""
        out = self.out[kind]
        ways = self._ways | {"label": np.array([str(origin) for origin in self.labels.origins[kind]])}
        if kind == "energy":
            error = self.energies
            mine = error[k]
            for way, names in ways.items():
                members = names == names[k]
                some = members & out
                near = some & (np.abs(error - mine) < SPREAD * abs(mine))
                if not names[k] or members.all() or some.sum() < FEWEST or near.sum() < SHARED * some.sum():
                    continue
                what = f"{int(some.sum())} of {int(members.sum())} energies of the {way} {str(names[k])!r}"
                return (
                    f"{what} are off by about {np.median(error[near]):+.3g} eV/atom: another functional, basis set or "
                    "reference of energies"
                )
            near = out & (np.abs(error - mine) < SPREAD * abs(mine))
            if near.sum() >= FEWEST:
                return (
                    f"{int(near.sum())} energies are off by about {np.median(error[near]):+.3g} eV/atom: another "
                    "functional, basis set or reference of energies"
                )
        for way, names in ways.items():
            members = names == names[k]
            some = members & out
            if names[k] and not members.all() and some.sum() >= max(FEWEST, SHARED * members.sum()):
                return f"{int(some.sum())} of {int(members.sum())} of the {way} {str(names[k])!r} stand out"
        return None

    def _geometry(self, _: str, k: int) -> str | None:
        """Say whether the geometry is broken, or has exploded."""
        broken = why(self.structures[k], GeometryLimits())
        if broken is not None:
            return f"its geometry is broken: {broken}"
        largest = float(np.max(np.nan_to_num(np.abs(_label(self.labels, "forces", k)))))
        if largest > HUGE * max(self._usual_force, 1.0 / 3.0):
            return f"an exploded geometry: forces of up to {largest:.3g} eV/Å"
        return None

"""Labels of structures, wherever their files keep them.

A label is looked for in the results of the calculator that ASE's readers attach (ASE 3.23 and later move the
keys `energy`, `forces` and `stress` of extended XYZ there), then under the names of `kernelpot.data.sources` in
`atoms.info` and `atoms.arrays`. The first one found counts; a second one that differs is an error, so that
nothing is chosen without a word. A free energy counts only where there is no plain energy, a stress only
where there is a cell. `keys=` overrides the search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.check import place
from kernelpot.data.noise import KINDS
from kernelpot.data.sources import RESOLVED, Candidate, LabelSearch, checked_keys, factors_of
from kernelpot.errors import LabelError, ParameterError

if TYPE_CHECKING:
    from ase import Atoms


CHARGES = ("charge", "total_charge", "spin", "total_spin", "multiplicity", "spin_multiplicity")
"""Names in `atoms.info` of what sets the electronic state beside the positions."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of many structures in kernelpot's units; the arrays are read-only."""

    energy: Float[np.ndarray, " structures"]  # Total energy of each structure, eV; NaN where absent
    # Forces of each structure, eV/Å, NaN for atoms that are masked; None where absent
    forces: tuple[Float[np.ndarray, "atoms 3"] | None, ...]
    # Stress of each structure, eV/Å³, ASE's sign and Voigt order; NaN where absent
    stress: Float[np.ndarray, "structures 6"]
    n_atoms: Int[np.ndarray, " structures"]  # Number of atoms of each structure
    # For each kind, where the label of each structure was read, or None
    origins: Mapping[str, tuple[str | None, ...]]
    notes: tuple[str, ...] = field(default=())  # Remarks on the labels for people
    # For each kind that has any, what the noise of each structure's labels is multiplied by
    factors: Mapping[str, Float[np.ndarray, " structures"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def sources(self) -> Mapping[str, Mapping[str, int]]:
        """For each kind, where labels were read and in how many structures."""
        counts = {kind: Counter(name for name in self.origins[kind] if name is not None) for kind in KINDS}
        return MappingProxyType({kind: MappingProxyType(dict(counts[kind])) for kind in KINDS})

    def present(self, kind: str) -> Bool[np.ndarray, " structures"]:
        """Tell which structures have a label of this kind: "energy", "forces" or "stress"."""
        if kind not in KINDS:
            raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
        return np.array([name is not None for name in self.origins[kind]], dtype=bool)

    def take(self, indices: Sequence[int] | Int[np.ndarray, " chosen"]) -> Labels:
        """Labels of some structures, in the given order."""
        chosen = np.asarray(indices, dtype=int)
        return replace(
            self,
            energy=_frozen(self.energy[chosen]),
            forces=tuple(self.forces[k] for k in chosen),
            stress=_frozen(self.stress[chosen]),
            n_atoms=_frozen(self.n_atoms[chosen]),
            origins={kind: tuple(self.origins[kind][k] for k in chosen) for kind in KINDS},
            factors={kind: _frozen(values[chosen]) for kind, values in self.factors.items()},
        )

    def without(self, structures: Sequence[int]) -> Labels:
        """Return the labels with none left of some structures."""
        gone = set(structures)
        here = np.array([k not in gone for k in range(len(self))])
        return replace(
            self,
            energy=_frozen(np.where(here, self.energy, np.nan)),
            forces=tuple(one if kept else None for one, kept in zip(self.forces, here, strict=True)),
            stress=_frozen(np.where(here[:, None], self.stress, np.nan)),
            origins={
                kind: tuple(name if kept else None for name, kept in zip(names, here, strict=True))
                for kind, names in self.origins.items()
            },
        )

    def weighed(self, factors: Mapping[str, Float[np.ndarray, " structures"]]) -> Labels:
        """Return the labels with noises that are multiplied by these factors, beside those that are there."""
        every = {kind: _frozen(self.factor(kind) * factor) for kind, factor in factors.items()}
        return replace(self, factors={**self.factors, **every})

    @property
    def all_forces(self) -> Float[np.ndarray, " components"]:
        """Components of the forces of all atoms, NaN where there is none."""
        parts = [np.full((n, 3), np.nan) if f is None else f for f, n in zip(self.forces, self.n_atoms, strict=True)]
        return np.concatenate([np.ravel(part) for part in parts] or [np.zeros(0)])

    def factor(self, kind: str) -> Float[np.ndarray, " structures"]:
        """Return what the noise of each structure's labels of a kind is multiplied by."""
        return self.factors.get(kind, np.ones(len(self)))

    def summary(self) -> str:
        """Describe in one line per kind what was found, where, and how large it is."""
        lines = []
        for kind in KINDS:
            here = self.present(kind)
            if not here.any():
                lines.append(f"  {kind:<7} none")
                continue
            origins = ", ".join(
                name if count == here.sum() else f"{name} ({count})" for name, count in self.sources[kind].items()
            )
            lines.append(f"  {kind:<7} {here.sum()} of {len(self)} from {origins}; {self._range(kind, here)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _range(self, kind: str, here: Bool[np.ndarray, " structures"]) -> str:
        if kind == "energy":
            per_atom = self.energy[here] / self.n_atoms[here]
            return f"{per_atom.min():.4f} to {per_atom.max():.4f} eV/atom"
        if kind == "forces":
            values = self.all_forces[np.isfinite(self.all_forces)]
            unit = "eV/Å"
        else:
            values, unit = self.stress[here].ravel(), "eV/Å³"
        return f"rms {np.sqrt(np.mean(values**2)):.4g}, largest {np.abs(values).max():.4g} {unit}"

    def attach(self, structures: Sequence[Atoms]) -> None:
        """Leave exactly the settled labels, and what else there was, in a calculator on each structure."""
        from ase.calculators.singlepoint import SinglePointCalculator

        present = {kind: self.present(kind) for kind in KINDS}
        for number, atoms in enumerate(structures):
            forces = self.forces[number]
            settled: dict[str, float | np.ndarray] = {}
            if present["energy"][number]:
                settled["energy"] = float(self.energy[number])
            if forces is not None:
                settled["forces"] = forces.copy()
            if present["stress"][number]:
                settled["stress"] = self.stress[number].copy()
            if atoms.calc is None and not settled:
                continue
            if not isinstance(atoms.calc, SinglePointCalculator):
                atoms.calc = SinglePointCalculator(atoms)
            for kind in KINDS:
                atoms.calc.results.pop(kind, None)
            atoms.calc.results.update(settled)
            setattr(atoms.calc, RESOLVED, True)

    def check(
        self,
        names: Mapping[str, str | None],
        require: Sequence[str],
        structures: Sequence[Atoms],
        source: str | None,
    ) -> None:
        """Refuse names of labels that no structure has, and required labels that some lack."""
        for quantity, name in names.items():
            kind = "stress" if quantity == "virial" else quantity
            if name is not None and len(self) and not self.present(kind).any():
                raise LabelError(
                    f"{source or 'keys='}: `{name}` must hold the {quantity}, found in none of {len(self)} "
                    f"structures; {_names_there(structures)}."
                )
        for kind in require:
            absent = np.flatnonzero(~self.present(kind))
            if not absent.size:
                continue
            without = [structures[k] for k in absent.tolist()]
            raise LabelError(
                f"{source or 'labels'}: all structures must have {kind}, {len(without)} of {len(self)} have none, "
                f"first in {place(without[0], int(absent[0]), source)}; {_names_there(without)}; "
                f"name the key with keys={{'{kind}': ...}}, or compute the labels first."
            )


def resolve(
    structures: Sequence[Atoms],
    keys: Mapping[str, str | None] | None = None,
    *,
    require: Sequence[str] = (),
    source: str | None = None,
) -> Labels:
    """Find the labels of structures."""
    names = checked_keys(keys)
    if isinstance(require, str) or set(require) - set(KINDS):
        raise ParameterError(f"`require` must list some of {', '.join(KINDS)}, got {require!r}.")
    table: dict[str, list[Candidate | None]] = {kind: [] for kind in KINDS}
    remarks: Counter[str] = Counter()
    own: list[dict[str, float]] = []
    charges: dict[str, set[str]] = {}
    for number, atoms in enumerate(structures):
        search = LabelSearch(atoms, place(atoms, number, source))
        found, said = search.find(names)
        factor, weighed = factors_of(atoms, search.where)
        own.append(factor)
        remarks.update([*said, *(f"labels are weighed by `{name}`, relative to its median" for name in weighed)])
        if any(found.values()):
            state = ", ".join(f"{name} {atoms.info[name]}" for name in CHARGES if name in atoms.info)
            charges.setdefault(str(np.unique(atoms.numbers).tolist()), set()).add(state)
        for kind in KINDS:
            table[kind].append(found[kind])
    labels = Labels(
        energy=_frozen(np.array([np.nan if c is None else float(c.value[0]) for c in table["energy"]])),
        forces=tuple(None if c is None else c.value for c in table["forces"]),
        stress=_frozen(
            np.array([np.full(6, np.nan) if c is None else c.value for c in table["stress"]]).reshape(-1, 6)
        ),
        n_atoms=_frozen(np.array([len(atoms) for atoms in structures], dtype=int)),
        origins={kind: tuple(None if c is None else c.origin for c in table[kind]) for kind in KINDS},
        notes=(*(f"{remark} (in {count} structures)" for remark, count in remarks.items()), *_charged(charges)),
        factors=relative(own),
    )
    labels.check(names, require, structures, source)
    return labels


def relative(own: Sequence[Mapping[str, float]]) -> dict[str, Float[np.ndarray, " structures"]]:
    """Return noises of labels over their median, of the kinds that have any."""
    given = {kind: np.array([one[kind] for one in own]) for kind in KINDS}
    # Where nothing is said of a structure, it is of the usual kind.
    said = {kind: values[values != 1.0] for kind, values in given.items()}
    return {
        kind: _frozen(np.where(values == 1.0, 1.0, values / np.median(said[kind])))
        for kind, values in given.items()
        if len(said[kind])
    }


def _charged(charges: Mapping[str, set[str]]) -> list[str]:
    """Return a remark where the same elements come with several total charges or spins."""
    mixed = [sorted(states) for states in charges.values() if len(states) > 1]
    if not mixed:
        return []
    several = "; ".join(state or "none given" for state in mixed[0][:4])
    return [f"the same elements come with several charges or spins ({several}): a model of positions cannot tell these"]


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _names_there(structures: Sequence[Atoms]) -> str:
    """List the keys that could have held labels, for messages."""
    from ase.calculators.singlepoint import SinglePointCalculator

    info = sorted({str(key) for atoms in structures for key in atoms.info if not str(key).startswith("kernelpot_")})
    arrays = sorted({key for atoms in structures for key in atoms.arrays} - {"numbers", "positions"})
    text = f"keys there: info {', '.join(info) or 'none'}; arrays {', '.join(arrays) or 'none'}"
    live = {
        type(atoms.calc).__name__
        for atoms in structures
        if atoms.calc is not None and not isinstance(atoms.calc, SinglePointCalculator)
    }
    if live:
        text += f"; calculators not run for these positions: {', '.join(sorted(live))}"
    return text

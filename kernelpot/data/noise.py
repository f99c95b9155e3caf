"""The noise of each kind of label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from kernelpot.errors import ParameterError
from kernelpot.record import Positive, Record, fields_of
from kernelpot.rules import real

KINDS = ("energy", "forces", "stress")
"""Kinds of labels; the place of a kind here is its integer code everywhere."""

SMALLEST, LARGEST = 1e-20, 1e20
"""Range of a noise; fourth powers of noise over amplitude stay far from overflow."""


@dataclass(frozen=True)
class Noise(Record):
    """Standard deviation of the labels' noise, for each kind of label.

    A kind whose noise is None gives no rows: its labels are neither fitted nor planned.

    Parameters
    ----------
    energy
        Noise of an energy per atom, eV/atom: the total energy of N atoms has standard deviation N · `energy`.
    forces
        Noise of one force component, eV/Å.
    stress
        Noise of one stress component, eV/Å³.

    Raises
    ------
    ParameterError
        If a value is not positive and finite, or if every kind is None.

    Examples
    --------
    >>> from kernelpot import Noise
    >>> Noise(energy=0.001, stress=0.005).kinds
    ('energy', 'forces', 'stress')
    >>> print(Noise())
    energy 0.002 eV/atom, forces 0.1 eV/Å
    """

    energy: Annotated[float | None, Positive(SMALLEST, LARGEST), "eV/atom"] = 0.002
    forces: Annotated[float | None, Positive(SMALLEST, LARGEST), "eV/Å"] = 0.1
    stress: Annotated[float | None, Positive(SMALLEST, LARGEST), "eV/Å³"] = None

    def check(self) -> None:
        """Refuse a noise of nothing."""
        if not self.kinds:
            raise ParameterError(
                "Noise needs a value for at least one of energy, forces and stress, got None for all; "
                "give e.g. Noise(energy=0.002, forces=0.1)."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of labels that have a noise, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    def sigma(self, kind: str) -> float:
        """Noise of one kind.

        Parameters
        ----------
        kind
            "energy" (eV/atom), "forces" (eV/Å) or "stress" (eV/Å³).

        Raises
        ------
        ParameterError
            If there is no such kind, or it has no noise here.
        """
        if kind not in KINDS:
            raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
        value: float | None = getattr(self, kind)
        if value is None:
            raise ParameterError(
                f"`{kind}` must have a noise, found only {self}; give Noise({kind}=...) in {_UNITS[kind]}."
            )
        return value

    @classmethod
    def from_gap(
        cls,
        energy: float | None,
        forces: float | None,
        virial: float | None = None,
        *,
        n_atoms: float,
        volume: float | None = None,
    ) -> Noise:
        """Convert the `default_sigma` of GAP, at one typical size of structure.

        gap_fit gives the total energy and the virial of N atoms the noise σ√N (Klawohn et al. 2023), here
        they have N · `energy` and V · `stress`. The two scalings agree at one N only, so energy = σ_E/√N and
        stress = σ_V·√N/V are exact for structures of `n_atoms` atoms and that `volume`.

        Parameters
        ----------
        energy
            First number of `default_sigma`, eV.
        forces
            Second number, eV/Å.
        virial
            Third number, eV; None where virials are not used.
        n_atoms
            Typical number of atoms of a structure.
        volume
            Typical cell volume, Å³; needed only with `virial`.

        Raises
        ------
        ParameterError
            If a value is not positive and finite, or `virial` comes without `volume`.

        Examples
        --------
        >>> Noise.from_gap(0.008, 0.1, n_atoms=64)
        Noise(energy=0.001, forces=0.1, stress=None)
        """
        root = math.sqrt(real(n_atoms, "n_atoms", above=True))
        stress = None
        if virial is not None:
            if volume is None:
                raise ParameterError(
                    "`volume` must be given with `virial`, got None; give the typical cell volume in Å³."
                )
            stress = real(virial, "virial", above=True) * root
            stress /= real(volume, "volume", above=True)
        per_atom = None if energy is None else real(energy, "energy", above=True) / root
        return cls(energy=per_atom, forces=forces, stress=stress)

    def __str__(self) -> str:
        return ", ".join(f"{kind} {self.sigma(kind):.4g} {_UNITS[kind]}" for kind in self.kinds)


_UNITS = {field.name: field.unit for field in fields_of(Noise)}

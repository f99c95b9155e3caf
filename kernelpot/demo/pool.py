"""A seeded pool of Cu-Au structures, as varied as the pools that people label with DFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin

from kernelpot.errors import ParameterError
from kernelpot.progress import track

LATTICE = {"Cu": 3.61, "Au": 4.06}
"""Cubic lattice constants of EMT's copper and gold, Å."""

SHARES = {"bulk": 0.18, "strained": 0.18, "alloy": 0.18, "vacancy": 0.14, "surface": 0.14, "melt": 0.18}
"""Share of each kind of structure (``atoms.info["config_type"]``) in a pool."""

MELT_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Gold fractions of the melts: each is one Langevin trajectory."""


def structures(n: int, *, seed: int = 0) -> list[Atoms]:
    """Make `n` (at least 6) unlabelled Cu-Au structures of 4 to 16 atoms, of the kinds in ``info["config_type"]``.

    The same seed gives the same list; pools of different seeds share no structure and no trajectory.
    """
    if n < len(SHARES):
        raise ParameterError(f"`n` must be at least {len(SHARES)} (one structure of each kind), got {n}")
    maker = _Maker(np.random.default_rng([seed, 20240501]))
    pool = []
    for kind, count in _counts(n).items():
        made = maker.melts(count) if kind == "melt" else [getattr(maker, kind)() for _ in range(count)]
        for atoms in made:
            atoms.info["config_type"] = kind
        pool += made
    return pool


def label(structures: Sequence[Atoms], *, what: str = "labelling with EMT") -> list[Atoms]:
    """Copy structures and give each copy EMT's energy, forces and stress, as a DFT run would."""
    labelled = []
    for atoms in track(structures, what):
        # EMT keeps its neighbour list in the calculator: a fresh one per structure cannot go stale.
        trial = atoms.copy()
        trial.calc = EMT()
        results = {"energy": trial.get_potential_energy(), "forces": trial.get_forces()}
        if atoms.cell.rank == 3 and atoms.pbc.all():
            results["stress"] = trial.get_stress()
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        labelled.append(copy)
    return labelled


def heat(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw Maxwell-Boltzmann momenta at `temperature` (K), with the centre of mass at rest."""
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)
    momenta = rng.normal(size=(len(atoms), 3)) * width[:, None]
    drift = momenta.sum(axis=0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta - atoms.get_masses()[:, None] * drift)


def _counts(n: int) -> dict[str, int]:
    """Share `n` over the kinds, at least one each; the largest remainders get what rounding leaves."""
    spare = n - len(SHARES)
    exact = {kind: spare * share for kind, share in SHARES.items()}
    counts = {kind: 1 + int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: exact[kind] % 1, reverse=True)
    for kind in by_remainder[: n - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _lattice(gold: float) -> float:
    """Vegard's rule for the cubic lattice constant, Å, at a gold fraction."""
    return float((1 - gold) * LATTICE["Cu"] + gold * LATTICE["Au"])


def _stretch(atoms: Atoms, strain: np.ndarray) -> None:
    """Apply a 3 x 3 strain to cell and positions."""
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)


@dataclass(frozen=True)
class _Maker:
    """A source of structures; each kind of `SHARES` is a method."""

    rng: np.random.Generator

    def _ordered(self) -> Atoms:
        """Cubic four-atom cell, ordered: Cu, Cu3Au, CuAu, CuAu3 or Au."""
        n_gold = int(self.rng.integers(5))
        atoms = bulk("Cu", "fcc", a=_lattice(n_gold / 4), cubic=True)
        atoms.symbols[list(range(n_gold))] = "Au"
        return atoms

    def bulk(self) -> Atoms:
        """Ordered crystal near its own volume."""
        atoms = self._ordered()
        _stretch(atoms, self.rng.uniform(-0.04, 0.05) * np.eye(3))
        self._displace(atoms, 0.12)
        return atoms

    def strained(self) -> Atoms:
        """Ordered crystal, one to two cells long, under a general strain."""
        atoms = self._ordered().repeat((int(self.rng.integers(1, 3)), 1, 1))
        strain = self.rng.uniform(-0.08, 0.08, size=(3, 3))
        _stretch(atoms, (strain + strain.T) / 2)
        self._displace(atoms, 0.10)
        return atoms

    def _random_alloy(self, repeat: tuple[int, int, int]) -> Atoms:
        """Random occupation of the fcc lattice at a random composition."""
        atoms = bulk("Cu", "fcc", a=1.0, cubic=True).repeat(repeat)
        n_gold = int(self.rng.integers(len(atoms) + 1))
        atoms.symbols[self.rng.permutation(len(atoms))[:n_gold]] = "Au"
        atoms.set_cell(atoms.cell * _lattice(n_gold / len(atoms)), scale_atoms=True)
        return atoms

    def alloy(self) -> Atoms:
        """Random alloy of 16 atoms, slightly strained and rattled."""
        atoms = self._random_alloy((2, 2, 1))
        _stretch(atoms, self.rng.uniform(-0.03, 0.03) * np.eye(3))
        self._displace(atoms, 0.15)
        return atoms

    def vacancy(self) -> Atoms:
        """Random alloy of 16 atoms from which one or two are missing."""
        atoms = self._random_alloy((2, 2, 1))
        del atoms[list(self.rng.permutation(len(atoms))[: self.rng.integers(1, 3)])]
        self._displace(atoms, 0.12)
        return atoms

    def surface(self) -> Atoms:
        """Slab of four layers, (100) or (111), of random occupation, periodic in its plane alone."""
        cut = fcc100 if self.rng.random() < 0.5 else fcc111
        slab = cut("Cu", (2, 1, 4) if self.rng.random() < 0.5 else (2, 2, 4), a=1.0, vacuum=0.0)
        n_gold = int(self.rng.integers(len(slab) + 1))
        slab.symbols[self.rng.permutation(len(slab))[:n_gold]] = "Au"
        slab.set_cell(slab.cell * _lattice(n_gold / len(slab)), scale_atoms=True)
        slab.center(vacuum=6.0, axis=2)
        slab.pbc = (True, True, False)
        # ASE notes adsorption sites there, which no file format can hold.
        slab.info.clear()
        self._displace(slab, 0.12)
        return slab

    def melts(self, n: int) -> list[Atoms]:
        """Snapshots, 20 steps apart, of short and hot Langevin runs under EMT, one run per composition."""
        shares = np.array_split(np.arange(n), len(MELT_FRACTIONS))
        runs = [(gold, len(share)) for gold, share in zip(MELT_FRACTIONS, shares, strict=True) if len(share)]
        return [atoms for gold, count in track(runs, "melting Cu-Au with EMT") for atoms in self._melt(gold, count)]

    def _melt(self, gold: float, n: int, *, warm_up: int = 120, apart: int = 20) -> list[Atoms]:
        atoms = bulk("Cu", "fcc", a=_lattice(gold) * 1.03, cubic=True).repeat((2, 2, 1))
        atoms.symbols[self.rng.permutation(len(atoms))[: round(gold * len(atoms))]] = "Au"
        atoms.calc = EMT()
        heat(atoms, 4000.0, self.rng)
        friction = 0.05 / units.fs
        md = Langevin(atoms, 4 * units.fs, temperature_K=2200, friction=friction, fixcm=False, rng=self.rng)
        md.run(warm_up)
        snapshots = []
        for _ in range(n):
            md.run(apart)
            frame = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
            frame.wrap()
            snapshots.append(frame)
        return snapshots

    def _displace(self, atoms: Atoms, largest: float) -> None:
        """Move every atom by a normal displacement whose own width is drawn up to `largest` Å."""
        atoms.positions += self.rng.normal(scale=self.rng.uniform(0.0, largest), size=atoms.positions.shape)

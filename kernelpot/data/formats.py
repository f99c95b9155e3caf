"""Formats that ASE does not read, and what programs' outputs say of their calculations."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelpot.data.xyz import STDIN, UNREADABLE, XYZ, inner, is_pipe, one_line, opened
from kernelpot.errors import DataError, ParameterError
from kernelpot.units import GPA, VOIGT

if TYPE_CHECKING:
    from ase import Atoms


def read_cfg(path: Path, species: Sequence[str] | None) -> list[Atoms]:
    """Read a training set of MLIP (moment tensor potentials).

    PlusStress is the virial in eV, so that the stress is -PlusStress/V; `Stress`, of older files, has the other sign.
    """
    from ase import Atoms

    structures: list[Any] = []
    block: list[str] = []
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            line = raw.decode(errors="replace").strip()
            if line == "BEGIN_CFG":
                block = [line]
            elif line != "END_CFG":
                # Blank lines stand between blocks.
                block += [line] if block else []
            else:
                where = f"{path}@{len(structures)}"
                try:
                    parts = _cfg(block[1:])
                    types, columns = parts["type"].astype(int), parts["columns"]
                except (ValueError, KeyError, IndexError) as error:
                    raise DataError(
                        f"{where}: a block of MTP's .cfg ends in line {number}, {one_line(error)}"
                    ) from None
                if species is None or types.max() >= len(species) or types.min() < 0:
                    raise DataError(
                        f"{where}: MTP's .cfg numbers its elements from 0, found type {types.max()} and "
                        f"{'no names' if species is None else 'names for ' + ' '.join(species)}; name them with "
                        "species=['Cu', …] (--species Cu,…), in the order of the types."
                    )
                atoms = Atoms([species[k] for k in types], positions=columns[:3].T, cell=parts["cell"], pbc=True)
                if parts["cell"] is None:
                    atoms.pbc = False
                results = {"energy": parts.get("energy"), "forces": columns[3:6].T if len(columns) == 6 else None}
                if parts.get("virial") is not None and atoms.cell.rank == 3:
                    results["stress"] = -parts["virial"] / atoms.get_volume()
                structures.append(_with_results(atoms, results))
                block = []
    if block:
        raise DataError(
            f"{path}: MTP's .cfg must end with END_CFG, found none after structure {len(structures)}; was it cut off?"
        )
    return structures


def _cfg(lines: Sequence[str]) -> dict[str, Any]:
    """Return the parts of one block of a .cfg file."""
    found: dict[str, Any] = {"cell": None}
    n, k = 0, 0
    while k < len(lines):
        head, *names = lines[k].replace(":", " ").split() or [""]
        match head:
            case "Size":
                n, k = int(lines[k + 1]), k + 1
            case "Supercell" | "SuperCell":
                rows = [[float(x) for x in line.split()] for line in lines[k + 1 : k + 4]]
                found["cell"], k = np.array(rows), k + 3
            case "AtomData":
                table = np.array([[float(x) for x in line.split()] for line in lines[k + 1 : k + 1 + n]])
                if table.shape != (n, len(names)):
                    raise ValueError(f"AtomData must have {n} rows of {len(names)} columns, found {table.shape}")
                wanted = ["cartes_x", "cartes_y", "cartes_z", *(["fx", "fy", "fz"] if "fx" in names else [])]
                if "cartes_x" not in names:
                    raise ValueError("AtomData must have cartes_x, cartes_y and cartes_z")
                found |= {
                    "type": table[:, names.index("type")],
                    "columns": table[:, [names.index(x) for x in wanted]].T,
                }
                k += n
            case "Energy":
                found["energy"], k = float(lines[k + 1]), k + 1
            case "PlusStress" | "Stress" | "MinusStress":
                given = dict(zip(names, map(float, lines[k + 1].split()), strict=True))
                sign = 1.0 if head == "PlusStress" else -1.0
                order = ["xyz"[a] + "xyz"[b] for a, b in VOIGT]
                values = [given[name] if name in given else given[name[::-1]] for name in order]
                found["virial"], k = sign * np.array(values), k + 1
        k += 1
    return found


_ML_AB = {
    "Total energy (eV)": "energy", "Forces (eV ang.^-1)": "forces", "Atomic positions (ang.)": "positions",
    "Primitive lattice vectors (ang.)": "cell", "Atom types and atom numbers": "types",
}  # fmt: skip


def read_ml_ab(path: Path, species: Sequence[str] | None) -> list[Atoms]:
    """Read VASP's ML_AB: structures with energies in eV, forces in eV/Å, and pressure-like stresses in kbar."""
    from ase import Atoms

    del species
    with opened(path) as file:
        lines = [line.decode(errors="replace").strip() for line in file]
    starts = [k for k, line in enumerate(lines) if line.startswith("Configuration num.")]
    structures = []
    for number, (start, stop) in enumerate(itertools.pairwise([*starts, len(lines)])):
        rules = [k for k in range(start, stop) if set(lines[k]) in ({"="}, {"-"}, {"*"})]
        sections: dict[str, list[str]] = {}
        for a, b in itertools.pairwise([*rules, stop]):
            sections[lines[a - 1]] = [line for line in lines[a + 1 : b] if line]
        try:
            said = {name: sections[title] for title, name in _ML_AB.items()}
            symbols = [row.split()[0] for row in said["types"] for _ in range(int(row.split()[1]))]
            n = len(symbols)
            numbers = {
                name: np.array([[float(x) for x in row.split()] for row in said[name][:most]])
                for name, most in (("positions", n), ("forces", n), ("cell", 3))
            }
            atoms = Atoms(symbols, positions=numbers["positions"], cell=numbers["cell"], pbc=True)
            results: dict[str, Any] = {"energy": float(said["energy"][0]), "forces": numbers["forces"]}
            if "XX YY ZZ" in sections and "XY YZ ZX" in sections:
                xx, yy, zz, xy, yz, zx = (
                    float(x) for title in ("XX YY ZZ", "XY YZ ZX") for x in sections[title][0].split()
                )
                results["stress"] = -0.1 * GPA * np.array([xx, yy, zz, yz, zx, xy])
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(f"{path}@{number}: a part of VASP's ML_AB is not whole ({one_line(error)})") from None
        structures.append(_with_results(atoms, results))
    return structures


_NPZ = {
    "numbers": ("nuclear_charges", "z", "numbers", "atomic_numbers"),
    "positions": ("coords", "R", "positions", "coordinates"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
}


def read_npz(path: Path, species: Sequence[str] | None) -> list[Atoms]:
    """Read arrays of one molecule as MD17 and rMD17 hold them, in kcal/mol where the file names no unit."""
    from ase import Atoms, units

    del species
    energies = {"kcal/mol": units.kcal / units.mol, "kj/mol": units.kJ / units.mol, "ev": 1.0, "ha": units.Hartree}
    lengths = {"ang": 1.0, "angstrom": 1.0, "å": 1.0, "bohr": units.Bohr, "a0": units.Bohr, "nm": 10.0}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[key] for name, keys in _NPZ.items() for key in keys if key in file}
            said = [str(file[key]).strip().lower() if key in file else "" for key in ("e_unit", "r_unit")]
        numbers, positions = arrays["numbers"].astype(int), np.asarray(arrays["positions"], dtype=float)
        factor, length = energies[said[0] or "kcal/mol"], lengths[said[1] or "ang"]
        structures = []
        for k, place in enumerate(positions):
            results = {
                "energy": factor * float(np.ravel(arrays["energy"])[k]) if "energy" in arrays else None,
                "forces": factor / length * np.asarray(arrays["forces"][k], float) if "forces" in arrays else None,
            }
            of_frame = numbers if numbers.ndim == 1 else numbers[k]
            structures.append(_with_results(Atoms(of_frame, positions=length * place), results))
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise DataError(
            f"{path}: a .npz must hold numbers (nuclear_charges or z), positions (coords or R), energies and forces of "
            f"molecules as MD17 does, {one_line(error)}; convert it to extended XYZ."
        ) from None
    if not said[0]:
        warnings.warn(
            f"{path}: energies and forces are taken for kcal/mol, as of MD17; the file names no unit.", stacklevel=2
        )
    return structures


OURS: Mapping[str, Callable[[Path, Sequence[str] | None], list[Any]]] = {
    "mtp": read_cfg, "ml_ab": read_ml_ab, "npz": read_npz,
}  # fmt: skip
"""Formats that are read here, by name."""


def format_of(path: Path) -> str:
    """Return "xyz", one of `OURS`, or "" for what is left to ASE, by name and first bytes."""
    name = inner(path).name
    if str(path) == STDIN or Path(name).suffix.lower() in XYZ:
        return "xyz"
    if Path(name).suffix.lower() == ".npz":
        return "npz"
    if not path.is_file():
        return "xyz" if is_pipe(path) and not Path(name).suffix else ""
    try:
        with opened(path) as file:
            head = file.read(200).lstrip()
    except (DataError, *UNREADABLE):
        return ""
    if head.startswith(b"BEGIN_CFG"):
        return "mtp"
    return "ml_ab" if re.match(rb"[\d.]+\s+Version\s*\n\s*\*{5}", head) else ""


def _with_results(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    found = {name: value for name, value in results.items() if value is not None}
    if found:
        atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


# ---- what a file says of its own calculations

UNCONVERGED = (
    rb"EDIFF was not reached",  # VASP's OUTCAR
    rb"convergence NOT achieved",  # pw.x
    rb"[Ss]elf-consistency cycle not (?:yet )?converged|SCF cycle not converged",  # FHI-aims
    rb"SCF run NOT converged",  # CP2K
)
"""Words of programs about calculations that did not converge."""


def unconverged(path: Path) -> int:
    """Count the calculations in a program's output that did not converge, by its own words.

    A vasprun.xml has no such words: there a calculation took as many steps as NELM allows.
    """
    words, count, steps, most = re.compile(b"|".join(UNCONVERGED)), 0, 0, 0
    with path.open("rb") as file:
        while line := file.readline(1 << 20):
            count += bool(words.search(line))
            if line.lstrip().startswith(b"<"):
                steps = 0 if b"<calculation>" in line else steps + line.count(b"<scstep>")
                if found := re.search(rb'name="NELM">\s*(\d+)', line):
                    most = int(found[1])
                count += bool(b"</calculation>" in line and most and steps >= most)
    return count


def check_format(name: str | None) -> None:
    """Refuse the name of a format that is neither ours nor ASE's."""
    from ase.io.formats import ioformats

    if name is not None and name not in ("xyz", *OURS) and name not in ioformats:
        raise ParameterError(
            f"`format` must be {', '.join(['xyz', *OURS])} or one of ASE's (`ase info --formats`), got {name!r}."
        )

"""Five metals: learning curves of the default before and after, beside GAP and linear ACE on the same frames."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.md.langevin import Langevin

import kernelpot as kp
from kernelpot.demo.pool import heat, label

LATTICE = {"Ni": 3.49, "Cu": 3.61, "Pd": 3.88, "Ag": 4.06, "Au": 4.06}
KINDS = ("bulk", "strained", "vacancy", "surface", "melt", "alloy")
SIZES = (50, 100, 200, 400, 800, 1600)
N_TEST = 300
CUTOFF, N_MAX, L_MAX = 4.8, 6, 4


@dataclass(frozen=True)
class Metals:
    """A source of structures of five EMT metals, 8 to 54 atoms."""

    rng: np.random.Generator

    def occupied(self, atoms: Atoms, most: int) -> Atoms:
        """Put one to `most` elements on the sites at random, and take the lattice constant between theirs."""
        names = self.rng.choice(list(LATTICE), size=int(self.rng.integers(1, most + 1)), replace=False)
        shares = self.rng.dirichlet(np.ones(len(names)))
        atoms.symbols[:] = self.rng.choice(names, size=len(atoms), p=shares)
        a = float(np.mean([LATTICE[symbol] for symbol in atoms.symbols]))
        atoms.set_cell(atoms.cell * a, scale_atoms=True)
        return atoms

    def lattice(self, most: int) -> Atoms:
        """Return an fcc cell of 8, 16, 32 or 48 sites near its own volume."""
        repeat = [(2, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2)][int(self.rng.integers(4))]
        atoms = self.occupied(bulk("Cu", "fcc", a=1.0, cubic=True).repeat(repeat), most)
        atoms.set_cell(atoms.cell * (1.0 + self.rng.uniform(-0.03, 0.04)), scale_atoms=True)
        return atoms

    def made(self, kind: str) -> Atoms:
        """Return one structure of a kind."""
        if kind == "surface":
            cut = fcc100 if self.rng.random() < 0.5 else fcc111
            atoms = self.occupied(cut("Cu", (2, 2, int(self.rng.integers(3, 7))), a=1.0, vacuum=0.0), 3)
            atoms.center(vacuum=6.0, axis=2)
            atoms.pbc = (True, True, False)
        else:
            atoms = self.lattice({"alloy": 5, "melt": 5, "bulk": 2}.get(kind, 3))
        if kind == "strained":
            strain = self.rng.uniform(-0.08, 0.08, size=(3, 3))
            atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        if kind == "vacancy":
            del atoms[[int(self.rng.integers(len(atoms)))]]
        if kind == "melt":
            atoms.calc = EMT()
            heat(atoms, 4000.0, self.rng)
            Langevin(atoms, 4 * units.fs, temperature_K=2200, friction=0.05 / units.fs, rng=self.rng).run(60)
            atoms.wrap()
        else:
            atoms.positions += self.rng.normal(scale=self.rng.uniform(0.0, 0.15), size=atoms.positions.shape)
        made = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        made.info["config_type"] = kind
        return made


def metals(n: int, seed: int) -> list[Atoms]:
    """Return n labelled structures, the kinds in turn; the first of them do not depend on n."""
    source = Metals(np.random.default_rng([seed, 20261201]))
    return label([source.made(KINDS[k % len(KINDS)]) for k in range(n)])


def errors(energies: np.ndarray, forces: list[np.ndarray], test: list[Atoms]) -> dict[str, float]:
    """Return test MAE, meV/atom and meV/Å."""
    sizes = np.array([len(atoms) for atoms in test])
    known = np.array([atoms.get_potential_energy() for atoms in test])
    left = np.concatenate([(f - a.get_forces()).ravel() for f, a in zip(forces, test, strict=True)])
    return {
        "energy": 1e3 * float(np.abs((energies - known) / sizes).mean()),
        "forces": 1e3 * float(np.abs(left).mean()),
    }


def kernelpot_arm(train: list[Atoms], test: list[Atoms], channels: str | None) -> dict[str, float]:
    """Fit the default with or without coupled elements."""
    start = time.process_time()
    soap = kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX, channels=channels)
    model = kp.SparseGP(soap, n_inducing=inducing(len(train)), noise="cv").fit(train, keys={"stress": None})
    seconds = time.process_time() - start
    found = model.predict(test, uncertainty=False)
    return errors(found.energy, found.forces, test) | {"cpu_s": seconds}


def inducing(n: int) -> int:
    """Return how many inducing environments a training set of n structures gets, the same in all arms."""
    return int(np.clip(3 * n, 300, 1000))


def _plain(structures: list[Atoms], path: Path) -> None:
    """Write frames as other programs read them: energies and forces alone, periodic with vacuum."""
    frames = []
    for atoms in structures:
        copy = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        copy.info["dft_energy"], copy.arrays["dft_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        frames.append(copy)
    write(path, frames, format="extxyz")


def _timed(command: list[str], cwd: Path) -> float:
    """Run a program with one thread and return its CPU time, s."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before = os.times()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, env=os.environ | threads)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def gap_arm(train: list[Atoms], test: list[Atoms], bin_: Path, folder: Path) -> dict[str, float]:
    """Fit GAP by gap_fit: pairs of every two elements, and one SOAP for each element of centres."""
    _plain(train, folder / "train.xyz")
    _plain(test, folder / "test.xyz")
    n = inducing(len(train)) // len(LATTICE)
    numbers = {"Ni": 28, "Cu": 29, "Pd": 46, "Ag": 47, "Au": 79}
    soap = (
        f"soap cutoff={CUTOFF} covariance_type=dot_product zeta=2 delta=1.0 atom_sigma=0.5 add_species=T n_max={N_MAX} "
        f"l_max={L_MAX} n_sparse={n} sparse_method=cur_points"
    )
    pair = (
        "distance_2b cutoff=5.5 covariance_type=ard_se delta=2.0 theta_uniform=1.0 add_species=T n_sparse=15 "
        "sparse_method=uniform"
    )
    e0 = ":".join(f"{symbol}:0.0" for symbol in numbers)
    command = [
        str(bin_ / "gap_fit"), "at_file=train.xyz", f"gap={{{pair} : {soap}}}", "default_sigma={0.001 0.05 0.0 0.0}",
        "energy_parameter_name=dft_energy", "force_parameter_name=dft_forces", f"e0={{{e0}}}", "gp_file=gap.xml",
        "sparse_jitter=1e-8",
    ]  # fmt: skip
    seconds = _timed(command, folder)
    script = (
        "from ase.io import read, write\nfrom quippy.potential import Potential\n"
        "gap, frames = Potential(param_filename='gap.xml'), read('test.xyz', ':')\n"
        "for a in frames:\n    a.calc = gap\n    a.info['e'] = a.get_potential_energy()\n"
        "    a.arrays['f'] = a.get_forces()\n    a.calc = None\nwrite('out.xyz', frames)\n"
    )
    _timed([str(bin_ / "python"), "-c", script], folder)
    out = read(folder / "out.xyz", ":")
    return errors(np.array([a.info["e"] for a in out]), [a.arrays["f"] for a in out], test) | {"cpu_s": seconds}


def ace_arm(train: list[Atoms], test: list[Atoms], bin_: Path, folder: Path, degree: int = 8) -> dict[str, float]:
    """Fit a linear four-body ACE by ace-jax, its constants by least squares, noises by its evidence."""
    for name, frames in (("train", train), ("test", test)):
        plain = []
        for atoms in frames:
            copy = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
            copy.info["energy"], copy.arrays["forces"] = atoms.get_potential_energy(), atoms.get_forces()
            plain.append(copy)
        write(folder / f"{name}.xyz", plain, format="extxyz")
    command = [str(bin_ / "ace-jax"), "fit", "--order", "3", "--max-degree", str(degree), "--train", "train.xyz"]
    seconds = _timed([*command, "--rcut", str(CUTOFF), "--e0", "lsq", "--out", "fit"], folder)
    _timed(
        [str(bin_ / "ace-jax"), "eval", "--model", "fit/model.npz", "--data", "test.xyz", "--out", "out.xyz"], folder
    )
    out = read(folder / "out.xyz", ":")
    return errors(np.array([a.get_potential_energy() for a in out]), [a.get_forces() for a in out], test) | {
        "cpu_s": seconds
    }


def run(folder: Path, *, sizes: tuple[int, ...] = SIZES, arms: tuple[str, ...] = ("one-hot", "auto")) -> str:
    """Fill in what is missing of the table in a folder, and return it; rivals live in ``KERNELPOT_RIVALS``/bin."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alloys.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    bin_ = Path(os.environ.get("KERNELPOT_RIVALS", "")) / "bin"
    train, test = metals(max(sizes), 1), metals(N_TEST, 2)
    for n in sizes:
        for arm in arms:
            if f"{arm} {n}" in known:
                continue
            work = folder / f"{arm}-{n}"
            work.mkdir(exist_ok=True)
            made = {
                "one-hot": lambda n=n: kernelpot_arm(train[:n], test, None),
                "auto": lambda n=n: kernelpot_arm(train[:n], test, "auto"),
                "GAP": lambda n=n, work=work: gap_arm(train[:n], test, bin_, work),
                "ACE": lambda n=n, work=work: ace_arm(train[:n], test, bin_, work),
            }[arm]
            known = (json.loads(path.read_text()) if path.exists() else {}) | {f"{arm} {n}": made()}
            path.write_text(json.dumps(known))
            shutil.rmtree(work, ignore_errors=True)
            print(arm, n, known[f"{arm} {n}"], flush=True)
    lines = ["| frames | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for n in sizes:
        cells = [known.get(f"{arm} {n}") for arm in arms]
        shown = ["" if c is None else f"{c['energy']:.1f} ; {c['forces']:.0f} ({c['cpu_s']:.0f} s)" for c in cells]
        lines.append(f"| {n} | " + " | ".join(shown) + " |")
    return "\n".join(lines)

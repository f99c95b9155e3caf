"""Five metals: learning curves of the default before and after, beside GAP and linear ACE on the same frames."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.md.langevin import Langevin

import kernelpot as kp
from benchmarks.harness import Report, Settings
from kernelpot.demo.pool import heat, label

LATTICE = {"Ni": 3.49, "Cu": 3.61, "Pd": 3.88, "Ag": 4.06, "Au": 4.06}
KINDS = ("bulk", "strained", "vacancy", "surface", "melt", "alloy")
SIZES = (50, 100, 200, 400, 800, 1600)
N_TEST = 300
ARMS = ("one-hot", "auto", "auto, pairs")
RESULTS = Path(__file__).parent / "results" / "alloys"
CUTOFF, N_MAX, L_MAX, PAIRS = 4.8, 6, 4, 5.5


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
            with warnings.catch_warnings():
                # Nothing here depends on which mass centre stays.
                warnings.simplefilter("ignore", FutureWarning)
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


def kernelpot_arm(
    train: list[Atoms], test: list[Atoms], channels: str | None, *, pairs: bool = False
) -> dict[str, float]:
    """Fit the default with or without coupled elements, and with the pair term that GAP has."""
    start = time.process_time()
    soap = kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX, channels=channels)
    terms = [soap, kp.TwoBody(cutoff=PAIRS)] if pairs else [soap]
    model = kp.SparseGP(terms, n_inducing=inducing(len(train)), noise="cv").fit(train, keys={"stress": None})
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
        f"distance_2b cutoff={PAIRS} covariance_type=ard_se delta=2.0 theta_uniform=1.0 add_species=T n_sparse=15 "
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
    # The reference labels stand beside what it predicts.
    energies, forces = np.array([a.info["ace_energy"] for a in out]), [a.arrays["ace_forces"] for a in out]
    return errors(energies, forces, test) | {"cpu_s": seconds}


def fill(folder: Path, sizes: Sequence[int], arms: Sequence[str], n_test: int = N_TEST) -> dict[str, dict[str, float]]:
    """Compute what is missing of the figures in a folder, and return them by arm and size."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alloys.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    bin_ = Path(os.environ.get("KERNELPOT_RIVALS", "")) / "bin"
    train, test = metals(max(sizes), 1), metals(n_test, 2)
    for n in sizes:
        for arm in arms:
            if f"{arm} {n}" in known:
                continue
            work = folder / f"{arm}-{n}"
            work.mkdir(exist_ok=True)
            if arm == "GAP":
                found = gap_arm(train[:n], test, bin_, work)
            elif arm == "ACE":
                found = ace_arm(train[:n], test, bin_, work)
            else:
                channels = None if arm == "one-hot" else "auto"
                found = kernelpot_arm(train[:n], test, channels, pairs=arm.endswith("pairs"))
            known[f"{arm} {n}"] = found
            path.write_text(json.dumps(known))
            shutil.rmtree(work, ignore_errors=True)
    return known


def run(settings: Settings) -> Report:
    """Fill in the learning curve; GAP and ACE where ``KERNELPOT_RIVALS`` names an environment that has both."""
    report = Report()
    rivals = ("GAP", "ACE") if os.environ.get("KERNELPOT_RIVALS") else ()
    sizes, arms = ((12,), ARMS[:2]) if settings.quick else (SIZES, (*ARMS, *rivals))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) if settings.quick else RESULTS
        known = fill(folder, sizes, arms, 12 if settings.quick else N_TEST)
    report.details = known
    for n in sizes:
        for kind, unit in (("energy", "meV/atom"), ("forces", "meV/Å")):
            for arm in arms[1:3]:
                others = [name for name in (arms[0], *arms[3:]) if f"{name} {n}" in known]
                report.add(
                    f"{n} frames, {arm}: {kind}, test MAE", known[f"{arm} {n}"][kind], unit,
                    rivals={name: known[f"{name} {n}"][kind] for name in others},
                    note=f"fit {known[f'{arm} {n}']['cpu_s']:.0f} s CPU",
                )  # fmt: skip
    report.note(
        f"five EMT metals, 8 to 54 atoms, kinds in turn: {', '.join(KINDS)}; {N_TEST} test frames of another seed; "
        f"cutoff {CUTOFF} Å, n_max {N_MAX}, l_max {L_MAX}, zeta 2, M = 3 per frame between 300 and 1,000; one-hot: "
        f"channels=None, the default of before; auto: the default; pairs: with TwoBody({PAIRS}); GAP: gap_fit, "
        "distance_2b and SOAP of the same size, an equal share of M for each element; ACE: ace-jax, four-body"
    )
    return report

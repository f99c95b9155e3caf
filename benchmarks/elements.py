"""Element channels: what 1, 2, 4 and 8 species cost with and without mixing, and what mixing does to errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers

from benchmarks.child import Outcome, measure, peak_memory, resident_memory
from benchmarks.descriptor import CUTOFF, L_MAX, N_MAX, PIECE, SIGMA
from benchmarks.harness import Report, Settings, cpu_median, gemm_rate
from benchmarks.systems import DataAbsentError, data, moved

if TYPE_CHECKING:
    from ase import Atoms

METALS = ("Cu", "Pd", "Ag", "Au", "Ni", "Pt", "Al", "Rh")
WAYS: dict[int, tuple[int, ...]] = {1: (0,), 2: (0, 1), 4: (0, 2, 4), 8: (0, 2, 4)}
"""Numbers of channels by number of species; 0 is the identity."""
RIVALS = ("featomic", "dscribe")
FIT_ROWS = ((1, 0), (2, 0), (4, 0), (4, 2), (4, 4), (8, 0), (8, 2), (8, 4))
"""Species and channels, 0 for the identity, of which fit rows are timed."""
ROWS_CUTOFF = 4.8
FRAMES, SEEDS, RUN = 60, 3, 10
ACCURACY = ("identity", "modes 1", "modes 2", "random 1", "random 2")


def run(settings: Settings) -> Report:
    """Time every number of species and channels, each in a process of its own; then fit Ag-Pd with some of them."""
    report = Report()
    for species in (1, 2) if settings.quick else WAYS:
        _cost(settings, report, species)
    for species, channels in ((2, 0),) if settings.quick else FIT_ROWS:
        _fit_rows(settings, report, species, channels)
    report.note(
        f"fit rows: energies and forces of cells of {'4' if settings.quick else '32'} atoms, M = "
        f"{'20' if settings.quick else '400'}, cutoff {ROWS_CUTOFF} Å, zeta 2; coupled: every centre sees all M, else "
        "those of its element; expanded: by derivatives of the vectors; information: from neighbour lists to blocks"
    )
    report.note(
        f"{'4' if settings.quick else '108'} atoms of the first 1, 2, 4, 8 of {', '.join(METALS)} on one lattice, "
        f"n_max {N_MAX}, l_max {L_MAX}, cutoff {CUTOFF} Å, neighbour list included, every atom moved before each "
        f"timing, {settings.threads} thread(s)"
    )
    report.note(
        "forces: values, then the gradient of one energy; rows: values, then the derivative of every vector by every "
        f"neighbour, {PIECE / 1e6:.0f} MB at a time (featomic keeps all); memory: growth of the process above what it "
        "was before the first call, rows included"
    )
    try:
        data("agpd/AgPd_bulk_master.xyz.xz")
    except DataAbsentError as absent:
        report.note(str(absent))
        return report
    for way in ACCURACY[:2] if settings.quick else ACCURACY:
        found = measure("benchmarks.elements:fit_and_score", threads=settings.threads, way=way, quick=settings.quick)
        report.details[f"AgPd {way}"] = found.known
        errors = np.array([[one["energy"], one["forces"]] for one in found.known["seeds"]]).mean(axis=0)
        seconds = f"{np.mean([one['cpu_s'] for one in found.known['seeds']]):.1f} s CPU for fit and test"
        report.add(f"AgPd, {way}: energy, test MAE", errors[0], "meV/atom", note=seconds)
        report.add(f"AgPd, {way}: forces, test MAE", errors[1], "meV/Å")
    report.note(
        f"AgPd: {FRAMES} training and {FRAMES} test frames of the bulk set from different runs of {RUN} neighbours, "
        f"mean of {SEEDS} draws; M = 300, zeta 2, energy 2 meV/atom, forces 0.05 eV/Å, amplitude 1 eV, no stress"
    )
    return report


def _cost(settings: Settings, report: Report, species: int) -> None:
    def measured(who: str, **how: Any) -> Outcome:
        outcome = measure(f"benchmarks.elements:{who}", threads=settings.threads, quick=settings.quick, **how)
        report.details[f"{species} species, {who}, {how}"] = {**(outcome.value or {}), "why": outcome.why}
        return outcome

    rivals = {} if settings.quick else {name: measured(name, species=species) for name in RIVALS}
    known = {name: outcome.value for name, outcome in rivals.items() if outcome.value}
    for name, outcome in rivals.items():
        if not outcome.value:
            report.note(f"{name}, {species} species: skipped: {outcome.reason}")
    for channels in WAYS[species]:
        mine = measured("ours", species=species, channels=channels).known
        name = f"{species} species, {f'{channels} channel(s)' if channels else 'identity'}"
        for what, unit in (("values", "µs/atom"), ("forces", "µs/atom"), ("rows", "µs/atom"), ("memory", "MiB")):
            others = {} if channels else {who: value[what] for who, value in known.items() if what in value}
            note = f"vectors of {mine['length']:,}" if what == "values" else ""
            report.add(f"{name}: {what}", mine[what], unit, rivals=others, note=note)


def _fit_rows(settings: Settings, report: Report, species: int, channels: int) -> None:
    for size in ((6, 4), (8, 6)):
        for coupled in (False, True) if channels else (False,):
            how = {"species": species, "channels": channels, "size": size, "coupled": coupled}
            found = measure("benchmarks.elements:fit_rows", threads=1, quick=settings.quick, **how).known
            way = f"{channels} channels{', coupled' if coupled else ''}" if channels else "identity"
            name = f"fit rows, {species} species, {way}, {size[0]}/{size[1]}"
            report.details[name] = found
            for what in ("expanded", "taken", "information"):
                note = f"{found['gflop_s']:.0f} of {found['peak']:.0f} Gflop/s" if what == "taken" else ""
                report.add(f"{name}: {what}", found[what], "ms/atom", note=note)


def fit_rows(species: int, channels: int, size: list[int], coupled: bool, quick: bool) -> dict[str, Any]:
    """Time rows of energies and forces by derivatives of vectors and as they are made, and whole information."""
    import kernelpot as kp
    from kernelpot.data.batch import Batch
    from kernelpot.features.inducing import choose_inducing
    from kernelpot.features.information import make_information
    from kernelpot.features.kernel_map import KernelMap

    numbers = tuple(sorted(atomic_numbers[symbol] for symbol in METALS[:species]))
    mixing = kp.elements.ElementChannels.modes(channels, width=2.0) if channels else None
    soap = kp.SOAP(ROWS_CUTOFF, *size, channels=mixing).with_species(numbers)
    rng, frames = np.random.default_rng(0), []
    for k in range(16):
        atoms = bulk("Cu", "fcc", a=3.95, cubic=True).repeat(1 if quick else 2)
        atoms.set_chemical_symbols(list(rng.permutation(np.resize(METALS[:species], len(atoms)))))
        frames.append(moved(atoms, k, 0.1))
    centres = kp.elements.ElementChannels.modes(species, width=2.0) if coupled else None
    inducing = choose_inducing(soap, frames, 20 if quick else 400, method="random", seed=0)
    features = KernelMap.from_inducing(soap, kp.DotProduct(2, centres=centres), inducing)
    batch = Batch.from_structures(frames[:4], ROWS_CUTOFF)
    described = features.describe(batch)
    kinds, each = ("energy", "forces"), 1e3 / batch.n_atoms

    def rows(_: int) -> Any:
        return features.rows(described, kinds)

    def information(_: int) -> Any:
        noise = kp.Noise(energy=0.002, forces=0.1)
        return make_information(features, frames[:4], noise, 1.0, present=None, truncate=0.0)

    result = {
        "taken": each * cpu_median(rows, int, repeats=5),
        "information": each * cpu_median(information, int, repeats=3),
    }
    pays, seen = kp.SOAP.products_pay, features.n_inducing / (1 if coupled else species)
    around = len(described.environments.slots.atoms) / batch.n_atoms
    by_density = pays(soap, int(seen), around)
    kp.SOAP.products_pay = lambda *_: False
    result["expanded"] = each * cpu_median(rows, int, repeats=3)
    kp.SOAP.products_pay = pays
    q, wide = (size[1] + 1) ** 2 * size[0], soap.n_channels * size[0]
    flops = 2.0 * seen * (3 * around * soap.n_features)
    if by_density and features.squares[0][0].shape[0] == 1:
        flops = 2.0 * seen * q * soap.n_channels * (wide + 3 * (around - 1))
    elif by_density:
        flops = 2.0 * seen * q * (wide * species + 3 * (around - 1))
    return {**result, "gflop_s": 1e-6 * flops / result["taken"], "mflop": 1e-6 * flops, "peak": gemm_rate()}


def _system(species: int, quick: bool) -> Atoms:
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True).repeat(1 if quick else 3)
    names = np.random.default_rng(0).permutation(np.resize(METALS[:species], len(atoms)))
    atoms.set_chemical_symbols(list(names))
    return moved(atoms, 0, 0.05)


def ours(species: int, channels: int, quick: bool) -> dict[str, Any]:
    """Time kernelpot's SOAP with random channels, or with the identity."""
    import kernelpot as kp
    from kernelpot.data.batch import Batch

    atoms = _system(species, quick)
    mixing = kp.elements.ElementChannels.random(channels) if channels else None
    soap = kp.SOAP(CUTOFF, N_MAX, L_MAX, SIGMA, channels=mixing)
    soap = soap.with_species(tuple(sorted({int(z) for z in atoms.numbers})))
    gradient = np.random.default_rng(0).normal(size=(len(atoms), soap.n_features))

    def values(one: Atoms) -> Any:
        return soap.environments(Batch.from_structures([one], CUTOFF))

    def forces(one: Atoms) -> Any:
        return values(one).vjp(gradient)

    def rows(one: Atoms) -> float:
        found, total = values(one), 0.0
        each = 24 * soap.n_features * (len(found.batch.first) / len(one) + 3)
        size = max(1, int(PIECE / each))
        for start in range(0, len(one), size):
            total += found.displacements(start, min(start + size, len(one))).rows[0, 0, 0]
        return total

    values(atoms).displacements(0, 1)
    forces(atoms)
    before = resident_memory()
    result = {
        name: 1e6 * cpu_median(call, lambda k: moved(atoms, k), repeats=repeats) / len(atoms)
        for name, call, repeats in (("values", values, 9), ("forces", forces, 9), ("rows", rows, 3))
    }
    return {**result, "memory": peak_memory() - before, "length": soap.n_features}


def dscribe(species: int, quick: bool) -> dict[str, Any]:
    """Time DScribe's SOAP, values only: its periodic gradients are numerical."""
    from dscribe.descriptors import SOAP

    atoms = _system(species, quick)
    soap = SOAP(species=METALS[:species], r_cut=CUTOFF, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA, rbf="gto", periodic=True)
    soap.create(atoms[:4])
    return {"values": 1e6 * cpu_median(soap.create, lambda k: moved(atoms, k), repeats=7) / len(atoms)}


def featomic(species: int, quick: bool) -> dict[str, Any]:
    """Time featomic's SOAP power spectrum, with and without gradients by positions."""
    from featomic import SoapPowerSpectrum

    atoms = _system(species, quick)
    calculator = SoapPowerSpectrum(
        cutoff={"radius": CUTOFF, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": SIGMA},
        basis={"type": "TensorProduct", "max_angular": L_MAX, "radial": {"type": "Gto", "max_radial": N_MAX - 1}},
    )
    calculator.compute(atoms[:4], gradients=["positions"])
    before = resident_memory()
    result = {}
    for name, gradients in (("values", []), ("rows", ["positions"])):

        def call(one: Atoms, gradients: list[str] = gradients) -> Any:
            return calculator.compute(one, gradients=gradients)

        result[name] = 1e6 * cpu_median(call, lambda k: moved(atoms, k), repeats=3) / len(atoms)
    return {**result, "memory": peak_memory() - before}


def fit_and_score(way: str, quick: bool) -> dict[str, Any]:
    """Fit Ag-Pd with channels as named; errors in meV/atom and meV/Å."""
    import time

    import kernelpot as kp

    frames = kp.read(data("agpd/AgPd_bulk_master.xyz.xz"), verbose=False)
    kind, _, n = way.partition(" ")
    result = []
    for seed in range(1 if quick else SEEDS):
        channels = {
            "identity": lambda: None,
            "modes": lambda: kp.elements.ElementChannels.modes(int(n)),
            "random": lambda seed=seed: kp.elements.ElementChannels.random(int(n), seed),
        }[kind]()
        train, test = parts(frames, 4 if quick else FRAMES, seed)
        start = time.process_time()
        soap = kp.SOAP(CUTOFF, N_MAX, L_MAX, SIGMA, channels=channels)
        noise = kp.Noise(energy=0.002, forces=0.05)
        model = kp.SparseGP(soap, kp.DotProduct(2), n_inducing=300, noise=noise, seed=seed)
        model.fit(train, keys={"stress": None})
        found = model.predict(test, uncertainty=False)
        energy = [(e - a.get_potential_energy()) / len(a) for e, a in zip(found.energy, test, strict=True)]
        forces = [f - a.get_forces(apply_constraint=False) for f, a in zip(found.forces, test, strict=True)]
        result.append(
            {
                "energy": 1e3 * float(np.abs(energy).mean()),
                "forces": 1e3 * float(np.abs(np.concatenate(forces)).mean()),
                "cpu_s": time.process_time() - start,
            }
        )
    return {"seeds": result}


def parts(frames: list[Atoms], n: int, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Draw n frames for training and for testing, from different runs of neighbouring frames."""
    runs = np.arange(len(frames)) // RUN
    rng = np.random.default_rng(seed)
    side = rng.permutation(int(runs[-1]) + 1) % 2
    drawn = [rng.permutation(np.flatnonzero(side[runs] == k))[:n] for k in (0, 1)]
    return [frames[k] for k in drawn[0]], [frames[k] for k in drawn[1]]

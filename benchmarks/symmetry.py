"""Symmetry functions: time of values and gradients beside DScribe, errors of potentials beside SOAP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import Outcome, measure
from benchmarks.elements import FRAMES, RUN, parts
from benchmarks.harness import Report, Settings, cpu_median
from benchmarks.systems import DataAbsentError, alloy, data, moved, silicon

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF = 6.0
SYSTEMS = ("Si 512", "alloy 500")
QUICK = ("Si 8",)
MOVED = 2
"""Atoms that DScribe's numerical gradients are timed for; the time of each further one is the same."""
CENTRES = 32
"""Centres whose gradients are held at a time."""
SETS = {"AgPd": "agpd/AgPd_bulk_master.xyz.xz", "ethanol": "rmd17/ethanol_train.xyz.xz"}
CANDIDATES = {
    "AgPd": ((5.0, 8, 2), (6.0, 8, 2)),
    "ethanol": ((4.0, 12, 3), (4.0, 16, 5)),
}
"""Cutoff, radial functions and widths of angular ones that the training frames decide among."""
KERNELS = (("bare", 1.0), ("bare", 2.0), ("scaled", 1.5))
"""Symmetry functions as they are or scaled on the training frames, with the length of the Gaussian kernel."""
CUTOFFS, POWERS = {"AgPd": (5.0, 6.0), "ethanol": (4.0, 5.0)}, (2, 3)
"""Of SOAP, and of its dot product."""
SEEDS, TRAIN, TEST = 2, 200, 300
SPECIES = (2, 4, 8, 16)
"""Numbers of elements that lengths of vectors are printed for."""
FIGURES = (
    ("energy, test MAE", "meV/atom", "energy"),
    ("forces, test MAE", "meV/Å", "forces"),
    ("fit", "s CPU", "fit_s"),
    ("prediction", "µs/atom", "predict_us"),
)
WAYS = ("SOAP", "SOAP in 2 modes", "ACSF", "ACSF in 2 modes")


def run(settings: Settings) -> Report:
    """Time functions of every system; then fit Ag-Pd and ethanol."""
    report = Report()
    for system in QUICK if settings.quick else SYSTEMS:
        _times(settings, report, system)
    report.note(
        f"the 21 functions of ACSF.spaced(6.0) for each element and pair of elements, cosine cutoff, periodic, "
        f"neighbour list included, every atom moved before each timing, {settings.threads} thread(s); gradient: values "
        "and the gradient of one energy; all gradients: the derivative of every function by every neighbour"
    )
    report.note(
        f"DScribe's gradients of periodic structures are numerical: timed for {MOVED} moving atoms, over their number"
    )
    for name, file in SETS.items():
        try:
            data(file)
        except DataAbsentError as absent:
            report.note(str(absent))
            continue
        _errors(settings, report, name)
    report.note(
        f"AgPd: {FRAMES} training and {FRAMES} test frames of different runs of {RUN} neighbours, M = 300; ethanol: "
        f"{TRAIN} and {TEST} molecules, M = 600; mean of {SEEDS} draws; settings of each way are those with the least "
        "left-out error (log of energies' and forces' RMSE) on a quarter of the training frames"
    )
    return report


def _times(settings: Settings, report: Report, system: str) -> None:
    def measured(who: str) -> Outcome:
        outcome = measure(f"benchmarks.symmetry:{who}", threads=settings.threads, timeout=600, system=system)
        report.details[f"{system}, {who}"] = {**(outcome.value or {}), "why": outcome.why}
        return outcome

    mine, peer = measured("ours").known, measured("dscribe")
    theirs = peer.value or {}
    if not theirs:
        report.note(f"DScribe, {system}: skipped: {peer.reason}")
    for what in ("values", "gradient", "all gradients"):
        time_of = theirs.get("values" if what == "values" else "all gradients")
        rivals = {} if time_of is None else {"dscribe": time_of}
        note = f"{mine['length']} functions, {mine['neighbours']:.0f} neighbours" if what == "values" else ""
        report.add(f"{system}: {what}", mine[what], "µs/atom", rivals=rivals, target=time_of, note=note)


def _errors(settings: Settings, report: Report, name: str) -> None:
    ways = WAYS[::2] if settings.quick else WAYS
    known = {
        way: measure(
            "benchmarks.symmetry:fit_and_score", threads=settings.threads, name=name, way=way, quick=settings.quick
        ).known
        for way in ways
    }
    report.details[name] = known
    plain = known["SOAP"]
    for way, found in known.items():
        note = f"{found['settings']}; vector of {found['length']}; {found['lengths']} for {SPECIES} species"
        for what, unit, key in FIGURES:
            rivals = {} if way == "SOAP" else {"SOAP": plain[key]}
            report.add(f"{name}, {way}: {what}", found[key], unit, rivals=rivals, note=note if key == "forces" else "")


def _system(name: str) -> Atoms:
    return {"Si 8": lambda: silicon(1), "Si 512": lambda: silicon(4), "alloy 500": alloy}[name]()


def _functions(atoms: Atoms) -> Any:
    import kernelpot as kp

    species = tuple(sorted({int(z) for z in atoms.numbers}))
    return kp.ACSF.spaced(CUTOFF, cutoff_function="cosine").with_species(species)


def ours(system: str) -> dict[str, Any]:
    """Time kernelpot's functions."""
    from kernelpot.data.batch import Batch

    atoms = _system(system)
    acsf, n = _functions(atoms), len(atoms)
    weights = np.random.default_rng(0).normal(size=(n, acsf.n_features))

    def values(one: Atoms) -> Any:
        return acsf.environments(Batch.from_structures([one], CUTOFF))

    def gradient(one: Atoms) -> Any:
        return values(one).vjp(weights)

    def all_gradients(one: Atoms) -> float:
        found, total = values(one), 0.0
        for start in range(0, n, CENTRES):
            total += found.displacements(start, min(start + CENTRES, n)).rows[0, 0, 0]
        return total

    gradient(atoms)
    values(atoms).displacements(0, 1)
    calls = {"values": values, "gradient": gradient, "all gradients": all_gradients}
    times = {name: 1e6 * cpu_median(call, lambda k: moved(atoms, k), repeats=7) / n for name, call in calls.items()}
    neighbours = len(Batch.from_structures([atoms], CUTOFF).first) / n
    return {**times, "length": acsf.n_features - 1, "neighbours": neighbours}


def dscribe(system: str) -> dict[str, Any]:
    """Time DScribe's functions."""
    from dscribe.descriptors import ACSF

    atoms = _system(system)
    mine = _functions(atoms)
    theirs = ACSF(r_cut=CUTOFF, g2_params=mine.g2, g4_params=mine.g4, species=list(mine.species), periodic=True)
    times = {"values": 1e6 * cpu_median(theirs.create, lambda k: moved(atoms, k), repeats=3) / len(atoms)}

    def gradients(one: Atoms) -> Any:
        return theirs.derivatives(one, include=list(range(MOVED)), method="numerical", attach=True)

    start = time.process_time()
    gradients(moved(atoms, 1))
    return {**times, "all gradients": 1e6 * (time.process_time() - start) / MOVED}


def fit_and_score(name: str, way: str, quick: bool) -> dict[str, Any]:
    """Choose settings on training frames, fit, score on test frames; meV/atom, meV/Å, seconds of CPU time."""
    import kernelpot as kp

    frames = kp.read(data(SETS[name]), verbose=False)
    scores = []
    for seed in range(1 if quick else SEEDS):
        train, test = _split(name, frames, seed, quick)
        cut = 3 * len(train) // 4
        tried = [(_score(name, way, one, train[:cut], train[cut:], seed, quick), one) for one in _candidates(name, way)]
        best = min(tried, key=lambda pair: np.log(pair[0]["energy_rmse"]) + np.log(pair[0]["forces_rmse"]))[1]
        scores.append(_score(name, way, best, train, test, seed, quick) | {"settings": str(best)})
    means = {key: float(np.mean([one[key] for one in scores])) for key in ("energy", "forces", "fit_s", "predict_us")}
    last = _descriptor(way, best, None)
    lengths = [last.with_species(tuple(range(20, 20 + n))).n_features for n in SPECIES]
    return {**means, "length": scores[-1]["length"], "lengths": lengths, "settings": scores[-1]["settings"]}


def _split(name: str, frames: list[Atoms], seed: int, quick: bool) -> tuple[list[Atoms], list[Atoms]]:
    if name == "AgPd":
        return parts(frames, 8 if quick else FRAMES, seed)
    drawn = np.random.default_rng(seed).permutation(len(frames))
    n, m = (16, 8) if quick else (TRAIN, TEST)
    return [frames[k] for k in drawn[:n]], [frames[k] for k in drawn[n : n + m]]


def _candidates(name: str, way: str) -> list[tuple[Any, ...]]:
    """Sizes of the descriptor with the kernel's number."""
    if way.startswith("ACSF"):
        return [(*sizes, *kernel) for sizes in CANDIDATES[name] for kernel in KERNELS]
    return [(cutoff, power) for cutoff in CUTOFFS[name] for power in POWERS]


def _descriptor(way: str, chosen: tuple[Any, ...], train: list[Atoms] | None) -> Any:
    import kernelpot as kp

    channels = kp.elements.ElementChannels.modes(2) if "2 modes" in way else None
    if way.startswith("SOAP"):
        return kp.SOAP(cutoff=chosen[0], channels=channels)
    acsf = kp.ACSF.spaced(chosen[0], n_radial=chosen[1], n_angular=chosen[2], channels=channels)
    return acsf if train is None or chosen[3] == "bare" else acsf.scaled(train)


def _score(
    name: str, way: str, chosen: tuple[Any, ...], train: list[Atoms], test: list[Atoms], seed: int, quick: bool
) -> dict[str, Any]:
    import kernelpot as kp

    start = time.process_time()
    descriptor = _descriptor(way, chosen, train)
    kernel = kp.Gaussian(chosen[-1]) if way.startswith("ACSF") else kp.DotProduct(chosen[-1])
    noise = kp.Noise(energy=0.002, forces=0.05) if name == "AgPd" else kp.Noise(energy=0.0005, forces=0.01)
    m = 40 if quick else 300 if name == "AgPd" else 600
    model = kp.SparseGP(descriptor, kernel, n_inducing=m, noise=noise, seed=seed).fit(train, keys={"stress": None})
    fitted = time.process_time()
    found = model.predict(test, uncertainty=False)
    done = time.process_time()
    energy = np.array([(e - a.get_potential_energy()) / len(a) for e, a in zip(found.energy, test, strict=True)])
    forces = np.concatenate([f - a.get_forces(apply_constraint=False) for f, a in zip(found.forces, test, strict=True)])
    return {
        "energy": 1e3 * float(np.abs(energy).mean()),
        "forces": 1e3 * float(np.abs(forces).mean()),
        "energy_rmse": float(np.sqrt(np.mean(energy**2))),
        "forces_rmse": float(np.sqrt(np.mean(forces**2))),
        "fit_s": fitted - start,
        "predict_us": 1e6 * (done - fitted) / sum(map(len, test)),
        "length": int(model.fitted_.features.descriptor.n_features) if model.fitted_ else 0,
    }

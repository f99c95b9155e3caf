"""Time of a prediction: 1000 Si atoms, part by part, beside GAP."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import measure
from benchmarks.fit import gap_fit, write_labels
from benchmarks.harness import REFERENCE_GEMM, Report, Settings, cpu_median, gemm_rate
from benchmarks.published import GAP_PREDICT, SNAP_PREDICT
from benchmarks.systems import data, mlearn, moved, silicon

TARGET = 40.0
ALLOY_TARGET = 100.0
OVER_GAP = 1.0 / 40.0
TWO_THREADS = 1.0 / 1.8
N_MAX, L_MAX, CUTOFF = 8, 6, 5.0
GAP_SPARSE = 1000
GAP_TIMEOUT = 300.0


def run(settings: Settings) -> Report:
    """Time M = 1000, M = 2000 and GAP."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    sizes = (40, 80) if settings.quick else (1000, 2000)
    small = measure("benchmarks.predict:ours", threads=settings.threads, sizes=sizes, quick=settings.quick).known
    report.details["ours"] = small
    rivals, variance = _rivals(settings, report)
    scale = small["gemm"] / REFERENCE_GEMM
    step, std = small["step"], small["mean_std"]
    report.add(f"energy + forces, M = {sizes[0]}", step, "µs/atom", rivals=rivals, note="a step of the ASE calculator")
    report.add("the same on a core of 45 GFLOP/s", scale * step, "µs/atom", rivals={}, target=TARGET)
    report.add("the same without ASE (`model.mean`)", small["mean"], "µs/atom")
    report.add(
        "neighbour list from scratch", small["neighbours"], "µs/atom", note="kept within a skin, so not in the above"
    )
    report.add("neighbour list + energy + forces", small["neighbours"] + small["mean_no_skin"], "µs/atom")
    report.add(f"M = {sizes[1]} over M = {sizes[0]}", small["large_over_small"], "×", target=1.10)
    report.add("with every atom's energy std", std, "µs/atom", rivals=variance)
    report.add("the same over energy + forces", std / step, "×", target=3.0)
    report.add("`energies_std` through the ASE calculator", small["calculator_std"], "µs/atom")
    if "GAP" in report.details:
        report.add("energy + forces over GAP's", step / rivals["GAP"], "×", target=OVER_GAP)
    _beside_silicon(settings, report)
    for part, value in small["parts"].items():
        report.add(f"part: {part}", value, "µs/atom")
    report.note(
        f"{small['atoms']} Si atoms, n_max {N_MAX}, l_max {L_MAX}, cutoff {CUTOFF} Å, zeta 2, {settings.threads} "
        f"thread(s), path: {small['path']}, every atom moved before each timing; GEMM {small['gemm']:.1f} GFLOP/s in "
        "that process"
    )
    report.note(f"least time of the two matrix products at that rate: {small['gemm_floor']:.1f} µs/atom")
    return report


def _beside_silicon(settings: Settings, report: Report) -> None:
    """Add two threads, and two species."""
    walls = [
        [measure("benchmarks.predict:wall", threads=n, quick=settings.quick).known["wall"] for n in (1, 2)]
        for _ in range(1 if settings.quick else 3)
    ]
    one, two = np.min(walls, axis=0)
    report.add("wall time, two threads over one", float(two / one), "×", target=TWO_THREADS)
    data("agpd/AgPd_bulk_master.xyz.xz")
    found = measure("benchmarks.predict:alloy", threads=settings.threads, quick=settings.quick).known
    report.add("AgPd, M = 1000: energy + forces", found["mean"], "µs/atom", target=ALLOY_TARGET)
    report.note(
        f"AgPd: {found['atoms']} atoms, vectors of {found['features']} components, paths {', '.join(found['paths'])}; "
        f"two threads: smallest of {len(walls)} runs each, {1e6 * one:.1f} and {1e6 * two:.1f} µs/atom wall"
    )


def wall(*, quick: bool) -> dict[str, Any]:
    """Time the wall clock of a prediction, s/atom, with the threads of this process."""
    import time

    import kernelpot as kp
    from kernelpot.data.batch import Batch

    soap = kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX)
    model = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=200).fit(_training(200))
    atoms = silicon(2 if quick else 5)
    skinned = Batch.from_structures([atoms], CUTOFF, skin=0.5)
    taken = []
    for k in range(3 if quick else 40):
        batch = skinned.moved(moved(atoms, k).positions)
        start = time.perf_counter()
        model.mean(batch)
        taken.append(time.perf_counter() - start)
    return {"wall": float(np.min(taken)) / len(atoms)}


def alloy(*, quick: bool) -> dict[str, Any]:
    """Time two species, µs/atom of CPU time."""
    import kernelpot as kp
    from kernelpot.data.batch import Batch

    train = kp.read(data("agpd/AgPd_bulk_master.xyz.xz"), verbose=False)[:: 200 if quick else 8]
    soap = kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX)
    model = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=60 if quick else 1000)
    model.fit(train, keys={"stress": None})
    atoms = train[-1].repeat((2, 2, 1) if quick else (4, 4, 3))
    skinned = Batch.from_structures([atoms], CUTOFF, skin=0.5)
    clock = cpu_median(model.mean, lambda k: skinned.moved(moved(atoms, k).positions), repeats=3 if quick else 15)
    return {
        "mean": 1e6 * clock / len(atoms),
        "atoms": len(atoms),
        "features": model.descriptor.with_species(model.species_).n_features,
        "paths": model.fitted_.form.paths,
    }


def _rivals(settings: Settings, report: Report) -> tuple[dict[str, float], dict[str, float]]:
    """Return GAP's times without and with its variance."""
    outcome = measure(
        "benchmarks.predict:gap", threads=settings.threads, timeout=GAP_TIMEOUT,
        n_sparse=40 if settings.quick else GAP_SPARSE, quick=settings.quick,
    )  # fmt: skip
    if outcome.value is None:
        report.note(f"GAP not measured here ({outcome.reason}); its figure is published")
        return {"GAP": GAP_PREDICT, "LAMMPS SNAP": SNAP_PREDICT}, {}
    report.details["GAP"] = outcome.value
    report.note(
        f"GAP by quippy in this run: n_sparse {outcome.value['n_sparse']}, same cutoff, n_max, l_max, zeta; "
        "LAMMPS SNAP (twojmax 8) was measured elsewhere"
    )
    return {"GAP": outcome.value["step"], "LAMMPS SNAP": SNAP_PREDICT}, {"GAP": outcome.value["step_std"]}


def _training(n: int) -> list[Any]:
    """Structures with at least n environments, hot and cold."""
    train = mlearn("Si", "train")
    enough = int(np.searchsorted(np.cumsum([len(atoms) for atoms in train[::3]]), 1.2 * n)) + 1
    return train[::3][:enough]


def ours(*, sizes: tuple[int, int], quick: bool) -> dict[str, Any]:
    """Time a smaller and a larger model in a process of their own, µs/atom of CPU time."""
    import kernelpot as kp
    from kernelpot.data.batch import Batch

    gemm = [gemm_rate()]
    soap = kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX)
    model, larger = (kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=m).fit(_training(m)) for m in sizes)
    state = model.fitted_
    atoms = silicon(2 if quick else 5)
    repeats = 3 if quick else 15
    calculators = kp.Calculator(model), kp.Calculator(larger)

    def step(k: int, which: int = 0) -> Any:
        copy = moved(atoms, k)
        copy.calc = calculators[which]
        return copy

    def spread(batch: Any) -> None:
        described = state.features.describe(batch)
        state.mean_described(described)
        state.uncertainty.local_energy(described)

    skinned = Batch.from_structures([atoms], CUTOFF, skin=calculators[0].skin)
    bare = Batch.from_structures([atoms], CUTOFF)
    per_atom = 1e6 / len(atoms)

    def clock(call: Any, prepare: Any) -> float:
        return per_atom * cpu_median(call, prepare, repeats=repeats)

    def forces(atoms: Any) -> None:
        atoms.get_forces()

    # By turns, so that a machine that slows down slows both.
    turns = [[cpu_median(forces, partial(step, which=which), repeats=1) for which in (0, 1)] for _ in range(repeats)]
    small, large = np.median(turns, axis=0)
    result = {
        "atoms": len(atoms),
        "n_inducing": model.n_inducing_,
        "path": state.form.paths[0],
        "step": per_atom * float(small),
        "large_over_small": float(large / small),
        "mean": clock(model.mean, lambda k: skinned.moved(moved(atoms, k).positions)),
        "mean_no_skin": clock(model.mean, lambda k: bare.moved(moved(atoms, k).positions)),
        "neighbours": clock(lambda a: Batch.from_structures([a], CUTOFF), lambda k: moved(atoms, k)),
        "mean_std": clock(spread, lambda k: skinned.moved(moved(atoms, k).positions)),
        "calculator_std": per_atom * cpu_median(lambda a: a.calc.get_property("energies_std", a), step, repeats=1),
        "parts": _parts(state, lambda k: skinned.moved(moved(atoms, k).positions), clock),
    }
    gemm.append(gemm_rate())
    rate = float(np.mean(gemm))
    features = state.features.descriptor.n_features
    columns = features if state.form.paths[0] == "collapsed" else 2 * model.n_inducing_
    return result | {"gemm": rate, "gemm_floor": 2e-3 * features * columns / rate}


def _parts(state: Any, batch: Any, clock: Any) -> dict[str, float]:
    """Time every stage of a mean prediction alone."""
    from kernelpot.features.vectors import gather_pairs, unit, unit_vjp

    descriptor = state.features.descriptor
    described = state.features.describe(batch(0))
    _, gradient = state.form.evaluate(described)
    raw = unit_vjp(gradient, described.x, described.norm)
    pairs = described.environments.vjp(raw)

    def located(k: int) -> Any:
        placed = batch(k)
        _ = placed.vectors
        return placed

    return {
        "pair vectors": clock(lambda b: b.vectors, batch),
        "expansion, power spectrum": clock(descriptor.environments, located),
        "normalising": clock(lambda e: unit(e.vectors), lambda k: descriptor.environments(located(k))),
        "kernel (matrix products)": clock(lambda _: state.form.evaluate(described), located),
        "normalising, back": clock(lambda _: unit_vjp(gradient, described.x, described.norm), located),
        "power spectrum, expansion, back": clock(lambda e: e.vjp(raw), lambda k: descriptor.environments(located(k))),
        "pairs to forces": clock(lambda b: gather_pairs(b, pairs), located),
    }


def gap(*, n_sparse: int, quick: bool) -> dict[str, Any]:
    """Fit a GAP on a few structures, time it, µs/atom of CPU time."""
    from quippy.potential import Potential

    with tempfile.TemporaryDirectory() as folder:
        write_labels(Path(folder) / "train.xyz", _training(n_sparse))
        file = gap_fit(
            Path(folder),
            n_sparse=n_sparse,
            n_max=N_MAX,
            l_max=L_MAX,
            zeta=2,
            method="cur_points",
            limit_s=0.8 * GAP_TIMEOUT,
        )
        potential = Potential(param_filename=str(file))
    atoms = silicon(2 if quick else 5)
    per_atom = 1e6 / len(atoms)

    def fresh(k: int) -> Any:
        copy = moved(atoms, k)
        copy.calc = potential
        return copy

    step = cpu_median(lambda a: a.get_forces(), fresh, repeats=3)
    potential.calc_args = "local_gap_variance"
    step_std = cpu_median(lambda a: a.get_forces(), fresh, repeats=3)
    if "local_gap_variance" not in potential.extra_results["atoms"]:
        raise RuntimeError("quippy returned no local_gap_variance")
    return {
        "atoms": len(atoms),
        "n_sparse": n_sparse,
        "step": per_atom * step,
        "step_std": per_atom * step_std,
    }

"""PyTorch on the CPU and, where there is one, on a CUDA device, beside the compiled loops: times and precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings, cpu_median
from benchmarks.systems import data, mlearn, moved, silicon

N_MAX, L_MAX, CUTOFF = 8, 6, 5.0
PLACES = (("compiled loops", None, "float64"), ("torch-cpu", "cpu", "float64"), ("torch-cpu mixed", "cpu", "mixed"))
CUDA = (("CUDA", "cuda", "float64"), ("CUDA mixed", "cuda", "mixed"))


def run(settings: Settings) -> Report:
    """Time predictions, rows and a fit on every device, then compare precisions."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    found = measure("benchmarks.gpu:ours", threads=settings.threads, quick=settings.quick).known
    report.details["ours"] = found
    places = found["places"]
    first = next(iter(places))

    def compare(what: str, key: str, unit: str) -> None:
        for name, figures in places.items():
            if name != first and key in figures and key in places[first]:
                report.add(f"{what}, {name}", figures[key], unit, rivals={first: places[first][key]})

    compare("energy + forces", "mean", "µs/atom")
    compare("with every atom's energy std", "local", "µs/atom")
    compare("rows of energies and forces", "rows", "µs/atom")
    compare("standard deviations of all labels", "std", "µs/atom")
    compare("fit", "fit", "s")
    for name, figures in found["errors"].items():
        report.add(f"{name}: largest change of an energy", figures["energy"], "meV/atom")
        report.add(f"{name}: largest change of a force", figures["forces"], "meV/Å")
    report.note(
        f"{found['atoms']} Si atoms, n_max {N_MAX}, l_max {L_MAX}, cutoff {CUTOFF} Å, zeta 2, M = "
        f"{found['n_inducing']}; CPU time of all threads on the CPU, wall time on CUDA"
    )
    report.note(found["cuda"])
    return report


def ours(*, quick: bool) -> dict[str, Any]:
    """Time and compare everything in a process of its own."""
    import torch

    import kernelpot as kp
    from kernelpot.data.batch import Batch

    train = mlearn("Si", "train")[:: 20 if quick else 3]
    test = mlearn("Si", "test")
    spec = kp.SparseGP(
        kp.SOAP(cutoff=CUTOFF, n_max=N_MAX, l_max=L_MAX), kp.DotProduct(2), n_inducing=40 if quick else 1000,
        noise=kp.Noise(energy=0.0013, forces=0.15),
    ).prepare(train)  # fmt: skip
    atoms = silicon(2 if quick else 5)
    skinned = Batch.from_structures([atoms], CUTOFF, skin=0.5)
    some = Batch.from_structures(train[: 2 if quick else 8], CUTOFF)
    there = torch.cuda.is_available()
    places: dict[str, dict[str, float]] = {}
    models = {}
    for name, device, precision in (*PLACES, *(CUDA if there else ())):
        clock = _wall_median if device == "cuda" else cpu_median

        def timed(call: Any, clock: Any = clock, repeats: int = 3 if quick else 7) -> float:
            return clock(call, lambda k: skinned.moved(moved(atoms, k).positions), repeats=repeats) * 1e6 / len(atoms)

        model = spec.to(device, precision=precision)
        figures = {}
        if precision == "float64":
            figures["fit"] = clock(lambda _, model=model: model.fit(train), lambda _: None, repeats=1)
        else:
            model = models[name.removesuffix(" mixed")].to(device, precision=precision)
        models[name] = model
        figures["mean"] = timed(model.mean)
        figures["local"] = timed(lambda b, model=model: (model.mean(b), model.local_energy_std(b)))
        if precision == "float64":
            features = model.fitted_.features
            uncertainty = model.fitted_.uncertainty
            for key, call in {
                "rows": lambda _, f=features: f.rows(f.describe(some), ("forces",)),
                "std": lambda _, f=features, u=uncertainty: u.labelled(f.describe(some)),
            }.items():
                figures[key] = clock(call, lambda _: None, repeats=1 if quick else 2) * 1e6 / some.n_atoms
        places[name] = figures
    return {
        "atoms": len(atoms),
        "n_inducing": spec.n_inducing_,
        "places": places,
        "errors": _errors(models, spec, train, test),
        "cuda": f"CUDA: {torch.cuda.get_device_name(0)}" if there else "no CUDA device on this machine",
    }


def _errors(models: dict[str, Any], spec: Any, train: Any, test: Any) -> dict[str, dict[str, float]]:
    """Compare the predictions of every model, and of one fitted in float32, with those of compiled loops."""
    device = "cuda" if "CUDA" in models else "cpu"
    rough = spec.to(device, precision="float32").fit(train)
    reference = models["compiled loops"].predict(test, uncertainty=False)
    sizes = np.array([len(atoms) for atoms in test])
    result = {}
    for name, model in {**models, "fitted and asked in float32": rough}.items():
        if model is models["compiled loops"]:
            continue
        found = model.predict(test, uncertainty=False)
        change = max(np.abs(a - b).max() for a, b in zip(found.forces, reference.forces, strict=True))
        result[name] = {
            "energy": 1e3 * float(np.abs((found.energy - reference.energy) / sizes).max()),
            "forces": 1e3 * float(change),
        }
    return result


def _wall_median(call: Callable[[Any], object], prepare: Callable[[int], Any], *, repeats: int) -> float:
    """Median wall time; results arrive as NumPy arrays, so that a call ends when the device has finished."""
    times = []
    call(prepare(0))
    for k in range(repeats):
        argument = prepare(k + 1)
        start = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - start)
    return float(np.median(times))

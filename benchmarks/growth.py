"""Time and memory of a fit against the number of structures and of inducing environments, with slopes; streams."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data, mlearn

STRUCTURES = (25, 50, 100, 214)
ENVIRONMENTS = (200, 400, 800, 1600)
STREAMED = (5_000, 50_000)


def run(settings: Settings) -> Report:
    """Measure each size in a process of its own."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    structures, environments = (STRUCTURES, ENVIRONMENTS) if not settings.quick else (STRUCTURES[:2], (50, 100))
    curves: dict[str, list[dict[str, float]]] = {}
    fixed = 500 if not settings.quick else 50
    sizes = {"structures": [(n, fixed) for n in structures], "inducing": [(100, m) for m in environments]}
    for name, cases in sizes.items():
        for n, m in cases:
            outcome = measure("benchmarks.growth:fit", threads=settings.threads, n_structures=n, n_inducing=m)
            point = {"x": n if name == "structures" else m, "cpu_s": outcome.known["cpu_s"], "peak_mib": outcome.peak}
            curves.setdefault(name, []).append(point)
            report.add(f"{n} structures, M = {m}: CPU time", outcome.known["cpu_s"], "s")
            report.add(f"{n} structures, M = {m}: peak memory", outcome.peak, "MiB")
    for name, points in curves.items():
        report.note(
            f"slopes in log-log against {name}: CPU time {_slope(points, 'cpu_s'):.2f}, peak memory "
            f"{_slope(points, 'peak_mib'):.2f}; the last doubling: CPU time {_slope(points[-2:], 'cpu_s'):.2f}, "
            f"peak memory {_slope(points[-2:], 'peak_mib'):.2f}"
        )
    for n in STREAMED if not settings.quick else (200,):
        outcome = measure("benchmarks.growth:stream", threads=settings.threads, n_structures=n)
        report.add(f"stream of {n} 4-atom cells, M = 200: peak memory", outcome.peak, "MiB")
        report.add(f"stream of {n} 4-atom cells, M = 200: CPU time", outcome.known["cpu_s"], "s")
    report.details = {"curves": curves}
    return report


def _slope(points: list[dict[str, float]], name: str) -> float:
    x, y = (np.log([point[key] for point in points]) for key in ("x", name))
    return float(np.polyfit(x, y, 1)[0])


def fit(n_structures: int, n_inducing: int) -> dict[str, Any]:
    """Fit some of mlearn Si with given noises; compile before the clock starts."""
    import kernelpot as kp

    train = mlearn("Si", "train")
    chosen = [train[k] for k in np.linspace(0, len(train) - 1, n_structures).astype(int)]
    spec = kp.SparseGP(kp.SOAP(), n_inducing=n_inducing, noise=kp.Noise(energy=0.002, forces=0.1))
    kp.SparseGP(kp.SOAP(), n_inducing=20, noise=spec.noise).fit(chosen[:3])
    with Stopwatch() as watch:
        spec.fit(chosen, keys={"stress": None})
    return watch.as_dict()


def stream(n_structures: int) -> dict[str, Any]:
    """Fit many small cells that stay in a file."""
    import kernelpot as kp

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.xyz"
        _write(path, n_structures)
        soap = kp.SOAP(cutoff=4.0, n_max=4, l_max=3, sigma=0.6)
        model = kp.SparseGP(soap, n_inducing=200, noise=kp.Noise(energy=0.002, forces=0.1))
        with Stopwatch() as watch:
            model.fit(kp.pools.stream(path))
        return watch.as_dict()


def _write(path: Path, n: int) -> None:
    """Write copper-gold cells with made-up smooth labels: how large they are does not matter here."""
    from ase.build import bulk

    rng = np.random.default_rng(0)
    cell = bulk("Cu", "fcc", a=3.85, cubic=True)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n):
            strain = np.eye(3) + rng.normal(scale=0.02, size=(3, 3))
            positions = cell.positions @ strain + rng.normal(scale=0.1, size=(4, 3))
            lattice = " ".join(f"{x:.8f}" for x in (cell.cell.array @ strain).ravel())
            forces = rng.normal(scale=0.5, size=(4, 3))
            forces -= forces.mean(axis=0)
            columns = "species:S:1:pos:R:3:forces:R:3"
            file.write(f'4\nLattice="{lattice}" Properties={columns} energy={rng.normal():.6f} pbc="T T T"\n')
            for symbol, r, f in zip(("Cu", "Cu", "Au", "Au"), positions, forces, strict=True):
                file.write(f"{symbol} " + " ".join(f"{x:.8f}" for x in (*r, *f)) + "\n")

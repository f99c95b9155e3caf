"""Energy conservation of molecular dynamics: 64 Si atoms at constant energy."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data, mlearn, silicon

TEMPERATURE = 600.0
STEP = 1.0
EQUILIBRATION = 500
TARGET = 0.5


def run(settings: Settings) -> Report:
    """Fit, equilibrate, run, report."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    found = measure("benchmarks.drift:dynamics", threads=settings.threads, quick=settings.quick).known
    report.details = found
    report.add("drift of the total energy (line through it)", found["drift"], "meV/atom", target=TARGET)
    report.add("total energy, last tenth minus first tenth", found["change"], "meV/atom", target=TARGET)
    report.add("total energy, rms fluctuation", found["fluctuation"], "meV/atom")
    report.add("largest excursion of the total energy", found["excursion"], "meV/atom")
    report.add("CPU time of a step", found["cpu_s"] / found["steps"] / found["atoms"] * 1e6, "µs/atom")
    report.note(
        f"{found['atoms']} Si atoms, {found['steps']} steps of {STEP} fs after {found['equilibration']} with a "
        f"thermostat, mean temperature {found['temperature']:.0f} K, {found['n_inducing']} inducing environments"
    )
    return report


def dynamics(*, quick: bool) -> dict[str, Any]:
    """Run NVE in a process of its own."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from ase.md.verlet import VelocityVerlet

    import kernelpot as kp

    train = mlearn("Si", "train")
    train = train[::10] if quick else train
    model = kp.SparseGP(kp.SOAP(cutoff=5.0, n_max=8, l_max=6), n_inducing=50 if quick else 500).fit(train)
    atoms = silicon(2)
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * TEMPERATURE, rng=rng)
    atoms.calc = kp.Calculator(model)
    step, (equilibration, steps) = STEP * units.fs, (10, 40) if quick else (EQUILIBRATION, 5000)
    Langevin(atoms, step, temperature_K=TEMPERATURE, friction=0.02 / units.fs, rng=rng).run(equilibration)
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, step)
    energies, temperatures = [], []
    with Stopwatch() as watch:
        for _ in range(steps):
            dynamics.run(1)
            energies.append(atoms.get_total_energy())
            temperatures.append(atoms.get_temperature())
    total = 1e3 * (np.array(energies) - energies[0]) / len(atoms)
    times = np.arange(steps)
    slope, intercept = np.polyfit(times, total, 1)
    tenth = max(1, steps // 10)
    return {
        "atoms": len(atoms),
        "steps": steps,
        "equilibration": equilibration,
        "n_inducing": model.n_inducing_,
        "temperature": float(np.mean(temperatures)),
        "drift": abs(float(slope)) * steps,
        "change": abs(float(total[-tenth:].mean() - total[:tenth].mean())),
        "fluctuation": float(np.std(total - slope * times - intercept)),
        "excursion": float(np.abs(total).max()),
        **watch.as_dict(),
    }

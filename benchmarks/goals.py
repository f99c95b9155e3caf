"""Errors of elastic constants and a vacancy energy after labelling what each way of choosing picks, against EMT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings

if TYPE_CHECKING:
    from ase import Atoms

ELEMENTS = ("Cu", "Al", "Ni", "Au")
POOLS = 2
SIZE = 90
BUDGETS = (5e3, 2e4)
"""Sums of N_atoms³; the whole pool costs about 2e5, the goal's own vacancy cell alone 3e4."""

N_RANDOM = 3
N_INDUCING = 300
QUANTITIES = ("C11", "C12", "C44", "E_vac")
NOISE = {"energy": 0.002, "forces": 0.1, "stress": 0.005}
SCALES = (3.0, 3.0, 3.0, 0.03)


def run(settings: Settings) -> Report:
    """Choose, label, fit, compare with EMT's own values; one row per budget and quantity."""
    report = Report()
    found = measure("benchmarks.goals:compare", threads=settings.threads, quick=settings.quick).known
    report.details = found
    for budget, arms in found["errors"].items():
        for q, name in enumerate(QUANTITIES):
            errors = {arm: np.array(values)[:, q] for arm, values in arms.items()}
            unit, factor = ("meV", 1e3) if name == "E_vac" else ("GPa", 1.0)
            rivals = {arm: factor * _rms(e) for arm, e in errors.items() if arm != "goal"}
            worst = ", ".join(f"{arm} {factor * np.abs(e).max():.3g}" for arm, e in errors.items())
            report.add(
                f"cost {float(budget):.0e}: RMS error of {name}, chosen for the goal", factor * _rms(errors["goal"]),
                unit, rivals=rivals, note=f"largest: {worst}",
            )  # fmt: skip
    for budget, ratio in found["ratios"].items():
        report.add(f"cost {float(budget):.0e}: RMS of error over predicted std, chosen for the goal", ratio)
    report.note(
        f"{', '.join(found['elements'])}; {found['pools']} pools each of {found['size']} strained, rattled and vacancy "
        f"cells of up to 16 atoms, labelled by EMT; C_ij of the crystal (clamped ions) and the energy of an unrelaxed "
        f"vacancy among 32 sites; M = {found['n_inducing']}, noise {NOISE}; equal cost Σ N_atoms³ for every arm, "
        f"{found['repeats']} random sets a pool; mean number of labels: {found['labels']}"
    )
    report.note(
        "the goal's own cells, which nothing may choose, would cost 3e4; stds leave out what inducing environments "
        "cannot see, and calibration"
    )
    return report


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def compare(*, quick: bool) -> dict[str, Any]:
    """Run every arm on every pool in a process of its own; errors in GPa and eV."""
    elements, pools, size, budgets, repeats, n_inducing = ELEMENTS, POOLS, SIZE, BUDGETS, N_RANDOM, N_INDUCING
    settings: dict[str, Any] = {"cutoff": 5.0, "n_max": 8, "l_max": 6, "sigma": 0.5}
    if quick:
        elements, pools, size, budgets, repeats, n_inducing = ("Cu",), 1, 24, (5e3,), 2, 30
        settings = {"cutoff": 4.5, "n_max": 4, "l_max": 3, "sigma": 0.6}
    errors: dict[str, dict[str, list[list[float]]]] = {f"{b:g}": {} for b in budgets}
    stds: dict[str, dict[str, list[list[float]]]] = {f"{b:g}": {} for b in budgets}
    labels: dict[str, list[int]] = {}
    for element in elements:
        crystal = equilibrium(element)
        truth = measured(crystal, crystal.repeat(2))
        for seed in range(pools):
            for arm, budget, mean, std, n in trials(crystal, size, seed, budgets, repeats, n_inducing, settings):
                errors[f"{budget:g}"].setdefault(arm, []).append((mean - truth).tolist())
                stds[f"{budget:g}"].setdefault(arm, []).append(std.tolist())
                labels.setdefault(arm, []).append(n)
    ratios = {b: _rms(np.array(errors[b]["goal"]) / np.array(stds[b]["goal"])) for b in errors}
    return {
        "errors": errors,
        "stds": stds,
        "ratios": ratios,
        "labels": ", ".join(f"{arm} {np.mean(n):.0f}" for arm, n in labels.items()),
        "elements": elements,
        "pools": pools,
        "size": size,
        "repeats": repeats,
        "n_inducing": n_inducing,
    }


def trials(
    crystal: Atoms, size: int, seed: int, budgets: Sequence[float], repeats: int, n_inducing: int, soap: dict[str, Any]
) -> Iterator[tuple[str, float, np.ndarray, np.ndarray, int]]:
    """Yield arm, budget, predicted quantities, their standard deviations and number of labels, on one pool."""
    import kernelpot as kp
    from kernelpot import goals
    from kernelpot.demo import label

    cell = crystal.repeat(2)
    pool = label(candidates(crystal, size, seed))
    model = kp.SparseGP(kp.SOAP(**soap), kp.DotProduct(zeta=2), n_inducing=n_inducing, noise=kp.Noise(**NOISE))
    space = model.prepare([*pool, *own_cells(crystal)])
    info = space.information(pool, truncate=1e-6)
    goal = (goals.elastic_constants(space, crystal) + goals.vacancy_energy(space, cell)).with_scales(SCALES)
    ways: list[tuple[str, dict[str, Any]]] = [
        ("goal", {"criterion": goal.criterion()}),
        ("IV", {"criterion": "IV"}),
        ("D", {"criterion": "D"}),
        ("k-means", {"method": "kmeans"}),
        *(("random", {"method": "random", "seed": k}) for k in range(repeats)),
    ]
    for budget in budgets:
        for arm, how in ways:
            choice = kp.design.select(info, None, budget=budget, **how)
            mean, std = goal.predict(space.fit([pool[int(k)] for k in choice.indices]))
            yield arm, budget, mean, std, len(choice)


def own_cells(crystal: Atoms) -> list[Atoms]:
    """Return the goal's own cells, which no arm may choose."""
    from kernelpot import goals

    pairs = goals.strained_pairs(crystal, 0.01, (1, 4)).values()
    return [goals.vacancy(crystal.repeat(2)), *(atoms for pair in pairs for atoms in pair)]


def equilibrium(element: str) -> Atoms:
    """Return EMT's cubic cell of zero pressure."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from scipy.optimize import brentq

    def pressure(a: float) -> float:
        atoms = bulk(element, "fcc", a=a, cubic=True)
        atoms.calc = EMT()
        return float(atoms.get_stress()[0])

    guess = bulk(element, "fcc", cubic=True).cell[0, 0]
    return bulk(element, "fcc", a=brentq(pressure, 0.95 * guess, 1.06 * guess), cubic=True)


def measured(crystal: Atoms, cell: Atoms) -> np.ndarray:
    """Return EMT's own C11, C12, C44 (GPa) and vacancy energy (eV), by the same differences as the goal."""
    from ase.calculators.emt import EMT

    from kernelpot import goals
    from kernelpot.units import GPA

    def computed(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.calc = EMT()
        return copy

    slope = {
        j: (computed(plus).get_stress() - computed(minus).get_stress()) / (0.02 * GPA)
        for j, (plus, minus) in goals.strained_pairs(crystal, 0.01, (1, 2, 4)).items()
    }
    missing, whole = computed(goals.vacancy(cell)), computed(cell)
    vacancy = missing.get_potential_energy() - len(missing) / len(whole) * whole.get_potential_energy()
    return np.array([slope[1][0], slope[2][0], slope[4][3], vacancy])


def candidates(crystal: Atoms, n: int, seed: int) -> list[Atoms]:
    """Strained, rattled and vacancy cells of 3 to 16 atoms; their own size of strain and rattle each."""
    rng = np.random.default_rng([seed, 31])
    made = []
    for k in range(n):
        size = ((1, 1, 1), (2, 1, 1), (2, 2, 1))[int(rng.integers(3))]
        atoms = crystal.repeat(size)
        if k % 3 == 0:
            strain = rng.uniform(-0.05, 0.05, (3, 3))
            atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        elif k % 3 == 1:
            del atoms[int(rng.integers(len(atoms)))]
        atoms.positions += rng.normal(scale=rng.uniform(0.01, 0.2), size=atoms.positions.shape)
        made.append(atoms)
    return made

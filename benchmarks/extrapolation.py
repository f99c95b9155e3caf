"""What extrapolation grades flag: groups of mlearn Si left out of the fit, and stretched bonds of ethanol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data, mlearn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

STRETCHES = (1.0, 1.05, 1.1, 1.2, 1.5)
"""Lengths of a bond over its largest in the training set."""


def run(settings: Settings) -> Report:
    """Leave groups out, stretch bonds, report."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    data("rmd17/ethanol_train.xyz.xz")
    found = measure("benchmarks.extrapolation:flags", threads=settings.threads, quick=settings.quick).known
    report.details = found
    for name, group in found["groups"].items():
        for what in ("beyond 1", "beyond 2", "Spearman with the force error"):
            ours, *rest = (group[kind][what] for kind in KINDS)
            report.add(f"Si, {name}: {what}", ours, rivals=dict(zip(KINDS[1:], rest, strict=True)))
        for low, high in BINS:
            report.add(f"Si, {name}: force RMSE, grade {low} to {high}", group["errors"][f"{low}"], "meV/Å")
        report.add(f"Si, {name}: committee of 20 over forces_std", group["committee"])
        report.add(f"Si, {name}: the same without the residual", group["committee_seen"])
        for what, value in group["differences"].items():
            report.add(f"Si, {name}: rms z of energy differences, {what}", value)
    for bond, table in found["bonds"].items():
        for stretch in STRETCHES:
            ours, *rest = (table[kind][f"{stretch}"] for kind in KINDS)
            report.add(
                f"ethanol, {bond} at {stretch} of its largest", ours, rivals=dict(zip(KINDS[1:], rest, strict=True))
            )
    report.note(
        f"Si: M = {found['n_inducing']}, fixed noises; grades relative to the training set's 99th percentile (ours: "
        "each environment left out in turn); errors are lengths of force errors"
    )
    return report


KINDS = ("grade", "local std", "MaxVol")
BINS = ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, np.inf))


def flags(*, quick: bool) -> dict[str, Any]:
    """Fit, grade and compare, in a process of its own."""
    import kernelpot as kp

    structures = mlearn("Si", "train")[:: 5 if quick else 1]
    size = 40 if quick else 300
    soap = kp.SOAP(cutoff=5.0, n_max=8, l_max=6, sigma=0.5)
    spec = kp.SparseGP(soap, n_inducing=size, noise=kp.Noise(energy=0.003, forces=0.1))
    kinds = np.array([atoms.info["config_type"] for atoms in structures])
    away = {f"{kind} left out": kinds == kind for kind in sorted(set(kinds))}
    every_fifth = np.arange(len(kinds)) % 5 == 0
    groups = {}
    for name, out in ({"every fifth frame left out": every_fifth} | away).items():
        train, test = ([structures[k] for k in np.flatnonzero(chosen)] for chosen in (~out, out))
        groups[name] = left_out(spec.fit(train), train, test)
    ethanol = kp.read(data("rmd17/ethanol_train.xyz.xz"), verbose=False)[: 20 if quick else 200]
    soap = kp.SOAP(cutoff=4.0, n_max=8, l_max=6, sigma=0.4)
    model = kp.SparseGP(soap, n_inducing=size, noise=kp.Noise(energy=0.003, forces=0.05)).fit(ethanol)
    return {"groups": groups, "bonds": stretched(model, ethanol), "n_inducing": size}


def left_out(model: SparseGP, train: Sequence[Atoms], test: Sequence[Atoms]) -> dict[str, Any]:
    """Compare grades with errors on structures of a kind that training did not see."""
    from scipy.stats import spearmanr

    prediction = model.predict(test)
    truth = np.concatenate([atoms.get_forces() for atoms in test])
    error = np.linalg.norm(np.concatenate(prediction.forces) - truth, axis=1)
    grades = {kind: grade(test) for kind, grade in graders(model, train).items()}
    result: dict[str, Any] = {
        kind: {
            "beyond 1": float(np.mean(g > 1.0)),
            "beyond 2": float(np.mean(g > 2.0)),
            "Spearman with the force error": float(spearmanr(g, error)[0]),
        }
        for kind, g in grades.items()
    }
    result["errors"] = {}
    for low, high in BINS:
        here = (grades["grade"] >= low) & (grades["grade"] < high)
        result["errors"][f"{low}"] = 1e3 * float(np.sqrt(np.mean(error[here] ** 2))) if here.any() else None
    few = test[:: max(1, len(test) // 4)]
    latent = model.calibration_["forces"] * np.concatenate(model.predict(few).latent.forces_std)
    for name, residual in (("committee", True), ("committee_seen", False)):
        draws = model.sample(20, residual=residual)
        spread = np.std([np.concatenate(draw.predict(few).forces) for draw in draws], axis=0, ddof=1)
        result[name] = float(np.sqrt(np.mean(spread**2) / np.mean(latent**2)))
    some = test[:: max(1, len(test) // 40)]
    sizes = np.array([len(atoms) for atoms in some])
    off = np.array([atoms.get_potential_energy() for atoms in some]) - model.predict(some, uncertainty=False).energy
    covariance = model.energy_covariance(some)
    i, j = np.triu_indices(len(some), 1)
    i, j = i[sizes[i] == sizes[j]], j[sizes[i] == sizes[j]]
    alone = np.diag(covariance)
    squared = (off[i] - off[j]) ** 2
    result["differences"] = {}
    if len(i):
        result["differences"] = {
            "with covariance": float(np.sqrt(np.mean(squared / (alone[i] + alone[j] - 2 * covariance[i, j])))),
            "as if independent": float(np.sqrt(np.mean(squared / (alone[i] + alone[j])))),
        }
    return result


def graders(model: SparseGP, train: Sequence[Atoms]) -> dict[str, Callable[[Sequence[Atoms]], np.ndarray]]:
    """Return our grade and its rivals, each with 1 at the 99th percentile of the training set."""
    from kernelpot.data.batch import Batch
    from kernelpot.features.feature_map import dense_local_values
    from kernelpot.linalg.volumes import square

    features = model.fitted_.features

    def local(structures: Sequence[Atoms]) -> tuple[np.ndarray, ...]:
        parts = []
        for atoms in structures:
            batch = Batch.from_structures([atoms], model.cutoff_)
            described = features.describe(batch)
            phi = features.whiten(dense_local_values(features, described))
            parts.append((phi, described.species, model.local_energy_std(batch)))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    phi, species, std = local(train)
    active = {}
    for a in np.unique(species):
        own = phi[species == a]
        columns = np.flatnonzero(own.any(axis=0))
        own = own[:, columns]
        active[a] = columns, np.linalg.inv(own[square(own)])

    def maxvol(phi: np.ndarray, species: np.ndarray) -> np.ndarray:
        # Podryabinkin and Shapeev (2017): the largest coefficient over the active set.
        result = np.empty(len(phi))
        for a, (columns, inverse) in active.items():
            result[species == a] = np.abs(phi[species == a][:, columns] @ inverse).max(axis=1, initial=0.0)
        return result

    def relative(values: np.ndarray, species: np.ndarray, training: np.ndarray, of: np.ndarray) -> np.ndarray:
        edge = {a: np.quantile(training[of == a], 0.99) for a in np.unique(of)}
        return values / np.array([edge[a] for a in species])

    own_maxvol = maxvol(phi, species)

    def by_std(structures: Sequence[Atoms]) -> np.ndarray:
        _, a, values = local(structures)
        return relative(values, a, std, species)

    def by_maxvol(structures: Sequence[Atoms]) -> np.ndarray:
        p, a, _ = local(structures)
        return relative(maxvol(p, a), a, own_maxvol, species)

    def ours(structures: Sequence[Atoms]) -> np.ndarray:
        return np.concatenate([model.extrapolation(Batch.from_structures([a], model.cutoff_)) for a in structures])

    return dict(zip(KINDS, (ours, by_std, by_maxvol), strict=True))


def stretched(model: SparseGP, train: Sequence[Atoms]) -> dict[str, Any]:
    """Stretch one bond of each kind beyond its largest length in the training set; the largest grade of any atom."""
    atoms = train[0]
    symbols, distance = np.array(atoms.get_chemical_symbols()), atoms.get_all_distances()
    oxygen = int(np.flatnonzero(symbols == "O")[0])
    carbons = sorted(np.flatnonzero(symbols == "C").tolist(), key=lambda c: distance[oxygen, c])
    hydrogen = min(np.flatnonzero(symbols == "H").tolist(), key=lambda h: distance[oxygen, h])
    other = min(np.flatnonzero(symbols == "H").tolist(), key=lambda h: distance[carbons[1], h])
    bonds = {"O-H": (oxygen, hydrogen), "C-H": (carbons[1], other), "C-O": (carbons[0], oxygen), "C-C": tuple(carbons)}
    grade = graders(model, train)
    result: dict[str, Any] = {}
    for name, (i, j) in bonds.items():
        longest = max(frame.get_distance(i, j) for frame in train)
        # What hangs on j moves with it.
        moving = [j] + [k for k in range(len(atoms)) if k not in (i, j) and distance[k, j] < distance[k, i]]
        moving = [j] if symbols[j] == "H" else moving
        result[name] = {kind: {} for kind in KINDS}
        for stretch in STRETCHES:
            other_atoms = atoms.copy()
            bond = atoms.positions[j] - atoms.positions[i]
            other_atoms.positions[moving] += bond * (stretch * longest / distance[i, j] - 1.0)
            for kind, of in grade.items():
                result[name][kind][f"{stretch}"] = float(of([other_atoms]).max())
    return result

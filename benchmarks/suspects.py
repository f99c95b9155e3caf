"""Labels spoiled on purpose: how many the check finds, how many it names wrongly, and what a fit makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings
from benchmarks.label_sets import SETS, read, split

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.descriptors.soap.definition import SOAP

NAMES = ("Si", "Ge", "Ni", "AgPd", "acac", "Ta")
SHARES = (0.01, 0.02, 0.05, 0.1)
HARTREE, BOHR = 27.211386, 0.529177
CHANGED = 3.0
"""Test errors (MAE) of a clean fit by which a label must differ from the right one to count as wrong."""

WORSE = 1.1
"""Test error, over that of the clean fit, from which a fault is worth finding."""


def run(settings: Settings) -> Report:
    """Spoil each set in eight ways, look, fit, report."""
    report = Report()
    report.details = {}
    for name in NAMES[3:5] if settings.quick else NAMES:
        found = measure(
            "benchmarks.suspects:judged", threads=settings.threads, timeout=4 * 3600, name=name, quick=settings.quick
        ).known
        report.details[name] = found
        report.add(f"{name}: structures named on the clean set", found["clean"]["named"], f"of {found['n']}")
        for way, rows in found["ways"].items():
            for share, row in rows.items():
                report.add(
                    f"{name}, {way}, {share}: found", row["found"], f"of {row['spoiled']}",
                    rivals={"named wrongly": row["wrong"]}
                    | {f"{kind}, {how} / clean": row[how][kind] / found["clean"][kind]
                       for how in ("warn", "drop") if how in row for kind in ("energy", "forces")},
                )  # fmt: skip
        worth = [
            row for rows in found["ways"].values() for row in rows.values()
            if max(row["warn"][kind] / found["clean"][kind] for kind in ("energy", "forces")) > WORSE
        ]  # fmt: skip
        hits, spoilt = (sum(row[what] for row in worth) for what in ("found", "spoiled"))
        report.add(f"{name}: found where the fault costs more than a tenth", 100 * hits / max(spoilt, 1), "%")
    report.note("M = 300, SOAP 6/4, noises by cross-validation; MAE on structures that no fit saw")
    return report


def loaded(name: str, *, quick: bool) -> tuple[list[Atoms], list[Atoms], SOAP]:
    """Return training and test structures, and the descriptor."""
    import kernelpot as kp

    known = SETS[name]
    if known.published:
        train, test = read(known.files), read(known.published)
        if len(train) > known.at_most:
            train = [train[k] for k in np.sort(np.random.default_rng(0).permutation(len(train))[: known.at_most])]
    else:
        parts = split(known, 0)
        train, test = parts.structures[: parts.n_pool], parts.structures[parts.n_pool :]
    soap = kp.SOAP(cutoff=known.cutoff, n_max=6, l_max=4)
    return (train[:60], test[:20], soap) if quick else (train, test, soap)


def spoiled(structures: list[Atoms], way: str, share: float, usual: float) -> tuple[list[Atoms], np.ndarray]:
    """Return copies of labelled structures, some with wrong labels, and which; `usual` is a fit's force error."""
    every = [_copy(atoms) for atoms in structures]
    rng, n = np.random.default_rng([7, list(WAYS).index(way)]), len(every)
    bad = rng.permutation(n)[: max(1, round(share * n))]
    sizes = np.array([len(atoms) for atoms in every])
    rms = float(np.sqrt(np.mean(np.concatenate([atoms.get_forces().ravel() for atoms in structures]) ** 2)))
    if way == "copy":
        for k in bad:
            other = _copy(structures[k])
            other.calc.results["energy"] += 0.1 * rng.choice([-1, 1]) * len(other)
            other.calc.results["forces"] += rms * rng.normal(size=(len(other), 3))
            every.append(other)
        return every, np.arange(n, n + len(bad))
    if way == "swapped":
        partners = {int(k): int(rng.choice(same)) for k in bad
                    if len(same := np.setdiff1d(np.flatnonzero(sizes == sizes[k]), bad))}  # fmt: skip
        for k, other in partners.items():
            mine, theirs = every[k].calc.results, every[other].calc.results
            every[k].calc.results, every[other].calc.results = theirs, mine
        return every, np.unique([*partners, *partners.values()])
    for k in bad:
        results = every[k].calc.results
        same = np.setdiff1d(np.flatnonzero(sizes == sizes[k]), [k])
        spoil = WAYS[way]
        assert spoil is not None
        spoil(results, Given(rng, rms, usual, structures[int(rng.choice(same))] if len(same) else structures[k]))
    return every, np.sort(bad)


@dataclass(frozen=True)
class Given:
    """What ways to spoil labels know: usual force, usual error of a force, eV/Å; another structure."""

    rng: np.random.Generator
    rms: float
    usual: float
    other: Atoms


def _unit(results: dict[str, Any], _: Given) -> None:
    results["energy"] /= HARTREE
    results["forces"] /= HARTREE / BOHR


def _sign(results: dict[str, Any], _: Given) -> None:
    results["forces"] *= -1


def _one_atom(results: dict[str, Any], given: Given) -> None:
    along = given.rng.normal(size=3)
    results["forces"][given.rng.integers(len(results["forces"]))] += (
        max(1.0, 5 * given.rms) * along / np.linalg.norm(along)
    )


def _shift(results: dict[str, Any], _: Given) -> None:
    results["energy"] += 0.2 * len(results["forces"])


def _noise(results: dict[str, Any], given: Given) -> None:
    results["energy"] += 0.05 * given.rng.normal() * len(results["forces"])
    results["forces"] += 20 * given.usual * given.rng.normal(size=results["forces"].shape)


def _other(results: dict[str, Any], given: Given) -> None:
    results["forces"] = given.other.get_forces().copy()


WAYS = {"unit": _unit, "sign of forces": _sign, "one atom": _one_atom, "swapped": None, "shift": _shift,
        "noise × 20": _noise, "copy": None, "forces of another": _other}  # fmt: skip
"""Ways to spoil labels: energy and forces in Hartree and Bohr; forces of the wrong sign; one atom's force off by five
times the usual; labels of two structures exchanged; 0.2 eV/atom added; forces with twenty times a fit's error, energies
with 50 meV/atom; the geometry once more with another label; forces of another structure."""


def _copy(atoms: Atoms) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    other, results = atoms.copy(), atoms.calc.results
    forces = np.array(results["forces"])
    other.calc = SinglePointCalculator(other, energy=float(results["energy"]), forces=forces)
    return other


def _differs(one: Atoms, other: Atoms, usual: dict[str, float]) -> bool:
    """Say whether a label was changed by more than a few errors of a clean fit: zeros have no sign."""
    energy = abs(one.get_potential_energy() - other.get_potential_energy()) / len(one)
    forces = float(np.sqrt(np.mean((one.get_forces() - other.get_forces()) ** 2)))
    return energy > CHANGED * usual["energy"] or forces > CHANGED * usual["forces"]


def judged(name: str, *, quick: bool) -> dict[str, Any]:
    """Spoil one set in every way, and look for it; fit with what is wrong and without what was named."""
    import warnings

    import kernelpot as kp

    train, test, soap = loaded(name, quick=quick)
    train = [_copy(atoms) for atoms in train]

    def fitted(structures: list[Atoms], how: str) -> tuple[Any, dict[str, float]]:
        model = kp.SparseGP(soap, n_inducing=300, noise="cv")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(structures, suspects=how)
        overall = kp.evaluate(model, test).as_dict()["overall"]
        return model.suspects_, {kind: overall[kind]["mae"] for kind in ("energy", "forces")}

    check, clean = fitted(train, "warn")
    usual = float(np.nanmedian(check.errors["forces"]))
    found: dict[str, Any] = {"n": len(train), "clean": clean | {"named": len(check.structures)}, "ways": {}}
    groups = {}
    for way in WAYS:
        found["ways"][way] = {}
        for share in (0.1,) if quick else SHARES:
            every, bad = spoiled(train, way, share, usual)
            check, errors = fitted(every, "warn")
            named = set(check.structures)
            right = {k for k in bad.tolist() if way == "copy" or _differs(every[k], train[k], clean)}
            idle = set(bad.tolist()) - right
            if way == "copy":
                # Either of the two tells.
                rng = np.random.default_rng([7, list(WAYS).index(way)])
                first = rng.permutation(len(train))[: len(bad)].tolist()
                groups = dict(zip(bad.tolist(), first, strict=True))
                hits = sum(k in named or groups[k] in named for k in right)
                wrong = len(named - right - set(first))
            else:
                hits, wrong = len(named & right), len(named - right - idle)
            row: dict[str, Any] = {"found": hits, "spoiled": len(right), "wrong": wrong, "warn": errors}
            if named:
                row["drop"] = fitted(every, "drop")[1]
            found["ways"][way][f"{share:.0%}"] = row
            print(name, way, f"{share:.0%}", row, flush=True)
    return found

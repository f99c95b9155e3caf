"""Label efficiency: held-out errors after 5 … 80 labels chosen by every criterion and every rival."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.harness import Report, Settings
from benchmarks.label_arms import DEFAULT, RANDOM, TRUNCATION, arms
from benchmarks.label_report import GOAL, KINDS, SIMPLE, Splits, means, needed, spread, with_mode
from benchmarks.label_rows import NOISE, load
from benchmarks.label_runs import FIXED, OWN, Runs
from benchmarks.label_sets import PUBLISHED, SETS, read

VARIABLE = "KERNELPOT_LABELS"
"""Environment variable that names the folder where rows and results are kept, so that a run can go on."""

SIZES = {FIXED: (5, 10, 20, 40, 80), OWN: (10, 20, 40)}
SPLITS = 5
OWN_SPLITS = 2
OWN_SEEDS = {DEFAULT: 1, "IV": 1, RANDOM: 2, "kmeans": 1, "fps": 1, "stratified": 1}
WITHIN = {"forces": 1.03, "energy": 1.10}
"""How far above the best simple rival the default may lie."""

LIMITS = {"forces": 20.0, "energy": 16.0}
"""Labels after which the default should have the error of `GOAL` random ones."""


def folder() -> Path:
    """Where rows and results are kept."""
    return Path(os.environ.get(VARIABLE) or Path(tempfile.gettempdir()) / "kernelpot-labels")


def run(settings: Settings, *, name: str) -> Report:
    """Choose, fit and score on every split of one set."""
    known, splits, sizes = SETS[name], [*range(SPLITS)], SIZES
    if known.published:
        splits.append(PUBLISHED)
    if settings.quick:
        known = replace(known, at_most=60, n_max=4, l_max=3, n_inducing=40)
        splits, sizes = [0, 1], {FIXED: (4, 8), OWN: (8,)}
    read(known.files)
    place = folder()
    key = hashlib.sha256(json.dumps([asdict(known), TRUNCATION]).encode()).hexdigest()[:8]
    found: dict[str, dict[str, object]] = {}
    for number in splits:
        rows = load(name, number, place / "rows", known)
        ways = arms(rows.n_atoms[: rows.n_pool])
        if settings.quick:
            ways = {way: replace(arm, seeds=min(arm.seeds, 2)) for way, arm in ways.items()}
        runs = Runs(place / "results" / f"{name}-{number}-{key}.json")
        own = OWN_SEEDS if number < OWN_SPLITS else {}  # the published split is numbered below all
        runs.add(rows, ways, sizes, own)
        found[str(number)] = {way: runs.known[way] for way in ways}
    report = Report(details={name: found})
    _rows(report, {k: v for k, v in found.items() if int(k) >= 0}, judged=not settings.quick)
    report.note(
        f"{len(splits)} splits; {rows.n_pool} in the pool and {len(rows.n_atoms) - rows.n_pool} held out in the last; "
        f"{rows.d - rows.n_e0} weights; noise {NOISE}, amplitude 1 eV; blocks truncated at {TRUNCATION:g} for "
        f"choosing, whole for fitting; own hyper-parameters on {OWN_SPLITS} splits; rows kept in {place}"
    )
    return report


def _rows(report: Report, splits: Splits, *, judged: bool) -> None:
    """Rows of the table: labels that are needed, then errors beside every rival."""
    for mode in (FIXED, OWN):
        some = with_mode(splits, mode)
        there = [way for way in next(iter(some.values())) if mode in next(iter(some.values()))[way][0]]
        for kind in KINDS:
            counts = {way: needed(some, way, kind, mode=mode) for way in there if way not in (DEFAULT, RANDOM)}
            report.add(
                f"{mode}, {kind}: labels for the error of {GOAL} random ones",
                _finite(needed(some, DEFAULT, kind, mode=mode)), "labels",
                rivals={way: n for way, n in counts.items() if np.isfinite(n)},
                target=LIMITS[kind] if judged else None,
                note=", ".join(f"{way} never" for way, n in counts.items() if not np.isfinite(n)),
            )  # fmt: skip
        for n in SIZES[OWN]:
            for kind, unit in KINDS.items():
                errors = {way: 1e3 * means(some, way, kind, mode=mode).get(n, np.nan) for way in there}
                if not np.isfinite(errors[DEFAULT]):
                    continue
                simple = min(errors[way] for way in SIMPLE if way in errors)
                rest = {way: e for way, e in errors.items() if way != DEFAULT and np.isfinite(e)}
                worst = 1e3 * max(spread(some, RANDOM, n, kind, mode=mode))
                report.add(
                    f"{mode}, {n} labels, {kind}: RMSE", errors[DEFAULT], unit, rivals=rest,
                    target=WITHIN[kind] * simple if judged else None, note=f"worst random {worst:.3g}",
                )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

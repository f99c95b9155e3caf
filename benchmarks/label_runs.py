"""Choices and errors of every arm on one split, kept on disk so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.label_arms import Arm, choices, information
from benchmarks.label_noise import found_ratio
from benchmarks.label_rows import KINDS, NOISE, Rows

FIXED, OWN = "fixed", "own"
"""Hyper-parameters: the given ones, or those found on the arm's own labels."""


def errors(rows: Rows, chosen: Sequence[int], mode: str) -> dict[str, Any]:
    """Fit some structures and score the held-out ones: eV/atom and eV/Å.

    Parameters
    ----------
    rows
        Rows of the split.
    chosen
        Labelled structures of the pool.
    mode
        `FIXED` or `OWN`.
    """
    ratio = NOISE if mode == FIXED else found_ratio(rows, chosen)
    found = rows.errors(*rows.fit(chosen, ratio))
    return {**found, "ratio": {kind: float(ratio[kind]) for kind in KINDS}}


class Runs:
    """Results of one split in a JSON file.

    Parameters
    ----------
    path
        The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def keep(self) -> None:
        """Write what is known, so that a file is always whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".part")
        fresh.write_text(json.dumps(self.known), encoding="utf-8")
        fresh.replace(self.path)

    def add(
        self,
        rows: Rows,
        arms: Mapping[str, Arm],
        sizes: Mapping[str, tuple[int, ...]],
        own: Mapping[str, int],
    ) -> None:
        """Run what is not known yet.

        Parameters
        ----------
        rows
            Rows of the split.
        arms
            Ways of choosing by name.
        sizes
            Numbers of labels for each of `FIXED` and `OWN`.
        own
            How many seeds of an arm also have their own hyper-parameters; none where not named.
        """
        info = None
        for name, arm in arms.items():
            runs = self.known.setdefault(name, [])
            for seed in range(arm.seeds):
                if seed == len(runs):
                    runs.append({"chosen": {}, "atoms": {}, "cubed": {}})
                missing = tuple(n for n in sizes[FIXED] if n <= arm.most and str(n) not in runs[seed]["chosen"])
                missing = tuple(n for n in missing if n <= rows.n_distinct)
                if missing:
                    info = information(rows) if info is None else info
                    _keep(runs[seed], rows, choices(arm, info, missing, seed))
                for mode in (FIXED, OWN) if seed < own.get(name, 0) else (FIXED,):
                    wanted = [n for n in sizes[mode] if str(n) in runs[seed]["chosen"]]
                    scores = runs[seed].setdefault(mode, {})
                    for n in wanted:
                        if str(n) not in scores:
                            scores[str(n)] = errors(rows, runs[seed]["chosen"][str(n)], mode)
            self.keep()


def _keep(run: dict[str, Any], rows: Rows, found: Mapping[int, Sequence[int]]) -> None:
    """Store choices with what they cost: atoms, and atoms cubed."""
    size = rows.n_atoms.astype(float)
    for n, picks in found.items():
        run["chosen"][str(n)] = [int(k) for k in picks]
        run["atoms"][str(n)] = float(size[list(picks)].sum())
        run["cubed"][str(n)] = float((size[list(picks)] ** 3).sum())


def typical(runs: Mapping[str, Any], arm: str, n: int, kind: str, *, mode: str = FIXED, figure: str = "rmse") -> float:
    """Mean of a figure over an arm's seeds in one split; NaN where none was run."""
    found = [run[mode][str(n)][kind][figure] for run in runs.get(arm, []) if str(n) in run.get(mode, {})]
    return float(np.mean(found)) if found else float("nan")


def reached(sizes: Sequence[float], values: Sequence[float], goal: float) -> float:
    """Labels (or cost) at which a falling curve first meets a goal, log-linear between points.

    Infinite where it never does; the first size where it starts below.

    Parameters
    ----------
    sizes
        Labels or costs, rising.
    values
        Errors.
    goal
        Error to reach.
    """
    for k, value in enumerate(values):
        if value <= goal:
            if k == 0:
                return float(sizes[0])
            before = np.log([values[k - 1], sizes[k - 1]])
            after = np.log([value, sizes[k]])
            share = (before[0] - np.log(goal)) / max(before[0] - after[0], 1e-12)
            return float(np.exp(before[1] + share * (after[1] - before[1])))
    return float("inf")

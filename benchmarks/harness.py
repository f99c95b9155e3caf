"""Rows of results, with the clocks that fill them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

REFERENCE_GEMM = 45.0
"""GFLOP/s per core of the machine that timed targets are stated for."""


@dataclass(frozen=True)
class Settings:
    """How a run was asked for.

    Attributes
    ----------
    threads
        Threads of each measurement, unless a case is about more.
    quick
        Small sizes, for a test of the benchmarks themselves; nothing is judged.
    full
        Also rivals that take minutes.
    """

    threads: int = 1
    quick: bool = False
    full: bool = False


@dataclass(frozen=True)
class Row:
    """One figure of ours beside those of rivals; smaller is better.

    Attributes
    ----------
    what
        Name of the figure.
    ours
        None where it could not be had; `note` says why.
    unit
        Of every number in the row.
    rivals
        Figure of each rival by name, the one to compare with first.
    target
        Largest value that meets the goal.
    note
        Anything a reader must know.
    """

    what: str
    ours: float | None
    unit: str = ""
    rivals: Mapping[str, float] = field(default_factory=dict)
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the first rival's; below 1 where ours is better."""
        first = next(iter(self.rivals.values()), None)
        return None if self.ours is None or not first else self.ours / first

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is nothing to judge."""
        return None if self.ours is None or self.target is None else bool(self.ours <= self.target)


@dataclass
class Report:
    """What a case found.

    Attributes
    ----------
    rows
        In the order of printing.
    details
        JSON values that the table has no room for.
    notes
        Sentences under the table: settings, and what was skipped, with the reason.
    """

    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, ours: float | None, unit: str = "", **more: Any) -> None:
        """Append a row."""
        self.rows.append(Row(what, None if ours is None else float(ours), unit, **more))

    def note(self, sentence: str) -> None:
        """Append a sentence."""
        self.notes.append(sentence)

    def as_dict(self, *, judged: bool = True) -> dict[str, Any]:
        """Return everything as JSON values; targets are left out of what is not judged."""
        rows = []
        for row in self.rows:
            plain = {**asdict(row), "ratio": row.ratio, "met": row.met}
            rows.append(plain if judged else {**plain, "target": None, "met": None})
        return {"rows": rows, "notes": self.notes, "details": self.details}


HEAD = ("what", "ours", "unit", "rival", "ours/rival", "target", "met", "others, notes")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Turn a row's JSON values into the texts of a table."""
    rivals = list(row["rivals"].items())
    others = [f"{name} {short(value)}" for name, value in rivals[1:]]
    return (
        row["what"],
        short(row["ours"]),
        row["unit"],
        f"{rivals[0][0]} {short(rivals[0][1])}" if rivals else "",
        "" if row["ratio"] is None else short(row["ratio"]),
        "" if row["target"] is None else f"≤ {short(row['target'])}",
        {None: "", True: "yes", False: "NO"}[row["met"]],
        "; ".join([*([", ".join(others)] if others else []), *([row["note"]] if row["note"] else [])]),
    )


def short(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return "–"
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{min(digits, 6)}f}"


def table(rows: list[Mapping[str, Any]]) -> str:
    """Lay out rows for a terminal."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEAD) - 1)]
    right = {1, 4, 5}

    def text(line: tuple[str, ...]) -> str:
        padded = [f"{cell:>{w}}" if k in right else f"{cell:<{w}}" for k, (cell, w) in enumerate(zip(line, widths))]  # noqa: B905
        return "  ".join([*padded, line[-1]]).rstrip()

    return "\n".join(text(line) for line in lines)


def cpu_median(call: Callable[[T], object], prepare: Callable[[int], T], *, repeats: int) -> float:
    """Median CPU time of ``call(prepare(k))`` over repeats, s; one call before them is not counted.

    CPU time of all threads, so that a busy machine changes little and threads do not hide work.
    """
    times = []
    call(prepare(0))
    for k in range(repeats):
        argument = prepare(k + 1)
        start = time.process_time()
        call(argument)
        times.append(time.process_time() - start)
    return float(np.median(times))


def gemm_rate(n: int = 1024, repeats: int = 7) -> float:
    """Measure matrix multiplication in float64: GFLOP per second of CPU time, which is the rate of one core."""
    a = np.random.default_rng(0).random((n, n))
    b = a.T.copy()
    return 2e-9 * n**3 / cpu_median(lambda _: a @ b, lambda _: None, repeats=repeats)

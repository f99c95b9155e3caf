"""Selection of plain regression rows: beside R's AlgDesign, pivoted QR, plain greedy and scikit-matter."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.published import ALGDESIGN, ROWS
from benchmarks.systems import data

PRIOR = 1e-6
LARGE = ((10_000, 300), (10_000, 500), (100_000, 300), (100_000, 500))
MORE = ((500, 20, 40), (1000, 30, 45), (300, 12, 30), (2000, 80, 120), (1500, 40, 200))
"""Candidates, columns and size of the cases beside R's AlgDesign that are not in the shared file."""


def run(settings: Settings) -> Report:
    """Small cases against AlgDesign, large ones against pivoted QR and greedy, then the certificate."""
    report = Report()
    data("design/make.py")
    if not settings.quick:  # fills the cache of compiled code on disk, so that times are those of the work
        measure("benchmarks.rows:ours", threads=settings.threads, n=200, d=5, k=8, criterion="D", source="normal")
    _small(report, settings)
    _large(report, settings)
    if not _has_algdesign():
        report.note("AlgDesign is not installed: its figures are published ones, and five more cases were not compared")
    report.note(f"large cases: log det of the information + {PRIOR:g} I; seeds fixed; {settings.threads} thread(s)")
    return report


def _small(report: Report, settings: Settings) -> None:
    """2,000 x 50 choose 100, and the cases beside R where it is there."""
    cases: list[tuple[str, int, int, int]] = [("gaussian", 2000, 50, 100)]
    cases += [("normal", *case) for case in MORE]
    for source, n, d, k in cases[:1] if settings.quick else cases:
        for criterion in ("D", "A"):
            arguments = {"n": n, "d": d, "k": k, "criterion": criterion, "source": source}
            found = measure("benchmarks.rows:ours", threads=settings.threads, **arguments).known
            there = measure("benchmarks.rows:algdesign", **arguments).value if _has_algdesign() else None
            published = ALGDESIGN[criterion] if source == "gaussian" else None
            if there is None and published is None and source != "gaussian":
                continue
            rival = there or published
            target = None
            if source == "gaussian":
                target = {"D": -238.345, "A": 0.5042}[criterion]
            name = "-log det" if criterion == "D" else "A trace"
            what = f"{n} × {d} choose {k}, {criterion}"
            full = f"in full {found['value']:.4f}"
            report.add(
                f"{what}: {name}", found["value"], rivals={"AlgDesign": rival["value"]}, target=target, note=full
            )
            report.add(
                f"{what}: CPU time", found["cpu_s"], "s", rivals={"AlgDesign": rival["cpu_s"]}, target=rival["cpu_s"]
            )


def _large(report: Report, settings: Settings) -> None:
    """Compare on the four cases of clustered rows."""
    for n, k in LARGE[:1] if settings.quick else LARGE:
        methods = ["greedy"] if settings.quick else ["greedy", "exchange"]
        others = _rivals(n, k, settings)
        for method in methods:
            arguments = {"n": n, "k": k, "method": method}
            outcome = measure("benchmarks.rows:clustered", threads=settings.threads, **arguments)
            found = outcome.known
            values = {name: one["value"] for name, one in others.items()}
            times = {name: one["cpu_s"] for name, one in others.items()}
            best = min(values.values())
            target = best + 1e-3 if method == "exchange" else None
            full = f"in full {found['value']:.4f}"
            report.add(f"{n} choose {k}, {method}: -log det", found["value"], rivals=values, target=target, note=full)
            limit = 8.0 if (n, k, method) == (100_000, 500, "greedy") else None
            note = f"peak {outcome.peak:.0f} MiB"
            report.add(
                f"{n} choose {k}, {method}: CPU time", found["cpu_s"], "s", rivals=times, target=limit, note=note
            )
            if (n, k, method) == (10_000, 500, "exchange"):
                for prior in (PRIOR, 1.0):
                    shown = measure("benchmarks.rows:certified", threads=settings.threads, n=n, k=k, prior=prior).known
                    report.add(
                        f"{n} choose {k}, Λ = XᵀX + {prior:g} I: 1 - certified D efficiency",
                        1.0 - shown["efficiency"],
                        target=0.03,
                        note=f"fractional optimum {shown['relaxed']:.2f}, choice {shown['value']:.2f}, "
                        f"relaxation gap {shown['gap']:.1e}",
                    )  # fmt: skip


def _rivals(n: int, k: int, settings: Settings) -> dict[str, dict[str, float]]:
    """Pivoted QR and plain greedy in this run where they exist; the rest from the table of targets."""
    found: dict[str, dict[str, float]] = {}
    for name in ("pivoted_qr", "plain_greedy"):
        if name == "pivoted_qr" and k > 300:
            continue
        found[name.replace("_", " ")] = measure(f"benchmarks.rows:{name}", threads=settings.threads, n=n, k=k).known
    if importlib.util.find_spec("skmatter") and not settings.quick:
        found["scikit-matter FPS"] = measure("benchmarks.rows:skmatter_fps", threads=settings.threads, n=n, k=k).known
    for name, published in ROWS.get((n, k), {}).items():
        found.setdefault(name, published)
    return found


def ours(*, n: int, d: int, k: int, criterion: str, source: str) -> dict[str, float]:
    """Exchange with its default restarts; best of one seed."""
    from kernelpot.design import Information, select

    X = _rows(source, n, d)
    with Stopwatch() as watch:
        choice = select(Information.from_rows(X, prior=PRIOR), k, criterion=criterion, method="exchange")
    return {"value": _score(X[choice.indices], criterion), "cpu_s": watch.cpu}


def clustered(*, n: int, k: int, method: str) -> dict[str, float]:
    """Choose from the clustered rows."""
    from kernelpot.design import Information, select

    X = _make().rows(n, 300)
    with Stopwatch() as watch:
        choice = select(Information.from_rows(X, prior=PRIOR), k, criterion="D", method=method)
    return {"value": _score(X[choice.indices], "D"), "cpu_s": watch.cpu}


def certified(*, n: int, k: int, prior: float) -> dict[str, float]:
    """Certify the exchange's choice."""
    from kernelpot.design import Information, certify, select

    info = Information.from_rows(_make().rows(n, 300), prior=prior)
    choice = select(info, k, criterion="D", method="exchange")
    shown = certify(info, choice)
    offset = info.d * np.log(prior)
    return {
        "efficiency": shown.efficiency, "value": shown.value + offset, "relaxed": shown.relaxed + offset,
        "gap": shown.relaxation_gap,
    }  # fmt: skip


def pivoted_qr(*, n: int, k: int) -> dict[str, float]:
    """SciPy's QR with column pivoting."""
    from scipy.linalg import qr

    X = _make().rows(n, 300)
    with Stopwatch() as watch:
        pivots = qr(X.T, mode="r", pivoting=True)[1][:k]
    return {"value": _score(X[pivots], "D"), "cpu_s": watch.cpu}


def plain_greedy(*, n: int, k: int) -> dict[str, float]:
    """Greedy with rank-one updates of all variances."""
    X = _make().rows(n, 300)
    with Stopwatch() as watch:
        C = np.eye(X.shape[1]) / PRIOR
        variance = np.einsum("ij,ij->i", X, X) / PRIOR
        chosen: list[int] = []
        for _ in range(k):
            s = int(np.argmax(variance))
            chosen.append(s)
            u = C @ X[s] / np.sqrt(1.0 + variance[s])
            C -= np.outer(u, u)
            variance -= (X @ u) ** 2
            variance[chosen] = -np.inf
    return {"value": _score(X[chosen], "D"), "cpu_s": watch.cpu}


def skmatter_fps(*, n: int, k: int) -> dict[str, float]:
    """Farthest points of scikit-matter."""
    from skmatter.sample_selection import FPS

    X = _make().rows(n, 300)
    with Stopwatch() as watch:
        chosen = FPS(n_to_select=k).fit(X).selected_idx_
    return {"value": _score(X[chosen], "D"), "cpu_s": watch.cpu}


def algdesign(*, n: int, d: int, k: int, criterion: str, source: str) -> dict[str, float]:
    """Best of three seeds of optFederov, five repeats each."""
    X = _rows(source, n, d)
    with tempfile.TemporaryDirectory() as folder:
        table, script, answer = (Path(folder) / name for name in ("x.csv", "run.R", "answer.json"))
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(X.tolist())
        script.write_text(
            f"""
            library(AlgDesign); x <- as.matrix(read.csv("{table}", header=FALSE)); best <- NULL; t <- proc.time()
            for (seed in 1:3) {{ set.seed(seed)
              r <- optFederov(~ . - 1, data=as.data.frame(x), nTrials={k}, criterion="{criterion}", nRepeats=5)
              if (is.null(best) || r${criterion} {">" if criterion == "D" else "<"} best${criterion}) best <- r }}
            t <- sum((proc.time() - t)[1:2])
            cat(sprintf('{{"rows": [%s], "cpu_s": %f}}', paste(best$rows, collapse=","), t), file="{answer}")
            """
        )
        subprocess.run(["Rscript", str(script)], check=True, capture_output=True)
        found = json.loads(answer.read_text())
    return {"value": _score(X[np.array(found["rows"]) - 1], criterion), "cpu_s": found["cpu_s"]}


def _score(rows: np.ndarray, criterion: str) -> float:
    """``-log det`` or the trace of the inverse, of ``XᵀX + 1e-6 I``, by the plain formula."""
    information = rows.T @ rows + PRIOR * np.eye(rows.shape[1])
    if criterion == "D":
        return -float(np.linalg.slogdet(information)[1])
    return float(np.trace(np.linalg.inv(information)))


def _rows(source: str, n: int, d: int) -> np.ndarray:
    rows: np.ndarray = _make().gaussian() if source == "gaussian" else np.random.default_rng(d).standard_normal((n, d))
    return rows


def _make() -> Any:
    """Import the shared file that makes candidate rows."""
    spec = importlib.util.spec_from_file_location("make", data("design/make.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _has_algdesign() -> bool:
    """Whether R and AlgDesign are there."""
    if not shutil.which("Rscript"):
        return False
    asked = subprocess.run(["Rscript", "-e", "library(AlgDesign)"], capture_output=True, check=False)
    return asked.returncode == 0

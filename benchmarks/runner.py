"""The named cases, run one after another."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import THREADS
from benchmarks.harness import Report, Settings, gemm_rate, table
from benchmarks.systems import DataAbsentError

RESULTS = Path(__file__).with_name("results")
PACKAGES = (
    "kernelpot", "numpy", "scipy", "numba", "torch", "gpytorch", "scikit-learn", "ase", "vesin", "mendeleev", "dscribe",
    "featomic", "quippy-ase", "qmllib", "sgdml", "skmatter",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A named case: ``benchmarks.<module>.run(settings, **arguments) -> Report``."""

    what: str
    module: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def run(self, settings: Settings) -> Report:
        """Import the case's module, then run it."""
        report: Report = importlib.import_module(f"benchmarks.{self.module}").run(settings, **self.arguments)
        return report


CASES = {
    **{
        f"accuracy-{element}": Case(f'test errors on mlearn {element}, noise="cv"', "accuracy", {"element": element})
        for element in ("Si", "Ge", "Li", "Ni")
    },
    **{
        f"molecules-{name}": Case(
            f"test errors on rMD17 {name}, 1,000 training molecules", "molecules", {"molecule": name}
        )
        for name in ("ethanol", "malonaldehyde", "toluene")
    },
    "force-ridge": Case("rMD17 ethanol with every force a basis function, beside sGDML and SparseGP", "force_ridge"),
    "predict": Case("time of energy, forces and standard deviations, 1000 Si atoms", "predict"),
    "gpu": Case("PyTorch on CPU and CUDA beside compiled loops: predictions, rows, a fit, precision", "gpu"),
    "descriptor": Case("time and memory of SOAP and its gradients", "descriptor"),
    "elements": Case("time, memory and errors by number of species and element channels", "elements"),
    "alloys": Case("learning curves on five metals, elements apart and coupled, beside GAP and ACE", "alloys"),
    "acsf": Case("symmetry functions: time beside DScribe, errors beside SOAP on AgPd and ethanol", "symmetry"),
    "fit": Case("time and memory of a fit, mlearn Si, M = 1000, 2 threads", "fit"),
    "design": Case("errors after choosing 10, 20 and 40 of mlearn Si by several ways", "design"),
    **{
        f"labels-{name}": Case(f"label efficiency on {name}: every criterion and rival", "labels", {"name": name})
        for name in ("Si", "Ge", "Li", "Ni", "ethanol", "acac", "AgPd", "Ta")
    },
    **{
        f"calibration-{name}": Case(
            f"coverage, log score and rank of standard deviations on {name}", "calibration", {"name": name}
        )
        for name in ("Si", "Ge", "Li", "Ni", "ethanol", "acac", "AgPd")
    },
    "forecast": Case("errors forecast from a pilot of 10 against a constant and N^(-1/2), seven sets", "forecast"),
    "goals": Case("errors of elastic constants and vacancy energies after choosing for them, EMT metals", "goals"),
    "certificates": Case("proven efficiencies of choices from mlearn Si, and what choosing costs", "certificates"),
    "rows": Case("choices of plain regression rows beside AlgDesign, pivoted QR, greedy", "rows"),
    "scale": Case("1,000 of 200,000 blocks in chunks within 4 GiB, killed and resumed; loss by distribution", "scale"),
    "baseline": Case("held-out errors with and without the repulsion of nuclei, compressed Ta first", "baseline"),
    "elpasolite": Case(
        "formation energies of elpasolites from elemental modes, and of elements never seen", "elpasolite"
    ),
    "perovskites": Case("band gaps of double perovskites, nested cross-validation", "perovskites"),
    "extrapolation": Case(
        "what extrapolation grades flag: groups of mlearn Si left out, bonds of ethanol", "extrapolation"
    ),
    "suspects": Case("labels spoiled in eight ways: found, named wrongly, and what a fit makes of them", "suspects"),
    "growth": Case("time and memory of a fit against structures and inducing environments; streams", "growth"),
    "qm7": Case("atomization energies of QM7: learning curves by kernel, chosen training sets", "qm7"),
    "exact-gp": Case("an exact Gaussian process of 7,000 molecules: time, errors, solvers; scikit-learn", "gp"),
    "classify": Case("classes of double perovskites, with answers refused, beside scikit-learn", "classify"),
    "drift": Case("energy drift of 64 Si atoms at 600 K", "drift"),
}


def matching(wanted: Sequence[str]) -> list[str]:
    """Return the cases whose names begin with one of the words asked for; all where none is asked for."""
    return [name for name in CASES if not wanted or any(name.lower().startswith(word.lower()) for word in wanted)]


def run(names: Sequence[str], *, threads: int, quick: bool, full: bool, path: Path | None) -> int:
    """Run cases, print a table for each, write all as JSON; return 1 if a case broke down."""
    settings = Settings(threads=threads, quick=quick, full=full)
    started = datetime.now(UTC)
    path = path or RESULTS / f"{started:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "started": started.isoformat(timespec="seconds"), "quick": quick, "machine": machine(), "cases": {},
    }  # fmt: skip
    print(describe(document))
    failed = []
    for name in names:
        print(f"\n{name}: {CASES[name].what}", flush=True)
        before, clock = gemm_rate(), time.perf_counter()
        try:
            report = CASES[name].run(settings)
        except DataAbsentError as absent:
            report = Report(notes=[f"skipped: {absent}"])
        except Exception:  # one broken case must not cost the figures of the others
            failed.append(name)
            report = Report(notes=[f"broke down: {traceback.format_exc(limit=-3)}"])
        seconds, after = time.perf_counter() - clock, gemm_rate()
        entry = report.as_dict(judged=not quick)
        entry |= {"what": CASES[name].what, "gemm_gflops_per_core": [before, after], "seconds": seconds}
        document["cases"][name] = entry
        if report.rows:
            print(table(entry["rows"]))
        for note in report.notes:
            print(f"  {note}")
        print(f"  GEMM {before:.1f} before, {after:.1f} GFLOP/s per core after; {seconds:.0f} s in all", flush=True)
        # After every case, so that an interrupted run keeps what it has.
        path.write_text(json.dumps(document, indent=1, default=float), encoding="utf-8")
    print(f"\nwritten: {path}")
    if failed:
        print(f"broken down: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def machine() -> dict[str, Any]:
    """Describe where and with what the figures were made."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": {name: os.environ.get(name) for name in THREADS},
        "packages": versions,
    }


def describe(document: dict[str, Any]) -> str:
    """Return two lines about a run."""
    found = document["machine"]
    threads = ", ".join(f"{name}={value}" for name, value in found["threads"].items())
    packages = ", ".join(f"{name} {v}" if v else f"{name} absent" for name, v in found["packages"].items())
    quick = "; quick: small sizes, nothing is judged" if document["quick"] else ""
    return (
        f"{document['started']} on {found['processor']}, {found['cores']} cores, {found['system']}, "
        f"Python {found['python']}; {threads}{quick}\n{packages}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

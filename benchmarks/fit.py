"""Time and memory of fitting mlearn Si."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.published import GAP_FIT
from benchmarks.systems import data, mlearn

THREADS = 2
WALL = 60.0
PEAK = 1e9 / 2**20
CPU_SHARE = 0.2
MEMORY_SHARE = 0.25


def run(settings: Settings) -> Report:
    """Fit with given noises, then by cross-validation; gap_fit beside it with --full."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    rivals, source = _rival(settings, report)
    if not settings.quick:  # fills the cache of compiled code on disk, which is no part of a fit
        measure("benchmarks.fit:ours", threads=THREADS, noise="cv", quick=True)
    for name, noise in (("given noises", "given"), ('noise="cv"', "cv")):
        outcome = measure("benchmarks.fit:ours", threads=THREADS, noise=noise, quick=settings.quick)
        found = outcome.known
        report.details[noise] = found | {"peak_mib": outcome.peak}
        judged = noise == "given"
        report.add(
            f"wall time, {name}", found["wall_s"], "s",
            rivals={"gap_fit": rivals["wall_s"]}, target=WALL if judged else None,
        )  # fmt: skip
        report.add(f"CPU time, {name}", found["cpu_s"], "s")
        report.add(
            f"peak memory, {name}", outcome.peak, "MiB",
            rivals={"gap_fit": rivals["peak_mib"]}, target=PEAK if judged else None,
            note=f"{found['before_mib']:.0f} MiB before the fit",
        )  # fmt: skip
    if "gap_fit" in report.details:
        found = measure("benchmarks.fit:ours", threads=1, noise="given", n_inducing=500, quick=settings.quick)
        report.details["equal"] = found.known | {"peak_mib": found.peak}
        report.add("M = 500 as gap_fit's: CPU time", found.known["cpu_s"], "s", rivals={"gap_fit": rivals["cpu_s"]})
        report.add(
            "the same over gap_fit's", found.known["cpu_s"] / rivals["cpu_s"], "×", target=CPU_SHARE
        )  # fmt: skip
        report.add("M = 500: peak memory over gap_fit's", found.peak / rivals["peak_mib"], "×", target=MEMORY_SHARE)
    found = report.details["given"]
    report.note(
        f"{found['n_structures']} structures, {found['n_inducing']} inducing environments, energies and forces "
        f"(cv: stresses too); {THREADS} threads; the choice of inducing environments included"
    )
    report.note(f"gap_fit: n_sparse 500, n_max 8, l_max 8, zeta 4, {source}")
    return report


def ours(*, noise: str, quick: bool, n_inducing: int = 1000) -> dict[str, Any]:
    """Fit in a process of its own."""
    import kernelpot as kp

    train = mlearn("Si", "train")
    if quick:
        train = train[::10]
    model = kp.SparseGP(
        kp.SOAP(cutoff=5.0, n_max=8, l_max=6),
        kp.DotProduct(zeta=2),
        n_inducing=50 if quick else n_inducing,
        noise="cv" if noise == "cv" else kp.Noise(energy=0.002, forces=0.1),
    )
    with Stopwatch() as watch:
        model.fit(train)
    return watch.as_dict() | {"n_structures": len(train), "n_inducing": model.n_inducing_}


def _rival(settings: Settings, report: Report) -> tuple[dict[str, float], str]:
    if settings.full and not settings.quick:
        outcome = measure("benchmarks.fit:gap_fit_whole", timeout=1800)
        if outcome.value is not None:
            report.details["gap_fit"] = outcome.value
            return outcome.value, "measured in this run on one thread"
        report.note(f"gap_fit skipped: {outcome.reason}")
    return GAP_FIT, "measured elsewhere on one core (run with --full to measure it here)"


def gap_fit_whole() -> dict[str, float]:
    """Fit the whole training set by gap_fit, at the settings of the published figure."""
    import os
    import resource

    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        write_labels(Path(folder) / "train.xyz", mlearn("Si", "train"))
        gap_fit(Path(folder), n_sparse=500, n_max=8, l_max=8, zeta=4, method="cur_points", limit_s=1700)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": watch.wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "threads": float(os.environ["OMP_NUM_THREADS"]),
    }


def write_labels(path: Path, structures: list[Any]) -> None:
    """Write energies and forces alone: gap_fit would fit stresses that it finds."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    bare = []
    for atoms in structures:
        copy = atoms.copy()
        copy.info.clear()
        copy.calc = SinglePointCalculator(copy, **{k: atoms.calc.results[k] for k in ("energy", "forces")})
        bare.append(copy)
    write(path, bare, format="extxyz")


def gap_fit(folder: Path, *, n_sparse: int, n_max: int, l_max: int, zeta: int, method: str, limit_s: float) -> Path:
    """Run gap_fit on ``folder/train.xyz``; return the potential's file.

    Raises
    ------
    ModuleNotFoundError
        There is no gap_fit.
    """
    beside = Path(sys.executable).with_name("gap_fit")
    program = str(beside) if beside.exists() else shutil.which("gap_fit")
    if program is None:
        raise ModuleNotFoundError("No program gap_fit", name="gap_fit (quippy-ase)")
    descriptor = (
        f"{{soap cutoff=5.0 cutoff_transition_width=1.0 n_max={n_max} l_max={l_max} atom_sigma=0.5 zeta={zeta} "
        f"delta=1.0 covariance_type=dot_product n_sparse={n_sparse} sparse_method={method}}}"
    )
    command = [
        program, "at_file=train.xyz", f"gap={descriptor}", "default_sigma={0.001 0.1 0.1 0.1}", "e0_method=average",
        "energy_parameter_name=energy", "force_parameter_name=forces",
        "sparse_jitter=1e-8", "do_copy_at_file=F", "sparse_separate_file=F", "gp_file=gap.xml",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=limit_s)
    potential = folder / "gap.xml"
    if done.returncode or not potential.exists():
        raise RuntimeError(f"gap_fit ended with status {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    return potential

"""An exact Gaussian process of 7,000 molecules: time, errors, Cholesky beside conjugate gradients, and scikit-learn."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data

KCAL = 23.060548
"""kcal/mol in an eV."""

FILE = "qm7/qm7_7101.xyz.xz"
TARGET = 300.0
"""Seconds within which the whole fit should end on two threads."""


def run(settings: Settings) -> Report:
    """Fit by every way, each in a process of its own."""
    report = Report()
    data(FILE)
    n, small, quick = (200, 100, True) if settings.quick else (7000, 1000, False)
    threads = settings.threads if quick else max(2, settings.threads)

    def fitted(**arguments: Any) -> dict[str, Any]:
        outcome = measure("benchmarks.gp:ours", threads=threads, quick=quick, **arguments)
        return outcome.known | {"peak_mib": outcome.peak}

    exact = fitted(n=n)
    report.add(
        f"exact GP of {n:,} molecules, hyper-parameters found: wall", exact["wall_s"], "s", target=TARGET,
        note=_sentence(exact, threads),
    )  # fmt: skip
    report.add("CPU time of it", exact["cpu_s"], "s")
    report.add(
        f"test MAE on the {exact['n_test']:,} others", exact["mae"], "kcal/mol", note=f"worst {exact['worst']:.1f}"
    )
    for name, figures in exact["places"].items():
        rivals = {"preconditioned CG": figures["cg_s"]} if figures["cg_s"] else {}
        what = f"weights of {n:,} and 100 predictions by Cholesky, {name}"
        report.add(what, figures["cholesky_s"], "s", rivals=rivals, note=figures["note"])
    few = fitted(n=n, n_inducing=50 if quick else 1000)
    report.add(f"{few['n_inducing']:,} inducing of {n:,}: wall", few["wall_s"], "s", rivals={"exact": exact["wall_s"]})
    report.add("its test MAE", few["mae"], "kcal/mol", rivals={"exact": exact["mae"]})
    ours = fitted(n=small)
    rival = measure("benchmarks.gp:sklearn", threads=threads, quick=quick, n=small)
    if rival.value is None:
        report.note(f"scikit-learn: {rival.reason}")
        rival_figures: dict[str, Any] = {}
    else:
        rival_figures = rival.value
    for what, key, unit in (("CPU time", "cpu_s", "s"), ("test MAE", "mae", "kcal/mol")):
        report.add(f"{small:,} molecules, Matérn 5/2, ARD: {what}", ours[key], unit,
                   rivals={"scikit-learn": rival_figures[key]} if rival_figures else {})  # fmt: skip
    report.details = {"exact": exact, "inducing": few, "small": ours, "sklearn": rival_figures}
    report.note("features: eigenvalues of the Coulomb matrix with the number of atoms of each element, 28 in all")
    report.note(exact["cuda"])
    return report


def features() -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues of Coulomb matrices beside compositions, and energies, eV, in a random order."""
    import kernelpot as kp

    molecules = kp.read(data(FILE), verbose=False)
    rows = []
    for atoms in molecules:
        z = atoms.numbers.astype(float)
        distance = atoms.get_all_distances()
        np.fill_diagonal(distance, 1.0)
        matrix = np.outer(z, z) / distance
        np.fill_diagonal(matrix, 0.5 * z**2.4)
        values = np.sort(np.abs(np.linalg.eigvalsh(matrix)))[::-1]
        counts = [np.sum(atoms.numbers == element) for element in (1, 6, 7, 8, 16)]
        rows.append(np.concatenate([np.pad(values, (0, 23 - len(values))), counts]))
    energies = np.array([atoms.get_potential_energy() for atoms in molecules])
    order = np.random.default_rng(0).permutation(len(rows))
    return np.array(rows)[order], energies[order]


def ours(*, n: int, quick: bool, n_inducing: int | None = None) -> dict[str, Any]:
    """Fit n molecules, score on all others."""
    import torch

    from kernelpot.properties.gp import GP

    x, y = features()
    there = torch.cuda.is_available()
    GP(search={"starts": 1}).fit(x[:30], y[:30])  # what is compiled or loaded on first use
    model = GP("matern52", n_inducing=n_inducing, search={"n_warm": 100 if quick else 1500})
    with Stopwatch() as fit:
        model.fit(x[:n], y[:n])
    test = slice(n, n + 200 if quick else None)
    error, std = model.predict(x[test]) - y[test], model.std(x[test])
    return fit.as_dict() | {
        "evaluations": list(model.n_evaluations_),
        "n_inducing": n_inducing,
        "n_test": len(error),
        "mae": KCAL * float(np.abs(error).mean()),
        "worst": KCAL * float(np.abs(error).max()),
        "covered": float(np.mean(np.abs(error) <= std)),
        "noise": KCAL * model.noise_,
        "log_marginal_likelihood": model.log_marginal_likelihood_,
        "places": {} if n_inducing or (n <= 1000 and not quick) else _solvers(model, x, y, n),
        "cuda": f"CUDA: {torch.cuda.get_device_name(0)}" if there else "no CUDA device on this machine",
    }


def _solvers(model: Any, x: np.ndarray, y: np.ndarray, n: int) -> dict[str, Any]:
    """Time the weights of all molecules at the hyper-parameters that were found, by both solvers, on every device."""
    import torch
    from sklearn.base import clone

    from kernelpot.errors import DataError

    result = {}
    for place in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        seconds: dict[str, float | None] = {}
        means: dict[str, np.ndarray] = {}
        why = ""
        for solver in ("cholesky", "cg"):
            other = clone(model).set_params(
                kernel=model.kernel_, noise=model.noise_, solver=solver, optimise=False, device=place
            )
            if place == "cuda":
                other.fit(x[:n], y[:n])
            clock = time.perf_counter()
            try:
                means[solver] = other.fit(x[:n], y[:n]).predict(x[n : n + 100])
                seconds[solver] = time.perf_counter() - clock
            except DataError as error:
                seconds[solver], why = None, str(error)
        if len(means) == 2:
            why = f"predictions agree to {KCAL * np.abs(means['cg'] - means['cholesky']).max():.1e} kcal/mol"
        result[place] = {"cholesky_s": seconds["cholesky"], "cg_s": seconds["cg"], "note": why}
    return result


def sklearn(*, n: int, quick: bool) -> dict[str, Any]:
    """Fit scikit-learn's process with the same kernel."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    x, y = features()
    centre, spread = x[:n].mean(axis=0), x[:n].std(axis=0)
    scaled = (x - centre) / np.where(spread > 0.0, spread, 1.0)
    width = scaled.shape[1]
    kernel = ConstantKernel(1.0, (1e-3, 1e5)) * Matern(np.full(width, np.sqrt(2.0 * width)), (1e-2, 1e5), nu=2.5)
    model = GaussianProcessRegressor(kernel + WhiteKernel(1e-3, (1e-10, 1.0)), normalize_y=True, random_state=0)
    with Stopwatch() as fit, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled[:n], y[:n])
    test = slice(n, n + 200 if quick else None)
    error = model.predict(scaled[test]) - y[test]
    return fit.as_dict() | {"mae": KCAL * float(np.abs(error).mean())}


def _sentence(found: dict[str, Any], threads: int) -> str:
    subset, whole = found["evaluations"]
    return (
        f"{threads} threads, {subset} evaluations on 1,500 and {whole} on all, noise {found['noise']:.2f} kcal/mol, "
        f"{100 * found['covered']:.0f} % within one std, peak {found['peak_mib']:.0f} MiB"
    )

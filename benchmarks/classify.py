"""Classes with the option not to answer: wide-gap double perovskites, groups of AgPd structures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data

FOLDER = "double_perovskite_gap"
WIDE = 4.0
"""Gap above which a material counts as wide-gap, eV."""


def run(settings: Settings) -> Report:
    """Score by five-fold cross-validation beside scikit-learn's classifiers."""
    report = Report()
    data(f"{FOLDER}/double_perovskites_gap.csv")
    found = measure("benchmarks.classify:scores", threads=settings.threads, quick=settings.quick).known
    report.details = found
    ours, rivals = found["ours"], {name: figures for name, figures in found.items() if name != "ours"}
    for what, key in (
        ("wrong", "error"), ("log loss", "log_loss"), ("wrong after refusing 10 %", "error_10"),
        ("wrong after refusing 20 %", "error_20"), ("CPU time of five fits", "cpu_s"),
    ):  # fmt: skip
        unit = {"log_loss": "nats", "cpu_s": "s"}.get(key, "%")
        report.add(f"double perovskites, gap > {WIDE:g} eV: {what}", ours[key], unit,
                   rivals={name: figures[key] for name, figures in rivals.items()})  # fmt: skip
    report.note(
        f"{ours['n']} materials, five folds, {100 * ours['share']:.0f} % of the larger class; 16 features: LUMO, "
        "covalent radius, period and group of both A and both B elements, as sums and absolute differences of each pair"
    )
    return report


def scores(*, quick: bool) -> dict[str, Any]:
    """Cross-validate every classifier on the same folds."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from kernelpot.properties.classifier import Classifier

    x, gaps = perovskites()
    if quick:
        x, gaps = x[::8], gaps[::8]
    y = gaps > WIDE
    kernel = ConstantKernel(4.0) * RBF(np.sqrt(2.0 * x.shape[1]), (1e-2, 1e3))
    models = {
        "ours": Classifier("rbf", ard=True, seed=0),
        "scikit-learn GP": make_pipeline(StandardScaler(), GaussianProcessClassifier(kernel, random_state=0)),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    }
    return {name: _cross_validated(model, x, y) for name, model in models.items()}


def perovskites() -> tuple[np.ndarray, np.ndarray]:
    """Return features of double perovskites, and their gaps, eV."""
    from ase.data import atomic_numbers, covalent_radii

    from kernelpot.elements.table import group, period

    with data(f"{FOLDER}/lumo_by_element.csv").open(encoding="utf-8") as file:
        lumo = {row["atom"]: float(row["lumo"]) for row in csv.DictReader(file)}
    with data(f"{FOLDER}/double_perovskites_gap.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def known(symbol: str) -> np.ndarray:
        z = atomic_numbers[symbol]
        return np.array([lumo[symbol], covalent_radii[z], period(z), group(z)])

    def pair(one: str, two: str) -> Sequence[float]:
        a, b = known(one), known(two)
        return [*(a + b), *np.abs(a - b)]

    x = np.array([[*pair(row["a_1"], row["a_2"]), *pair(row["b_1"], row["b_2"])] for row in rows])
    return x, np.array([float(row["gap_gllbsc_eV"]) for row in rows])


def _cross_validated(model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    with Stopwatch() as watch:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        probability = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
    largest = probability.max(axis=1)
    wrong = (probability.argmax(axis=1) != y)[np.argsort(-largest, kind="stable")]
    n = len(y)
    return {
        "n": n,
        "share": float(max(y.mean(), 1.0 - y.mean())),
        "error": 100.0 * float(wrong.mean()),
        "error_10": 100.0 * float(wrong[: round(0.9 * n)].mean()),
        "error_20": 100.0 * float(wrong[: round(0.8 * n)].mean()),
        "log_loss": float(log_loss(y, probability)),
        "cpu_s": watch.as_dict()["cpu_s"],
    }

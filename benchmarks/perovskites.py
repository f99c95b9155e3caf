"""Band gaps of double perovskites from the elements on their sites, by nested cross-validation."""

from __future__ import annotations

import csv
import time
from typing import Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data

SITES = ("a_1", "b_1", "a_2", "b_2")
PAIRS = (("a_1", "a_2"), ("b_1", "b_2"))
FOREST = {"RMSE": 0.64, "MAE": 0.47}
"""Published, random forest on 10 and 20 features."""
ARMS = (
    ("GP", "pca 4", True),
    ("GP", "pca 4", False),
    ("KRR", "pca 4", True),
    ("KRR", "pca 4", False),
    ("GP", "pca 6", True),
    ("GP", "autoencoder 4", True),
    ("GP", "properties", True),
    ("GP", "onehot", False),
)
"""Model, what describes an element, and whether the levels do as well."""
FOLDS = 5


def run(settings: Settings) -> Report:
    """Score models and representations, with the table of lowest unoccupied levels and without."""
    data("double_perovskite_gap/double_perovskites_gap.csv")
    report = Report()
    for model, way, lumo in ARMS[:1] if settings.quick else ARMS:
        how = {"way": way, "lumo": lumo, "model": model}
        one = measure("benchmarks.perovskites:score", threads=settings.threads, quick=settings.quick, **how).known
        report.details[str(how)] = one
        name = f"{model}, {way}{', LUMO' if lumo else ''}"
        folds = ", ".join(f"{value:.3f}" for value in one["folds"])
        report.add(
            f"{name}: RMSE", one["rmse"], "eV", target=0.40, rivals={"random forest": FOREST["RMSE"]},
            note=f"folds {folds}; {one['cpu_s']:.0f} s CPU",
        )  # fmt: skip
        report.add(f"{name}: MAE", one["mae"], "eV", rivals={"random forest": FOREST["MAE"]})
    report.note(
        f"{FOLDS} outer folds; GP: SiteKernel with exchangeable pairs of sites, hyper-parameters by marginal "
        "likelihood on the outer training rows; KRR: kp.KernelRidge on symmetric features, alpha and length by 5 "
        "inner folds"
    )
    return report


def score(way: str, lumo: bool, model: str, quick: bool) -> dict[str, Any]:
    """Predict every row from the four folds that it is not in."""
    from sklearn.model_selection import KFold

    elements, y, levels = rows()
    if quick:
        elements, y = elements[::5], y[::5]
    predicted, folds = np.empty_like(y), []
    start = time.process_time()
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(y):
        predicted[test] = predictor(way, levels if lumo else None, model, elements, (train, test), y[train])
        folds.append(float(np.sqrt(((predicted[test] - y[test]) ** 2).mean())))
        if quick:
            break
    done = np.concatenate([test]) if quick else np.arange(len(y))
    error = (predicted - y)[done]
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "folds": folds,
        "cpu_s": time.process_time() - start,
    }


def rows() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Return elements by site, gaps in eV, and the lowest unoccupied level of every element, eV."""
    with data("double_perovskite_gap/double_perovskites_gap.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    with data("double_perovskite_gap/lumo_by_element.csv").open(encoding="utf-8") as file:
        levels = {line["atom"]: float(line["lumo"]) for line in csv.DictReader(file)}
    elements = np.array([[line[site] for site in SITES] for line in lines])
    return elements, np.array([float(line["gap_gllbsc_eV"]) for line in lines]), levels


def predictor(
    way: str,
    levels: dict[str, float] | None,
    model: str,
    elements: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    y: np.ndarray,
) -> np.ndarray:
    """Fit on the training rows and predict the test rows; elements' labels are those of all rows, targets are not."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import kernelpot as kp
    from kernelpot.properties.gp import GP

    name, _, n = way.partition(" ")
    described: list[Any] = [kp.elements.ElementalModes(int(n), name) if n else name] + ([levels] if levels else [])
    train, test = parts
    if model == "GP":
        x = kp.elements.CompositionFeatures(SITES, described).fit_transform(elements)
        kernel = kp.properties.SiteKernel(4, x.shape[1] // 4, ((0, 2), (1, 3)))
        process = GP(kernel, search={"starts": 1, "n_warm": 700, "full_steps": 2})
        found: np.ndarray = process.fit(x[train], y).predict(x[test])
        return found
    x = StandardScaler().fit_transform(kp.elements.CompositionFeatures(SITES, described, PAIRS).fit_transform(elements))
    grid = {
        "kernelridge__alpha": [1e-4, 1e-3, 1e-2],
        "kernelridge__kernel": [kp.properties.VectorKernel("rbf", length=length) for length in (3.0, 6.0, 12.0)],
    }
    search = GridSearchCV(make_pipeline(kp.KernelRidge()), grid, cv=5, scoring="neg_root_mean_squared_error")
    result: np.ndarray = search.fit(x[train], y).predict(x[test])
    return result

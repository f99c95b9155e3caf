"""Atomization energies of 7,101 molecules: learning curves of kernels and representations, and chosen training sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import Outcome, Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.qm7_kernels import ELEMENTS, KERNELS, STORED, Stored, molecules
from benchmarks.systems import data

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SIZES = (100, 300, 1000, 2500, 5000)
SPLITS = 5
TARGET = 0.55
"""kcal/mol, what moment tensor potentials reach with 5,000 molecules of a sibling set."""

PUBLISHED = {"MTP": 0.55, "MTP active": 0.43, "SOAP": 0.92, "DTNN": 1.04, "BAML": 1.15}
ALPHAS = np.logspace(-10, -2, 9)
TUNING = 1000
"""Training molecules that settings are chosen on, by leave-one-out errors."""
TUNING_ALPHA = 2500
"""The same of alpha, for every training set anew."""

POOL, HELD, SELECTED = 4000, 1000, (250, 500, 1000, 2000)


def run(settings: Settings) -> Report:
    """Draw learning curves, then compare chosen with random training sets."""
    data("qm7/qm7_7101.xyz.xz")
    report = Report()
    for name in KERNELS:
        outcome = measure(
            "benchmarks.qm7:curve", threads=settings.threads, name=name, quick=settings.quick, full=settings.full
        )
        _add_curve(report, name, outcome)
    chosen = measure("benchmarks.qm7:designed", threads=settings.threads, quick=settings.quick)
    _add_designed(report, chosen)
    report.note(
        "kernel ridge regression after a least-squares fit of the numbers of atoms; lengths and the settings of "
        f"descriptors by leave-one-out errors of at most {TUNING} training molecules of the first split, alpha of at "
        f"most {TUNING_ALPHA} of each training set; test: the molecules beyond the first 5,000 of each split"
    )
    report.note(f"published on a sibling set, kcal/mol: {PUBLISHED}")
    return report


def _add_curve(report: Report, name: str, outcome: Outcome) -> None:
    report.details[name] = (outcome.value or {"why": outcome.why}) | {"peak_mib": outcome.peak}
    if outcome.value is None:
        report.note(f"{name}: skipped: {outcome.reason}")
        return
    found = outcome.value
    for n, errors in found["errors"].items():
        best = TARGET if n == str(SIZES[-1]) and name == "SOAP sum" else None
        report.add(
            f"{name}: MAE, {n} molecules", errors["mae"], "kcal/mol", target=best,
            rivals=PUBLISHED if n == str(SIZES[-1]) else {},
            note=f"± {errors['spread']:.3f} over {errors['splits']} splits; largest error {errors['max']:.1f}",
        )  # fmt: skip
    for n, mae in found.get("gp", {}).items():
        report.add(f"{name}: MAE of a Gaussian process, {n} molecules", mae["mae"], "kcal/mol", note=mae["note"])
    report.note(f"{name}: {found['settings']}; kernel {found['kernel_s']:.0f} s CPU, peak {outcome.peak:.0f} MiB")


def _add_designed(report: Report, outcome: Outcome) -> None:
    report.details["designed"] = outcome.value or {"why": outcome.why}
    if outcome.value is None:
        report.note(f"chosen training sets: skipped: {outcome.reason}")
        return
    for n, arms in outcome.value["errors"].items():
        for what, unit in (("mae", "MAE"), ("max", "largest error")):
            for where in ("held out", "rest of the pool"):
                values = {arm: found[where][what] for arm, found in arms.items()}
                ours = values.pop("balanced")
                report.add(f"{n} chosen molecules: {unit}, {where}", ours, "kcal/mol", rivals=values)
    report.note(f"chosen: {outcome.value['settings']}")


def curve(name: str, *, quick: bool, full: bool) -> dict[str, Any]:
    """Return errors against the number of training molecules, for one kernel."""
    recipe = KERNELS[name]
    sizes, splits = [n for n in SIZES if full or n <= recipe.largest], recipe.splits
    structures, energies = molecules(400 if quick else None)
    if quick:
        sizes, splits = [100, 300], 2
    first = min(SIZES[-1], int(0.75 * len(structures)))
    orders = [np.random.default_rng(seed).permutation(len(structures)) for seed in range(SPLITS)][:splits]
    cuts = [(order[:first], order[first:][: recipe.most_test]) for order in orders]
    sizes = [n for n in sizes if n <= first]
    targets = energies if not recipe.intensive else energies / np.array([len(a) for a in structures])
    counts = _counts(structures)
    if recipe.intensive:
        counts /= counts.sum(axis=1, keepdims=True)
    tune = cuts[0][0][: 200 if quick else min(TUNING, sizes[-1])]
    chosen = recipe.choose([structures[k] for k in tune], lambda matrix: _left_out(matrix, targets[tune], counts[tune]))
    used = np.unique(np.concatenate([np.concatenate([train[: sizes[-1]], test]) for train, test in cuts]))
    with Stopwatch() as watch:
        stored = Stored.of(chosen.matrix([structures[k] for k in used]), used)
    errors = {}
    for n in sizes:
        found = [_score(stored, train[:n], test, targets, counts, structures, recipe.intensive) for train, test in cuts]
        maes = [float(np.abs(e).mean()) for e in found]
        errors[str(n)] = {
            "mae": float(np.mean(maes)), "spread": float(np.std(maes)), "splits": len(maes),
            "max": float(np.mean([np.abs(e).max() for e in found])), "all": maes,
        }  # fmt: skip
    result = {"errors": errors, "settings": chosen.text, "kernel_s": watch.as_dict()["cpu_s"]}
    if name in STORED and not quick:
        result["gp"] = _processes(stored, cuts, targets, structures, [n for n in (1000, SIZES[-1]) if n in sizes])
    return result


def _processes(
    stored: Stored, cuts: Sequence[tuple[Any, Any]], targets: Any, structures: Sequence[Any], sizes: Sequence[int]
) -> dict[str, Any]:
    """Score Gaussian processes with the same kernel, amplitude and noise by marginal likelihood."""
    import kernelpot as kp

    result = {}
    for n in sizes:
        maes, inside, seconds = [], [], []
        for train, test in cuts:
            model = kp.GP(stored, mean="composition", search={"full_steps": 8})
            with Stopwatch() as watch:
                model.fit([structures[k] for k in train[:n]], targets[train[:n]])
            seconds.append(watch.as_dict()["cpu_s"])
            new = [structures[k] for k in test]
            error, std = model.predict(new) - targets[test], model.std(new)
            maes.append(float(np.abs(error).mean()))
            inside.append([100 * float(np.mean(np.abs(error) < q * std)) for q in (1.0, 1.96)])
        near, wide = np.mean(inside, axis=0)
        result[str(n)] = {
            "mae": float(np.mean(maes)), "all": maes,
            "note": f"± {np.std(maes):.3f} over {len(maes)} splits; fit {np.mean(seconds):.0f} s CPU; "
            f"{near:.0f}, {wide:.0f} % within 1, 1.96 stds",
        }  # fmt: skip
    return result


def designed(*, quick: bool) -> dict[str, Any]:
    """Return errors of models trained on chosen molecules and on random ones, on one held-out set."""
    import kernelpot as kp

    recipe = KERNELS["SOAP sum"]
    structures, energies = molecules(400 if quick else None)
    size, sizes = (300, (50, 100)) if quick else (POOL, SELECTED)
    structures, energies = structures[: size + HELD], energies[: size + HELD]
    order = np.random.default_rng(0).permutation(len(structures))
    pool, held = order[:size], order[size:]
    tune, counts = pool[: 200 if quick else TUNING], _counts(structures)
    chosen = recipe.choose(
        [structures[k] for k in tune], lambda matrix: _left_out(matrix, energies[tune], counts[tune])
    )
    stored = Stored.of(chosen.matrix(structures), np.arange(len(structures)))
    model = kp.KernelRidge(chosen.kernel, alpha=chosen.alpha)
    space = model.prepare(chosen.encoded([structures[k] for k in pool]), n_inducing=100 if quick else 1500)
    info = space.information(chosen.encoded([structures[k] for k in pool]))
    picks: dict[str, Callable[[int, int], Int[np.ndarray, " n"]]] = {
        "random": lambda n, seed: np.random.default_rng(100 + seed).permutation(size)[:n],
    }
    errors: dict[str, Any] = {}
    seconds = {}
    for arm in ("balanced", "D", "kmeans", "fps"):
        settings = {"method": arm} if arm in ("kmeans", "fps") else {"criterion": arm}
        with Stopwatch() as watch:
            found = kp.design.select(info, sizes[-1], **settings)
        seconds[arm] = watch.as_dict()["wall_s"]
        picks[arm] = lambda n, _, found=found: np.asarray(found.indices[:n])
    for n in sizes:
        errors[str(n)] = {}
        for arm, pick in picks.items():
            scores = []
            for seed in range(SPLITS if arm == "random" else 1):
                mine = pick(n, seed)
                rest = np.setdiff1d(np.arange(size), mine)
                scores.append(
                    {
                        where: _score(stored, pool[mine], where_test, energies, counts, structures, False)
                        for where, where_test in (("held out", held), ("rest of the pool", pool[rest]))
                    }
                )
            errors[str(n)][arm] = {
                where: {
                    "mae": float(np.mean([np.abs(s[where]).mean() for s in scores])),
                    "max": float(np.mean([np.abs(s[where]).max() for s in scores])),
                }
                for where in ("held out", "rest of the pool")
            }
    return {"errors": errors, "settings": f"{chosen.text}; seconds to choose {sizes[-1]}: {seconds}"}


def _counts(structures: Sequence[Any]) -> Float[np.ndarray, "n elements"]:
    return np.array([[np.count_nonzero(atoms.numbers == z) for z in ELEMENTS] for atoms in structures], dtype=float)


def _left_out(
    matrix: Float[np.ndarray, "n n"], targets: Float[np.ndarray, " n"], counts: Float[np.ndarray, "n elements"]
) -> tuple[float, float]:
    """Return the least mean leave-one-out error of a kernel, with its alpha."""
    return best_alpha(matrix, targets - counts @ np.linalg.lstsq(counts, targets, rcond=None)[0])


def best_alpha(matrix: Float[np.ndarray, "n n"], rest: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the least mean leave-one-out error over alphas, with the alpha that has it."""
    import kernelpot as kp
    from kernelpot.errors import ParameterError

    found = []
    for alpha in ALPHAS * np.trace(matrix) / len(matrix):
        try:
            model = kp.KernelRidge("precomputed", alpha=float(alpha), mean="zero").fit(matrix, rest)
        except ParameterError:  # not positive definite to round-off
            continue
        found.append((float(np.abs(model.left_out().error).mean()), float(alpha)))
    return min(found)


def _score(
    stored: Stored, train: Any, test: Any, targets: Any, counts: Any, structures: Sequence[Any], intensive: bool
) -> Float[np.ndarray, " n"]:
    """Return test errors, kcal/mol."""
    import kernelpot as kp

    fit = np.linalg.lstsq(counts[train], targets[train], rcond=None)[0]
    rest = targets[train] - counts[train] @ fit
    _, alpha = best_alpha(stored.rows(train[:TUNING_ALPHA], train[:TUNING_ALPHA]), rest[:TUNING_ALPHA])
    model = kp.KernelRidge("precomputed", alpha=alpha, mean="zero").fit(stored.rows(train, train), rest)
    error = model.predict(stored.rows(test, train)) + counts[test] @ fit - targets[test]
    return error * np.array([len(structures[k]) for k in test]) if intensive else error

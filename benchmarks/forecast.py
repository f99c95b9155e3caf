"""Errors forecast from a pilot of ten labels against those that more labels then leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.child import measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import DataAbsentError, data

PILOT, SIZES = 10, (10, 20, 40, 80)
SEEDS = 5
N_INDUCING = 300
POOL_SHARE = 0.8
MOST, TESTED = 350, 200
SETS: dict[str, tuple[str, str | None]] = {
    **{e: (f"mlearn/{e}_train.xyz.xz", f"mlearn/{e}_test.xyz.xz") for e in ("Si", "Ge", "Li", "Ni")},
    "ethanol": ("rmd17/ethanol_train.xyz.xz", "rmd17/ethanol_test.xyz.xz"),
    "AgPd": ("agpd/AgPd_bulk_master.xyz.xz", None),
    "Ta": ("ta_snap/ta_all.xyz.xz", None),
}
UNITS = {"energy": "meV/atom", "forces": "meV/Å"}


def run(settings: Settings) -> Report:
    """Compare log errors of the forecast, of a constant and of N^(-1/2), both from the pilot's left-out errors."""
    report = Report()
    total: dict[tuple[str, str], list[list[float]]] = {}
    for name in ("Si",) if settings.quick else SETS:
        try:
            data(SETS[name][0])
        except DataAbsentError as absent:
            report.note(str(absent))
            continue
        trials = measure("benchmarks.forecast:trials", threads=settings.threads, name=name, quick=settings.quick).known
        report.details[name] = trials
        for arm in ("random", "designed"):
            mine = [one for one in trials["trials"] if one["arm"] == arm]
            for kind in UNITS:
                misses = np.array([_misses(one, kind) for one in mine]).mean(axis=(0, 2))
                total.setdefault((arm, kind), []).append(misses.tolist())
                _row(report, f"{name}, {arm} pilot, {kind}", misses)
    for (arm, kind), found in total.items():
        _row(report, f"all sets, {arm} pilot, {kind}", np.mean(found, axis=0), judged=True)
    report.note(
        f"mean of |log(forecast/error)| at {', '.join(map(str, SIZES))} labels, pilot of {PILOT}, {SEEDS} seeds; "
        "truth: published test sets, own splits for AgPd and Ta; rivals start from the RMS error of left-out pilot "
        f"structures; M = {N_INDUCING}, energy 2 meV/atom, forces 0.1 eV/Å, amplitude 1 eV; "
        "target of the forecast: the rest of the unlabelled pool"
    )
    return report


def _misses(trial: dict[str, Any], kind: str) -> list[list[float]]:
    """|log ratio| at every size: forecast, constant, N^(-1/2), prediction that no label has corrected."""
    truth, n = np.array(trial["errors"][kind]), np.array(trial["n"])
    first = trial["pilot_error"][kind]
    guesses = [trial["forecast"][kind], np.full(len(n), first), first * np.sqrt(PILOT / n), trial["predicted"][kind]]
    return [np.abs(np.log(np.array(guess) / truth)).tolist() for guess in guesses]


def _row(report: Report, what: str, misses: np.ndarray, *, judged: bool = False) -> None:
    ours, constant, root, bare = misses.tolist()
    rivals = {"better of both rivals": min(constant, root), "constant": constant, "N^(-1/2)": root, "uncorrected": bare}
    report.add(what, ours, "|log|", rivals=rivals, **({"target": min(constant, root)} if judged else {}))


def trials(*, name: str, quick: bool) -> dict[str, Any]:
    """Forecast and then find out, for every seed, random and designed pilots; errors in eV/atom and eV/Å."""
    import kernelpot as kp
    from kernelpot.data.labels import resolve
    from kernelpot.design import Information, select
    from kernelpot.judgement.forecast import Course
    from kernelpot.judgement.pilot import Pilot, read_blocks, without_baseline
    from kernelpot.linalg.subsets import equal_vectors

    train, test = _structures(name, quick)
    noise, kinds = kp.Noise(energy=0.002, forces=0.1), ("energy", "forces")
    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=5) if not quick else kp.SOAP(cutoff=4.0, n_max=3, l_max=2)
    space = kp.SparseGP(soap, n_inducing=20 if quick else N_INDUCING, noise=noise).prepare([*train, *test])
    features, noise, amplitude = space.plan()
    whole = space.information(train, truncate=0.0)
    info = whole.truncated(1e-4)
    blocks, probe = (read_blocks(features, s, resolve(s), kinds, noise, amplitude) for s in (train, test))
    heads = np.unique(equal_vectors(whole.means, whole.n_atoms), return_index=True)[1]
    sizes = (10, 12) if quick else SIZES
    found = []
    for seed in range(1 if quick else SEEDS):
        rng = np.random.default_rng(seed)
        pool = np.sort(rng.permutation(heads)[: max(round(POOL_SHARE * len(heads)), sizes[-1] + 1)])
        few = info.take(pool)
        for arm in ("random", "designed"):
            order = rng.permutation(len(pool)) if arm == "random" else select(few, sizes[-1], seed=seed).indices
            order = order[: sizes[-1]]
            first = without_baseline([blocks[k] for k in pool[order[:PILOT]]], features.n_weights)
            exact: Information = whole.take(pool)
            course = Course(
                whole.take(pool[order[:PILOT]]), few, [order[PILOT:]], np.array(sizes),
                exact.take(rest := np.setdiff1d(np.arange(len(pool)), order[:PILOT])), rest, features.n_weights, arm,
            )  # fmt: skip
            ahead = course.corrected(Pilot.of(first, np.arange(PILOT), features.n_weights, noise))
            truth = [_errors([blocks[k] for k in pool[order[:n]]], probe, features.n_weights, noise) for n in sizes]
            found.append(
                {
                    "seed": seed, "arm": arm, "n": list(sizes),
                    "errors": {kind: [one[kind] for one in truth] for kind in kinds},
                    "forecast": {kind: ahead.errors[kind].tolist() for kind in kinds},
                    "predicted": {kind: ahead.predicted[kind].tolist() for kind in kinds},
                    "pilot_error": dict(ahead.pilot_error), "scale": dict(ahead.scale), "floor": dict(ahead.floor),
                }
            )  # fmt: skip
    return {"trials": found, "n_train": len(train), "n_test": len(test)}


def _structures(name: str, quick: bool) -> tuple[list[Any], list[Any]]:
    """Structures to choose from, and to test on."""
    import kernelpot as kp

    first, second = SETS[name]
    train = kp.read(data(first), verbose=False)
    rng = np.random.default_rng(0)
    if second is None:
        order = rng.permutation(len(train))
        cut = min(len(train) // 3, TESTED)
        train, test = [train[k] for k in order[cut : cut + MOST]], [train[k] for k in order[:cut]]
    else:
        test = kp.read(data(second), verbose=False)
        train = [train[k] for k in np.sort(rng.permutation(len(train))[:MOST])]
        test = [test[k] for k in np.sort(rng.permutation(len(test))[:TESTED])]
    return (train[::8], test[::5]) if quick else (train, test)


def _errors(labelled: Sequence[Any], probe: Sequence[Any], n_weights: int, noise: Any) -> dict[str, float]:
    """Fit by QR of the stacked rows, and return the RMSE on the test rows."""
    from kernelpot.judgement.pilot import without_baseline
    from kernelpot.linalg.factor import Posterior

    # One baseline for both: that of the training energies.
    joined = without_baseline(labelled, n_weights)
    width = next(iter(joined[0].values())).shape[1]
    posterior = Posterior.prior(width - 1).condition([rows for block in joined for rows in block.values()])
    energies = [block["energy"] for block in labelled if "energy" in block]
    shift = np.zeros(width - 1)
    if energies:
        stacked = np.concatenate(energies)[:, n_weights:]
        shift[n_weights:] = np.linalg.lstsq(stacked[:, :-1], stacked[:, -1], rcond=1e-8)[0]
    weights = posterior.mean + shift
    result = {}
    for kind in noise.kinds:
        rows = np.concatenate([block[kind] for block in probe if kind in block])
        result[kind] = noise.sigma(kind) * float(np.sqrt(np.mean((rows[:, :-1] @ weights - rows[:, -1]) ** 2)))
    return result

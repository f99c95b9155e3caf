"""Errors after labelling what each way of choosing picks from mlearn Si."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data, mlearn

SIZES = (10, 20, 40)
JUDGED = 20
N_RANDOM = 20
N_INDUCING = 400
WAYS = {
    "IV": {"criterion": "IV"},
    "D": {"criterion": "D"},
    "A": {"criterion": "A"},
    "k-means": {"method": "kmeans"},
    "FPS": {"method": "fps"},
}
TRUNCATION = 1e-4


def run(settings: Settings) -> Report:
    """Choose, fit, score; then time the choice itself."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    if not settings.quick:  # fills the cache of compiled code on disk, so that times are those of the work
        measure("benchmarks.design:compare", threads=settings.threads, quick=True)
    found = measure("benchmarks.design:compare", threads=settings.threads, quick=settings.quick).known
    report.details = found
    for n, arms in found["arms"].items():
        for kind, unit in (("forces", "meV/Å"), ("energy", "meV/atom")):
            _rows(report, int(n), arms, kind, unit, judged=int(n) == JUDGED)
    for way, clock in found["times"].items():
        report.add(f"time of {way}", clock["cpu_s"], "s")
    report.note(
        f"{found['n_distinct']} distinct of {found['n_pool']} frames; inducing environments from the unlabelled pool "
        f"for every arm; {found['description']}; {N_RANDOM} random sets; published test set; "
        f"{settings.threads} thread(s)"
    )
    report.note(
        f"blocks: mean rank {found['rank_truncated']:.0f} of {found['rank_whole']:.0f} when truncated at "
        f"{TRUNCATION:g}; efficiency of IV's choice, taken at the design itself: {found['efficiencies']}"
    )
    return report


def _rows(report: Report, n: int, arms: dict[str, Any], kind: str, unit: str, *, judged: bool) -> None:
    """One row per arm; the target of IV is written in the figures of its rivals."""
    random = 1e3 * np.array(arms["random"][kind])
    ours = 1e3 * arms["IV"][kind][0]
    summary = {"random mean": random.mean(), "median": np.median(random), "worst": random.max(), "best": random.min()}
    rest = {name: 1e3 * arm[kind][0] for name, arm in arms.items() if name not in ("IV", "random")}
    rivals = {name: float(value) for name, value in (summary | rest).items()}
    if not judged:
        report.add(f"{n} labels, {kind}: test RMSE of IV", ours, unit, rivals=rivals)
        return
    if kind == "forces":
        limit = 0.95 * min(rivals["random mean"], rivals["median"])
        report.add(f"{n} labels, forces: test RMSE of IV", ours, unit, rivals=rivals, target=limit)
        report.add(
            f"{n} labels, forces: IV against k-means", ours, unit,
            rivals={"k-means": rivals["k-means"]}, target=1.03 * rivals["k-means"],
        )  # fmt: skip
    else:
        report.add(f"{n} labels, energy: test RMSE of IV", ours, unit, rivals=rivals, target=rivals["random mean"])


def compare(*, quick: bool) -> dict[str, Any]:
    """Run every arm in a process of its own; errors in eV/Å and eV/atom."""
    import kernelpot as kp
    from kernelpot.design import select
    from kernelpot.linalg.subsets import equal_vectors

    pool, test = mlearn("Si", "train"), mlearn("Si", "test")
    sizes, repeats, n_inducing = SIZES, N_RANDOM, N_INDUCING
    soap = kp.SOAP(cutoff=5.0, n_max=8, l_max=6)
    if quick:
        pool, test, sizes, repeats, n_inducing = pool[::6], test[::3], (4,), 2, 40
        soap = kp.SOAP(cutoff=4.5, n_max=4, l_max=3)
    noise = kp.Noise(energy=0.002, forces=0.1)
    space = kp.SparseGP(soap, kp.DotProduct(zeta=2, amplitude=1.0), n_inducing=n_inducing, noise=noise).prepare(pool)
    with Stopwatch() as blocks:
        whole = space.information(pool, truncate=0.0)
    with Stopwatch() as cutting:
        info = whole.truncated(TRUNCATION)

    def errors(indices: Sequence[int]) -> dict[str, float]:
        model = space.fit([pool[int(k)] for k in indices])
        scores = kp.evaluate(model, test, uncertainty=False).overall
        return {kind: scores[kind].rmse for kind in ("energy", "forces")}

    arms: dict[int, dict[str, dict[str, Any]]] = {}
    heads = np.unique(equal_vectors(info.means, info.n_atoms), return_index=True)[1]
    efficiencies = {}
    for n in sizes:
        arms[n] = {}
        for name, how in WAYS.items():
            choice = select(info, n, **how)
            found = errors(choice.indices)
            arms[n][name] = {kind: [v] for kind, v in found.items()} | {"indices": np.asarray(choice.indices).tolist()}
            if name == "IV":
                efficiencies[n] = f"at least {choice.efficiency_bound:.2f}"
        for name, indices in _scikit_matter(info.means[heads], n).items():
            arms[n][name] = {k: [v] for k, v in errors(heads[indices]).items()} | {"indices": heads[indices].tolist()}
        tries = [errors(select(info, n, method="random", seed=k).indices) for k in range(repeats)]
        arms[n]["random"] = {kind: [one[kind] for one in tries] for kind in ("energy", "forces")}
    most = sizes[-1]
    times = {"making all blocks": blocks.as_dict(), "truncating them": cutting.as_dict()}
    for criterion in ("IV", "D"):
        for name, rows in (("truncated", info), ("whole", whole)):
            with Stopwatch() as watch:
                select(rows, most, criterion=criterion)
            times[f"choosing {most} by {criterion}, {name} blocks"] = watch.as_dict()
    return {
        "arms": arms,
        "times": times,
        "n_pool": len(pool),
        "n_distinct": len(heads),
        "efficiencies": efficiencies,
        "rank_whole": len(whole.rows) / len(whole),
        "rank_truncated": len(info.rows) / len(info),
        "description": {k: v for k, v in info.description.items() if k != "truncate"},
    }


def _scikit_matter(means: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Choices of scikit-matter among distinct mean descriptors; none where it is not installed."""
    try:
        from skmatter.sample_selection import CUR, FPS
    except ModuleNotFoundError:
        return {}
    return {
        f"scikit-matter {name}": np.asarray(method(n_to_select=n).fit(means).selected_idx_)
        for name, method in (("FPS", FPS), ("CUR", CUR))
    }

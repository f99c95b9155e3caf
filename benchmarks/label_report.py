"""Tables and figures of the labels case: `python -m benchmarks.label_report RESULT.json ... [--docs FOLDER]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import short
from benchmarks.label_arms import DEFAULT, RANDOM
from benchmarks.label_runs import FIXED, OWN, reached, typical
from benchmarks.label_sets import SETS

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = "<!-- everything below is written by python -m benchmarks.label_report -->"
KINDS = {"forces": "meV/Å", "energy": "meV/atom"}
SHOWN = (10, 20, 40)
GOAL = 40
SIMPLE = (RANDOM, "kmeans", "fps", "stratified")
DRAWN = (DEFAULT, "IV", "kmeans", "fps", "stratified")
COLOURS = {DEFAULT: "#c0392b", "IV": "#2c6fbb", "kmeans": "#2e8b57", "fps": "#b8860b", "stratified": "#7d5ba6"}

Splits = Mapping[str, Mapping[str, Any]]
"""Runs of one set by the number of the split."""


def means(splits: Splits, arm: str, kind: str, *, mode: str = FIXED, figure: str = "rmse") -> dict[int, float]:
    """Return an arm's figure at every size, averaged over seeds, then over the splits that have it.

    Parameters
    ----------
    splits
        Runs of one set.
    arm, kind, mode, figure
        What is wanted; eV/Å and eV/atom.
    """
    result = {}
    for n in sizes(splits, mode):
        found = [typical(runs, arm, n, kind, mode=mode, figure=figure) for runs in splits.values()]
        if np.isfinite(found).all():
            result[n] = float(np.mean(found))
    return result


def sizes(splits: Splits, mode: str) -> list[int]:
    """Numbers of labels that random choices were scored at."""
    return sorted({int(n) for runs in splits.values() for run in runs[RANDOM] for n in run.get(mode, {})})


def spread(splits: Splits, arm: str, n: int, kind: str, *, mode: str = FIXED) -> list[float]:
    """Every RMSE of an arm at one size, over splits and seeds."""
    return [
        run[mode][str(n)][kind]["rmse"]
        for runs in splits.values()
        for run in runs.get(arm, [])
        if str(n) in run.get(mode, {})
    ]


def needed(splits: Splits, arm: str, kind: str, *, mode: str = FIXED, what: str | None = None) -> float:
    """Labels (or cost: "atoms", "cubed") at which an arm has the error of `GOAL` random labels.

    Costs are given as a share of what `GOAL` random structures cost.
    """
    goal = means(splits, RANDOM, kind, mode=mode).get(GOAL, np.nan)
    curve = means(splits, arm, kind, mode=mode)
    if what is None:
        return reached(list(curve), list(curve.values()), goal)
    spent = {n: paid(splits, arm, n, what) for n in curve}
    return reached(list(spent.values()), list(curve.values()), goal) / paid(splits, RANDOM, GOAL, what)


def paid(splits: Splits, arm: str, n: int, what: str) -> float:
    """Mean cost of n labels; NaN where none chose so many."""
    found = [run[what][str(n)] for runs in splits.values() for run in runs[arm] if str(n) in run[what]]
    return float(np.mean(found)) if found else float("nan")


def ratio(splits: Splits, arm: str, rivals: Sequence[str], n: int, kind: str, *, mode: str = FIXED) -> float:
    """Error of an arm over that of the best rival at n labels."""
    best = min(means(splits, rival, kind, mode=mode).get(n, np.inf) for rival in rivals)
    return means(splits, arm, kind, mode=mode).get(n, np.nan) / best


def arms_of(splits: Splits, mode: str) -> list[str]:
    """Arms that every split has, in their order."""
    first = next(iter(splits.values()))
    return [arm for arm in first if all(arm in runs and mode in runs[arm][0] for runs in splits.values())]


def overall(sets: Mapping[str, Splits], mode: str) -> list[str]:
    """Markdown table over all sets: errors beside random and beside the best simple rival, and labels that are needed.

    Parameters
    ----------
    sets
        Runs of every set; published splits are left out.
    mode
        `FIXED` or `OWN`.
    """
    parts = {name: with_mode({k: v for k, v in splits.items() if int(k) >= 0}, mode) for name, splits in sets.items()}
    parts = {name: splits for name, splits in parts.items() if splits}
    ways = [
        way for way in arms_of(next(iter(parts.values())), mode) if all(way in arms_of(p, mode) for p in parts.values())
    ]
    head = ["way"]
    for kind in KINDS:
        head += [f"{kind}: / random", "/ best simple", "worst set", f"labels: {', '.join(parts)}"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for way in ways:
        row = [way]
        for kind in KINDS:
            random = {s: [ratio(p, way, [RANDOM], n, kind, mode=mode) for n in SHOWN] for s, p in parts.items()}
            simple = [s for s in SIMPLE if s in ways and s != way]
            best = {s: [ratio(p, way, simple, n, kind, mode=mode) for n in SHOWN] for s, p in parts.items()}
            worst = max(best, key=lambda s: _mean(best[s]))
            row += [
                f"{_mean([_mean(r) for r in random.values()]):.2f}",
                f"{_mean([_mean(r) for r in best.values()]):.2f}",
            ]
            row.append(f"{_mean(best[worst]):.2f} {worst}")
            row.append(", ".join(_labels(needed(p, way, kind, mode=mode), GOAL) for p in parts.values()))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def with_mode(splits: Splits, mode: str) -> Splits:
    """Keep the splits on which the default was scored in a mode."""
    return {k: v for k, v in splits.items() if mode in v[DEFAULT][0]}


def _mean(ratios: Sequence[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(ratios))))


def tables(name: str, splits: Splits) -> list[str]:
    """Markdown tables of one set."""
    lines = [f"## {name}", "", f"![{name}](figures/labels-{name}.png)", ""]
    published = {k: v for k, v in splits.items() if int(k) < 0}
    own = {k: v for k, v in splits.items() if int(k) >= 0}
    for title, part, mode in (
        ("fixed hyper-parameters", own, FIXED),
        ("own hyper-parameters", with_mode(own, OWN), OWN),
        ("published test set, fixed hyper-parameters", published, FIXED),
        ("published test set, own hyper-parameters", with_mode(published, OWN), OWN),
    ):  # fmt: skip
        if part:
            lines += [f"{len(part)} split{'s' * (len(part) > 1)}, {title}:", "", *_table(part, mode), ""]
    return lines


def _table(splits: Splits, mode: str) -> list[str]:
    head = ["way"]
    for kind, unit in KINDS.items():
        head += [f"{kind}, {unit}: {n}" for n in SHOWN] + ["worst 20", "MAE 20", "labels"]
    head += ["cost N", "cost N³"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for arm in arms_of(splits, mode):
        row = [arm]
        for kind in KINDS:
            curve = means(splits, arm, kind, mode=mode)
            row += [short(1e3 * curve[n]) if n in curve else "–" for n in SHOWN]
            row.append(short(1e3 * max(spread(splits, arm, 20, kind, mode=mode), default=np.nan)))
            row.append(short(1e3 * means(splits, arm, kind, mode=mode, figure="mae").get(20, np.nan)))
            row.append(_labels(needed(splits, arm, kind, mode=mode), max(curve, default=0)))
        row += [_share(needed(splits, arm, "forces", mode=mode, what=what)) for what in ("atoms", "cubed")]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _labels(n: float, most: int) -> str:
    return f"{n:.0f}" if np.isfinite(n) else f"> {most}"


def _share(cost: float) -> str:
    return f"{cost:.2f}" if np.isfinite(cost) else "–"


def draw(name: str, splits: Splits, path: Path) -> None:
    """Draw RMSE against labels: random with its range, ours and simple rivals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    splits = {k: v for k, v in splits.items() if int(k) >= 0}
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, unit) in zip(figure.subplots(1, 2), KINDS.items(), strict=True):
        random = means(splits, RANDOM, kind)
        n = np.array(list(random))
        seeds = range(len(next(iter(splits.values()))[RANDOM]))
        tries = np.array([[_one(splits, seed, k, kind) for k in n] for seed in seeds])
        axes.fill_between(n, 1e3 * tries.min(0), 1e3 * tries.max(0), color="0.85", lw=0, label="random, range of seeds")
        axes.plot(n, 1e3 * np.array(list(random.values())), color="0.4", label="random, mean")
        for arm in DRAWN:
            curve = means(splits, arm, kind)
            if curve:
                axes.plot(
                    list(curve), 1e3 * np.array(list(curve.values())), marker="o", ms=3,
                    lw=1.8 if arm == DRAWN[0] else 1.1, color=COLOURS[arm], label=arm, zorder=3 - DRAWN.index(arm) / 9,
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="labels", ylabel=f"{kind} RMSE, {unit}")
        axes.set_xticks(n, [str(k) for k in n])
        axes.minorticks_off()
        low, high = axes.get_ylim()
        ticks = [t for t in np.outer(10.0 ** np.arange(-2, 6), [1, 1.2, 1.5, 2, 3, 5, 7]).ravel() if low <= t <= high]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(f"{name}: held-out errors, mean of {len(splits)} splits, fixed hyper-parameters", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    with Image.open(path) as drawn:  # few colours: a quarter of the bytes
        few = drawn.convert("RGB").quantize(48)
    few.save(path, optimize=True)


def _one(splits: Splits, seed: int, n: int, kind: str) -> float:
    """RMSE of one random seed, averaged over splits."""
    scores = [runs[RANDOM][seed][FIXED] for runs in splits.values()]
    return float(np.mean([score[str(n)][kind]["rmse"] if str(n) in score else np.nan for score in scores]))


def main(arguments: list[str] | None = None) -> int:
    """Read a result, draw figures, replace the tables of docs/labels.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of runs of the labels cases")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of labels.md, default docs")
    options = parser.parse_args(arguments)
    sets: dict[str, Splits] = {}
    for result in options.results:
        for name, case in json.loads(result.read_text(encoding="utf-8"))["cases"].items():
            if name.startswith("labels-"):
                sets |= case["details"]
    sets = {name: sets[name] for name in SETS if name in sets}
    lines = ["## All sets", ""]
    for title, mode in (("Fixed hyper-parameters", FIXED), ("Own hyper-parameters", OWN)):
        lines += [f"{title}:", "", *overall(sets, mode), ""]
    for name, splits in sets.items():
        draw(name, splits, options.docs / "figures" / f"labels-{name}.png")
        lines += tables(name, splits)
    page = options.docs / "labels.md"
    head = page.read_text(encoding="utf-8").split(MARK)[0] if page.exists() else "# Label efficiency\n\n"
    page.write_text(head.rstrip() + f"\n\n{MARK}\n\n" + "\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

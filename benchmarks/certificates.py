"""How good choices from mlearn Si provably are, how much of the rest is integrality, and what choosing costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.systems import data, mlearn

LIMITS = {("D", 20): 0.97, ("A", 20): 0.90, ("IV", 20): 0.80, ("IV", 40): 0.92}
"""Certified efficiency that is wanted."""
OTHERS = ("D", "A", "E", "G")
TRUNCATION = 1e-6
SMALL = (30, 5)
"""Distinct candidates and size of the problems that branch and bound solves."""


def run(settings: Settings) -> Report:
    """Certify, solve small problems exactly, time the choice."""
    report = Report()
    data("mlearn/Si_train.xyz.xz")
    found = measure("benchmarks.certificates:study", threads=settings.threads, quick=settings.quick).known
    for name, one in found["certificates"].items():
        criterion, n = name.split()
        limit = LIMITS.get((criterion, int(n)))
        report.add(
            f"{name}: 1 - certified efficiency", 1.0 - one["efficiency"], target=None if limit is None else 1.0 - limit,
            note=f"{one['method']}; relaxation gap {one['gap']:.1e}, truncation {one['truncation']:.1e}; "
            f"choice {one['select_s']:.1f} s, certificate {one['certify_s']:.1f} s",
        )  # fmt: skip
    for name, one in found["optima"].items():
        report.add(
            f"{name}: 1 - certified efficiency", 1.0 - one["certified"],
            rivals={"branch and bound": max(round(1.0 - one["true"], 9), 0.0)},
            note=f"true efficiency {one['true']:.4f}, {'proven' if one['proven'] else 'best bound'} in "
            f"{one['nodes']} nodes; integrality {one['integrality']:.4f}",
        )  # fmt: skip
    speed = found["speed"]
    report.add(
        "40 of 214 by IV after blocks, truncated at 1e-4: CPU time", speed["default_s"], "s",
        rivals={"exact greedy": speed["exact_s"], "lazy (heuristic)": speed["lazy_s"]}, target=5.0,
        note=f"IV {speed['default']:.5f}, exact greedy {speed['exact']:.5f}, lazy {speed['lazy']:.5f}",
    )  # fmt: skip
    report.add("20 by IV, exchange from greedy: CPU time", speed["exchange_s"], "s", note=f"IV {speed['exchange']:.5f}")
    report.note(
        f"mlearn Si train, M = 400, noise 2 meV/atom and 0.1 eV/Å, amplitude 1, blocks truncated at {TRUNCATION:g}; "
        f"small problems: {SMALL[1]} of {SMALL[0]}, M = 100; {settings.threads} thread(s)"
    )
    return report


def study(*, quick: bool) -> dict[str, Any]:
    """Make the blocks once, then everything that is reported."""
    import kernelpot as kp
    from kernelpot.design import duplicates

    pool = mlearn("Si", "train")
    soap, m = kp.SOAP(cutoff=5.0, n_max=8, l_max=6, sigma=0.5), 400
    if quick:
        pool, soap, m = pool[::8], kp.SOAP(cutoff=4.5, n_max=4, l_max=3), 40
    noise = kp.Noise(energy=0.002, forces=0.1)
    space = kp.SparseGP(soap, kp.DotProduct(zeta=2, amplitude=1.0), n_inducing=m, noise=noise).prepare(pool)
    info = space.information(pool, truncate=TRUNCATION)
    heads = np.unique(duplicates(info), return_index=True)[1]
    size, n = (12, 3) if quick else SMALL
    sizes = (4, 8) if quick else (20, 40)
    few = [pool[k] for k in np.sort(np.random.default_rng(0).permutation(heads)[:size])]
    small = kp.SparseGP(soap, kp.DotProduct(zeta=2, amplitude=1.0), n_inducing=m // 4, noise=noise).prepare(few)
    blocks = small.information(few, truncate=TRUNCATION)
    return {
        "certificates": _certificates(info, sizes),
        "optima": {f"{n} of {size}, {name}": _optimum(blocks, n, name, quick=quick) for name in ("D", "A", "IV")},
        "speed": _speed(info.truncated(1e-4), sizes),
    }


def _certificates(info: Any, sizes: tuple[int, int]) -> dict[str, Any]:
    """Certify choices of both sizes by IV, of the smaller by the others."""
    from kernelpot.design import certify, select

    found = {}
    for criterion, n in [("IV", sizes[0]), ("IV", sizes[1]), *((other, sizes[0]) for other in OTHERS)]:
        rows = info.truncated(1e-4) if criterion == "G" else info  # every candidate against every row of the target
        with Stopwatch() as choosing:
            choice = select(rows, n, criterion=criterion, method="greedy" if criterion in "EG" else "exchange")
        with Stopwatch() as proving:
            shown = certify(rows, choice)
        found[f"{criterion} {n}"] = {
            "efficiency": shown.efficiency, "gap": shown.relaxation_gap, "truncation": shown.truncation_loss,
            "select_s": choosing.cpu, "certify_s": proving.cpu, "method": choice.method,
        }  # fmt: skip
    return found


def _optimum(few: Any, n: int, criterion: str, *, quick: bool) -> dict[str, Any]:
    """Compare a certificate with the truth."""
    from kernelpot.design import branch_and_bound, certify, select

    choice = select(few, n, criterion=criterion, method="exchange")
    shown = certify(few, choice)
    best = branch_and_bound(few, n, criterion=criterion, seconds=10.0 if quick else 300.0)
    reach = -shown.bound if criterion == "D" else shown.bound
    value, bound = (-best.value, -best.bound) if criterion == "D" else (best.value, best.bound)
    scale = few.d if criterion == "D" else 1.0
    ratio = (lambda a, b: np.exp((a - b) / scale)) if criterion == "D" else (lambda a, b: a / b)
    own = -choice.curve[-1] if criterion == "D" else choice.curve[-1]
    return {
        "certified": shown.efficiency, "proven": best.proven, "nodes": best.nodes,
        "true": float(ratio(bound, own)), "integrality": 1.0 - float(ratio(reach, value)),
    }  # fmt: skip


def _speed(info: Any, sizes: tuple[int, int]) -> dict[str, float]:
    """Time the default choice beside exact and lazy greedy, and the exchange."""
    from kernelpot.design import select

    found: dict[str, float] = {}
    for name, lazy in (("default", None), ("exact", False), ("lazy", True)):
        with Stopwatch() as watch:
            choice = select(info, sizes[1], criterion="IV", lazy=lazy)
        found |= {f"{name}_s": watch.cpu, name: float(choice.curve[-1])}
    with Stopwatch() as watch:
        choice = select(info, sizes[0], criterion="IV", method="exchange")
    return found | {"exchange_s": watch.cpu, "exchange": float(choice.curve[-1])}

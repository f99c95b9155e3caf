"""An assessment in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kernelpot.design.advice.findings import Curve, Findings
from kernelpot.design.choice import milli, settings_text
from kernelpot.units import MILLI

_SHOWN = 10
_CHAIN = 6
_SYMBOLS = {"D": "log det Λ", "A": "tr C", "IV": "tr(VC)"}


@dataclass(frozen=True)
class Sources:
    """Where structures come from, such as "pool.xyz@12", to be shown beside their numbers."""

    # members, candidates, targets: One name for each structure of the set, the pool and the target; empty
    # where there are none
    members: Sequence[str] = ()
    candidates: Sequence[str] = ()
    targets: Sequence[str] = ()


def describe(
    found: Findings,
    remarks: Sequence[str] = (),
    *,
    by_labels: Mapping[str, float] | None = None,
    sources: Sources | None = None,
) -> str:
    """Return the advice for people: verdict first, then tables."""
    settings = settings_text(found.description)
    lines = [*verdict(found, by_labels), *remarks, *([f"with {settings}"] if settings else [])]
    pages = _Pages(found, sources or Sources(), by_labels)
    parts = ["\n".join(["VERDICT", *(f"  {line}" for line in lines)]), pages.feasibility(), pages.target()]
    parts += [pages.members(), pages.swaps(), pages.additions(), pages.curves()]
    return "\n\n".join(part for part in parts if part)


def verdict(found: Findings, by_labels: Mapping[str, float] | None = None) -> list[str]:
    """Say in a few sentences whether the set can be trained on and what it lacks."""
    labels = ", ".join(f"{count} {kind}" for kind, count in found.counts.items() if count)
    where = found.feasibility
    lines = []
    if not where.rows:
        return [
            f"not feasible: the {found.n_structures} structures have no label of a kind that has a noise; "
            "compute labels, or name them with keys"
        ]
    lines.append(
        f"feasible: {found.n_structures} structures ({labels} labels) fix {where.effective:.0f} of the model's "
        f"{where.d} parameters; the prior holds the others"
    )
    if not found.counts.get("energy"):
        lines.append("no energies: forces alone leave every energy open by a constant for each composition")
    left = found.remaining
    for kind, (n_open, n_all) in left.directions.items():
        told = ""
        if by_labels and kind in by_labels:
            told = f"expected error by the labels {_figure(by_labels[kind], kind)}; "
        lines.append(
            f"{kind} of the {found.target_name}: {told}{_share(left.now[kind], left.prior[kind])} % of the prior's "
            f"standard deviation is left, {n_open} of {n_all} main directions are not determined"
        )
    if len(found.redundant):
        lines.append(
            f"{len(found.redundant)} structures are nearly redundant: without any one of them the set keeps "
            f"{100 * (1 - found.redundant_level):g} % of its efficiency"
        )
    return lines


@dataclass(frozen=True, eq=False)
class _Pages:
    """The parts of a text, each a table with its heading."""

    found: Findings
    names: Sources
    by_labels: Mapping[str, float] | None

    def feasibility(self) -> str:
        """Return the figures of rank and conditioning."""
        found = self.found
        where = found.feasibility
        by_kind = ", ".join(f"{kind} {value:.1f}" for kind, value in found.effective_by_kind.items())
        rows = [
            (
                "numerical rank of the rows",
                f"{where.rank} of {where.d}",
                f"singular values above {where.tolerance:.2g}",
            ),
            ("effective parameters", f"{where.effective:.1f}", f"fixed by labels, not by the prior: {by_kind}"),
            (
                "condition number",
                f"{where.condition:.2g}",
                "of the information matrix; above 1e14 round-off would show",
            ),
        ]
        return "FEASIBILITY\n" + _table(("figure", "value", "meaning"), rows)

    def target(self) -> str:
        """Return what is left open of the target."""
        found, names = self.found, self.names
        left = found.remaining
        kinds = list(left.now)
        head = ("group", "structures", *(f"{kind}, %" for kind in kinds))
        rows = [
            (
                name or "(no group)",
                f"{figures['structures']:.0f}",
                *(_share(figures[kind], left.prior[kind]) for kind in kinds),
            )
            for name, figures in left.groups.items()
        ]
        text = f"WHAT IS LEFT OPEN in the {found.target_name}: "
        text += "standard deviation, of the prior's mean over all; how large errors are, only labels tell"
        text += "\n" + _table(head, rows[: 2 * _SHOWN])
        worst = left.worst()
        head = (
            "structure",
            *(f"{kind}, %" for kind in kinds),
            *(f"{kind}, % of its own prior" for kind in kinds),
        )
        rows = [
            (
                _named(int(found.target_numbers[s]), names.targets),
                *(_share(float(left.structures[kind][s]), left.prior[kind]) for kind in kinds),
                *(f"{100 * float(left.shares[kind][s]):.2g}".replace("nan", "–") for kind in kinds),
            )
            for s in worst
        ]
        return text + f"\n\nleast known structures of the {found.target_name}\n" + _table(head, rows)

    def members(self) -> str:
        """Return what each member tells."""
        found, names = self.found, self.names
        order = np.argsort(-found.leverage, kind="stable")
        head = ("structure", "leverage", "loss of efficiency if removed, %")

        def rows(indices: Sequence[int]) -> list[tuple[str, str, str]]:
            return [
                (_named(s, names.members), f"{found.leverage[s]:.2f}", f"{100 * found.loss_shares[s]:.3g}")
                for s in indices
            ]

        text = "MEMBERS: leverage is the number of parameters that a structure fixes\nmost telling\n"
        text += _table(head, rows(order[:_SHOWN].tolist()))
        few = found.redundant
        if len(few):
            text += f"\n\nnearly redundant ({len(few)} in all, each judged alone)\n"
            text += _table(head, rows(few[:_SHOWN].tolist()))
        for tolerance, groups in found.duplicates.items():
            listed = "; ".join(
                "=".join(map(str, group[:_CHAIN]))
                + (f" … and {len(group) - _CHAIN} more" if len(group) > _CHAIN else "")
                for group in groups[:_SHOWN]
            )
            more = f"; … {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
            text += f"\nalike within {tolerance:g} of the mean descriptor: " + (
                f"{len(groups)} groups ({listed}{more})" if groups else "none"
            )
        return text

    def swaps(self) -> str:
        """Return the best swaps, if any."""
        found, names = self.found, self.names
        if not found.swaps:
            return ""
        symbol = _SYMBOLS.get(found.criterion, found.criterion)
        unit = f", {found.unit}" if found.unit else ""
        head = ("take out", "put in (pool)", f"gain in {symbol}{unit}", f"gain, % of {symbol} now")
        rows = [
            (
                _named(one.out, names.members),
                _named(one.candidate, names.candidates),
                f"{one.gain:.4g}",
                f"{100 * one.gain / max(abs(found.value), 1e-300):.3g}",
            )
            for one in found.swaps
        ]
        now = f"{found.value:.5g} {found.unit}".rstrip()
        return f"BEST SWAPS, each alone; {symbol} is {now} now\n" + _table(head, rows)

    def additions(self) -> str:
        """Return what to add next, if there is a pool."""
        found, names = self.found, self.names
        if not len(found.next_indices):
            return ""
        known = f" ({found.n_known} candidates repeat a member and are left out)" if found.n_known else ""
        kinds = list(found.ahead.errors)
        cost = f"cost, {found.cost_unit}" if found.cost_unit else "cost"
        gain = f"gain, {found.unit}" if found.unit else "gain"
        first = max(float(found.gain_per_cost[0]), 1e-300)
        head = (
            "pick",
            "pool",
            gain,
            cost,
            "gain per cost, first = 1",
            *(f"then {kind}, %" for kind in kinds),
        )
        rows = [
            (
                str(k + 1),
                _named(s, names.candidates),
                f"{found.next_gains[k]:.4g}",
                f"{found.next_costs[k]:.4g}",
                f"{found.gain_per_cost[k] / first:.2g}",
                *(_share(float(found.ahead.errors[kind][k + 1]), found.remaining.prior[kind]) for kind in kinds),
            )
            for k, s in enumerate(found.next_indices.tolist())
        ]
        return f"WHAT TO ADD NEXT, in order{known}; standard deviation left, of the prior's\n" + _table(head, rows)

    def curves(self) -> str:
        """Return the errors against the number of labels."""
        found, by_labels = self.found, self.by_labels
        prior = found.remaining.prior
        text = f"STANDARD DEVIATION LEFT on the {found.target_name} against the number of labels, % of the prior's"
        text += "; FORECAST says by the labels how large errors are" if by_labels else ""
        text += "\n" + curve_table(found.history, prior)
        if found.ahead_random is not None and len(found.ahead.n) > 1:
            last = {
                curve.name: ", ".join(
                    f"{kind} {_share(float(v[-1]), prior[kind])} %" for kind, v in curve.errors.items()
                )
                for curve in (found.ahead, found.ahead_random)
            }
            text += f"\nafter {found.ahead.n[-1]} labels: " + "; ".join(f"{name} {line}" for name, line in last.items())
        if prior.get("energy", 0.0) > 1.0:
            text += "\nthe first energies settle the energies of free atoms, which the prior leaves open by 10 eV"
        hidden = [
            f"{kind} {_share(found.ahead.noise[kind] * share**0.5, prior[kind])} %"
            for kind, share in found.discarded.items()
            if share > 0 and found.ahead.noise[kind] * share**0.5 > 0.1 * found.remaining.now[kind]
        ]
        if hidden:
            text += f"\ncompression of the target's rows may hide up to: {', '.join(hidden)}; use truncate=0"
        return text


def curve_table(curve: Curve, prior: Mapping[str, float]) -> str:
    """Set a curve as a table, in per cent of the prior's standard deviation."""
    kinds = list(curve.errors)
    rows = [
        (str(n), *(_share(float(curve.errors[kind][k]), prior[kind]) for kind in kinds))
        for k, n in enumerate(curve.n.tolist())
    ]
    return _table(("labels", *(f"{kind}, %" for kind in kinds)), rows)


def _share(value: float, prior: float) -> str:
    """Write a standard deviation in per cent of the prior's."""
    return f"{100 * value / prior:.3g}".replace("nan", "–") if prior > 0.0 else "–"


def _named(number: int, names: Sequence[str]) -> str:
    """Write a structure's number, and where it comes from if that is known."""
    return f"{number} ({names[number]})" if names else str(number)


def _figure(value: float, kind: str) -> str:
    return f"{milli(value)} {MILLI[kind]}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns to the right, but text of the first and of long last ones to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    left = {0} | ({len(head) - 1} if head[-1] == "meaning" else set())
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *rows]
    )


@dataclass(frozen=True, eq=False)
class Assessment(Findings):
    """Advice on a set: what was found, as text and as plain numbers."""

    def __str__(self) -> str:
        """Return the advice for people."""
        return describe(self)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and text."""
        left = self.remaining
        return {
            "n_structures": self.n_structures,
            "labels": dict(self.counts),
            "settings": dict(self.description),
            "feasibility": asdict(self.feasibility) | {"effective_by_kind": dict(self.effective_by_kind)},
            "target": {
                "name": self.target_name,
                "prior_error": dict(left.prior),
                "expected_error": dict(left.now),
                "noise": dict(self.ahead.noise),
                "open_directions": {kind: list(both) for kind, both in left.directions.items()},
                "groups": {name: dict(figures) for name, figures in left.groups.items()},
                "structures": {kind: values.tolist() for kind, values in left.structures.items()},
                "share_of_prior_std": {kind: values.tolist() for kind, values in left.shares.items()},
                "numbers": self.target_numbers.tolist(),
                "worst": self.target_numbers[left.worst()].tolist(),
                "units": {kind: unit.replace("meV", "eV") for kind, unit in MILLI.items()},
            },
            "criterion": {"name": self.criterion, "value": self.value},
            "members": {
                "leverage": self.leverage.tolist(),
                "loss": self.losses.tolist(),
                "loss_of_efficiency": self.loss_shares.tolist(),
                "redundant": self.redundant.tolist(),
            },
            "duplicates": {f"{tolerance:g}": groups for tolerance, groups in self.duplicates.items()},
            "swaps": [asdict(swap) for swap in self.swaps],
            "next": {
                "indices": self.next_indices.tolist(),
                "gain": self.next_gains.tolist(),
                "cost": self.next_costs.tolist(),
                "cost_unit": self.cost_unit,
                "gain_per_cost": self.gain_per_cost.tolist(),
            },
            "pool_duplicates_of_set": self.n_known,
            "curves": [curve.as_dict() for curve in (self.history, self.ahead, self.ahead_random) if curve is not None],
        }

"""Advice on a set of structures, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kernelpot.design.advice.expected import UNITS
from kernelpot.design.advice.findings import Findings
from kernelpot.design.advice.text import describe


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
                "units": {kind: unit.replace("meV", "eV") for kind, unit in UNITS.items()},
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

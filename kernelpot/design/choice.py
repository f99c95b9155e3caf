"""A chosen set with what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_SHOWN = 12

SILENT = 0.05
"""Efficiency bound below which nothing is said of a choice."""

SILENCE = (
    "so low a bound says nothing of the choice: where noise is small, a part of a label counts nearly as a whole one, "
    "and fractional choices, which the bound is taken from, leave whole ones far behind"
)


@dataclass(frozen=True, eq=False)
class Choice:
    """Which structures to label, in order of choice.

    Parameters
    ----------
    indices
        Structure numbers.
    curve
        Raw value of the criterion before and after every pick, such as log det Λ for D (larger is better) and
        tr(VC) for IV (smaller is better), in units of the noises and of the whitened prior.
    criterion, method
        Names of what the curve measures and of how the set was found.
    efficiency_bound
        The design is at least this efficient against the best one of the same size or budget: for D the ratio
        of geometric mean eigenvalues, else the ratio of the criterion's values. None where nothing was chosen.
        See `efficiency_from`; `kernelpot.design.bounds.certify` finds a tight one for any choice.
    efficiency_from
        Where that limit comes from. Taken at the design itself it is valid but loose; a low figure says little.
    symbol, larger_is_better
        What the curve measures, for people, and its direction.
    description
        Settings behind the information, such as noises and amplitude.
    n_candidates, n_distinct
        Structures in the pool, and how many of them differ from one another and from what existed.
    n_repeated
        How many chosen structures duplicate another chosen or an existing one; not zero only where more were
        asked for than there are distinct ones.
    costs
        Cost of each chosen structure where there was a budget, by name of the resource where those had names.
    budget
        What could be spent, or None; likewise.
    groups
        Group name of each chosen structure.
    """

    indices: Int[np.ndarray, " n"]
    curve: Float[np.ndarray, " n+1"]
    criterion: str
    method: str
    efficiency_bound: float | None
    description: Mapping[str, Any] = field(default_factory=dict)
    n_candidates: int = 0
    n_distinct: int = 0
    n_repeated: int = 0
    costs: Float[np.ndarray, " n"] | Mapping[str, Float[np.ndarray, " n"]] | None = None
    budget: float | Mapping[str, float] | None = None
    groups: tuple[str, ...] = ()
    efficiency_from: str = "the choice itself"
    symbol: str = ""
    larger_is_better: bool = False

    def __len__(self) -> int:
        """Return the number of chosen structures."""
        return len(self.indices)

    def __str__(self) -> str:
        """Return a short table for people."""
        return "\n".join([self.summary(), *self._table(self.symbol or self.criterion)])

    def summary(self) -> str:
        """Return the same without the table of picks."""
        n = len(self)
        symbol = self.symbol or self.criterion
        better = "larger" if self.larger_is_better else "smaller"
        lines = [
            f"{n} of {self.n_candidates} structures ({self.n_distinct} distinct), method {self.method}, "
            f"criterion {self.criterion} = {symbol}, {better} is better",
        ]
        if self.description:
            lines.append("with " + ", ".join(f"{key} {value}" for key, value in self.description.items()))
        lines.append(f"{symbol}: {self.curve[0]:.6g} before, {self.curve[-1]:.6g} after")
        if self.efficiency_bound is not None:
            floor = np.floor(self.efficiency_bound * 1e3) / 1e3
            loose = self.efficiency_from == "the choice itself"
            how = (
                "a loose limit, taken at the choice itself; certify finds a sharper one"
                if loose
                else (f"by {self.efficiency_from}")
            )
            lines.append(f"efficiency against the best possible choice: at least {floor:.3f} ({how})")
            if floor < SILENT:
                lines.append(SILENCE)
        lines += self._bill()
        if self.n_repeated:
            lines.append(f"{self.n_repeated} of them repeat another structure, for only {self.n_distinct} are distinct")
        return "\n".join(lines)

    def _bill(self) -> list[str]:
        """Lines of what was spent."""
        if self.costs is None or self.budget is None:
            return []
        if isinstance(self.costs, Mapping) and isinstance(self.budget, Mapping):
            return [
                f"{name}: cost {costs.sum():.6g} of a budget of {self.budget[name]:.6g}"
                for name, costs in self.costs.items()
            ]
        return [f"cost {np.asarray(self.costs).sum():.6g} of a budget of {self.budget:.6g}"]

    def _table(self, symbol: str) -> list[str]:
        """Lines of the picks; the middle of a long choice is left out."""
        n = len(self)
        if not n:
            return []
        named = any(self.groups)
        width = max(len(symbol) + 2, 14)
        lines = [f"{'pick':>6}{'structure':>11}{symbol:>{width}}" + ("  group" if named else "")]
        for k in range(n):
            if n > _SHOWN and _SHOWN - 3 <= k < n - 2:
                if k == _SHOWN - 3:
                    lines.append(f"{'…':>6}")
                continue
            group = f"  {self.groups[k]}" if named else ""
            lines.append(f"{k + 1:>6}{self.indices[k]:>11}{self.curve[k + 1]:>{width}.6g}{group}")
        return lines

"""A chosen set with what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.units import MILLI

_SHOWN = 12

NOISES = "noise²"
"""Unit of variances of labels that are each divided by their noise."""

ITSELF = "the choice itself"
"""Where a limit of efficiency comes from that no relaxation has sharpened."""

SHARP = 0.95
"""Efficiency from which a limit taken at the choice itself is sharp enough."""

SILENT = 0.05
"""Efficiency bound below which nothing is said of a choice."""

SILENCE = (
    "so low a bound says nothing of the choice: where noise is small, a part of a label counts nearly as a whole one, "
    "and fractional choices, which the bound is taken from, leave whole ones far behind"
)


def milli(value: float) -> str:
    """Write a thousandfold for people, who read meV."""
    if not np.isfinite(value):
        return "–"
    if value < 1e-9:
        return "0"
    return f"{1e3 * value:.3g}" if value < 1 else f"{1e3 * value:.0f}"


def settings_text(description: Mapping[str, Any]) -> str:
    """Write the settings behind an information for people, with units; noises go by their kinds of label."""
    units = {"energy": " eV/atom", "forces": " eV/Å", "stress": " eV/Å³", "amplitude": " eV"}
    return ", ".join(
        f"{'noise of ' if key in MILLI else ''}{key} {value}{units.get(key, '')}" for key, value in description.items()
    )


@dataclass(frozen=True)
class Facts:
    """What is worked out of a choice when it is shown, not when it is made."""

    efficiency: float | None = None  # by a relaxation
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by kind, before and after
    target: str = "pool"


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
        See `efficiency_from`; `kernelpot.design.certify` finds a tight one for any choice, as printing a choice does in
        a few seconds where the pool is not too large.
    efficiency_from
        Where that limit comes from. Taken at the design itself it is valid but loose; a low figure says little.
    symbol, larger_is_better
        What the curve measures, for people, and its direction.
    unit
        Of the curve; "noise²" where it is a variance of labels in units of their noise.
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
    work_out
        Finds the figures that are printed beside these, with a sharper limit of efficiency where its argument says so;
        None where nothing more is known.
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
    efficiency_from: str = ITSELF
    symbol: str = ""
    larger_is_better: bool = False
    unit: str = ""
    work_out: Callable[[bool], Facts] | None = field(default=None, repr=False)

    @cached_property
    def facts(self) -> Facts:
        """Figures worked out once, for people."""
        return Facts() if self.work_out is None else self.work_out(self.efficiency_from == ITSELF)

    def __len__(self) -> int:
        """Return the number of chosen structures."""
        return len(self.indices)

    def __str__(self) -> str:
        """Return a short table for people."""
        return "\n".join([self.summary(), *self._table()])

    @property
    def column(self) -> tuple[str, Float[np.ndarray, " n+1"]]:
        """The curve as people read it, with its heading: of variances in units of the noise the standard deviation."""
        if self.unit == NOISES:
            return "std / noise", np.sqrt(np.maximum(self.curve, 0.0))
        return self.symbol or self.criterion, self.curve

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
            lines.append(f"with {settings_text(self.description)}")
        name, values = self.column
        if not (self.unit == NOISES and self.facts.errors):
            lines.append(f"{name}: {values[0]:.6g} before, {values[-1]:.6g} after")
        if self.facts.errors:
            told = (
                f"{kind} {100 * after / before:.3g} %"
                for kind, (before, after) in self.facts.errors.items()
                if before > 0.0
            )
            lines.append(
                f"standard deviation left on the {self.facts.target}, of that before: {', '.join(told)} (how large "
                "errors are, only labels tell)"
            )
            if self.facts.errors.get("energy", (0.0, 0.0))[0] > 1.0:
                lines.append(
                    "of energies, the first labels settle those of free atoms, which the prior leaves open by 10 eV"
                )
        lines += self._efficiency()
        lines += self._bill()
        if self.n_repeated:
            lines.append(f"{self.n_repeated} of them repeat another structure, for only {self.n_distinct} are distinct")
        return "\n".join(lines)

    def _efficiency(self) -> list[str]:
        """Lines of what no choice could better."""
        best, source = self.efficiency_bound, self.efficiency_from
        if best is None:
            return []
        if self.facts.efficiency is not None and self.facts.efficiency > best:
            best, source = self.facts.efficiency, "a relaxation"
        floor = np.floor(best * 1e3) / 1e3
        how = f"by {source}"
        if source == ITSELF:
            loose = "a loose limit, taken at the choice itself; certify finds a sharper one"
            how = loose if best < SHARP else "taken at the choice itself"
        line = f"efficiency against the best possible choice: at least {floor:.3f} ({how})"
        return [line, SILENCE] if floor < SILENT else [line]

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

    def _table(self) -> list[str]:
        """Lines of the picks; the middle of a long choice is left out."""
        n = len(self)
        symbol, values = self.column
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
            lines.append(f"{k + 1:>6}{self.indices[k]:>11}{values[k + 1]:>{width}.6g}{group}")
        return lines

"""How a choice depends on the settings it is made under: power of the kernel, cutoff, noise, amplitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.problem import starting
from kernelpot.design.robust import Infos, common_rules, log_efficiency, measure_of, shares
from kernelpot.design.search.greedy import follow
from kernelpot.design.select import select


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much the choice depends on the settings it is made under.

    Attributes
    ----------
    names
        Settings.
    criterion
        What every choice was made by.
    choices
        Structure numbers that each setting's own greedy choice holds.
    overlap
        Share of the structures of choice i (row) that choice j (column) holds, or duplicates of them.
    efficiency
        Of the choice made under setting i (row), judged under setting j (column), relative to the choice made
        under j.
    by_chance
        Overlap that two random choices have on average.
    """

    names: tuple[str, ...]
    criterion: str
    choices: tuple[Int[np.ndarray, " n"], ...]
    overlap: Float[np.ndarray, "settings settings"]
    efficiency: Float[np.ndarray, "settings settings"]
    by_chance: float

    def __str__(self) -> str:
        """Return both matrices for people."""
        width = max(len(name) for name in self.names)
        column = max(8, width + 2)
        head = " " * width + "".join(f"{name:>{column}}" for name in self.names)
        parts = [
            f"choices of {len(self.choices[0])} by {self.criterion}: share of the structures of a row's choice that "
            f"the column's holds too ({self.by_chance:.2f} by chance)",
            head,
        ]
        parts += self._matrix(self.overlap)
        parts += [
            "",
            "efficiency of a row's choice under the column's setting, relative to the choice made there",
            head,
        ]
        return "\n".join(parts + self._matrix(self.efficiency))

    def _matrix(self, values: Float[np.ndarray, "settings settings"]) -> list[str]:
        width = max(len(name) for name in self.names)
        column = max(8, width + 2)
        return [
            f"{name:<{width}}" + "".join(f"{v:>{column}.3f}" for v in row)
            for name, row in zip(self.names, values, strict=True)
        ]


def sensitivity(
    infos: Infos,
    n: int,
    *,
    criterion: str = "IV",
    existing: Infos | None = None,
    seed: int = 0,
    method: str = "greedy",
) -> Sensitivity:
    """Choose under each setting, and judge each choice under every other setting.

    Parameters
    ----------
    infos
        The same pool under each setting, by name, such as
        ``{f"amplitude {a:g}": space.information(pool, amplitude=a) for a in (0.1, 1.0, 10.0)}``.
    n
        Number of structures.
    criterion, existing, seed, method
        As in `kernelpot.design.select`; `existing` for each setting.

    Raises
    ------
    ParameterError
        As `select`.
    """
    shares(infos, None)
    rules = common_rules(infos, n, existing, seed)
    old = existing or {}
    choices = {
        name: select(info, n, criterion=criterion, method=method, existing=old.get(name), seed=seed).indices
        for name, info in infos.items()
    }
    names = tuple(infos)
    gained = np.empty((len(names), len(names)))
    for j, name in enumerate(names):
        measure, start = measure_of(criterion, name, infos[name]), starting(infos[name], old.get(name))
        for i, maker in enumerate(names):
            path = follow(infos[name], choices[maker].tolist(), measure, start)
            gained[i, j] = log_efficiency(measure, infos[name].d, np.array(path.values))[-1]
    sets = [set(rules.groups[choices[name]].tolist()) for name in names]
    overlap = np.array([[len(a & b) / max(len(a), 1) for b in sets] for a in sets])
    return Sensitivity(
        names=names,
        criterion=criterion,
        choices=tuple(choices[name] for name in names),
        overlap=overlap,
        efficiency=np.exp(gained - np.diag(gained)),
        by_chance=min(1.0, n / max(rules.distinct, 1)),
    )

"""Searches for a good set of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.gains import Path
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.tried import gains_for
from kernelpot.errors import ParameterError
from kernelpot.progress import track


@dataclass(frozen=True, eq=False)
class Rules:
    """What a choice may hold.

    Parameters
    ----------
    n
        Largest number of structures.
    groups
        Duplicate group of every candidate; a second member is chosen only where no other group is left.
    taken
        Candidates whose group counts as chosen from the start.
    costs, budget
        Cost of every candidate and what may be spent in all; an infinite budget is none.
    seed
        Seed of the order that breaks ties.
    """

    n: int
    groups: Int[np.ndarray, " structures"]
    taken: Bool[np.ndarray, " structures"]
    costs: Float[np.ndarray, " structures"]
    budget: float
    seed: int

    @property
    def distinct(self) -> int:
        """Number of groups that are free at the start."""
        return len(np.unique(self.groups[~self.taken]))

    def affordable(self, left: float) -> Bool[np.ndarray, " structures"]:
        """Mark what the rest of the budget can pay.

        A whisker of slack: costs that add up to the budget exactly must not fail by round-off.
        """
        result: np.ndarray = self.costs <= left + 1e-12 * abs(self.budget)
        return result


class Available:
    """The candidates that rules still allow, while a choice grows."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._free = ~rules.taken
        self._chosen = np.zeros(len(rules.groups), dtype=bool)
        self._left = rules.budget
        self.indices: list[int] = []

    def now(self) -> Bool[np.ndarray, " structures"]:
        """Mark what may be chosen next."""
        if len(self.indices) >= self._rules.n:
            return np.zeros_like(self._chosen)
        affordable = self._rules.affordable(self._left)
        first = self._free & affordable
        # Repeats are for those who ask for more than there are, not for what a budget cannot pay.
        return first if self._free.any() else ~self._chosen & affordable

    def choose(self, s: int) -> None:
        """Choose candidate s."""
        self.indices.append(int(s))
        self._chosen[s] = True
        self._free &= self._rules.groups != self._rules.groups[s]
        self._left -= float(self._rules.costs[s])


def greedy(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    precision: Precision,
    *,
    per_cost: bool = False,
    lazy: bool | None = None,
) -> tuple[list[int], Path]:
    """Choose the block of the largest gain again and again.

    For D under a size limit the gain reaches at least ``1 - 1/e`` of the best possible (Nemhauser, Wolsey and
    Fisher 1978). Lazy evaluation (Minoux 1978) gives the same choice for a submodular criterion.

    Parameters
    ----------
    info
        Candidates.
    criterion
        What is improved.
    rules
        What a choice may hold.
    precision
        Information before the choice.
    per_cost
        Divide gains by costs (for budgets).
    lazy
        Update only candidates whose last known gain could still win. None: where that is exact.

    Returns
    -------
    indices, path
        The choice in order (fewer than `rules.n` where the budget ends first), and the path it took.

    Raises
    ------
    ParameterError
        If `lazy` is asked of a criterion for which it is not exact.
    """
    if lazy and not criterion.submodular:
        raise ParameterError(f"lazy greedy is exact only for submodular criteria, not for {criterion.name}")
    if lazy is None:
        lazy = criterion.submodular
    path = Path(criterion, precision)
    gains = gains_for(info, path, lazy=lazy)
    available = Available(rules)
    rank = np.random.default_rng(rules.seed).permutation(len(info))
    scale = rules.costs if per_cost else np.ones(len(info))
    for _ in track(range(rules.n), "choosing"):
        live = available.now()
        if not live.any():
            break
        s = gains.best(live, scale, rank)
        available.choose(s)
        following = available.now()
        if following.any():
            gains.add(s, following)
        else:
            path.add(info.block(s))
    path.anchor()
    return available.indices, path


def follow(info: Information, indices: Sequence[int], criterion: Criterion, precision: Precision) -> Path:
    """Walk along a choice that was made by any method.

    Parameters
    ----------
    info
        Candidates.
    indices
        The choice, in order.
    criterion
        What is evaluated.
    precision
        Information before the choice.
    """
    path = Path(criterion, precision)
    for s in indices:
        path.add(info.block(s))
    path.anchor()
    return path

"""Fedorov's exchange: one chosen structure against another, for as long as that helps.

Every member of the design in turn is set against all candidates, and the best swap is made (the cyclic exchange of
Cook and Nachtsheim 1980, a cheaper form of Fedorov 1972, ch. 3). With C' the covariance without the member, a swap is
worth the difference of two gains in closed form, that of the candidate and that of the member.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria import IV, Criterion, D
from kernelpot.design.gains import Gains, Path, first_of_best
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.rowswaps import RowSwaps
from kernelpot.design.search import Available, Rules
from kernelpot.design.tried import TriedGains, gains_for
from kernelpot.progress import track

_WORTHWHILE = 1e-9
"""Swaps that improve a value by less, relatively, could be round-off and go round in circles."""
_SHAKEN = 0.15


class BlockSwaps:
    """Gains of all blocks beside a design from which one member is taken out.

    The reduced information is factorised anew from the blocks themselves: to subtract a block from C would lose the
    directions that only this block knew.

    Parameters
    ----------
    info
        Candidate blocks.
    criterion
        What is improved.
    start
        Information before the choice.
    indices
        The design.
    """

    def __init__(self, info: Information, criterion: Criterion, start: Precision, indices: Sequence[int]) -> None:
        self._info, self._criterion, self._start = info, criterion, start
        self.indices = list(indices)
        self.value = self._evaluate(self.indices)
        self._gains: Gains | None = None

    def promising(self, noise: float) -> Int[np.ndarray, " some"]:  # noqa: ARG002 (any member may turn out to be)
        """Positions of members worth trying: all."""
        return np.arange(len(self.indices))

    def without(self, position: int) -> Float[np.ndarray, " structures"]:
        """Gain of every candidate if the member at a position were out."""
        rest = self.indices[:position] + self.indices[position + 1 :]
        path = Path(self._criterion, self._start.with_rows(self._info.take(rest).rows))
        if path.criterion.roots is None:
            return TriedGains(self._info, path, keep=(self.indices[position],)).values
        if self._gains is None:
            self._gains = Gains(self._info, path)
        else:
            self._gains.restart(path)
        return self._gains.values

    def swap(self, position: int, s: int) -> None:
        """Put candidate s in the place of a member."""
        self.indices[position] = s
        self.value = self._evaluate(self.indices)

    def _evaluate(self, indices: Sequence[int]) -> float:
        """Value of the criterion from the blocks."""
        return self._criterion.value(self._start.with_rows(self._info.take(indices).rows))


def exchange(
    info: Information,
    indices: Sequence[int],
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    *,
    restarts: int = 0,
    passes: int = 100,
) -> tuple[list[int], int]:
    """Improve a design by swaps until none helps; then shake a part of it and try again.

    Parameters
    ----------
    info
        Candidates.
    indices
        The design to begin with, which the rules must allow.
    criterion
        What is improved.
    rules
        What a choice may hold. Under a budget, what a swap sets free is spent on further structures.
    start
        Information before the choice.
    restarts
        How often the best design so far is shaken (an iterated local search, Lourenço, Martin and Stützle 2003): a
        part of its members, 15 % or at least 2, are replaced by random candidates.
    passes
        Limit of the passes over the design.

    Returns
    -------
    indices, swaps
        The best design, never worse than the first, and the number of swaps that led to all designs tried.
    """
    rng = np.random.default_rng([rules.seed, 1])
    best, value, swaps = _settle(info, list(indices), criterion, rules, start, rng, passes)
    for _ in track(range(restarts), "exchanging"):
        if not 0 < len(best) < len(info):
            break
        trial, score, more = _settle(info, _shake(best, rules, rng), criterion, rules, start, rng, passes)
        swaps += more
        if criterion.sign * score > criterion.sign * value:
            best, value = trial, score
    return best, swaps


def _settle(
    info: Information,
    indices: list[int],
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    rng: np.random.Generator,
    passes: int,
) -> tuple[list[int], float, int]:
    """Swap and fill up until nothing helps."""
    swaps_of = RowSwaps if single_rows(info) and isinstance(criterion, D | IV) else BlockSwaps
    state: RowSwaps | BlockSwaps = swaps_of(info, criterion, start, indices)
    rank = rng.permutation(len(info))
    swaps = 0
    for _ in range(passes):
        before = swaps
        for position in rng.permutation(state.promising(_WORTHWHILE * abs(state.value))):
            swaps += _improve(state, int(position), rules, rank)
        if swaps == before:
            break
    grown = fill(info, state.indices, criterion, rules, start)
    if len(grown) > len(state.indices):
        state = swaps_of(info, criterion, start, grown)
    return state.indices, state.value, swaps


def _improve(state: RowSwaps | BlockSwaps, position: int, rules: Rules, rank: Int[np.ndarray, " structures"]) -> bool:
    """Make the best swap for one member, if one is worth it."""
    member = state.indices[position]
    allowed = swappable(rules, state.indices, position)
    allowed[member] = False
    if not allowed.any():
        return False
    gains = state.without(position)
    s = first_of_best(np.where(allowed, gains, -np.inf), rank)
    noise = _WORTHWHILE * max(abs(state.value), abs(float(gains[member])))
    if gains[s] - gains[member] <= noise:
        return False
    state.swap(position, s)
    return True


def single_rows(info: Information) -> bool:
    """Whether every candidate is one row, as in plain regression.

    Parameters
    ----------
    info
        Candidates.
    """
    return bool((np.diff(info.offsets) == 1).all())


def swappable(rules: Rules, indices: Sequence[int], position: int) -> Bool[np.ndarray, " structures"]:
    """Mark what may take the place of a member, by the same rules as `Available`.

    Parameters
    ----------
    rules
        What a choice may hold.
    indices, position
        The design, and the member that leaves.
    """
    rest = np.delete(np.asarray(indices, dtype=np.int64), position)
    affordable = rules.affordable(rules.budget - float(rules.costs[rest].sum()))
    held = np.zeros(int(rules.groups.max(initial=-1)) + 1, dtype=bool)
    held[rules.groups[rest]] = True
    first = ~rules.taken & ~held[rules.groups]
    if first.any():
        return first & affordable
    affordable[rest] = False
    return affordable


def fill(info: Information, indices: Sequence[int], criterion: Criterion, rules: Rules, start: Precision) -> list[int]:
    """Add the best structures that the rules still allow.

    Parameters
    ----------
    info, indices, criterion, rules, start
        As in `exchange`.
    """
    available = Available(rules)
    for s in indices:
        available.choose(s)
    if available.now().any():
        gains = gains_for(info, Path(criterion, start.with_rows(info.take(indices).rows)))
        rank = np.random.default_rng(rules.seed).permutation(len(info))
        while (live := available.now()).any():
            s = gains.best(live, np.ones(len(info)), rank)
            available.choose(s)
            gains.add(s, live)
    return available.indices


def _shake(indices: Sequence[int], rules: Rules, rng: np.random.Generator) -> list[int]:
    """Replace a part of a design by random candidates."""
    shaken = list(indices)
    for position in rng.permutation(len(shaken))[: max(2, round(_SHAKEN * len(shaken)))]:
        allowed = np.flatnonzero(swappable(rules, shaken, int(position)))
        if len(allowed):
            shaken[position] = int(rng.choice(allowed))
    return shaken

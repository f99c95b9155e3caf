"""Fedorov's exchange: one chosen structure against another, for as long as that helps.

Every member of the design in turn is set against all candidates, and the best swap is made (the cyclic exchange of
Cook and Nachtsheim 1980, a cheaper form of Fedorov 1972, ch. 3). With C' the covariance without the member, a swap is
worth the difference of two gains in closed form, that of the candidate and that of the member.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from kernelpot.design.available import Available, swappable
from kernelpot.design.criteria import IV, Criterion, D
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.rules import Rules
from kernelpot.design.search.blockswaps import BlockSwaps, ScreenedSwaps
from kernelpot.design.search.engines import gains_for
from kernelpot.design.search.gains import Path, first_of_best
from kernelpot.design.search.rowswaps import RowSwaps
from kernelpot.progress import track

_WORTHWHILE = 1e-9
"""Swaps that improve a value by less, relatively, could be round-off and go round in circles."""
_SHAKEN = 0.15
_EXACT = 2e10
"""Operations of an exact pass (members times rows times d²) above which a screen looks first."""


def exchange(
    info: Information,
    indices: Sequence[int],
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    *,
    restarts: int = 0,
    passes: int = 100,
    screen: bool | None = None,
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
    screen
        Look at shortened blocks first, and make sure of the few best candidates only (see `ScreenedSwaps`); the end
        is then a local optimum as far as the screen sees. None: where exact passes would take long.

    Returns
    -------
    indices, swaps
        The best design, never worse than the first, and the number of swaps that led to all designs tried.
    """
    rng = np.random.default_rng([rules.seed, 1])
    best, value, swaps = _settle(info, list(indices), criterion, rules, start, rng, passes, screen=screen)
    for _ in track(range(restarts), "exchanging"):
        if not 0 < len(best) < len(info):
            break
        trial, score, more = _settle(
            info, _shake(best, rules, rng), criterion, rules, start, rng, passes, screen=screen
        )
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
    *,
    screen: bool | None,
) -> tuple[list[int], float, int]:
    """Swap and fill up until nothing helps."""
    state = _state(info, criterion, start, indices, screen=screen)
    rank = rng.permutation(len(info))
    # Members that were set against all candidates since the last swap, or that must stay, need not be tried again.
    forced = np.isin(state.indices, rules.forced)
    settled = forced.copy()
    swaps = 0
    for _ in range(passes):
        before = swaps
        order = state.promising(_WORTHWHILE * abs(state.value))
        for position in order if isinstance(state, ScreenedSwaps) else rng.permutation(order):
            if settled[position]:
                continue
            if _improve(state, int(position), rules, rank):
                swaps += 1
                settled = forced.copy()
            settled[position] = True
        if swaps == before:
            break
    grown = fill(info, state.indices, criterion, rules, start)
    if len(grown) > len(state.indices):
        return grown, criterion.value(start.with_rows(info.take(grown).rows)), swaps
    return state.indices, state.value, swaps


def _state(
    info: Information, criterion: Criterion, start: Precision, indices: Sequence[int], *, screen: bool | None
) -> RowSwaps | BlockSwaps | ScreenedSwaps:
    """Choose the kind of swaps that suits the candidates."""
    if single_rows(info) and isinstance(criterion, D | IV):
        return RowSwaps(info, criterion, start, indices)
    if screen is None:
        screen = len(indices) * len(info.rows) * info.d**2 > _EXACT
    return (ScreenedSwaps if screen and criterion.roots is not None else BlockSwaps)(info, criterion, start, indices)


def _improve(
    state: RowSwaps | BlockSwaps | ScreenedSwaps, position: int, rules: Rules, rank: Int[np.ndarray, " structures"]
) -> bool:
    """Make the best swap for one member, if one is worth it."""
    member = state.indices[position]
    allowed = swappable(rules, state.indices, position)
    allowed[member] = False
    if not allowed.any():
        return False
    if isinstance(state, ScreenedSwaps):
        return state.improve(position, allowed, rank, _WORTHWHILE)
    gains = state.without(position, allowed) if isinstance(state, BlockSwaps) else state.without(position)
    scores = np.where(allowed, gains, -np.inf)
    if scores.max() == -np.inf:
        return False
    s = first_of_best(scores, rank)
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


def fill(info: Information, indices: Sequence[int], criterion: Criterion, rules: Rules, start: Precision) -> list[int]:
    """Add the best structures that the rules still allow.

    Parameters
    ----------
    info, indices, criterion, rules, start
        As in `exchange`.
    """
    available = Available(rules, indices)
    live = available.now()
    if live.any():
        gains = gains_for(info, Path(criterion, start.with_rows(info.take(available.indices).rows)))
        rank = np.random.default_rng(rules.seed).permutation(len(info))
        while live.any():
            s = gains.best(live, np.ones(len(info)), rank)
            available.choose(s)
            live = available.now()
            if live.any():
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

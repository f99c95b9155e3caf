"""Fedorov's exchange: one chosen structure against another, for as long as that helps.

Every member of the design in turn is set against all candidates, and the best swap is made (the cyclic exchange of
Cook and Nachtsheim 1980, a cheaper form of Fedorov 1972, ch. 3). With C' the covariance without the member, a swap is
worth the difference of two gains in closed form, that of the candidate and that of the member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.available import Available, swappable
from kernelpot.design.criteria import IV, D
from kernelpot.design.limits import Numbers, read_numbers
from kernelpot.design.rivals import RIVALS, ranked
from kernelpot.design.search.engines import gains_for
from kernelpot.design.search.gains import Path
from kernelpot.design.search.greedy import best_greedy
from kernelpot.design.search.swaps import WORTHWHILE, BlockSwaps, RowSwaps, ScreenedSwaps
from kernelpot.design.task import Rules, Task
from kernelpot.errors import ParameterError
from kernelpot.progress import track

_SHAKEN = 0.15
_EXACT = 2e10
"""Operations of an exact pass (members times rows times d²) above which a screen looks first."""
_SUPPORT = 1e-3


def exchange(
    task: Task, indices: Sequence[int], *, restarts: int = 0, passes: int = 100, screen: bool | None = None
) -> tuple[list[int], int]:
    """Improve a design by swaps until none helps; then shake a part of it and try again.

    Parameters
    ----------
    task
        What is to be chosen. Under a budget, what a swap sets free is spent on further structures.
    indices
        The design to begin with, which the rules must allow.
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
    rng = np.random.default_rng([task.rules.seed, 1])
    sign = task.criterion.sign
    best, value, swaps = _settle(task, list(indices), rng, passes, screen=screen)
    for _ in track(range(restarts), "exchanging"):
        if not 0 < len(best) < len(task.info):
            break
        trial, score, more = _settle(task, _shake(best, task.rules, rng), rng, passes, screen=screen)
        swaps += more
        if sign * score > sign * value:
            best, value = trial, score
    return best, swaps


def _settle(
    task: Task, indices: list[int], rng: np.random.Generator, passes: int, *, screen: bool | None
) -> tuple[list[int], float, int]:
    """Swap and fill up until nothing helps."""
    info, criterion = task.info, task.criterion
    state: RowSwaps | BlockSwaps | ScreenedSwaps
    if task.single_rows and isinstance(criterion, D | IV):
        state = RowSwaps(task, indices)
    else:
        if screen is None:
            screen = len(indices) * len(info.rows) * info.d**2 > _EXACT
        state = (ScreenedSwaps if screen and criterion.roots is not None else BlockSwaps)(task, indices)
    rank = rng.permutation(len(info))
    # Members that were set against all candidates since the last swap, or that must stay, need not be tried again.
    forced = np.isin(state.indices, task.rules.forced)
    settled = forced.copy()
    swaps = 0
    for _ in range(passes):
        before = swaps
        order = state.promising(WORTHWHILE * abs(state.value))
        for position in order if isinstance(state, ScreenedSwaps) else rng.permutation(order):
            if settled[position]:
                continue
            allowed = swappable(task.rules, state.indices, int(position))
            allowed[state.indices[position]] = False
            if allowed.any() and state.improve(int(position), allowed, rank):
                swaps += 1
                settled = forced.copy()
            settled[position] = True
        if swaps == before:
            break
    grown = fill(task, state.indices)
    if len(grown) > len(state.indices):
        return grown, criterion.value(task.known(grown)), swaps
    return state.indices, state.value, swaps


def fill(task: Task, indices: Sequence[int]) -> list[int]:
    """Add the best structures that the rules still allow."""
    info = task.info
    available = Available(task.rules, indices)
    live = available.now()
    if live.any():
        gains = gains_for(info, Path(task.criterion, task.known(available.indices)))
        while live.any():
            s = gains.best(live, np.ones(len(info)), task.rules.rank)
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


def first_design(task: Task, start_from: str | Numbers | None, *, lazy: bool | None) -> list[int]:
    """Find the design that exchange begins with, or refuse one that the rules do not allow."""
    if start_from is None or (isinstance(start_from, str) and start_from == "greedy"):
        return best_greedy(task, lazy=lazy)[0]
    if isinstance(start_from, str):
        if start_from not in RIVALS:
            raise ParameterError(
                f"unknown `start_from` {start_from!r}; give structure numbers, or choose from "
                f"{', '.join(['greedy', *RIVALS])}"
            )
        return ranked(task, start_from)
    given = read_numbers(start_from, len(task.info), "start_from")
    indices = fill(task, Available(task.rules, given.tolist()).indices)
    breach = task.rules.breach(indices)
    if breach is not None:
        raise ParameterError(f"`start_from` breaks the rules: with the forced structures {breach}")
    return indices


def rounded(task: Task, weights: Float[np.ndarray, " structures"], *, restarts: int = 0) -> list[int]:
    """Choose among the structures of positive weight in a fractional design; the rest of the pool only fills up.

    The largest weights alone would be a poor design, as several structures may share one task.
    """
    rules = task.rules
    used = weights > _SUPPORT
    used[rules.forced] = True
    fulfilling = Available(rules)  # with the cheapest the least quotas can be fulfilled
    order = np.argsort(rules.shares, kind="stable")
    while (rules.counts(fulfilling.indices) < rules.least).any():
        missing = np.append(rules.counts(fulfilling.indices) < rules.least, False)[rules.labels]
        fulfilling.choose(int(order[(fulfilling.now() & missing)[order]][0]))
    used[fulfilling.indices] = True
    support = np.flatnonzero(used)
    few = task.among(support)
    inner = few.rules
    few = few.under(replace(inner, n=min(rules.n, len(inner.forced) + len(np.unique(inner.groups[inner.fresh])))))
    indices = exchange(few, best_greedy(few)[0], restarts=restarts)[0]
    return fill(task, support[indices].tolist())

"""The ways to choose that `select` offers, each from rules to indices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.available import Available
from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.limits import Numbers, read_numbers
from kernelpot.design.precision import Precision
from kernelpot.design.rivals import RIVALS
from kernelpot.design.search.exchange import exchange, fill, single_rows
from kernelpot.design.search.gains import Path
from kernelpot.design.search.greedy import greedy
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError

SEARCHES = ("greedy", "stochastic", "exchange", "relaxation", "pruning")
"""Methods that look at the criterion."""

_ROW_RESTARTS = 20
_CHEAP = 5e7
_SUPPORT = 1e-3


def best_greedy(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    *,
    lazy: bool | None = None,
    sample: float | None = None,
) -> tuple[list[int], Path]:
    """Run greedy; under budgets also by gain per cost, of all resources together and of each, and keep the best."""
    scales: list[Float[np.ndarray, " structures"] | None] = [None]
    if len(rules.budget):
        scales.append(np.maximum(rules.shares, 1e-12))
    if len(rules.budget) > 1:
        largest = rules.costs.max(axis=0, initial=0.0)
        # A resource that nobody uses orders nothing.
        scales += [np.maximum(rules.costs[:, k], 1e-12 * top) for k, top in enumerate(largest) if top > 0]
    runs = [greedy(info, criterion, rules, start, scale=scale, lazy=lazy, sample=sample) for scale in scales]
    return max(runs, key=lambda run: criterion.sign * run[1].values[-1])


def rounded(
    info: Information,
    weights: Float[np.ndarray, " structures"],
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    *,
    restarts: int = 0,
) -> list[int]:
    """Choose among the structures of positive weight; the rest of the pool only fills up.

    The largest weights alone would be a poor design, as several structures may share one task.
    """
    used = weights > _SUPPORT
    used[rules.forced] = True
    if len(rules.least):  # with these the least quotas can be fulfilled
        used[_fulfilling(rules)] = True
    support = np.flatnonzero(used)
    inner = rules.take(support)
    inner = replace(inner, n=min(rules.n, len(inner.forced) + len(np.unique(inner.groups[inner.fresh]))))
    few = info.take(support)
    first = best_greedy(few, criterion, inner, start)[0]
    indices = exchange(few, first, criterion, inner, start, restarts=restarts)[0]
    return fill(info, support[indices].tolist(), criterion, rules, start)


def _fulfilling(rules: Rules) -> list[int]:
    """Choose forced candidates and the cheapest others that fulfil the least quotas."""
    available = Available(rules)
    order = np.argsort(rules.shares, kind="stable")
    while (rules.counts(available.indices) < rules.least).any():
        missing = np.append(rules.counts(available.indices) < rules.least, False)[rules.labels]
        available.choose(int(order[(available.now() & missing)[order]][0]))
    return available.indices


def ranked(info: Information, method: str, rules: Rules, existing: Information | None) -> list[int]:
    """Take a rival's ranking as far as the rules allow; what is left, and repeats, follow in random order."""
    available = Available(rules)
    free = np.flatnonzero(rules.fresh)
    heads = free[np.unique(rules.groups[free], return_index=True)[1]]
    rng = np.random.default_rng(rules.seed)
    first = np.empty(0, dtype=np.int64)
    wanted = min(rules.n - len(available.indices), len(heads))
    if wanted > 0 and len(rules.budget):
        # About as many as the budgets can pay: k-means clusters of which half are unaffordable tell nothing.
        left = 1.0 - float(rules.shares[rules.forced].max(initial=0.0))
        mean = float((rules.costs[heads] / np.maximum(rules.budget, 1e-300)).mean(axis=0).max())
        wanted = min(wanted, max(int(left / max(mean, 1e-300)), 1))
    if wanted > 0:
        first = RIVALS[method](info, heads, wanted, _known(info, rules, existing), rules.seed)
    rest = np.setdiff1d(np.arange(len(info)), first)
    order = np.concatenate([first, rng.permutation(np.setdiff1d(heads, first)), rng.permutation(rest)])
    while (live := available.now()).any():
        available.choose(int(order[np.argmax(live[order])]))
    return available.indices


def _known(info: Information, rules: Rules, existing: Information | None) -> Information | None:
    """Join what a rival sees as chosen already."""
    if not len(rules.forced):
        return existing
    forced = info.take(rules.forced)
    return forced if existing is None else existing.append(forced)


def first_design(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    existing: Information | None,
    start_from: str | Numbers | None,
    *,
    lazy: bool | None,
) -> list[int]:
    """Find the design that exchange begins with."""
    if start_from is None or (isinstance(start_from, str) and start_from == "greedy"):
        return best_greedy(info, criterion, rules, start, lazy=lazy)[0]
    if isinstance(start_from, str):
        if start_from not in RIVALS:
            raise ParameterError(
                f"unknown `start_from` {start_from!r}; give structure numbers, or choose from "
                f"{', '.join(['greedy', *RIVALS])}"
            )
        return ranked(info, start_from, rules, existing)
    given = read_numbers(start_from, len(info), "start_from")
    indices = fill(info, Available(rules, given.tolist()).indices, criterion, rules, start)
    breach = rules.breach(indices)
    if breach is not None:
        raise ParameterError(f"`start_from` breaks the rules: with the forced structures {breach}")
    return indices


def restarts_of(info: Information, n: int, restarts: int | None) -> int:
    """Check how often exchange starts again."""
    if restarts is None:
        return _ROW_RESTARTS if single_rows(info) and len(info) * n * info.d <= _CHEAP else 0
    if not isinstance(restarts, int) or restarts < 0:
        raise ParameterError(f"`restarts` must be a whole number, 0 or more, got {restarts!r}")
    return restarts


def discarded_of(existing: Information | None) -> float:
    """Trace that compression took from what existed before."""
    return 0.0 if existing is None else float(existing.discarded.sum())

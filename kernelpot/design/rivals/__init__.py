"""Ways to choose without a criterion, to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kernelpot.design.available import Available
from kernelpot.design.rivals.averages import (
    Lot,
    Order,
    cur,
    fps,
    kdpp,
    kdpp_greedy,
    kmeans,
    large_volume,
    maximin,
    random,
    stratified,
)
from kernelpot.design.rivals.environments import entropy, maxvol_environments, quests
from kernelpot.design.task import Task

__all__ = ["RIVALS", "Lot", "ranked"]

RIVALS: Mapping[str, Callable[[Lot], Order]] = {
    "random": random,
    "fps": fps,
    "kmeans": kmeans,
    "stratified": stratified,
    "cur": cur,
    "maxvol": large_volume,
    "maxvol-environments": maxvol_environments,
    "maximin": maximin,
    "kdpp": kdpp,
    "kdpp-greedy": kdpp_greedy,
    "entropy": entropy,
    "quests": quests,
}
"""All of them by the names that `select` takes; each ranks n of a lot, the first choice first."""


def ranked(task: Task, method: str) -> list[int]:
    """Take a rival's ranking as far as the rules allow; what is left, and repeats, follow in random order."""
    info, rules = task.info, task.rules
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
        known = task.existing
        if len(rules.forced):  # what a rival sees as chosen already
            forced = info.take(rules.forced)
            known = forced if known is None else known.append(forced)
        first = RIVALS[method](Lot(info, heads, wanted, known, rules.seed))
    rest = np.setdiff1d(np.arange(len(info)), first)
    order = np.concatenate([first, rng.permutation(np.setdiff1d(heads, first)), rng.permutation(rest)])
    while (live := available.now()).any():
        available.choose(int(order[np.argmax(live[order])]))
    return available.indices

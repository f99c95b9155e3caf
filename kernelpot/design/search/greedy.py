"""Searches for a good set of blocks that add one block after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from kernelpot.design.available import Available
from kernelpot.design.search.engines import LazyGains, economy, gains_for
from kernelpot.design.search.gains import Path
from kernelpot.design.task import Task
from kernelpot.progress import track

SAMPLE = 0.01
"""Share of the best that the samples of stochastic greedy may miss on average."""


def greedy(
    task: Task,
    *,
    scale: Float[np.ndarray, " structures"] | None = None,
    lazy: bool | None = None,
    sample: float | None = None,
) -> tuple[list[int], Path]:
    """Choose the block of the largest gain again and again; fewer than asked for where a limit ends it first.

    For D under a size limit the gain reaches at least ``1 - 1/e`` of the best possible (Nemhauser, Wolsey and
    Fisher 1978). Lazy evaluation (Minoux 1978) gives the same choice for a submodular criterion; for others a gain can
    grow as blocks are chosen, and candidates whose old gain no longer wins are passed over (a heuristic).

    Parameters
    ----------
    task
        What is to be chosen.
    scale
        Divide gains by these, such as costs (for budgets).
    lazy
        Update only candidates whose last known gain could still win. False: all are exact. None: lazily where that is
        exact, and by the gains of shortened blocks (`engines.SHORT`) where exact gains of all would take long.
    sample
        ε of stochastic greedy (Mirzasoleiman et al. 2015): every step looks at a random sample of
        ``log(1/ε)/n`` of the candidates only, which costs ε of the guarantee on average. None: at all.
    """
    info, rules = task.info, task.rules
    how = economy(task) if lazy is None and sample is None else ""
    lazy = how == "lazy" if lazy is None else lazy
    available = Available(rules)
    path = follow(task, available.indices)
    live = available.now()
    if not live.any():
        return available.indices, path
    gains = gains_for(info, path, lazy=lazy or sample is not None, short=how == "short")
    draws = np.random.default_rng([rules.seed, 2])
    scale = np.ones(len(info)) if scale is None else scale
    for _ in track(range(len(available.indices), rules.n), "choosing"):
        seen = live if sample is None else _sample(live, rules.n, sample, draws)
        if isinstance(gains, LazyGains) and sample is not None and not task.criterion.submodular:
            gains.update(np.flatnonzero(seen))
        s = gains.best(seen, scale, rules.rank)
        available.choose(s)
        live = available.now()
        if not live.any():
            path.add(info.block(s))
            break
        gains.add(s, live)
    path.anchor()
    return available.indices, path


def best_greedy(task: Task, *, lazy: bool | None = None, sample: float | None = None) -> tuple[list[int], Path]:
    """Run greedy; under budgets also by gain per cost, of all resources together and of each, and keep the best."""
    rules = task.rules
    scales: list[Float[np.ndarray, " structures"] | None] = [None]
    if len(rules.budget):
        scales.append(np.maximum(rules.shares, 1e-12))
    if len(rules.budget) > 1:
        largest = rules.costs.max(axis=0, initial=0.0)
        # A resource that nobody uses orders nothing.
        scales += [np.maximum(rules.costs[:, k], 1e-12 * top) for k, top in enumerate(largest) if top > 0]
    runs = [greedy(task, scale=scale, lazy=lazy, sample=sample) for scale in scales]
    return max(runs, key=lambda run: task.criterion.sign * run[1].values[-1])


def _sample(
    live: Bool[np.ndarray, " structures"], n: int, share: float, draws: np.random.Generator
) -> Bool[np.ndarray, " structures"]:
    """Mark a random sample of what is allowed."""
    allowed = np.flatnonzero(live)
    size = min(max(int(np.ceil(len(live) / n * np.log(1.0 / share))), 1), len(allowed))
    result = np.zeros_like(live)
    result[draws.choice(allowed, size, replace=False)] = True
    return result


def follow(task: Task, indices: Sequence[int]) -> Path:
    """Walk along a choice that was made by any method."""
    path = Path(task.criterion, task.start)
    for s in indices:
        path.add(task.info.block(s))
    path.anchor()
    return path

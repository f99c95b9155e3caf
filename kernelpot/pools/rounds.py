"""Choices from pools that do not fit in memory: distributed greedy in rounds, or stochastic greedy, over chunks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import KINDS
from kernelpot.design.criteria import IV, Criterion
from kernelpot.design.information import Information, require
from kernelpot.design.precision import Precision
from kernelpot.design.problem import balanced_of, make_criterion
from kernelpot.errors import ParameterError
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.linalg.workers import number_of
from kernelpot.pools.block_store import BlockStore, marks
from kernelpot.pools.greedi import distributed
from kernelpot.pools.job import Job, PoolChoice
from kernelpot.pools.stochastic import stochastic
from kernelpot.pools.target import keep_open, target_root
from kernelpot.progress import say
from kernelpot.rules import MOST_SEED, real, whole
from kernelpot.run import one_blas

METHODS = {"distributed": distributed, "stochastic": stochastic}


@one_blas()
def select_chunks(
    store: BlockStore,
    n: int,
    *,
    criterion: str | Criterion = "balanced",
    method: str = "distributed",
    existing: Information | None = None,
    target: Information | Float[np.ndarray, "d d"] | None = None,
    per_part: int | None = None,
    epsilon: float | None = None,
    mix: str | None = None,
    memory: float = 4.0,
    workers: int | None = 0,
    scheduler: str | None = None,
    seed: int = 0,
) -> PoolChoice:
    """Choose which structures of a store to label; a run that was killed goes on, to the same answer bit for bit.

    "distributed" (GreeDi, Mirzasoleiman et al. 2013, 2016): the pool is divided at random into parts that fit in
    memory, greedy chooses in each, then greedy chooses from the union; the answer is the better of that and of the
    best part's own choice. For D (monotone, submodular) the gain is at least ``(1 - 1/e)/min(m, n)`` of the best
    possible with m parts, whatever the division, and at least ``(1 - 1/e)/2`` in expectation where structures are
    mixed one by one (Barbosa et al. 2015). With one part it is plain greedy. "stochastic" (Mirzasoleiman et al. 2015):
    the best of a random sample at every step; for D ``1 - 1/e - ε`` in expectation. For other criteria both are
    heuristics.

    Structures that equal another or an existing one are left out.

    Parameters
    ----------
    store
        Complete blocks, from `write_blocks`. What is worked out on the way is kept in its folder.
    n
        How many to choose.
    criterion
        "balanced", "IV" (alias "I"), "D", "A", "E", or an object as in `kernelpot.design.criteria`; others that have
        the pool as their target need `target` here.
    method
        "distributed" or "stochastic".
    existing
        What is labelled already, in the same feature space.
    target
        What is to be predicted, for IV: structures, or V. None: the whole pool, equal structures once.
    per_part
        How many are chosen in each part; n by default. Fewer saves time for a weaker guarantee.
    epsilon
        Of stochastic greedy, 0.1 by default. "distributed": where given, parts are searched by stochastic greedy.
    mix
        How parts are made, see `kernelpot.pools.greedi.divide`.
    memory
        GiB that all processes together may use; printed with the plan.
    workers, scheduler
        As in `write_blocks`; by default all is done in this process. "stochastic" is one chain of steps and uses them
        for the target only.
    seed
        Of the division, the samples and the order that breaks ties.

    Returns
    -------
    PoolChoice
        Indices in the source, files and numbers in them, the curve of the criterion.

    Raises
    ------
    ParameterError
        A parameter breaks its rule; for `memory` the message says how much is needed.
    StoreError
        The store is not complete, or a chunk is damaged.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ParameterError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if not isinstance(store, BlockStore):
        raise ParameterError(f"`store` must be a BlockStore, got a {type(store).__name__}; write_blocks makes one")
    seed, memory = whole(seed, "seed", most=MOST_SEED), real(memory, "memory", above=True)
    epsilon = None if epsilon is None else real(epsilon, "epsilon", most=1.0, above=True)
    processes = number_of(workers, scheduler)
    store.require_complete()
    keep_open(store)
    candidates = _candidates(store, existing)
    size = _size(n, len(candidates))
    start = Precision.prior(store.d)
    if existing is not None:
        start = start.with_rows(existing.rows)
    measure = _criterion(criterion, store, target, processes, scheduler)
    job = Job(
        store=store, candidates=candidates, n=size, criterion=measure, start=start, epsilon=epsilon,
        per_part=_per_part(per_part, size), mix=mix, memory=memory, workers=processes, scheduler=scheduler,
        seed=seed,
    )  # fmt: skip
    return METHODS[method](job)


def _size(n: int, distinct: int) -> int:
    size = whole(n, "n")
    if size > distinct:
        raise ParameterError(
            f"`n` must be between 0 and the number of structures that differ from one another and from existing ones, "
            f"{distinct}; got {size}"
        )
    return size


def _per_part(per_part: int | None, n: int) -> int:
    if per_part is None:
        return n
    return whole(per_part, "per_part", least=1)


def _candidates(store: BlockStore, existing: Information | None) -> Int[np.ndarray, " candidates"]:
    """Return positions of structures that differ from one another and from existing ones."""
    catalogue = store.catalogue
    if existing is None:
        return catalogue.heads
    require(existing, "existing")
    if existing.d != store.d:
        raise ParameterError(
            f"`existing` has {existing.d} weights and the store {store.d}; make it with curate.load_space of the folder"
        )
    known = marks(existing.means)
    if not len(known) or not known.shape[1] or known.shape[1] != catalogue.marks.shape[1]:
        return catalogue.heads
    heads = catalogue.heads
    joint = equal_vectors(
        np.concatenate([known, catalogue.marks[heads]]), np.concatenate([existing.n_atoms, catalogue.n_atoms[heads]])
    )
    fresh: np.ndarray = heads[~np.isin(joint[len(known) :], joint[: len(known)])]
    if len(fresh) < len(heads):
        say(f"{len(heads) - len(fresh)} structures equal existing ones and are left out")
    return fresh


def _criterion(
    criterion: str | Criterion,
    store: BlockStore,
    target: Information | Float[np.ndarray, "d d"] | None,
    workers: int,
    scheduler: str | None,
) -> Criterion:
    """Make the criterion that a name stands for; the target of IV is summed over the chunks."""
    if target is None and criterion in ("IV", "I"):
        return IV.from_root(target_root(store, workers=workers, scheduler=scheduler))
    if target is None and criterion == "balanced":
        told = [kind for kind, count in zip(KINDS, store.catalogue.counts.sum(axis=0), strict=True) if count]
        alone = {kind: {other: float(other == kind) for other in KINDS} for kind in told}
        return balanced_of(
            {kind: target_root(store, weights=alone[kind], workers=workers, scheduler=scheduler) for kind in told}
        )
    if target is None and criterion in ("V", "G"):
        raise ParameterError(f"criterion {criterion!r} needs a `target` here: the pool is not in memory")
    return make_criterion(criterion, store.take(store.catalogue.heads[:1]), target)

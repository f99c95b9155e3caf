"""Choices from pools that do not fit in memory: distributed greedy in rounds, or stochastic greedy, over chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import KINDS
from kernelpot.design.choice import NOISES
from kernelpot.design.criteria import IV, Criterion, balanced, make_criterion
from kernelpot.design.information import Information, require
from kernelpot.design.precision import Precision
from kernelpot.design.search.greedy import greedy
from kernelpot.design.task import Rules, Task
from kernelpot.errors import ParameterError
from kernelpot.linalg.factor import RowSink, stack
from kernelpot.linalg.store import ChunkStore, digest, held
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.linalg.workers import number_of, spread
from kernelpot.pools.block_store import BlockStore, keep_open, marks, opened
from kernelpot.pools.request import Job, PoolChoice, divide, make_choice, weights
from kernelpot.pools.stochastic import sampled_greedy, stochastic
from kernelpot.progress import say, track
from kernelpot.rules import MOST_SEED, keywords, real, whole
from kernelpot.run import one_blas


@dataclass(frozen=True, eq=False)
class _Errand:
    """One part's work, as it is sent to a worker."""

    store: str
    results: str
    number: int
    members: Int[np.ndarray, " members"]
    n: int
    criterion: Criterion
    start: Precision
    epsilon: float | None
    seed: int


@dataclass(frozen=True, eq=False)
class _Picked:
    """What a search chose, as positions in the catalogue, and its curve."""

    which: Int[np.ndarray, " n"]
    curve: Float[np.ndarray, " n+1"]

    def first(self, n: int) -> _Picked:
        return _Picked(self.which[:n], self.curve[: n + 1])


@dataclass(frozen=True)
class _Rounds:
    """Rounds of choices in parts."""

    job: Job

    def choose(
        self, parts: list[Int[np.ndarray, " members"]], level: int, n: int, epsilon: float | None
    ) -> list[_Picked]:
        """Choose in every part; parts that an earlier run has finished are read."""
        job = self.job
        folder = job.folder("distributed") / f"round-{level}-{digest(*parts)}"
        results = ChunkStore(folder)
        items = [
            _Errand(
                str(job.store.folder), str(folder), p, members, min(n, len(members)), job.criterion, job.start, epsilon,
                job.seed,
            )
            for p, members in enumerate(parts)
        ]  # fmt: skip
        todo = [item for item in items if not results.intact(item.number)]
        if len(todo) < len(items):
            say(f"round {level + 1}: {len(items) - len(todo)} of {len(items)} parts were finished before")
        workers = job.workers if len(parts) > 1 else 0
        scheduler = job.scheduler if len(parts) > 1 else None
        for _ in track(spread(_search, todo, workers=workers, scheduler=scheduler), "parts", total=len(todo)):
            pass
        return [_Picked(**results.read(p)) for p in range(len(parts))]

    def better(self, found: list[_Picked]) -> _Picked | None:
        """Return the best of several choices of the same size, the first of equals."""
        return max(found, key=lambda one: self.job.criterion.sign * one.curve[-1], default=None)

    def tell(self, left: Int[np.ndarray, " some"], parts: list[np.ndarray], mix: str, level: int) -> None:
        """Print the plan of a round."""
        job = self.job
        sizes = [weights(job.store)[members].sum() / 2**30 for members in parts]
        how = f", {mix} mixed at random" if len(parts) > 1 else ""
        say(
            f"round {level + 1}: {len(left)} blocks in {len(parts)} part(s) of up to {max(sizes, default=0.0):.2g} GiB "
            f"(room for {job.part / 2**30:.2g} GiB each, {max(job.workers, 1)} at a time, {job.memory:g} GiB in all)"
            f"{how}"
        )

    def guarantee(self, m: int, mix: str, level: int) -> str:
        """State what is known for D; nothing is for criteria that are not submodular."""
        job = self.job
        if not job.criterion.submodular:
            return f"no guarantee for {job.criterion.name}, which is not submodular: a heuristic"
        loss = f" - {job.epsilon:g}" if job.epsilon is not None else ""
        mean = " in expectation" if loss else ""
        if m == 1:
            return f"greedy over the whole pool: at least 1 - 1/e{loss} of the best possible gain{mean}"
        share = -np.expm1(-min(job.per_part, job.n) / job.n) - (job.epsilon or 0.0)
        if job.per_part < job.n:
            # No part has its own answer: greedy over a union with k good ones reaches 1 - exp(-n/k) of their gain.
            if level > 1:
                return "no guarantee: more than two rounds, and fewer chosen in a part than are wanted"
            share *= -np.expm1(-job.n / job.per_part)
        text = f"gain at least {share / min(m, job.n):.3f} of the best possible{mean}"
        if mix == "structures" and level == 1 and not loss and job.per_part >= job.n:
            text += f", {(1 - np.exp(-1)) / 2:.3f} in expectation over the division"
        return text


def distributed(job: Job) -> PoolChoice:
    """Run rounds until what is left fits in memory, and choose from that."""
    rounds = _Rounds(job)
    left, best, first, level = job.candidates, None, 1, 0
    mixed = ""
    while True:
        parts, mix = divide(job.store, left, job.part, mix=job.mix, seed=job.seed, level=level)
        rounds.tell(left, parts, mix, level)
        if len(parts) == 1:
            break
        if level == 0:
            first, mixed = len(parts), mix
        found = rounds.choose(parts, level, job.per_part, job.epsilon)
        union = np.sort(np.concatenate([one.which for one in found]))
        if len(union) >= len(left):
            needed = weights(job.store)[union].sum() / 2**30
            raise ParameterError(
                f"`memory` must let the choices of two parts fit together: {len(union)} blocks take {needed:.2g} GiB, "
                f"a part has {job.part / 2**30:.2g} GiB; give more memory or a smaller `per_part`"
            )
        if len(union) < job.n:
            raise ParameterError(
                f"`per_part` must be at least {-(-job.n // len(parts))} to choose {job.n} from {len(parts)} parts, "
                f"got {job.per_part}"
            )
        full = [one.first(job.n) for one in found if len(one.which) >= job.n]
        best = rounds.better([*([best] if best else []), *full])
        left, level = union, level + 1
    final = rounds.choose(parts, level, job.n, job.epsilon if level == 0 else None)[0]
    answer = rounds.better([final, *([best] if best else [])]) or final
    return make_choice(
        job.store, answer.which, answer.curve, criterion=job.criterion, method="distributed",
        n_distinct=len(job.candidates), guarantee=rounds.guarantee(first, mixed, level), n_parts=first,
    )  # fmt: skip


def _search(item: _Errand) -> None:
    """Choose in one part, here or in a worker, and keep the result."""
    info = opened(item.store).take(item.members)
    task = Task(info, item.criterion, Rules.plain(item.n, len(info), item.seed), item.start)
    if item.epsilon is not None and item.n:
        seed = int(np.random.default_rng([item.seed, item.number]).integers(2**32))
        indices, path = sampled_greedy(task.under(Rules.plain(item.n, len(info), seed)), item.epsilon)
    else:
        indices, path = greedy(task)
    found = {"which": item.members[np.array(indices, dtype=np.int64)], "curve": np.array(path.values)}
    ChunkStore(Path(item.results)).write(item.number, found)


METHODS = {"distributed": distributed, "stochastic": stochastic}

GROUPS = 16
"""Runs of chunks whose factors are kept: a run that is killed repeats one of them at most."""


class Means(TypedDict, total=False):
    """How a choice over chunks is worked out.

    Parameters
    ----------
    per_part
        How many are chosen in each part; n by default. Fewer saves time for a weaker guarantee.
    epsilon
        Of stochastic greedy, 0.1 by default. "distributed": where given, parts are searched by stochastic greedy.
    mix
        "structures" sends every structure to a part at random, "chunks" whole chunks, so that everything is read once.
        None takes the first while there are no more than 16 parts.
    memory
        GiB that all processes together may use, 4 by default; printed with the plan.
    workers, scheduler
        As in `write_blocks`; by default all is done in this process. "stochastic" is one chain of steps and uses them
        for the target only.
    """

    per_part: int | None
    epsilon: float | None
    mix: str | None
    memory: float
    workers: int | None
    scheduler: str | None


@keywords(Means)
@one_blas()
def select_chunks(
    store: BlockStore,
    n: int,
    *,
    criterion: str | Criterion = "balanced",
    method: str = "distributed",
    existing: Information | None = None,
    target: Information | Float[np.ndarray, "d d"] | None = None,
    seed: int = 0,
    **means: Unpack[Means],
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
    seed
        Of the division, the samples and the order that breaks ties.
    **means

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
    seed, memory = whole(seed, "seed", most=MOST_SEED), real(means.get("memory", 4.0), "memory", above=True)
    epsilon, scheduler = means.get("epsilon"), means.get("scheduler")
    epsilon = None if epsilon is None else real(epsilon, "epsilon", most=1.0, above=True)
    processes = number_of(means.get("workers", 0), scheduler)
    store.require_complete()
    keep_open(store)
    candidates = _candidates(store, existing)
    size = whole(n, "n")
    if size > len(candidates):
        raise ParameterError(
            f"`n` must be between 0 and the number of structures that differ from one another and from existing ones, "
            f"{len(candidates)}; got {size}"
        )
    per_part = means.get("per_part")
    start = Precision.prior(store.d)
    if existing is not None:
        start = start.with_rows(existing.rows)
    with held(store.folder):
        measure = _criterion(criterion, store, target, processes, scheduler)
        job = Job(
            store=store,
            candidates=candidates,
            n=size,
            criterion=measure,
            start=start,
            epsilon=epsilon,
            per_part=size if per_part is None else whole(per_part, "per_part", least=1),
            mix=means.get("mix"),
            memory=memory,
            workers=processes,
            scheduler=scheduler,
            seed=seed,
        )
        return METHODS[method](job)


def _candidates(store: BlockStore, existing: Information | None) -> Int[np.ndarray, " candidates"]:
    """Return positions of structures that differ from one another and from existing ones."""
    catalogue = store.catalogue
    if existing is None:
        return catalogue.heads
    require(existing, "existing")
    if existing.d != store.d:
        raise ParameterError(
            f"`existing` has {existing.d} weights and the store {store.d}; make it with pools.load_space of the folder"
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
    if target is None and criterion in ("IV", "I", "balanced"):
        if criterion == "balanced":
            told = [kind for kind, count in zip(KINDS, store.catalogue.counts.sum(axis=0), strict=True) if count]
            alone = {kind: {other: float(other == kind) for other in KINDS} for kind in told}
            made = balanced(
                {kind: target_root(store, weights=alone[kind], workers=workers, scheduler=scheduler) for kind in told}
            )
        else:
            made = IV.from_root(target_root(store, workers=workers, scheduler=scheduler))
        made.unit = NOISES
        return made
    if target is None and criterion in ("V", "G"):
        raise ParameterError(f"criterion {criterion!r} needs a `target` here: the pool is not in memory")
    return make_criterion(criterion, store.take(store.catalogue.heads[:1]), target)


def target_root(
    store: BlockStore,
    *,
    weights: Mapping[str, float] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
) -> Float[np.ndarray, "d q"]:
    """Return L with ``L Lᵀ = Σ_kind ω_kind · mean over the true rows of that kind of rowᵀ row``, equal structures once.

    Each run of chunks is reduced to a triangle by QR, and triangles are joined in pairs (tall and skinny QR, Demmel
    et al. 2012): no sum of squares is formed, and the order is fixed, so that the result is.

    Parameters
    ----------
    store
        A complete store.
    weights
        ω of each kind by name, 1 where not given.
    workers, scheduler
        As in `spread`.

    Raises
    ------
    ParameterError
        A name is unknown or a weight is negative or not finite.
    """
    omega = np.ones(len(KINDS))
    for kind, weight in (weights or {}).items():
        if kind not in KINDS or not (np.isfinite(weight) and weight >= 0):
            raise ParameterError(f"`weights` must be numbers >= 0 for {', '.join(KINDS)}, got {kind!r}: {weight!r}")
        omega[KINDS.index(kind)] = weight
    heads = store.catalogue.heads
    factor = np.sqrt(omega / np.maximum(store.catalogue.counts[heads].sum(axis=0), 1))
    numbers = np.unique(store.catalogue.chunk[heads])
    runs = np.array_split(numbers, min(GROUPS, len(numbers)))
    folder = store.folder / "rounds" / f"target-{digest(store.fingerprint(), factor)}"
    results = ChunkStore(folder)
    items = [(str(store.folder), str(folder), g, run, factor) for g, run in enumerate(runs) if not results.intact(g)]
    for _ in track(spread(_reduce, items, workers=workers, scheduler=scheduler), "target", total=len(items)):
        pass
    triangles = [results.read(g)["triangle"] for g in range(len(runs))]
    while len(triangles) > 1:
        triangles = [stack(triangles[k : k + 2]) for k in range(0, len(triangles), 2)]
    return np.ascontiguousarray(triangles[0].T)


def _reduce(item: tuple[str, str, int, Int[np.ndarray, " run"], Float[np.ndarray, " kinds"]]) -> None:
    """Reduce one run of chunks to a triangle."""
    folder, results, g, run, factor = item
    store = opened(folder)
    heads = store.catalogue.heads
    sink = RowSink(store.d)
    for k in run:
        part = store.chunks.read(int(k), ("rows", "kinds", "offsets"))
        mine = np.zeros(len(part["offsets"]) - 1, dtype=bool)
        mine[store.catalogue.place[heads[store.catalogue.chunk[heads] == k]]] = True
        keep = np.repeat(mine, np.diff(part["offsets"]))
        sink.append(part["rows"][keep] * factor[part["kinds"][keep], None])
    ChunkStore(results).write(g, {"triangle": sink.factor()})

"""Greedy in parts, then greedy over what the parts chose (GreeDi, Mirzasoleiman et al. 2013, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.precision import Precision
from kernelpot.design.search.greedy import Rules, greedy
from kernelpot.errors import ParameterError
from kernelpot.linalg.store import ChunkStore, digest
from kernelpot.linalg.workers import spread
from kernelpot.pools.block_store import BlockStore
from kernelpot.pools.job import Job, PoolChoice, make_choice
from kernelpot.pools.stochastic import sampled_greedy
from kernelpot.pools.target import opened
from kernelpot.pools.write import BASE_GIB
from kernelpot.progress import say, track

MIXES = ("structures", "chunks")
MOST_PASSES = 16
"""Parts beyond which whole chunks are shared out by default, since every part would read nearly all chunks."""

_GIB = 2.0**30


@dataclass(frozen=True)
class Room:
    """Memory for one part.

    Attributes
    ----------
    memory
        What all processes may use together, GiB.
    processes
        Processes that work on parts at the same time.
    part
        Bytes that the blocks of one part may take, with what a search keeps for each.
    """

    memory: float
    processes: int
    part: float


def weights(store: BlockStore) -> Float[np.ndarray, " structures"]:
    """Bytes that every structure takes in a search: its rows in float64, small matrices G and H, and bookkeeping."""
    h = store.catalogue.heights.astype(np.float64)
    padded = np.where(h <= 4, 4, np.ceil(h / 8) * 8)
    return h * (8.0 * store.d + 40.0) + 24.0 * padded**2 + 300.0


def room(store: BlockStore, memory: float, processes: int) -> Room:
    """Say how much of the memory is left for the blocks of a part.

    Parameters
    ----------
    store
        The blocks.
    memory
        GiB for all processes together.
    processes
        Worker processes; 0 for this one alone.

    Raises
    ------
    ParameterError
        Not even one block would fit; the message says what is needed.
    """
    if not (np.isfinite(memory) and memory > 0):
        raise ParameterError(f"`memory` must be a positive number of GiB, got {memory}")
    catalogue, d = store.catalogue, store.d
    rows = np.bincount(catalogue.chunk, weights=catalogue.heights)
    item = 4 if store.manifest["settings"]["dtype"] == "float32" else 8
    reading = rows.max() * (d * 2.0 * item + 32.0)
    # Factors, C and its updates, columns of past picks (twice while they grow), and one chunk of products.
    fixed = 8.0 * (16.0 * d * d + 3 * 8192.0 * d)
    everywhere = len(catalogue) * 450.0 + BASE_GIB * _GIB
    per_process = reading + fixed + everywhere
    n = max(processes, 1)
    left = memory * _GIB - n * per_process - (everywhere if processes else 0.0)
    least = float(weights(store).max())
    if left / n < least:
        needed = (n * (per_process + least) + (everywhere if processes else 0.0)) / _GIB
        raise ParameterError(
            f"`memory` must be at least {np.ceil(100 * needed) / 100:.2f} GiB for {n} process(es), got {memory:g}; "
            "give more, use fewer workers, or write smaller chunks"
        )
    return Room(memory, processes, left / n)


def divide(
    store: BlockStore, which: Int[np.ndarray, " some"], part: float, *, mix: str | None, seed: int, level: int
) -> tuple[list[Int[np.ndarray, " members"]], str]:
    """Divide candidates at random into as few parts as fit.

    Parameters
    ----------
    store
        The blocks.
    which
        Candidates, as positions in the catalogue, in rising order.
    part
        Bytes that a part may take.
    mix
        "structures" sends every structure to a part at random, and each part reads nearly all chunks; "chunks" sends
        whole chunks, and everything is read once. None takes the first while there are no more than 16 parts.
    seed, level
        Make the division repeatable, and different in every round.

    Returns
    -------
    parts, mix
        Members of every part, in rising order, and which mix it was.
    """
    if mix is not None and mix not in MIXES:
        raise ParameterError(f"`mix` must be one of {', '.join(MIXES)}, got {mix!r}")
    size = weights(store)[which]
    if size.sum() <= part:
        return [which], mix or MIXES[0]
    rng = np.random.default_rng([seed, level])
    m = int(np.ceil(size.sum() / part))
    if (mix or ("structures" if m <= MOST_PASSES else "chunks")) == "chunks":
        return _by_chunks(store.catalogue.chunk[which], which, size, part, rng), "chunks"
    order = rng.permutation(len(which))
    while True:
        owner = np.empty(len(which), dtype=np.int64)
        owner[order] = np.arange(len(which)) * m // len(which)
        if np.bincount(owner, weights=size, minlength=m).max() <= part or m >= len(which):
            return [which[owner == p] for p in range(m)], "structures"
        m += 1


def _by_chunks(
    chunk: Int[np.ndarray, " some"],
    which: Int[np.ndarray, " some"],
    size: Float[np.ndarray, " some"],
    part: float,
    rng: np.random.Generator,
) -> list[Int[np.ndarray, " members"]]:
    """Fill one part after another with chunks in random order; a chunk that is too large goes on in the next."""
    parts: list[list[int]] = [[]]
    filled = 0.0
    for k in rng.permutation(np.unique(chunk)):
        members = np.flatnonzero(chunk == k)
        total = size[members].sum()
        if filled and filled + total > part and total <= part:
            parts.append([])
            filled = 0.0
        for s in members:
            if filled and filled + size[s] > part:
                parts.append([])
                filled = 0.0
            parts[-1].append(int(s))
            filled += size[s]
    return [which[np.sort(np.array(members))] for members in parts]


@dataclass(frozen=True, eq=False)
class _Part:
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
class _Found:
    """What a search chose, as positions in the catalogue, and its curve."""

    which: Int[np.ndarray, " n"]
    curve: Float[np.ndarray, " n+1"]

    def first(self, n: int) -> _Found:
        return _Found(self.which[:n], self.curve[: n + 1])


def distributed(job: Job) -> PoolChoice:
    """Run rounds until what is left fits in memory, and choose from that.

    Parameters
    ----------
    job
        What is asked for.
    """
    left, best, first, level = job.candidates, None, 1, 0
    mixed = ""
    while True:
        parts, mix = divide(job.store, left, job.room.part, mix=job.mix, seed=job.seed, level=level)
        _tell(job, left, parts, mix, level)
        if len(parts) == 1:
            break
        if level == 0:
            first, mixed = len(parts), mix
        found = _round(job, parts, level, job.per_part, job.epsilon)
        union = np.sort(np.concatenate([one.which for one in found]))
        if len(union) >= len(left):
            needed = weights(job.store)[union].sum() / 2**30
            raise ParameterError(
                f"`memory` must let the choices of two parts fit together: {len(union)} blocks take {needed:.2g} GiB, "
                f"a part has {job.room.part / 2**30:.2g} GiB; give more memory or a smaller `per_part`"
            )
        if len(union) < job.n:
            raise ParameterError(
                f"`per_part` must be at least {-(-job.n // len(parts))} to choose {job.n} from {len(parts)} parts, "
                f"got {job.per_part}"
            )
        full = [one.first(job.n) for one in found if len(one.which) >= job.n]
        best = _better(job.criterion, [*([best] if best else []), *full])
        left, level = union, level + 1
    final = _round(job, parts, level, job.n, job.epsilon if level == 0 else None)[0]
    answer = _better(job.criterion, [final, *([best] if best else [])]) or final
    return make_choice(
        job.store, answer.which, answer.curve, criterion=job.criterion, method="distributed",
        n_distinct=len(job.candidates), guarantee=_guarantee(job, first, mixed, level), n_parts=first,
    )  # fmt: skip


def _round(
    job: Job, parts: list[Int[np.ndarray, " members"]], level: int, n: int, epsilon: float | None
) -> list[_Found]:
    """Choose in every part; parts that an earlier run has finished are read."""
    folder = job.folder("distributed") / f"round-{level}-{digest(*parts)}"
    results = ChunkStore(folder)
    items = [
        _Part(
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
    return [_Found(**results.read(p)) for p in range(len(parts))]


def _search(item: _Part) -> None:
    """Choose in one part, here or in a worker, and keep the result."""
    info = opened(item.store).take(item.members)
    if item.epsilon is not None and item.n:
        seed = int(np.random.default_rng([item.seed, item.number]).integers(2**32))
        indices, path = sampled_greedy(info, item.criterion, item.n, item.start, epsilon=item.epsilon, seed=seed)
    else:
        size = len(info)
        rules = Rules(
            item.n, np.arange(size), np.zeros(size, dtype=bool), np.ones((size, 1)), np.array([np.inf]), item.seed
        )
        indices, path = greedy(info, item.criterion, rules, item.start)
    found = {"which": item.members[np.array(indices, dtype=np.int64)], "curve": np.array(path.values)}
    ChunkStore(Path(item.results)).write(item.number, found)


def _better(criterion: Criterion, found: list[_Found]) -> _Found | None:
    """Return the best of several choices of the same size, the first of equals."""
    return max(found, key=lambda one: criterion.sign * one.curve[-1], default=None)


def _tell(job: Job, left: Int[np.ndarray, " some"], parts: list[np.ndarray], mix: str, level: int) -> None:
    """Print the plan of a round."""
    sizes = [weights(job.store)[members].sum() / 2**30 for members in parts]
    how = f", {mix} mixed at random" if len(parts) > 1 else ""
    say(
        f"round {level + 1}: {len(left)} blocks in {len(parts)} part(s) of up to {max(sizes, default=0.0):.2g} GiB "
        f"(room for {job.room.part / 2**30:.2g} GiB each, {max(job.workers, 1)} at a time, {job.memory:g} GiB in all)"
        f"{how}"
    )


def _guarantee(job: Job, m: int, mix: str, level: int) -> str:
    """State what is known for D; nothing is for criteria that are not submodular."""
    if not job.criterion.submodular:
        return f"no guarantee for {job.criterion.name}, which is not submodular: a heuristic"
    loss = f" - {job.epsilon:g}" if job.epsilon is not None else ""
    mean = " in expectation" if loss else ""
    if m == 1:
        return f"greedy over the whole pool: at least 1 - 1/e{loss} of the best possible gain{mean}"
    share = -np.expm1(-min(job.per_part, job.n) / job.n) - (job.epsilon or 0.0)
    if job.per_part < job.n:
        # No part has an answer of its own: greedy over a union with k good ones reaches 1 - exp(-n/k) of their gain.
        if level > 1:
            return "no guarantee: more than two rounds, and fewer chosen in a part than are wanted"
        share *= -np.expm1(-job.n / job.per_part)
    text = f"gain at least {share / min(m, job.n):.3f} of the best possible{mean}"
    if mix == "structures" and level == 1 and not loss and job.per_part >= job.n:
        text += f", {(1 - np.exp(-1)) / 2:.3f} in expectation over the division"
    return text

"""Greedy in parts, then greedy over what the parts chose (GreeDi, Mirzasoleiman et al. 2013, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.precision import Precision
from kernelpot.design.search.greedy import greedy
from kernelpot.design.task import Rules, Task
from kernelpot.errors import ParameterError
from kernelpot.linalg.store import ChunkStore, digest
from kernelpot.linalg.workers import spread
from kernelpot.pools.block_store import opened
from kernelpot.pools.request import Job, PoolChoice, divide, make_choice, weights
from kernelpot.pools.stochastic import sampled_greedy
from kernelpot.progress import say, track


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

"""Stochastic greedy over chunks: the samples of many steps are read together, as many as fit in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kernelpot.design.information import Information
from kernelpot.design.search.gains import Gains, Path
from kernelpot.design.task import Task
from kernelpot.errors import ParameterError
from kernelpot.linalg.store import ChunkStore
from kernelpot.pools.request import Job, PoolChoice, make_choice, weights
from kernelpot.progress import say, track
from kernelpot.rules import real

EPSILON = 0.1


@dataclass(frozen=True)
class Samples:
    """The samples of stochastic greedy (Mirzasoleiman et al. 2015); each depends on nothing but these numbers."""

    candidates: int
    n: int
    epsilon: float
    seed: int

    @property
    def size(self) -> int:
        """How many candidates a step looks at, ``N/n · ln(1/ε)``, and some more for those that were chosen before."""
        epsilon = real(self.epsilon, "epsilon", most=1.0, above=True)
        left = self.candidates - self.n + 1.0
        size = np.ceil(self.candidates / self.n * np.log(1.0 / epsilon) * self.candidates / left)
        return int(np.clip(size, 1, self.candidates))

    def draw(self, step: int) -> Int[np.ndarray, " sample"]:
        """Return the sample of one step in rising order."""
        rng = np.random.default_rng([self.seed, step, 7])
        return np.sort(rng.choice(self.candidates, size=self.size, replace=False, shuffle=False))

    def live(self, chosen: Bool[np.ndarray, " candidates"], step: int) -> Int[np.ndarray, " sample"]:
        """Return the sample of one step without what was chosen, drawn again where nothing is left of it."""
        while True:
            sample = self.draw(step)
            sample = sample[~chosen[sample]]
            if len(sample):
                return sample
            step += self.n

    def pick(self, info: Information, path: Path, step: int) -> int:
        """Return the number of the best block along a path; ties are broken by the seed."""
        rank = np.random.default_rng([self.seed, step, 11]).permutation(len(info))
        return Gains(info, path).best(np.ones(len(info), dtype=bool), np.ones(len(info)), rank)


def sampled_greedy(task: Task, epsilon: float) -> tuple[list[int], Path]:
    """Choose different blocks in memory by stochastic greedy: for D at least ``1 - 1/e - ε`` of the best on average."""
    info, rules = task.info, task.rules
    samples = Samples(len(info), rules.n, epsilon, rules.seed)
    path = Path(task.criterion, task.start)
    chosen = np.zeros(len(info), dtype=bool)
    indices: list[int] = []
    for step in track(range(rules.n), "choosing"):
        sample = samples.live(chosen, step)
        s = int(sample[samples.pick(info.take(sample), path, step)])
        chosen[s] = True
        indices.append(s)
        path.add(info.block(s))
    path.anchor()
    return indices, path


def stochastic(job: Job) -> PoolChoice:
    """Choose by stochastic greedy; after every batch of steps the choice so far is kept."""
    walk = Walk(job)
    steps = walk.batches()
    results = ChunkStore(job.folder("stochastic"))
    done = 0
    # With another memory the batches of an earlier run are others.
    while done < len(steps) and results.intact(done) and np.array_equal(results.read(done)["steps"], steps[done]):
        done += 1
    before = [int(s) for b in range(done) for s in results.read(b)["which"]]
    if before:
        say(f"{done} of {len(steps)} batches were finished before")
        walk.again(before)
    for b in track(range(done, len(steps)), "batches"):
        picks = walk.batch(steps[b])
        results.write(b, {"which": np.array(picks, dtype=np.int64), "steps": steps[b]})
    walk.path.anchor()
    guarantee = f"gain at least 1 - 1/e - {walk.samples.epsilon:g} of the best possible in expectation"
    if not job.criterion.submodular:
        guarantee = f"no guarantee for {job.criterion.name}, which is not submodular: a heuristic"
    return make_choice(
        job.store, job.candidates[np.array(walk.which, dtype=np.int64)], np.array(walk.path.values),
        criterion=job.criterion, method="stochastic", n_distinct=len(job.candidates), guarantee=guarantee,
        n_parts=len(steps),
    )  # fmt: skip


class Walk:
    """A choice that grows batch by batch."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.samples = Samples(len(job.candidates), job.n, EPSILON if job.epsilon is None else job.epsilon, job.seed)
        self.path = Path(job.criterion, job.start)
        self.which: list[int] = []
        self._chosen = np.zeros(len(job.candidates), dtype=bool)

    def batches(self) -> list[Int[np.ndarray, " steps"]]:
        """Cut the steps into runs whose samples fit in memory together."""
        job = self._job
        if not job.n:
            return []
        size = weights(job.store)[job.candidates]
        batches: list[list[int]] = [[]]
        seen = np.zeros(len(size), dtype=bool)
        filled = 0.0
        # Beside the batch stands the sample of a step.
        for step in range(job.n):
            sample = self.samples.draw(step)
            own = float(size[sample].sum())
            extra = float(size[sample[~seen[sample]]].sum())
            if filled and filled + extra + own > job.part:
                batches.append([])
                seen[:] = False
                filled, extra = 0.0, own
            if extra + own > job.part:
                raise ParameterError(
                    f"`memory` must hold the sample of one step, {len(sample)} blocks of {own / 2**30:.2g} GiB, twice; "
                    f"a part has {job.part / 2**30:.2g} GiB; give more, or a larger `epsilon`"
                )
            seen[sample] = True
            filled += extra
            batches[-1].append(step)
        say(
            f"stochastic greedy: samples of {self.samples.size} of {len(size)} blocks, {job.n} steps "
            f"in {len(batches)} batch(es), each a pass over the chunks (room for {job.part / 2**30:.2g} GiB, "
            f"{job.memory:g} GiB in all)"
        )
        return [np.array(batch, dtype=np.int64) for batch in batches]

    def batch(self, steps: Int[np.ndarray, " steps"]) -> list[int]:
        """Read the samples of a batch of steps, and pick."""
        store, candidates = self._job.store, self._job.candidates
        read = np.unique(np.concatenate([self.samples.draw(int(step)) for step in steps]))
        read = read[~self._chosen[read]]
        info = store.take(candidates[read])
        picks = []
        for step in steps:
            sample = self.samples.live(self._chosen, int(step))
            place = np.searchsorted(read, sample)
            # A sample that was drawn again, as all of its first was chosen, may not have been read.
            known = bool((place < len(read)).all()) and bool((read[np.minimum(place, len(read) - 1)] == sample).all())
            part = info.take(place) if known and len(read) else store.take(candidates[sample])
            k = self.samples.pick(part, self.path, int(step))
            self.path.add(part.block(k))
            picks.append(int(sample[k]))
            self._chosen[picks[-1]] = True
        self.which += picks
        return picks

    def again(self, which: list[int]) -> None:
        """Walk along the choice of an earlier run, block by block, which leaves the path as it was."""
        job = self._job
        step = max(1, int(job.part / max(float(weights(job.store).max()), 1.0)))
        for first in range(0, len(which), step):
            info = job.store.take(job.candidates[which[first : first + step]])
            for s in range(len(info)):
                self.path.add(info.block(s))
        self.which, self._chosen[which] = which, True

"""Stochastic greedy over chunks: the samples of many steps are read together, as many as fit in memory."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.search.gains import Gains, Path
from kernelpot.errors import ParameterError
from kernelpot.linalg.store import ChunkStore
from kernelpot.pools.request import Job, PoolChoice, make_choice, weights
from kernelpot.progress import say, track
from kernelpot.rules import real


def sample_size(n_candidates: int, n: int, epsilon: float) -> int:
    """Return how many candidates a step looks at, ``N/n · ln(1/ε)`` (Mirzasoleiman et al. 2015).

    Some more are drawn for those that were chosen before and drop out.
    """
    epsilon = real(epsilon, "epsilon", most=1.0, above=True)
    size = np.ceil(n_candidates / n * np.log(1.0 / epsilon) * n_candidates / (n_candidates - n + 1.0))
    return int(np.clip(size, 1, n_candidates))


def draw(n_candidates: int, n: int, epsilon: float, seed: int, step: int) -> Int[np.ndarray, " sample"]:
    """Return the sample of one step in rising order; it depends on nothing but these numbers."""
    rng = np.random.default_rng([seed, step, 7])
    return np.sort(rng.choice(n_candidates, size=sample_size(n_candidates, n, epsilon), replace=False, shuffle=False))


def live_draw(
    chosen: Bool[np.ndarray, " candidates"], n: int, epsilon: float, seed: int, step: int
) -> Int[np.ndarray, " sample"]:
    """Return the sample of one step without what was chosen, drawn again where nothing is left of it."""
    while True:
        sample = draw(len(chosen), n, epsilon, seed, step)
        sample = sample[~chosen[sample]]
        if len(sample):
            return sample
        step += n


def pick(info: Information, path: Path, seed: int, step: int) -> int:
    """Return the number of the best block along a path; ties are broken by the seed."""
    rank = np.random.default_rng([seed, step, 11]).permutation(len(info))
    return Gains(info, path).best(np.ones(len(info), dtype=bool), np.ones(len(info)), rank)


def sampled_greedy(
    info: Information, criterion: Criterion, n: int, precision: Precision, *, epsilon: float, seed: int
) -> tuple[list[int], Path]:
    """Choose n blocks in memory by stochastic greedy: for D at least ``1 - 1/e - ε`` of the best gain on average."""
    path = Path(criterion, precision)
    chosen = np.zeros(len(info), dtype=bool)
    indices: list[int] = []
    for step in track(range(n), "choosing"):
        sample = live_draw(chosen, n, epsilon, seed, step)
        s = int(sample[pick(info.take(sample), path, seed, step)])
        chosen[s] = True
        indices.append(s)
        path.add(info.block(s))
    path.anchor()
    return indices, path


EPSILON = 0.1


def stochastic(job: Job) -> PoolChoice:
    """Choose by stochastic greedy; after every batch of steps the choice so far is kept."""
    epsilon = EPSILON if job.epsilon is None else job.epsilon
    steps = _batches(job, epsilon)
    results = ChunkStore(job.folder("stochastic"))
    path = Path(job.criterion, job.start)
    chosen = np.zeros(len(job.candidates), dtype=bool)
    which: list[int] = []
    done = 0
    while done < len(steps) and results.intact(done) and _agrees(results, done, steps[done]):
        done += 1
    before = [int(s) for b in range(done) for s in results.read(b)["which"]]
    if before:
        say(f"{done} of {len(steps)} batches were finished before")
        _again(job, before, path)
        which, chosen[before] = before, True
    for b in track(range(done, len(steps)), "batches"):
        picks = _batch(job, steps[b], epsilon, chosen, path)
        which += picks
        results.write(b, {"which": np.array(picks, dtype=np.int64), "steps": steps[b]})
    path.anchor()
    return make_choice(
        job.store, job.candidates[np.array(which, dtype=np.int64)], np.array(path.values),
        criterion=job.criterion, method="stochastic", n_distinct=len(job.candidates),
        guarantee=_guarantee(job, epsilon), n_parts=len(steps),
    )  # fmt: skip


def _batches(job: Job, epsilon: float) -> list[Int[np.ndarray, " steps"]]:
    """Cut the steps into runs whose samples fit in memory together."""
    if not job.n:
        return []
    size = weights(job.store)[job.candidates]
    batches: list[list[int]] = [[]]
    seen = np.zeros(len(size), dtype=bool)
    filled = 0.0
    # Beside the batch stands the sample of a step.
    for step in range(job.n):
        sample = draw(len(size), job.n, epsilon, job.seed, step)
        own = float(size[sample].sum())
        extra = float(size[sample[~seen[sample]]].sum())
        if filled and filled + extra + own > job.part:
            batches.append([])
            seen[:] = False
            filled, extra = 0.0, own
        if extra + own > job.part:
            raise ParameterError(
                f"`memory` must hold the sample of one step, {len(sample)} blocks of {own / 2**30:.2g} GiB, twice; a "
                f"part has {job.part / 2**30:.2g} GiB; give more, or a larger `epsilon`"
            )
        seen[sample] = True
        filled += extra
        batches[-1].append(step)
    say(
        f"stochastic greedy: samples of {sample_size(len(size), job.n, epsilon)} of {len(size)} blocks, {job.n} steps "
        f"in {len(batches)} batch(es), each a pass over the chunks (room for {job.part / 2**30:.2g} GiB, "
        f"{job.memory:g} GiB in all)"
    )
    return [np.array(batch, dtype=np.int64) for batch in batches]


def _batch(
    job: Job, steps: Int[np.ndarray, " steps"], epsilon: float, chosen: Bool[np.ndarray, " candidates"], path: Path
) -> list[int]:
    """Read the samples of a batch of steps, and pick."""
    n = len(job.candidates)
    samples = [draw(n, job.n, epsilon, job.seed, int(step)) for step in steps]
    read = np.unique(np.concatenate(samples))
    read = read[~chosen[read]]
    info = job.store.take(job.candidates[read])
    picks = []
    for step in steps:
        sample = live_draw(chosen, job.n, epsilon, job.seed, int(step))
        place = np.searchsorted(read, sample)
        # A sample that was drawn again, as all of its first was chosen, may not have been read.
        known = bool((place < len(read)).all()) and bool((read[np.minimum(place, len(read) - 1)] == sample).all())
        part = info.take(place) if known and len(read) else job.store.take(job.candidates[sample])
        k = pick(part, path, job.seed, int(step))
        path.add(part.block(k))
        picks.append(int(sample[k]))
        chosen[picks[-1]] = True
    return picks


def _again(job: Job, which: list[int], path: Path) -> None:
    """Walk along the choice of an earlier run, block by block, which leaves the path as it was."""
    step = max(1, int(job.part / max(float(weights(job.store).max()), 1.0)))
    for first in range(0, len(which), step):
        info: Information = job.store.take(job.candidates[which[first : first + step]])
        for s in range(len(info)):
            path.add(info.block(s))


def _agrees(results: ChunkStore, b: int, steps: Float[np.ndarray, " steps"]) -> bool:
    """Whether a batch of an earlier run is this one; with another memory the batches are others."""
    return bool(np.array_equal(results.read(b)["steps"], steps))


def _guarantee(job: Job, epsilon: float) -> str:
    if not job.criterion.submodular:
        return f"no guarantee for {job.criterion.name}, which is not submodular: a heuristic"
    return f"gain at least 1 - 1/e - {epsilon:g} of the best possible in expectation"

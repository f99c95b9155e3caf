"""Stochastic greedy: at every step the best of a random sample, so that a long pool is looked at a few times in all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.search.gains import Gains, Path
from kernelpot.progress import track
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
    """Choose n of the blocks in memory by stochastic greedy.

    Parameters
    ----------
    info
        Candidates, all different.
    criterion
        What is improved.
    n
        How many.
    precision
        Information before the choice.
    epsilon
        For D, the expected gain is at least ``1 - 1/e - ε`` of the best possible.
    seed
        Makes the samples repeatable.

    Returns
    -------
    indices, path
        The choice in order and the path it took.
    """
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

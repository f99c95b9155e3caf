from __future__ import annotations

import numpy as np

from kernelpot.design import Information, Precision
from kernelpot.design.task import Rules, Task


def pool(n=8, d=6, *, seed=0, heights=(0, 1, 2, 3, 5, 9, 20), scale=1.0, F=4, **settings):
    """Random blocks of mixed heights, with one energy row each where they are not empty."""
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(n):
        height = int(rng.choice(heights))
        kinds = np.array([0] * min(height, 1) + [1] * max(height - 1, 0))
        rows = rng.standard_normal((height, d)) * scale * np.logspace(0, -2, d)
        blocks.append((rows, kinds, np.where(kinds == 0, 0.002, 0.1)))
    return Information.from_blocks(
        blocks,
        n_atoms=rng.integers(1, 9, size=n),
        means=rng.standard_normal((n, F)),
        groups=[f"g{s % 3}" for s in range(n)],
        description={"energy": 0.002, "forces": 0.1},
        **settings,
    )


def matrix(info, chosen=None):
    """I + Σ BᵀB, by the plain formula."""
    chosen = range(len(info)) if chosen is None else chosen
    return np.eye(info.d) + sum((info.block(s).T @ info.block(s) for s in chosen), np.zeros((info.d, info.d)))


def task(info, criterion, rules=None, *, n=0, seed=0, start=None):
    """What is to be chosen; n different candidates where no rules are given."""
    rules = Rules.plain(n, len(info), seed) if rules is None else rules
    return Task(info, criterion, rules, Precision.prior(info.d) if start is None else start)

"""Environment vectors of structures, made only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Vectors = tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " structures+1"]]
Environments = Callable[[], Vectors]
"""Makes ``(vectors, offsets)``; the environments of structure s are ``vectors[offsets[s]:offsets[s + 1]]``."""


@dataclass(frozen=True, eq=False)
class Subset:
    """The environments of some structures of a set, in the order given.

    Parameters
    ----------
    whole
        Environments of the set.
    chosen
        Structure numbers.
    """

    whole: Environments
    chosen: Int[np.ndarray, " chosen"]

    def __call__(self) -> Vectors:
        """Make the whole and keep the part."""
        vectors, offsets = self.whole()
        lengths = np.diff(offsets)[self.chosen]
        short = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(offsets[self.chosen] - short[:-1], lengths) + np.arange(short[-1])
        return vectors[picked], short


@dataclass(frozen=True, eq=False)
class Joined:
    """The environments of one set behind those of another.

    Parameters
    ----------
    first, second
        Environments of both sets.
    """

    first: Environments
    second: Environments

    def __call__(self) -> Vectors:
        """Make both."""
        one, ones = self.first()
        two, twos = self.second()
        return np.concatenate([one, two]), np.concatenate([ones, ones[-1] + twos[1:]])

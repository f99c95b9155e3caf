"""Structures that say the same thing twice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from kernelpot.design.information import Information
from kernelpot.errors import ParameterError
from kernelpot.linalg.subsets import SAME, equal_vectors


def duplicates(info: Information, *, tolerance: float = SAME) -> Int[np.ndarray, " structures"]:
    """Group structures that have equal mean descriptors and equal numbers of atoms.

    Parameters
    ----------
    info
        The structures. Without mean descriptors each is a group of its own.
    tolerance
        Largest distance of two mean descriptors, relative to the larger norm.

    Returns
    -------
    groups
        Group number of every structure, counted in the order of first members. Groups are chains: a member
        is within the tolerance of some other member.

    Raises
    ------
    ParameterError
        If `tolerance` is negative or not finite.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ParameterError(f"`tolerance` must be finite and not negative, got {tolerance}")
    return equal_vectors(info.means, info.n_atoms, tolerance)

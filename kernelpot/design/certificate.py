"""How far a design can be from the best one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.polytope import Polytope
from kernelpot.design.precision import Precision
from kernelpot.design.rules import Rules

_CHUNK = 1 << 14


def efficiency_bound(
    info: Information,
    indices: Int[np.ndarray, " n"],
    criterion: Criterion,
    rules: Rules,
    precision: Precision,
    *,
    discarded: float = 0.0,
) -> float:
    """Lower limit of a design's efficiency, from the criterion's linearisation at the design itself.

    A concave function lies below its tangent (Kiefer and Wolfowitz 1960 for D; Pukelsheim 2006, ch. 7), so no
    feasible set gains more than the gap of the tangent. The limit is valid but loose: a relaxation would
    tighten it. What compression discarded is counted for every rival set, but not for the design.

    Parameters
    ----------
    info
        Candidates.
    indices
        The design.
    criterion
        What is compared.
    rules
        What a rival set may hold.
    precision
        Information of the design, what existed before included.
    discarded
        Trace that compression took from what existed before.

    Returns
    -------
    efficiency
        In [0, 1].
    """
    slope = criterion.gradient(precision)
    slope = slope if criterion.larger_is_better else -slope
    own = sensitivities(info, slope)
    steepest = float(np.linalg.eigvalsh(slope)[-1]) if len(slope) else 0.0
    ideal = own + steepest * info.discarded.sum(axis=1)
    gap = best_sum(ideal, rules) + steepest * discarded - float(own[indices].sum())
    value = criterion.value(precision)
    return criterion.efficiency(value, criterion.bound(value, gap, info.d), info.d)


def sensitivities(info: Information, slope: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " structures"]:
    """Directional derivative ``tr(S B_sᵀ B_s)`` of every block.

    Parameters
    ----------
    info
        Blocks.
    slope
        S, the positive semidefinite derivative in the information.
    """
    per_row = np.empty(len(info.rows))
    for start in range(0, len(per_row), _CHUNK):
        rows = info.rows[start : start + _CHUNK]
        per_row[start : start + _CHUNK] = np.einsum("rd,rd->r", rows @ slope, rows)
    # Round-off can leave a derivative of zero slightly negative.
    return np.maximum(np.bincount(info.structure, weights=per_row, minlength=len(info)), 0.0)


def best_sum(g: Float[np.ndarray, " structures"], rules: Rules) -> float:
    """Upper limit of the sum of g over any set, or any fractional design, that the rules allow.

    A sort under a size limit and quotas, a fractional knapsack under one budget, else a linear programme whose prices
    give the limit, so that solver tolerances cannot bring it below the truth.

    Parameters
    ----------
    g
        Non-negative worth of every candidate.
    rules
        What a set may hold.
    """
    return Polytope(rules).limit(g)

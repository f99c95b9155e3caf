"""How far a design can be from the best one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.bounds.polytope import Polytope
from kernelpot.design.criteria import Criterion
from kernelpot.design.criteria.base import sensitivities, squares
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.task import Rules


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
    limit = upper_limit(info, criterion, rules, precision, discarded=discarded, weights=_ones(len(info), indices))
    return criterion.efficiency(criterion.shown(precision), limit, info.d)


def upper_limit(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    precision: Precision,
    *,
    weights: Float[np.ndarray, " structures"],
    discarded: float = 0.0,
    as_given: bool = False,
) -> float:
    """Raw value that no feasible set passes, from the tangent at a fractional design.

    With Γ of `Criterion.tangent` and ``g_s = tr(Γ B_sᵀB_s)``, a set T has
    ``log ψ(T) <= log ψ + log(1 + Σ_T g_s - Σ_s w_s g_s)``. A block that lost the trace τ to compression gains at most
    ``λ_max(Γ) τ`` more, and g_s itself is known to d ε ‖Γ‖ tr(B_sᵀB_s) at best (ε of float64): next to nothing unless
    rows span more than eight orders of magnitude.

    Parameters
    ----------
    info, criterion, rules, discarded
        As in `efficiency_bound`.
    precision
        Information of the fractional design.
    weights
        Its weights.
    as_given
        Take blocks as if compression had dropped nothing.
    """
    tangent = criterion.tangent(precision)
    if not np.isfinite(tangent.utility):
        return criterion.raw(tangent.utility, info.d)
    g = sensitivities(info, tangent.slope)
    # Squares that cancel leave round-off, which must not make the limit tighter than it is.
    error = info.d * np.finfo(float).eps * float(np.linalg.norm(tangent.slope)) * squares(info)
    at = float((g - error) @ weights)
    if as_given:
        best = best_sum(g + error, rules)
    else:
        steepest = float(np.linalg.eigvalsh(tangent.slope)[-1]) if len(tangent.slope) else 0.0
        best = best_sum(g + error + steepest * info.discarded.sum(axis=1), rules) + steepest * discarded
    return criterion.raw(tangent.utility + float(np.log1p(max(best - at, 0.0))), info.d)


def _ones(n: int, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " structures"]:
    """Weights of a design of whole structures."""
    weights = np.zeros(n)
    weights[indices] = 1.0
    return weights


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

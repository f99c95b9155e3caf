"""What can be found about a set of structures from the rows of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.design.precision import Aim, Precision
from kernelpot.errors import ParameterError

_WORST = 10


class ErrorsByKind:
    """Errors of each kind of label against numbers of labels, by name."""

    n: Int[np.ndarray, " points"]
    errors: Mapping[str, Float[np.ndarray, " points"]]

    @property
    def energy(self) -> Float[np.ndarray, " points"]:
        """Energy error, eV/atom; NaN where there are no energies."""
        return self._of("energy")

    @property
    def forces(self) -> Float[np.ndarray, " points"]:
        """Error of a force component, eV/Å; NaN where there are no forces."""
        return self._of("forces")

    @property
    def stress(self) -> Float[np.ndarray, " points"]:
        """Error of a stress component, eV/Å³; NaN where there are no stresses."""
        return self._of("stress")

    def _of(self, kind: str) -> Float[np.ndarray, " points"]:
        return np.asarray(self.errors.get(kind, np.full(len(self.n), np.nan)))


@dataclass(frozen=True, eq=False)
class Curve(ErrorsByKind):
    """Expected error of each kind of label against the number of labelled structures.

    Parameters
    ----------
    n
        Numbers of labelled structures.
    errors
        For each kind of label that the target has: root mean square of the posterior standard deviation over the
        target's rows, without label noise; eV/atom, eV/Å, eV/Å³.
    noise
        Root mean square noise of the target's labels of each kind, in the same units: a test against labels
        that noisy would show ``sqrt(errors² + noise²)``.
    name
        The order in which labels come, for people.
    """

    n: Int[np.ndarray, " points"]
    errors: Mapping[str, Float[np.ndarray, " points"]]
    noise: Mapping[str, float] = field(default_factory=dict)
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "order": self.name,
            "n": self.n.tolist(),
            "errors": {kind: values.tolist() for kind, values in self.errors.items()},
            "noise": dict(self.noise),
        }


def expected_errors(
    info: Information,
    order: Sequence[int] | Int[np.ndarray, " labels"],
    *,
    target: Information | Aim | None = None,
    existing: Information | None = None,
    at: Sequence[int] | None = None,
    name: str = "",
) -> Curve:
    """Predict the error on a target as structures are labelled in a given order. No label is looked at.

    The expected squared error of a Bayesian linear model is its posterior variance (Rasmussen and Williams 2006,
    eq. 2.9), if the prior is right: a kernel that fits the system badly gives larger errors (see `kernelpot.forecast`).

    Parameters
    ----------
    info
        Structures that may be labelled.
    order
        Structure numbers in the order of labelling.
    target
        What is to be predicted; None: `info` itself, the labelled ones included.
    existing
        What is labelled before.
    at
        Numbers of labels (of `order`, so from 0 to its length) at which to look; None: all of them.
    name
        The order's name, for people.

    Returns
    -------
    Curve
        Its `n` counts the existing structures too.

    Raises
    ------
    ParameterError
        If a number of labels exceeds the order, or weights do not agree.
    """
    measured = target if isinstance(target, Aim) else Aim.of(info if target is None else target)
    chosen = info.take(order)
    points = np.arange(len(chosen) + 1) if at is None else np.array(sorted({int(n) for n in at}), dtype=np.int64)
    if len(points) and not (points[0] >= 0 and points[-1] <= len(chosen)):
        raise ParameterError(f"`at` must lie between 0 and the length of the order, {len(chosen)}; got {list(points)}")
    precision = Precision.prior(info.d)
    if existing is not None:
        precision = precision.with_rows(existing.rows)
    found: list[dict[str, float]] = []
    done = 0
    for n in points.tolist():
        precision = precision.with_rows(chosen.rows[chosen.offsets[done] : chosen.offsets[n]])
        found.append(measured.errors(precision))
        done = n
    return Curve(
        n=points + (0 if existing is None else len(existing)),
        errors={kind: np.array([one[kind] for one in found]) for kind in measured.roots},
        noise=measured.noise,
        name=name,
    )


def mean_curve(curves: Sequence[Curve], name: str) -> Curve:
    """Root mean square of curves over the same numbers of labels."""
    first = curves[0]
    errors = {
        kind: np.sqrt(np.mean([np.square(curve.errors[kind]) for curve in curves], axis=0)) for kind in first.errors
    }
    return Curve(first.n, errors, first.noise, name)


@dataclass(frozen=True)
class Feasibility:
    """Whether the rows of a set fix the weights.

    Parameters
    ----------
    d, rows
        Number of weights, and of rows after compression.
    rank, tolerance
        Singular values of the stacked rows above ``max(rows, d) · eps · largest``, and that limit.
    effective
        Effective number of parameters ``Σ λ/(1 + λ)`` (MacKay 1992, eq. 4.9): weights that labels, not the prior, fix.
    condition
        Condition number of ``Λ = I + Σ BᵀB``; QR works with its square root.
    """

    d: int
    rows: int
    rank: int
    tolerance: float
    effective: float
    condition: float


@dataclass(frozen=True, eq=False)
class Remaining:
    """What a set leaves open of a target.

    Parameters
    ----------
    prior, now
        Root mean square standard deviation of each kind before any label and now: eV/atom, eV/Å, eV/Å³.
    directions
        For each kind, how many of the principal directions that hold 99.9 % of the target's variance keep more than
        half of their prior variance, and how many there are.
    groups
        For each group of the target: number of structures, and expected error of each kind.
    structures
        Expected error of each kind for every target structure.
    shares
        The same as a share of the prior standard deviation.
    """

    prior: Mapping[str, float]
    now: Mapping[str, float]
    directions: Mapping[str, tuple[int, int]]
    groups: Mapping[str, Mapping[str, float]]
    structures: Mapping[str, Float[np.ndarray, " structures"]]
    shares: Mapping[str, Float[np.ndarray, " structures"]]

    def worst(self, n: int = _WORST) -> Int[np.ndarray, " n"]:
        """Target structures that are known least: largest expected error, relative to the mean over the target.

        Parameters
        ----------
        n
            How many.
        """
        scores = [
            values / max(self.now[kind], 1e-300)
            for kind, values in self.structures.items()
            if np.isfinite(values).any()
        ]
        if not scores:
            return np.empty(0, dtype=np.int64)
        score = np.nanmax(np.nan_to_num(np.stack(scores), nan=0.0), axis=0)
        return np.argsort(-score, kind="stable")[:n]


@dataclass(frozen=True)
class Swap:
    """One member out, one candidate in.

    Parameters
    ----------
    out, candidate
        Structure numbers in the set and in the pool.
    gain
        How much better the criterion becomes, exactly.
    value
        The criterion after the swap.
    """

    out: int
    candidate: int
    gain: float
    value: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found about a set; see docs/assess.md for what each figure means.

    Parameters
    ----------
    n_structures, counts, description
        The set: its size, its labels of each kind, the settings behind the rows.
    feasibility
        Rank, effective parameters, conditioning.
    spectrum
        Eigenvalues of the set's information, largest first.
    effective_by_kind
        The effective parameters that each kind of label fixes.
    target_name, target_numbers, remaining
        What is to be predicted, the numbers that its structures go by, and what the set leaves open of it.
    criterion, value, unit
        What structures are weighed by, its value for the set, and the value's unit where it has one.
    leverage
        ``tr(B_s C B_sᵀ)``: effective parameters that each structure fixes; they add up to all.
    losses, loss_shares
        What the criterion loses where a structure is removed; the same as a loss of efficiency.
    redundant_level
        Loss of efficiency below which a structure counts as nearly redundant.
    duplicates
        For each tolerance, groups of near duplicates.
    swaps
        Best swaps with the pool, each by itself.
    next_indices, next_gains, next_costs
        What to add from the pool, in order; what each then gains, and costs.
    n_known
        Candidates of the pool that duplicate a member of the set.
    history
        Expected error from no label to the whole set.
    ahead, ahead_random
        Expected error as the proposed additions, or random ones, are labelled.
    discarded
        Mean square that compression took from the target's rows of each kind, in units of noise squared.
    cost_unit
        Unit of the costs; empty where they were given.
    """

    n_structures: int
    counts: Mapping[str, int]
    description: Mapping[str, Any]
    feasibility: Feasibility
    spectrum: Float[np.ndarray, " d"]
    effective_by_kind: Mapping[str, float]
    target_name: str
    target_numbers: Int[np.ndarray, " target"]
    remaining: Remaining
    criterion: str
    value: float
    leverage: Float[np.ndarray, " structures"]
    losses: Float[np.ndarray, " structures"]
    loss_shares: Float[np.ndarray, " structures"]
    redundant_level: float
    duplicates: Mapping[float, tuple[tuple[int, ...], ...]]
    swaps: tuple[Swap, ...]
    next_indices: Int[np.ndarray, " n"]
    next_gains: Float[np.ndarray, " n"]
    next_costs: Float[np.ndarray, " n"]
    n_known: int
    history: Curve
    ahead: Curve
    ahead_random: Curve | None
    discarded: Mapping[str, float]
    cost_unit: str = ""
    unit: str = ""

    @property
    def redundant(self) -> Int[np.ndarray, " some"]:
        """Structures that are nearly redundant, least missed first; each by itself, not all together."""
        few = np.flatnonzero(self.loss_shares <= self.redundant_level)
        result: np.ndarray = few[np.argsort(self.loss_shares[few], kind="stable")]
        return result

    @property
    def gain_per_cost(self) -> Float[np.ndarray, " n"]:
        """Gain of every proposed addition per unit of its cost."""
        result: np.ndarray = self.next_gains / self.next_costs
        return result

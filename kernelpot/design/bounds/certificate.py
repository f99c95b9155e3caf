"""A certificate: how far a choice can be from the best one at all, by a design of fractional structures.

With weights ``0 <= w_s <= 1`` under the size limit or the budget, ``Λ(w) = Λ_0 + Σ_s w_s B_sᵀ B_s`` makes every
criterion here a concave problem (Pukelsheim 2006, ch. 5-7). Its optimum is at least as good as the best set, and so is
the tangent's bound at any w.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.bounds.climb import Climbed, Effort, Moments, climb
from kernelpot.design.bounds.polytope import upper_limit
from kernelpot.design.choice import SILENCE, SILENT
from kernelpot.design.task import Task

_NEGLIGIBLE = 1e-6
_WORTH_SAYING = 5e-3
"""Loss of efficiency to truncation that a printed certificate mentions."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A fractional design, and the limit of all whole ones that follows."""

    weights: Float[np.ndarray, " structures"]
    value: float
    bound: float
    bound_as_given: float  # if compression had discarded nothing
    steps: int


def relax(task: Task, effort: Effort | None = None) -> Relaxation:
    """Find fractional weights that are nearly the best, and the best bound over all of them.

    Under a budget the weights obey the budget alone, the bound both limits.
    """
    info, rules = task.info, task.rules
    heads = rules.heads()
    inner = rules.after_forced().take(heads)
    forced = info.take(rules.forced).rows
    start = task.start.with_rows(forced) if len(forced) else task.start
    found = Climbed(np.zeros(len(heads)), np.zeros(len(heads)), 0)
    if len(heads) and inner.n:
        found = climb(Moments(info.take(heads), start), task.criterion, inner, effort or Effort())

    def certified(part: Float[np.ndarray, " heads"]) -> Relaxation:
        """Evaluate the bound from a triangular factor, for all candidates and with what was discarded."""
        weights = np.zeros(len(info))
        # Whatever the weights are, the bound at them holds; negligible ones would only cost time.
        weights[heads] = np.where(part > _NEGLIGIBLE, part, 0.0)
        weights[rules.forced] = 1.0
        used = np.flatnonzero(weights)
        few = info.take(used)
        precision = task.start.with_rows(few.rows * np.sqrt(weights[used])[few.structure, None])
        return Relaxation(
            weights=weights,
            value=task.criterion.shown(precision),
            bound=upper_limit(task, precision, weights),
            bound_as_given=upper_limit(task, precision, weights, as_given=True),
            steps=found.steps,
        )

    best = certified(found.weights)
    if np.array_equal(found.touching, found.weights):
        return best
    other = certified(found.touching)
    tighter = min if task.criterion.larger_is_better else max
    return replace(
        best,
        bound=tighter(best.bound, other.bound),
        bound_as_given=tighter(best.bound_as_given, other.bound_as_given),
    )


@dataclass(frozen=True)
class Certificate:
    """A proven limit of what any choice under the same size or budget could reach.

    Parameters
    ----------
    criterion
        Name of the criterion.
    value
        Raw value of the choice.
    bound
        Raw value that no choice passes, labels' full rows included that compression dropped.
    efficiency
        The choice is at least this efficient against the best one: for D the ratio of geometric mean eigenvalues,
        ``exp((value - bound)/d)``, else ``bound/value``.
    relaxed
        Raw value of the best fractional choice found.
    relaxation_gap
        One less the efficiency of that fractional choice against the bound. What is missing to 1 in `efficiency`
        beyond this gap is the choice's own distance from the fractional one: swaps not made, or whole structures
        being worse than parts of them.
    truncation_loss
        How much more efficiency could be certified if compression had dropped nothing; see `Information.truncated`.
    steps
        Steps of the relaxation.
    seconds
        Wall time.
    larger_is_better
        Direction of the values.
    unit
        Of the values; "noise²" where they are variances of labels in units of their noise.
    """

    criterion: str
    value: float
    bound: float
    efficiency: float
    relaxed: float
    relaxation_gap: float
    truncation_loss: float
    steps: int
    seconds: float
    larger_is_better: bool = False
    unit: str = ""

    def __str__(self) -> str:
        """Return a few lines for people."""
        floor = np.floor(self.efficiency * 1e4) / 1e4
        unit = f" {self.unit}" if self.unit else ""
        beyond = "passes" if self.larger_is_better else "gets below"
        lines = [
            f"{self.criterion} efficiency against the best possible choice: at least {floor:.4f}",
            f"value {self.value:.6g}{unit}; no choice {beyond} {self.bound:.6g}{unit}; "
            f"best fractional choice {self.relaxed:.6g}{unit}",
            f"relaxation gap {self.relaxation_gap:.1e} after {self.steps} steps, {self.seconds:.1f} s",
        ]
        if floor < SILENT:
            lines.append(SILENCE)
        if self.truncation_loss > _WORTH_SAYING:
            lines.append(
                f"{self.truncation_loss:.3f} of the certificate is lost to shortened blocks: "
                "make the information with a smaller `truncate`"
            )
        return "\n".join(lines)


def certificate(task: Task, value: float, effort: Effort) -> Certificate:
    """Bound what any choice can reach, and compare the value of one with that."""
    began = time.perf_counter()
    measure, d = task.criterion, task.info.d
    found = relax(task, effort)
    efficiency = measure.efficiency(value, found.bound, d)
    return Certificate(
        criterion=measure.name,
        value=value,
        bound=found.bound,
        efficiency=efficiency,
        relaxed=found.value,
        relaxation_gap=1.0 - measure.efficiency(found.value, found.bound, d),
        truncation_loss=measure.efficiency(value, found.bound_as_given, d) - efficiency,
        steps=found.steps,
        seconds=time.perf_counter() - began,
        larger_is_better=measure.larger_is_better,
        unit=measure.unit,
    )

"""What error more labels will leave, from a small labelled pilot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.check import check_species
from kernelpot.data.labels import resolve
from kernelpot.data.noise import KINDS
from kernelpot.data.stream import structure_list
from kernelpot.design.advice.findings import ErrorsByKind
from kernelpot.design.information import Information, duplicates
from kernelpot.design.precision import Precision, row_variances
from kernelpot.design.problem import select
from kernelpot.errors import LabelError, ParameterError
from kernelpot.features.information import make_information
from kernelpot.judgement.pilot import Pilot, read_blocks, without_baseline
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.fitting import require_labels
from kernelpot.rules import numbers
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP


FEWEST = 3
"""Distinct pilot structures below which nothing can be learned from leaving one out."""

STRANGE = 5.0
"""Scale above which the prior fits a system so badly that the text warns."""

MISSED = {"energy": 2.6, "forces": 1.5}
"""Factors within which forecasts from ten labels were right in about nine cases of ten, on seven sets; not on an eighth
(Ta, where a tenth of the structures carry all of the error): docs/assess.md."""

USUAL = (10, 20, 40, 80, 160)
"""Numbers of labels looked at where none are given, as far as the pool goes."""

_TARGET = 200
_RANDOM_ORDERS = 3
_NAMED = 6


def shortlist(groups: Sequence[str]) -> str:
    """Name groups, the first few of many."""
    more = f" and {len(groups) - _NAMED} more groups" if len(groups) > _NAMED else ""
    return ", ".join(groups[:_NAMED]) + more


@dataclass(frozen=True, eq=False)
class Forecast(ErrorsByKind):
    """Error on a target against the number of labels: predicted, then corrected by a labelled pilot.

    Parameters
    ----------
    n
        Numbers of labels, the pilot's included.
    errors
        For each kind the forecast ``sqrt((scale · predicted)² + floor²)``: eV/atom, eV/Å, eV/Å³.
    predicted
        Posterior standard deviation on the target, before any correction.
    scale, floor
        What the pilot says: how much larger (or smaller) errors are than predicted, and what no label of this model's
        features will remove.
    pilot_error, pilot_predicted
        Root mean square error of pilot structures left out one at a time, and its prediction.
    n_pilot
        Structures of the pilot.
    path
        How the further labels come, for people.
    missing
        Groups (``info["config_type"]``) of the target that the pilot does not hold: there the forecast is a guess.
    """

    n: Int[np.ndarray, " points"]
    errors: Mapping[str, Float[np.ndarray, " points"]]
    predicted: Mapping[str, Float[np.ndarray, " points"]]
    scale: Mapping[str, float]
    floor: Mapping[str, float]
    pilot_error: Mapping[str, float]
    pilot_predicted: Mapping[str, float]
    n_pilot: int
    path: str
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a table for people."""
        lines = [f"forecast from a pilot of {self.n_pilot} labelled structures, further labels by {self.path}"]
        kinds = list(self.errors)
        for kind in kinds:
            figures = (self.pilot_error[kind], self.pilot_predicted[kind], self.floor[kind])
            seen, expected, floor = (f"{1e3 * value:.3g} {MILLI[kind]}" for value in figures)
            lines.append(
                f"{kind}: left-out pilot structures miss by {seen} where {expected} was predicted; "
                f"scale {self.scale[kind]:.2f} times the prediction, floor {floor}"
            )
        if self.missing:
            lines.append(f"the pilot holds no {shortlist(self.missing)}: there the forecast is a guess")
        if max(self.scale.values()) > STRANGE:
            lines.append(
                "the kernel describes the pilot badly (errors several times larger than predicted): for structures "
                "unlike the pilot's this forecast is a guess"
            )
        heads = [f"{kind}, {MILLI[kind]}{' (range)' if kind in MISSED else ''}" for kind in kinds]
        rows = [[self._ranged(kind, k) for kind in kinds] for k in range(len(self.n))]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for n, cells in zip(["labels", *self.n.tolist()], [heads, *rows], strict=True):
            lines.append("  ".join([f"{n:>6}", *(c.rjust(width) for c, width in zip(cells, widths, strict=True))]))
        if set(kinds) & set(MISSED):
            lines.append(
                "range: nine of ten forecasts from ten labels were right within it, on seven sets (docs/assess.md); "
                "on an eighth, where a few extreme structures carry all of the error, they were not"
            )
        return "\n".join(lines)

    def _ranged(self, kind: str, k: int) -> str:
        """Write one forecast with its range."""
        value, factor = 1e3 * float(self.errors[kind][k]), MISSED.get(kind)
        return f"{value:.3g}" + (f" ({value / factor:.2g} to {value * factor:.2g})" if factor else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain numbers and lists."""
        return {
            "n": self.n.tolist(),
            "errors": {kind: values.tolist() for kind, values in self.errors.items()},
            "predicted": {kind: values.tolist() for kind, values in self.predicted.items()},
            "scale": dict(self.scale),
            "floor": dict(self.floor),
            "pilot_error": dict(self.pilot_error),
            "pilot_predicted": dict(self.pilot_predicted),
            "n_pilot": self.n_pilot,
            "path": self.path,
            "missing_groups": list(self.missing),
        }


def forecast(
    space: SparseGP,
    pilot: Sequence[Atoms],
    *,
    pool: Sequence[Atoms],
    n: Sequence[int] | None = None,
    path: str | Sequence[int] = "greedy",
    target: Sequence[Atoms] | None = None,
    keys: Mapping[str, str | None] | None = None,
    seed: int = 0,
) -> Forecast:
    """Forecast the error after more labels, from a small labelled pilot.

    The posterior standard deviation on the target is computed for every number of labels, which needs no label. The
    pilot then tells how far to trust it: each structure is predicted from the others, and ``error² = scale² ·
    predicted² + floor²`` is fitted to what is seen (see `kernelpot.judgement.pilot`).

    Parameters
    ----------
    space
        A model whose inducing environments are fixed: prepared on the pool, or fitted. Its noise and amplitude count.
    pilot
        Labelled structures, at least three that differ.
    pool
        Structures that further labels would come from; their labels are not looked at.
    n
        Numbers of labels, the pilot's included. None: the pilot's size, then those of 10, 20, 40, 80 and 160 that are
        larger and that pool (or path) allows.
    path
        How further structures are chosen: "greedy" (as `design.select` does by default), "random" (mean of three
        orders), or indices into the pool in order of labelling.
    target
        Structures to be predicted; their labels are not looked at. None: what of the pool is not labelled yet.
    keys
        Names of the pilot's labels, as in `kernelpot.read`.
    seed
        Seed of random orders, and of the thinning of large targets to 200 structures.

    Raises
    ------
    LabelError
        The pilot's labels are missing or broken, or fewer than three of its structures differ.
    NotFittedError
        The inducing environments are not fixed yet.
    ParameterError
        A number of labels is smaller than the pilot, or larger than pilot and pool together.
    """
    features, noise, amplitude = space.plan()
    pilot, pool = structure_list(pilot), structure_list(pool)
    for structures in (pilot, pool, [] if target is None else structure_list(target)):
        check_species(structures, features.species)
    labels = resolve(pilot, keys)
    kinds = require_labels(labels, noise)
    labels = less_baseline(space.baseline, pilot, labels, kinds)
    planned = space.information(pool)
    existing = space.information(pilot, labels="present", truncate=0.0, keys=keys)
    groups = duplicates(existing)
    if len(np.unique(groups)) < FEWEST:
        raise LabelError(
            f"a pilot needs at least {FEWEST} different structures, found {len(np.unique(groups))}; label more."
        )
    if n is None:
        most = len(pilot) + (len(pool) if isinstance(path, str) else len(path))
        n = [len(pilot), *(k for k in USUAL if len(pilot) < k <= most)]
    points = np.unique(numbers(n, "n", "numbers of labels"))
    if not len(points) or points[0] < len(pilot) or points[-1] > len(pilot) + len(pool):
        raise ParameterError(
            f"`n` must lie between the size of the pilot, {len(pilot)}, and that of pilot and pool together, "
            f"{len(pilot) + len(pool)}; got {list(n)}."
        )
    joint = duplicates(existing.append(planned))
    known = np.isin(joint[len(pilot) :], joint[: len(pilot)])
    orders, name = _orders(path, planned, existing, known, int(points[-1]) - len(pilot), seed)
    aims = pool if target is None else structure_list(target)
    shuffled = np.random.default_rng([seed, 7]).random(len(aims))
    # What repeats the pilot comes last.
    thinned = np.sort(np.argsort(shuffled + (known if target is None else 0), kind="stable")[:_TARGET])
    exact = make_information(features, [aims[k] for k in thinned], noise, amplitude, present=None, truncate=0.0)
    blocks = without_baseline(read_blocks(features, pilot, labels, kinds, noise, amplitude), features.n_weights)
    hidden = thinned if target is None else None
    course = Course(existing, planned, orders, points, exact, hidden, features.n_weights, name)
    found = course.corrected(Pilot.of(blocks, groups, features.n_weights, noise))
    mine, theirs = ({str(atoms.info.get("config_type", "")) for atoms in some} - {""} for some in (pilot, aims))
    return replace(found, missing=tuple(sorted(theirs - mine)) if mine else ())


@dataclass(frozen=True, eq=False)
class Course:
    """How labels come after a pilot, and what is to be predicted."""

    existing: Information  # the pilot
    planned: Information  # the pool
    orders: Sequence[Int[np.ndarray, " more"]]  # indices into the pool; figures are averaged over orders
    points: Int[np.ndarray, " points"]  # numbers of labels, the pilot's included
    exact: Information  # the target's rows, best not compressed
    # Where the target's structures stand in the pool: those that are labelled by then do not count, unless all are.
    hidden: Int[np.ndarray, " some"] | None
    n_weights: int  # columns before those of the elements
    name: str  # the path's, for people

    def corrected(self, pilot: Pilot) -> Forecast:
        """Predict the error along the course and correct it by what a pilot shows."""
        curves = [self._predicted(order) for order in self.orders]
        predicted = {
            kind: np.sqrt(np.mean([np.square(curve[kind]) for curve in curves], axis=0)) for kind in pilot.kinds
        }
        exact = self.exact
        prior = np.einsum("rd,rd->r", exact.rows[:, : self.n_weights], exact.rows[:, : self.n_weights]) * exact.sigma**2
        scales = pilot.scales(
            {kind: float(prior[exact.kinds == code].mean()) for code, kind in enumerate(KINDS) if code in exact.kinds}
        )
        seen = {kind: one.left_out for kind, one in pilot.kinds.items()}
        return Forecast(
            n=self.points,
            errors={
                kind: np.sqrt((scales.scale[kind] * values) ** 2 + scales.floor[kind] ** 2)
                for kind, values in predicted.items()
            },
            predicted=predicted,
            scale=scales.scale,
            floor=scales.floor,
            pilot_error={kind: float(found.rmse) for kind, found in seen.items()},
            pilot_predicted={kind: float(np.sqrt(found.mean(found.variance))) for kind, found in seen.items()},
            n_pilot=len(self.existing),
            path=self.name,
        )

    def _predicted(self, order: Int[np.ndarray, " more"]) -> dict[str, Float[np.ndarray, " points"]]:
        """Posterior standard deviation of each kind over the target, as labels come in an order."""
        precision = Precision.prior(self.existing.d).with_rows(self.existing.rows)
        chosen, exact = self.planned.take(order), self.exact
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        done = 0
        for k in (self.points - len(self.existing)).tolist():
            precision = precision.with_rows(chosen.rows[chosen.offsets[done] : chosen.offsets[k]])
            done = k
            counts = np.ones(len(exact), dtype=bool) if self.hidden is None else ~np.isin(self.hidden, order[:k])
            mine = counts[exact.structure] if counts.any() else np.ones(len(exact.rows), dtype=bool)
            variance = row_variances(exact.rows[mine], precision) * exact.sigma[mine] ** 2
            for code, kind in enumerate(KINDS):
                here = exact.kinds[mine] == code
                found[kind].append(float(np.sqrt(variance[here].mean())) if here.any() else float("nan"))
        return {kind: np.array(values) for kind, values in found.items()}


def _orders(
    path: str | Sequence[int],
    planned: Information,
    existing: Information,
    known: Bool[np.ndarray, " pool"],
    more: int,
    seed: int,
) -> tuple[list[Int[np.ndarray, " more"]], str]:
    """Orders in which the pool is labelled, and what they are called."""
    if isinstance(path, str):
        if path == "greedy":
            choice = select(planned, more, existing=existing, seed=seed)
            return [choice.indices], f"{choice.method} {choice.criterion}"
        if path == "random":
            rng = np.random.default_rng(seed)
            orders = [np.argsort(known + rng.random(len(known)), kind="stable") for _ in range(_RANDOM_ORDERS)]
            return [order[:more] for order in orders], "random order"
        raise ParameterError(f'`path` must be "greedy", "random" or indices into the pool, got {path!r}.')
    order = numbers(path, "path")
    if len(order) < more or len(np.unique(order)) < len(order):
        raise ParameterError(f"`path` must name {more} different structures of the pool, got {len(order)} indices.")
    if len(order) and not (order.min() >= 0 and order.max() < len(known)):
        raise ParameterError(f"`path` must hold indices into the pool, from 0 to {len(known) - 1}.")
    return [order[:more]], "the given order"

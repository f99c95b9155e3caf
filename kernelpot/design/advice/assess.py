"""Advice on a set of structures that is already there: what it fixes, what in it is idle, what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.advice.findings import (
    Curve,
    Feasibility,
    Remaining,
    Swap,
    expected_errors,
    mean_curve,
)
from kernelpot.design.advice.text import Assessment
from kernelpot.design.blocks import KINDS
from kernelpot.design.criteria import Criterion, make_criterion
from kernelpot.design.information import PROPERTY, Information, duplicates, require
from kernelpot.design.limits import Cost, read_cost
from kernelpot.design.precision import Aim, Precision, row_variances
from kernelpot.design.problem import Problem, pose
from kernelpot.design.search.engines import gains_for
from kernelpot.design.search.gains import Path
from kernelpot.errors import ParameterError
from kernelpot.linalg.factor import without_each
from kernelpot.progress import track
from kernelpot.rules import MOST_SEED, real, reals, whole
from kernelpot.run import one_blas

TOLERANCES = (1e-6, 1e-3, 1e-2)
"""Relative distances of mean descriptors at which structures count as near duplicates."""

MEMBERS, CANDIDATES = 24, 200
"""Swaps are looked for among the members that are missed least and the candidates that add most."""

_RANDOM_ORDERS = 3
_CHUNK = 1 << 13
_DIRECTIONS = 0.999
_OPEN = 0.5
_SILENT = 1e-12
"""Share of a kind's mean prior variance below which labels vanish by symmetry, as forces on perfect crystals do."""


@one_blas()
def assess(
    info: Information,
    *,
    pool: Information | None = None,
    target: Information | None = None,
    criterion: str | Criterion = "IV",
    costs: Cost | None = None,
    next: int = 10,
    swaps: int = 5,
    redundant: float = 1e-3,
    tolerances: Sequence[float] = TOLERANCES,
    seed: int = 0,
) -> Assessment:
    """Judge a set of structures by the rows of their labels. No label is looked at.

    Parameters
    ----------
    info
        The set; made with ``labels="present"`` it counts the labels that are there, else those that are planned.
    pool
        Candidates for swaps and for what to add next.
    target
        What is to be predicted; None: the pool, or the set itself where there is none.
    criterion
        By which structures are weighed against each other, as in `select`.
    costs
        Cost of every structure of the pool, or a function of it; N_atoms³ where none are given.
    next
        How many additions to propose.
    swaps
        How many swaps to propose.
    redundant
        A structure counts as nearly redundant where the set without it keeps an efficiency of ``1 - redundant``.
    tolerances
        Relative distances of mean descriptors at which near duplicates are listed.
    seed
        Seed of random orders and of ties.

    Returns
    -------
    Assessment

    Raises
    ------
    ParameterError
        If the set is empty, a number breaks its rule, or the sets do not share their weights.

    Notes
    -----
    Time is dominated by the factors without each structure, about ``2 log2(n)`` factorisations of the set and one
    triangular inversion per structure. Swaps are searched among the `MEMBERS` members that are missed least and the
    `CANDIDATES` candidates that add most to the whole set; what is reported of them is exact.
    """
    _check(info, pool, target)
    next, swaps = whole(next, "next"), whole(swaps, "swaps")
    redundant, seed = real(redundant, "redundant"), whole(seed, "seed", most=MOST_SEED)
    tolerances = [real(tolerance, "tolerances") for tolerance in np.atleast_1d(reals(tolerances, "tolerances"))]
    problem = None
    if pool is not None and len(pool):
        problem = pose(pool, criterion=criterion, existing=info, target=target, seed=seed)
    aim = target if target is not None else info if problem is None else problem.info
    measure = make_criterion(criterion, info, target) if problem is None else problem.criterion
    precision = Precision.prior(info.d).with_rows(info.rows)
    found = _Standing(info, problem, measure, precision, measure.value(precision), Aim.of(aim), seed)
    spectrum, feasibility = found.feasibility()
    leverage, by_kind = found.leverage()
    losses, shares, spare = found.losses(MEMBERS if problem is not None and swaps else 0)
    additions = found.additions(costs, next)
    return Assessment(
        n_structures=len(info),
        counts=dict(zip(KINDS, info.counts.sum(axis=0).tolist(), strict=True)),
        description=info.description,
        feasibility=feasibility,
        spectrum=spectrum,
        effective_by_kind=by_kind,
        target_name="target" if target is not None else "set itself" if problem is None else "pool",
        target_numbers=np.arange(len(aim)),
        remaining=found.remaining(aim),
        criterion=measure.name,
        value=found.value,
        unit=measure.unit,
        leverage=leverage,
        losses=losses,
        loss_shares=shares,
        redundant_level=redundant,
        duplicates={tolerance: found.alike(tolerance) for tolerance in tolerances},
        swaps=found.swaps(spare, swaps),
        history=found.history(),
        discarded=found.measured.discarded,
        next_indices=additions.indices,
        next_gains=additions.gains,
        next_costs=additions.costs,
        n_known=additions.n_known,
        ahead=additions.ahead,
        ahead_random=additions.ahead_random,
        cost_unit="N_atoms³" if costs is None else "",
    )


def _check(info: Information, pool: Information | None, target: Information | None) -> None:
    """Refuse sets that cannot be judged."""
    require(info, "info")
    if info.description.get("labels") == PROPERTY:
        raise ParameterError(
            "`info` must be of energies, forces or stresses, got that of a property: its errors are in units of its "
            "kernel, of which `assess` knows nothing; `curve` of a choice, and `std` of a fitted model, tell of them."
        )
    for name, other in (("pool", pool), ("target", target)):
        if other is None:
            continue
        require(other, name)
        if other.d != info.d:
            raise ParameterError(
                f"`{name}` has {other.d} weights and the set {info.d}; make both with the same prepared model"
            )
    if not len(info):
        raise ParameterError("the set to assess is empty: give at least one structure")
    if target is not None and not len(target):
        raise ParameterError("`target` is empty: give at least one structure, or None for the pool")


@dataclass(frozen=True, eq=False)
class _Additions:
    """What to add from the pool, and the errors expected on the way."""

    indices: Int[np.ndarray, " n"]
    gains: Float[np.ndarray, " n"]
    costs: Float[np.ndarray, " n"]
    n_known: int
    ahead: Curve
    ahead_random: Curve | None


@dataclass(frozen=True, eq=False)
class _Standing:
    """A set, the problem of adding to it where there are candidates, and where it stands."""

    info: Information
    problem: Problem | None
    measure: Criterion
    precision: Precision
    value: float
    measured: Aim
    seed: int

    def feasibility(self) -> tuple[Float[np.ndarray, " d"], Feasibility]:
        """Spectrum of the set's information, from a triangular factor, and what follows from it."""
        info = self.info
        R = np.zeros((0, info.d))
        for first in range(0, len(info.rows), max(_CHUNK, 2 * info.d)):
            R = np.asarray(
                np.linalg.qr(np.concatenate([R, info.rows[first : first + max(_CHUNK, 2 * info.d)]]), mode="r")
            )
        singular = np.zeros(info.d)
        if len(R):
            singular[: min(R.shape)] = np.linalg.svd(R, compute_uv=False)
        tolerance = max(len(info.rows), info.d) * np.finfo(float).eps * float(singular[0])
        spectrum = singular**2
        return spectrum, Feasibility(
            d=info.d,
            rows=len(info.rows),
            rank=int((singular > tolerance).sum()),
            tolerance=tolerance,
            effective=float((spectrum / (1.0 + spectrum)).sum()),
            condition=float((1.0 + spectrum[0]) / (1.0 + spectrum[-1])),
        )

    def leverage(self) -> tuple[Float[np.ndarray, " structures"], dict[str, float]]:
        """``tr(B C Bᵀ)`` of every structure, and the same summed over each kind of label."""
        info = self.info
        per_row = row_variances(info.rows, self.precision)
        by_kind = np.bincount(info.kinds, weights=per_row, minlength=len(KINDS))
        present = info.counts.sum(axis=0) > 0
        return (
            np.bincount(info.structure, weights=per_row, minlength=len(info)),
            {kind: float(by_kind[k]) for k, kind in enumerate(KINDS) if present[k]},
        )

    def losses(
        self, keep: int
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, " structures"], list[tuple[float, int, Path]]]:
        """Compute what each removal costs, the gain of the block beside all others; keep those that are missed least.

        That is ``log det(I + B C' Bᵀ) = -log det(I - B C Bᵀ)`` for D and ``tr(G⁻¹ B C' V C' Bᵀ)`` for IV, with C' the
        covariance without the structure (Woodbury), which no downdate has spoilt.
        """

        def add(precision: Precision, first: int, last: int) -> Precision:
            rows = self.info.rows[self.info.offsets[first] : self.info.offsets[last]]
            return precision.with_rows(rows) if len(rows) else precision

        info, measure = self.info, self.measure
        losses, shares = np.zeros(len(info)), np.zeros(len(info))
        spare: list[tuple[float, int, Path]] = []
        for s, others in track(without_each(Precision.prior(info.d), len(info), add), "leaving out", total=len(info)):
            path = Path(measure, others)
            losses[s] = max(float(gains_for(info.take([s]), path).values[0]), 0.0)
            shares[s] = 1.0 - measure.efficiency(self.value - measure.sign * losses[s], self.value, info.d)
            spare.append((losses[s], s, path))
            spare = sorted(spare, key=lambda one: one[:2])[:keep]
        return losses, shares, spare

    def swaps(self, spare: list[tuple[float, int, Path]], n: int) -> tuple[Swap, ...]:
        """Find the best swaps, each taken by itself; no member is named twice, and no candidate or duplicate of it."""
        if self.problem is None or not spare or not n:
            return ()
        pool, fresh = self.problem.info, ~self.problem.rules.taken
        ahead = np.where(fresh, gains_for(pool, Path(self.measure, self.precision)).values, -np.inf)
        few = np.argsort(-ahead, kind="stable")[:CANDIDATES]
        few = few[np.isfinite(ahead[few])]
        if not len(few):
            return ()
        candidates = pool.take(few)
        options = []
        for loss, out, path in track(spare, "swaps"):
            gains = gains_for(candidates, path).values - loss
            options += [(float(gains[k]), out, int(few[k])) for k in np.argsort(-gains, kind="stable")[: 2 * n]]
        groups = self.problem.rules.groups
        best: list[Swap] = []
        for gain, out, candidate in sorted(options, key=lambda one: (-one[0], one[1:])):
            if len(best) == n or gain <= 1e-9 * abs(self.value):
                break
            if all(one.out != out and groups[one.candidate] != groups[candidate] for one in best):
                best.append(Swap(out, candidate, gain, self.value + self.measure.sign * gain))
        return tuple(best)

    def additions(self, costs: Cost | None, n: int) -> _Additions:
        """Choose what to add from the pool, in order, with its gain and cost, and the errors expected on the way."""
        info, measured = self.info, self.measured
        n = 0 if self.problem is None else min(n, len(self.problem.info))
        if self.problem is None or not n:
            now = expected_errors(info, np.arange(len(info)), target=measured, at=[len(info)], name="now")
            return _Additions(np.empty(0, np.int64), np.empty(0), np.empty(0), 0, now, None)
        pool, fresh = self.problem.info, ~self.problem.rules.taken
        choice = self.problem.select(n)
        gains = np.abs(np.diff(choice.curve))
        rng = np.random.default_rng(self.seed)
        open_ = np.flatnonzero(fresh)
        open_ = open_ if len(open_) >= n else np.arange(len(pool))
        randoms = [
            expected_errors(pool, rng.permutation(open_)[:n], target=measured, existing=info)
            for _ in range(_RANDOM_ORDERS)
        ]
        return _Additions(
            indices=choice.indices,
            gains=gains,
            costs=read_cost(pool, costs)[choice.indices],
            n_known=int((~fresh).sum()),
            ahead=expected_errors(pool, choice.indices, target=measured, existing=info, name="greedy additions"),
            ahead_random=mean_curve(randoms, "random additions"),
        )

    def alike(self, tolerance: float) -> tuple[tuple[int, ...], ...]:
        """Find groups of more than one structure with mean descriptors within a tolerance."""
        labels = duplicates(self.info, tolerance=tolerance)
        counts = np.bincount(labels)
        return tuple(tuple(np.flatnonzero(labels == g).tolist()) for g in np.flatnonzero(counts > 1))

    def history(self) -> Curve:
        """Follow the expected error from no label to the whole set, in random order."""
        rng = np.random.default_rng(self.seed)
        info = self.info
        n = len(info)
        at = sorted({0, n, *(k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if k < n)})
        curves = [expected_errors(info, rng.permutation(n), target=self.measured, at=at) for _ in range(_RANDOM_ORDERS)]
        return mean_curve(curves, "the set in random order")

    def remaining(self, aim: Information) -> Remaining:
        """Find what the set leaves open of the target: in all, by direction, by group and by structure."""
        precision, measured = self.precision, self.measured
        after = row_variances(aim.rows, precision) * aim.sigma**2
        before = np.einsum("rd,rd->r", aim.rows, aim.rows) * aim.sigma**2
        prior, now = measured.prior(), measured.errors(precision)
        kinds = list(measured.roots)
        n = len(aim)
        squared = {}
        for kind in kinds:
            mine = aim.kinds == KINDS.index(kind)
            squared[kind] = np.stack(
                [np.bincount(aim.structure[mine], weights=each[mine], minlength=n) for each in (after, before)]
            )

        def group(members: Bool[np.ndarray, " structures"]) -> dict[str, float]:
            counts = aim.counts[members].sum(axis=0)
            errors = {"structures": float(members.sum())}
            for kind, both in squared.items():
                rows = float(counts[KINDS.index(kind)])
                errors[kind] = float(np.sqrt(both[0][members].sum() / rows)) if rows else float("nan")
            return errors

        return Remaining(
            prior=prior,
            now=now,
            directions={kind: self._open_directions(measured.roots[kind]) for kind in kinds},
            groups={name: group(np.array([g == name for g in aim.groups])) for name in sorted(set(aim.groups))},
            structures={
                kind: np.sqrt(_ratio(squared[kind][0], aim.counts[:, KINDS.index(kind)].astype(np.float64)))
                for kind in kinds
            },
            shares={kind: np.sqrt(_ratio(*squared[kind], least=_SILENT * prior[kind] ** 2)) for kind in kinds},
        )

    def _open_directions(self, root: Float[np.ndarray, "d q"]) -> tuple[int, int]:
        """Count the target's principal directions whose variance is still more than half of the prior's, and all."""
        vectors, singular, _ = np.linalg.svd(root, full_matrices=False)
        held = np.cumsum(singular**2)
        if not len(held) or held[-1] <= 0:
            return 0, 0
        q = int(np.searchsorted(held, _DIRECTIONS * held[-1])) + 1
        left = row_variances(np.ascontiguousarray(vectors[:, :q].T), self.precision)
        return int((left > _OPEN).sum()), q


def _ratio(
    part: Float[np.ndarray, " n"], whole: Float[np.ndarray, " n"], *, least: float = 0.0
) -> Float[np.ndarray, " n"]:
    """Divide, with NaN where there is nothing to divide by."""
    result: np.ndarray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > least)
    return result

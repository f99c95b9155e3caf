"""The candidates that rules still allow beside a set, with places kept for quotas not yet fulfilled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError


class Available:
    """The candidates that rules still allow, while a choice grows; the forced ones are chosen from the start.

    A candidate is allowed where a set stays that fulfils all least quotas within all limits. The set that is kept in
    mind is the cheapest one of every class; where several resources compete and it does not fit, a small integer
    programme finds another. With several resources some candidates may be refused that yet another set would allow.
    """

    def __init__(self, rules: Rules, indices: Sequence[int] = ()) -> None:
        self._rules = rules
        given = np.asarray(indices, dtype=np.int64)
        chosen = np.concatenate([rules.forced[~np.isin(rules.forced, given)], given])
        self.indices: list[int] = chosen.tolist()
        self._chosen = np.zeros(len(rules), dtype=bool)
        self._chosen[chosen] = True
        held = np.zeros(int(rules.groups.max(initial=-1)) + 1, dtype=bool)
        held[rules.groups[chosen]] = True
        self._free = rules.fresh & ~held[rules.groups]
        self._counts = rules.counts(chosen)
        self._left = rules.budget - rules.costs[chosen].sum(axis=0)

    def now(self) -> Bool[np.ndarray, " structures"]:
        """Mark what may be chosen next."""
        rules = self._rules
        if len(self.indices) >= rules.n:
            return np.zeros_like(self._chosen)
        # Repeats are for those who ask for more than there are, not for what a budget or a quota forbids.
        pool = self._free if self._free.any() else ~self._chosen & ~rules.forbidden
        if not len(rules.most):
            return pool & rules.fits(rules.costs, self._left)
        # The last entry stands for label -1, which no quota limits.
        pool = pool & np.append(self._counts < rules.most, True)[rules.labels]
        need = np.maximum(rules.least - self._counts, 0)
        if not need.any():
            return pool & rules.fits(rules.costs, self._left)
        kept = completion(rules, pool, need, self._left)
        if kept is None:
            return np.zeros_like(pool)
        return self._beside(kept, pool, need)

    def _beside(
        self, kept: Int[np.ndarray, " kept"], pool: Bool[np.ndarray, " structures"], need: Int[np.ndarray, " classes"]
    ) -> Bool[np.ndarray, " structures"]:
        """Mark what leaves room for a set that is kept in mind, or can take the place of one of its members."""
        rules = self._rules
        shares = rules.shares
        left = self._left - rules.costs[kept].sum(axis=0)
        replaced = np.full(len(need) + 1, -1)  # of each class its dearest kept member; the last entry is for no class
        for s in kept[np.argsort(shares[kept], kind="stable")]:
            replaced[rules.labels[s]] = s
        twin = np.full(int(rules.groups.max()) + 1, -1)
        twin[rules.groups[kept]] = kept
        twin_of = twin[rules.groups]
        stead = np.where(twin_of >= 0, twin_of, replaced[rules.labels])
        credit = np.where(stead[:, None] >= 0, rules.costs[stead], 0.0)
        room = (stead >= 0) | (rules.n - len(self.indices) > need.sum())
        clash = (twin_of >= 0) & (rules.labels[twin_of] != rules.labels)
        result: np.ndarray = pool & room & ~clash & rules.fits(rules.costs - credit, left)
        result[kept] = True
        return result

    def choose(self, s: int) -> None:
        """Choose candidate s."""
        rules = self._rules
        self.indices.append(int(s))
        self._chosen[s] = True
        self._free = self._free & (rules.groups != rules.groups[s])
        if rules.labels[s] >= 0:
            self._counts[rules.labels[s]] += 1
        self._left = self._left - rules.costs[s]


def swappable(rules: Rules, indices: Sequence[int], position: int) -> Bool[np.ndarray, " structures"]:
    """Mark what might be chosen if the member at a position were not there; nothing for a forced one."""
    if indices[position] in rules.forced:
        return np.zeros(len(rules), dtype=bool)
    return Available(rules, [*indices[:position], *indices[position + 1 :]]).now()


def completion(
    rules: Rules,
    pool: Bool[np.ndarray, " structures"],
    need: Int[np.ndarray, " classes"],
    left: Float[np.ndarray, " resources"],
) -> Int[np.ndarray, " kept"] | None:
    """Find candidates of a pool that fulfil what is missing of each class within what is left; None: there are none."""
    wanted = np.flatnonzero(pool & np.append(need > 0, False)[rules.labels])
    order = wanted[np.argsort(rules.shares[wanted], kind="stable")]
    order = order[np.sort(np.unique(rules.groups[order], return_index=True)[1])]
    kept = np.concatenate([order[rules.labels[order] == q][: need[q]] for q in np.flatnonzero(need)])
    if len(kept) == need.sum() and rules.fits(rules.costs[kept].sum(axis=0)[None], left)[0]:
        return kept
    spread = len(np.unique(rules.groups[wanted])) < len(
        np.unique(rules.groups[wanted] * (len(need) + 1) + rules.labels[wanted])
    )
    if len(rules.budget) < 2 and not spread:
        return None  # the cheapest ones cannot be bettered
    return _programme(rules, wanted, need, left)


def _programme(
    rules: Rules,
    wanted: Int[np.ndarray, " wanted"],
    need: Int[np.ndarray, " classes"],
    left: Float[np.ndarray, " resources"],
) -> Int[np.ndarray, " kept"] | None:
    """Solve the same by integer programming."""
    columns = np.arange(len(wanted))
    ones = np.ones(len(wanted))
    groups = np.unique(rules.groups[wanted], return_inverse=True)[1]
    constraints = [
        LinearConstraint(
            csr_array((ones, (rules.labels[wanted], columns)), shape=(len(need), len(wanted))), need, need
        ),
        LinearConstraint(csr_array((ones, (groups, columns))), -np.inf, 1.0),
    ]
    scale = np.maximum(rules.budget, 1e-300)
    for slack in (0.0, 1e-6):  # what the solver lets pass by its own tolerance does not fit
        limits = left / scale - slack
        money = LinearConstraint((rules.costs[wanted] / scale).T, -np.inf, limits) if len(scale) else None
        found = milp(
            rules.shares[wanted],
            constraints=[*constraints, money] if money else constraints,
            integrality=np.ones(len(wanted), dtype=np.int64),
            bounds=Bounds(0.0, 1.0),
        )
        if found.x is None:
            return None
        kept = wanted[found.x > 0.5]
        if len(kept) == need.sum() and rules.fits(rules.costs[kept].sum(axis=0)[None], left)[0]:
            return kept
    return None


def completable(rules: Rules, pool: Bool[np.ndarray, " structures"]) -> bool:
    """Whether a pool can fulfil the least quotas within the budgets, beside the forced candidates."""
    need = np.maximum(rules.least - rules.counts(rules.forced), 0)
    if not need.any():
        return True
    return completion(rules, pool, need, rules.budget - rules.costs[rules.forced].sum(axis=0)) is not None


def check_feasible(rules: Rules) -> None:
    """Refuse rules that no choice can obey."""
    forced = rules.forced
    if rules.forbidden[forced].any():
        both = forced[rules.forbidden[forced]].tolist()
        raise ParameterError(f"`forced` and `forbidden` must not overlap, but both hold {both}")
    if len(forced) > rules.n:
        raise ParameterError(f"`forced` holds {len(forced)} structures, more than `n` = {rules.n}")
    spent = rules.costs[forced].sum(axis=0)
    for name, cost, limit in zip(rules.resources, spent, rules.budget, strict=True):
        if not rules.fits(spent[None], rules.budget)[0] and cost > limit:
            where = f"`budget[{name!r}]`" if name else "`budget`"
            raise ParameterError(f"the `forced` structures cost {cost:.6g}, more than the {where} of {limit:.6g}")
    used = rules.counts(forced)
    for name, count, most in zip(rules.classes, used, rules.most, strict=True):
        if count > most:
            raise ParameterError(f"`forced` holds {count} structures of {name!r}, more than `quotas` allow, {most}")
    need = np.maximum(rules.least - used, 0)
    if len(forced) + need.sum() > rules.n:
        raise ParameterError(
            f"the least `quotas` want {need.sum()} structures beside {len(forced)} forced ones, more than `n` = "
            f"{rules.n} allows"
        )
    for q, name in enumerate(rules.classes):
        there = len(np.unique(rules.groups[rules.fresh & (rules.labels == q)]))
        if need[q] > there:
            raise ParameterError(
                f"`quotas[{name!r}]` wants at least {rules.least[q]}, but only {there} distinct candidates of that "
                "group may be chosen"
            )
    if not completable(rules, rules.fresh):
        what = "the `budget`" if len(rules.budget) else "distinct candidates"
        raise ParameterError(f"the least `quotas` cannot be fulfilled within {what}: raise it or lower them")

"""All sets that rules allow, by brute force, and random requests to try."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from kernelpot.design import pose
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool


def value(name, Lambda, V):
    """Criterion by the plain formula."""
    if name == "D":
        return np.linalg.slogdet(Lambda)[1]
    return np.trace((V if name == "IV" else np.eye(len(Lambda))) @ np.linalg.inv(Lambda))


def request(seed, size=7, *, twins=False, heights=(0, 1, 2, 5, 9)):
    """A pool and random limits of every kind, which some set obeys; None where none does."""
    rng = np.random.default_rng(seed)
    info = pool(size, seed=seed, heights=heights, scale=2.0)
    if twins and size > 3:
        info = info.take(np.concatenate([np.arange(size - 1), [int(rng.integers(size - 1))]]))
    limits = {"n": int(rng.integers(1, size))}
    marked = rng.permutation(size)
    if rng.random() < 0.5:
        limits["forced"] = marked[: rng.integers(1, 3)].tolist()
    if rng.random() < 0.5:
        limits["forbidden"] = marked[3:5].tolist()
    if rng.random() < 0.6:
        limits["quotas"] = {"g0": (int(rng.integers(0, 2)), 2), "g1": int(rng.integers(0, 3))}
    kind = rng.integers(4)
    if kind == 1:
        limits |= {"costs": rng.uniform(1.0, 4.0, size), "budget": float(rng.uniform(3.0, 15.0))}
    if kind == 2:
        limits |= {
            "costs": {"cpu": rng.uniform(1.0, 4.0, size), "memory": rng.uniform(0.0, 4.0, size)},
            "budget": {"cpu": float(rng.uniform(4.0, 15.0)), "memory": float(rng.uniform(4.0, 15.0))},
        }
    if kind == 3:
        limits |= {"costs": rng.integers(1, 4, size).astype(float), "budget": float(rng.integers(3, 12))}
        limits["n"] = None if rng.random() < 0.5 else limits["n"]
    try:
        rules_of(info, limits)
    except ParameterError:
        return info, None
    return info, limits


def rules_of(info, limits):
    """Rules of a request."""
    rest = {key: limit for key, limit in limits.items() if key != "n"}
    return pose(info, criterion="D", limits=rest).sized(limits["n"]).rules


def obeys(info, limits, chosen):
    """Whether a set keeps every limit, from the request itself."""
    chosen = [int(s) for s in chosen]
    if limits["n"] is not None and len(chosen) > limits["n"]:
        return False
    if not set(limits.get("forced", [])) <= set(chosen) or set(limits.get("forbidden", [])) & set(chosen):
        return False
    for name, quota in limits.get("quotas", {}).items():
        least, most = quota if isinstance(quota, tuple) else (0, quota)
        if not least <= sum(info.groups[s] == name for s in chosen) <= most:
            return False
    costs, budget = limits.get("costs"), limits.get("budget")
    if budget is None:
        return True
    if not isinstance(budget, dict):
        costs, budget = {"": costs}, {"": budget}
    return all(sum(costs[name][s] for s in chosen) <= budget[name] + 1e-9 for name in budget)


def all_sets(info, limits):
    """Every set of distinct candidates that keeps the limits; forced ones may repeat one another."""
    rules = rules_of(info, limits)
    forced = set(limits.get("forced", []))
    found = []
    for k in range(len(info) + 1):
        for chosen in combinations(range(len(info)), k):
            others = [rules.groups[s] for s in chosen if s not in forced]
            known = {rules.groups[s] for s in forced}
            distinct = len(set(others)) == len(others) and not known & set(others)
            if (distinct or rules.repeats) and obeys(info, limits, chosen):
                found.append(chosen)
    return found


__all__ = ["all_sets", "matrix", "obeys", "request", "rules_of", "value"]

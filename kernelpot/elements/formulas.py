"""Chemical formulas as amounts of elements, whole or fractional."""

from __future__ import annotations

import math
import re
from collections import defaultdict

NUMBER = r"(?:\d+\.?\d*|\.\d+)"
PART = re.compile(rf"(?P<open>\()|(?:(?P<close>\))|(?P<symbol>[A-Z][a-z]?))(?P<count>{NUMBER})?", re.ASCII)
FACTOR = re.compile(NUMBER, re.ASCII)


def amounts_of(formula: str) -> dict[str, float]:
    """Return how much there is of each element; what there is none of is left out.

    Parameters
    ----------
    formula
        Symbols with whole or decimal numbers, parentheses, a factor in front of all, and sums: "AgNbO3", "Cu0.5Au0.5",
        "(Ba0.6Sr0.4)TiO3", "2H2O", "CuSO4+5H2O".

    Raises
    ------
    ValueError
        It is no formula, or its numbers are beyond all numbers.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for part in formula.split("+"):
        factor = FACTOR.match(part)
        times = 1.0 if factor is None else float(factor.group())
        for symbol, count in _counted(part, 0 if factor is None else factor.end()).items():
            total[symbol] += times * count
    if not all(math.isfinite(count) for count in total.values()):
        raise ValueError("amounts must be finite")
    return {symbol: count for symbol, count in total.items() if count > 0.0}


def _counted(text: str, place: int) -> dict[str, float]:
    """Count from a place on, parentheses included."""
    levels: list[defaultdict[str, float]] = [defaultdict(float)]
    while place < len(text):
        found = PART.match(text, place)
        if found is None or (found["close"] and len(levels) == 1):
            raise ValueError(f"no symbol, number or parenthesis at character {place} of {text!r}")
        place = found.end()
        if found["open"]:
            levels.append(defaultdict(float))
            continue
        times = float(found["count"] or 1)
        inner = {found["symbol"]: 1.0} if found["symbol"] else levels.pop()
        for symbol, count in inner.items():
            levels[-1][symbol] += times * count
    if len(levels) > 1:
        raise ValueError(f"a parenthesis of {text!r} is not closed")
    return levels[0]

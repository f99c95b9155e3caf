"""Compositions as rows of numbers: what sits on which site, or how much there is of what."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

from kernelpot.elements.modes import ElementalModes
from kernelpot.elements.table import element_table, row_of, symbols_to_numbers
from kernelpot.errors import DataError, NotFittedError, ParameterError
from kernelpot.record import Parameterised
from kernelpot.rules import whole

NUMBER = r"(?:\d+\.?\d*|\.\d+)"
PART = re.compile(rf"(?P<open>\()|(?:(?P<close>\))|(?P<symbol>[A-Z][a-z]?))(?P<count>{NUMBER})?", re.ASCII)
FACTOR = re.compile(NUMBER, re.ASCII)


def amounts_of(formula: str) -> dict[str, float]:
    """Return how much there is of each element in such as "(Ba0.6Sr0.4)TiO3", "2H2O", "CuSO4+5H2O"; never 0 of one."""
    total: defaultdict[str, float] = defaultdict(float)
    for part in formula.split("+"):
        factor = FACTOR.match(part)
        times = 1.0 if factor is None else float(factor.group())
        for symbol, count in _amounts_from(part, 0 if factor is None else factor.end()).items():
            total[symbol] += times * count
    if not all(math.isfinite(count) for count in total.values()):
        raise ValueError("amounts must be finite")
    return {symbol: count for symbol, count in total.items() if count > 0.0}


def _amounts_from(text: str, place: int) -> dict[str, float]:
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


KINDS = 'ElementalModes, "onehot", "properties", a mapping or a function of symbols'


@dataclass(frozen=True, eq=False)
class Describer:
    """Numbers of an element, with their names."""

    names: tuple[str, ...]
    numbers: Callable[[str], Float[np.ndarray, " p"]]

    def __call__(self, symbol: str) -> Float[np.ndarray, " p"]:
        """Return the numbers of an element."""
        vector = self.numbers(symbol)
        if vector.shape != (len(self.names),) or not np.isfinite(vector).all():
            raise ParameterError(
                f"`elements` must give {len(self.names)} finite number(s) for each element, got {vector.tolist()} "
                f"for {symbol}."
            )
        return vector


def describers(given: Any, seen: Sequence[str]) -> tuple[Describer, ...]:
    """Return what describes elements; `seen` are those that labels stand for."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    if not several:
        raise ParameterError(f"`elements` must be {KINDS}, or a list of these, got an empty list.")
    return tuple(_describer(one, seen, "" if len(several) == 1 else f"{k + 1}.") for k, one in enumerate(several))


def _describer(given: Any, seen: Sequence[str], prefix: str) -> Describer:
    if isinstance(given, ElementalModes):
        return Describer(tuple(f"mode {k + 1}" for k in range(given.n)), given.vector)
    if isinstance(given, str) and given == "onehot":
        return Describer(tuple(f"is {symbol}" for symbol in seen), lambda symbol: _label(symbol, seen))
    if isinstance(given, str) and given == "properties":
        values = element_table().values
        standard = (values - values.mean(axis=0)) / values.std(axis=0)
        return Describer(element_table().names, lambda symbol: standard[row_of(symbol)])
    if isinstance(given, Mapping):
        return _own(lambda symbol: _looked_up(given, symbol), seen, prefix)
    if callable(given) and not isinstance(given, type):
        return _own(given, seen, prefix)
    raise ParameterError(f"`elements` must be {KINDS}, or a list of these, got {given!r}.")


def _label(symbol: str, seen: Sequence[str]) -> Float[np.ndarray, " seen"]:
    if symbol not in seen:
        raise ParameterError(
            f"{symbol} was not among the elements that `fit` saw ({', '.join(seen)}), so it has no label of its own; "
            "fit with it, or describe elements by their modes."
        )
    return np.array([float(symbol == one) for one in seen])


def _looked_up(table: Mapping[str, Any], symbol: str) -> Any:
    if symbol not in table:
        raise ParameterError(f"the table of `elements` has no row for {symbol}; add one.")
    return table[symbol]


def _own(numbers: Callable[[str], Any], seen: Sequence[str], prefix: str) -> Describer:
    def vector(symbol: str) -> Float[np.ndarray, " p"]:
        try:
            return np.atleast_1d(np.asarray(numbers(symbol), dtype=np.float64))
        except (TypeError, ValueError) as problem:
            if isinstance(problem, ParameterError):
                raise
            raise ParameterError(f"`elements` must give numbers for {symbol}, and gave none: {problem}") from None

    width = vector(seen[0]).size
    return Describer(tuple(f"{prefix}{k + 1}" for k in range(width)), vector)


Elements = ElementalModes | str | Mapping[str, Any] | Callable[[str], Any]
STATISTICS = ("mean", "least", "greatest", "spread")


class CompositionFeatures(TransformerMixin, Parameterised, BaseEstimator):
    """Turn compositions into rows of numbers, as a transformer of scikit-learn.

    With `sites`, a row of input is one element for each site, and the numbers of every site's element stand side by
    side. Without, it is a formula ("AgNbO3", "Ba0.6Sr0.4TiO3") or an ASE structure, and every number of the elements is
    summarised by its mean, least, greatest and spread (standard deviation). Amounts are divided by their sum, and mean
    and spread weighted by these shares, so that "Cu0.5Au0.5", "CuAu" and "Cu2Au2" are the same; least and greatest are
    those of the elements of which there is any.

    Parameters
    ----------
    sites
        Names of the sites in the order of the input, such as ("A", "B", "C", "D"); a mapping to the number of equal
        atoms on each ({"A": 1, "B": 1, "C": 2, "D": 6}) adds the summary of the whole formula. None: formulas.
    elements
        What describes an element: `ElementalModes`; "onehot", one column for each element seen in `fit`; "properties",
        the tabulated properties, standardised over the table; a mapping or a function from a symbol to a number or a
        vector; or a list of these, side by side. None: ``ElementalModes()``. The parameters of modes that stand alone
        can be searched as ``elements__n``, ``elements__method``.
    symmetric
        Groups of sites that may be exchanged, such as (("a_1", "a_2"), ("b_1", "b_2")): each is described by mean and
        spread (half the difference of two), so that the order within it does not matter.

    Attributes
    ----------
    feature_names_
        Name of every column.
    elements_
        Chemical symbols seen in `fit`, by atomic number.

    Notes
    -----
    `fit` and `transform` raise `ParameterError` for settings and symbols that cannot be, `DataError` for rows.
    """

    def __init__(
        self,
        sites: Sequence[str] | Mapping[str, int] | None = None,
        elements: Elements | Sequence[Elements] | None = None,
        symmetric: Sequence[Sequence[str]] = (),
    ) -> None:
        self.sites = sites
        self.elements = elements
        self.symmetric = symmetric

    def fit(self, rows: Sequence[Any], y: object = None) -> Self:  # noqa: ARG002
        """Learn which elements there are, and name the columns.

        Parameters
        ----------
        rows
            Elements of every site, or formulas or structures.
        y
            Not looked at.
        """
        self._multiplicity = _checked_sites(self.sites)
        self._groups = _checked_groups(self._multiplicity, self.symmetric)
        symbols, _ = self._parsed(rows)
        self.elements_ = tuple(sorted(symbols, key=lambda symbol: symbols_to_numbers([symbol])))
        self._describers = describers(ElementalModes() if self.elements is None else self.elements, self.elements_)
        self.feature_names_ = self._names()
        self.n_features_in_ = 1 if self._multiplicity is None else len(self._multiplicity)
        return self

    def transform(self, rows: Sequence[Any]) -> Float[np.ndarray, "rows features"]:
        """Return the numbers of every composition, in the order of `feature_names_`.

        Parameters
        ----------
        rows
            Elements of every site, or formulas or structures.

        Raises
        ------
        NotFittedError
            `fit` comes first.
        """
        if not hasattr(self, "feature_names_"):
            raise NotFittedError("these composition features have not seen compositions yet; call fit first.")
        symbols, places = self._parsed(rows)
        numbers = np.array([np.concatenate([one(symbol) for one in self._describers]) for symbol in symbols])
        if self._multiplicity is None:
            return _summary(numbers, places)
        of_sites = numbers[places]
        names = list(self._multiplicity)
        parts = []
        for group in self._groups:
            here = of_sites[:, [names.index(name) for name in group]]
            parts += [here[:, 0]] if len(group) == 1 else [here.mean(axis=1), here.std(axis=1)]
        if any(count > 1 for count in self._multiplicity.values()):
            amounts = np.zeros((len(places), len(symbols)))
            for column, count in zip(places.T, self._multiplicity.values(), strict=True):
                amounts[np.arange(len(places)), column] += count
            parts.append(_summary(numbers, amounts))
        return np.concatenate(parts, axis=1)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Return the name of every column, as scikit-learn asks for it."""
        if not hasattr(self, "feature_names_"):
            raise NotFittedError("these composition features have not seen compositions yet; call fit first.")
        return np.array(self.feature_names_, dtype=object)

    def _parsed(self, rows: Sequence[Any]) -> tuple[list[str], np.ndarray]:
        """Return the elements there are, and the place of each site's among them, or the number of atoms of each."""
        given = list(rows.to_numpy()) if hasattr(rows, "to_numpy") else _listed(rows)
        if not given:
            raise ParameterError("compositions: there must be at least one, got none.")
        if self._multiplicity is None:
            counts = [_counted(row, k) for k, row in enumerate(given)]
            symbols = sorted(set().union(*counts))
            symbols_to_numbers(symbols)
            amounts = np.array([[float(count.get(symbol, 0)) for symbol in symbols] for count in counts])
            return symbols, amounts
        for k, row in enumerate(given):
            if isinstance(row, str) or not hasattr(row, "__len__") or len(row) != len(self._multiplicity):
                raise DataError(
                    f"composition {k} (from 0) must be one chemical symbol for each of the sites "
                    f"{', '.join(self._multiplicity)}, got {row!r}."
                )
        texts = [[str(symbol) for symbol in row] for row in given]
        symbols = sorted({symbol for row in texts for symbol in row})
        symbols_to_numbers(symbols)
        place = {symbol: k for k, symbol in enumerate(symbols)}
        return symbols, np.array([[place[symbol] for symbol in row] for row in texts])

    def _names(self) -> tuple[str, ...]:
        of_element = [name for one in self._describers for name in one.names]
        summary = [f"{what} of {name}" for what in STATISTICS for name in of_element]
        if self._multiplicity is None:
            return tuple(summary)
        names = []
        for group in self._groups:
            whats = [""] if len(group) == 1 else ["mean of ", "spread of "]
            names += [f"{', '.join(group)}: {what}{name}" for what in whats for name in of_element]
        whole = any(count > 1 for count in self._multiplicity.values())
        return tuple(names + [f"all: {name}" for name in summary] * whole)


def _listed(rows: Any) -> list[Any]:
    if isinstance(rows, str) or not hasattr(rows, "__iter__") or hasattr(rows, "get_chemical_symbols"):
        raise DataError(f"compositions must come as a list, got {rows!r}; put a single one into brackets.")
    return list(rows)


def _counted(row: Any, k: int) -> Mapping[str, float]:
    """Return the amount of each element in a formula or a structure."""
    counts: Mapping[str, float]
    if hasattr(row, "get_chemical_symbols"):
        counts = Counter(row.get_chemical_symbols())
    elif isinstance(row, str):
        try:
            counts = amounts_of(row)
        except ValueError as error:
            raise DataError(
                f"composition {k} (from 0) must be a formula such as 'AgNbO3' or 'Ba0.6Sr0.4TiO3', got {row!r}: "
                f"{error}."
            ) from None
    else:
        raise DataError(
            f"composition {k} (from 0) must be a formula or an ASE structure, got {row!r}; elements by site need "
            "`sites`."
        )
    if not counts:
        raise DataError(f"composition {k} (from 0) holds no atoms, got {row!r}.")
    return counts


def _summary(
    numbers: Float[np.ndarray, "elements p"], amounts: Float[np.ndarray, "rows elements"]
) -> Float[np.ndarray, "rows four_p"]:
    """Return mean, least, greatest and spread of every number, weighted by the amounts."""
    share = amounts / amounts.sum(axis=1, keepdims=True)
    mean = share @ numbers
    # About a fixed centre: differences of squares of large numbers would be round-off.
    centred = numbers - numbers.mean(axis=0)
    variance = share @ centred**2 - (share @ centred) ** 2
    least, greatest = np.empty_like(mean), np.empty_like(mean)
    for k, row in enumerate(amounts):
        there = numbers[row > 0.0]
        least[k], greatest[k] = there.min(axis=0), there.max(axis=0)
    return np.concatenate([mean, least, greatest, np.sqrt(np.maximum(variance, 0.0))], axis=1)


def _checked_sites(sites: Any) -> dict[str, int] | None:
    """Return the number of atoms on each site, or None for formulas."""
    if sites is None:
        return None
    if isinstance(sites, str) or not isinstance(sites, Mapping | Sequence):
        raise ParameterError(f'`sites` must be names such as ("A", "B"), a mapping to numbers, or None, got {sites!r}.')
    counts = dict(sites) if isinstance(sites, Mapping) else dict.fromkeys(sites, 1)
    if not counts or len(counts) < len(sites) or not all(isinstance(name, str) for name in counts):
        raise ParameterError(f"`sites` must be different names, at least one, got {sites!r}.")
    for name, count in counts.items():
        whole(count, f"sites[{name!r}]", least=1)
    return counts


def _checked_groups(counts: dict[str, int] | None, symmetric: Any) -> tuple[tuple[str, ...], ...]:
    """Return the sites in groups, those that may not be exchanged alone, in the order of the sites."""
    if isinstance(symmetric, str) or not isinstance(symmetric, Sequence):
        raise ParameterError(f'`symmetric` must be groups of sites such as (("a_1", "a_2"),), got {symmetric!r}.')
    groups = [(group,) if isinstance(group, str) else tuple(group) for group in symmetric]
    named = [name for group in groups for name in group]
    strange = [name for name in named if name not in (counts or {})]
    if strange or len(set(named)) < len(named) or any(len(group) < 2 for group in groups):
        raise ParameterError(
            f"`symmetric` must be groups of two or more different ones of the sites "
            f"{', '.join(counts or {}) or '(none)'}, each in one group, got {symmetric!r}."
        )
    for group in groups:
        if len({(counts or {})[name] for name in group}) > 1:
            raise ParameterError(f"`symmetric`: sites of one group must have as many atoms, got {group!r}.")
    first = {group[0]: group for group in groups}
    alone = [name for name in counts or {} if name not in named or name in first]
    return tuple(first.get(name, (name,)) for name in alone)

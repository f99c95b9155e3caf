"""Numbers of single elements, by modes, labels, properties, or a table or function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.elements.modes import ElementalModes
from kernelpot.elements.table import element_table, row_of
from kernelpot.errors import ParameterError

KINDS = 'ElementalModes, "onehot", "properties", a mapping or a function of symbols'


@dataclass(frozen=True, eq=False)
class Describer:
    """Numbers of an element, with their names."""

    names: tuple[str, ...]
    numbers: Callable[[str], Float[np.ndarray, " p"]]

    def __call__(self, symbol: str) -> Float[np.ndarray, " p"]:
        """Return the numbers of an element.

        Raises
        ------
        ParameterError
            There are none, not as many as of other elements, or not finite ones.
        """
        vector = self.numbers(symbol)
        if vector.shape != (len(self.names),) or not np.isfinite(vector).all():
            raise ParameterError(
                f"`elements` must give {len(self.names)} finite number(s) for each element, got {vector.tolist()} "
                f"for {symbol}."
            )
        return vector


def describers(given: Any, seen: Sequence[str]) -> tuple[Describer, ...]:
    """Return what describes elements; `seen` are those that labels stand for.

    Raises
    ------
    ParameterError
        It is none of what describes elements.
    """
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

"""Predicted quantities with their standard deviations, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False, repr=False)
class Quantities:
    """What a fitted model says about the quantities of a goal; unpacks as ``values, std``.

    Attributes
    ----------
    names
        Of every quantity.
    values, std
        Posterior means and standard deviations, in each quantity's unit.
    units
        Of every quantity.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, " q"]
    std: Float[np.ndarray, " q"]
    units: tuple[str, ...]

    def __iter__(self) -> Iterator[Float[np.ndarray, " q"]]:
        """Give the values, then the standard deviations."""
        return iter((self.values, self.std))

    def __getitem__(self, k: int) -> Float[np.ndarray, " q"]:
        """Return the values (0) or the standard deviations (1)."""
        return (self.values, self.std)[k]

    def __str__(self) -> str:
        """Return one line per quantity, to two digits of its standard deviation."""
        width = max(len(name) for name in self.names)
        rows = zip(self.names, self.values.tolist(), self.std.tolist(), self.units, strict=True)
        return "\n".join(f"{name:<{width}}  {_rounded(value, std)} {unit}" for name, value, std, unit in rows)

    def __repr__(self) -> str:
        """Return the same in one line."""
        return f"Quantities({'; '.join(' '.join(line.split()) for line in str(self).splitlines())})"


def _rounded(value: float, std: float) -> str:
    """Write value ± std to the second digit of std, and no further than twelve decimals."""
    if not (np.isfinite(std) and std > 0):
        return f"{value:.6g} ± {std:.2g}"
    decimals = min(max(1 - int(np.floor(np.log10(float(f"{std:.1e}")))), 0), 12)
    return f"{value:.{decimals}f} ± {std:.{decimals}f}"

"""Elemental modes: tabulated properties of the elements compressed to a few numbers each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.elements.table import COLUMNS, LAST, element_table, row_of
from kernelpot.errors import ParameterError
from kernelpot.linalg.devices import calm
from kernelpot.record import OneOf, Record, Whole
from kernelpot.rules import MOST_SEED, whole

HIDDEN = 16
"""Units of the layer on either side of the code."""
STEPS = 400
"""Most iterations of L-BFGS; the loss of some hundred elements has settled by then."""
DECAY = 1e-4
"""Weight of the squared weights in the loss, which keeps modes smooth over the table."""


class Encoder(Protocol):
    """Properties to modes, with the way back."""

    def encode(self, x: Float[np.ndarray, "elements p"]) -> Float[np.ndarray, "elements n"]:
        """Return the modes of standardised properties."""

    def decode(self, modes: Float[np.ndarray, "elements n"]) -> Float[np.ndarray, "elements p"]:
        """Return the standardised properties that modes stand for."""


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal components (Jolliffe, Principal Component Analysis (2002))."""

    # Orthonormal rows, those of most variance first; their signs are settled by `signs`
    axes: Float[np.ndarray, "n p"]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "elements p"], n: int) -> Principal:
        """Find the axes by singular value decomposition of centred properties."""
        axes = np.linalg.svd(x, full_matrices=False)[2][:n]
        return cls(axes * signs(axes)[:, None])

    def encode(self, x: Float[np.ndarray, "elements p"]) -> Float[np.ndarray, "elements n"]:
        """Project on the axes."""
        return x @ self.axes.T

    def decode(self, modes: Float[np.ndarray, "elements n"]) -> Float[np.ndarray, "elements p"]:
        """Return the point in the plane of the axes."""
        return modes @ self.axes


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """x -> tanh -> code -> tanh -> x, with the code turned to its principal axes.

    Two networks with one hidden layer each, as elemental modes were first made (Herr, Koh, Yao and Parkhill, J. Chem.
    Phys. 151, 084103 (2019)). Codes are determined up to a linear map alone; turned to their principal axes, the first
    mode has most variance.
    """

    # (weight, bias) of the four linear maps
    layers: tuple[tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]], ...]
    centre: Float[np.ndarray, " n"]  # centre, axes: Mean of the codes, and the principal axes of their scatter
    axes: Float[np.ndarray, "n n"]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "elements p"], n: int, seed: int) -> Autoencoder:
        """Minimise the mean squared error of x in float64 by L-BFGS over all elements at once."""
        import torch

        # A generator of its own: the global one is the caller's.
        generator = torch.Generator().manual_seed(seed)
        sizes = (x.shape[1], HIDDEN, n, HIDDEN, x.shape[1])
        weights = []
        for width, height in pairwise(sizes):
            draw = torch.randn((height, width), generator=generator, dtype=torch.float64)
            weights.append((draw / width**0.5).requires_grad_())
            weights.append(torch.zeros(height, dtype=torch.float64, requires_grad=True))
        target = torch.as_tensor(x)
        search = torch.optim.LBFGS(weights, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            search.zero_grad()
            y = target
            for k in range(4):
                y = y @ weights[2 * k].T + weights[2 * k + 1]
                y = torch.tanh(y) if k % 2 == 0 else y
            decay = torch.stack([(w**2).sum() for w in weights[::2]]).sum()
            value = ((y - target) ** 2).mean() + DECAY * decay
            value.backward()  # type: ignore[no-untyped-call]
            return value

        # Products this small take up to forty times as long in two threads, which wait for each other.
        with calm(len(x)):
            search.step(loss)  # type: ignore[no-untyped-call]
        arrays = [w.detach().numpy().copy() for w in weights]
        layers = tuple((arrays[2 * k], arrays[2 * k + 1]) for k in range(4))
        codes = _through(layers[:2], x)
        centre = codes.mean(axis=0)
        axes = np.linalg.svd(codes - centre, full_matrices=False)[2]
        return cls(layers, centre, axes * signs((codes - centre) @ axes.T, axis=0)[:, None])

    def encode(self, x: Float[np.ndarray, "elements p"]) -> Float[np.ndarray, "elements n"]:
        """Pass through the first two layers, then turn."""
        return (_through(self.layers[:2], x) - self.centre) @ self.axes.T

    def decode(self, modes: Float[np.ndarray, "elements n"]) -> Float[np.ndarray, "elements p"]:
        """Turn back, then pass through the last two layers."""
        return _through(self.layers[2:], modes @ self.axes + self.centre)


def _through(
    layers: tuple[tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]], ...], x: Float[np.ndarray, "n in"]
) -> Float[np.ndarray, "n out"]:
    (first, start), (second, end) = layers
    result: np.ndarray = np.tanh(x @ first.T + start) @ second.T + end
    return result


def signs(rows: Float[np.ndarray, "a b"], axis: int = 1) -> Float[np.ndarray, " a_or_b"]:
    """Return the sign of the first entry along an axis that is at least half as large as the largest.

    That of the largest itself would turn where another of opposite sign is almost as large.
    """
    size = np.abs(rows)
    place = (size >= 0.5 * size.max(axis=axis, keepdims=True)).argmax(axis=axis)
    found: np.ndarray = np.sign(np.take_along_axis(rows, np.expand_dims(place, axis), axis=axis)).squeeze(axis)
    return found


METHODS = ("pca", "autoencoder")
FLOOR = 0.1
"""Least entry of a column of U before it is scaled to length 1; the greatest is 1."""
LEAST = 0.5
"""Least weight of an element where there is one mode alone; the greatest is 1."""


@dataclass(frozen=True)
class ElementalModes(Record):
    """A few numbers for each element, H to Cm, compressed from its tabulated properties.

    Properties are standardised over a fixed reference set of elements and encoded to n modes, each then mapped to
    [0, 1] over the table. Which elements a data set holds does not enter: asking for one more changes no other's modes.

    As element channels (``SOAP(channels=ElementalModes(4))``) the modes are the columns of U, see `weights`. As numbers
    of elements they describe compositions (`CompositionFeatures`).

    Parameters
    ----------
    n
        Number of modes, at most the number of properties, and fewer than the reference elements.
    method
        "pca": principal components, linear. "autoencoder": a small network (Herr et al. (2019)), which keeps more of
        the properties in as many modes, and depends on its seed.
    elements
        Chemical symbols of the reference set; None: the whole table. The others are encoded as well.
    properties
        Names of properties (`kernelpot.elements.table.COLUMNS`); None: all.
    seed
        Of the autoencoder's first weights.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    n: Annotated[int, Whole(1), "", "it is the number of elemental modes, 2 to 6 is usual"] = 4
    method: Annotated[str, OneOf(METHODS)] = "pca"
    elements: tuple[str, ...] | None = None
    properties: tuple[str, ...] | None = None
    seed: Annotated[int, Whole(0, MOST_SEED)] = 0

    def check(self) -> None:
        """Refuse names that are none or given twice, and more modes than these can tell apart."""
        for name in self.properties or ():
            if name not in COLUMNS:
                raise ParameterError(f"`properties` must be different ones of {', '.join(COLUMNS)}, got {name!r}.")
        rows = [row_of(symbol) for symbol in self.elements or ()]
        if len(set(rows)) < len(rows) or len(set(self.properties or ())) < len(self.properties or ()):
            raise ParameterError("`elements` and `properties` of elemental modes must not name anything twice.")
        most = min(len(self._names), len(self._reference) - 1)
        whole(self.n, "n", least=1, most=most, usual="more need more properties, or more reference elements")

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(COLUMNS) if self.properties is None else self.properties

    @cached_property
    def _reference(self) -> list[int]:
        return list(range(LAST)) if self.elements is None else sorted(row_of(symbol) for symbol in self.elements)

    @cached_property
    def _standard(self) -> Float[np.ndarray, "elements p"]:
        """Properties of all elements, standardised over the reference set; one that is the same there is zero."""
        values = element_table().only(self._names)
        reference = values[self._reference]
        spread = reference.std(axis=0)
        return np.where(spread > 0.0, (values - reference.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0), 0.0)

    @cached_property
    def encoder(self) -> Encoder:
        """What the reference set was compressed with."""
        return _fitted(self)

    @cached_property
    def vectors(self) -> Float[np.ndarray, "elements n"]:
        """Modes of every element of the table, H first, each from 0 to 1."""
        codes = self.encoder.encode(self._standard)
        low, high = codes.min(axis=0), codes.max(axis=0)
        return (codes - low) / np.where(high > low, high - low, 1.0)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of `vectors`."""
        return element_table().symbols

    def vector(self, symbol: str) -> Float[np.ndarray, " n"]:
        """Return the modes of one element.

        Raises
        ------
        ParameterError
            It is no chemical symbol, or heavier than Cm.
        """
        return self.vectors[row_of(symbol)].copy()

    def table(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Return the modes of every element by its symbol."""
        return {symbol: vector.copy() for symbol, vector in zip(self.symbols, self.vectors, strict=True)}

    def weights(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Return every element's column of U, for element channels.

        Modes are raised to [0.1, 1], so that no element is invisible, and columns scaled to length 1, so that an atom
        of any element weighs the same: the kernel then sees the angle between two elements. One mode alone has no
        angle; it gives weights from ½ to 1.
        """
        if self.n == 1:
            columns = LEAST + (1.0 - LEAST) * self.vectors
        else:
            columns = FLOOR + (1.0 - FLOOR) * self.vectors
            columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
        return {symbol: column.copy() for symbol, column in zip(self.symbols, columns, strict=True)}

    @property
    def reconstruction(self) -> dict[str, float]:
        """Root mean square error of every property as the modes have it, in standard deviations over the reference."""
        x = self._standard[self._reference]
        error = np.sqrt(((self.encoder.decode(self.encoder.encode(x)) - x) ** 2).mean(axis=0))
        return dict(zip(self._names, error.tolist(), strict=True))

    @property
    def explained(self) -> float:
        """Share of the variance of the standardised properties of the reference set that the modes keep."""
        x = self._standard[self._reference]
        left = ((self.encoder.decode(self.encoder.encode(x)) - x) ** 2).sum()
        return float(1.0 - left / (x**2).sum())


@lru_cache(maxsize=64)
def _fitted(modes: ElementalModes) -> Encoder:
    """Fit an encoder once for all equal modes."""
    reference = modes._standard[modes._reference]
    if modes.method == "pca":
        return Principal.fit(reference, int(modes.n))
    return Autoencoder.fit(reference, int(modes.n), int(modes.seed))

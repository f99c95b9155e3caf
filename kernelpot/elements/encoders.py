"""Maps of standardised elemental properties to a few numbers: principal components, or an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.linalg.devices import calm

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
    """Principal components (Jolliffe, Principal Component Analysis (2002)).

    Attributes
    ----------
    axes
        Orthonormal rows, those of most variance first; their signs are settled by `signs`.
    """

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

    Attributes
    ----------
    layers
        (weight, bias) of the four linear maps.
    centre, axes
        Mean of the codes, and the principal axes of their scatter.
    """

    layers: tuple[tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]], ...]
    centre: Float[np.ndarray, " n"]
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

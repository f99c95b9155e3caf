"""Regularised least squares in the space of inducing items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from kernelpot.inference.left_out import LeftOut
from kernelpot.inference.solvers import require_noise, whitened
from kernelpot.linalg.factor import RowSink

FEWEST = 20
"""Items beside random inducing ones that the amplitude is found from; where there are fewer, all items are used."""


@dataclass(frozen=True, eq=False)
class Inducing:
    """Weights of the whitened features of inducing items, the subset of regressors (section 8.3.1).

    Features are φ(x) = k(x, Z) U diag(λ)^(-1/2), predictions w·φ with w = A⁻¹ Σ φ_j y_j/noise_j and A = I +
    Σ φ_j φ_jᵀ/noise_j. The model's own variance, φᵀA⁻¹φ, has every label in the span of the features. Yet of an item j
    they leave r_j = k(x_j, x_j) - φ_j·φ_j unseen, and with little noise and few items weights are as wrong as that, not
    as A⁻¹. So variances are those of this same prediction under the prior in which unseen parts are independent (FITC,
    Quiñonero-Candela and Rasmussen (2005), section 6; Snelson and Ghahramani (2006)):

        r(x) + φᵀ [A⁻¹ + A⁻¹ (Σ_j r_j φ_j φ_jᵀ/noise_j²) A⁻¹] φ,

    a covariance of weights of the sandwich form (White (1980)). With all items inducing it is the exact variance.
    """

    whitening: Float[np.ndarray, "m d"]  # U diag(λ)^(-1/2) of the inducing items' kernel matrix
    factor: Float[np.ndarray, "d d"]  # Upper triangular R with RᵀR = A
    weights: Float[np.ndarray, "d outputs"]  # Of the features
    spill: Float[np.ndarray, "k d"]  # S with SᵀS = R⁻ᵀ (Σ_j r_j φ_j φ_jᵀ/noise_j²) R⁻¹
    # residual, variance_left: y_i minus its prediction without i, and that prediction's variance with noise,
    # of every training item
    residual: Float[np.ndarray, "n outputs"]
    variance_left: Float[np.ndarray, " n"]
    # Of the training items those that tell the amplitude, see `calibrating_items`
    calibrating: Bool[np.ndarray, " n"]
    jitter = 0.0

    @classmethod
    def fitted(
        cls,
        own: Float[np.ndarray, "m m"],
        diagonal: Float[np.ndarray, " n"],
        calibrating: Bool[np.ndarray, " n"],
        blocks: Callable[[], Iterable[Float[np.ndarray, "rows m"]]],
        noise: Float[np.ndarray, " n"],
        y: Float[np.ndarray, "n outputs"],
    ) -> Inducing:
        """Fit by QR of the rows [φ/√noise | y/√noise] on top of the prior's, block by block."""
        require_noise(noise)
        whitening = whitened(own)
        d, outputs = whitening.shape[1], y.shape[1]
        sink, spilt, worst = RowSink(d + outputs), RowSink(d), 0.0
        sink.append(np.eye(d, d + outputs))
        for part, features in _parts(blocks, whitening):
            scale = 1.0 / np.sqrt(noise[part])[:, None]
            share = _unseen(diagonal[part], features) / noise[part]
            sink.append(np.hstack([features, y[part]]) * scale)
            spilt.append(features * scale * np.sqrt(share)[:, None])
            worst = max(worst, float(share.max()))
        triangle = sink.factor()
        factor = np.ascontiguousarray(triangle[:d, :d])
        weights = solve_triangular(factor, triangle[:d, d:])
        spill = np.ascontiguousarray(solve_triangular(factor, spilt.factor().T, trans="T").T)
        result = cls(whitening, factor, weights, spill, np.empty_like(y), np.empty(len(y)), calibrating)
        for part, features in _parts(blocks, whitening):
            result._leave_out(part, features, diagonal, noise, y, worst)
        return result

    def _leave_out(
        self,
        part: slice,
        features: Float[np.ndarray, "rows d"],
        diagonal: Float[np.ndarray, " n"],
        noise: Float[np.ndarray, " n"],
        y: Float[np.ndarray, "n outputs"],
        worst: float,
    ) -> None:
        """Fill in the errors and variances of left-out items, by the formula of Sherman and Morrison for A without one.

        With the leverage h_i = φ_iᵀA⁻¹φ_i/noise_i, A⁻¹φ_i grows by 1/(1 - h_i), and its own part r_i h_i² drops out of
        what the unseen has spilt. What remains is at most noise_i h_i (1 - h_i) times the largest r_j/noise_j, `worst`.
        """
        noise = noise[part]
        half = solve_triangular(self.factor, features.T, trans="T")
        leverage = np.minimum(np.einsum("dr,dr->r", half, half) / noise, 1.0 - 1e-12)
        # 1 - leverage is the share of the label's noise in its own left-out variance.
        share = 1.0 - leverage
        unseen = _unseen(diagonal[part], features)
        spilt = np.square(self.spill @ half).sum(axis=0) - unseen * leverage**2
        spilt = np.clip(spilt, 0.0, noise * leverage * share * worst)
        self.residual[part] = (y[part] - features @ self.weights) / share[:, None]
        self.variance_left[part] = unseen + noise / share + spilt / share**2

    def left_out(self) -> LeftOut:
        """Return the errors of left-out items, and their variances with noise; inducing items stay."""
        return LeftOut.one_by_one(self.residual, self.variance_left)

    def predict(self, cross: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n outputs"]:
        """Return the predictions, given the kernel between new and inducing items."""
        return cross @ (self.whitening @ self.weights)

    def variance(self, own: Float[np.ndarray, " n"], cross: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
        """Return the variance of predictions, with what the inducing items cannot see of new and of training items."""
        features = cross @ self.whitening
        half = solve_triangular(self.factor, features.T, trans="T")
        spilt = np.square(self.spill @ half).sum(axis=0)
        return _unseen(own, features) + np.einsum("dn,dn->n", half, half) + spilt


def calibrating_items(n: int, chosen: Int[np.ndarray, " m"], method: str) -> Bool[np.ndarray, " n"]:
    """Return which training items are like new ones, so that their left-out errors tell the amplitude.

    A left-out inducing item keeps its feature, which sees all of it, as no new item has. So where they are drawn at
    random the others tell. Where they are chosen to lie apart, the others are those in between, easier than new items,
    and all together come closer.
    """
    others = np.ones(n, dtype=bool)
    others[chosen] = False
    return others if method == "random" and others.sum() >= FEWEST else np.ones(n, dtype=bool)


def _parts(
    blocks: Callable[[], Iterable[Float[np.ndarray, "rows m"]]], whitening: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "rows d"]]]:
    """Yield the features of the training items, with their places."""
    start = 0
    for block in blocks():
        yield slice(start, start + len(block)), block @ whitening
        start += len(block)


def _unseen(own: Float[np.ndarray, " n"], features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return what the features leave of k(x, x)."""
    left: np.ndarray = np.maximum(own - np.einsum("nd,nd->n", features, features), 0.0)
    return left

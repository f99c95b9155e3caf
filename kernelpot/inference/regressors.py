"""Gaussian processes given labels, through the features of a few inducing items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.errors import ParameterError
from kernelpot.inference.exact import (
    NO_FACTOR,
    Array,
    KernelPrior,
    Prior,
    forward,
    host,
    require_finite,
    require_noise,
    squares,
    upward,
)
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.factor import RowSink

TOLERANCE = 1e-12
"""Share of the largest eigenvalue of the inducing items' kernel matrix below which a direction is dropped."""
FEWEST = 20
"""Items beside random inducing ones that the amplitude is found from; where there are fewer, all items are used."""
KEPT = 50_000_000
"""Most kernel values that stay in memory, 400 MB, instead of being computed in every pass."""


@dataclass(frozen=True, eq=False)
class Inducing:
    """The process by weights of the whitened features of inducing items (Rasmussen and Williams (2006), section 8.3.1).

    Features are φ(x) = k(x, Z) W, predictions w·φ with w = A⁻¹ Σ φ_j y_j/noise_j and A = I + Σ φ_j φ_jᵀ/noise_j. The
    variance is r(x) + φᵀA⁻¹φ, with r(x) = k(x, x) - φ·φ that the features leave unseen: the optimal variational
    distribution (Titsias (2009), eq. 6). There every label is taken to be in the span of the features; what is spilt
    into the weights by those that are not, `spill` tells where it is there, see `Regressors`.
    """

    prior: Prior  # Its items are the inducing ones
    whitening: Float[Array, "m d"]  # U diag(λ)^(-1/2) of their kernel matrix, or its lower factor L for W = L⁻ᵀ
    factor: Float[Array, "d d"]  # Upper triangular R with RᵀR = A
    weights: Float[Array, "d outputs"]  # Of the features
    spill: Float[Array, "k d"] | None = None  # S with SᵀS = R⁻ᵀ (Σ_j r_j φ_j φ_jᵀ/noise_j²) R⁻¹
    residual: Float[np.ndarray, "n outputs"] | None = None  # y_i minus its prediction without i
    variance_left: Float[np.ndarray, " n"] | None = None  # Of that prediction, with noise
    evidence: float = np.nan  # Log marginal likelihood of labels that the features see whole, or its lower bound
    triangular: bool = False  # Whether `whitening` is the lower factor

    @cached_property
    def _dual(self) -> Float[Array, "m outputs"]:
        return upward(self.whitening, self.weights) if self.triangular else self.whitening @ self.weights

    def features(self, cross: Float[Array, "n m"]) -> Float[Array, "n d"]:
        """Return φ of items, given their covariance with the inducing ones."""
        return forward(self.whitening, cross.T).T if self.triangular else cross @ self.whitening

    def mean(self, new: Any) -> Float[np.ndarray, "n outputs"]:
        """Return the means at new items."""
        return np.concatenate([host(self.prior.cross(some) @ self._dual) for some in self.prior.runs(new)])

    def variance(self, new: Any) -> Float[np.ndarray, " n"]:
        """Return the variances at new items, what the inducing items cannot see of them included."""
        parts = []
        for some in self.prior.runs(new):
            features = self.features(self.prior.cross(some))
            half = forward(self.factor.T, features.T)
            spilt = 0.0 if self.spill is None else squares(self.spill @ half)
            parts.append(
                np.maximum(host(self.prior.own(some) - squares(features.T)), 0.0) + host(squares(half) + spilt)
            )
        return np.concatenate(parts)

    def covariance(self, new: Any) -> Float[np.ndarray, "n n"]:
        """Return the joint covariance of new items."""
        features = self.features(self.prior.cross(new))
        half = forward(self.factor.T, features.T)
        found = self.prior.square(new) - features @ features.T + half.T @ half
        if self.spill is not None:
            spilt = self.spill @ half
            found = found + spilt.T @ spilt
        return host(found)

    def left_out(self, folds: Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of labels given all others, with variances of labels; inducing items stay."""
        if folds is not None or self.residual is None or self.variance_left is None:
            raise ParameterError(NO_FACTOR)
        return LeftOut.one_by_one(self.residual, self.variance_left)

    def log_evidence(self) -> float:
        """Return the log marginal likelihood of what the features see of the labels, or its bound; NaN from a file."""
        return self.evidence


class Regressors:
    """Features of training items, ready to be given labels of any noise.

    With little noise and few items weights are as wrong as what the features leave unseen of the items, not as A⁻¹. So
    variances are those of the same prediction under the prior in which unseen parts are independent (FITC,
    Quiñonero-Candela and Rasmussen (2005), section 6; Snelson and Ghahramani (2006)):

        r(x) + φᵀ [A⁻¹ + A⁻¹ (Σ_j r_j φ_j φ_jᵀ/noise_j²) A⁻¹] φ,

    a covariance of weights of the sandwich form (White (1980)). With all items inducing it is the exact variance.
    """

    def __init__(self, prior: KernelPrior, items: Any) -> None:
        self.prior, self.items = prior, items
        self.whitening = whitened(prior.matrix())
        self.own = prior.own(items)
        self._kept = list(self._rows()) if len(items) * len(prior) <= KEPT else None

    def condition(self, labels: Float[np.ndarray, "n outputs"], noise: Float[np.ndarray, " n"]) -> Inducing:
        """Fit by QR of the rows [φ/√noise | y/√noise] on top of the prior's, block by block."""
        require_noise(noise)
        d, outputs = self.whitening.shape[1], labels.shape[1]
        sink, spilt, worst = RowSink(d + outputs), RowSink(d), 0.0
        sink.append(np.eye(d, d + outputs))
        for part, features, unseen in self._parts():
            scale = 1.0 / np.sqrt(noise[part])[:, None]
            share = unseen / noise[part]
            sink.append(np.hstack([features, labels[part]]) * scale)
            spilt.append(features * scale * np.sqrt(share)[:, None])
            worst = max(worst, float(share.max()))
        triangle = sink.factor()
        factor = np.ascontiguousarray(triangle[:d, :d])
        weights = upward(factor.T, triangle[:d, d:])
        spill = np.ascontiguousarray(forward(factor.T, spilt.factor().T).T)
        fit = np.square(triangle[d:, d:]).sum()
        volume = 2.0 * np.log(factor.diagonal()).sum() + np.log(2.0 * np.pi * noise).sum()
        evidence = -0.5 * float(fit + outputs * volume)
        residual, variance = np.empty_like(labels), np.empty(len(labels))
        found = Inducing(self.prior, self.whitening, factor, weights, spill, residual, variance, evidence)
        for part, features, unseen in self._parts():
            # By the formula of Sherman and Morrison for A without one item: with the leverage h_i =
            # φ_iᵀA⁻¹φ_i/noise_i, A⁻¹φ_i grows by 1/(1 - h_i), and its own part r_i h_i² drops out of what the unseen
            # has spilt. What remains is at most noise_i h_i (1 - h_i) times the largest r_j/noise_j, `worst`.
            half = forward(factor.T, features.T)
            leverage = np.minimum(squares(half) / noise[part], 1.0 - 1e-12)
            # 1 - leverage is the share of the label's noise in its own left-out variance.
            share = 1.0 - leverage
            left = squares(spill @ half) - unseen * leverage**2
            left = np.clip(left, 0.0, noise[part] * leverage * share * worst)
            residual[part] = (labels[part] - features @ weights) / share[:, None]
            variance[part] = unseen + noise[part] / share + left / share**2
        return found

    def _rows(self) -> Iterator[Float[np.ndarray, "rows m"]]:
        """Yield the kernel of the items with the inducing ones."""
        return map(self.prior.cross, self.prior.runs(self.items))

    def _parts(self) -> Iterator[tuple[slice, Float[np.ndarray, "rows d"], Float[np.ndarray, " rows"]]]:
        """Yield places, features and what these leave of k(x, x), out of memory where they are few."""
        start, blocks = 0, self._kept
        rows: Iterable[np.ndarray] = self._rows() if blocks is None else blocks
        for block in rows:
            part, features = slice(start, start + len(block)), block @ self.whitening
            yield part, features, np.maximum(self.own[part] - squares(features.T), 0.0)
            start += len(block)


def whitened(own: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m d"]:
    """Return U diag(λ)^(-1/2) without the directions below `TOLERANCE` of the largest, negative ones among them."""
    require_finite(own)
    eigenvalues, vectors = np.linalg.eigh(own)
    kept = eigenvalues > TOLERANCE * eigenvalues[-1]
    if not eigenvalues[-1] > 0.0:
        raise ParameterError("the kernel of the inducing items is zero: nothing can be told apart by it.")
    return np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept]))


def calibrating_items(n: int, chosen: Int[np.ndarray, " m"], method: str) -> Bool[np.ndarray, " n"]:
    """Return which training items are like new ones, so that their left-out errors tell the amplitude.

    A left-out inducing item keeps its feature, which sees all of it, as no new item has. So where they are drawn at
    random the others tell. Where they are chosen to lie apart, the others are those in between, easier than new items,
    and all together come closer.
    """
    others = np.ones(n, dtype=bool)
    others[chosen] = False
    return others if method == "random" and others.sum() >= FEWEST else np.ones(n, dtype=bool)

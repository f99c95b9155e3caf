"""The scale of standard deviations, from the residuals of left-out folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from kernelpot.data.noise import KINDS, Noise
from kernelpot.models.fitted import Calibration
from kernelpot.models.noise_search import SILENT, LeftOut

SMALLEST, LARGEST = 1e-12, 1e12
"""Smallest and largest squared factor: labels that a model meets exactly, or denies altogether."""


def noise_of(ratio: Mapping[str, float], amplitude: float) -> Noise:
    """Return the noises that these ratios to the amplitude stand for."""
    return Noise(**{kind: ratio[kind] * amplitude if kind in ratio else None for kind in KINDS})


def calibrate_given(ratio: Mapping[str, float], amplitude: float, left: LeftOut) -> Calibration:
    """Noise stays; the factor is the likeliest: the mean over witnesses of error² / (factor² latent + noise²) is one.

    Where the noise alone exceeds the errors, the factor shrinks by that mean at factor 1 instead, so that strange atoms
    still look strange. A posterior far below the noise (forces on perfect crystals) says nothing about its factor,
    which stays 1.
    """
    factor, noise = {}, {}
    for kind, r in ratio.items():
        noise[kind] = r * amplitude
        latent, seen = amplitude**2 * left.variance[kind], left.squared[kind]
        factor[kind] = 1.0
        if latent.mean() > SILENT * noise[kind] ** 2:
            factor[kind] = float(np.sqrt(_likeliest(seen, latent, noise[kind] ** 2)))
    return Calibration(factor, noise)


def _likeliest(seen: Float[np.ndarray, " witnesses"], latent: Float[np.ndarray, " witnesses"], noise: float) -> float:
    """Return the squared factor."""

    def excess(scale: float) -> float:
        return float(np.mean(seen / (scale * latent + noise))) - 1.0

    if excess(0.0) <= 0.0:
        return max(SMALLEST, excess(1.0) + 1.0)
    high = 1.0
    while excess(high) > 0.0 and high < LARGEST:
        high *= 10.0
    return float(brentq(excess, 0.0, high)) if high < LARGEST else high


def calibrate_searched(ratio: Mapping[str, float], left: LeftOut, telling: Sequence[str]) -> tuple[float, Calibration]:
    """Settle the one common scale that the search leaves open.

    Each kind's likeliest scale is the mean over witnesses of observed over predicted variance. The amplitude takes the
    geometric mean over the telling kinds; what is left of a kind's own scales both its posterior and its noise.
    """
    squared = {
        kind: max(SMALLEST, float(np.mean(left.squared[kind] / (left.variance[kind] + ratio[kind] ** 2))))
        for kind in telling
    }
    amplitude = float(np.exp(0.5 * np.mean([np.log(v) for v in squared.values()])))
    factor = dict.fromkeys(ratio, 1.0) | {kind: float(np.sqrt(v)) / amplitude for kind, v in squared.items()}
    return amplitude, Calibration(factor, {kind: factor[kind] * amplitude * r for kind, r in ratio.items()})

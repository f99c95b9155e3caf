"""The scale of standard deviations, from the residuals of left-out folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from kernelpot.data.noise import KINDS, Noise
from kernelpot.potentials.fitted import Calibration
from kernelpot.potentials.noise_search import SILENT, LeftOut

SMALLEST, LARGEST = 1e-12, 1e12
"""Smallest and largest squared factor: labels that a model meets exactly, or denies altogether."""

TINY = 1e-300
"""Keeps a division finite."""


def noise_of(ratio: Mapping[str, float], amplitude: float) -> Noise:
    """Return the noises that these ratios to the amplitude stand for."""
    return Noise(**{kind: ratio[kind] * amplitude if kind in ratio else None for kind in KINDS})


def calibrate(noise: Mapping[str, float], ratio: Mapping[str, float], amplitude: float, left: LeftOut) -> Calibration:
    """Find the likeliest factors: the mean over witnesses of error² / (factor² latent + noise²) is one.

    Where the noise alone exceeds the errors, the factor shrinks by that mean at factor 1 instead, so that strange atoms
    still look strange. A posterior far below the weight of the labels (forces on perfect crystals) says nothing about
    its factor, which stays 1.

    Parameters
    ----------
    noise
        Noise of a label of each kind.
    ratio
        Noise over amplitude that the labels were weighted with.
    amplitude
        Prior standard deviation of a local energy, eV.
    left
        Errors of left-out folds, with variances.
    """
    factor = {}
    for kind, r in ratio.items():
        latent, seen = amplitude**2 * left.variance[kind], left.squared[kind]
        factor[kind] = 1.0
        if latent.mean() > SILENT * (r * amplitude) ** 2:
            factor[kind] = float(np.sqrt(_likeliest(seen, latent, noise[kind] ** 2)))
    return Calibration(factor, dict(noise))


def common_scale(ratio: Mapping[str, float], left: LeftOut, telling: Sequence[str]) -> float:
    """Return the amplitude, eV: the one scale that a search over ratios leaves open.

    The geometric mean over the telling kinds of the observed over the predicted spread of left-out labels.
    """
    squared = [
        max(SMALLEST, float(np.mean(left.squared[kind] / (left.variance[kind] + ratio[kind] ** 2)))) for kind in telling
    ]
    return float(np.exp(0.5 * np.mean(np.log(squared))))


def _likeliest(seen: Float[np.ndarray, " witnesses"], latent: Float[np.ndarray, " witnesses"], noise: float) -> float:
    """Return the squared factor."""

    def excess(scale: float) -> float:
        return float(np.mean(seen / np.maximum(scale * latent + noise, TINY))) - 1.0

    if excess(0.0) <= 0.0:
        return max(SMALLEST, excess(1.0) + 1.0)
    high = 1.0
    while excess(high) > 0.0 and high < LARGEST:
        high *= 10.0
    return float(brentq(excess, 0.0, high)) if high < LARGEST else high

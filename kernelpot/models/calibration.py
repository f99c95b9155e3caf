"""The scale of standard deviations, from the residuals of left-out folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kernelpot.data.noise import KINDS, Noise
from kernelpot.models.fitted import Calibration
from kernelpot.models.noise_search import SILENT, LeftOut


def noise_of(ratio: Mapping[str, float], amplitude: float) -> Noise:
    """Return the noises that these ratios to the amplitude stand for."""
    return Noise(**{kind: ratio[kind] * amplitude if kind in ratio else None for kind in KINDS})


def calibrate_given(ratio: Mapping[str, float], amplitude: float, left: LeftOut) -> Calibration:
    """Noise stays; the factor explains what the noise leaves of the residuals' mean square.

    Where the noise alone exceeds it, the factor shrinks by the ratio of the observed to the predicted variance instead.
    A posterior far below the noise (forces on perfect crystals) says nothing about its factor, which stays 1.
    """
    factor, noise = {}, {}
    for kind, r in ratio.items():
        noise[kind] = r * amplitude
        latent, seen = amplitude**2 * left.variance[kind], left.rmse[kind] ** 2
        wanted = 1.0
        if latent > SILENT * noise[kind] ** 2:
            wanted = max((seen - noise[kind] ** 2) / latent, seen / (latent + noise[kind] ** 2))
        factor[kind] = float(np.sqrt(wanted))
    return Calibration(factor, noise)


def calibrate_searched(ratio: Mapping[str, float], left: LeftOut, telling: Sequence[str]) -> tuple[float, Calibration]:
    """Settle the one common scale that the search leaves open.

    The amplitude takes the geometric mean over the telling kinds of observed over predicted spread; what is left of
    each kind's ratio scales both its posterior and its noise.
    """
    squared = {kind: left.rmse[kind] ** 2 / (left.variance[kind] + ratio[kind] ** 2) for kind in telling}
    amplitude = float(np.exp(0.5 * np.mean([np.log(v) for v in squared.values()])))
    factor = dict.fromkeys(ratio, 1.0) | {kind: float(np.sqrt(v)) / amplitude for kind, v in squared.items()}
    return amplitude, Calibration(factor, {kind: factor[kind] * amplitude * r for kind, r in ratio.items()})

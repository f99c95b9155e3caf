"""Potentials: the posterior over the weights of a feature map, and what is done with one that is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelpot.doors import door

if TYPE_CHECKING:
    from kernelpot.alchemy import Alchemy as Alchemy
    from kernelpot.calculator import StopOnExtrapolation as StopOnExtrapolation
    from kernelpot.data.geometry import default_cutoff as default_cutoff
    from kernelpot.kernels import Linear as Linear
    from kernelpot.potentials.baselines.given import CalculatorBaseline as CalculatorBaseline
    from kernelpot.potentials.prediction import Prediction as Prediction
    from kernelpot.potentials.resampling import Bootstrap as Bootstrap
    from kernelpot.potentials.sparse_gp import LinearModel as LinearModel

_HOMES = {
    "Alchemy": "kernelpot.alchemy",
    "Bootstrap": "kernelpot.potentials.resampling",
    "CalculatorBaseline": "kernelpot.potentials.baselines.given",
    "Linear": "kernelpot.kernels",
    "LinearModel": "kernelpot.potentials.sparse_gp",
    "Prediction": "kernelpot.potentials.prediction",
    "StopOnExtrapolation": "kernelpot.calculator",
    "default_cutoff": "kernelpot.data.geometry",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = door(__name__, _HOMES)

"""Choose which atomic structures deserve a DFT calculation, then fit a kernel potential that knows its error.

Names load lazily, so that ``import kernelpot`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelpot import design as design
    from kernelpot import goals as goals
    from kernelpot import gpytorch as gpytorch
    from kernelpot.alchemy import Alchemy as Alchemy
    from kernelpot.calculator import Calculator as Calculator
    from kernelpot.calculator import StopOnExtrapolation as StopOnExtrapolation
    from kernelpot.data.cutoffs import default_cutoff as default_cutoff
    from kernelpot.data.noise import Noise as Noise
    from kernelpot.data.read import read as read
    from kernelpot.data.stream import stream as stream
    from kernelpot.descriptors.acsf import ACSF as ACSF
    from kernelpot.descriptors.elements import ElementChannels as ElementChannels
    from kernelpot.descriptors.soap import SOAP as SOAP
    from kernelpot.descriptors.two_body import TwoBody as TwoBody
    from kernelpot.elements.compositions import CompositionFeatures as CompositionFeatures
    from kernelpot.elements.modes import ElementalModes as ElementalModes
    from kernelpot.kernels import DotProduct as DotProduct
    from kernelpot.kernels import Gaussian as Gaussian
    from kernelpot.kernels import Linear as Linear
    from kernelpot.models.baselines.calculator import CalculatorBaseline as CalculatorBaseline
    from kernelpot.models.baselines.zbl import ZBL as ZBL
    from kernelpot.models.bootstrap import Bootstrap as Bootstrap
    from kernelpot.models.files import load as load
    from kernelpot.models.force_ridge import ForceRidge as ForceRidge
    from kernelpot.models.forecast import forecast as forecast
    from kernelpot.models.linear import LinearModel as LinearModel
    from kernelpot.models.prediction import Prediction as Prediction
    from kernelpot.models.reliability import reliability as reliability
    from kernelpot.models.scores import evaluate as evaluate
    from kernelpot.models.screening import screen as screen
    from kernelpot.models.sparse_gp import SparseGP as SparseGP
    from kernelpot.models.terms import Term as Term
    from kernelpot.properties.classifier import Classifier as Classifier
    from kernelpot.properties.dscribe import DScribe as DScribe
    from kernelpot.properties.gp import GP as GP
    from kernelpot.properties.ridge import KernelRidge as KernelRidge
    from kernelpot.properties.site_kernel import SiteKernel as SiteKernel
    from kernelpot.properties.structure_features import StructureFeatures as StructureFeatures
    from kernelpot.properties.structure_kernel import StructureKernel as StructureKernel
    from kernelpot.properties.vector_kernel import VectorKernel as VectorKernel
    from kernelpot.report.modes import plot_modes as plot_modes
    from kernelpot.report.reliability import plot_reliability as plot_reliability
    from kernelpot.tuning.search import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "ACSF": "kernelpot.descriptors.acsf",
    "Alchemy": "kernelpot.alchemy",
    "Bootstrap": "kernelpot.models.bootstrap",
    "Classifier": "kernelpot.properties.classifier",
    "GP": "kernelpot.properties.gp",
    "ZBL": "kernelpot.models.baselines.zbl",
    "Calculator": "kernelpot.calculator",
    "CalculatorBaseline": "kernelpot.models.baselines.calculator",
    "CompositionFeatures": "kernelpot.elements.compositions",
    "DScribe": "kernelpot.properties.dscribe",
    "DotProduct": "kernelpot.kernels",
    "ElementChannels": "kernelpot.descriptors.elements",
    "ElementalModes": "kernelpot.elements.modes",
    "ForceRidge": "kernelpot.models.force_ridge",
    "Gaussian": "kernelpot.kernels",
    "KernelRidge": "kernelpot.properties.ridge",
    "Linear": "kernelpot.kernels",
    "LinearModel": "kernelpot.models.linear",
    "Noise": "kernelpot.data.noise",
    "Prediction": "kernelpot.models.prediction",
    "SOAP": "kernelpot.descriptors.soap",
    "SiteKernel": "kernelpot.properties.site_kernel",
    "SparseGP": "kernelpot.models.sparse_gp",
    "StopOnExtrapolation": "kernelpot.calculator",
    "StructureFeatures": "kernelpot.properties.structure_features",
    "StructureKernel": "kernelpot.properties.structure_kernel",
    "Term": "kernelpot.models.terms",
    "TwoBody": "kernelpot.descriptors.two_body",
    "VectorKernel": "kernelpot.properties.vector_kernel",
    "default_cutoff": "kernelpot.data.cutoffs",
    "evaluate": "kernelpot.models.scores",
    "forecast": "kernelpot.models.forecast",
    "load": "kernelpot.models.files",
    "plot_modes": "kernelpot.report.modes",
    "plot_reliability": "kernelpot.report.reliability",
    "read": "kernelpot.data.read",
    "reliability": "kernelpot.models.reliability",
    "screen": "kernelpot.models.screening",
    "stream": "kernelpot.data.stream",
    "tune": "kernelpot.tuning.search",
}

_ROOMS = ("design", "goals", "gpytorch")

__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"kernelpot.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kernelpot' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
